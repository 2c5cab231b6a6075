"""Realtime calls through the processor: a real store, a turned clock, and events as an app posts them."""

import asyncio
import base64
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.consumer import Batch, Result, Verdict
from grafter.core.model import UnixNano, guest_span_id, unlinked_trace_id
from grafter.core.policy import SECOND, Content, GraftPolicy, HostMissing, Mode, Unlinked, Waits
from grafter.guests.realtime.event_buffer import EventBuffer
from grafter.guests.realtime.stored_event import SIP, Side
from grafter.processor.assembling import Assembler
from grafter.processor.lanes import Limits
from grafter.processor.processor import Processor
from grafter.processor.release_result import Assembled
from tests.rig import ACCEPTED, START, Peer, Rig, recorded_guest, rig

HOST = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")
CALL = "rtc_1"
ROOT, FIRST, SECOND_LEG = (number.to_bytes(8) for number in (1, 2, 3))
STREAM = GraftPolicy(mode=Mode.STREAM)
SAID = "are you open on a Sunday"
KEY = "sk-proj-0123456789"


def second(offset: float) -> float:
    return START / SECOND + offset


def event(offset: float, kind: str, client: bool = False, **more: Any) -> dict[str, Any]:
    side = "client" if client else "server"
    told = {"type": kind, "event_id": f"event_{kind}_{offset}", **more}
    return {"at": second(offset), "from": side, "event": told}


def opened(offset: float, session: str = "sess_1", **tracing: Any) -> dict[str, Any]:
    told = {"id": session, "type": "realtime", "model": "gpt-realtime", "instructions": SAID}
    if tracing:
        told["tracing"] = {"metadata": tracing}
    return event(offset, "session.created", session=told)


def turn(number: int, offset: float) -> list[dict[str, Any]]:
    """The caller speaks for a second, and is answered half a second later."""
    item, response, answer = f"item_u{number}", f"resp_{number}", f"item_a{number}"
    audio = base64.b64encode(b"\7" * 480).decode()
    output = {
        "id": answer,
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_audio", "transcript": SAID}],
    }
    usage = {"total_tokens": 30, "input_tokens": 10, "output_tokens": 20}
    of = {"response_id": response, "item_id": answer}
    return [
        event(offset, "input_audio_buffer.speech_started", item_id=item, audio_start_ms=0),
        event(offset + 1.0, "input_audio_buffer.speech_stopped", item_id=item, audio_end_ms=1000),
        event(offset + 1.01, "input_audio_buffer.committed", item_id=item),
        event(offset + 1.02, "response.created", response={"id": response, "status": "in_progress"}),
        event(offset + 1.4, "response.output_item.added", response_id=response, item={**output, "content": []}),
        *(event(offset + 1.5 + n / 10, "response.output_audio.delta", delta=audio, **of) for n in range(5)),
        event(
            offset + 1.6,
            "conversation.item.input_audio_transcription.completed",
            item_id=item,
            transcript=SAID,
        ),
        event(
            offset + 2.5,
            "response.done",
            response={"id": response, "status": "completed", "output": [output], "usage": usage},
        ),
        event(offset + 2.8, "output_audio_buffer.stopped", response_id=response),
    ]


def post(*events: dict[str, Any], call: str = CALL, **more: Any) -> dict[str, Any]:
    return {"call": call, **more, "events": list(events)}


def linked(**more: Any) -> dict[str, Any]:
    return {"metadata": {"trace_id": HOST.hex(), **more}}


def host(*spans: tuple[bytes, bytes, str, float, float], session: str = "") -> bytes:
    """A request of host spans: (id, parent or empty, name, start and end in seconds)."""
    made = []
    for own, parent, name, start, end in spans:
        span = Span(
            trace_id=HOST,
            span_id=own,
            parent_span_id=parent,
            name=name,
            start_time_unix_nano=START + int(start * SECOND),
            end_time_unix_nano=START + int(end * SECOND),
        )
        if session and name == "gen_ai.realtime.session":
            span.attributes.add(key="gen_ai.conversation.id").value.string_value = session
        made.append(span)
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=made)])]
    ).SerializeToString()


WHOLE_HOST = host((ROOT, b"", "call", 0, 60), (FIRST, ROOT, "gen_ai.realtime.session", 0, 60))
"""The app's trace of the call."""
TREE = """\
call []
  gen_ai.realtime.session []
    realtime_session gpt-realtime [openai]
      user_speech [openai]
      chat gpt-realtime [openai]
      user_speech [openai]
      chat gpt-realtime [openai]"""


def names(peer: Peer) -> Counter[str]:
    return Counter(span.name.split(" ")[0] for span, _ in peer.spans)


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes}


def balanced(served: Rig, peer: Peer) -> None:
    """Nothing is held, nothing left twice, and the books balance."""
    assert served.store.stats().traces == 0
    assert len(peer.ids) == len(set(peer.ids))
    came, became = served.books(len(peer.spans))
    assert came == became > 0


