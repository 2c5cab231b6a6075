"""The sender: raw bytes over gRPC, a bounded number of requests in flight, each tried again until it is taken."""

import asyncio
import time
from dataclasses import dataclass

import grpc
import grpc.aio

from bench.servers import EXPORT, OPTIONS
from bench.workload import Workload


@dataclass(frozen=True, slots=True)
class Sent:
    """What a run sent and had acknowledged."""

    spans: int
    seconds: float
    p50_ms: float
    p99_ms: float
    retries: int
    own_cpu_seconds: float


async def send(port: int, workload: Workload, laps: range, in_flight: int) -> Sent:
    """Send these laps of the workload; every request is acknowledged when this returns."""
    retries = 0
    waits: list[float] = []
    spans = 0

    requests = iter([(template, lap) for lap in laps for template in workload.templates])

    async def worker(call: grpc.aio.UnaryUnaryMultiCallable) -> None:
        nonlocal retries, spans
        for template, lap in requests:
            request = template.request(lap)
            began = time.perf_counter()
            for _ in range(2000):
                try:
                    await call(request, timeout=30)
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    retries += 1
                    await asyncio.sleep(0.01)
            else:
                raise RuntimeError("the system under test refused one request 2000 times")
            waits.append(time.perf_counter() - began)
            spans += len(template.tails)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        call = channel.unary_unary(EXPORT)
        began, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(worker(call))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    waits.sort()
    return Sent(
        spans,
        seconds,
        waits[len(waits) // 2] * 1e3,
        waits[min(len(waits) - 1, len(waits) * 99 // 100)] * 1e3,
        retries,
        cpu,
    )
