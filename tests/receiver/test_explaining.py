"""What ``/admin/explain`` says of a trace that is held, joined, alone, or unknown; over a real store."""

from typing import Any

import pytest

from grafter.core.explain import GuestRecord, Refusal, Step, advice, lasting, sentences
from grafter.core.lifecycle import awaited
from grafter.core.memory import GuestMemory
from grafter.core.memory_blobs import decode_guest, encode_guest
from grafter.core.model import TraceId, UnixNano
from grafter.core.state import TraceState
from grafter.guests.sources import RULES
from grafter.receiver.explaining import Explainer, status
from tests.rig import CALL, Peer, Rig, recorded_call, recorded_guest, rig

GUEST = "trace_641f3b5c6ea248ddbd46cabf7ae382b9"
RUN = "py_runner_chat_completions"


def explainer(rooms: Rig) -> Explainer:
    return Explainer(rooms.store, rooms.policy, lambda: rooms.now[0])


def with_metadata(item: Any, metadata: dict[str, str]) -> Any:
    """A trace object with other metadata; a span as it is."""
    return {**item, "metadata": metadata} if item.get("object") == "trace" else item


def said(answer: dict[str, Any]) -> str:
    return "\n".join(answer["lines"])


async def test_a_held_trace_says_what_it_waits_for() -> None:
    """The guest's trace object and link have come, its host has not; then the host, and quiet is all."""
    async with rig(Peer()) as r:
        items = [item for request in recorded_guest(RUN) for item in request]
        await r.guest(items[:3])
        await r.pass_time(40)
        answer = await explainer(r).explain(CALL.hex())
        assert answer["held"]["waits_for"][0] == "host"
        assert "last part 40 s ago; leaves, should nothing more come, in 9 min 20 s" in said(answer)
        await r.guest(items[3:])
        await r.host(recorded_call())
        await r.pass_time(2)
        answer = await explainer(r).explain(CALL.hex())
        assert answer["held"]["waits_for"] == ["quiet"]
        assert answer["held"]["leaves_in_seconds"] == 8.0
        assert answer["held"]["guests"] == [GUEST]


async def test_a_joined_trace_says_where_and_why() -> None:
    """Asked by either side's id: how it was linked, what it hangs under, and when it left; a day later too."""
    async with rig(Peer()) as r:
        await r.host(recorded_call())
        for request in recorded_guest(RUN):
            await r.guest(request)
        await r.pass_time(20)
        await r.pass_time(3600 * 20, step=3600)
        by_host = await explainer(r).explain(CALL.hex())
        by_guest = await explainer(r).explain(GUEST)
    assert by_host["left"]["reason"] == "complete"
    assert by_host["left"]["guests"] == [GUEST]
    assert "left 20 h ago (complete)" in said(by_host)
    assert [guest["anchor"] for guest in by_host["guests"]] == ["named"]
    assert by_guest["guests"] == by_host["guests"]
    assert "linked by trace_id; hangs under the span that your metadata names" in said(by_guest)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "to change: put trace_id or traceparent into the metadata"),
        ({"trace_id": "not hex"}, "not by link: the metadata seems to name a trace, in a form that cannot be read"),
    ],
)
async def test_an_unjoined_guest_says_what_to_change(metadata: dict[str, str], told: str) -> None:
    """It left as a trace of its own, and the answer names the key that would have joined it."""
    async with rig(Peer()) as r:
        for request in recorded_guest(RUN):
            await r.guest(
                [{**item, "metadata": metadata} if item.get("object") == "trace" else item for item in request]
            )
        held = await explainer(r).explain(GUEST)
        assert f"link {GUEST}" in held["held"]["waits_for"]
        await r.pass_time(60)
        answer = await explainer(r).explain(GUEST)
    assert "left as a trace of its own" in said(answer)
    assert told in said(answer)


async def test_an_anchor_that_was_refused_is_named() -> None:
    """The metadata names a span that is not in the host."""
    async with rig(Peer()) as r:
        await r.host(recorded_call())
        metadata = {"trace_id": CALL.hex(), "span_id": "0123456789abcdef"}
        for request in recorded_guest(RUN):
            await r.guest(
                [{**item, "metadata": metadata} if item.get("object") == "trace" else item for item in request]
            )
        await r.pass_time(60)
        answer = await explainer(r).explain(GUEST)
    assert answer["guests"][0]["refused"][0] == ["named", "not_in_host"]
    assert "the span that the metadata names is not in that trace" in said(answer)


async def test_what_nobody_knows_is_said_to_be_unknown() -> None:
    async with rig(Peer()) as r:
        answer = await explainer(r).explain("rtc_nobody")
        assert answer.keys() == {"asked", "lines"}
        assert "nothing is held or remembered under rtc_nobody" in said(answer)


async def test_status_says_what_is_held_and_for_how_long() -> None:
    async with rig(Peer()) as r:
        await r.host(recorded_call())
        await r.pass_time(3)
        answer = status(r.store, r.metrics, r.now[0])
    assert answer["held"]["traces"] == 1  # type: ignore[index]
    assert answer["oldest_seconds"] == 3.0
    assert "the oldest part came 3 s ago" in said(answer)


def test_a_record_survives_its_memory_and_is_of_bounded_size() -> None:
    """A thousand steps keep fifty, and their number; what is no record is none."""
    steps = [Step(f"{n:016x}", f"{n:016x}", "call_id") for n in range(1000)]
    record = GuestRecord("trace_1", "sdk", "trace_id", "named", "00" * 8, (Refusal("named", "not_in_host"),))
    record = record.with_steps(steps, steps[:2], [Step("00" * 8, "11" * 8, "two_fit")], (1000, 2, 1))
    memory = decode_guest(encode_guest(GuestMemory(None, TraceId(b"t" * 16), record=record)))
    assert memory is not None
    assert memory.record == record
    assert (len(record.tools), record.counts) == (50, (1000, 2, 1))
    assert "1000 tools under their turns" in "\n".join(sentences(record))
    assert any("gen_ai.tool.call.id" in line for line in advice(record))
    assert GuestRecord.of({"guest": 1}) is None
    assert GuestRecord.of([]) is None


def test_a_trace_without_a_root_waits_for_it() -> None:
    """The words that a reader of a held trace looks for first."""
    state = TraceState(UnixNano(0), UnixNano(0), host_spans=2)
    assert awaited(state, RULES) == ("root",)


def test_lengths_of_time_are_read_at_a_glance() -> None:
    """Two units at most, and never less than nothing."""
    seconds = {0: "0 s", 40: "40 s", 500: "8 min 20 s", 7200: "2 h", 90061: "25 h 1 min", -5: "0 s"}
    assert {length: lasting(length * 10**9) for length in seconds} == seconds
