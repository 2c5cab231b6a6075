"""``python -m bench``: CPU a span of grafter beside a null sink and a raw proxy, interleaved in one run.

The figure to read is the CPU time of the measured process alone, all its threads, in microseconds a span, and its
multiple of the raw proxy's in the same run: that is what a Python process that only receives and sends bytes costs.
Sender, measured process and sink share the machine, so spans a second say little beyond that.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import psutil
import uvloop

from bench.load import Sent, send
from bench.servers import OPTIONS, digest
from bench.workload import Workload
from grafter.otlp.split import COMPILED
from tests.ports import free_port
from tests.store.redis.servers import Server, server

BATCHES = (1, 50, 512, 8192)
SYSTEMS = ("null", "proxy", "grafter memory", "grafter disk", "grafter disk, two exporters", "grafter redis")
# Spans a run: enough for a second or more of CPU time at each size, so that the clock's 10 ms do not matter.
SPANS = {1: 6_000, 50: 120_000, 512: 400_000, 8192: 640_000}
LAP_TRACES = {1: 300, 50: 1000, 512: 2560, 8192: 8192}
WARM_UP_LAP = 10_000
IN_FLIGHT = {1: 8, 50: 8, 512: 8, 8192: 4}
# Multiples of the raw proxy that grafter is held to.
LIMITS = {
    "grafter memory": {1: 1.1, 50: 1.4, 512: 2.0, 8192: 3.0},
    "grafter disk": {1: 1.3, 50: 1.8, 512: 3.0, 8192: 4.5},
    "grafter redis": {1: 1.2, 50: 1.6, 512: 2.7, 8192: 4.0},
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one system at one batch size."""

    sent: Sent
    cpu_seconds: float
    rss_mib: float
    came_out: dict[str, object]
    seconds_until_out: float
    redis_cpu_seconds: float = 0.0
    """Of the Redis behind the measured process."""

    @property
    def us_per_span(self) -> float:
        return self.cpu_seconds / self.sent.spans * 1e6


@contextlib.contextmanager
def process(*args: str) -> Iterator[psutil.Process]:
    """A child that is stopped on the way out."""
    child = subprocess.Popen([sys.executable, *args], stdout=subprocess.DEVNULL)
    try:
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def config(port: int, to: list[int], store: dict[str, object]) -> str:
    """grafter as the bench runs it: everything released a second after its last part, to each of these ports."""
    exporters = {
        f"otlp_grpc/{number}": {"endpoint": f"127.0.0.1:{one}", "tls": {"insecure": True}}
        for number, one in enumerate(to)
    }
    return json.dumps(
        {
            "receivers": {
                "otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{port}"}, "http": {"endpoint": "127.0.0.1:0"}}}
            },
            "processors": {"graft": {"wait": {"after_root": "1s", "idle": "5s"}}},
            "exporters": exporters,
            "extensions": {"store": store, "health_check": None},
            "service": {
                "pipelines": {"traces": {"receivers": ["otlp"], "processors": ["graft"], "exporters": list(exporters)}},
                "telemetry": {"metrics": {"endpoint": f"127.0.0.1:{free_port()}"}, "logs": {"level": "warn"}},
            },
        }
    )


async def listening(port: int, seconds: float = 20) -> None:
    """Wait until something accepts on the port."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise TimeoutError(f"nothing listens on port {port}")


async def measure(system: str, workload: Workload, laps: range, in_flight: int) -> Run:
    """One run: fresh processes, the load, and the wait until everything came out."""
    port, sink_port = free_port(), free_port()
    to = [sink_port]
    redis: Server | None = None
    with tempfile.TemporaryDirectory(prefix="grafter-bench-") as name, contextlib.ExitStack() as stack:
        if system != "null":
            stack.enter_context(process("-m", "bench.servers", "sink", "--port", str(sink_port)))
            await listening(sink_port)
        if system.startswith("grafter"):
            path = Path(name) / "config.yaml"
            store: dict[str, object] = {
                "embedded": {"directory": str(Path(name) / "data"), "memory": system == "grafter memory"}
            }
            if system == "grafter redis":
                redis = stack.enter_context(server("--appendonly", "no"))
                store = {"redis": {"url": redis.url}}
            if system.endswith("two exporters"):
                to.append(free_port())
                stack.enter_context(process("-m", "bench.servers", "sink", "--port", str(to[1])))
                await listening(to[1])
            path.write_text(config(port, to, store))
            measured = stack.enter_context(process("-m", "grafter", "run", "--config", str(path)))
        else:
            measured = stack.enter_context(
                process("-m", "bench.servers", system, "--port", str(port), "--to", str(sink_port))
            )
        await listening(port)
        await send(port, workload, range(WARM_UP_LAP, WARM_UP_LAP + 1), in_flight) if workload.batch > 1 else None
        for one in to if system != "null" else ():
            await settled(one)
        before, redis_before = measured.cpu_times(), cpu_of(redis)
        began = time.perf_counter()
        sent = await send(port, workload, laps, in_flight)
        for one in to if system != "null" else ():
            await settled(one)
        seconds = time.perf_counter() - began
        after = measured.cpu_times()
        rss = measured.memory_info().rss / 2**20
        redis_cpu = cpu_of(redis) - redis_before
        came_out: dict[str, object] = json.loads(await ask(sink_port, b"")) if system != "null" else {}
        for one in to[1:]:
            other = json.loads(await ask(one, b""))
            came_out = came_out if other == came_out else {"one": came_out, "other": other}
        return Run(sent, sum(after[:2]) - sum(before[:2]), rss, came_out, seconds, redis_cpu)


def cpu_of(redis: Server | None) -> float:
    """CPU seconds of a Redis so far; none costs none."""
    return sum(psutil.Process(redis.pid).cpu_times()[:2]) if redis is not None else 0.0


async def ask(port: int, question: bytes) -> bytes:
    """Ask the sink."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        answer: bytes = await channel.unary_unary("/bench/Report")(question, timeout=120)
        return answer


