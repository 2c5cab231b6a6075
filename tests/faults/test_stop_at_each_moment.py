"""A SIGTERM at each moment of a trace's way: an orderly stop, and the next start goes on where it was."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.e2e.process import Grafter
from tests.faults.random_troubles import World, unsettled
from tests.faults.stopped_at import MOMENTS
from tests.faults.troubles_oracle import Oracle, backend
from tests.store.redis.servers import server

pytestmark = pytest.mark.slow

PATIENCE = 60.0


@asynccontextmanager
async def world(home: Path, store: dict[str, Any]) -> AsyncIterator[World]:
    """A grafter that does not run yet, its backend, and what was sent."""
    async with backend(Oracle()) as peer:
        retry = {"initial_interval": "100ms", "max_interval": "1s"}
        exporters = {"otlp_http": {"endpoint": peer.address, "timeout": "60s", "retry_on_failure": retry}}
        one = Grafter(home, exporters, store=store)
        config = yaml.safe_load(one.config.read_text())
        config["service"]["shutdown_timeout"] = "10s"
        one.config.write_text(yaml.safe_dump(config))
        try:
            yield World(random.Random(1), peer.oracle, peer, [one], home)
        finally:
            await one.close()


async def all_is_well(here: World, http: aiohttp.ClientSession) -> None:
    """Return when everything is out once, or marked, and the books balance."""
    while await unsettled(here, http):  # noqa: ASYNC110  # metrics wake nobody
        await asyncio.sleep(0.1)
    assert here.oracle.faults() == []


@pytest.fixture(params=["embedded", "redis"])
async def here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """On each store."""
    if request.param == "embedded":
        async with world(tmp_path, {"embedded": {"directory": str(tmp_path / "store")}}) as made:
            yield made
        return
    with server() as redis:
        async with world(tmp_path, {"redis": {"url": redis.url, "timeout": "2s"}, "lease": "3s"}) as made:
            made.redis = redis
            yield made


async def test_a_stop_at_any_moment_is_in_order(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with 0; what was acknowledged comes out, what may go out twice is marked, and the books balance."""
    (one,) = here.grafters
    async with aiohttp.ClientSession() as http:
        for moment in MOMENTS:
            monkeypatch.setenv("STOPPED_AT", moment)
            await one.start("tests.faults.stopped_at", ready=False)
            ends = time.monotonic() + PATIENCE
            while one.is_alive():
                assert time.monotonic() < ends, (moment, one.log())
                await here.send(http, 3)
                await asyncio.sleep(0.02)
            assert one.exit_code == 0, (moment, one.log())
        assert len(here.oracle.acknowledged) > 0
        await one.start()
        async with asyncio.timeout(PATIENCE):
            await all_is_well(here, http)


@pytest.mark.parametrize("mode", ["slow", "hanging"])
async def test_a_stop_while_a_backend_has_the_spans_is_in_order(here: World, mode: str) -> None:
    """Its answer is waited for as long as there is time; without one the spans go out again, marked."""
    (one,) = here.grafters
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as http:
        await one.start()
        here.backend.mode = mode
        assert await here.send(http, 3)
        while not here.oracle.copies:  # noqa: ASYNC110  # it is counted in a thread
            await asyncio.sleep(0.01)
        assert await one.terminate() == 0, one.log()
        here.backend.mode = ""
        await one.start()
        await all_is_well(here, http)
        assert (here.oracle.repeated() > 0) is (mode == "hanging")


async def test_a_stop_while_redis_is_silent_is_in_order(here: World) -> None:
    """With a backend's answer that cannot be stored: Redis is given up in time, and nothing is lost by that."""
    if here.redis is None:
        pytest.skip("the embedded store has no server")
    (one,) = here.grafters
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as http:
        await one.start()
        here.backend.mode = "slow"
        assert await here.send(http, 3)
        while not here.oracle.copies:  # noqa: ASYNC110  # it is counted in a thread
            await asyncio.sleep(0.01)
        here.redis.pause()
        try:
            assert await one.terminate() == 0, one.log()
        finally:
            here.redis.resume()
        here.backend.mode = ""
        await one.start()
        await all_is_well(here, http)
