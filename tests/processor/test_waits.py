"""What leaves of a call says whose time its waits were: once, whatever leaves first and in however many pieces."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.consumer import Batch, Result
from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import TraceMemory
from grafter.core.memory_blobs import encode_trace
from grafter.core.model import UnixNano, guest_key
from grafter.core.policy import SECOND, GraftPolicy, Mode
from grafter.otlp.from_json import Oddities, trace_request_from_json
from grafter.otlp.reading import read_spans
from grafter.store.model import Claim, Memory, Settlement
from tests.guests.realtime.hand import HOST, MS, T0, TRACE, Call, document
from tests.processor.conftest import Open
from tests.rig import START, Peer, Rig, rig

CALL = bytes.fromhex(TRACE)
ANCHOR = (2).to_bytes(8, "big")
SUMS = ("grafter.app_ms", "grafter.openai_ms", "grafter.unknown_ms")
TOTALS = (1110.0, 2490.0, 0.0)
"""Greeting 0.5 (0.1 the app's), a plain answer 0.9, one with a tool 2.2 (the tool 1.0, the app 0.01)."""
SENTENCES = {
    "grafter.greeting.sentence": [
        "heard the greeting 0.50 s after the session began: 0.10 your app, 0.40 the model",
    ],
    "grafter.caller_wait.sentence": [
        "waited 0.90 s: 0.50 the voice detector, 0.40 the model",
        "waited 2.20 s: 0.50 the voice detector, 0.69 the model in two answers, 1.00 your tool find, 0.01 your app",
    ],
}


def call() -> Call:
    """A greeting, a plain answer, and an answer after a tool."""
    made = Call().session().ask(100).created(150, "hello").sound(500, "hello").done(900, "hello")
    made.spoke(3000, 4000, "u1").created(4050, "r").sound(4400, "r").done(4900, "r")
    made.spoke(6000, 7000, "u2").created(7050, "asks").asked_tool(7300, "asks", "call_1")
    made.done(7350, "asks", output=[made.tool_item("call_1")]).handed_back(8300, "call_1").ask(8310)
    return made.created(8350, "tells").sound(8700, "tells").done(9200, "tells").ended(12_000)


def rows(made: Call) -> list[dict[str, Any]]:
    """Its posts at the clock of the rig."""
    return [{**row, "at": START / SECOND + float(str(row["at"])) - T0} for row in made.rows]


def host() -> bytes:
    """The app's half: the call's root, and the session under it."""
    return trace_request_from_json(json.dumps(HOST).encode(), Oddities())


async def post_as_it_happens(served: Rig, made: Call) -> None:
    """Each row when it is its time."""
    for row in rows(made):
        ahead = float(row["at"]) - served.now[0] / SECOND
        if ahead > 0:
            await served.pass_time(ahead, step=ahead)
        await served.realtime(row)


def said(peer: Peer) -> dict[str, list[str]]:
    """The sentences that left, by their names, in the order of the spans' times."""
    found: dict[str, list[str]] = {}
    for span, _ in sorted(peer.spans, key=lambda one: one[0].start_time_unix_nano):
        for one in span.attributes:
            if one.key.endswith(".sentence"):
                found.setdefault(one.key, []).append(one.value.string_value)
    return found


def sums_on(span: Span) -> tuple[float, ...]:
    values = {one.key: one.value.double_value for one in span.attributes if one.key in SUMS}
    return tuple(values[key] for key in SUMS if key in values)


def summed(peer: Peer) -> list[tuple[bytes, tuple[float, ...]]]:
    """Each span that has sums, with what they are."""
    return [(span.span_id, sums_on(span)) for span, _ in peer.spans if sums_on(span)]


async def test_the_anchor_has_the_sums_and_each_answer_its_sentence() -> None:
    """Both halves leave together; each wait is counted once, in all and by part."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(host())
        await served.realtime(*rows(call()))
        await served.pass_time(60)
        assert summed(peer) == [(ANCHOR, TOTALS)]
        assert said(peer) == SENTENCES
        assert served.count("grafter_caller_wait_seconds_count", part="total") == 2
        assert served.count("grafter_caller_wait_seconds_sum", part="total") == pytest.approx(3.1)
        assert served.count("grafter_caller_wait_seconds_sum", part="tool") == pytest.approx(1.0)
        assert served.count("grafter_caller_wait_seconds_count", part="tool") == 1
        assert served.count("grafter_greeting_seconds_sum", part="total") == pytest.approx(0.5)
        assert served.count("grafter_synthetic_spans_total") == 0
        came, became = served.books(len(peer.spans))
        assert came == became


async def test_beside_an_anchor_that_has_left_a_summary_has_the_sums_once() -> None:
    """The host was released before the call's events came, and they come twice."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(host())
        await served.pass_time(60)
        await served.realtime(*rows(call()))
        await served.pass_time(60)
        ((own, sums),) = summed(peer)
        assert sums == TOTALS
        (summary,) = [span for span, _ in peer.spans if span.name == "grafter.summary"]
        assert (summary.span_id, summary.parent_span_id) == (own, ANCHOR)
        assert any(one.key == "grafter.synthetic" and one.value.bool_value for one in summary.attributes)
        assert served.count("grafter_synthetic_spans_total") == 1
        await served.realtime(*rows(call()))
        await served.pass_time(60)
        assert summed(peer) == [(own, sums)]
        assert said(peer) == SENTENCES
        assert served.count("grafter_caller_wait_seconds_count", part="total") == 2
        came, became = served.books(len(peer.spans))
        assert came == became


async def test_a_call_that_leaves_in_pieces_is_summed_up_once_when_it_ends() -> None:
    """In stream mode each span leaves as it ends; the sums wait for the session's own."""
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=Mode.STREAM)) as served:
        await served.host(host())
        await post_as_it_happens(served, call())
        await served.pass_time(120)
        assert len(peer.requests) > 2
        ((own, sums),) = summed(peer)
        assert sums == TOTALS
        assert own in {span.span_id for span, _ in peer.spans if span.name == "grafter.summary"}
        assert len(peer.ids) == len(set(peer.ids))
        assert {key: len(found) for key, found in said(peer).items()} == {
            key: len(found) for key, found in SENTENCES.items()
        }
        assert served.count("grafter_caller_wait_seconds_count", part="total") == 2
        came, became = served.books(len(peer.spans))
        assert came == became


