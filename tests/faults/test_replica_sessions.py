"""Webhooks and hosted sessions at several grafters over one Redis: whoever hears of something, one of them does it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests import agents_server
from tests.agents_server import KEY, SESSION, AgentsServer, session, trace, turn_id
from tests.e2e.conftest import to_grpc
from tests.e2e.process import DEADLINE, Grafter
from tests.e2e.sink import Sink, listening
from tests.faults.replica_books import balanced
from tests.store.redis.servers import Server, server, waited
from tests.webhooks import SECRET, delivery, envelope, span, trace_object

HOST = "0af7651916cd43dd8448eb211c80319c"
GUEST = "trace_" + "c" * 32
LEASE_SECONDS = 5.0
"""A process that is not let run for so long loses what it has; on a busy machine two seconds of that happen."""
WAITS = {"after_root": "500ms", "guest_quiet": "300ms", "for_guest": "1s", "idle": "2s"}


@pytest.fixture
def redis() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
async def agents() -> AsyncIterator[AgentsServer]:
    async with agents_server.serving() as running:
        running.sessions[SESSION] = session(metadata={"trace_id": HOST})
        yield running


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with listening() as backend:
        yield backend


@asynccontextmanager
async def replicas(
    home: Path, redis: Server, sink: Sink, agents: AgentsServer, count: int = 2, lease: float = LEASE_SECONDS
) -> AsyncIterator[list[Grafter]]:
    project = {"api_key": KEY, "base_url": agents.base_url, "webhook_secrets": [SECRET]}
    async with AsyncExitStack() as stack:
        running = []
        for number in range(count):
            directory = home / str(number)
            directory.mkdir()
            store = {"redis": {"url": redis.url}, "lease": f"{lease:g}s"}
            exporters = {"otlp_grpc/sink": to_grpc(sink)}
            one = Grafter(directory, exporters, WAITS, {"projects": {"default": project}}, store)
            stack.push_async_callback(one.close)
            running.append(one)
        await asyncio.gather(*(one.start() for one in running))
        yield running


async def deliver(grafter: Grafter, body: Any, **signed: Any) -> str:
    data, headers = delivery(body, **signed)
    async with aiohttp.ClientSession() as client, client.post(grafter.webhooks, data=data, headers=headers) as answer:
        said = await answer.json()
        assert answer.status == 200, said
        return str(said["status"])


async def pull(grafter: Grafter) -> dict[str, Any]:
    """As ``grafter pull`` asks for it."""
    async with (
        asyncio.timeout(DEADLINE),
        aiohttp.ClientSession() as client,
        client.post(grafter.admin, json={"session": SESSION}) as answer,
    ):
        assert answer.status == 200
        return dict(json.loads(await answer.text()))


async def readers(running: Sequence[Grafter]) -> list[Grafter]:
    """Those that have asked OpenAI for something."""
    async with aiohttp.ClientSession() as client:
        asked = [(await one.counters(client))["grafter_session_requests_total"] for one in running]
    return [one for one, requests in zip(running, asked, strict=True) if requests]


def idle() -> dict[str, Any]:
    return envelope("agent.session.idle", {"id": SESSION, "environment_type": "none"})


def last_put(redis: Server) -> object:
    """When the session was asked for last, as the store has it."""
    (found,) = redis.ask([("HGET", f"grafter:{{g:0}}:t:session\0default/{SESSION}", "put")])
    assert found
    return found


async def test_a_delivery_that_comes_again_elsewhere_has_no_effect(
    redis: Server, sink: Sink, agents: AgentsServer, tmp_path: Path
) -> None:
    """To another replica, and to one that was killed meanwhile; at two at once it leaves once all the same."""
    exported = {**trace_object(GUEST, metadata={"trace_id": HOST}), "spans": [span(n, trace_id=GUEST) for n in (1, 2)]}
    body = envelope("trace.exported", exported)
    async with replicas(tmp_path, redis, sink, agents, 3) as running:
        first, second, third = running
        assert await deliver(first, body) == "accepted"
        assert await deliver(second, body) == "repeat"
        await first.kill()
        assert await deliver(third, body) == "repeat"
        await first.start()
        assert await deliver(first, body) == "repeat"
        both = {**exported, "spans": [span(3, trace_id=GUEST)]}
        at_once = [deliver(one, envelope("trace.exported", both), id="wh_2") for one in running]
        assert set(await asyncio.gather(*at_once)) <= {"accepted", "repeat"}
        assert await deliver(second, envelope("trace.exported", both), id="wh_2") == "repeat"
        await sink.until_spans(HOST, 3)
        await balanced(running)
        assert sink.repeats() == {}


async def test_one_replica_reads_a_session(redis: Server, sink: Sink, agents: AgentsServer, tmp_path: Path) -> None:
    """All hear of it at once; while one reads, for longer than a lease, no other one begins; then all is there."""
    agents.traces = [trace(number) for number in (1, 2, 3)]
    agents.gate.clear()
    async with replicas(tmp_path, redis, sink, agents) as running:
        heard = [deliver(one, idle(), id=f"wh_{number}") for number, one in enumerate(running)]
        assert await asyncio.gather(*heard) == ["accepted"] * 2
        await agents.until_asked(2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5 * LEASE_SECONDS):
                await agents.until_asked(3)
        assert len(await readers(running)) == 1
        agents.gate.set()
        await sink.until_spans(HOST, 9)
        await balanced(running)
        assert sink.repeats() == {}
        assert agents.odd == []


async def test_a_session_goes_on_when_its_reader_is_killed(
    redis: Server, sink: Sink, agents: AgentsServer, tmp_path: Path
) -> None:
    """In the middle of a look: another one takes it over when the lease ends, behind the page that was stored."""
    agents.most = 1
    agents.traces = [trace(number) for number in (1, 2, 3)]
    killed = asyncio.Event()
    # The answer to the second page never comes to the first who asks for it.
    agents.answer = lambda request: (
        web.Response(status=503) if "after" in request.query and not killed.is_set() else None
    )
    async with replicas(tmp_path, redis, sink, agents) as running:
        assert await deliver(running[0], idle()) == "accepted"
        await agents.until_asked(3)
        (reader,) = await readers(running)
        await reader.kill()
        asked = len(agents.asked)
        killed.set()
        await agents.until_asked(asked + 3)
        assert agents.asked[asked : asked + 2] == [SESSION, f"{SESSION}/traces?limit=100&order=asc&after={turn_id(1)}"]
        await sink.until_spans(HOST, 9)
        assert len(await readers([one for one in running if one is not reader])) == 1
        assert sink.repeats() == {}


async def test_who_waits_is_answered_wherever_the_session_is_read(
    redis: Server, sink: Sink, agents: AgentsServer, tmp_path: Path
) -> None:
    """A command at one replica while another one reads the session: it hears of a look of its own soon after."""
    agents.traces = [trace(1)]
    agents.gate.clear()
    # Nobody dies here, and the reader has to keep its session.
    async with replicas(tmp_path, redis, sink, agents, lease=60.0) as running:
        assert await deliver(running[0], idle()) == "accepted"
        await agents.until_asked(2)
        (reader,) = await readers(running)
        waiting = []
        for one in running:
            if one is not reader:
                before = last_put(redis)
                waiting.append(asyncio.ensure_future(pull(one)))
                # It is in the store before the reader goes on.
                await asyncio.to_thread(waited, lambda before=before: last_put(redis) != before, "it is not asked for")
        agents.gate.set()
        for answer in await asyncio.gather(*waiting):
            assert answer["session"] == SESSION
            assert answer["linked"] is True
