"""Hosted sessions against a stand-in of the API: a real store and processor, and a clock that the test turns."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from yarl import URL

from grafter.core.model import UnixNano, guest_span_id
from grafter.core.policy import HOUR, SECOND, GraftPolicy, Mode, Waits
from grafter.core.retry import RetryPolicy
from grafter.errors import RejectedError, UnavailableError
from grafter.guests.sessions.intake import read_session
from grafter.guests.sessions.poll_state import Progress
from grafter.receiver import session_poll
from grafter.receiver.explaining import Explainer
from grafter.receiver.openai_api import MAX_ANSWER_BYTES, Account, Reply, session_url
from grafter.receiver.outcomes import UpstreamError
from grafter.receiver.session_poll import Pulled
from grafter.receiver.sessions import PullRequests, pulling
from grafter.store.base import TaskStore
from grafter.store.redis.opening import opened
from tests import agents_server
from tests.agents_server import KEY, PROMPT, SESSION, AgentsServer, session, trace, trace_id, turn_id
from tests.rig import START, Peer, Rig, rig
from tests.store.redis.servers import server as redis_server

HOST = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")
LINK = {"trace_id": HOST.hex()}
QUICK = RetryPolicy(initial_interval=0.001, max_interval=0.001, randomization_factor=0.0)


class Claims:
    """A store of tasks that tells when it was asked what is due."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._asked = asyncio.Condition()

    async def claim_tasks(self, *asked: Any) -> Any:
        found = await self._store.claim_tasks(*asked)
        async with self._asked:
            self._asked.notify_all()
        return found

    async def rounds(self, count: int) -> None:
        """Return when it was asked so many times more."""
        async with asyncio.timeout(30), self._asked:
            for _ in range(count):
                await self._asked.wait()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@dataclass
class Bench:
    """grafter's rooms from the puller to the peer."""

    rig: Rig
    peer: Peer
    server: AgentsServer
    pulls: PullRequests
    claims: Claims

    async def pull(self) -> Any:
        """Ask, and wait until all pages were read once; nothing may hang."""
        async with asyncio.timeout(30):
            return await self.pulls.pull(SESSION)

    async def later(self, seconds: float) -> None:
        """Turn the clock; wait for the look that falls due by it."""
        asked = len(self.server.asked)
        self.rig.now[0] += int(seconds * SECOND)
        await self.server.until_asked(asked + 2)
        await self.idle()

    async def idle(self) -> None:
        """Return when no look is being done."""
        async with asyncio.timeout(30):
            await self.pulls.idle()

    def spans(self) -> list[Span]:
        return [each for each, _ in self.peer.spans]

    def count(self, name: str, **labels: str) -> float:
        return self.rig.count(name, **labels)


@asynccontextmanager
async def bench(
    policy: GraftPolicy | None = None,
    metadata: Mapping[str, str] | None = LINK,
    retry: RetryPolicy = QUICK,
    directory: Path | None = None,
) -> AsyncIterator[Bench]:
    peer = Peer()
    async with agents_server.serving() as server, rig(peer, policy=policy, directory=directory) as rooms:
        server.sessions[SESSION] = session(metadata=metadata)
        claims = Claims(rooms.store)
        async with pulling(
            claims,
            rooms.processor,
            {"default": Account(KEY, server.base_url)},
            rooms.metrics,
            rooms.policy,
            clock=lambda: rooms.now[0],
            retry=retry,
            tick_seconds=0.005,
        ) as pulls:
            yield Bench(rooms, peer, server, pulls, claims)


@pytest.fixture
async def at_work() -> AsyncIterator[Bench]:
    async with bench() as rooms:
        yield rooms


def host_request() -> bytes:
    """A root, and the span under which guests hang."""
    begin = agents_server.BEGAN * SECOND
    common = {"trace_id": HOST, "start_time_unix_nano": begin, "end_time_unix_nano": begin + 100 * SECOND}
    root = Span(span_id=bytes([1] * 8), name="inbound call", **common)
    anchor = Span(span_id=bytes([2] * 8), parent_span_id=bytes([1] * 8), name="gen_ai.realtime.session", **common)
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[root, anchor])])]
    ).SerializeToString()


