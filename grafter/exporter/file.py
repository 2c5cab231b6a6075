"""Writes what leaves into a file: OTLP JSON, one ExportTraceServiceRequest a line."""

import asyncio
import fcntl
import os
import random
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from grafter.core.retry import RetryPolicy
from grafter.errors import RejectedError
from grafter.exporter.answer import TRACES, Accepted, ExportAnswer, Kind, Later, Refused
from grafter.exporter.sending import Limits, Sending
from grafter.otlp.json import trace_request_to_json
from grafter.telemetry import Metrics


@asynccontextmanager
async def opened(
    *,
    name: str,
    path: str | Path,
    metrics: Metrics,
    fsync: bool = False,
    retry: RetryPolicy | None = None,
    clock: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,
) -> AsyncIterator[Sending]:
    """An exporter that appends to a file, which it makes, readable to its owner alone, when it is not there.

    What is accepted has left the process; ``fsync`` True: and the machine's memory too.
    """
    retry = retry or RetryPolicy()
    yield Sending(
        name,
        FileAttempt(Path(path), fsync),
        metrics=metrics,
        clock=clock,
        random=chance,
        retry=RetryPolicy(
            retry.initial_interval, retry.max_interval, retry.multiplier, retry.randomization_factor, enabled=False
        ),
        limits=Limits(num_consumers=1),
    )


class FileAttempt:
    """One line; see Attempt."""

    def __init__(self, path: Path, fsync: bool) -> None:
        self._path = path
        self._fsync = fsync

    async def send(self, kind: Kind, body: bytes) -> ExportAnswer:
        """See Attempt. A full disk or a directory that is away means later; half a line is taken back."""
        if kind != TRACES:
            return Refused(f"a file takes traces only, not {kind}")
        try:
            await asyncio.to_thread(self._append, body)
        except RejectedError as error:
            return Refused(str(error))
        except OSError as error:
            return Later(f"cannot write {self._path}: {error.strerror or error}")
        return Accepted()

    def _append(self, request: bytes) -> None:
        line = trace_request_to_json(request) + b"\n"
        # Opened for each line, so that a file that was rotated away or deleted is begun anew.
        flags = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            file = os.open(self._path, flags | os.O_RDWR, 0o600)
        except PermissionError:
            file = os.open(self._path, flags | os.O_WRONLY, 0o600)
        try:
            self._write(file, line)
        finally:
            os.close(file)

    def _write(self, file: int, line: bytes) -> None:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            _write_all(file, line)
            return
        # One worker at a time: whoever takes half a line back must not take another's with it. Where the file system
        # has no locks there is no more to be done.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        try:
            if size and not self._whole(file, size):
                line = b"\n" + line
            _write_all(file, line)
            if self._fsync:
                os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise

    def _whole(self, file: int, size: int) -> bool:
        """Whether the file ends with a line break; a process that died while it wrote may have left half a line."""
        try:
            return os.pread(file, 1, size - 1) == b"\n"
        except OSError:
            return True


def _write_all(file: int, line: bytes) -> None:
    left = memoryview(line)
    while left:
        left = left[os.write(file, left) :]
