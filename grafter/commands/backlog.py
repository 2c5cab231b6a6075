"""``grafter backlog``: what other exporters have and one has not, and to give that up.

The grafter that runs is asked; where none listens, the store is opened here.
"""

from time import time_ns
from typing import TextIO

import orjson

from grafter.commands.admin_client import FAILURES, query, recovered_store
from grafter.components import Config
from grafter.core.explain import lasting
from grafter.core.model import JsonObject
from grafter.exporter.backlogs import Backlogs
from grafter.receiver.admin import BACKLOG_PATH
from grafter.telemetry import Metrics

_SECONDS = 300.0
"""Giving up a large backlog is one request."""


async def backlog(
    what: str, request: dict[str, object], config: Config, *, as_json: bool, out: TextIO, err: TextIO
) -> int:
    """0: done. 1: some of what was to be given up is on its way and stays, or nobody could be asked."""
    try:
        answer = await _answer(what, request, config)
    except FAILURES as error:
        err.write(f"backlog {what}: {error}\n")
        return 1
    if as_json:
        out.write(orjson.dumps(answer).decode() + "\n")
    else:
        out.writelines(f"{line}\n" for line in _lines(what, answer))
    return 1 if answer.get("left") else 0


async def _answer(what: str, request: dict[str, object], config: Config) -> JsonObject:
    answer = await query(config, f"{BACKLOG_PATH}/{what}", request, _SECONDS)
    if answer is not None:
        return answer
    exporters = config.active().pipelines["traces"].exporters
    async with recovered_store(config) as store:
        return await Backlogs(store, exporters, Metrics(), lambda: max(time_ns(), store.moment)).answer(what, request)


def _lines(what: str, answer: JsonObject) -> list[str]:
    if what == "drop":
        lines = [f"{answer['spans']} spans that waited for {answer['exporter']} were dropped"]
        if answer["left"]:
            lines.append(f"{answer['left']} stay: they are on their way, or were a moment ago; try again")
        return lines
    backlogs = answer["backlogs"]
    assert isinstance(backlogs, list)
    return [
        f"{one['exporter']}: {one['spans']} spans, {one['bytes']} bytes"
        + ("" if one["oldest_seconds"] is None else f", the first for {lasting(int(one['oldest_seconds'] * 1e9))}")
        + ("" if one["configured"] else "; no exporter of that name is configured")
        for one in backlogs
    ] or ["nothing waits for one exporter alone"]
