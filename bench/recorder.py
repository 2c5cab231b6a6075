"""``python -m bench.recorder``: grafter recording 500 calls of 50 events a second each.

The CPU time is that of a whole grafter, doors, store and recorders, in a process of its own; the memory is what a
recorder adds to a process that holds nothing else, so that no other room's high-water mark hides it.
"""

import argparse
import asyncio
import base64
import contextlib
import gc
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import psutil
import uvloop
from aiohttp import web

from bench.__main__ import listening, process
from grafter.consumer import Consumer
from grafter.core.model import DedupeKey, NamedLink, Part
from grafter.core.policy import GraftPolicy
from grafter.receiver.openai_api import Account
from grafter.receiver.recorder import recording
from grafter.telemetry import Metrics
from tests.ports import free_port

CALLS, RATE, SECONDS = 500, 50, 15
LIMIT_CORES, LIMIT_KIB = 0.5, 40.0
_SLICES = 10
_AUDIO = base64.b64encode(bytes(480)).decode()


def events() -> list[str]:
    """Five seconds of one call: an answer of audio and transcript, the caller's words, usage at its end."""
    within = {"response_id": "resp_" + "a" * 24, "item_id": "item_" + "b" * 24, "output_index": 0, "content_index": 0}
    usage = {
        "total_tokens": 180,
        "input_tokens": 120,
        "output_tokens": 60,
        "input_token_details": {"text_tokens": 80, "audio_tokens": 40, "cached_tokens": 64},
        "output_token_details": {"text_tokens": 20, "audio_tokens": 40},
    }
    response = {"id": within["response_id"], "object": "realtime.response", "output": [], "conversation_id": "conv_1"}
    audio = {"type": "response.output_audio.delta", **within, "delta": _AUDIO}
    text = {"type": "response.output_audio_transcript.delta", **within, "delta": " tomorrow"}
    some: list[dict[str, object]] = [
        {"type": "input_audio_buffer.speech_started", "audio_start_ms": 100, "item_id": "item_1"},
        {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 900, "item_id": "item_1"},
        {"type": "input_audio_buffer.committed", "item_id": "item_1", "previous_item_id": None},
        {"type": "response.created", "response": {**response, "status": "in_progress"}},
        *([audio] * 6 + [text]) * 35,
        {"type": "response.done", "response": {**response, "status": "completed", "usage": usage}},
    ]
    return [json.dumps({"event_id": f"event_{n:020}", **event}) for n, event in enumerate(some)]


async def peer(port: int, calls: int) -> None:
    """OpenAI's side: begins when all calls are listened to, and sends at an even pace."""
    sockets: list[web.WebSocketResponse] = []
    everybody = asyncio.Event()

    async def listen(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sockets.append(socket)
        if len(sockets) == calls:
            everybody.set()
        async for _ in socket:
            pass
        sockets.remove(socket)
        return socket

    app = web.Application()
    app.router.add_get("/v1/realtime", listen)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await everybody.wait()
    began, turn = time.monotonic(), 0
    for event in itertools.cycle(events()):
        for at in range(_SLICES):
            for socket in sockets[at::_SLICES]:
                with contextlib.suppress(ConnectionError):
                    await socket.send_str(event)
            turn += 1
            await asyncio.sleep(began + turn / (RATE * _SLICES) - time.monotonic())


def config(port: int, to: int, metrics: int, directory: Path) -> str:
    """grafter as it comes, but for its addresses."""
    return json.dumps(
        {
            "receivers": {
                "openai": {
                    "endpoint": f"127.0.0.1:{port}",
                    "projects": {"default": {"api_key": "sk-bench", "base_url": f"http://127.0.0.1:{to}/v1"}},
                }
            },
            "exporters": {"file": {"path": str(directory / "out.jsonl")}},
            "extensions": {"health_check": None, "store": {"embedded": {"directory": str(directory / "store")}}},
            "service": {
                "telemetry": {"metrics": {"endpoint": f"127.0.0.1:{metrics}"}, "logs": {"level": "warn"}},
            },
        }
    )


async def heard(session: aiohttp.ClientSession, metrics: int) -> float:
    """Events that grafter has counted."""
    async with session.get(f"http://127.0.0.1:{metrics}/metrics") as answer:
        page = await answer.text()
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith("grafter_guest_items_t"))


class _Nowhere(Consumer):
    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        pass


async def memory(to: int) -> float:
    """KiB that a recorder takes while it listens, in this process."""
    account = Account("sk-bench", f"http://127.0.0.1:{to}/v1")
    async with recording(_Nowhere(), Metrics(), GraftPolicy(), account) as recorders:
        await recorders.start("rtc_first")
        await asyncio.sleep(1)
        gc.collect()
        before = psutil.Process().memory_info().rss
        for n in range(CALLS):
            await recorders.start(f"rtc_{n}")
        await asyncio.sleep(2)
        gc.collect()
        return (psutil.Process().memory_info().rss - before) / 1024 / CALLS


async def measure() -> bool:
    """Record, print, and say whether both limits hold."""
    port, to, metrics = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "config.json"
        file.write_text(config(port, to, metrics, Path(home)))
        with (
            process("-m", "bench.recorder", "peer", "--port", str(to), "--calls", str(CALLS)),
            process("-m", "grafter", "run", "--config", str(file)) as grafter,
        ):
            await listening(to)
            kib = await memory(to)
            await listening(port)
            url = f"http://127.0.0.1:{port}/v1/realtime/calls"
            async with aiohttp.ClientSession() as session:

                async def start(call: str) -> None:
                    async with session.post(url, json={"call_id": call}) as answer:
                        assert answer.status == 202, await answer.text()

                for n in range(CALLS):
                    await start(f"rtc_{n}")
                await asyncio.sleep(5)
                events_before, cpu_before, began = await heard(session, metrics), grafter.cpu_times(), time.monotonic()
                await asyncio.sleep(SECONDS)
                events_after, cpu, seconds = (
                    await heard(session, metrics),
                    grafter.cpu_times(),
                    time.monotonic() - began,
                )
    cores = (cpu.user + cpu.system - cpu_before.user - cpu_before.system) / seconds
    rate = (events_after - events_before) / seconds
    print(
        f"{CALLS} recorded calls, {rate:,.0f} events/s: {cores:.2f} of a core (limit {LIMIT_CORES}), "
        f"{cores / rate * 1e6:.1f} us an event, {kib:.0f} KiB a call (limit {LIMIT_KIB:.0f})"
    )
    return cores <= LIMIT_CORES and kib <= LIMIT_KIB and rate >= 0.9 * CALLS * RATE


def main() -> None:
    """Measure, or be the peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", nargs="?", default="measure")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--calls", type=int, default=0)
    options = parser.parse_args()
    if options.role == "peer":
        uvloop.run(peer(options.port, options.calls))
    else:
        sys.exit(0 if uvloop.run(measure()) else 1)


if __name__ == "__main__":
    main()