TREE = """\
inbound call []
  gen_ai.realtime.session []
    agent Reception [openai]
      generation [openai]
      mcp_call [openai]
    agent Reception [openai]
      generation [openai]
      mcp_call [openai]"""


async def test_all_turns_of_a_session_hang_under_the_host_that_its_metadata_names(at_work: Bench) -> None:
    """Two turns, one guest, one tree; ids by the rule, from the spans' own ids in lower case; nothing of content."""
    at_work.server.traces = [trace(1), trace(2)]
    pulled = await at_work.pull()
    assert (pulled.traces, pulled.skipped, pulled.linked) == (2, 0, True)
    await at_work.rig.host(host_request())
    await at_work.rig.pass_time(17)
    assert at_work.peer.tree(HOST) == TREE
    agent = next(each for each in at_work.spans() if each.name == "agent Reception")
    told = {a.key: a.value.string_value for a in agent.attributes}
    assert told["grafter.guest.trace_id"] == trace_id(1)
    assert told["grafter.guest.span_id"] == "0000000100000001"
    assert agent.span_id == guest_span_id(trace_id(1), "0000000100000001")
    assert told["agent.name"] == "Reception"
    assert told["grafter.source"] == "sessions"
    assert orjson.loads(told["openai.agents.trace.metadata"]) == LINK
    assert all(PROMPT.encode() not in request for request in at_work.peer.requests)
    assert at_work.server.odd == []
    at_work.rig.accepted += 6
    came, became = at_work.rig.books(len(at_work.spans()))
    assert came == became
    assert at_work.count("grafter_expected_guests_total", source="sessions", outcome="joined") == 1


async def test_explain_follows_a_session_by_its_id(at_work: Bench) -> None:
    """Before anything came, asked for and not published, held with its host, and left."""
    asking = Explainer(
        at_work.rig.store, at_work.rig.policy, lambda: at_work.rig.now[0], pulls=[("session", "default")]
    )
    nothing = await asking.explain(SESSION)
    assert "nobody asked for its traces" in str(nothing["lines"])
    await at_work.rig.host(host_request())
    await at_work.pull()
    empty = await asking.explain(SESSION)
    assert empty["filed_under"] == HOST.hex()
    assert empty["pulls"] == [
        {"project": "default", "traces": 0, "failures": 0, "answer": "ok", "next_in_seconds": 3.0}
    ]
    assert f"end {SESSION}" in str(empty["held"])
    at_work.server.traces = [trace(1)]
    await at_work.later(3)
    assert (await asking.explain(SESSION))["pulls"][0]["traces"] == 1  # type: ignore[index]
    await at_work.rig.pass_time(17)
    left = await asking.explain(SESSION)
    (guest,) = left["guests"]  # type: ignore[misc,attr-defined]
    assert (guest["guest"], guest["source"], guest["host"], guest["spans"]) == (SESSION, "sessions", HOST.hex(), 3)
    assert (await asking.explain(HOST.hex()))["guests"] == left["guests"]


async def test_a_host_waits_until_what_an_event_promised_is_read(at_work: Bench) -> None:
    """The list is empty when the event comes: the host is kept, and leaves soon after the look that finds the turn."""
    await at_work.rig.host(host_request())
    await at_work.pull()
    await at_work.rig.pass_time(2.5)
    at_work.server.traces = [trace(1)]
    await at_work.later(1)
    await at_work.rig.pass_time(8)
    assert at_work.peer.spans == []
    await at_work.rig.pass_time(3)
    assert len(at_work.peer.tree(HOST).splitlines()) == 5
    assert at_work.count("grafter_released_traces_total", reason="complete") == 1


async def test_a_later_turn_of_the_session_opens_the_guest_again(at_work: Bench) -> None:
    """The second event's pages are not read yet: the guest that was whole is not whole any more."""
    at_work.server.traces = [trace(1)]
    await at_work.pull()
    await at_work.rig.host(host_request())
    await at_work.rig.pass_time(5)
    await at_work.pull()
    await at_work.rig.pass_time(25)
    assert at_work.peer.spans == []
    await at_work.rig.pass_time(20)
    assert at_work.count("grafter_released_traces_total", reason="guest_timeout") == 1


