"""Whatever comes, in whatever pieces: what holds for the spans of every Realtime call."""

import copy
import json
import random
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.core.model import GuestSpan, UnixNano, guest_span_id
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.realtime.content import kept
from grafter.guests.realtime.event_types import BOTH, CLOSED, EVENT_TYPES, LIVE
from grafter.guests.realtime.field_rules import RESPONSE_EVENT
from grafter.guests.realtime.machine import Machine
from grafter.guests.realtime.records import MOST_SPANS
from grafter.guests.realtime.spans import map_realtime
from grafter.guests.realtime.stored_event import ENDED, METADATA, SIP, Side, StoredEvent, encode

POLICY = GraftPolicy()
FULL = GraftPolicy(content=Content.FULL)

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
IDS = st.sampled_from(["a", "b", "c", "d", "session", "x" * 2000]) | ANY_JSON
WORDS = st.sampled_from(
    [
        "completed", "cancelled", "failed", "turn_detected", "function_call", "function_call_output", "mcp_call",
        "message", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "output_audio", "server_vad",
        "none", "lookup", "custom_tool_call", "custom_tool_call_output", "web_search_call", "client", "expired",
    ]
)  # fmt: skip
MEMBERS = [
    "id", "type", "status", "name", "call_id", "server_label", "approval_request_id", "approve", "content", "tools",
    "error", "arguments", "output", "status_details", "reason", "conversation_id", "conversation", "metadata", "usage",
    "input_token_details", "cached_tokens_details", "audio_tokens", "input_tokens", "audio", "input", "turn_detection",
    "silence_duration_ms", "transcription", "model", "expires_at", "tracing", "group_id", "code", "event_id",
    "target", "response_id", "previous_response_id", "responses", "decisions", "decision", "seconds", "usage_ratio",
    "incomplete_details",
]  # fmt: skip
OBJECTS = st.recursive(
    st.dictionaries(st.sampled_from(MEMBERS), IDS | WORDS, max_size=6),
    lambda inner: st.dictionaries(
        st.sampled_from(MEMBERS), inner | IDS | WORDS | st.lists(inner, max_size=3), max_size=6
    ),
    max_leaves=5,
)
FIELDS = [
    "item_id", "response_id", "call_id", "audio_start_ms", "audio_end_ms", "delta_bytes", "item", "response", "session",
    "error", "part", "usage", "transcript", "arguments", "name", "rate_limits", "conversation", "event", "event_id",
    "metadata", "traceparent", "by", "origin", "delegation", "delegation_id", "trigger_id", "start_ms", "end_ms",
    "offset_ms", "delta", "reason", "context_window", "code",
]  # fmt: skip
EVENTS = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from([*sorted(EVENT_TYPES), ENDED, METADATA, SIP, "response.hologram", RESPONSE_EVENT]),
    st.dictionaries(st.sampled_from(FIELDS), OBJECTS | IDS | st.integers(0, 5000) | st.lists(OBJECTS, max_size=3)),
)
NOTES = st.builds(
    StoredEvent,
    at=st.integers(0, 40).map(lambda at: UnixNano(at * 10**9)) | st.integers(-(2**70), 2**70).map(UnixNano),
    side=st.sampled_from(Side),
    event=EVENTS,
    count=st.integers(1, 3),
    last=st.integers(-(2**70), 2**70).map(UnixNano),
)


KNOWN = {name for name, row in EVENT_TYPES.items() if row.fields is not None}
KINDS = {
    "realtime": {name for name in KNOWN if EVENT_TYPES[name].api != LIVE},
    "live": {name for name in KNOWN if EVENT_TYPES[name].api in (LIVE, BOTH)} - {CLOSED},
    "both": KNOWN - {CLOSED},
}
"""Of which API a call's events are. What says that no more will come is tried elsewhere."""
CALLS = [(seed, api) for api in KINDS for seed in range(20)]


