"""Reading values of which nothing is certain."""

import json
import math
from time import process_time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.guests.json_values import canonical, digest, json_safe, structure
from tests.steps import at_most_steps

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)


@given(st.lists(PLAIN) | st.dictionaries(st.text(), PLAIN))
def test_what_python_prints_is_read_back(value: object) -> None:
    """str() of a tool's list or dict is that list or dict again, as is its JSON."""
    assert structure(str(value)) == value
    assert structure(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1, 'a')", [1, "a"]),
        ("{'a', 'b'}", ["a", "b"]),
        ("{1: {'x': (None, True, -2.5e-3)}}", {"1": {"x": [None, True, -2.5e-3]}}),
        ("It's done.", "It's done."),
        ("17", "17"),
        ("None", "None"),
        ("[1, open('x')]", "[1, open('x')]"),
        ("[x for x in (1, 2)]", "[x for x in (1, 2)]"),
        ("[1if 1else 2]", "[1if 1else 2]"),
        (r"['\d']", r"['\d']"),
        ("{'a': ", "{'a': "),
        ("{[]: 1}", "{[]: 1}"),
        ("[" * 5000 + "]" * 5000, "[" * 5000 + "]" * 5000),
        ("(" + "-" * 90_000 + "1,)", "(" + "-" * 90_000 + "1,)"),
        ("[" + "9" * 10_000 + ", 'x']", "[" + "9" * 10_000 + ", 'x']"),
        ("('" + "x" * 300_000 + "',)", "('" + "x" * 300_000 + "',)"),
    ],
)
def test_only_plain_data_is_read_from_a_string(text: str, value: object) -> None:
    """Code, sentences, bombs and what is too long stay the string they are."""
    assert structure(text) == value


@given(st.text("([{}])'\",:-0129.eE\\x bTrueFalsNn\n", max_size=60))
def test_no_string_raises_or_warns(text: str) -> None:
    """Whatever looks a little like data is read or left."""
    structure(text)


def test_equal_arguments_have_equal_digests() -> None:
    """An object, its JSON and its JSON in another order are one call; another value is another."""
    same = {digest({"a": 1, "b": [2]}), digest('{"b":[2],"a":1}'), digest('{"a": 1, "b": [2]}')}
    assert len(same) == 1
    assert digest('{"a":2,"b":[2]}') not in same
    assert digest("plain text") != digest("other text")


def test_what_orjson_cannot_write_is_made_sound() -> None:
    """Odd numbers, half characters and depth, all at once."""
    deep: object = "bottom"
    for _ in range(3000):
        deep = [deep]
    odd = {"nan": math.nan, "big": 2**70, "huge": 10**400, "half": "a\ud800b", "pair": "\ud83d\ude00", "deep": deep}
    made = orjson.loads(orjson.dumps(json_safe(odd)))
    assert made["nan"] is None
    assert made["big"] == float(2**70)
    assert made["huge"] is None
    assert made["half"] == "a\ufffdb"
    assert made["pair"] == "\U0001f600"
    assert canonical(odd) == canonical(odd)


@pytest.mark.parametrize(
    "text",
    [
        "{" + "'\\" * 50_000,
        "{'a':" + r"'\q\'" * 25_000,
        "[" + "\"'" * 50_000,
        "(" + ",".join(["-1"] * 60_000) + ")",
        "[" * 100_000,
    ],
    ids=["quotes that never close", "escapes that are none", "quotes in quotes", "numbers", "brackets"],
)
def test_a_literal_takes_no_longer_than_its_length(text: str) -> None:
    """What only looks like a repr is a string at once: 100 KB of unclosed quotes took minutes."""
    began = process_time()
    with at_most_steps(200_000):
        assert structure(text) == text
    # What is searched from each quote to the end is one step in C, so its time is measured as well: two milliseconds of
    # a core, and three minutes where that is done.
    assert process_time() - began < 9