async def test_an_event_that_found_nothing_is_not_waited_for_when_the_next_one_did(at_work: Bench) -> None:
    """A turn begins and grafter is told; it ends, and grafter is told again: its trace keeps both promises."""
    await at_work.pulls.request(SESSION)
    await at_work.server.until_asked(2)
    await at_work.idle()
    at_work.rig.now[0] += 5 * SECOND
    at_work.server.traces = [trace(1)]
    assert (await at_work.pull()).traces == 1
    await at_work.rig.host(host_request())
    await at_work.rig.pass_time(17)
    assert at_work.peer.tree(HOST).count("agent Reception") == 1


async def test_a_trace_that_comes_after_its_host_has_left_is_joined_late(at_work: Bench) -> None:
    """The session went with the host, without any span; the turn hangs where it would have hung, and counts once."""
    await at_work.rig.host(host_request())
    await at_work.pull()
    await at_work.rig.pass_time(45)
    assert len(at_work.spans()) == 2
    at_work.server.traces = [trace(1), trace(2)]
    await at_work.later(1)
    await at_work.rig.pass_time(10)
    assert at_work.peer.tree(HOST) == TREE
    assert at_work.count("grafter_expected_guests_total", source="sessions", outcome="late") == 1
    assert at_work.count("grafter_expected_guests_total") == 1


async def test_pages_are_asked_for_one_behind_the_other(at_work: Bench) -> None:
    """The cursor is the last trace of the page before; the official parameters and nothing else."""
    at_work.server.most = 2
    at_work.server.traces = [trace(number) for number in range(1, 6)]
    assert (await at_work.pull()).traces == 5
    query = "limit=100&order=asc"
    assert at_work.server.asked == [
        SESSION,
        f"{SESSION}/traces?{query}",
        f"{SESSION}/traces?{query}&after={turn_id(2)}",
        f"{SESSION}/traces?{query}&after={turn_id(4)}",
    ]


async def test_an_event_goes_on_behind_what_is_known(at_work: Bench) -> None:
    at_work.server.traces = [trace(1)]
    await at_work.pull()
    at_work.server.traces.append(trace(2))
    pulled = await at_work.pull()
    assert pulled.traces == 1
    assert at_work.server.asked[-1] == f"{SESSION}/traces?limit=100&order=asc&after={turn_id(1)}"


