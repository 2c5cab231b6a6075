"""``python -m bench.webhook``: how long a trace export of 1,000 spans waits for its answer, stored on disk."""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import orjson
import uvloop
from standardwebhooks import Webhook

from bench.workload import START
from grafter.core.lifecycle import look_at
from grafter.core.model import Mark, Part, UnixNano
from grafter.core.policy import SECOND, GraftPolicy
from grafter.receiver.openai_http import listening
from grafter.receiver.signatures import Signatures
from grafter.receiver.webhook_http import Desk, webhook_routes
from grafter.store import embedded
from grafter.store.embedded import EmbeddedStore
from grafter.telemetry import Metrics

SPANS, ROUNDS = 1_000, 30
LIMIT_MS = 50
SECRET = "whsec_" + "QUJD" * 8


class Storing:
    """A consumer that is nothing but the store."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._store = store

    async def consume(self, parts: Sequence[Part], marks: Sequence[Mark] = ()) -> None:
        await self._store.append(parts, UnixNano(START), marks)


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
        "metadata": {"trace_id": "ab" * 16},
        "spans": spans,
    }
    body = orjson.dumps({"object": "event", "id": "evt_1", "type": "trace.exported", "data": data})
    now = datetime.fromtimestamp(time.time_ns() // SECOND, UTC)
    identity = f"wh_{number}"
    signature = Webhook(SECRET).sign(identity, now, body.decode())
    moment = str(int(now.timestamp()))
    return body, {"webhook-id": identity, "webhook-timestamp": moment, "webhook-signature": signature}


async def measure(directory: Path) -> list[float]:
    """Milliseconds from the first byte sent to the answer, one delivery after the other."""
    policy = GraftPolicy()
    async with embedded.opened(
        directory,
        waits=policy.waits,
        max_bytes=1 << 30,
        max_trace_bytes=1 << 30,
        lease_ns=10 * SECOND,
        guests_apart=False,
        look_at=look_at,
    ) as store:
        signatures = Signatures({"default": [SECRET]}, 300 * SECOND)
        routes = webhook_routes(Desk(Storing(store), store), signatures, Metrics(), policy, time.time_ns)
        took = []
        async with (
            listening(routes, endpoint="127.0.0.1:0", grace_seconds=1.0) as port,
            aiohttp.ClientSession() as client,
        ):
            for number in range(ROUNDS):
                body, headers = delivery(number)
                began = time.perf_counter()
                async with client.post(
                    f"http://127.0.0.1:{port}/webhooks/openai", data=body, headers=headers
                ) as answer:
                    assert answer.status == 200, await answer.text()
                took.append((time.perf_counter() - began) * 1000)
        return took


def main() -> None:
    """Exit 1 when the median is slower than the limit."""
    with tempfile.TemporaryDirectory() as directory, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        took = runner.run(measure(Path(directory)))
    median = statistics.median(took)
    size = len(delivery(0)[0])
    print(
        f"a webhook of {SPANS:,} spans ({size / 1e6:.2f} MB): {median:.1f} ms, at most {max(took):.1f} ms of {ROUNDS}"
        f" (at most {LIMIT_MS} ms)"
    )
    sys.exit(int(median > LIMIT_MS))


if __name__ == "__main__":
    main()
