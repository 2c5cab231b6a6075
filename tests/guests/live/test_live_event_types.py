"""Every event type of the Live API, made from the openai package's types, those of delegated responses included."""

import json
import re
from itertools import chain
from pathlib import Path

import orjson
import pytest
from openai.types.live import (
    ClientEvent,
    ConnectClientEvent,
    ConnectServerEvent,
    ForkClientEvent,
    ForkServerEvent,
    ServerEvent,
)
from openai.types.responses import ResponseStreamEvent

from grafter.core.model import UnixNano
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.realtime.content import kept
from grafter.guests.realtime.event_buffer import EventBuffer, kind_of
from grafter.guests.realtime.event_types import BOTH, CLIENT_EVENTS, EVENT_TYPES, LIVE
from grafter.guests.realtime.field_rules import INNER as PREFIX
from grafter.guests.realtime.field_rules import unwrapped
from grafter.guests.realtime.spans import map_realtime
from grafter.guests.realtime.stored_event import Side, StoredEvent, encode
from tests.guests.realtime.event_types import SECRET, instances, models, type_of

ROOT = Path(__file__).parents[3]
NEWER = {"session.paused", "session.resumed"}
"""Of openai-python 3.57, three releases after the one that is here."""

UNIONS = {
    "server": (Side.SERVER, ServerEvent),
    "sideband": (Side.SERVER, ConnectServerEvent),
    "fork": (Side.SERVER, ForkServerEvent),
    "client": (Side.CLIENT, ClientEvent),
    "sideband client": (Side.CLIENT, ConnectClientEvent),
    "fork client": (Side.CLIENT, ForkClientEvent),
}
INNER = {type_of(model) for model in models(ResponseStreamEvent)}


def outer(event: dict[str, object]) -> dict[str, object]:
    return {"type": "response.event", "event_id": "event_1", "delegation_id": "del_1", "event": event}


EVENTS = {
    f"{name} {type_of(model)}": [(side, event) for event in instances(model)]
    for name, (side, union) in UNIONS.items()
    for model in models(union)
    if type_of(model) != "response.event"
} | {
    f"response.event {type_of(model)}": [(Side.SERVER, outer(event)) for event in instances(model)]
    for model in models(ResponseStreamEvent)
}
"""By union and type, an event for each variant of its fields."""
TYPES = {type_of(model) for _, union in UNIONS.values() for model in models(union)}


def test_the_unions_are_what_we_think() -> None:
    """The walk over the types finds as many as the package has."""
    assert len({type_of(model) for model in models(ConnectServerEvent)}) >= 28
    assert len(INNER) >= 59
    assert {"response.event", "session.closed", "transport.dtmf.received"} <= TYPES


@pytest.mark.parametrize("name", EVENTS)
def test_what_is_stored_of_an_event(name: str) -> None:
    """It is JSON, the same when cleaned again; without content nothing that was said; and nobody's sound."""
    for side, event in EVENTS[name]:
        for content in Content:
            before = json.dumps(event)
            stored = kept(event, side, content)
            assert json.dumps(event) == before
            if stored is None:
                assert EVENT_TYPES[str(unwrapped(event)["type"])].fields is None
                continue
            assert orjson.loads(orjson.dumps(stored)) == stored
            assert EVENT_TYPES[str(stored["type"])].fields is not None
            assert kept(stored, side, content) == stored
            assert f"{SECRET} audio" not in json.dumps(stored)
            if content is Content.NONE:
                assert SECRET not in json.dumps(stored)


@pytest.mark.parametrize("content", list(Content))
def test_all_events_in_one_call(content: Content) -> None:
    """Fed one after the other they give a tree with one session, and no content where none is wanted."""
    buffer = EventBuffer("live_1", GraftPolicy(content=Content.FULL))
    kinds = set()
    for index, (side, event) in enumerate(chain.from_iterable(EVENTS.values())):
        inner = event.get("event")
        if isinstance(inner, dict) and "response" in inner:
            # The types' walk calls everything by one id, which names one thing only.
            event = {**event, "event": {**inner, "response": {**inner["response"], "id": f"resp_{index}"}}}
        raw = json.dumps({**event, "event_id": f"event_{index}", "start_ms": index * 1500, "end_ms": index * 1500 + 7})
        kinds.add(kind_of(buffer.add(raw, UnixNano(10**18 + index * 10**10), side)))
    part = buffer.take()
    assert kinds == {"event", "audio"}
    assert part is not None
    mapped = map_realtime("live_1", [part.payload], GraftPolicy(content=content), final=True)
    spans = [span for one in mapped for span in one.guest.spans]
    names = {span.name.split()[0] for span in spans}
    assert names >= {"realtime_session", "chat", "execute_tool", "user_speech", "assistant_speech", "decision"}
    if content is Content.NONE:
        assert SECRET not in repr(spans)
        assert SECRET not in repr([one.head for one in mapped])
    else:
        assert SECRET in repr(spans)