async def until_nothing_is_held(served: Rig, seconds: float = 8000) -> None:
    while served.store.stats().traces and seconds > 0:
        await served.pass_time(10, step=10 if seconds < 7800 else 0.5)
        seconds -= 10
    assert served.store.stats().traces == 0


async def test_a_call_is_one_tree(tmp_path: Path) -> None:
    """Posted as it goes, linked by its first post: session, speech and answers hang under the app's session span."""
    peer = Peer()
    async with rig(peer) as served:
        await served.realtime(post(opened(0.1), **linked()))
        await served.realtime(post(*turn(1, 1)))
        await served.host(WHOLE_HOST)
        await served.pass_time(20)
        await served.realtime(post(*turn(2, 21)))
        await served.pass_time(40)
        assert peer.spans == []
        await served.realtime({"call": CALL, "ended": True, "at": second(60)})
        await served.pass_time(9)
        assert peer.spans == []
        await served.pass_time(2)
        assert peer.tree(HOST) == TREE
        balanced(served, peer)
        assert served.count("grafter_released_traces_total", reason="complete") == 1
        assert served.count("grafter_grafted_spans_total", source="realtime", match="selector") == 5
        assert served.count("grafter_expected_guests_total", source="realtime", outcome="joined") == 1
    session = next(span for span, _ in peer.spans if span.name.startswith("realtime_session"))
    assert session.span_id == guest_span_id(CALL, "session")
    said = attributes(session)
    assert (said["grafter.source"], said["grafter.link"]) == ("realtime", "trace_id")
    assert said["grafter.guest.trace_id"] == CALL


async def test_a_call_of_twelve_minutes_is_one_release() -> None:
    """With a hold of nine minutes in which nothing happens."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(WHOLE_HOST)
        await served.realtime(post(opened(0.1), **linked()))
        for number in range(1, 9):
            await served.realtime(post(*turn(number, number * 10)))
            await served.pass_time(10, step=5)
        await served.pass_time(540, step=5)
        for number in range(70, 80):
            await served.realtime(post(*turn(number, number * 10)))
            await served.pass_time(10, step=5)
        assert peer.requests == []
        await served.realtime({"call": CALL, "ended": True, "at": second(800)})
        await served.pass_time(15)
        assert len(peer.requests) == 1
        assert names(peer) == Counter(
            chat=18, user_speech=18, realtime_session=1, call=1, **{"gen_ai.realtime.session": 1}
        )
        balanced(served, peer)


@pytest.mark.parametrize("mode", Mode)
async def test_late_metadata_links_what_came_before(mode: Mode) -> None:
    """Whoever tells it: a later post, or the session's own tracing."""
    for late in (post(**linked()), post(event(50, "session.updated", session={"tracing": linked()}))):
        peer = Peer()
        async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
            await served.realtime(post(opened(0.1), *turn(1, 1)))
            await served.host(WHOLE_HOST)
            await served.pass_time(40)
            await served.realtime(late)
            await served.realtime({"call": CALL, "ended": True, "at": second(60)})
            await served.pass_time(60)
            assert {span.trace_id for span, _ in peer.spans} == {HOST}
            assert names(peer)["chat"] == names(peer)["realtime_session"] == 1
            balanced(served, peer)


async def test_two_sessions_are_two_guests_of_one_host() -> None:
    """Each hangs under the host's span of its own session, and keeps its own ids."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(host((ROOT, b"", "call", 0, 60)))
        await served.host(host((FIRST, ROOT, "gen_ai.realtime.session", 30, 60), session="sess_2"))
        await served.host(host((SECOND_LEG, ROOT, "gen_ai.realtime.session", 0, 30), session="sess_1"))
        await served.realtime(post(opened(0.1), *turn(1, 1), **linked()))
        await served.realtime(post(opened(31, "sess_2"), *turn(2, 32), ended=True))
        await served.pass_time(20)
        balanced(served, peer)
    parents = {span.span_id: span.parent_span_id for span, _ in peer.spans}
    assert parents[guest_span_id(CALL, "session")] == SECOND_LEG
    assert parents[guest_span_id(f"{CALL}/sess_2", "session")] == FIRST
    assert names(peer)["chat"] == 2


@pytest.mark.parametrize("mode", Mode)
async def test_each_session_is_remembered(mode: Mode) -> None:
    """What is posted again after the release of either session is told, and the books balance."""
    peer = Peer()
    events = [post(opened(0.1), *turn(1, 1), **linked()), post(opened(31, "sess_2"), *turn(2, 32), ended=True)]
    async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
        await served.host(WHOLE_HOST)
        for each in events:
            await served.realtime(each)
        await served.pass_time(60)
        assert names(peer)["chat"] == 2
        for each in events:
            await served.realtime(each)
            await served.pass_time(60)
        await until_nothing_is_held(served)
        balanced(served, peer)
        assert names(peer)["chat"] == 2


async def test_an_sdk_guest_beside_a_realtime_guest() -> None:
    """One trace, two grafts: what the Agents SDK measured has the app's resource, the call has OpenAI's."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(WHOLE_HOST)
        for items in recorded_guest():
            await served.guest(items)
        await served.realtime(post(opened(0.1), *turn(1, 1), **linked()))
        await served.pass_time(60)
        assert peer.spans == []
        await served.realtime({"call": CALL, "ended": True, "at": second(60)})
        await served.pass_time(20)
        balanced(served, peer)
        for source in ("sdk", "realtime"):
            assert served.count("grafter_expected_guests_total", source=source, outcome="joined") == 1
    services = {attributes(span).get("grafter.source"): service for span, service in peer.spans}
    assert (services["realtime"], services["sdk"]) == ("openai", "")


