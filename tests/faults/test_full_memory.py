"""Memory that is full of held spans refuses; once they have left the doors are open, whatever the allocator keeps."""

import asyncio
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

from tests.e2e.process import Grafter
from tests.exporter.doubles import http_peer
from tests.processor.test_processor import host_request

HEADERS = {"Content-Type": "application/x-protobuf"}
LIMIT = "230MiB"
OPEN_SECONDS = 5.0
PATIENCE_SECONDS = 120.0


def traces(first: int, count: int) -> bytes:
    """A request of as many traces, each of one span; requests may be put one behind the other."""
    return b"".join(host_request((first + n).to_bytes(16), (1, 0, "root")) for n in range(count))


async def test_the_doors_open_when_what_filled_the_memory_has_left(tmp_path: Path) -> None:
    """Refused at the limit with a hint, nothing lost, and taken again within seconds of the last release."""
    down = True

    async def backend(_body: bytes) -> web.StreamResponse:
        return web.Response(status=503 if down else 200)

    async with http_peer(backend) as peer, aiohttp.ClientSession() as http:
        store = {"embedded": {"memory": True}, "max_bytes": "1GiB"}
        grafter = Grafter(tmp_path, {"otlp_http": {"endpoint": f"http://{peer.address}"}}, store=store)
        config = yaml.safe_load(grafter.config.read_text())
        config["service"]["memory_limit"] = LIMIT
        grafter.config.write_text(yaml.safe_dump(config))

        async def send(first: int) -> int:
            url = f"{grafter.otlp_http}/v1/traces"
            async with http.post(url, data=traces(first, 2000), headers=HEADERS) as answer:
                return answer.status

        try:
            await grafter.start()
            accepted = 0
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (status := await send(1 + accepted)) == 200:
                    accepted += 2000
            assert status == 503
            assert "memory limit reached" in grafter.log()
            assert accepted > 50_000
            down = False
            async with asyncio.timeout(PATIENCE_SECONDS):
                # A process of its own says it, at its metrics.
                while (counters := await grafter.counters(http))["grafter_held_traces"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
            assert counters["grafter_exporter_sent_spans_total"] == accepted
            async with asyncio.timeout(OPEN_SECONDS):
                while await send(1 << 40) != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        finally:
            await grafter.close()
