"""Writes what leaves into a file: OTLP JSON, one ExportTraceServiceRequest a line."""

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from grafter.config.model import Flag, Word
from grafter.errors import RejectedError
from grafter.exporter.answer import TRACES, Accepted, ExportAnswer, Kind, Later, Refused
from grafter.exporter.config import ExporterConfig


class FileExporter(ExporterConfig):
    """Writes OTLP JSON, one request a line."""

    traces_only = "takes no {signal}: a file holds traces only"

    path: Word
    """The file; it is appended to."""
    fsync: Flag = False
    """True: a line is brought to the disk before its spans count as sent. False: that is left to the system, and a
    power cut may cost the last lines."""

    def describe(self) -> str:
        return self.path

    @asynccontextmanager
    async def attempts(self, name: str) -> "AsyncIterator[FileAttempt]":
        attempt = FileAttempt(Path(self.path), self.fsync)
        try:
            await asyncio.to_thread(attempt.check)
        except OSError as error:
            raise OSError(error.errno, f"exporters.{name}.path: cannot write {self.path}: {error.strerror}") from error
        yield attempt


class FileAttempt:
    """One line, appended to a file, which is made, readable to its owner alone, when it is not there; see Attempt.

    What is accepted has left the process; with ``fsync`` the machine's memory too.
    """

    def __init__(self, path: Path, fsync: bool) -> None:
        self._path = path
        self._fsync = fsync

    def check(self) -> None:
        """Raises OSError when the file cannot be appended to now; makes it when it is not there."""
        try:
            # A pipe that nobody reads yet would be waited for.
            file = os.open(self._path, os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_WRONLY | os.O_NONBLOCK, 0o600)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        os.close(file)

    async def send(self, kind: Kind, body: bytes) -> ExportAnswer:
        """See Attempt. A full disk or a directory that is away means later; half a line is taken back."""
        if kind != TRACES:
            return Refused(f"a file takes traces only, not {kind}", own=True)
        try:
            await asyncio.to_thread(self._append, body)
        except RejectedError as error:
            return Refused(str(error), own=True)
        except OSError as error:
            return Later(f"cannot write {self._path}: {error.strerror or error}")
        return Accepted()

    def _append(self, request: bytes) -> None:
        from grafter.otlp.to_json import trace_request_to_json

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