async def test_stream_sends_each_turn_as_it_ends() -> None:
    """Turns leave while the call runs, when nothing that comes late can change them, under the span of
    a session that comes at its end; nothing is made up."""
    peer = Peer()
    async with rig(peer, policy=STREAM) as served:
        await served.host(WHOLE_HOST)
        await served.pass_time(1)
        await served.realtime(post(opened(0.1), *turn(1, 1), **linked()))
        await served.pass_time(1)
        assert names(peer)["chat"] == 0
        await served.pass_time(100)
        await served.realtime(post(*turn(2, 102)))
        await served.pass_time(1)
        assert names(peer)["chat"] == 1
        assert names(peer)["realtime_session"] == 0
        await served.realtime({"call": CALL, "ended": True, "at": second(110)})
        await served.pass_time(1)
        assert peer.tree(HOST) == TREE
        assert served.count("grafter_synthetic_spans_total") == 0
        await until_nothing_is_held(served)
        balanced(served, peer)


async def test_a_streamed_call_that_just_stops_is_closed() -> None:
    """After idle its session span leaves, and says what ended it; then nothing is held any more."""
    peer = Peer()
    async with rig(peer, policy=STREAM) as served:
        await served.host(WHOLE_HOST)
        await served.realtime(post(opened(0.1), *turn(1, 1), **linked()))
        await served.pass_time(590, step=10)
        assert names(peer)["realtime_session"] == 0
        await served.pass_time(40, step=10)
        (session,) = (span for span, _ in peer.spans if span.name.startswith("realtime_session"))
        assert attributes(session)["grafter.ended_by"] == "disconnect"
        assert session.end_time_unix_nano < START + 10 * SECOND
        balanced(served, peer)


async def test_stream_without_an_anchor_does_not_wait_for_ever() -> None:
    """A lively call of which no host span ever comes leaves after for_guest, under the trace id that it names."""
    peer = Peer()
    async with rig(peer, policy=STREAM) as served:
        await served.realtime(post(opened(0.1), **linked()))
        for number in range(1, 10):
            await served.realtime(post(*turn(number, number * 5)))
            await served.pass_time(5)
        assert names(peer)["chat"] >= 5
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        await served.realtime({"call": CALL, "ended": True, "at": second(60)})
        await until_nothing_is_held(served)
        assert names(peer)["chat"] == 9
        balanced(served, peer)


async def test_a_restart_in_the_middle_of_a_call_loses_no_turn(tmp_path: Path) -> None:
    """What was acknowledged is there; a call that nobody ends says that it was cut off."""
    before, after = Peer(), Peer()
    async with rig(before, directory=tmp_path) as served:
        await served.host(WHOLE_HOST)
        await served.realtime(post(opened(0.1), *turn(1, 1), **linked()))
        await served.realtime(post(*turn(2, 11)))
        await served.pass_time(30)
        assert before.spans == []
        now = served.now
    async with rig(after, directory=tmp_path, now=now) as served:
        await served.store.recovered()
        await served.pass_time(601, step=10)
        assert after.tree(HOST) == TREE
        balanced(served, after)
    (session,) = (span for span, _ in after.spans if span.name.startswith("realtime_session"))
    assert attributes(session)["grafter.ended_by"] == "disconnect"


async def test_a_restart_in_stream_mode_goes_on_where_it_was(tmp_path: Path) -> None:
    """The state of the call is remembered with the turns that left: no turn leaves twice, none is lost."""
    before, after = Peer(), Peer()
    async with rig(before, policy=STREAM, directory=tmp_path) as served:
        await served.host(WHOLE_HOST)
        # The answer of the second turn is still going on.
        await served.realtime(post(opened(0.1), *turn(1, 1), *turn(2, 11)[:6], **linked()))
        await served.pass_time(5)
        now = served.now
    async with rig(after, policy=STREAM, directory=tmp_path, now=now) as served:
        await served.store.recovered()
        await served.realtime(post(*turn(2, 11)[6:], ended=True))
        await served.pass_time(5)
        await until_nothing_is_held(served)
    both = Peer()
    both.requests = [*before.requests, *after.requests]
    assert len(both.ids) == len(set(both.ids))
    assert both.tree(HOST) == TREE
    answer = next(span for span, _ in after.spans if span.span_id == guest_span_id(CALL, "resp_2"))
    assert answer.end_time_unix_nano - answer.start_time_unix_nano > SECOND


