"""What is too long is cut so that it can still be read, and says so."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.guests.attributes import ATTRIBUTE_BYTES, SPAN_BYTES, Json, bounded, cut_text, fit_json

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=30), inner, max_size=12),
    max_leaves=60,
)


@given(ANY_JSON, st.integers(64, 2000))
def test_json_is_cut_to_json(value: object, limit: int) -> None:
    """Whatever the value, the text fits and parses, and what fits already is not touched."""
    text, size = fit_json(value, limit)
    assert len(text.encode()) <= limit
    read = json.loads(text)
    if size <= limit:
        assert len(text.encode()) == size
        assert json.dumps(read) == json.dumps(json.loads(fit_json(value, 10**9)[0]))


@given(st.text(), st.integers(0, 200))
def test_a_text_is_cut_between_characters(text: str, limit: int) -> None:
    """Never longer than the limit, and never half a character."""
    kept = cut_text(text, limit)
    assert len(kept.encode()) <= limit
    assert kept == text or len(text.encode()) > limit


def test_the_longest_texts_lose_their_middle_first() -> None:
    """Beside a text of a megabyte the short ones stay whole, and the long one keeps head and tail."""
    messages = [
        {"role": "system", "parts": [{"type": "text", "content": "Be kind."}]},
        {"role": "user", "parts": [{"type": "text", "content": "BEGIN" + "é" * 500_000 + "END"}]},
    ]
    text, size = fit_json(messages, ATTRIBUTE_BYTES)
    short, long = (message["parts"][0]["content"] for message in json.loads(text))
    assert short == "Be kind."
    assert long.startswith("BEGINé")
    assert long.endswith("éEND")
    assert "[grafter: cut from 1000008 bytes]" in long
    assert size > 1_000_000
    assert len(text.encode()) > ATTRIBUTE_BYTES * 0.95


def test_many_messages_lose_the_middle_ones() -> None:
    """The first and the last stay, and one message in between says how many are gone."""
    messages = [{"role": "user", "parts": [{"type": "text", "content": f"{n:060}"}]} for n in range(5000)]
    kept = json.loads(fit_json(messages, ATTRIBUTE_BYTES)[0])
    assert kept[0] == messages[0]
    assert kept[-1] == messages[-1]
    missing = 5000 - (len(kept) - 1)
    note = {"role": "system", "parts": [{"type": "text", "content": f"[grafter: {missing} messages omitted]"}]}
    assert note in kept
    assert len(kept) > 400


@pytest.mark.parametrize(
    "value",
    [list(range(1_000_000)), {str(n): n for n in range(300_000)}, [[["x" * 20] * 40] * 40] * 40, ["\0" * 9] * 50_000],
    ids=["numbers", "keys", "nested", "escapes"],
)
def test_hostile_shapes_fit_too(value: object) -> None:
    """A million members are brought down to size, and most of the room is used."""
    text, _ = fit_json(value, ATTRIBUTE_BYTES)
    json.loads(text)
    assert ATTRIBUTE_BYTES // 2 < len(text.encode()) <= ATTRIBUTE_BYTES


def test_attributes_within_the_limits_pass_untouched() -> None:
    """Nothing is added where nothing was cut."""
    draft = {"a": "x", "b": 1, "c": True, "d": 0.5, "e": ("p", "q"), "f": Json({"k": [1]})}
    assert bounded(draft) == (("a", "x"), ("b", 1), ("c", True), ("d", 0.5), ("e", ("p", "q")), ("f", '{"k":[1]}'))


def test_what_was_cut_is_named_and_counted() -> None:
    """Text, JSON and lists of names, each with the bytes that they lost."""
    text, names = "t" * 100_000, ("n" * 500,) * 200
    result = dict(bounded({"text": text, "json": Json([text]), "names": names, "small": "s"}))
    assert result["grafter.truncated"] == ("text", "json", "names")
    kept = len(result["text"].encode()) + len(result["json"].encode()) + sum(map(len, result["names"]))
    assert result["grafter.truncated.bytes"] == 100_000 + 100_004 + 100_000 - kept
    assert all(len(value) <= ATTRIBUTE_BYTES for value in (result["text"], result["json"]))
    assert sum(map(len, result["names"])) <= ATTRIBUTE_BYTES
    assert result["small"] == "s"


def test_a_span_stays_under_its_own_limit() -> None:
    """Forty attributes that fit alone share the span's room; small ones lose nothing."""
    draft = {f"big.{n}": Json("j" * 50_000) if n % 2 else "t" * 50_000 for n in range(40)} | {"small": "s" * 1000}
    result = dict(bounded(draft))
    assert sum(len(str(value)) for value in result.values()) <= SPAN_BYTES
    assert sum(len(str(value)) for value in result.values()) > SPAN_BYTES * 0.9
    assert result["small"] == "s" * 1000
    assert all(isinstance(json.loads(result[f"big.{n}"]), str) for n in range(1, 40, 2))
