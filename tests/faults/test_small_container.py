"""A container of 512 MiB, and a flood over gRPC, whose messages are in memory before anybody can refuse them."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from tests.e2e.process import Grafter
from tests.faults.small_container import BYTES

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 64 << 20)]
PATIENCE_SECONDS = 240.0


def template(traces: int, size: int) -> bytes:
    """A request of traces of one span each, to be numbered."""
    spans = [
        Span(trace_id=b"NUMBERED" + n.to_bytes(8), span_id=(1).to_bytes(8), name="x" * size, start_time_unix_nano=1)
        for n in range(traces)
    ]
    whole = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])
    return whole.SerializeToString()


def peak_bytes(pid: int) -> int:
    """The most memory that a process has occupied."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("traces", "size", "senders"),
    [(500, 6_000, 12), (400, 120_000, 6)],
    ids=["3 MiB", "46 MiB"],
)
async def test_a_flood_over_grpc_stays_within_a_small_container(
    tmp_path: Path, traces: int, size: int, senders: int
) -> None:
    """What it occupies at most is less than there is; each answer is success or a refusal with a hint."""
    body = template(traces, size)
    grafter = Grafter(tmp_path, {"otlp_http": {"endpoint": "http://127.0.0.1:1"}}, wait={"after_root": "10m"})
    answers: set[str] = set()

    async def sender(number: int) -> None:
        async with grpc.aio.insecure_channel(grafter.otlp_grpc, options=OPTIONS) as channel:
            call = channel.unary_unary(EXPORT)  # type: ignore[call-arg]  # bytes in and out

            async def one(lap: int) -> None:
                request = body.replace(b"NUMBERED", bytes([number]) + lap.to_bytes(7))
                try:
                    await call(request, timeout=PATIENCE_SECONDS)
                    answers.add("taken")
                except grpc.aio.AioRpcError as error:
                    hint = "google.rpc.retryinfo-bin" in str(error.trailing_metadata())
                    answers.add("refused" if error.code() is grpc.StatusCode.UNAVAILABLE and hint else repr(error))

            for lap in range(0, 8, 2):
                await asyncio.gather(one(lap), one(lap + 1))

    try:
        await grafter.start("tests.faults.small_container")
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            for number in range(1, senders + 1):
                group.create_task(sender(number))
        assert answers <= {"taken", "refused"}
        assert "taken" in answers
        assert peak_bytes(grafter.pid) < BYTES
        body = template(1, 1)
        answers.clear()
        await sender(200)
        assert answers == {"taken"}
    finally:
        await grafter.close()
