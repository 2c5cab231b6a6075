"""Webhooks and hosted sessions at workers: whichever of them gets a request, all of them know what was asked."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from grafter.workers.supervisor import Supervised, supervising
from tests import agents_server
from tests.agents_server import KEY, SESSION, AgentsServer, session, trace
from tests.store.redis.servers import Server, server
from tests.test_service import PATIENCE, Backend, backend
from tests.webhooks import SECRET, delivery, envelope
from tests.workers.fleet import sections
from tests.workers.test_workers_redis import read

HOST = "0af7651916cd43dd8448eb211c80319c"
# Over connections of their own, so many miss one of two workers once in a million.
TIMES = 20


@pytest.fixture
def redis() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
async def agents() -> AsyncIterator[AgentsServer]:
    async with agents_server.serving() as running:
        running.sessions[SESSION] = session(metadata={"trace_id": HOST})
        running.traces = [trace(number) for number in (1, 2)]
        yield running


@pytest.fixture
async def out() -> AsyncIterator[Backend]:
    async with backend() as running:
        yield running


@pytest.fixture
async def fleet(redis: Server, agents: AgentsServer, out: Backend, tmp_path: Path) -> AsyncIterator[Supervised]:
    said = sections("http://127.0.0.1:1", tmp_path)
    said["extensions"]["store"] = {"redis": {"url": redis.url}, "lease": "60s"}
    # The host of the session never comes.
    said["processors"]["graft"]["wait"]["idle"] = "1s"
    project = {"api_key": KEY, "base_url": agents.base_url, "webhook_secrets": [SECRET]}
    said["receivers"]["openai"]["projects"] = {"default": project}
    async with supervising(read(tmp_path, said, out)) as running:
        yield running


async def ask(served: Supervised, path: str, **more: Any) -> dict[str, Any]:
    """The answer to a POST over a connection of its own."""
    url = f"http://127.0.0.1:{served.ports['openai']}{path}"
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as client, client.post(url, **more) as answer:
        assert answer.status == 200, await answer.text()
        return dict(await answer.json())


async def test_a_delivery_is_known_to_all_workers(fleet: Supervised, agents: AgentsServer, out: Backend) -> None:
    """Delivered to any of them, it has an effect once."""
    body, headers = delivery(envelope("agent.session.idle", {"id": SESSION, "environment_type": "none"}))
    answers = [await ask(fleet, "/webhooks/openai", data=body, headers=headers) for _ in range(TIMES)]
    assert [answer["status"] for answer in answers] == ["accepted"] + ["repeat"] * (TIMES - 1)
    await out.spans(6)
    assert len(out.peer.ids) == len(set(out.peer.ids)) == 6
    assert len([path for path in agents.asked if path == SESSION]) == 1


async def test_a_command_at_any_worker_is_answered(fleet: Supervised, agents: AgentsServer, out: Backend) -> None:
    """Also those that come while another worker reads the session; nothing leaves twice."""
    agents.gate.clear()
    waiting = [asyncio.ensure_future(ask(fleet, "/admin/pull", json={"session": SESSION})) for _ in range(TIMES)]
    await agents.until_asked(2)
    agents.gate.set()
    for answer in await asyncio.gather(*waiting):
        assert (answer["session"], answer["linked"]) == (SESSION, True)
    await out.spans(6)
    assert len(out.peer.ids) == len(set(out.peer.ids)) == 6