@pytest.mark.parametrize("mode", Mode)
async def test_repeats_do_no_harm(mode: Mode) -> None:
    """A sender that got no answer posts again, at once or after the release."""
    peer = Peer()
    posts = [
        post(opened(0.1), *turn(1, 1), **linked()),
        post(*turn(2, 21)),
        {"call": CALL, "ended": True, "at": second(60)},
    ]
    async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
        await served.host(WHOLE_HOST)
        for each in (*posts[:2], *posts[:2], *posts, posts[1]):
            await served.realtime(each)
        await served.pass_time(60)
        assert peer.tree(HOST) == TREE
        for each in posts:
            await served.realtime(each)
        await until_nothing_is_held(served)
        assert peer.tree(HOST) == TREE
        balanced(served, peer)


async def test_a_peer_that_refuses_for_a_while_changes_nothing() -> None:
    """An attempt that failed is made again with the same spans, and they are counted once."""
    peer = Peer()
    async with rig(peer) as served:
        peer.answer = lambda _batch: Result(Verdict.LATER, retry_after=1.0)
        await served.host(WHOLE_HOST)
        await served.realtime(post(opened(0.1), *turn(1, 1), *turn(2, 21), ended=True, **linked()))
        await served.pass_time(30)
        peer.answer = lambda _batch: ACCEPTED
        await served.pass_time(10)
        assert peer.tree(HOST) == TREE
        balanced(served, peer)


async def test_a_call_that_grows_past_its_limit_leaves_in_pieces() -> None:
    """Finished turns leave early, the rest goes on, and it is still one tree."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(max_trace_bytes=3_000)) as served:
        await served.host(WHOLE_HOST)
        await served.realtime(post(opened(0.1), **linked()))
        for number in (1, 2):
            await served.realtime(post(*turn(number, number * 20)))
            await served.pass_time(20)
        await served.realtime({"call": CALL, "ended": True, "at": second(60)})
        await until_nothing_is_held(served)
        assert served.count("grafter_released_traces_total", reason="oversize") >= 1
        assert peer.tree(HOST) == TREE
        balanced(served, peer)


async def test_a_host_that_left_before_its_call() -> None:
    """The app's trace was released long ago: the call is joined to it when it has ended, late."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(host((ROOT, b"", "call", 0, 60), (FIRST, ROOT, "work", 0, 60)))
        await served.pass_time(20)
        assert len(peer.spans) == 2
        await served.realtime(post(opened(20), *turn(1, 21), **linked()))
        await served.pass_time(120)
        assert len(peer.spans) == 2
        await served.realtime(post(*turn(2, 141), ended=True))
        await served.pass_time(10)
        assert names(peer)["chat"] == 2
        assert served.count("grafter_expected_guests_total", source="realtime", outcome="late") == 1
        balanced(served, peer)


async def test_a_late_host_span_need_not_wait_for_a_running_call() -> None:
    """It leaves at once, though the call that it belongs to is held with its trace."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(max_trace_bytes=3_000)) as served:
        await served.host(WHOLE_HOST)
        await served.realtime(post(opened(0.1), *turn(1, 1), **linked()))
        await served.realtime(post(*turn(2, 5)))
        await served.pass_time(5)
        await served.host(host((SECOND_LEG, ROOT, "late", 0, 1)))
        await served.pass_time(1)
        assert names(peer)["late"] == 1
        assert names(peer)["realtime_session"] == 0
        await served.realtime({"call": CALL, "ended": True, "at": second(60)})
        await until_nothing_is_held(served)
        assert names(peer)["realtime_session"] == 1
        balanced(served, peer)


@pytest.mark.parametrize("mode", Mode)
async def test_an_unlinked_call_is_a_trace_of_its_own(mode: Mode) -> None:
    """When it has ended, and not before."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
        await served.realtime(post(opened(0.1), *turn(1, 1)))
        await served.pass_time(120)
        assert peer.spans == []
        await served.realtime({"call": CALL, "ended": True, "at": second(120)})
        await served.pass_time(7)
        assert {span.trace_id for span, _ in peer.spans} == {unlinked_trace_id(CALL)}
        assert names(peer) == Counter(realtime_session=1, user_speech=1, chat=1)
        assert served.count("grafter_unlinked_guests_total", reason="unlinked") == 1
        balanced(served, peer)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (GraftPolicy(unlinked=Unlinked.DROP), "unlinked"),
        (GraftPolicy(host_missing=HostMissing.DROP), "host_missing"),
    ],
)
async def test_a_call_that_is_dropped_is_counted(policy: GraftPolicy, reason: str) -> None:
    """Its spans came and were dropped, each with the reason."""
    peer = Peer()
    async with rig(peer, policy=policy) as served:
        told = linked() if reason == "host_missing" else {}
        await served.realtime(post(opened(0.1), *turn(1, 1), ended=True, **told))
        await until_nothing_is_held(served)
        assert peer.spans == []
        assert served.count("grafter_dropped_spans_total", reason=reason) == 3
        balanced(served, peer)


