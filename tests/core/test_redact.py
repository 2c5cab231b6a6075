"""Redaction: what replaces a value, and what may be compared afterwards."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.core.model import AttributeValue
from grafter.core.policy import Redact, RedactAction
from grafter.core.redact import redact

HMAC = Redact(keys=frozenset({"phone"}), action=RedactAction.HMAC, secret=b"one secret a store")
DROP = Redact(keys=frozenset({"phone"}), action=RedactAction.DROP)

values = st.one_of(
    st.text(st.characters()), st.booleans(), st.integers(), st.floats(), st.lists(st.text(st.characters())).map(tuple)
)


def test_a_string_becomes_its_hmac() -> None:
    """Anybody who has the secret can compute the value of a known phone number: HMAC-SHA256, 16 bytes, hex."""
    expected = hmac.new(HMAC.secret, b"+4915112345678", hashlib.sha256).hexdigest()[:32]
    assert redact("+4915112345678", HMAC) == expected


@pytest.mark.parametrize(("value", "text"), [(5, "5"), (True, "true"), (2.5, "2.5"), (("+49", "ü"), '["+49","ü"]')])
def test_a_value_equals_its_text(value: AttributeValue, text: str) -> None:
    """A number, a boolean and a list are compared by the JSON that somebody would look for."""
    assert redact(value, HMAC) == redact(text, HMAC)


@given(values)
def test_any_value_becomes_32_hex_digits(value: AttributeValue) -> None:
    """No value survives and none raises, lone surrogates, NaN and huge numbers included."""
    out = redact(value, HMAC)
    assert isinstance(out, str)
    assert len(bytes.fromhex(out)) == 16


def test_another_secret_gives_another_value() -> None:
    """Values of two stores cannot be matched against each other."""
    assert redact("+49", HMAC) != redact("+49", Redact(secret=b"another"))


@given(values)
def test_drop_leaves_nothing(value: AttributeValue) -> None:
    """With ``drop`` the attribute goes."""
    assert redact(value, DROP) is None