async def test_a_call_that_names_no_host_has_the_sums_on_its_session() -> None:
    """There is no anchor: they stand on the span that the call begins with, and no span is made up."""
    peer = Peer()
    async with rig(peer) as served:
        await served.realtime(*[{key: row[key] for key in row if key != "metadata"} for row in rows(call())])
        await served.pass_time(900, step=10)
        (session,) = [span for span, _ in peer.spans if span.name.startswith("realtime_session")]
        assert summed(peer) == [(session.span_id, TOTALS)]
        assert served.count("grafter_synthetic_spans_total") == 0


async def test_two_calls_under_one_anchor_are_summed_up_both() -> None:
    """Each has its greeting and its waits: twice the sums, whether they leave together or one after the other."""
    both = tuple(2 * total for total in TOTALS)
    second = [{**row, "call": "rtc_second"} for row in rows(call())]
    for late in (False, True):
        peer = Peer()
        async with rig(peer) as served:
            await served.host(host())
            await served.realtime(*rows(call()))
            if late:
                await served.pass_time(60)
            await served.realtime(*second)
            await served.pass_time(60)
            assert tuple(sum(column) for column in zip(*(sums for _, sums in summed(peer)), strict=True)) == both
            assert len(summed(peer)) == 1 + late
            assert said(peer)["grafter.greeting.sentence"] == SENTENCES["grafter.greeting.sentence"] * 2
            assert served.count("grafter_greeting_seconds_count", part="total") == 2


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.STREAM])
async def test_what_comes_of_a_call_after_its_session_has_left_is_summed_up_too(mode: Mode) -> None:
    """Its posts stopped for an hour, so it was released with 0.1 + 1.3 s; the answer with the tool comes later."""
    made = rows(call())
    cut = next(at for at, row in enumerate(made) if float(str(row["at"])) > START / SECOND + 5)
    for linked in (True, False):
        peer = Peer()
        async with rig(peer, policy=GraftPolicy(mode=mode)) as served:
            await served.host(host())
            posts = made if linked else [{key: row[key] for key in row if key != "metadata"} for row in made]
            await served.realtime(*posts[:cut])
            await served.pass_time(4000, step=20)
            assert [sums for _, sums in summed(peer)] == [(100, 1300, 0)]
            await served.realtime(*posts[cut:])
            await served.pass_time(4000, step=20)
            assert sorted(sums for _, sums in summed(peer)) == [(100, 1300, 0), (1010, 1190, 0)]
            summaries = [span for span, _ in peer.spans if span.name == "grafter.summary"]
            assert {span.parent_span_id for span in summaries} < {span.span_id for span, _ in peer.spans}
            came, became = served.books(len(peer.spans))
            assert came == became


