"""Every event type of the openai package, made from the types themselves, through storing and the state machine."""

import json
import re
from itertools import chain
from pathlib import Path

import orjson
import pytest
from openai.types.beta.realtime import RealtimeClientEvent as BetaClientEvent
from openai.types.beta.realtime import RealtimeServerEvent as BetaServerEvent
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent

from grafter.core.model import UnixNano
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.realtime.content import kept, present_name
from grafter.guests.realtime.event_types import AUDIO_DELTA, AUDIO_DELTAS, EVENT_TYPES, LIVE, PLAYED, PRESENT_NAMES
from grafter.guests.realtime.spans import map_realtime
from grafter.guests.realtime.stored_event import Side, StoredEvent, encode
from tests.guests.realtime.event_types import SECRET, instances, models, type_of

ROOT = Path(__file__).parents[3]

UNIONS = {
    "server": (Side.SERVER, RealtimeServerEvent),
    "client": (Side.CLIENT, RealtimeClientEvent),
    "beta server": (Side.SERVER, BetaServerEvent),
    "beta client": (Side.CLIENT, BetaClientEvent),
}
EVENTS = {
    f"{name} {type_of(model)}": [(side, event) for event in instances(model)]
    for name, (side, union) in UNIONS.items()
    for model in models(union)
}
"""By union and type, an event for each variant of its fields."""
TYPES = {type_of(model) for _, union in UNIONS.values() for model in models(union)}


def test_the_unions_are_what_we_think() -> None:
    """The walk over the types finds as many as the package has, among them those that matter."""
    assert len({type_of(model) for model in models(RealtimeServerEvent)}) >= 46
    assert len({type_of(model) for model in models(RealtimeClientEvent)}) >= 11
    assert {"response.done", "response.audio.delta", "session.update"} <= TYPES


@pytest.mark.parametrize("name", EVENTS)
def test_what_is_stored_of_an_event(name: str) -> None:
    """It is JSON, the same when cleaned again, under a present name; without content nothing that was said."""
    for side, event in EVENTS[name]:
        for content in Content:
            before = json.dumps(event)
            stored = kept(event, side, content)
            assert json.dumps(event) == before
            if stored is None:
                assert EVENT_TYPES[present_name(event["type"])].fields is None
                continue
            assert orjson.loads(orjson.dumps(stored)) == stored
            assert EVENT_TYPES[str(stored["type"])].fields is not None
            assert kept(stored, side, content) == stored
            if content is Content.NONE:
                assert SECRET not in json.dumps(stored)


@pytest.mark.parametrize("content", list(Content))
def test_all_events_in_one_call(content: Content) -> None:
    """Fed one after the other they give a tree with one session, and no content where none is wanted."""
    stored_events = []
    for index, (side, event) in enumerate(chain.from_iterable(EVENTS.values())):
        stored = kept({**event, "event_id": f"event_{index}"}, side, Content.FULL)
        if stored is not None:
            stored_events.append(StoredEvent(UnixNano(10**18 + index * 10**6), side, stored))
    mapped = map_realtime("call", [encode(stored_events)], GraftPolicy(content=content), final=True)
    spans = [span for one in mapped for span in one.guest.spans]
    assert {span.name.split()[0] for span in spans} >= {"realtime_session", "chat", "execute_tool", "user_speech"}
    if content is Content.NONE:
        assert SECRET not in repr(spans)
        assert SECRET not in repr([one.head for one in mapped])
    else:
        assert SECRET in repr(spans)


def test_each_type_is_read_or_known_to_say_nothing() -> None:
    """What is stored has a handler, what has a handler is stored, and no type of the package is unknown."""
    for row in EVENT_TYPES.values():
        assert (row.fields is None) == (row.handler is None), row.name
        assert not row.folded or row.name.endswith((".delta", ".append"))
    names = {present_name(kind) for kind in TYPES}
    # Nothing is kept for a type that no API has.
    assert names | {PLAYED} == {name for name, row in EVENT_TYPES.items() if row.api != LIVE}


