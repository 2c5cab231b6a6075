"""Traces that a rule moves: how long their host waits for them, what is noted of them, and what of them leaves."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.core.model import Facts, Source, TraceId, UnixNano, call_guest, moved_guest
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.guests.agents.intake import read_items
from grafter.otlp.split import Splitter
from grafter.processor.linking import MOST_NOTED
from grafter.receiver.explaining import Explainer
from grafter.store.model import PlainBatch
from tests.checker import Call, check
from tests.processor.conftest import Open
from tests.processor.test_joined_traces import Break, add, calls, host_span, named, rebuilt, webhook
from tests.processor.test_joined_traces import request as spans_request
from tests.processor.test_named_links import HOST, OTHER, balanced
from tests.processor.test_rules import AGENT, CALL, POLICY, SAME, SESSION_NAME, agent, host, recipe, request
from tests.rig import START, Peer, recorded_call, rig

SIGN = 2
"""Seconds after its part by which a host has heard of what moves under it, at most; a tick and a moment."""


def calling() -> bytes:
    """A host of which nothing says that a guest is to be expected."""
    return request(HOST, "app", (1, 0, "call", {"sip.call_id": CALL["sip__call_id"]}))


@pytest.mark.parametrize("order", ["host first", "trace first"])
async def test_a_host_waits_for_what_moves_under_it(open_rig: Open, order: str) -> None:
    """As for a guest: until its root has come and it is quiet, so that both leave whole, one after the other."""
    peer = Peer()
    first, second = agent(**SAME)
    begun = request(AGENT, "agent", (8, 3, "agent_session_began", {"lk.sip.callID": CALL["sip__call_id"]}))
    async with open_rig(peer, policy=POLICY) as one:
        for body in (host(**CALL), begun) if order == "host first" else (begun, host(**CALL)):
            await one.host(body)
            await one.pass_time(6)
        for _ in range(4):
            # The host's root came long ago; the other trace goes on.
            await one.host(first)
            await one.pass_time(25)
            assert peer.spans == []
        await one.host(second)
        await one.pass_time(9)
        assert peer.spans == []
        await one.pass_time(10)
        assert {span.name for span, _ in peer.spans} >= {"call", "job_entrypoint"}
        assert one.count("grafter_released_traces_total", reason="guest_timeout") == 0
        assert one.store.stats().traces == 0
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        balanced(one, peer)


async def test_a_store_that_takes_nothing_holds_up_none_of_what_is_due(
    open_rig: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full store refuses to note that a trace moves: the trace, its host and what is due beside them leave all the
    same, which makes the room."""
    peer = Peer()
    first, second = agent(**SAME)

    async def refuse(*_: object) -> None:
        raise UnavailableError("the store is full", reason="disk_full")

    async with open_rig(peer, policy=POLICY) as one:
        for body in (host(**CALL), first, second, host(OTHER)):
            await one.host(body)
        monkeypatch.setattr(one.store, "append", refuse)
        await one.pass_time(120)
        assert len(peer.spans) == 7, [span.name for span, _ in peer.spans]
        assert one.store.stats().traces == 0


async def test_a_host_waits_no_longer_than_for_any_guest(open_rig: Open) -> None:
    """Of the other trace no root comes, and nothing else: ``after_root`` and ``for_guest`` after its last part the host
    leaves, and the rest is late."""
    peer = Peer()
    first, second = agent(**SAME)
    async with open_rig(peer, policy=POLICY) as one:
        await one.host(host(**CALL))
        await one.host(request(AGENT, "agent", (8, 3, "began", {"lk.sip.callID": CALL["sip__call_id"]})))
        await one.pass_time(39)
        assert peer.spans == []
        held = await Explainer(one.store, one.policy, lambda: one.now[0]).explain(HOST.hex())
        assert held["held"]["waits_for"] == [f"moving {AGENT.hex()}"]  # type: ignore[index]
        await one.pass_time(SIGN)
        assert {span.name for span, _ in peer.spans} == {"call", SESSION_NAME}
        assert one.count("grafter_released_traces_total", reason="guest_timeout") == 1
        await one.host(first)
        await one.host(second)
        await one.pass_time(60)
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        assert len(peer.spans) == 6
        assert one.store.stats().traces == 0
        balanced(one, peer)


@pytest.mark.parametrize("open_rig", ["disk", "redis"], indirect=True)
async def test_the_wait_outlives_the_process(open_rig: Open) -> None:
    """What a host heard of is in the store, so that the next process waits for it, though nothing of it comes again."""
    peer, clock = Peer(), [START]
    async with open_rig(peer, policy=POLICY, now=clock) as one:
        await one.host(host(**CALL))
        await one.host(request(AGENT, "agent", (8, 3, "began", {"lk.sip.callID": CALL["sip__call_id"]})))
        await one.pass_time(2)
    async with open_rig(peer, policy=POLICY, now=clock) as one:
        await one.pass_time(30)
        assert peer.spans == []
        for body in agent(**SAME):
            await one.host(body)
        await one.pass_time(30)
        assert one.count("grafter_released_traces_total", reason="guest_timeout") == 0
        assert one.store.stats().traces == 0
    assert {span.trace_id for span, _ in peer.spans} == {HOST}
    assert len(peer.spans) == 6


