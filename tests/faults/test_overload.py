"""A flood: more than can be taken is refused before it is read, with a hint, and the books hold through it.

What is asserted is counted, or a ratio within one run: how quickly answers come is the machine's.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tests.e2e.process import Grafter

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
TRACES = 2000
CONNECTIONS, AT_ONCE = 10, 12
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
async def grpc_sender(grafter: Grafter) -> AsyncIterator[Post]:
    """A connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(grafter.otlp_grpc, options=options) as channel:
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
async def http_sender(grafter: Grafter) -> AsyncIterator[Post]:
    """Connections of its own, one for each request at a time."""
    async with aiohttp.ClientSession() as session:

        async def post(body: bytes, seconds: float) -> str:
            headers = {"Content-Type": "application/x-protobuf"}
            timeout = aiohttp.ClientTimeout(total=seconds)
            try:
                async with session.post(
                    f"{grafter.otlp_http}/v1/traces", data=body, headers=headers, timeout=timeout
                ) as answer:
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
    sent: int = 0

    def __post_init__(self) -> None:
        self._template = template(self.traces)

    async def send(self, seconds: float = PATIENCE_SECONDS) -> None:
        self.sent += 1
        body = self._template.replace(b"NUMBERED", bytes([self.number]) + self.sent.to_bytes(7))
        self.answers[await self.post(body, seconds)] += 1


@pytest.mark.parametrize(
    ("sender", "each"),
    [
        pytest.param(grpc_sender, 5, id="grpc, short"),
        pytest.param(grpc_sender, 25, id="grpc", marks=pytest.mark.slow),
        pytest.param(http_sender, 25, id="http", marks=pytest.mark.slow),
    ],
)
async def test_a_flood_is_refused_with_a_hint_and_a_small_sender_is_not_starved(
    tmp_path: Path, sender: Callable[[Grafter], AbstractAsyncContextManager[Post]], each: int
) -> None:
    """Each answer of a flood is success or a refusal with a hint; what was taken is stored, and counted once, that of
    senders who gave up too; who sends little beside it fares better."""
    grafter = Grafter(tmp_path, {"otlp_http": {"endpoint": "http://127.0.0.1:1"}}, wait={"after_root": "10m"})
    async with AsyncExitStack() as stack:
        stack.push_async_callback(grafter.close)
        await grafter.start()

        async def opened(number: int, traces: int) -> Sender:
            return Sender(await stack.enter_async_context(sender(grafter)), number, traces)

        flood = [await opened(number, TRACES) for number in range(1, CONNECTIONS + 1)]
        hasty = await opened(200, 50)
        small = await opened(201, 5)
        over = asyncio.Event()

        async def beside(one: Sender, seconds: float) -> None:
            while not over.is_set():
                await one.send(seconds)

        async def flooding(one: Sender) -> None:
            while one.sent < each:
                await one.send()

        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(beside(small, PATIENCE_SECONDS))
            group.create_task(beside(hasty, 0.05))
            async with asyncio.TaskGroup() as floods:
                for one in flood:
                    for _ in range(AT_ONCE):
                        floods.create_task(flooding(one))
            over.set()

        answers = sum((one.answers for one in flood), Counter[str]())
        assert set(answers) == {"taken", "refused"}
        assert set(small.answers) <= {"taken", "refused"}
        assert set(hasty.answers) <= {"taken", "refused", "gave up"}
        assert small.answers["taken"] / small.sent > answers["taken"] / answers.total()
        async with aiohttp.ClientSession() as http:
            at_least = TRACES * answers["taken"] + 5 * small.answers["taken"] + 50 * hasty.answers["taken"]

            async def is_counted(session: aiohttp.ClientSession) -> bool:
                counters = await grafter.counters(session)
                came = counters["grafter_receiver_accepted_spans_total"] + counters["grafter_recovered_spans_total"]
                return came == counters["grafter_held_spans"]

            await grafter.until(is_counted, "balanced")
            counters = await grafter.counters(http)
            came = counters["grafter_receiver_accepted_spans_total"] + counters["grafter_recovered_spans_total"]
            assert at_least <= came <= at_least + 50 * hasty.answers["gave up"]
            answered = answers.total() + small.sent + hasty.sent
            assert answered - hasty.answers["gave up"] <= counters["grafter_receiver_requests_total"] <= answered
