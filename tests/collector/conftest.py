"""A real Collector, built from its Go modules, of the few components that stand in ``main.go``; that takes minutes the
first time."""

import asyncio
import contextlib
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ports import free_port

HERE = Path(__file__).parent
GATE = "--feature-gates=+processor.tailsamplingprocessor.usetracestate"

Collector = Callable[[Path, Mapping[str, Any]], AbstractAsyncContextManager[str]]


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Collector; a skip where none can be had."""
    if shutil.which("go") is None:
        pytest.skip("a Collector is built with Go, which is not here")
    out = tmp_path_factory.mktemp("collector") / "collector"
    built = asyncio.run(_run("go", "build", "-trimpath", "-o", str(out), "."))
    if not out.exists():
        pytest.skip(f"no Collector can be built here: {built[-300:]}")
    yield out
    out.unlink()


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=HERE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return said.decode(errors="replace")


@pytest.fixture(scope="session")
def collector(binary: Path) -> Collector:
    """Runs it: where its OTLP/gRPC receiver listens, for the duration of the block. Of the config given, all processors
    and exporters are one pipeline."""

    @contextlib.asynccontextmanager
    async def running(home: Path, given: Mapping[str, Any]) -> AsyncIterator[str]:
        port = free_port()
        receivers = {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{port}"}}}}
        parts = {"receivers": receivers, "processors": {}, **given}
        pipeline = {kind: list(parts[kind]) for kind in ("receivers", "processors", "exporters")}
        path, log = home / "collector.yaml", home / "collector.log"
        path.write_text(yaml.safe_dump(parts | {"service": {"pipelines": {"traces": pipeline}}}), encoding="utf-8")
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                str(binary), f"--config={path}", GATE, stdout=out, stderr=out
            )
        try:
            async with asyncio.timeout(30):
                while not _listens(port):
                    assert process.returncode is None, log.read_text(encoding="utf-8")[-3000:]
                    await asyncio.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 30)

    return running


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
