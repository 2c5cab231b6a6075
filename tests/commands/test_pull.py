"""``grafter pull`` where OpenAI, or the grafter that is asked, takes its time."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from grafter.commands.pull import pull
from grafter.components import load
from grafter.config.units import Endpoint
from tests.ports import free_ports


@asynccontextmanager
async def silent(port: int) -> AsyncIterator[asyncio.Event]:
    """A server that takes a question and never answers."""
    asked = asyncio.Event()

    async def handle(_request: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "localhost", port).start()
    try:
        yield asked
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("runs", [True, False])
async def test_a_wait_is_told_and_ends_in_time(tmp_path: Path, runs: bool) -> None:
    """Whether a grafter is asked or the store is opened here: lines while it waits, then one that says what is."""
    (port, openai) = free_ports(2)
    sets = [
        f"receivers.openai.endpoint=localhost:{port}",
        f"receivers.openai.projects.default.base_url=http://localhost:{openai}/v1",
        "receivers.openai.projects.default.api_key=sk-0123",
        f"extensions.store.embedded.directory={tmp_path}/held",
    ]
    out, err = io.StringIO(), io.StringIO()
    async with silent(port if runs else openai) as asked:
        config = load([], sets, env={})
        code = await pull("sess_1", None, config, as_json=False, out=out, err=err, seconds=1.0, report_seconds=0.2)
        assert asked.is_set()
    assert (code, out.getvalue()) == (1, "")
    *told, last = err.getvalue().splitlines()
    assert told
    assert {line.rsplit(",", 1)[0] for line in told} == {"pull: waiting for OpenAI to let sess_1 be read"}
    expected = (
        f"pull: {Endpoint(f'localhost:{port}')} gave no answer within 1 s"
        if runs
        else "pull: OpenAI has not let it be read for 1 s; the next grafter that runs goes on trying"
    )
    assert last == expected