async def test_an_mcp_servers_time_is_nobodys_though_its_span_has_left() -> None:
    """The tool has left long before the answer that says the wait: 58.5 s, of which the server's 1.0 is nobody's."""
    mcp = {"id": "m1", "type": "mcp_call", "name": "search", "server_label": "s", "arguments": "{}"}
    made = Call().session().spoke(1000, 2000, "u1").created(2050, "r1")
    made.server(2250, "response.output_item.added", response_id="r1", output_index=0, item=mcp)
    made.server(2300, "response.mcp_call_arguments.done", response_id="r1", item_id="m1", arguments="{}")
    made.server(3300, "response.mcp_call.completed", item_id="m1", output_index=0).done(3310, "r1").ask(3320)
    made.created(3350, "r2").sound(60_000, "r2").done(90_000, "r2").ended(99_000)
    peer = Peer()
    async with rig(peer, policy=GraftPolicy(mode=Mode.STREAM)) as served:
        await served.host(host())
        await post_as_it_happens(served, made)
        await served.pass_time(120)
    (sentence,) = said(peer)["grafter.caller_wait.sentence"]
    assert sentence == (
        "waited 58.50 s: 0.50 the voice detector, 56.98 the model in two answers, 1.00 the MCP tool, 0.02 your app"
    )
    ((_, sums),) = summed(peer)
    assert sums == pytest.approx((20, 57_480, 1000), abs=0.01)


def run_of_agents(name: str, under: str, start: int) -> list[dict[str, object]]:
    """A trace of the Agents SDK under this span of the app: one run, which answers at once and takes 400 ms."""
    trace_id, moments = (
        f"trace_{name:0>32}",
        [datetime.fromtimestamp(START / SECOND + at / 1000, UTC).isoformat() for at in (start, start + 400)],
    )
    common = {
        "object": "trace.span",
        "trace_id": trace_id,
        "started_at": moments[0],
        "ended_at": moments[1],
        "error": None,
    }
    agent = {"type": "agent", "name": "desk", "handoffs": [], "tools": [], "output_type": "str"}
    return [
        {"object": "trace", "id": trace_id, "workflow_name": "w", "metadata": {"trace_id": TRACE, "span_id": under}},
        {**common, "id": f"span_{name}1", "parent_id": None, "span_data": agent},
        {**common, "id": f"span_{name}2", "parent_id": f"span_{name}1", "span_data": {"type": "response"}},
    ]


@pytest.mark.parametrize("late", [False, True])
async def test_between_the_answers_of_a_run_under_a_span_that_says_nothing_the_time_is_the_apps(late: bool) -> None:
    """A run of 400 ms with answers from 0 to 100 and from 300 to 350, measured by the app itself: 200 between them are
    the app's, the last 50 nobody's. Its anchor has no attribute, and may have left before."""
    run = run_of_agents("a", ANCHOR.hex(), 7000)
    answer = run[-1]
    for name, first, last in (("2", 0, 100), ("3", 300, 350)):
        begun, ended = (datetime.fromtimestamp(START / SECOND + 7 + at / 1000, UTC).isoformat() for at in (first, last))
        run.append({**answer, "id": f"span_a{name}", "started_at": begun, "ended_at": ended})
    run.remove(answer)
    peer = Peer()
    async with rig(peer) as served:
        await served.host(host())
        if late:
            await served.pass_time(60)
        await served.guest(run)
        await served.pass_time(60)
        assert [sums for _, sums in summed(peer)] == [(200.0, 150.0, 50.0)]


