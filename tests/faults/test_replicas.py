"""Several grafters over one Redis: parts anywhere, kills and restarts at random, and nothing acknowledged is lost."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter.core.model import guest_span_id
from tests.e2e.conftest import to_grpc
from tests.e2e.process import REPO, Grafter
from tests.e2e.sink import Sink, listening, spans_of
from tests.faults.replica_books import balanced
from tests.store.redis.servers import Server, server

REPLICAS = 3
SENDERS = 12
PARTS = 4
WAITS = {"after_root": "700ms", "guest_quiet": "300ms", "for_guest": "4s", "idle": "30s"}


@dataclass
class Call:
    """One trace of the app's and one of OpenAI's SDK that belongs to it."""

    number: int
    host: bytes = field(init=False)
    guest: str = field(init=False)

    def __post_init__(self) -> None:
        chance = random.Random(self.number)
        self.host = chance.randbytes(16)
        self.guest = f"trace_{chance.randbytes(16).hex()}"

    @property
    def root(self) -> bytes:
        return self.host[:7] + b"\x01"

    def host_parts(self) -> list[bytes]:
        """Requests; the root comes with the last."""
        parts = []
        for part in range(PARTS):
            request = ExportTraceServiceRequest()
            spans = request.resource_spans.add().scope_spans.add().spans
            for number in range(2 + 2 * part, 4 + 2 * part):
                spans.add(
                    trace_id=self.host, span_id=self.host[:7] + bytes([number]), parent_span_id=self.root, name="step"
                )
            if part == PARTS - 1:
                spans.add(trace_id=self.host, span_id=self.root, name="call")
            parts.append(request.SerializeToString())
        return parts

    def guest_parts(self) -> list[object]:
        """Ingest bodies: the trace object, which alone names the host, and spans that know nothing of it."""

        def span(name: str, parent: str | None) -> object:
            moments = {"started_at": "2026-01-01T00:00:00+00:00", "ended_at": "2026-01-01T00:00:01+00:00"}
            data = {"type": "custom", "name": name, "data": {}}
            return {
                "object": "trace.span",
                "id": f"span_{name}",
                "trace_id": self.guest,
                "parent_id": parent,
                **moments,
                "span_data": data,
                "error": None,
            }

        head = {
            "object": "trace",
            "id": self.guest,
            "workflow_name": "w",
            "group_id": None,
            "metadata": {"trace_id": self.host.hex()},
        }
        return [{"data": [head]}, {"data": [span("top", None)]}, {"data": [span("below", "span_top")]}]

    def tree(self) -> dict[bytes, bytes]:
        """Span ids that have to come out, each with its parent's."""
        top = guest_span_id(self.guest, "span_top")
        tree = {self.host[:7] + bytes([number]): self.root for number in range(2, 2 + 2 * PARTS)}
        return tree | {self.root: b"", top: self.root, guest_span_id(self.guest, "span_below"): top}


@dataclass
class Books:
    """What was sent, and what happened meanwhile."""

    acknowledged: list[Call] = field(default_factory=list)
    attempts: int = 0
    refused: int = 0
    kills: int = 0
    restarts: int = 0