HEADER = f"00-{HOST.hex()}-{FIRST.hex()}-01"


async def sip(served: Rig, traceparent: str = HEADER) -> None:
    """A SIP header says where the call belongs, as a webhook's door tells it."""
    buffer = EventBuffer(CALL, served.policy)
    buffer.add_own({"type": SIP, "traceparent": traceparent}, UnixNano(START))
    part = buffer.take()
    assert part is not None
    await served.processor.consume([part])


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("host_first", [False, True])
async def test_a_sip_header_links_where_its_host_has_come(mode: Mode, host_first: bool) -> None:
    """Held or released before, whichever comes first."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
        if host_first:
            await served.host(WHOLE_HOST)
            await served.pass_time(20)
        await sip(served)
        await served.realtime(post(opened(0.1), *turn(1, 1)))
        if not host_first:
            await served.host(WHOLE_HOST)
        await served.pass_time(20)
        await served.realtime({"call": CALL, "ended": True, "at": second(60)})
        await served.pass_time(60)
        await until_nothing_is_held(served)
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        session = next(span for span, _ in peer.spans if span.name.startswith("realtime_session"))
        assert session.parent_span_id == FIRST
        assert attributes(session)["grafter.link"] == "sip"
        balanced(served, peer)


async def test_a_sip_header_alone_links_nothing() -> None:
    """Anybody can write one: without a host of that id the call is a trace of its own, and says so."""
    peer = Peer()
    async with rig(peer) as served:
        await sip(served)
        await served.realtime(post(opened(0.1), *turn(1, 1), ended=True))
        await served.pass_time(20)
        assert {span.trace_id for span, _ in peer.spans} == {unlinked_trace_id(CALL)}
        assert all("grafter.link" not in attributes(span) for span, _ in peer.spans)
        balanced(served, peer)


@pytest.mark.parametrize("unlinked", list(Unlinked))
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("host_at", [-20, 900, 1990])
async def test_a_sip_header_holds_for_events_that_come_much_later(mode: Mode, host_at: int, unlinked: Unlinked) -> None:
    """The app posts the call when it is over, half an hour after the header was told: it hangs under its host."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=mode, unlinked=unlinked)) as served:
        if host_at < 0:
            await served.host(WHOLE_HOST)
            await served.pass_time(-host_at)
        await sip(served)
        for _ in range(10):
            await served.pass_time(200, step=10)
            if 0 < host_at <= (served.now[0] - START) / SECOND:
                await served.host(WHOLE_HOST)
                host_at = 0
        await served.realtime(post(opened(0.1), *turn(1, 1), ended=True))
        await until_nothing_is_held(served)
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        session = next(span for span, _ in peer.spans if span.name.startswith("realtime_session"))
        assert session.parent_span_id == FIRST
        assert attributes(session)["grafter.link"] == "sip"
        assert names(peer)["realtime_session"] == names(peer)["chat"] == 1
        balanced(served, peer)


@pytest.mark.parametrize("host_first", [False, True])
async def test_a_sip_header_alone_keeps_no_trace_waiting(host_first: bool) -> None:
    """Nobody listens to the call and nobody posts it: its host leaves when it is whole, as it would have without."""
    peer = Peer()
    async with rig(peer) as served:
        if host_first:
            await served.host(WHOLE_HOST)
            await served.pass_time(2)
        await sip(served)
        if not host_first:
            await served.pass_time(10)
            await served.host(WHOLE_HOST)
        await served.pass_time(45)
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        await until_nothing_is_held(served)
        assert served.count("grafter_unlinked_guests_total") == 0
        balanced(served, peer)


def on_disk(directory: Path) -> bytes:
    """Whatever stands in the store's files."""
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


