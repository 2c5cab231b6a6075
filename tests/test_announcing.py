"""What the log says of the whole, for somebody who reads nothing else."""

import asyncio
import logging
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from grafter.announcing import outages, reminding
from grafter.core.retry import RetryPolicy
from grafter.exporter.answer import Accepted, ExportAnswer, Later
from grafter.exporter.sending import Limits, Sending
from grafter.telemetry import Held, Metrics
from tests.exporter.doubles import Clock, Script, batch, middle, trace
from tests.ports import free_ports

HELD = Held(
    traces=3,
    spans=12,
    bytes=900,
    limit_bytes=1 << 30,
    disk_bytes=900,
    oldest_seconds=754.0,
    remembered=0,
    store_up=True,
)


def sending(script: Script, clock: Clock, metrics: Metrics) -> Sending:
    """An exporter to a peer that answers by a script, without patience of its own."""
    retry = RetryPolicy(initial_interval=5.0, max_interval=30.0, randomization_factor=0.0)
    return Sending(
        "otlp_http/b",
        script,
        metrics=metrics,
        clock=clock,
        random=middle,
        sleep=clock.sleep,
        retry=retry,
        limits=Limits(),
    )


def up(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("grafter_exporter_up", {"exporter": "otlp_http/b"})


async def test_a_peer_that_is_down_is_said_until_its_next_success() -> None:
    """Between two tries too, when another try is due, and with the latest reason."""
    metrics, clock = Metrics(), Clock()
    answers: list[ExportAnswer] = [Later("HTTP 503: busy", fault=True), Later("HTTP 401", fault=True), Accepted()]
    script = Script(lambda _body: answers.pop(0))
    exporter = sending(script, clock, metrics)
    assert (up(metrics), outages([exporter], HELD)) == (1.0, [])
    await exporter.export(batch(trace(1)))
    for expected in ("HTTP 503: busy", "HTTP 401"):
        began = clock()
        clock.now += 600.0
        assert exporter.retry_in() == 0.0
        (line,) = outages([exporter], HELD)
        assert re.fullmatch(
            rf"otlp_http/b: the peer has taken nothing for \d+ s; 12 spans of 3 traces are held, "
            rf"the oldest for 754 s: {expected}",
            line,
        ), (line, began)
        assert up(metrics) == 0.0
        await exporter.export(batch(trace(1)))
    assert (up(metrics), outages([exporter], HELD)) == (1.0, [])


async def test_a_peer_that_stays_away_is_said_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    """One line at the outage would have scrolled away by the time when somebody looks."""
    clock = Clock()
    exporter = sending(Script(lambda _body: Later("HTTP 503")), clock, Metrics())
    await exporter.export(batch(trace(1)))
    recovering = [True, True, False]
    caplog.set_level(logging.INFO, "grafter")
    async with (
        asyncio.timeout(30),
        reminding({"otlp_http/b": exporter}, lambda: HELD, lambda: recovering.pop(0), 0.01),
    ):
        while caplog.text.count("has taken nothing") < 3:  # noqa: ASYNC110  # a log has no event
            await asyncio.sleep(0.01)
    assert recovering == []
    assert caplog.messages[1 if "takes nothing" in caplog.messages[0] else 0].startswith(
        "from before this start: 12 spans of 3 traces are held, the oldest for 754 s"
    )


async def test_a_start_and_a_stop_say_what_runs_and_what_is_kept(tmp_path: Path) -> None:
    """Files, components with their addresses and the store's directory; then what stays."""
    ports = free_ports(5)
    file = tmp_path / "my.yaml"
    file.write_text(
        f"receivers: {{otlp: {{protocols: {{grpc: {{endpoint: 'localhost:{ports[0]}'}},"
        f" http: {{endpoint: 'localhost:{ports[1]}'}}}}}}, openai: {{endpoint: 'localhost:{ports[2]}'}}}}\n"
        f"exporters: {{otlp_http: {{endpoint: 'http://localhost:1', headers: {{x-key: secret}}}}}}\n"
        f"extensions: {{store: {{embedded: {{directory: '{tmp_path}/held'}}}},"
        f" health_check: {{endpoint: 'localhost:{ports[3]}'}}}}\n"
        f"service: {{telemetry: {{metrics: {{endpoint: 'localhost:{ports[4]}'}}}}}}\n"
    )
    log = await run_until("extension health_check", "--config", str(file))
    assert f"INFO grafter: config: {file}\n" in log
    assert f"INFO grafter: receiver otlp: grpc localhost:{ports[0]}, http localhost:{ports[1]}\n" in log
    assert "INFO grafter: exporter otlp_http: http http://localhost:1/v1/traces\n" in log
    assert f"INFO grafter: extension store: embedded, {tmp_path}/held, up to 4GiB\n" in log
    assert "INFO grafter: from before this start: 0 spans of 0 traces are held\n" in log
    assert "INFO grafter: stopped: 0 spans of 0 traces are held, for the next start\n" in log
    assert "secret" not in log


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_start_that_waits_for_redis_says_so_and_ends_by_ctrl_c(workers: str) -> None:
    """It waits as long as it takes: /readyz is 503 and says what for, and nobody has to kill it."""
    settings = ["--set", "extensions.store.redis.url=redis://localhost:1", "--workers", workers]
    names = (
        "receivers.otlp.protocols.grpc",
        "receivers.otlp.protocols.http",
        "receivers.openai",
        "extensions.health_check",
        "extensions.lookup",
        "service.telemetry.metrics",
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    for name, port in ports.items():
        settings += ["--set", f"{name}.endpoint=localhost:{port}"]

    async def asked() -> None:
        ready = f"http://localhost:{ports['extensions.health_check']}/readyz"
        async with aiohttp.ClientSession() as http, http.get(ready) as answer:
            body = await answer.json()
            assert (answer.status, body["status"]) == (503, "starting")
            assert body["troubles"]["store"].startswith("waiting for it: Redis at localhost:1: cannot connect")

    log = await run_until("waiting for Redis", *settings, then=asked)
    assert "SIGINT: stopping" in log
    assert "Traceback" not in log


async def nothing() -> None:
    """More to do."""


async def run_until(words: str, *arguments: str, then: Callable[[], Awaitable[None]] = nothing) -> str:
    """``grafter run`` until its log has the words, and what is to be done then, and SIGINT; what it printed. It ends by
    itself, with 0."""
    command = (sys.executable, "-m", "grafter", "run", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            log = ""
            while words not in log:
                line = await process.stderr.readline()
                assert line, log
                log += line.decode()
        await then()
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            rest = await process.stderr.read()
            assert await process.wait() == 0, rest.decode()
        return log + rest.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