async def test_a_trace_that_cannot_be_read_costs_no_other_its_release(
    open_rig: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A block of the disk is damaged: of a trace that would move nothing can be read. What falls due beside it leaves
    when it would have left without; when it can be read again it goes where it belongs."""
    peer = Peer()
    async with open_rig(peer, policy=POLICY) as one:
        read = one.store.read

        async def damaged(claims: Any) -> Any:
            if not isinstance(claims, PlainBatch) and any(claim.key == AGENT for claim in claims):
                raise UnavailableError("held parts could not be read", reason="store_down")
            return await read(claims)

        monkeypatch.setattr(one.store, "read", damaged)
        for body in (*agent(**SAME), calling(), host(OTHER)):
            await one.host(body)
        await one.pass_time(12)
        assert {span.trace_id for span, _ in peer.spans} == {HOST}
        await one.pass_time(90)
        assert {span.trace_id for span, _ in peer.spans} == {HOST, OTHER}
        assert one.store.stats().traces == 1
        assert len([each for each in caplog.records if "cannot be read" in each.message]) == 1
        monkeypatch.setattr(one.store, "read", read)
        await one.pass_time(10)
        assert {span.trace_id for span, _ in peer.spans} == {HOST, OTHER}
        (job,) = [span for span, _ in peer.spans if span.name == "job_entrypoint"]
        assert job.trace_id == HOST
        assert one.store.stats().traces == 0
        balanced(one, peer)


@pytest.mark.parametrize("open_rig", ["memory"], indirect=True)
async def test_a_trace_that_can_never_be_read_is_given_up(open_rig: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``max`` it is released like any other, and counted among what is lost."""
    peer, policy = Peer(), replace(POLICY, waits=replace(POLICY.waits, max=100 * SECOND))
    async with open_rig(peer, policy=policy) as one:
        read = one.store.read

        async def damaged(claims: Any) -> Any:
            if not isinstance(claims, PlainBatch) and any(claim.key == AGENT for claim in claims):
                raise UnavailableError("held parts could not be read", reason="store_down")
            return await read(claims)

        monkeypatch.setattr(one.store, "read", damaged)
        for body in agent(**SAME):
            await one.host(body)
        for _ in range(300):
            # Something falls due beside it that can be read: where nothing can be, the store is away.
            await one.host(host(OTHER))
            await one.pass_time(1, step=1)
        assert one.count("grafter_dropped_spans_total", reason="unreadable") == 3


@pytest.mark.parametrize("name", [moved_guest(TraceId(AGENT)), call_guest("rtc_1")])
def test_nobody_outside_speaks_for_it(name: str) -> None:
    """The name by which its host knows it is no id of an item: that would make the host wait, or lose spans."""
    posted: list[object] = [
        {"object": "trace", "id": name, "metadata": {"trace_id": HOST.hex()}},
        {"object": "trace.span", "id": "span_1", "trace_id": name, "span_data": {"type": "agent", "name": "a"}},
    ]
    assert not read_items(posted, Source.SDK, POLICY).parts


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("beside", [{}, {"lk.sip.callID": "SCL_1"}], ids=["alone", "beside another key"])
def test_of_a_key_with_many_values_the_first_count(pure: bool, beside: dict[str, str]) -> None:
    """A host's key that is on each span with another value; behind them a trace is marked as one that may move."""
    spans = [(number, 0, "step", {"sip.call_id": f"SCL_{number}", **beside}) for number in range(1, 200)]
    split = Splitter((), rules=POLICY.rules, pure=pure).split(
        request(AGENT, "agent", *spans, (200, 0, "last", {"lk.sip.callID": "SCL_1"}))
    )
    assert [link.guest for link in split.links] == sorted(f"call sip.call_id SCL_{n}" for n in range(1, 101))
    assert all(Facts.RULE in part.facts for part in split.parts)


async def test_the_notes_of_one_trace_are_bounded(open_rig: Open) -> None:
    """Answers and values in request after request are noted up to a limit; a guest's name is noted in any case."""
    ids = [f"resp_{number}" for number in range(0, 2_000)]
    async with open_rig(Peer(), policy=POLICY) as one:
        for at in range(0, len(ids), 100):
            words = ({"gen_ai.response.id": each} for each in ids[at : at + 100])
            await one.host(request(HOST, "app", *((n, 0, "chat", word) for n, word in enumerate(words, 1))))
        await one.host(host(openai__call_id="rtc_1"))
        noted = await one.store.find_calls([*ids, "rtc_1"], UnixNano(one.now[0]))
    assert [note is not None for note in noted] == [n < MOST_NOTED or n == len(ids) for n in range(len(ids) + 1)]


ELSEWHERE = bytes.fromhex("c0ffee00c0ffee00c0ffee00c0ffee00")


def parted(call: Call) -> Call:
    """The same call, of which all that the app traced of its steps is in a trace of another system."""
    (body,) = call.host
    (spans,) = [
        scope.spans for each in ExportTraceServiceRequest.FromString(body).resource_spans for scope in each.scope_spans
    ]
    mine, steps = spans[:2], spans[2:]
    mine[0].attributes.add(key="sip.call_id").value.string_value = "SCL_1"
    job = host_span(1, 0, "job_entrypoint", 2, 58_000)
    job.attributes.add(key="lk.sip.callID").value.string_value = "SCL_1"
    for span in (job, *steps):
        span.trace_id = ELSEWHERE
        if span.parent_span_id == mine[1].span_id:
            span.parent_span_id = job.span_id
    return Call([spans_request(mine)], call.items, by_rule=[spans_request(steps), spans_request([job])])


@given(call=calls(), order=st.permutations(range(3)), pauses=st.lists(st.integers(0, 17), min_size=3, max_size=3))
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
async def test_made_up_calls_join_with_what_a_rule_moves(call: Call, order: list[int], pauses: list[int]) -> None:
    """Whatever the app's trace is matched with stands once, whichever comes first and whether the host has left; and
    nothing stays behind."""
    call = parted(call)
    peer = Peer()
    async with rig(peer, policy=recipe(1)) as r:
        await r.guest(call.items)
        requests = [*call.host, *call.by_rule]
        for at, pause in zip(order, pauses, strict=True):
            await r.host(requests[at])
            await r.pass_time(pause)
        await r.pass_time(120)
        check(call, peer.requests)
        assert r.store.stats().traces == 0
        came, became = r.books(len(peer.spans))
        assert came == became


MOVED_FAULTS: dict[str, Break] = {
    "a moved span is lost": lambda spans: spans.remove(named(spans, "llm_node")),
    "a moved span leaves twice": lambda spans: spans.append(named(spans, "llm_node")),
    "a moved span keeps its id": lambda spans: setattr(
        named(spans, "llm_node"), "span_id", bytes.fromhex(said(named(spans, "llm_node"), "grafter.guest.span_id"))
    ),
    "a moved span names another for itself": lambda spans: setattr(
        next(each for each in named(spans, "llm_node").attributes if each.key == "grafter.guest.span_id").value,
        "string_value",
        "0" * 16,
    ),
    "a moved span has another parent": lambda spans: setattr(
        named(spans, "llm_node"), "parent_span_id", named(spans, "gen_ai.realtime.session").span_id
    ),
    "a moved span keeps its trace": lambda spans: setattr(named(spans, "llm_node"), "trace_id", b"another trace id"),
    "a moved span's time changes": lambda spans: setattr(named(spans, "llm_node"), "end_time_unix_nano", 1),
    "a moved span is given what nobody announced": lambda spans: add(named(spans, "llm_node"), "surprise", 1),
    "a moved root hangs nowhere": lambda spans: named(spans, "agent_session").ClearField("parent_span_id"),
    "a moved root hangs below itself": lambda spans: setattr(
        named(spans, "agent_session"), "parent_span_id", named(spans, "llm_node").span_id
    ),
    "a moved root does not say how it came": lambda spans: setattr(
        next(each for each in named(spans, "agent_session").attributes if each.key == "grafter.link"), "key", "x"
    ),
}


@pytest.mark.parametrize("fault", MOVED_FAULTS)
async def test_the_checker_sees_what_is_wrong_with_a_moved_trace(fault: str) -> None:
    """LiveKit's recorded trace under the trace of a webhook: right as it leaves, and not with any of these."""
    call = Call([webhook("sip.call_id", "SCL_Vx7c2k9QmT4d")], by_rule=[recorded_call("livekit_agents_1.8.9")])
    peer = Peer()
    async with rig(peer, policy=recipe(1)) as r:
        for body in (*call.host, *call.by_rule):
            await r.host(body)
        await r.pass_time(120)
    # Messages one behind the other are one message.
    body = b"".join(peer.requests)
    check(call, [rebuilt(body, lambda _spans: None)])
    with pytest.raises(AssertionError):
        check(call, [rebuilt(body, MOVED_FAULTS[fault])])


def said(span: Span, key: str) -> str:
    return next(each.value.string_value for each in span.attributes if each.key == key)
