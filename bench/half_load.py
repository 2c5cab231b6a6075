"""``python -m bench.half_load``: how long an answer takes at half of what a grafter takes at most.

First the load as fast as it is taken, with a bounded number of requests in flight; full is what came out at the sink a
second, the hold of a second left aside. Then half of that at a steady rate, whatever the answers take: a request's time
runs from the moment at which it was to be sent. Sender, sink, grafter and Redis share the machine, so that the same is
measured of the null server, which only answers.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import grpc
import grpc.aio
import uvloop

from bench.__main__ import (
    IN_FLIGHT,
    LAP_TRACES,
    WARM_UP_LAP,
    ask,
    config,
    expected,
    listening,
    process,
    settled,
)
from bench.load import send
from bench.servers import EXPORT, OPTIONS
from bench.workload import Workload
from tests.ports import free_port
from tests.store.redis.servers import server

SYSTEMS = ("null", "grafter disk", "grafter redis")
FULL_SPANS = 600_000
HOLD_SECONDS = 1.0
SECONDS = 10.0
LIMIT_MS = 25.0


async def paced(port: int, workload: Workload, laps: range, rate: float) -> list[float]:
    """The time of each answer in seconds, of requests at this rate a second; whatever is refused is sent again."""
    waits: list[float] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        call = channel.unary_unary(EXPORT)
        began = time.perf_counter()

        async def one(request: bytes, due: float) -> None:
            while True:
                try:
                    await call(request, timeout=30)
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
            waits.append(time.perf_counter() - due)

        async with asyncio.TaskGroup() as group:
            for number, (lap, template) in enumerate((lap, t) for lap in laps for t in workload.templates):
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(one(template.request(lap), due))
    return sorted(waits)


async def last_came(sink_port: int, quiet: float = 2.5) -> float:
    """The moment from which on nothing more reached the sink."""
    last, since = b"", time.perf_counter()
    while time.perf_counter() - since < quiet:
        now = await ask(sink_port, b"bytes")
        if now != last:
            last, since = now, time.perf_counter()
        await asyncio.sleep(0.05)
    return since


async def measure(system: str, batch: int, seconds: float) -> float:
    """One system at one size; prints a line and returns the 99th percentile in ms. Raises when ids were lost."""
    workload = Workload(batch, LAP_TRACES[batch])
    port, sink_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="grafter-bench-") as name, contextlib.ExitStack() as stack:
        if system == "null":
            stack.enter_context(process("-m", "bench.servers", "null", "--port", str(port), "--to", str(sink_port)))
        else:
            stack.enter_context(process("-m", "bench.servers", "sink", "--port", str(sink_port)))
            await listening(sink_port)
            store: dict[str, object] = {"embedded": {"directory": str(Path(name, "data"))}}
            if system == "grafter redis":
                store = {"redis": {"url": stack.enter_context(server("--appendonly", "no")).url}}
            path = Path(name) / "config.yaml"
            path.write_text(config(port, [sink_port], store))
            stack.enter_context(process("-m", "grafter", "run", "--config", str(path)))
        await listening(port)
        await send(port, workload, range(WARM_UP_LAP, WARM_UP_LAP + 1), IN_FLIGHT[batch])
        first = max(1, FULL_SPANS // workload.spans_per_lap)
        began = time.perf_counter()
        sent = await send(port, workload, range(first), IN_FLIGHT[batch])
        full = sent.spans / sent.seconds
        if system != "null":
            full = sent.spans / (await last_came(sink_port) - began - HOLD_SECONDS)
        rate = full / batch / 2
        last = first + max(1, round(rate * seconds * batch / workload.spans_per_lap))
        waits = await paced(port, workload, range(first, last), rate)
        if system != "null":
            await settled(sink_port)
            if json.loads(await ask(sink_port, b"")) != expected(workload, range(last), warm_up=True):
                raise RuntimeError(f"{system}: what came out is not what was sent")
    p50, p99 = (waits[len(waits) * part // 100] * 1e3 for part in (50, 99))
    print(
        f"{system:<16}{batch:>6}{full:>14.0f}{rate * batch:>14.0f}{p50:>9.1f}{p99:>9.1f}{waits[-1] * 1e3:>9.1f}",
        flush=True,
    )
    return p99


async def bench(batches: list[int], systems: list[str], seconds: float) -> bool:
    print(f"{'system':<16}{'batch':>6}{'full spans/s':>14}{'half spans/s':>14}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    found = [await measure(system, batch, seconds) for batch in batches for system in systems]
    return max(found) < LIMIT_MS


def main() -> None:
    """Read the arguments, run; exit 1 when an answer takes longer than it may."""
    parser = argparse.ArgumentParser(prog="python -m bench.half_load")
    parser.add_argument("--batches", type=int, nargs="+", default=[50, 512], choices=sorted(IN_FLIGHT))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    args = parser.parse_args()
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        fast = runner.run(bench(args.batches, args.systems, args.seconds))
    sys.exit(0 if fast else 1)


if __name__ == "__main__":
    main()