async def test_a_trace_that_is_published_late_is_found_by_a_later_look(at_work: Bench) -> None:
    """Turn 1 comes out behind turn 2, before the cursor; an update of turn 2 brings its new span and no repeat."""
    await at_work.rig.host(host_request())
    at_work.server.traces = [trace(2)]
    await at_work.pull()
    await at_work.rig.pass_time(20)
    assert len(at_work.spans()) == 5
    fuller = trace(2, tokens=99)
    spans = fuller["otlp"]["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans.append(agents_server.span(4, 2, "generation", 1, 3, 4))
    at_work.server.traces = [trace(1), fuller]
    await at_work.later(10)
    await at_work.rig.pass_time(20)
    assert at_work.peer.tree(HOST) == TREE + "\n      generation [openai]"
    assert len(at_work.peer.ids) == len(set(at_work.peer.ids))
    assert at_work.count("grafter_guest_items_total", source="sessions", kind="trace") == 3


async def test_who_waits_hears_also_when_the_session_was_taken_over_meanwhile(at_work: Bench) -> None:
    """The lease of a poll ends under it (the clock jumps); the next poll has begun before the first one notices."""
    at_work.server.traces = [trace(1)]
    begun, let, asked = asyncio.Event(), asyncio.Event(), 0
    api = at_work.pulls.pollers["default"].api
    get = api.get

    async def slow(url: URL) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            begun.set()
            await let.wait()
        return await get(url)

    api.get = slow  # type: ignore[method-assign]
    async with asyncio.timeout(30):
        waiting = asyncio.ensure_future(at_work.pull())
        # Not before: a poll that begins after the jump loses nothing by it.
        await begun.wait()
        at_work.rig.now[0] += 11 * SECOND
        await at_work.server.until_asked(2)
        let.set()
        assert (await waiting).linked


class Busy:
    """A store of tasks for a process that has no place free: it puts, and others do."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def claim_tasks(self, *asked: Any) -> Any:
        return []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@dataclass
class Replicas:
    """Two processes' rooms over one Redis: the first is busy, so that the second does what is asked of either."""

    server: AgentsServer
    store: TaskStore
    waiting: PullRequests
    doing: PullRequests

    async def put_at(self) -> int:
        task = await self.store.find_task("session", f"default/{SESSION}")
        return 0 if task is None else task.put_at


@asynccontextmanager
async def replicas() -> AsyncIterator[Replicas]:
    with redis_server() as redis:
        async with agents_server.serving() as server, rig() as rooms, AsyncExitStack() as stack:
            server.sessions[SESSION] = session(metadata=LINK)
            accounts = {"default": Account(KEY, server.base_url)}
            pulls = []
            for wrap in (Busy, Claims):
                shared = await stack.enter_async_context(
                    opened(
                        redis.url,
                        waits=Waits(),
                        max_bytes=1 << 30,
                        max_trace_bytes=1 << 26,
                        lease_ns=10 * SECOND,
                        guests_apart=False,
                    )
                )
                own = pulling(
                    wrap(shared),  # type: ignore[arg-type]
                    rooms.processor,
                    accounts,
                    rooms.metrics,
                    rooms.policy,
                    retry=QUICK,
                    tick_seconds=0.02,
                )
                pulls.append(await stack.enter_async_context(own))
            yield Replicas(server, shared, *pulls)


async def test_who_waits_hears_what_another_process_read() -> None:
    """Every time, also of a session that it asked for before: what was new, and what cannot be read."""
    async with replicas() as both, asyncio.timeout(60):
        both.server.traces = [trace(1), trace(2), {**trace(3), "otlp": 7}]
        assert await both.waiting.pull(SESSION) == Pulled(SESSION, "default", 2, 1, linked=True)
        both.server.traces.append(trace(4))
        assert (await both.waiting.pull(SESSION)).traces == 1
        assert (await both.waiting.pull(SESSION)).traces == 0


async def test_who_waits_hears_what_another_process_was_refused() -> None:
    """A session that OpenAI does not know, asked for twice, and a key that may not read it."""
    async with replicas() as both, asyncio.timeout(60):
        for _ in range(2):
            with pytest.raises(UpstreamError) as unknown:
                await both.waiting.pull("sess_other")
            assert unknown.value.reason == Reply.NOT_FOUND
        both.server.answer = lambda _: web.Response(status=401)
        with pytest.raises(UpstreamError, match=r"api\.traces\.read") as refused:
            await both.waiting.pull(SESSION)
        assert refused.value.reason == Reply.UNAUTHORIZED


async def test_an_answer_to_an_earlier_question_is_not_taken_for_this_one() -> None:
    """Two ask, one after the other, while a look is held up: what it comes to is the first one's answer, and the
    session is read once more for the second."""
    async with replicas() as both, asyncio.timeout(60):
        server = both.server
        server.gate.clear()
        first = asyncio.ensure_future(both.doing.pull(SESSION))
        await server.until_asked(2)
        put_at = await both.put_at()
        second = asyncio.ensure_future(both.waiting.pull(SESSION))
        while await both.put_at() == put_at:
            pass
        server.traces = [trace(1)]
        server.gate.set()
        assert (await first).traces == 1
        server.traces.append(trace(2))
        assert (await second).session == SESSION
        assert len([one for one in server.asked if "/" not in one]) == 2


async def test_looks_grow_apart_and_end_with_the_memory_of_the_host(at_work: Bench) -> None:
    """A day of looks is a dozen of them, and then nothing of the session is left to do."""
    at_work.server.traces = [trace(1)]
    await at_work.pull()
    for offset in (30, 120, 600, 3600, 4 * 3600, 12 * 3600, 24 * 3600):
        behind = START + offset * SECOND - at_work.rig.now[0]
        at_work.rig.now[0] += behind - 1
        await at_work.claims.rounds(2)
        await at_work.later(1e-9)
    assert at_work.count("grafter_session_looks_total", outcome="nothing") == 7
    assert at_work.count("grafter_session_looks_total") == 8
    assert await at_work.rig.store.claim_tasks("session", UnixNano(at_work.rig.now[0] + 1000 * HOUR), 9) == []


async def test_in_stream_mode_a_turn_leaves_when_its_anchor_is_known() -> None:
    """Behind the host, which has left; the part that only opens the guest is no span and counts for none."""
    async with bench(policy=GraftPolicy(mode=Mode.STREAM)) as rooms:
        await rooms.rig.host(host_request())
        await rooms.rig.pass_time(1)
        rooms.server.traces = [trace(1), trace(2)]
        await rooms.pull()
        await rooms.rig.pass_time(1)
        assert rooms.peer.tree(HOST) == TREE
        assert rooms.count("grafter_expected_guests_total", source="sessions") == 1
        assert rooms.count("grafter_synthetic_spans_total") == 0


async def test_a_session_without_a_link_leaves_as_a_trace_of_its_own() -> None:
    async with bench(metadata={"customer": "acme"}) as rooms:
        rooms.server.traces = [trace(1), trace(2)]
        pulled = await rooms.pull()
        assert not pulled.linked
        await rooms.rig.pass_time(40)
        assert len({each.trace_id for each in rooms.spans()}) == 1
        assert len(rooms.spans()) == 6


@pytest.mark.parametrize(
    ("status", "reply"), [(401, Reply.UNAUTHORIZED), (403, Reply.UNAUTHORIZED), (302, Reply.REFUSED)]
)
async def test_a_refusal_is_said_and_tried_again_rarely(
    at_work: Bench, caplog: pytest.LogCaptureFixture, status: int, reply: Reply
) -> None:
    """A key that may not, or an answer that sends elsewhere: nothing is asked of that place, and the task stays."""
    elsewhere = {"Location": f"{at_work.server.base_url}/agents/sessions/other"}
    at_work.server.answer = lambda _: web.Response(status=status, headers=elsewhere)
    with pytest.raises(UpstreamError) as raised:
        await at_work.pull()
    assert raised.value.reason == reply
    assert at_work.server.asked == [SESSION]
    assert KEY not in caplog.text
    assert "traces cannot be read" in caplog.text
    await at_work.idle()
    at_work.server.answer = lambda _: None
    at_work.server.traces = [trace(1)]
    await at_work.later(901)
    assert at_work.count("grafter_guest_items_total", source="sessions", kind="span") == 3


@pytest.mark.parametrize("status", [400, 404])
async def test_a_cursor_that_openai_knows_no_more_is_given_up(at_work: Bench, status: int) -> None:
    """The session is there, so it is not done; what was stored before is not stored again."""
    at_work.server.traces = [trace(1)]
    await at_work.pull()
    at_work.server.answer = lambda r: web.Response(status=status) if "after" in r.query else None
    at_work.server.traces = [trace(1), trace(2)]
    with pytest.raises(UpstreamError) as raised:
        await at_work.pull()
    assert raised.value.reason == Reply.REFUSED
    await at_work.idle()
    await at_work.later(901)
    assert "after" not in at_work.server.asked[-1]
    assert at_work.count("grafter_guest_items_total", source="sessions", kind="trace") == 2


async def test_a_session_that_openai_does_not_know_is_done(at_work: Bench) -> None:
    at_work.server.sessions.clear()
    with pytest.raises(UpstreamError) as raised:
        await at_work.pull()
    assert raised.value.reason == Reply.NOT_FOUND
    asked = len(at_work.server.asked)
    at_work.rig.now[0] += 11 * SECOND
    async with asyncio.timeout(30):
        while await at_work.rig.store.find_task("session", f"default/{SESSION}") is not None:
            await at_work.claims.rounds(1)
    assert len(at_work.server.asked) == asked


async def test_a_refusal_is_told_however_briefly_a_host_is_remembered() -> None:
    """It is not tried again then, and who asked learns why instead of asking once more."""
    async with bench(GraftPolicy(waits=Waits(remember=60 * SECOND))) as rooms:
        rooms.server.answer = lambda _: web.Response(status=401)
        with pytest.raises(UpstreamError) as raised:
            await rooms.pull()
        assert raised.value.reason == Reply.UNAUTHORIZED
        assert len(rooms.server.asked) == 1


async def test_a_limit_is_kept_for_the_whole_project(at_work: Bench) -> None:
    """Retry-After holds for every session of the project; then it goes on at the page where it stood."""
    at_work.server.most = 1
    at_work.server.traces = [trace(1), trace(2)]
    at_work.server.sessions["other"] = session("other")
    limited = {"Retry-After": "7"}

    def answer(request: web.Request) -> web.Response | None:
        late = request.query.get("after") == turn_id(1) and at_work.rig.now[0] < START + 7 * SECOND
        return web.Response(status=429, headers=limited) if late else None

    at_work.server.answer = answer
    waiting = asyncio.ensure_future(at_work.pull())
    await at_work.server.until_asked(3)
    await at_work.idle()
    await at_work.pulls.request("other")
    at_work.rig.now[0] += 6 * SECOND
    await at_work.claims.rounds(2)
    assert len(at_work.server.asked) == 3
    at_work.rig.now[0] += 2 * SECOND
    assert (await waiting).traces == 2
    assert f"{SESSION}/traces?limit=100&order=asc&after={turn_id(1)}" in at_work.server.asked[3:]
    assert sum("after=" in asked for asked in at_work.server.asked if asked.startswith(SESSION)) == 2


@pytest.mark.parametrize("status", [500, 503, 408])
async def test_an_api_in_trouble_is_tried_again(at_work: Bench, status: int) -> None:
    """The caller waits on; the clock is turned past each backoff."""
    at_work.server.traces = [trace(1)]
    at_work.server.answer = lambda _: web.Response(status=status) if len(at_work.server.asked) < 4 else None
    waiting = asyncio.ensure_future(at_work.pull())
    for asked in (1, 2, 3):
        await at_work.server.until_asked(asked)
        await at_work.idle()
        at_work.rig.now[0] += SECOND
    assert (await waiting).traces == 1
    assert at_work.count("grafter_session_requests_total", outcome="unavailable") == 3


async def test_nobody_at_the_other_end_is_no_end() -> None:
    async with bench(retry=RetryPolicy(randomization_factor=0.0)) as rooms:
        rooms.server.traces = [trace(1)]

        def answer(request: web.Request) -> web.Response:
            assert request.transport is not None
            request.transport.close()
            return web.Response()

        rooms.server.answer = answer
        waiting = asyncio.ensure_future(rooms.pull())
        await rooms.server.until_asked(1)
        await rooms.idle()
        rooms.server.answer = lambda _: None
        rooms.rig.now[0] += 6 * SECOND
        assert (await waiting).traces == 1
        assert rooms.count("grafter_session_requests_total", outcome="failed") == 1


async def test_who_gives_no_answer_does_not_take_every_place() -> None:
    """A hundred sessions of a project whose API is gone: each place learns it once, then others have their turn."""
    async with bench(retry=RetryPolicy(initial_interval=10, randomization_factor=0.0)) as at_work:

        def gone(request: web.Request) -> None:
            assert request.transport is not None
            request.transport.close()

        at_work.server.answer = gone
        sessions = [f"s{number}" for number in range(100)]
        for one in sessions:
            at_work.server.sessions[one] = session(one)
            await at_work.pulls.request(one)
        await at_work.claims.rounds(10)
        await at_work.idle()
        silent = len(at_work.server.asked)
        assert silent <= 8
        at_work.server.answer = lambda _: None
        at_work.rig.now[0] += 11 * SECOND
        await at_work.server.until_asked(silent + 2 * len(sessions))
        assert {each.partition("/")[0] for each in at_work.server.asked[silent:]} == set(sessions)


async def test_an_answer_of_16_mib_is_read(at_work: Bench) -> None:
    """As many spans as OpenAI lets into one answer, gzipped on the wire."""
    turns = []
    for number in range(1, 17):
        one = trace(number)
        one["otlp"]["resourceSpans"][0]["resource"]["attributes"].append(
            agents_server.attribute("pad", "x" * 1_030_000)
        )
        turns.append(one)
    body = orjson.dumps({"object": "list", "data": turns, "has_more": False, "last_id": turns[-1]["id"]})
    assert 15 << 20 < len(body) < MAX_ANSWER_BYTES

    def answer(request: web.Request) -> web.Response | None:
        if "limit" not in request.query:
            return None
        packed = gzip.compress(body, 1)
        return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    at_work.server.answer = answer
    pulled = await at_work.pull()
    assert pulled.traces == 16


async def test_a_large_session_is_read_beside_the_loop(at_work: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 MiB of it take a second and a half, in which every other door would stand still."""
    session_answer = session(metadata=LINK)
    session_answer["pad"] = [{"a": {}}] * 200_000
    at_work.server.sessions[SESSION] = session_answer
    readers = []

    def read(*told: Any) -> Any:
        readers.append(threading.current_thread())
        return read_session(*told)

    monkeypatch.setattr(session_poll, "read_session", read)
    assert (await at_work.pull()).linked
    assert readers
    assert threading.main_thread() not in readers


@pytest.mark.parametrize("how", ["status", "length", "bomb", "json", "shape"])
async def test_one_trace_that_cannot_be_read_costs_no_other(at_work: Bench, how: str) -> None:
    """Smaller pages close in on it, the list of turns says its id, and it is counted."""
    at_work.server.traces = [trace(number) for number in range(1, 10)]

    def answer(request: web.Request) -> web.Response | None:
        if not request.path.endswith("/traces"):
            return None
        after = int(request.query.get("after", "turn_0000")[5:])
        if not after < 4 <= after + int(request.query["limit"]):
            return None
        match how:
            case "status":
                return web.Response(status=413)
            case "length":
                return web.Response(body=b"[" * (MAX_ANSWER_BYTES + 1))
            case "bomb":
                packed = gzip.compress(b" " * (MAX_ANSWER_BYTES * 4), 9)
                return web.Response(body=packed, headers={"Content-Encoding": "gzip"})
            case "json":
                return web.Response(body=b'{"data": [{"id"')
        return web.json_response({"data": "nothing"})

    at_work.server.answer = answer
    pulled = await at_work.pull()
    assert (pulled.traces, pulled.skipped) == (8, 1)
    kind = "malformed" if how in ("json", "shape") else "too_large"
    assert at_work.count("grafter_guest_items_total", source="sessions", kind=kind) == 1


async def test_without_a_list_of_turns_a_trace_in_the_way_does_not_end_the_session(at_work: Bench) -> None:
    """The first trace is stored, the second cannot be read, and nothing says its id: later, it may be readable."""
    at_work.server.traces = [trace(number) for number in range(1, 4)]
    blocked = True

    def answer(request: web.Request) -> web.Response | None:
        if request.path.endswith("/turns"):
            return web.Response(status=404)
        first = int(request.query.get("after", "turn_0000")[5:]) + 1
        last = first + int(request.query.get("limit", "0")) - 1
        return web.Response(status=413) if blocked and first <= 2 <= last else None

    at_work.server.answer = answer
    with pytest.raises(UpstreamError) as refused:
        await at_work.pull()
    assert refused.value.reason == Reply.REFUSED
    await at_work.idle()
    blocked = False
    await at_work.later(900)
    assert at_work.count("grafter_guest_items_total", source="sessions", kind="trace") == 3


async def test_odd_entries_cost_no_page(at_work: Bench) -> None:
    """Null, a string, no id, no OTLP, and spans without an id, beside a good trace."""
    odd = trace(7)
    odd["otlp"]["resourceSpans"][0]["scopeSpans"][0]["spans"] += [{"name": "nameless"}, None, {"spanId": "0" * 16}]
    data = [None, "trace", {"id": 3}, {"id": "turn_0005", "otlp": None}, trace(6), odd]
    at_work.server.answer = lambda r: (
        web.json_response({"data": data, "has_more": False}) if "limit" in r.query else None
    )
    pulled = await at_work.pull()
    assert (pulled.traces, pulled.skipped) == (2, 4)
    assert at_work.count("grafter_guest_items_total", source="sessions", kind="odd_span") == 2


async def test_a_list_that_does_not_move_is_not_read_for_ever(at_work: Bench) -> None:
    """``has_more`` for ever, with the same last id."""
    told = {"data": [trace(1)], "has_more": True, "last_id": turn_id(1)}
    at_work.server.answer = lambda r: web.json_response(told) if "limit" in r.query else None
    assert (await at_work.pull()).traces == 1


async def test_a_list_that_goes_in_a_circle_is_read_once(at_work: Bench) -> None:
    """Behind the second trace comes the first again."""
    at_work.server.traces = [trace(1), trace(2)]

    def answer(request: web.Request) -> web.Response | None:
        if "limit" not in request.query:
            return None
        number = 2 if request.query.get("after") == turn_id(1) else 1
        return web.json_response({"data": [trace(number)], "has_more": True, "last_id": turn_id(number)})

    at_work.server.answer = answer
    assert (await at_work.pull()).traces == 2
    assert len(at_work.server.asked) <= 4


async def test_an_empty_page_with_a_next_one_is_not_the_end(at_work: Bench) -> None:
    """All traces of the first page are unpublished, and OpenAI says that there are more."""

    def answer(request: web.Request) -> web.Response | None:
        if "limit" not in request.query or "after" in request.query:
            return None
        return web.json_response({"data": [], "has_more": True, "last_id": turn_id(1)})

    at_work.server.answer = answer
    at_work.server.traces = [trace(1), trace(2)]
    assert (await at_work.pull()).traces == 1


async def test_a_store_that_is_full_is_tried_again(tmp_path: Path) -> None:
    """Nothing is skipped for it: the cursor only moves behind what is stored."""
    peer = Peer()
    async with agents_server.serving() as server, rig(peer, directory=tmp_path, max_bytes=1000) as rooms:
        server.sessions[SESSION] = session(metadata=LINK)
        server.traces = [trace(1)]
        accounts = {"default": Account(KEY, server.base_url)}
        async with pulling(
            rooms.store, rooms.processor, accounts, rooms.metrics, rooms.policy, clock=lambda: rooms.now[0]
        ) as pulls:
            await pulls.request(SESSION)
            await server.until_asked(2)
            async with asyncio.timeout(30):
                await pulls.idle()
        (task,) = await rooms.store.claim_tasks("session", UnixNano(START + 100 * SECOND), 1)
        assert task.due > START
        progress = Progress.decode(task.blob)
        assert (progress.opened, progress.after, progress.seen, progress.failures) == (True, "", (), 1)
        assert rooms.count("grafter_receiver_accepted_spans_total") == 0


@pytest.mark.parametrize("hostile", ["", ".", "..", "a/b", "../admin", "a?b", "a%2fb", "a" * 257, "ä", "a b", "a\n"])
async def test_an_id_that_is_none_asks_nothing(at_work: Bench, hostile: str) -> None:
    """Whatever an event says, no request leaves the path below /agents/sessions."""
    with pytest.raises(RejectedError):
        await at_work.pulls.request(hostile)
    assert at_work.server.asked == []


def test_an_address_stays_under_its_base() -> None:
    assert (
        str(session_url("https://api.openai.com/v1/", "a/../b"))
        == "https://api.openai.com/v1/agents/sessions/a%2F..%2Fb"
    )
    under = session_url("http://gateway/openai?version=2", "s", "traces", {"after": "a&b"})
    assert str(under) == "http://gateway/openai/agents/sessions/s/traces?version=2&after=a%26b"


async def test_a_project_without_a_key_asks_nothing(at_work: Bench, caplog: pytest.LogCaptureFixture) -> None:
    await at_work.pulls.request(SESSION, "other")
    assert "has no api_key" in caplog.text
    with pytest.raises(UnavailableError):
        await at_work.pulls.pull(SESSION, "other")
    assert at_work.server.asked == []
