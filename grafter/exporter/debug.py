"""Prints what leaves, for people: each released trace as a tree."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, TextIO

from grafter.errors import RejectedError
from grafter.exporter.answer import TRACES, Accepted, ExportAnswer, Kind, Later, Refused, words
from grafter.exporter.config import ExporterConfig

Verbosity = Literal["basic", "normal", "detailed"]


class DebugExporter(ExporterConfig):
    """Prints what leaves, for people."""

    verbosity: Verbosity = "normal"
    """`basic`: a line a trace; `normal`: the tree; `detailed`: the tree with attributes."""

    def describe(self) -> str:
        return f"stdout, {self.verbosity}"

    @asynccontextmanager
    async def attempts(self, name: str) -> "AsyncIterator[DebugAttempt]":
        yield DebugAttempt(sys.stdout, self.verbosity)


class DebugAttempt:
    """One request's trees, printed whole into a stream, which stays its owner's to close; see Attempt."""

    def __init__(self, stream: TextIO, verbosity: Verbosity) -> None:
        self._stream = stream
        self._verbosity = verbosity

    async def send(self, kind: Kind, body: bytes) -> ExportAnswer:
        """See Attempt. A stream that cannot be written to now may be so later."""
        try:
            # A terminal or a pipe may stand still for as long as it likes.
            await asyncio.to_thread(self._print, kind, body)
        except RejectedError as error:
            return Refused(str(error), own=True)
        except (OSError, ValueError) as error:
            return Later(f"cannot print: {words(error)}", unknown=True)
        return Accepted()

    def _print(self, kind: Kind, body: bytes) -> None:
        from grafter.exporter.tree import render

        text = render(body, self._verbosity) if kind == TRACES else f"{kind}: a request of {len(body):,} bytes\n"
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()
