import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.core.large_json import read_in_turns

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(["},{", "}, {", "[{", "}]", '"},{"', "\\", "\ud800"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.dictionaries(st.text(max_size=5), inner, max_size=5),
        st.lists(st.dictionaries(st.sampled_from("ab"), inner, max_size=2), max_size=8),
    ),
    max_leaves=60,
)


class ConstantError(ValueError):
    """NaN or an infinity, which JSON has not."""


def whole(text: str) -> Any:
    return read_in_turns(text, no_constant)


def no_constant(name: str) -> Any:
    raise ConstantError(name)


@given(VALUES, st.integers(4, 200), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n ", " : ")]), st.booleans())
def test_a_text_reads_alike_whatever_window_the_parsers_see_of_it(
    value: Any, window: int, separators: tuple[str, str], plain: bool
) -> None:
    text = json.dumps(value, separators=separators, ensure_ascii=plain)
    assert repr(read_in_turns(text, no_constant, window=window)) == repr(json.loads(text))


@given(VALUES, st.integers(4, 100), st.data())
def test_what_is_no_json_is_refused_wherever_the_window_ends(value: Any, window: int, data: st.DataObject) -> None:
    text = json.dumps(value, separators=(",", ":"))
    at = data.draw(st.integers(0, len(text)))
    broken = text[:at] + data.draw(st.sampled_from([",", "}", "]", '"', "{", "[", "1", "NaN", "},{", ",]"])) + text[at:]
    try:
        right = json.loads(broken, parse_constant=no_constant)
    except ValueError:
        with pytest.raises((json.JSONDecodeError, ConstantError)):
            read_in_turns(broken, no_constant, window=window)
    else:
        assert repr(read_in_turns(broken, no_constant, window=window)) == repr(right)


def test_hooks_see_what_strict_json_has_not() -> None:
    items = [f'{{"number":{number}}}' for number in range(2_000)]
    items[1_500] = '{"number":NaN,"long":' + "9" * 30 + ',"far":1e400}'
    found = read_in_turns(
        "[" + ",".join(items) + "]",
        lambda name: name,
        lambda digits: int(digits) if len(digits) < 20 else "long",
        lambda digits: "far",
        window=1_000,
    )
    assert found[1_500] == {"number": "NaN", "long": "long", "far": "far"}
    assert [item["number"] for item in found[:1_500]] == list(range(1_500))
    assert [item["number"] for item in found[1_501:]] == list(range(1_501, 2_000))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 9 + ",".join(["[]"] * 60_000) + ',{"a":1},{}' + "]" * 9,
        "[" * 9 + ",".join(['[{"a":[]},{}]'] * 20_000) + "]" * 9,
        "[" + ",".join(["[" * 40 + "]" * 40] * 2_000) + "]",
        '{"a":' * 12 + "[" + ",".join(["{}"] * 80_000) + "]" + "}" * 12,
    ],
    ids=["small lists far down", "lists of objects far down", "nested lists", "objects far down"],
)
def test_shapes_that_no_window_fits_read_alike(text: str) -> None:
    assert json.dumps(whole(text), separators=(",", ":")) == text
