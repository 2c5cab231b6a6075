"""A flood, sent from a process of its own: its clock says how long answers took, and how late it read them itself.

Run as ``python -m tests.faults.flood grpc|http ADDRESS``; what it found is a line of JSON on stdout.
"""

import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
TRACES = 2000
CONNECTIONS, AT_ONCE = 10, 12
CALM_SECONDS, FLOOD_SECONDS, TIMES = 3.0, 10.0, 3
BEAT_SECONDS = 0.005
PATIENCE_SECONDS = 120.0

Post = Callable[[bytes, float], Awaitable[str]]
"""Sends a request, with a deadline in seconds; what the answer said."""


def template(traces: int) -> bytes:
    """A request of traces of one span each, to be numbered."""
    spans = [
        Span(trace_id=b"NUMBERED" + n.to_bytes(8), span_id=(1).to_bytes(8), name="flood", start_time_unix_nano=1)
        for n in range(traces)
    ]
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])]
    ).SerializeToString()


@asynccontextmanager
async def grpc_sender(address: str) -> AsyncIterator[Post]:
    """A connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call = channel.unary_unary(EXPORT)  # type: ignore[call-arg]  # bytes in and out

        async def post(body: bytes, seconds: float) -> str:
            try:
                await call(body, timeout=seconds)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    return "gave up"
                hint = "google.rpc.retryinfo-bin" in str(error.trailing_metadata())
                return "refused" if error.code() is grpc.StatusCode.UNAVAILABLE and hint else repr(error)
            return "taken"

        yield post


@asynccontextmanager
async def http_sender(address: str) -> AsyncIterator[Post]:
    """Connections of its own, one for each request at a time."""
    async with aiohttp.ClientSession() as session:

        async def post(body: bytes, seconds: float) -> str:
            headers = {"Content-Type": "application/x-protobuf"}
            timeout = aiohttp.ClientTimeout(total=seconds)
            try:
                async with session.post(f"{address}/v1/traces", data=body, headers=headers, timeout=timeout) as answer:
                    await answer.read()
                    if answer.status == 503 and "Retry-After" in answer.headers:
                        return "refused"
                    return "taken" if answer.status == 200 else repr(answer)
            except TimeoutError:
                return "gave up"

        yield post


@dataclass
class Sender:
    """What one of them sent, and what became of it."""

    post: Post
    number: int
    traces: int
    answers: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """How long each answer took, by what it said."""
    sent: int = 0

    def __post_init__(self) -> None:
        self._template = template(self.traces)

    async def send(self, seconds: float = PATIENCE_SECONDS) -> None:
        self.sent += 1
        body = self._template.replace(b"NUMBERED", bytes([self.number]) + self.sent.to_bytes(7))
        began = time.perf_counter()
        answer = await self.post(body, seconds)
        self.seconds[answer].append(time.perf_counter() - began)
        self.answers[answer] += 1


SENDERS: dict[str, Callable[[str], AbstractAsyncContextManager[Post]]] = {"grpc": grpc_sender, "http": http_sender}


def percentiles(seconds: Sequence[float]) -> str:
    """Of some, in words."""
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    p50, p99 = (ordered[len(ordered) * part // 100] for part in (50, 99))
    return f"p50 {p50:.3f} s, p99 {p99:.3f} s, most {ordered[-1]:.3f} s"


def figures(senders: Sequence[Sender]) -> str:
    """How long their answers took, by what these said."""
    by_answer = {
        answer: [one for sender in senders for one in sender.seconds[answer]] for answer in ("taken", "refused")
    }
    return "; ".join(f"{len(some)} {answer}: {percentiles(some)}" for answer, some in by_answer.items() if some)


@dataclass
class Flood:
    """Connections that flood, and one that sends little beside them."""

    senders: list[Sender]
    small: Sender

    async def calm(self) -> float:
        """As fast as it goes, with as many at once as keep it busy: how many a second are taken."""
        began = time.perf_counter()
        while time.perf_counter() - began < CALM_SECONDS:
            await asyncio.gather(*[one.send() for one in self.senders for _ in range(2)])
        taken = sum(one.answers.pop("taken", 0) for one in self.senders)
        for one in self.senders:
            one.seconds.clear()
            one.answers.clear()
        return taken / (time.perf_counter() - began)

    async def flood(self, rate: float) -> None:
        """So many a second, each connection with no more at once than it may have: more would wait in the client, and
        that time be measured too."""
        over = asyncio.Event()

        async def beside() -> None:
            while not over.is_set():
                await self.small.send()
                await asyncio.sleep(0.05)

        places = {one.number: asyncio.Semaphore(AT_ONCE) for one in self.senders}

        async def in_turn(one: Sender) -> None:
            async with places[one.number]:
                await one.send()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(beside())
            async with asyncio.TaskGroup() as sends:
                for number in range(int(rate * FLOOD_SECONDS)):
                    await asyncio.sleep(began + number / rate - time.perf_counter())
                    sends.create_task(in_turn(self.senders[number % len(self.senders)]))
            over.set()


async def late(found: list[float]) -> None:
    """How late this process comes to what is due: so late may it have read an answer."""
    while True:
        due = time.perf_counter() + BEAT_SECONDS
        await asyncio.sleep(BEAT_SECONDS)
        found.append(time.perf_counter() - due)


async def main(kind: str, address: str) -> dict[str, Any]:
    """A flood of a few times what is taken, and what came of it."""
    sender = SENDERS[kind]
    async with AsyncExitStack() as stack:
        senders = [
            Sender(await stack.enter_async_context(sender(address)), number, TRACES)
            for number in range(1, CONNECTIONS + 1)
        ]
        flood = Flood(senders, Sender(await stack.enter_async_context(sender(address)), 201, 5))
        rate = await flood.calm()
        lateness: list[float] = []
        async with asyncio.TaskGroup() as group:
            beats = group.create_task(late(lateness))
            await flood.flood(TIMES * rate)
            beats.cancel()
    return {
        "rate": rate,
        "answers": sum((one.answers for one in senders), Counter[str]()),
        "small": flood.small.answers,
        "figures": [
            f"takes {rate:.0f} requests of {TRACES} traces a second, and is sent {TIMES} times as many",
            f"flood: {figures(senders)}",
            f"small: {figures([flood.small])}",
            f"the sender's own lag: {percentiles(lateness)}",
        ],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
