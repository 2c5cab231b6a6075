"""``python -m bench.webhook``: how long a trace export of 1,000 spans waits for its answer, each single one.

Of a grafter in a process of its own, stored on disk: first with nothing beside it, then while the trace before it is
joined and leaves, which is what most of a grafter's computing is.
"""

import asyncio
import contextlib
import gc
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import orjson
import uvloop
from standardwebhooks import Webhook

from bench.__main__ import listening, process
from tests.ports import free_port

SPANS, ROUNDS = 1_000, 100
LIMIT_MS = 50
SECRET = "whsec_" + "QUJD" * 8
# Apart from each other by no multiple of the wait, so that a delivery meets any moment of a join.
PAUSE_SECONDS, HOLD_SECONDS = 0.23, 1.0
HELD_SECONDS = 600.0


@asynccontextmanager
async def grafter(hold: float) -> AsyncIterator[str]:
    """The address of the door of one whose guests wait this long for their hosts, which never come."""
    port, sink_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="grafter-bench-") as name, contextlib.ExitStack() as stack:
        stack.enter_context(process("-m", "bench.servers", "sink", "--port", str(sink_port)))
        await listening(sink_port)
        receiver = {"endpoint": f"127.0.0.1:{port}", "projects": {"default": {"webhook_secrets": [SECRET]}}}
        config = {
            "receivers": {"openai": receiver},
            "processors": {"graft": {"wait": {"idle": f"{hold}s"}}},
            "exporters": {"otlp_grpc": {"endpoint": f"127.0.0.1:{sink_port}", "tls": {"insecure": True}}},
            "extensions": {"health_check": None, "store": {"embedded": {"directory": f"{name}/data"}}},
            "service": {
                "telemetry": {"metrics": {"endpoint": f"127.0.0.1:{free_port()}"}, "logs": {"level": "warn"}},
            },
        }
        path = Path(name) / "config.yaml"
        path.write_text(json.dumps(config), "utf-8")
        stack.enter_context(process("-m", "grafter", "run", "--config", str(path)))
        await listening(port)
        yield f"http://127.0.0.1:{port}/webhooks/openai"


def delivery(number: int) -> tuple[bytes, dict[str, str]]:
    """One trace, every span of it a model's answer with its messages, signed."""
    trace_id = f"trace_{number:032x}"
    said = [{"role": "user", "content": "Is there a free slot on Thursday?" * 4}]
    spans = [
        {
            "object": "trace.span",
            "id": f"span_{n:024x}",
            "trace_id": trace_id,
            "parent_id": f"span_{n // 4:024x}" if n else None,
            "started_at": "2026-11-22T21:26:31.675400+00:00",
            "ended_at": "2026-11-22T21:26:32.175400+00:00",
            "span_data": {
                "type": "generation",
                "model": "gpt-5",
                "input": said,
                "output": said,
                "usage": {"input_tokens": 9},
            },
            "error": None,
        }
        for n in range(SPANS)
    ]
    data = {
        "object": "trace",
        "id": trace_id,
        "workflow_name": "bench",
        "metadata": {"trace_id": f"{number + 1:032x}"},
        "spans": spans,
    }
    body = orjson.dumps({"object": "event", "id": "evt_1", "type": "trace.exported", "data": data})
    now = datetime.fromtimestamp(time.time_ns() // 1_000_000_000, UTC)
    identity = f"wh_{number}"
    signature = Webhook(SECRET).sign(identity, now, body.decode())
    moment = str(int(now.timestamp()))
    return body, {"webhook-id": identity, "webhook-timestamp": moment, "webhook-signature": signature}


def lateness(stop: threading.Event, worst: list[float]) -> None:
    """How late this machine wakes who asks for a millisecond, in milliseconds: its own share in what is measured."""
    while not stop.is_set():
        began = time.perf_counter()
        time.sleep(0.001)
        worst[0] = max(worst[0], (time.perf_counter() - began) * 1000 - 1)


async def measure(hold: float, pause: float) -> list[float]:
    """Milliseconds from the first byte sent to the answer, one delivery after the other."""
    took = []
    async with grafter(hold) as url, aiohttp.ClientSession() as client:
        for number in range(ROUNDS):
            body, headers = delivery(number)
            began = time.perf_counter()
            async with client.post(url, data=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
            took.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(pause)
    return took


def main() -> None:
    """Exit 1 when a single one was slower than the limit."""
    # The measuring process must not stand still in a measure.
    gc.disable()
    sys.setswitchinterval(0.0005)
    size = len(delivery(0)[0])
    print(f"a webhook of {SPANS:,} spans ({size / 1e6:.2f} MB), {ROUNDS} of them (each at most {LIMIT_MS} ms)")
    slow = False
    for what, hold, pause in (("alone", HELD_SECONDS, 0.0), ("beside joins", HOLD_SECONDS, PAUSE_SECONDS)):
        stop, worst = threading.Event(), [0.0]
        watching = threading.Thread(target=lateness, args=(stop, worst))
        watching.start()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            took = sorted(runner.run(measure(hold, pause)))
        stop.set()
        watching.join()
        slow |= took[-1] > LIMIT_MS
        tail = ", ".join(f"{one:.1f}" for one in took[-3:])
        print(
            f"  {what:<13} median {statistics.median(took):.1f} ms, the slowest {tail} ms;"
            f" the machine itself was late by up to {worst[0]:.1f} ms"
        )
    sys.exit(int(slow))


if __name__ == "__main__":
    main()