async def settled(port: int, quiet: float = 2.5, limit: float = 90) -> None:
    """Wait until nothing new reached the sink for a while, longer than the hold."""
    last, since, deadline = b"", time.monotonic(), time.monotonic() + limit
    while time.monotonic() - since < quiet and time.monotonic() < deadline:
        now = await ask(port, b"bytes")
        if now != last:
            last, since = now, time.monotonic()
        await asyncio.sleep(0.25)


def expected(workload: Workload, laps: range, *, warm_up: bool) -> dict[str, object]:
    """What has to come out."""
    return digest(t.request(lap) for lap in [*laps, *([WARM_UP_LAP] if warm_up else [])] for t in workload.templates)


async def bench(batches: list[int], systems: list[str], repeats: int) -> bool:
    """All runs, interleaved; prints the table. False when ids were lost."""
    print(f"requests are split {'by the compiled module' if COMPILED else 'in Python: no compiler was there'}")
    whole = True
    table: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for batch in batches:
        workload = Workload(batch, LAP_TRACES[batch])
        laps = range(max(1, SPANS[batch] // workload.spans_per_lap))
        want = expected(workload, laps, warm_up=batch > 1)
        for repeat in range(repeats):
            shift = repeat % len(systems)
            for system in systems[shift:] + systems[:shift]:
                run = await measure(system, workload, laps, IN_FLIGHT[batch])
                table[system, batch].append(run)
                if system != "null" and run.came_out != want:
                    whole = False
                    print(f"LOST OR CHANGED: {system} at {batch}: want {want}, came out {run.came_out}")
    report(batches, systems, table)
    return whole


def report(batches: list[int], systems: list[str], table: dict[tuple[str, int], list[Run]]) -> None:
    """The table: medians, with the range of the runs."""
    print(f"\n{'system':<28}{'batch':>6}{'CPU us/span':>14}{'min-max':>18}{'x proxy':>9}{'limit':>7}", end="")
    print(f"{'spans/s':>10}{'p50 ms':>8}{'p99 ms':>8}{'RSS MiB':>9}{'retries':>8}{'ids out':>9}  sender's own us/span")
    for batch in batches:
        proxy = [r.us_per_span for r in table.get(("proxy", batch), [])]
        for system in systems:
            runs = table[system, batch]
            costs = [r.us_per_span for r in runs]
            ratio = statistics.median(costs) / statistics.median(proxy) if proxy else float("nan")
            limit = LIMITS.get(system, {}).get(batch)
            mark = "" if limit is None else f"{limit:.1f}" + ("" if ratio <= limit else " !")
            sender = statistics.median(r.sent.own_cpu_seconds / r.sent.spans * 1e6 for r in runs)
            print(
                f"{system:<28}{batch:>6}{statistics.median(costs):>14.2f}"
                f"{f'{min(costs):.2f}-{max(costs):.2f}':>18}{ratio:>9.2f}{mark:>7}"
                f"{statistics.median(r.sent.spans / r.sent.seconds for r in runs):>10.0f}"
                f"{statistics.median(r.sent.p50_ms for r in runs):>8.1f}"
                f"{statistics.median(r.sent.p99_ms for r in runs):>8.1f}"
                f"{max(r.rss_mib for r in runs):>9.0f}{sum(r.sent.retries for r in runs):>8}"
                f"{runs[-1].came_out.get('ids', '-'):>9}  {sender:.2f}"
                + ("  (the sender costs more: it limits spans/s)" if sender > statistics.median(costs) else "")
                + (f"  (Redis itself {own:.2f} us/span)" if (own := redis_cost(runs)) else "")
            )


def redis_cost(runs: list[Run]) -> float:
    """Redis' own CPU, microseconds a span."""
    return statistics.median(run.redis_cpu_seconds / run.sent.spans * 1e6 for run in runs)


def main() -> None:
    """Read the arguments, run, exit 1 when ids were lost."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), choices=BATCHES)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        whole = runner.run(bench(args.batches, args.systems, args.repeats))
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