async def test_a_wait_that_the_host_states_is_summed_up_once() -> None:
    """LiveKit says 1,500, of which 500 are the app's and 400 the model's of OpenAI; two runs of agents hang under two
    of its spans, and each of them leaves with it."""
    rows = [
        ("01", "", "agent_session", 0, {}),
        ("02", "01", "agent_turn", 2000, {"lk.e2e_latency": 1.5, "lk.end_of_turn_delay": 0.5, "lk.response.ttft": 0.4}),
        ("03", "02", "one", 2000, {}),
        ("04", "02", "two", 2100, {}),
    ]
    spans = [
        {
            "traceId": TRACE, "spanId": own.rjust(16, "0"), "parentSpanId": parent.rjust(16, "0") if parent else "",
            "name": name, "kind": 1, "startTimeUnixNano": str(START + at * MS),
            "endTimeUnixNano": str(START + 9_000 * MS),
            "attributes": [
                {"key": "gen_ai.operation.name", "value": {"stringValue": "invoke_agent"}},
                {"key": "gen_ai.provider.name", "value": {"stringValue": "openai"}},
                *({"key": key, "value": {"doubleValue": value}} for key, value in said.items()),
            ],
        }
        for own, parent, name, at, said in rows
    ]  # fmt: skip
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "voice"}}]}
    body = json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]})
    peer = Peer()
    async with rig(peer) as served:
        await served.host(trace_request_from_json(body.encode(), Oddities()))
        await served.guest(run_of_agents("a", "03".rjust(16, "0"), 2000))
        await served.guest(run_of_agents("b", "04".rjust(16, "0"), 2100))
        await served.pass_time(900, step=10)
        assert [sums for _, sums in summed(peer)] == [(500.0, 400.0, 600.0)]
        assert served.count("grafter_caller_wait_seconds_count", part="total") == 1


@pytest.mark.parametrize("waits_first", [True, False])
async def test_a_run_and_a_wait_that_may_lie_within_each_other_are_not_added_up(waits_first: bool) -> None:
    """A tool of the call runs an agent, whose 400 ms are reported a minute after the call has left with the sums of its
    waits; or the other way round. What is late has its words, and adds nothing to sums of the other kind."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(host())
        for call_now in (waits_first, not waits_first):
            if call_now:
                await served.realtime(*rows(call()))
            else:
                await served.guest(run_of_agents("a", (2).to_bytes(8, "big").hex(), 7000))
            await served.pass_time(60)
        assert [(own, sums == TOTALS) for own, sums in summed(peer)] == [(ANCHOR, waits_first)]
        assert said(peer) == SENTENCES
        assert not [span for span, _ in peer.spans if span.name == "grafter.summary"]
        assert any(span.name.startswith("invoke_agent") for span, _ in peer.spans)
        came, became = served.books(len(peer.spans))
        assert came == became


@pytest.mark.parametrize("waits_first", [True, False])
async def test_a_run_and_a_call_that_both_come_late_are_not_added_up(waits_first: bool) -> None:
    """The app's half left long ago, without any sums. Then come the call and a run of 400 ms that a tool of the call
    may be, each under a key of its own, a minute apart: the first has a summary, and the second adds nothing to it."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(host())
        await served.pass_time(60)
        for call_now in (waits_first, not waits_first):
            if call_now:
                await served.realtime(*rows(call()))
            else:
                await served.guest(run_of_agents("a", (2).to_bytes(8, "big").hex(), 7000))
            await served.pass_time(60)
        assert [sums == TOTALS for _, sums in summed(peer)] == [waits_first]
        assert [span.name for span, _ in peer.spans].count("grafter.summary") == 1
        assert said(peer) == SENTENCES
        came, became = served.books(len(peer.spans))
        assert came == became


