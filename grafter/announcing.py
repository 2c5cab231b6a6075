"""What the log says of the whole: what a start found, that a backend stays away, what a stop keeps."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from grafter import logs
from grafter.components import Config
from grafter.config.show import lines
from grafter.consumer import OpenedExporter
from grafter.tasks import beside
from grafter.telemetry import Held

logger = logging.getLogger("grafter")

# Often enough to stand in what somebody looks at, and far from filling it.
REMIND_SECONDS = 300.0
_POLL_SECONDS = 0.25


def open_log(config: Config) -> None:
    """Log as the config says, and first of all what it warns of."""
    logs.configure(config.service.telemetry.logs.level, config.service.telemetry.logs.encoding)
    for warning in config.warnings:
        logger.warning("%s", warning)


def log_config(config: Config, files: Sequence[str]) -> None:
    """Which files the config came from, and a line for each component that runs."""
    logger.info("config: %s", ", ".join(files) or "no file, the defaults")
    for line in lines(config):
        logger.info("%s", line)


def log_held(held: Held, *, lasting: bool) -> None:
    """What a stop leaves behind; ``lasting``: the store outlives the process."""
    if lasting:
        logger.info("stopped: %s, for the next start", _what(held))
    elif held.spans:
        logger.warning("the store is in memory: %d held spans end with this process", held.spans)


@asynccontextmanager
async def reminding(
    exporters: Mapping[str, OpenedExporter],
    held: Callable[[], Held],
    recovering: Callable[[], bool],
    seconds: float = REMIND_SECONDS,
    unwanted: Callable[[], Iterable[str]] = tuple,
) -> AsyncIterator[None]:
    """While the context is open: say what the store held, once it is known, and every ``seconds`` who takes nothing.

    ``unwanted``: a line for each exporter that is gone and left something behind.
    """

    async def remind() -> None:
        while recovering():  # noqa: ASYNC110  # the store says it when it is asked
            await asyncio.sleep(_POLL_SECONDS)
        logger.info("from before this start: %s", _what(held()))
        for line in unwanted():
            logger.warning("%s", line)
        while True:
            await asyncio.sleep(seconds)
            for line in outages(exporters.values(), held()):
                logger.warning("%s", line)

    async with beside(remind(), "reminding"):
        yield


def outages(exporters: Iterable[OpenedExporter], held: Held) -> list[str]:
    return [
        f"{name}: the peer has taken nothing for {outage.seconds:.0f} s; {_what(held)}{_alone(held, exporter.name)}: "
        f"{outage.reason}"
        for exporter in exporters
        for name, outage in exporter.outages().items()
    ]


def _alone(held: Held, exporter: str) -> str:
    spans = sum([one.spans for one in held.backlogs if one.exporter == exporter])
    return f", {spans} spans more wait for it alone" if spans else ""


def _what(held: Held) -> str:
    oldest = f", the oldest for {held.oldest_seconds:.0f} s" if held.traces else ""
    return f"{held.spans} spans of {held.traces} traces are held{oldest}"