def rnd_call(seed: int, api: str = "realtime", length: int = 120) -> list[StoredEvent]:
    """A call of events that mostly fit together, of which some are lost and some come in odd order."""
    rnd = random.Random(seed)
    kinds = sorted(KINDS[api])
    names = [f"id_{index}" for index in range(12)]
    stored_events: list[StoredEvent] = []
    at = 10**18
    for index in range(length):
        at += rnd.randrange(1, 4 * 10**9)
        kind = rnd.choice(kinds)
        name, other = rnd.choice(names), rnd.choice(names)
        items = ["function_call", "function_call_output", "mcp_call", "message", "mcp_list_tools"]
        item_type = rnd.choice(items if api == "realtime" else [*items, "web_search_call", "custom_tool_call"])
        item = {"id": f"item_{other}", "type": item_type, "call_id": f"call_{name}", "name": "lookup", "output": "x"}
        event: dict[str, object] = {
            "type": kind,
            "event_id": f"event_{index}",
            "item_id": f"item_{other}",
            "response_id": f"resp_{name}",
            "call_id": f"call_{name}",
            "response": {
                "id": f"resp_{name}",
                "status": rnd.choice(["completed", "cancelled", "failed"]),
                "conversation_id": rnd.choice(["conv", "conv", None]),
                "status_details": {"reason": rnd.choice(["turn_detected", "client_cancelled"])},
                "output": [item],
            },
            "session": {"id": rnd.choice(["sess_1", "sess_1", "sess_2"]), "model": "gpt-realtime"},
            "item": item,
            "audio_end_ms": rnd.randrange(4000),
            "delta": "AAAA",
            "delegation_id": rnd.choice([f"del_{name}", None]),
            "delegation": {"id": f"del_{name}", "target": rnd.choice(["responses", "client"])},
            "offset_ms": (at - 10**18) // 10**6,
            "start_ms": (at - 10**18) // 10**6 - rnd.randrange(2000),
            "end_ms": (at - 10**18) // 10**6 - rnd.randrange(500),
            "error": {"code": "odd", "event_id": f"event_{index - 1}"},
        }
        side = Side.SERVER if rnd.random() < 0.9 else Side.CLIENT
        stored = kept(event, side, Content.NONE)
        if stored is not None:
            stored_events.append(StoredEvent(UnixNano(at), side, stored))
    return stored_events


def all_spans(
    stored_events: Sequence[StoredEvent], cuts: Sequence[int] = (), policy: GraftPolicy = POLICY
) -> list[tuple[str, GuestSpan]]:
    """The spans of all releases: the events come in pieces, and what is remembered goes through JSON between them."""
    earlier: dict[str, object] | None = None
    found = []
    bounds = [0, *cuts, len(stored_events)]
    for index, (begin, end) in enumerate(pairwise(bounds)):
        mapped = map_realtime(
            "key", [encode(stored_events[begin:end])], policy, earlier, final=index == len(bounds) - 2
        )
        found += [(one.guest.trace_id, span) for one in mapped for span in one.guest.spans]
        earlier = orjson.loads(orjson.dumps(mapped[0].head))
    return found


def check(spans: list[tuple[str, GuestSpan]]) -> None:
    """Ids once, one tree a guest, times within what OTLP can say, and in order or marked as out of it."""
    ids = [(guest, span.span_id) for guest, span in spans]
    assert len(ids) == len(set(ids))
    for guest in {guest for guest, _ in spans}:
        own = {span.span_id: span for name, span in spans if name == guest}
        root = guest_span_id(guest, "session")
        assert [span.span_id for span in own.values() if span.parent is None] == [root]
        for span in own.values():
            steps = 0
            while span.parent is not None:
                span, steps = own[span.parent], steps + 1
                assert steps < 4
    for _, span in spans:
        assert 0 <= min(span.start, span.end) <= max(span.start, span.end) < 1 << 63
        assert (span.end < span.start) == (dict(span.attributes).get("grafter.time.odd") is True)
        assert len({key for key, _ in span.attributes}) == len(span.attributes)
        for key, value in span.attributes:
            if key.endswith("_ms"):
                assert value >= 0, key
        assert sum(event.name == "gen_ai.audio.barge_in" for event in span.events) <= 1


@given(st.lists(NOTES, max_size=25), st.sampled_from(Content))
def test_whatever_comes_gives_a_tree(stored_events: list[StoredEvent], content: Content) -> None:
    """No event, whatever is in it, is an exception or breaks the tree, cleaned or as it came."""
    payload = b"[" + b",".join(_row(stored) for stored in stored_events) + b"]"
    mapped = map_realtime("key", [payload, b"nonsense", b"{}"], GraftPolicy(content=content), final=True)
    assert mapped[0].odd == 2
    check([(one.guest.trace_id, span) for one in mapped for span in one.guest.spans])
    json.dumps([one.head for one in mapped])
    # The machine itself takes events that nobody cleaned.
    machine = Machine("key", content=True)
    for stored in stored_events:
        machine.feed(stored)
    machine.close()


def _row(stored: StoredEvent) -> bytes:
    return (
        json.dumps([stored.at, stored.side.value, stored.event, stored.count, stored.last])
        .replace("NaN", "0")
        .replace("-Infinity", "0")
        .replace("Infinity", "0")
        .encode()
    )


@given(EVENTS, st.sampled_from(Side), st.sampled_from(Content))
def test_cleaning_what_is_clean_changes_nothing(event: dict[str, object], side: Side, content: Content) -> None:
    """What is stored can be written, is not touched again, and the event itself stays as it was."""
    before = copy.deepcopy(event)
    stored = kept(event, side, content)
    assert repr(event) == repr(before)
    if stored is not None:
        assert orjson.loads(orjson.dumps(stored)) == stored
        assert kept(stored, side, content) == stored


@pytest.mark.parametrize(("seed", "api"), CALLS)
def test_a_call_of_odd_events_is_one_tree(seed: int, api: str) -> None:
    spans = all_spans(rnd_call(seed, api))
    check(spans)
    assert len(spans) > 5


