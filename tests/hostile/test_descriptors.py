"""What strangers who only connect may cost: the door that they stand at, and neither the process nor another door."""

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import grpc
import grpc.aio
import pytest

from tests.e2e.process import Grafter
from tests.hostile.watch import running

JSON = {"Content-Type": "application/json"}
IDLE, DESCRIPTORS = 1010, 1024
DOORS = ("grpc", "http", "openai", "health", "metrics")


@contextmanager
def descriptors(limit: int) -> Iterator[None]:
    """The soft limit of this process, which one that it starts inherits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def address(grafter: Grafter, door: str) -> tuple[str, int]:
    url = {
        "grpc": f"//{grafter.otlp_grpc}",
        "http": grafter.otlp_http,
        "openai": grafter.ingest,
        "health": grafter.health,
        "metrics": grafter.metrics,
    }[door]
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


async def answers(grafter: Grafter, door: str) -> bool:
    """Whether somebody new is served there, within seconds."""
    if door == "grpc":
        async with grpc.aio.insecure_channel(grafter.otlp_grpc) as channel:
            export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
            try:
                await export(b"", timeout=60)
            except grpc.aio.AioRpcError:
                return False
        return True
    method, url, body = {
        "http": ("POST", f"{grafter.otlp_http}/v1/traces", b"{}"),
        "openai": ("POST", grafter.ingest, b'{"data":[]}'),
        "health": ("GET", f"{grafter.health}/healthz", None),
        "metrics": ("GET", grafter.metrics, None),
    }[door]
    timeout = aiohttp.ClientTimeout(total=5)
    try:
        async with aiohttp.request(method, url, data=body, headers=JSON, timeout=timeout) as answer:
            return answer.status in (200, 204)
    except (aiohttp.ClientError, TimeoutError):
        return False


async def test_idle_connections_take_no_other_door(tmp_path: Path) -> None:
    """Nearly as many as the process has descriptors, at each door in turn: the others serve, also a newcomer; when
    they are gone, that door does too."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 2 * DESCRIPTORS:
        pytest.skip("the connections of this test need more descriptors than this user may have")
    with descriptors(DESCRIPTORS):
        started = running(tmp_path)
        grafter, pid = await started.__aenter__()
    try:
        with descriptors(2 * DESCRIPTORS):
            for door in DOORS:
                await stand_at(grafter, pid, door)
    finally:
        await started.__aexit__(None, None, None)


async def stand_at(grafter: Grafter, pid: int, door: str) -> None:
    host, port = address(grafter, door)
    writers = []
    for _ in range(IDLE):
        _reader, writer = await asyncio.open_connection(host, port)
        writers.append(writer)
    try:
        served = {other: await answers(grafter, other) for other in DOORS if other != door}
        assert all(served.values()), (door, served)
        assert len(os.listdir(f"/proc/{pid}/fd")) < DESCRIPTORS / 2
    finally:
        for writer in writers:
            writer.close()
    async with asyncio.timeout(60):
        while not await answers(grafter, door):  # noqa: ASYNC110  # asked from outside
            await asyncio.sleep(0.05)