async def test_a_run_and_a_call_that_come_late_and_leave_in_one_moment_are_not_added_up(open_rig: Open) -> None:
    """Both fall due at one tick, and neither has left when the other is put together: one of them has a summary."""
    peer = Peer()
    async with open_rig(peer) as served:
        await served.host(host())
        await served.pass_time(60)
        await served.guest(run_of_agents("a", ANCHOR.hex(), 7000))
        await served.realtime(*rows(call()))
        await served.pass_time(60, step=60)
        assert len(summed(peer)) == 1
        assert [span.name for span, _ in peer.spans].count("grafter.summary") == 1
        assert said(peer) == SENTENCES
        came, became = served.books(len(peer.spans))
        assert came == became


@pytest.mark.parametrize("waits_first", [True, False])
async def test_sums_that_an_older_version_stated_still_stand(open_rig: Open, waits_first: bool) -> None:
    """It remembered what they are of with the guest that it sent: what comes late of the other kind adds nothing."""
    peer = Peer()
    async with open_rig(peer) as served:
        await served.host(host())
        await served.pass_time(60)
        left = TraceMemory(ReleaseReason.LATE_GUEST, UnixNano(served.now[0]), summed="waits" if waits_first else "runs")
        await served.host(host().replace(CALL, b"\x77" * 16))
        await served.pass_time(5)
        later = UnixNano(served.now[0] + 60 * SECOND)
        (claim,) = await served.store.claim(later, 1)
        assert isinstance(claim, Claim)
        memory = Memory(guest_key(f"\0sums:{CALL.hex()}"), encode_trace(left))
        assert await served.store.settle([Settlement(claim, (memory,))], later) == [True]
        for call_now in (not waits_first, waits_first):
            if call_now:
                await served.realtime(*rows(call()))
            else:
                await served.guest(run_of_agents("a", ANCHOR.hex(), 7000))
            await served.pass_time(60)
        assert [sums == TOTALS for _, sums in summed(peer)] == [waits_first]
        assert said(peer) == SENTENCES


class SlowPeer(Peer):
    """Takes what is sent when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = asyncio.Event(), asyncio.Event()
        self.let.set()

    async def export(self, batch: Batch) -> Sequence[Result]:
        self.asked.set()
        await self.let.wait()
        return await super().export(batch)


@pytest.mark.parametrize("open_rig", ["redis"], indirect=True)
@pytest.mark.parametrize("waits_first", [True, False])
async def test_of_two_replicas_the_one_that_began_later_adds_nothing(open_rig: Open, waits_first: bool) -> None:
    """One has a late guest on its way, which its backend has not taken yet, when the other is to send the other one."""
    slow, peer = SlowPeer(), Peer()
    clock = [START]
    async with open_rig(slow, now=clock) as one, open_rig(peer, now=clock) as other:

        async def comes(to: Rig, *, the_call: bool) -> None:
            if the_call:
                await to.realtime(*rows(call()))
            else:
                await to.guest(run_of_agents("a", ANCHOR.hex(), 7000))

        await one.host(host())
        await one.pass_time(60)
        slow.asked.clear()
        slow.let.clear()
        await comes(one, the_call=waits_first)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(one.pass_time(8))
            await slow.asked.wait()
            await comes(other, the_call=not waits_first)
            # The lease of the first, which is ten seconds, has not ended.
            await other.pass_time(8)
            assert len(peer.requests) == 1
            assert summed(peer) == []
            slow.let.set()
        assert [sums == TOTALS for _, sums in summed(slow)] == [waits_first]


async def test_a_trace_without_a_guest_is_left_as_it_is() -> None:
    """Nobody decodes it, and nothing is added."""
    peer = Peer()
    async with rig(peer) as served:
        await served.host(host())
        await served.pass_time(60)
        assert summed(peer) == []
        assert {one.key for span, _ in peer.spans for one in span.attributes} == set()


async def test_grafting_files_says_the_same() -> None:
    """``grafter graft`` writes what the server sends, in the numbers of its own clock."""
    body = trace_request_from_json(await asyncio.to_thread(document, call()), Oddities())
    stated = [read.step.attributes for read in read_spans([body])]
    for key, sentences in SENTENCES.items():
        assert sorted(str(one[key]) for one in stated if key in one) == sorted(sentences)
    (sums,) = [tuple(one[key] for key in SUMS) for one in stated if SUMS[0] in one]
    assert sums == TOTALS
