"""``python -m bench.redis_memory``: what held spans take in a real Redis, in multiples of the request bytes.

Everything is counted: parts, what is known of each trace, the moments at which to look at it, the envelopes that each
part carries. The server is the wheel's, whose allocator is the C library's; with jemalloc it is within a few per cent.
"""

import asyncio
import time

import psutil

from bench.workload import Workload
from grafter.core.model import UnixNano
from grafter.core.policy import SECOND, GraftPolicy, Waits
from grafter.otlp.split import Splitter
from grafter.store.redis.opening import opened
from tests.store.redis.servers import Server, server

LIMITS = {50: 2.2, 512: 1.5, 8192: 1.5}
TRACES = 5000


def used(redis: Server) -> int:
    """Bytes that Redis takes, but for the buffers of its connections."""
    (info,) = redis.ask([("INFO", "memory")])
    assert isinstance(info, bytes)
    facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return int(facts["used_memory"]) - int(facts["mem_clients_normal"])


async def measure(batch: int) -> tuple[float, float, float, float]:
    """Multiple of the request bytes; Redis' bytes a span; Redis' and this process's CPU microseconds a span."""
    workload = Workload(batch, TRACES)
    splitter = Splitter(GraftPolicy().anchors)
    requests = [template.request(0) for template in workload.templates]
    with server("--appendonly", "no") as redis:
        async with opened(
            redis.url,
            waits=Waits(),
            max_bytes=4 << 30,
            max_trace_bytes=64 << 20,
            lease_ns=10 * SECOND,
            guests_apart=False,
        ) as store:
            before, cpu = used(redis), psutil.Process(redis.pid).cpu_times()
            mine = time.process_time()
            for request in requests:
                await store.append(splitter.split(request).parts, UnixNano(time.time_ns()))
            mine = time.process_time() - mine
            after = psutil.Process(redis.pid).cpu_times()
            took = used(redis) - before
            spans = workload.spans_per_lap
            assert store.stats().spans == spans
    redis_cpu = sum(after[:2]) - sum(cpu[:2])
    return took / sum(map(len, requests)), took / spans, redis_cpu / spans * 1e6, mine / spans * 1e6


def main() -> None:
    """Print a line a batch size."""
    print(
        f"{'batch':>6}{'x request bytes':>17}{'limit':>7}{'B/span':>9}{'Redis us/span':>15}"
        f"{'split and store us/span':>25}"
    )
    for batch, limit in LIMITS.items():
        times, size, redis, mine = asyncio.run(measure(batch))
        mark = "" if times <= limit else " !"
        print(f"{batch:>6}{times:>17.2f}{f'{limit:.1f}{mark}':>7}{size:>9.0f}{redis:>15.2f}{mine:>25.2f}")


if __name__ == "__main__":
    main()
