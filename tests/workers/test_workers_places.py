"""Workers over each kind of Redis that they may share, Sentinel and Cluster, through the loss of a server."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grafter.workers.supervisor import Supervised, supervising
from tests.store.redis.servers import cluster, info, pair, waited
from tests.test_service import PATIENCE, backend
from tests.workers.fleet import WORKERS, sections
from tests.workers.test_workers_redis import SPANS, balance, halves, ids, read
from tests.workers.test_workers_supervisor import ALL_READY, Sender, page, ready, trace, until

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@dataclass
class Place:
    """Where Redis is, and how one of its servers is lost and comes back."""

    redis: dict[str, Any]
    lose: Any
    come_back: Any


@contextmanager
def behind_sentinel() -> Iterator[Place]:
    with pair(*DURABLE) as servers:

        def come_back() -> None:
            # The former primary, as a replica of what is the primary then: only with that is anything acknowledged.
            waited(lambda: b"role:master" in info(servers.replica), "the replica does not become the primary")
            servers.primary.start("--replicaof", "127.0.0.1", str(servers.replica.port))

        yield Place({"url": servers.url, "wait_replicas": 1}, servers.primary.kill, come_back)


@contextmanager
def as_cluster() -> Iterator[Place]:
    with cluster(options=DURABLE) as nodes:
        yield Place({"url": f"redis+cluster://127.0.0.1:{nodes[0].port}"}, nodes[1].kill, nodes[1].start)


@pytest.fixture(params=[behind_sentinel, as_cluster])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with request.param() as made:
        yield made


async def test_workers_lose_a_server_and_nothing_acknowledged(place: Place, tmp_path: Path) -> None:
    """Under load: senders are refused while it is away, no worker ends, and every span that was taken comes out."""
    said = sections("http://127.0.0.1:1", tmp_path)
    said["extensions"]["store"] = {"redis": {"timeout": "2s", **place.redis}, "lease": "5s"}
    said["processors"]["graft"]["wait"] |= {"after_root": "500ms", "idle": "5s"}
    async with backend() as out, supervising(read(tmp_path, said, out)) as served:
        sender = Sender(served.ports, bodies=halves)
        ended = asyncio.Event()

        async def load() -> None:
            while not ended.is_set():
                await sender.send()

        async def more(count: int) -> None:
            wanted = sender.sent + count

            async def sent() -> bool:
                return sender.sent >= wanted

            await until(sent)

        async with asyncio.timeout(3 * PATIENCE), asyncio.TaskGroup() as tasks:
            loads = [tasks.create_task(load()) for _ in range(4)]
            await more(20)
            pids = served.fleet.pids
            await asyncio.to_thread(place.lose)
            await until(lambda: _down(served))
            await asyncio.to_thread(place.come_back)
            await more(20)
            ended.set()
            await asyncio.wait(loads)
        assert set(sender.odd) <= {"503"}
        assert served.fleet.pids == pids
        wanted = {span for number in range(1, sender.sent + 1) for span in ids(trace(number))}

        async def out_already() -> bool:
            return wanted <= set(out.peer.ids)

        await until(out_already)

        async def well() -> bool:
            return await ready(served) == ALL_READY

        await until(well)
        found = await page(served)
        assert found["grafter_receiver_accepted_spans_total"] == sender.sent * SPANS
        assert (found["grafter_workers"], found["grafter_store_up"]) == (WORKERS, 1)
        await balance(served, sender.sent * SPANS)


async def _down(served: Supervised) -> bool:
    return (await page(served))["grafter_store_up"] == 0