@pytest.mark.parametrize(("seed", "api"), CALLS)
def test_pieces_give_what_the_whole_gives(seed: int, api: str) -> None:
    """Stopped anywhere, remembered as JSON, and gone on with in another process: the same spans, span for span."""
    stored_events = rnd_call(seed, api)
    rnd = random.Random(seed)
    cuts = sorted(rnd.sample(range(1, len(stored_events)), 3))
    assert sorted(all_spans(stored_events, cuts), key=repr) == sorted(all_spans(stored_events), key=repr)


@pytest.mark.parametrize(("seed", "api"), CALLS)
def test_the_order_of_arrival_does_not_matter(seed: int, api: str) -> None:
    """Only times count: payloads of one event each, in any order, give what they give in order."""
    stored_events = rnd_call(seed, api)
    shuffled = [encode([stored]) for stored in stored_events]
    random.Random(seed).shuffle(shuffled)
    assert map_realtime("key", shuffled, POLICY, final=True) == map_realtime(
        "key", [encode(stored_events)], POLICY, final=True
    )


@pytest.mark.parametrize(("seed", "api"), CALLS)
def test_repeats_change_nothing(seed: int, api: str) -> None:
    """Posted twice, heard by two readers, or sent again after a release: the same spans, once."""
    stored_events = rnd_call(seed, api)
    once = map_realtime("key", [encode(stored_events)], POLICY, final=True)
    assert map_realtime("key", [encode(stored_events), encode(stored_events[::-1])], POLICY, final=True) == once
    again = map_realtime("key", [encode(stored_events)], POLICY, orjson.loads(orjson.dumps(once[0].head)), final=True)
    assert [one.guest.spans for one in again] == [()] * len(once)
    assert again[0].head == once[0].head


def test_a_long_call_costs_flat_memory() -> None:
    """Tens of thousands of events, ids without end among them, are taken, bounded and counted."""
    machine = Machine("key")
    given_out = set()
    for index in range(40_000):
        name = f"{index:x}"
        kind = ("response.output_audio.delta", "input_audio_buffer.speech_started", "conversation.item.create", "hm")
        event = {
            "type": kind[index % 4],
            "response_id": f"resp_{name}",
            "item_id": f"item_{name}",
            "item": {"type": "function_call_output", "call_id": f"call_{name}"},
        }
        given_out |= {
            one.span.span_id for one in machine.feed(StoredEvent(UnixNano(10**18 + index), Side.SERVER, event))
        }
    state = orjson.dumps(machine.state())
    assert len(state) < 700_000
    given_out |= {one.span.span_id for one in machine.close()}
    assert MOST_SPANS * 0.9 < len(given_out) <= MOST_SPANS + 1
    (session,) = machine.sessions
    assert session.omitted > 1000
    assert session.unknown_events == 10_000


def test_reading_a_long_call_takes_less_room_than_its_events() -> None:
    """As events they would take six times as much as they do in the store."""
    odd = [
        StoredEvent(UnixNano(10**18 + n), Side.SERVER, {"type": "hm", "event_id": f"event_{n}"}) for n in range(20_000)
    ]
    payloads = [encode(odd[n : n + 500]) for n in range(0, len(odd), 500)]
    del odd
    tracemalloc.start()
    try:
        (mapped,) = map_realtime("key", payloads[::-1], POLICY, final=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert dict(mapped.guest.spans[0].attributes)["grafter.realtime.unknown_events"] == 20_000
    assert peak < sum(map(len, payloads))


@pytest.mark.parametrize("kind", [*sorted(KNOWN), "response.hologram"])
def test_hostile_sizes_are_cut(kind: str) -> None:
    """Deep nesting, long strings, lists of many members: stored small, and taken."""
    deep: object = "SECRET"
    for _ in range(900):
        deep = {"metadata": deep}
    long = "SECRET" * 2_000
    many = [{"id": "a", "type": "function_call", "name": long}] * 100
    members = ("response", "item", "session", "error", "part", "usage", "item_id", "name", "arguments", "metadata")
    for value in (deep, long, many):
        for inner in (value, {**dict.fromkeys(MEMBERS, value), "id": "a"}):
            stored = kept({**dict.fromkeys(members, inner), "type": kind}, Side.SERVER, Content.NONE)
            assert stored is not None
            assert len(orjson.dumps(stored)) < 100_000
            machine = Machine("key")
            machine.feed(StoredEvent(UnixNano(10**18), Side.SERVER, stored))
            machine.close()


def test_a_run_of_deltas_counts_from_its_first_to_its_last() -> None:
    """Folded or single, a run says when it began, when it ended and how much it was."""
    event = {"type": "response.output_audio.delta", "response_id": "r", "item_id": "i"}
    single = [
        StoredEvent(UnixNano(10**18 + at), Side.SERVER, {**event, "delta_bytes": 100}) for at in range(0, 900, 100)
    ]
    folded = [StoredEvent(single[0].at, Side.SERVER, {**event, "delta_bytes": 900}, 9, single[-1].at)]
    assert all_spans(folded) == all_spans(single)