def test_each_type_is_read_or_known_to_say_nothing() -> None:
    """No type of the package is unknown, and nothing is kept for a type that no API has."""
    names = (TYPES - {"response.event"}) | {PREFIX + kind for kind in INNER} | NEWER
    assert names == {name for name, row in EVENT_TYPES.items() if row.api in (LIVE, BOTH)}


def test_the_page_about_events_is_whole() -> None:
    """docs/live-events.md has a row for each type of the package, and for no other."""
    page = (ROOT / "docs" / "live-events.md").read_text().partition("## What the server sends")[2]
    outer_rows, _, inner_rows = page.partition("## Inside `response.event`")
    assert _rows(outer_rows) == TYPES | NEWER
    assert _rows(inner_rows) == INNER


def _rows(text: str) -> set[str]:
    return {
        name
        for line in text.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


def test_what_is_known_as_the_clients_is_the_clients() -> None:
    """An event that is posted without a side gets the one that sends it."""
    sent = {type_of(model) for side, union in UNIONS.values() if side is Side.CLIENT for model in models(union)}
    assert sent == {name for name in CLIENT_EVENTS if EVENT_TYPES.get(name) and EVENT_TYPES[name].api in (LIVE, BOTH)}


def test_a_response_event_of_tomorrow_is_counted_and_keeps_no_text() -> None:
    """Its type names both, its numbers stay."""
    stored = kept(outer({"type": "response.hologram.done", "text": SECRET, "n": 3}), Side.SERVER, Content.FULL)
    assert stored == {
        "type": "response.event/response.hologram.done",
        "event_id": "event_1",
        "text": None,
        "n": 3,
        "delegation_id": None,
    }


@pytest.mark.parametrize("inner", [None, 3, [], {}, {"type": 5}, {"type": ""}, {"type": "x" * 200}, {"type": "a b"}])
def test_a_response_event_with_nothing_in_it_costs_nothing(inner: object) -> None:
    buffer = EventBuffer("live_1", GraftPolicy())
    event = {"type": "response.event", "event_id": "event_1", "event": inner}
    assert kind_of(buffer.add_event(event, UnixNano(10**18), Side.SERVER)) in ("unknown_type", "odd")
    part = buffer.take()
    payloads = [] if part is None else [part.payload]
    for each in map_realtime(
        "live_1", [*payloads, encode([StoredEvent(UnixNano(1), Side.SERVER, event)])], GraftPolicy(), final=True
    ):
        assert [span.name for span in each.guest.spans] == ["realtime_session"]


def test_no_sound_is_kept() -> None:
    """Of the model's audio stays where it began; the caller's leaves nothing."""
    for content in Content:
        event = {"type": "session.output_audio.delta", "delta": "AAAA", "start_ms": 100, "end_ms": 200}
        assert kept(event, Side.SERVER, content) == {"type": "session.output_audio.delta", "start_ms": 100}
        assert kept({"type": "session.input_audio.append", "audio": "AAAA"}, Side.SERVER, content) is None


def test_keys_of_a_session_are_stored_under_no_policy() -> None:
    """Neither an MCP server's credentials nor who the caller is to the app."""
    tools = [{"type": "mcp", "server_label": "crm", "authorization": SECRET, "headers": {"x": SECRET}}]
    session = {
        "id": "live_1",
        "model": "gpt-live-1",
        "safety_identifier": SECRET,
        "delegation": {"type": "responses", "responses": {"model": "gpt-5.5", "tools": tools}},
    }
    for content in Content:
        stored = kept({"type": "session.started", "session": session}, Side.SERVER, content)
        assert stored is not None
        assert SECRET not in json.dumps(stored)
        assert stored["session"]["delegation"]["responses"]["model"] == "gpt-5.5"
