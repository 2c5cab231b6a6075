"""``python -m bench.held``: what holding costs in memory, and that all of it comes out.

Fills a grafter with traces that it holds, reads the growth of its resident memory, waits for the release and compares
the set of ids at the sink with the set that was acknowledged.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from bench.__main__ import ask, expected, listening, process, settled
from bench.load import send
from bench.workload import Workload
from tests.ports import free_port

LAP_TRACES = 5000
# At most this share of the payload in memory, and this many bytes a span where the payload is on disk.
MEMORY_SHARE, DISK_BYTES = 1.3, 150


def _config(port: int, to: int, directory: Path, memory: bool, hold: int) -> str:
    return json.dumps(
        {
            "receivers": {
                "otlp": {
                    "protocols": {
                        "grpc": {"endpoint": f"127.0.0.1:{port}"},
                        "http": {"endpoint": "127.0.0.1:0"},
                    }
                }
            },
            "processors": {"graft": {"wait": {"after_root": f"{hold}s"}}},
            "exporters": {"otlp_grpc": {"endpoint": f"127.0.0.1:{to}", "tls": {"insecure": True}}},
            "extensions": {
                "health_check": None,
                "store": {"embedded": {"directory": str(directory), "memory": memory}, "max_bytes": "16GiB"},
            },
            "service": {
                "pipelines": {"traces": {"receivers": ["otlp"], "processors": ["graft"], "exporters": ["otlp_grpc"]}},
                "telemetry": {"metrics": {"endpoint": f"127.0.0.1:{free_port()}"}, "logs": {"level": "warn"}},
            },
        }
    )


async def held(traces: int, memory: bool, batch: int, hold: int) -> bool:
    """One filling; prints what it cost. False when a limit was passed or ids were lost."""
    port, sink_port = free_port(), free_port()
    workload = Workload(batch, LAP_TRACES)
    laps = range(max(1, traces // LAP_TRACES))
    payload = sum(len(t.request(0)) for t in workload.templates) * len(laps)
    with tempfile.TemporaryDirectory(prefix="grafter-bench-") as name, contextlib.ExitStack() as stack:
        stack.enter_context(process("-m", "bench.servers", "sink", "--port", str(sink_port)))
        await listening(sink_port)
        path = Path(name) / "config.yaml"
        path.write_text(_config(port, sink_port, Path(name) / "data", memory, hold))
        grafter = stack.enter_context(process("-m", "grafter", "run", "--config", str(path)))
        await listening(port)
        before = grafter.memory_info().rss
        began = time.perf_counter()
        sent = await send(port, workload, laps, 4)
        filled = time.perf_counter() - began
        growth = grafter.memory_info().rss - before
        out_already = int(await ask(sink_port, b"bytes"))
        # Nothing leaves before its hold is over; then everything does.
        await settled(sink_port, quiet=hold + 5.0, limit=hold + 60.0)
        came_out = json.loads(await ask(sink_port, b""))
    want = {k: v for k, v in expected(workload, laps, warm_up=False).items() if k != "spans"}
    got = {k: v for k, v in came_out.items() if k != "spans"}
    spans = sent.spans
    per_span = growth / spans
    share = growth / payload
    good = got == want and (share <= MEMORY_SHARE if memory else per_span <= DISK_BYTES)
    print(
        f"{'memory' if memory else 'disk':<7} batch {batch}: {len(laps) * LAP_TRACES} traces, {spans} spans, "
        f"{payload / 2**20:.0f} MiB sent in {filled:.0f} s ({out_already} bytes had left by then); "
        f"RSS +{growth / 2**20:.0f} MiB = {per_span:.0f} bytes a span = {share:.2f} of the payload; "
        f"came out: {'every id, once' if got == want and came_out['spans'] == spans else came_out}"
        + ("" if good else "   !")
    )
    return good


def main() -> None:
    """Read the arguments, run both stores, exit 1 when a limit was passed."""
    parser = argparse.ArgumentParser(prog="python -m bench.held")
    parser.add_argument("--traces", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--hold", type=int, default=90, help="seconds; more than the filling takes")
    parser.add_argument("--stores", nargs="+", default=["disk", "memory"], choices=["disk", "memory"])
    args = parser.parse_args()
    good = True
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for store in args.stores:
            good &= runner.run(held(args.traces, store == "memory", args.batch, args.hold))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
