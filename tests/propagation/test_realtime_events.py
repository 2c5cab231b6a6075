"""What leaves the app, for whatever is shown."""

import base64
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter_propagation import RealtimeTap
from grafter_propagation.realtime_events import LONGEST_ROW, LONGEST_TEXT, plain, row, seen

SECRET = base64.b64encode(b"what the caller said, as sound").decode()
NAMES = st.sampled_from(["type", "audio", "delta", "item", "content", "session", "text", "response", "output"])
TYPES = st.sampled_from(
    [
        "response.output_audio.delta",
        "response.audio.delta",
        "input_audio_buffer.append",
        "session.output_audio.delta",
        "session.input_audio.append",
        "response.event",
        "conversation.item.create",
        "conversation.item.added",
        "response.done",
        "response.content_part.added",
        "made.up",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4))
ANYTHING = JSON | st.text() | st.binary() | st.dictionaries(NAMES | st.integers(), JSON)


def with_audio(value: object) -> object:
    """The same, with sound wherever an event could have it."""
    if isinstance(value, dict):
        return {
            name: SECRET if name == "audio" and isinstance(member, str) else with_audio(member)
            for name, member in value.items()
        }
    return [with_audio(member) for member in value] if isinstance(value, list) else value


@given(TYPES, st.dictionaries(NAMES, JSON, max_size=5), st.sampled_from(["dict", "text", "bytes"]))
def test_no_audio_leaves_in_any_event(kind: str, event: dict[str, Any], form: str) -> None:
    """Neither of the model nor of the caller, at whatever depth it stands and in whatever form the event is shown."""
    event = {**event, "type": kind, "audio": SECRET, "item": {"content": [{"audio": SECRET}, with_audio(event)]}}
    if "delta" in kind:
        event["delta"] = SECRET
    if kind == "response.event":
        event["event"] = {"type": "response.audio.delta", "delta": SECRET}
    shown: object = event
    if form != "dict":
        shown = json.dumps(event) if form == "text" else json.dumps(event).encode()
    one = seen(shown, "server", 1_790_000_000_123_456_789)
    assert one is not None
    line = row(one)
    # NaN is no JSON: a text with it is no event.
    if line is None:
        assert form != "dict"
        return
    assert SECRET.encode() not in line
    assert b"1790000000.123456789" in line
    assert orjson.loads(line)["event"]["type"] == kind


@given(ANYTHING, st.sampled_from(["server", "client"]))
def test_whatever_is_shown_becomes_a_readable_row_or_none(event: object, side: str) -> None:
    """A post is read by a strict parser at the other end, which refuses all of it for one bad character."""
    try:
        one = seen(event, side, 1)
        line = row(one) if one is not None else None
    except (ValueError, RecursionError):
        # Text that is no JSON: the tap counts it.
        assert isinstance(event, (str, bytes))
        return
    if line is not None:
        read = orjson.loads(line)
        assert read["from"] == side
        assert read["event"]["type"]


@given(st.lists(st.sampled_from(["delta", "append", "event"]), max_size=60), st.integers(1, 20))
def test_the_queue_is_bounded_and_keeps_the_order(kinds: list[str], limit: int) -> None:
    """However many come, no more than the limit wait, in the order in which they came, and the rest is counted."""
    events = {
        "delta": {"type": "response.output_audio.delta", "item_id": "item_1", "delta": SECRET},
        "append": {"type": "input_audio_buffer.append", "audio": SECRET},
        "event": {"type": "made.up"},
    }
    tap = _Still("localhost:9", "call_1", metadata={}, max_events=limit)
    for number, kind in enumerate(kinds):
        tap.server({**events[kind], "event_id": f"{number}"})
        assert tap.pending <= limit
    waiting = tap._batch()
    assert tap.dropped + len(waiting) == len(kinds)
    numbers = [int(str(one.event["event_id"])) for one in waiting if not isinstance(one.event, str)]
    assert numbers == sorted(numbers)
    assert [one.at for one in waiting] == sorted(one.at for one in waiting)
    if kinds.count("event") < limit:
        assert [number for number, kind in enumerate(kinds) if kind == "event" and number not in numbers] == []
    assert tap._bytes == 0


@pytest.mark.parametrize("length", range(12))
def test_the_bytes_of_a_delta_are_counted_without_decoding_them(length: int) -> None:
    """Padding is no audio."""
    text = base64.b64encode(bytes(length)).decode()
    one = seen({"type": "response.output_audio.delta", "delta": text}, "server", 1)
    assert one is not None
    assert not isinstance(one.event, str)
    assert one.event["delta_bytes"] == length


def test_what_is_huge_is_cut_or_left_out() -> None:
    """One text is cut; an event that is huge by many texts is none."""
    one = seen({"type": "a.b", "text": "x" * 10 * LONGEST_TEXT}, "server", 1)
    assert one is not None
    assert one.size < 2 * LONGEST_TEXT
    many = seen({"type": "a.b", "texts": ["x" * LONGEST_TEXT] * (LONGEST_ROW // LONGEST_TEXT)}, "server", 1)
    assert many is not None
    assert row(many) is None
    assert seen("x" * (16 * 1024 * 1024 + 1), "server", 1) is None


def test_metadata_can_always_be_written() -> None:
    """Whatever an app puts into it."""
    assert plain({"a": float("inf"), 1: object(), "b": {"c": [1, None]}}) == {
        "a": None,
        "1": None,
        "b": {"c": [1, None]},
    }  # type: ignore[dict-item]


class _Still(RealtimeTap):
    """A tap whose thread does not run, so that what waits can be looked at."""

    def _start(self) -> None:
        pass