@pytest.fixture
def redis() -> Iterator[Server]:
    with server("--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


@asynccontextmanager
async def replicas(
    home: Path, redis: Server, sink: Sink, waits: Mapping[str, str] = WAITS, tree: Path = REPO
) -> AsyncIterator[list[Grafter]]:
    async with AsyncExitStack() as stack:
        running = []
        for number in range(REPLICAS):
            directory = home / str(number)
            directory.mkdir()
            store = {"redis": {"url": redis.url, "timeout": "2s"}, "lease": "2s"}
            one = Grafter(directory, {"otlp_grpc/sink": to_grpc(sink)}, waits, store=store)
            one.tree = tree
            stack.push_async_callback(one.close)
            running.append(one)
        await asyncio.gather(*(one.start() for one in running))
        yield running


class Load:
    """Sends calls, each part to any replica, until one has taken it."""

    def __init__(self, running: Sequence[Grafter], calls: int) -> None:
        self._running = running
        self._calls = iter(range(calls))
        self._chance = random.Random(1)
        self._news = asyncio.Condition()
        self.books = Books()

    def go_on(self, calls: int) -> None:
        """With so many more; ``run`` sends them."""
        sent = len(self.books.acknowledged)
        self._calls = iter(range(sent, sent + calls))

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session, asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(self._sender(session))

    async def acknowledged(self, count: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: len(self.books.acknowledged) >= count)

    async def _sender(self, session: aiohttp.ClientSession) -> None:
        for number in self._calls:
            call = Call(number)
            parts: list[bytes | object] = [*call.host_parts(), *call.guest_parts()]
            self._chance.shuffle(parts)
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(self._send(session, part))
            async with self._news:
                self.books.acknowledged.append(call)
                self._news.notify_all()

    async def _send(self, session: aiohttp.ClientSession, part: bytes | object) -> None:
        while True:
            to = self._chance.choice(self._running)
            self.books.attempts += 1
            try:
                if isinstance(part, bytes):
                    headers = {"Content-Type": "application/x-protobuf"}
                    request = session.post(f"{to.otlp_http}/v1/traces", data=part, headers=headers)
                else:
                    request = session.post(to.ingest, json=part)
                async with request as answer:
                    if answer.status in (200, 204):
                        return
                    assert answer.status == 503, await answer.text()
                    assert "Retry-After" in answer.headers
            except (aiohttp.ClientError, TimeoutError):
                pass
            self.books.refused += 1
            # As a sender would, only sooner.
            await asyncio.sleep(0.05 + self._chance.random() / 10)


async def disturb(load: Load, running: Sequence[Grafter], redis: Server, at: Sequence[int], restarts: set[int]) -> None:
    """Kill and start again: at each of these numbers of acknowledged calls a replica, at some of them Redis too."""
    chance = random.Random(2)
    for count in at:
        await load.acknowledged(count)
        victim = chance.choice(running)
        await victim.kill()
        load.books.kills += 1
        if count in restarts:
            redis.kill()
            load.books.restarts += 1
            await asyncio.to_thread(redis.start)
        await victim.start()


async def prove(load: Load, sink: Sink, calls: int) -> None:
    """Every acknowledged span came out, joined; what came twice has the same ids."""
    wanted = {call.host: call.tree() for call in load.books.acknowledged}
    assert len(wanted) == calls
    ids = {(host, span) for host, tree in wanted.items() for span in tree}
    missing, read = set(ids), 0

    def all_came(it: Sink) -> bool:
        nonlocal read
        for request in it.requests[read:]:
            missing.difference_update((span.trace_id, span.span_id) for span in spans_of(request))
        read = len(it.requests)
        return not missing

    async with asyncio.timeout(60), sink.news:
        await sink.news.wait_for(lambda: all_came(sink))
    counts: Counter[tuple[bytes, bytes]] = Counter()
    for each in sink.spans():
        counts[each.span.trace_id, each.span.span_id] += 1
        assert each.span.trace_id in wanted, "a span under a trace that nobody sent"
        assert wanted[each.span.trace_id][each.span.span_id] == each.span.parent_span_id
    assert set(counts) == ids
    repeats = sum(count - 1 for count in counts.values())
    print(f"{load.books.attempts} requests, {load.books.refused} refused or cut off, {load.books.kills} kills,")
    print(f"{load.books.restarts} restarts of Redis; {len(ids)} spans acknowledged and out, {repeats} came again")


async def test_any_replica_takes_any_part(redis: Server, tmp_path: Path) -> None:
    """One replica is killed and one Redis restarted; the rest of the load goes on meanwhile."""
    calls = 120
    async with listening() as sink, replicas(tmp_path, redis, sink) as running:
        load = Load(running, calls)
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(load.run())
            group.create_task(disturb(load, running, redis, [40, 80], {80}))
        await prove(load, sink, calls)
        pages = await balanced(running)
        assert sum(page["grafter_taken_over_spans_total"] for page in pages) > 0


async def test_what_a_killed_replica_held_is_in_anothers_books(redis: Server, tmp_path: Path) -> None:
    """Held by three; one is killed, and its share goes to one that lives; it starts again and begins with nothing."""
    calls = 30
    spans = calls * (2 * PARTS + 1 + 2)
    waits = {"after_root": "10m", "idle": "20m"}
    async with listening() as sink, replicas(tmp_path, redis, sink, waits) as running:
        load = Load(running, calls)
        async with asyncio.timeout(60):
            await load.run()
        # Two replicas that move a guest's parts to its host at once move them twice.
        async with asyncio.timeout(60):
            while True:
                pages = await balanced(running, spans, spans + 3 * calls)
                shares = [page["grafter_held_spans"] for page in pages]
                held = sum(shares)
                # Each has looked at Redis, and shows the same of all.
                if {page["grafter_replica_held_spans"] for page in pages} == {held}:
                    break
                await asyncio.sleep(0.2)
        assert all(shares)
        taken = sum(page["grafter_taken_over_spans_total"] for page in pages[1:])
        await running[0].kill()
        pages = await balanced(running[1:], held, held)
        assert sum(page["grafter_taken_over_spans_total"] for page in pages) == taken + shares[0]
        await running[0].start()
        pages = await balanced(running, held, held)
        assert pages[0]["grafter_held_spans"] == 0
        assert sink.spans() == []


@pytest.mark.slow
async def test_replicas_under_random_kills(redis: Server, tmp_path: Path) -> None:
    """Kills all along, Redis twice among them."""
    calls = 3000
    async with listening() as sink, replicas(tmp_path, redis, sink) as running:
        load = Load(running, calls)
        async with asyncio.timeout(900), asyncio.TaskGroup() as group:
            group.create_task(load.run())
            group.create_task(disturb(load, running, redis, range(200, 2800, 250), {700, 1950}))
        await prove(load, sink, calls)
        await balanced(running)
