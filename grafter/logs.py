"""grafter's own log: one line an event on stderr, for people or as JSON.

Data stands in ``extra``; payloads and keys stand nowhere.
"""

import json
import logging
import sys
import traceback
from collections.abc import Callable, Hashable
from time import monotonic
from typing import TextIO

# What a LogRecord has of its own; everything else came by ``extra``.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _OWN}


class _Console(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        """The first line; what has line breaks of its own must not look like further events."""
        extra = "".join(f" {key}={value}" for key, value in _extra(record).items())
        return (super().formatMessage(record) + extra).replace("\r", "\\r").replace("\n", "\\n")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str, encoding: str, stream: TextIO | None = None) -> None:
    """Send everything from ``level`` (debug, info, warn, error) up to ``stream``, ``encoding`` console or json."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if encoding == "json" else _Console("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel({"warn": logging.WARNING}.get(level, level.upper()))
    # Libraries speak up from warnings on, unless somebody debugs.
    for library in ("aiohttp", "asyncio", "grpc"):
        logging.getLogger(library).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


def log_bug(logger: logging.Logger, message: str, error: Exception) -> None:
    """Say where a bug was met, but not the exception's text, which may quote what somebody sent."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s", message, extra={"error": type(error).__name__, "where": where})


class Throttle:
    """Lets one line a minute through for each thing that goes on going wrong, so that it does not fill the log as well.

    ``clock`` gives seconds; keys must be few.
    """

    def __init__(self, seconds: float = 60.0, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._counts: dict[Hashable, int] = {}
        self._next: dict[Hashable, float] = {}

    def due(self, key: Hashable = None, count: int = 1) -> int:
        """Count what happened under ``key``: all of it since the last line when another may be written, else 0."""
        self._counts[key] = self._counts.get(key, 0) + count
        now = self._clock()
        if now < self._next.get(key, now):
            return 0
        self._next[key] = now + self._seconds
        return self._counts.pop(key)

    def rest(self, key: Hashable = None) -> int:
        """What happened under ``key`` and was not let through; for a last line."""
        return self._counts.pop(key, 0)