@pytest.mark.parametrize("content", list(Content))
async def test_content_reaches_the_disk_only_where_the_policy_says_so(tmp_path: Path, content: Content) -> None:
    """Without it no word of the call and no key is in any of the store's files, nor in what leaves; audio never is."""
    peer = Peer()
    audio = base64.b64encode(b"\7" * 480)
    arguments = '{"reason": "a tooth that hurts"}'
    tool = {"type": "function_call", "id": "item_t", "call_id": "call_1", "name": "book", "arguments": arguments}
    secret = {"id": "sess_1", "client_secret": {"value": KEY}, "tools": [{"type": "mcp", "authorization": KEY}]}
    async with rig(peer, policy=GraftPolicy(content=content), directory=tmp_path) as served:
        await served.host(WHOLE_HOST)
        await served.realtime(
            post(
                opened(0.1),
                event(0.2, "session.updated", session=secret),
                *turn(1, 1),
                event(5, "response.output_item.done", response_id="resp_1", item=tool),
                event(
                    6,
                    "conversation.item.create",
                    client=True,
                    item={"type": "function_call_output", "call_id": "call_1", "output": SAID},
                ),
                event(7, "error", error={"type": "invalid_request_error", "message": SAID}),
                event(8, "no.such.event", text=SAID, deep={"text": [SAID]}),
                **linked(),
            )
        )
        stored = on_disk(tmp_path)
        assert b"resp_1" in stored
        await served.realtime({"call": CALL, "ended": True, "at": second(60)})
        await served.pass_time(20)
        stored += on_disk(tmp_path)
        assert names(peer)["chat"] == 1
    left = b"".join(peer.requests)
    for where in (stored, left):
        assert audio not in where
        assert KEY.encode() not in where
        if content is Content.NONE:
            assert SAID.encode() not in where
            assert b"a tooth that hurts" not in where
    if content is not Content.NONE:
        assert SAID.encode() in left


