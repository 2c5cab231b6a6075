"""``grafter backlog``: asked of a grafter that runs, and of its store when it has stopped; and what is said of it."""

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.commands import command
from tests.e2e.conftest import to_grpc
from tests.e2e.process import Grafter
from tests.e2e.sink import Sink, listening
from tests.e2e.test_dead import GOOD, request, send


@pytest.fixture
async def other() -> AsyncIterator[Sink]:
    """A second backend, that is away."""
    async with listening() as backend:
        backend.refuse = True
        yield backend


async def waits(spans: float, grafter: Grafter, session: aiohttp.ClientSession) -> bool:
    counters = await grafter.counters(session)
    return counters["grafter_exporter_backlog_spans"] == spans and counters["grafter_held_spans"] == 0


async def test_what_one_alone_has_not_got_is_said_and_given_up(tmp_path: Path, sink: Sink, other: Sink) -> None:
    """An exporter that is gone is named in the log and in /readyz, until a command gives up what waits for it."""
    grafter = Grafter(tmp_path, {"otlp_grpc/sink": to_grpc(sink), "otlp_grpc/other": to_grpc(other)})
    said = "4 spans wait for exporter otlp_grpc/other, which gets no traces by this config"

    async def stands_in_the_log(_session: aiohttp.ClientSession) -> bool:
        return said in grafter.log()

    try:
        await grafter.start()
        await send(grafter, request())
        await sink.until_spans(GOOD, 2)
        await grafter.until(partial(waits, 4, grafter), "the other's spans to wait for it")
        await grafter.terminate()
        config = grafter.config.read_text("utf-8")
        grafter.config.write_text(config.replace("otlp_grpc/other", "otlp_grpc/renamed"), "utf-8")
        await grafter.start()
        await grafter.until(stands_in_the_log, "its log to say what waits for nobody")
        await grafter.until(partial(waits, 4, grafter), "them to wait all the same")
        async with aiohttp.ClientSession() as session, session.get(f"{grafter.health}/readyz") as answer:
            assert said in await answer.text()

        code, out, err = await command(grafter, "backlog", "list", "--json")
        assert (code, err) == (0, "")
        (one,) = json.loads(out)["backlogs"]
        assert (one["exporter"], one["configured"], one["spans"]) == ("otlp_grpc/other", False, 4)
        await grafter.terminate()
        code, out, _ = await command(grafter, "backlog", "drop", "otlp_grpc/other", "--yes")
        assert (code, out) == (0, "4 spans that waited for otlp_grpc/other were dropped\n")
        code, out, err = await command(grafter, "backlog", "list")
        assert (code, out, err) == (0, "nothing waits for one exporter alone\n", "")
    finally:
        await grafter.close()