def test_the_page_about_events_is_whole() -> None:
    """docs/realtime-events.md has a row for each type of the package, beta names too, and for grafter's own."""
    page = (ROOT / "docs" / "realtime-events.md").read_text().partition("## What the server sends")[2]
    rows = {
        name
        for line in page.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }
    assert rows == TYPES | PRESENT_NAMES.keys() | {PLAYED}


@pytest.mark.parametrize("name", sorted(AUDIO_DELTAS))
def test_of_sound_only_its_size_stays(name: str) -> None:
    """Under every policy an audio delta leaves how many bytes it had, or what its sender says that it had."""
    event = {"type": name, "response_id": "r", "item_id": "i", "delta": "AAAA" * 10, "event_id": "e"}
    expected = {"type": AUDIO_DELTA, "response_id": "r", "item_id": "i", "event_id": "e", "delta_bytes": 30}
    for content in Content:
        assert kept(event, Side.SERVER, content) == expected
    told = {"type": name, "response_id": "r", "item_id": "i", "delta_bytes": 4000}
    assert kept(told, Side.SERVER, Content.FULL) == {**told, "type": AUDIO_DELTA}


def test_an_unknown_type_keeps_no_text() -> None:
    """A type of tomorrow is counted, with its numbers; its strings are gone, whatever the policy."""
    event = {
        "type": "response.hologram.done",
        "event_id": "e",
        "text": "SECRET",
        "n": 3,
        "in": {"x": "SECRET", "y": [1]},
    }
    for content in Content:
        stored = kept(event, Side.SERVER, content)
        assert stored == {
            "type": "response.hologram.done", "event_id": "e", "text": None, "n": 3, "in": {"x": None, "y": [1]},
        }  # fmt: skip
        assert kept(stored, Side.SERVER, content) == stored


@pytest.mark.parametrize("kind", [None, 3, "", "SECRET words, no name", "x" * 200, {"a": 1}])
def test_a_type_that_is_no_name_is_odd(kind: object) -> None:
    assert kept({"type": kind}, Side.SERVER, Content.FULL) == {"type": "odd"}


def test_nobody_else_speaks_as_grafter() -> None:
    """An event that is posted under the name of an event of grafter's own is an unknown type."""
    stored = kept({"type": "grafter.ended", "by": "expired"}, Side.CLIENT, Content.FULL)
    assert stored == {"type": "grafter.ended", "by": None}


def test_keys_of_a_session_are_stored_under_no_policy() -> None:
    """Neither the client's secret nor an MCP server's credentials."""
    session = {
        "id": "sess_1",
        "model": "gpt-realtime",
        "client_secret": {"value": "SECRET"},
        "tools": [{"type": "mcp", "server_label": "crm", "authorization": "SECRET", "headers": {"x": "SECRET"}}],
    }
    for content in Content:
        stored = kept({"type": "session.created", "session": session}, Side.SERVER, content)
        assert SECRET not in json.dumps(stored)


def test_the_beta_session_is_read_as_todays() -> None:
    """Its flat settings stand where today's API has them, so that one reader knows both."""
    session = {
        "id": "sess_1", "model": "gpt-4o-realtime-preview", "modalities": ["audio", "text"], "voice": "ash",
        "input_audio_format": "g711_ulaw", "output_audio_format": "pcm16", "max_response_output_tokens": "inf",
        "input_audio_transcription": {"model": "whisper-1"},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 200},
    }  # fmt: skip
    stored = kept({"type": "session.created", "session": session}, Side.SERVER, Content.NONE)
    assert stored is not None
    assert stored["session"] == {
        "id": "sess_1",
        "model": "gpt-4o-realtime-preview",
        "output_modalities": ["audio", "text"],
        "max_output_tokens": "inf",
        "audio": {
            "input": {
                "format": {"type": "g711_ulaw"},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 200},
                "transcription": {"model": "whisper-1"},
            },
            "output": {"voice": "ash", "format": {"type": "pcm16"}},
        },
    }
