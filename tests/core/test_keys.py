"""What a key says of itself."""

import pytest

from grafter.core.model import Key, guest_key, is_guest_key


def test_a_key_says_whether_it_is_a_guests() -> None:
    """A guest's key is one, a host's trace id is none, also where it begins as a guest's key does."""
    assert is_guest_key(guest_key("trace_1"))
    assert not is_guest_key(Key(b"\1" * 16))
    assert not is_guest_key(Key(b"g" * 16))


@pytest.mark.parametrize("length", [0, 8, 15, 18])
def test_what_is_no_key_is_refused(length: int) -> None:
    """Bytes of any other length are neither, and no answer is made up for them."""
    with pytest.raises(ValueError, match="bytes, expected 16 or 17"):
        is_guest_key(Key(b"g" * length))