async def test_two_calls_of_one_host() -> None:
    """A transfer opens a second call: each keeps the trace open until it has ended."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(WHOLE_HOST)
        for call in ("rtc_1", "rtc_2"):
            await served.realtime(post(opened(0.1, f"sess_{call}"), *turn(1, 1), call=call, **linked()))
        await served.realtime({"call": "rtc_1", "ended": True, "at": second(30)})
        await served.pass_time(120)
        assert peer.spans == []
        await served.realtime({"call": "rtc_2", "ended": True, "at": second(120)})
        await served.pass_time(20)
        assert names(peer)["realtime_session"] == names(peer)["chat"] == 2
        balanced(served, peer)


async def test_short_waits_and_a_slow_sender() -> None:
    """Posts that come apart by more than every wait but idle are one call."""
    peer = Peer()
    waits = Waits(after_root=SECOND, for_guest=SECOND, guest_quiet=SECOND)
    async with rig(peer, policy=GraftPolicy(waits=waits)) as served:
        await served.realtime(post(opened(0.1), **linked()))
        await served.host(WHOLE_HOST)
        for number in (1, 2):
            await served.pass_time(300, step=5)
            await served.realtime(post(*turn(number, number * 300)))
        await served.realtime({"call": CALL, "ended": True, "at": second(700)})
        await served.pass_time(3)
        assert peer.tree(HOST) == TREE
        balanced(served, peer)


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.STREAM])
async def test_a_call_that_is_recorded_and_posted_is_told_once(mode: Mode) -> None:
    """Both saw all of it, and each folded the audio as it came to it: neither spans nor bytes are doubled."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
        await served.host(WHOLE_HOST)
        events = [opened(0.1), *turn(1, 1), *turn(2, 4)]
        heard = EventBuffer(CALL, served.policy, beside=True)
        for number, one in enumerate(events):
            at = UnixNano(int(one["at"] * SECOND) + 3_000_000)
            heard.add(orjson.dumps(one["event"]), at, Side.SERVER)
            part = heard.take() if number % 3 == 2 else None
            if part is not None:
                await served.processor.consume([part])
            await served.realtime(post(*events[number // 2 * 2 : number + 1 if number % 2 else 0], **linked()))
        rest = heard.take()
        await served.processor.consume([rest] if rest is not None else [])
        await served.realtime(post(events[-1], ended=True))
        await until_nothing_is_held(served)
        balanced(served, peer)
    assert names(peer) == Counter(
        {"chat": 2, "user_speech": 2, "realtime_session": 1, "call": 1, "gen_ai.realtime.session": 1}
    )
    sizes = [attributes(span)["grafter.response.audio_bytes"] for span, _ in peer.spans if span.name.startswith("chat")]
    assert sizes == [5 * 480] * 2


async def test_what_is_known_of_the_senders_clock_is_said() -> None:
    """The largest lead that a post proved, on the session's span alone; times stay as they were measured."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(WHOLE_HOST)
        await served.realtime(post(opened(0.1), sent_at=second(-1), **linked()))
        await served.realtime(post(*turn(1, 1), sent_at=second(0.25), ended=True))
        await served.pass_time(20)
        balanced(served, peer)
    told = {span.name.split(" ")[0]: attributes(span).get("grafter.clock.ahead_min_ms") for span, _ in peer.spans}
    assert {name: value for name, value in told.items() if value is not None} == {"realtime_session": 250.0}
    answer = next(span for span, _ in peer.spans if span.name.startswith("chat"))
    assert answer.start_time_unix_nano == START + 2_020_000_000


async def test_a_streamed_call_is_woken_by_its_parts_alone() -> None:
    """Five hundred calls that are looked at twice a second would keep a core busy with nothing."""
    peer = Peer()
    async with rig(peer, policy=STREAM) as served:
        await served.host(WHOLE_HOST)
        await served.realtime(post(opened(0.1), *turn(1, 1), **linked()))
        await served.realtime(post(event(20, "input_audio_buffer.cleared")))
        await served.pass_time(5)
        assert names(peer)["chat"] == 1
        assert list(await served.store.claim(UnixNano(served.now[0] + 500 * SECOND), 10)) == []


async def test_a_session_is_hung_when_there_is_something_to_hang() -> None:
    """That it began says nothing of where: its first span does, and then it stays there."""
    peer = Peer()
    legs = ((FIRST, ROOT, "gen_ai.realtime.session", 0, 30), (SECOND_LEG, ROOT, "gen_ai.realtime.session", 30, 60))
    async with rig(peer, policy=STREAM) as served:
        await served.host(host((ROOT, b"", "call", 0, 60), *legs))
        await served.realtime(post(opened(31), **linked()))
        await served.pass_time(1)
        await served.realtime(post(*turn(1, 32), ended=True))
        await served.pass_time(1)
    (session,) = (span for span, _ in peer.spans if span.name.startswith("realtime_session"))
    assert session.parent_span_id == SECOND_LEG


@pytest.mark.parametrize("policy", [STREAM, GraftPolicy(max_trace_bytes=3_000)], ids=["stream", "oversize"])
async def test_what_left_of_a_further_session_counts_as_parent(policy: GraftPolicy) -> None:
    """A tool that ends after its answer has left hangs under it, also in a call's second session."""
    peer = Peer()
    tool = {"type": "function_call", "id": "item_t", "call_id": "call_1", "name": "book", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "done"}
    async with rig(peer, policy=policy) as served:
        await served.host(WHOLE_HOST)
        await served.realtime(post(opened(0.1), *turn(1, 1), **linked()))
        asked = event(33, "response.output_item.done", response_id="resp_2", item=tool)
        await served.realtime(post(opened(31, "sess_2"), *turn(2, 32)[:-2], asked, *turn(2, 32)[-2:]))
        await served.realtime(post(event(39.9, "input_audio_buffer.cleared")))
        await served.pass_time(2)
        assert names(peer)["chat"] == 2
        assert names(peer)["execute_tool"] == 0
        answer = event(40, "conversation.item.create", client=True, item=output)
        await served.realtime(post(answer, ended=True))
        await until_nothing_is_held(served)
        balanced(served, peer)
    (called,) = (span for span, _ in peer.spans if span.name.startswith("execute_tool"))
    assert called.parent_span_id == guest_span_id(f"{CALL}/sess_2", "resp_2")
    assert "grafter.parent.missing" not in attributes(called)


@pytest.mark.parametrize("host_first", [True, False])
async def test_a_call_that_outlasts_every_wait_goes_on(host_first: bool) -> None:
    """Released at max while it runs, it is closed there; the turns that follow still join, once, under its session."""
    peer = Peer()
    waits = Waits(max=60 * SECOND, idle=40 * SECOND)
    async with rig(peer, policy=GraftPolicy(waits=waits)) as served:
        if host_first:
            await served.host(WHOLE_HOST)
        await served.realtime(post(opened(0.1), **linked()))
        for number in range(1, 16):
            await served.realtime(post(*turn(number, number * 10)))
            await served.pass_time(10, step=1)
        assert names(peer)["chat"] >= 5
        if not host_first:
            await served.host(WHOLE_HOST)
        await served.realtime({"call": CALL, "ended": True, "at": second(160)})
        await until_nothing_is_held(served)
        assert names(peer)["chat"] == names(peer)["user_speech"] == 15
        assert names(peer)["realtime_session"] == 1
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        parents = {span.parent_span_id for span, _ in peer.spans if span.name.startswith("chat")}
        assert parents == {guest_span_id(CALL, "session")}
        balanced(served, peer)


@pytest.mark.parametrize(("mode", "seconds"), [(Mode.HOLD, 7), (Mode.STREAM, 1)])
async def test_what_comes_after_the_end_is_not_a_call_that_runs(mode: Mode, seconds: int) -> None:
    """A transcript that is late leaves as any late guest does, and nobody waits for another end."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
        await served.host(WHOLE_HOST)
        await served.realtime(post(opened(0.1), *turn(1, 1), ended=True, **linked()))
        await served.pass_time(30)
        assert names(peer)["realtime_session"] == 1
        assert served.store.stats().traces == 0
        await served.realtime(post(*turn(2, 11)))
        await served.pass_time(seconds)
        assert names(peer)["chat"] == 2
        balanced(served, peer)


EVENTS = [opened(0.1), *turn(1, 1), *turn(2, 11), *turn(3, 21)]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.permutations(range(len(EVENTS))),
    st.lists(st.integers(1, len(EVENTS)), max_size=6),
    st.lists(st.integers(0, 5), max_size=3),
)
async def test_order_pieces_and_repetition_do_not_matter(order: list[int], cuts: list[int], repeats: list[int]) -> None:
    """However the events of a call are spread over posts, and whatever is posted twice: the same spans, once each."""
    found = []
    for places in (range(len(EVENTS)), order):
        peer = Peer()
        async with rig(peer) as served:
            edges = [0, *sorted(cuts), len(EVENTS)] if places is order else [0, len(EVENTS)]
            posts = [post(*(EVENTS[n] for n in places[a:b])) for a, b in pairwise(edges)]
            if places is order:
                posts += [posts[n] for n in repeats if n < len(posts)]
            await served.realtime({"call": CALL, "ended": True, "at": second(40)}, post(**linked()))
            for each in posts:
                await served.realtime(each)
            await served.host(WHOLE_HOST)
            await served.pass_time(20)
            balanced(served, peer)
        found.append(sorted((span.SerializeToString(deterministic=True), service) for span, service in peer.spans))
    assert found[0] == found[1]


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.STREAM])
@pytest.mark.parametrize("call_first", [False, True])
async def test_a_call_may_bear_the_id_of_an_sdk_trace(mode: Mode, call_first: bool) -> None:
    """An app that names both by the carrier's id loses neither."""
    peer = Peer()
    requests = recorded_guest()
    items: list[Any] = [item for request in requests for item in request]
    name = next(item["id"] for item in items if item["object"] == "trace")
    async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
        await served.host(WHOLE_HOST)
        begun = post(opened(0.1), *turn(1, 1), call=name, **linked())
        if call_first:
            await served.realtime(begun)
        for request in requests:
            await served.guest(request)
        if not call_first:
            await served.realtime(begun)
        await served.pass_time(30)
        await served.realtime({"call": name, "ended": True, "at": second(60)})
        await until_nothing_is_held(served)
        balanced(served, peer)
    sources = Counter(attributes(span).get("grafter.source") for span, _ in peer.spans)
    assert (sources["sdk"], sources["realtime"]) == (1, 1)
    of_sdk = sum(item["object"] == "trace.span" for item in items)
    assert len(peer.spans) == 2 + of_sdk + 3


class Watched:
    """A store that tells when it was asked for what is due, and to renew leases."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._asked = {"claim": asyncio.Condition(), "renew": asyncio.Condition()}

    async def claim(self, *args: Any, **more: Any) -> Any:
        return await self._told("claim", self._store.claim(*args, **more))

    async def renew(self, *args: Any) -> Any:
        return await self._told("renew", self._store.renew(*args))

    async def _told(self, what: str, doing: Any) -> Any:
        found = await doing
        async with self._asked[what]:
            self._asked[what].notify_all()
        return found

    async def times(self, what: str, count: int) -> None:
        """Return when that was done so many times more, from its beginning."""
        async with self._asked[what]:
            # One may have begun before.
            for _ in range(count + 1):
                await self._asked[what].wait()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_call_that_takes_longer_to_read_than_a_lease_lasts_leaves_once() -> None:
    """Its claim is kept while it is read: or the next round would claim it again, and send it again, for ever."""
    reads, goes_on = threading.Event(), threading.Event()

    class Slow(Assembler):
        def host(self, *args: Any) -> Assembled:
            reads.set()
            assert goes_on.wait(30)
            return super().host(*args)

    class Far(Peer):
        async def export(self, batch: Batch) -> Sequence[Result]:
            # Whatever is due meanwhile is claimed.
            await store.times("claim", 1)
            return await super().export(batch)

    peer = Far()
    async with rig(peer) as rooms, asyncio.timeout(60):
        store = Watched(rooms.store)
        # Leases are the store's, ten seconds of the clock; what is owned is renewed every few real milliseconds.
        limits = Limits(lease_seconds=0.03, tick_seconds=0.005)
        policy, metrics, now = rooms.policy, rooms.metrics, rooms.now
        processor = Processor(store, [peer], policy, Slow(policy, "test"), metrics, lambda: now[0], limits)
        served = Rig(rooms.store, processor, policy, metrics, now, rooms.splitter)
        async with processor.running():
            await served.host(WHOLE_HOST)
            # So many events that they are read beside the event loop.
            many = [event(1 + n / 100, "rate_limits.updated", rate_limits=[{"name": "x" * 200}]) for n in range(1000)]
            await served.realtime(post(opened(0.1), *many, **linked(), ended=True))
            now[0] += 60 * SECOND
            await asyncio.to_thread(reads.wait, 30)
            for _ in range(4):
                now[0] += 6 * SECOND
                await store.times("renew", 1)
            goes_on.set()
            while rooms.store.stats().traces:
                await store.times("claim", 1)
        balanced(served, peer)
