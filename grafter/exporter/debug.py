"""Prints what leaves, for people: each released trace as a tree."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TextIO

from grafter.core.retry import RetryPolicy
from grafter.errors import RejectedError
from grafter.exporter.answer import TRACES, Accepted, ExportAnswer, Kind, Later, Refused, words
from grafter.exporter.sending import Limits, Sending
from grafter.exporter.tree import Verbosity, render
from grafter.telemetry import Metrics


@asynccontextmanager
async def opened(
    *,
    name: str,
    stream: TextIO,
    metrics: Metrics,
    verbosity: Verbosity = "normal",
    clock: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,
) -> AsyncIterator[Sending]:
    """An exporter that prints into a stream, which stays its owner's to close."""
    yield Sending(
        name,
        DebugAttempt(stream, verbosity),
        metrics=metrics,
        clock=clock,
        random=chance,
        retry=RetryPolicy(enabled=False),
        limits=Limits(num_consumers=1),
    )


class DebugAttempt:
    """One request's trees, printed whole; see Attempt."""

    def __init__(self, stream: TextIO, verbosity: Verbosity) -> None:
        self._stream = stream
        self._verbosity = verbosity

    async def send(self, kind: Kind, body: bytes) -> ExportAnswer:
        """See Attempt. A stream that cannot be written to now may be so later."""
        try:
            # A terminal or a pipe may stand still for as long as it likes.
            await asyncio.to_thread(self._print, kind, body)
        except RejectedError as error:
            return Refused(str(error))
        except (OSError, ValueError) as error:
            return Later(f"cannot print: {words(error)}", unknown=True)
        return Accepted()

    def _print(self, kind: Kind, body: bytes) -> None:
        text = render(body, self._verbosity) if kind == TRACES else f"{kind}: a request of {len(body):,} bytes\n"
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()
