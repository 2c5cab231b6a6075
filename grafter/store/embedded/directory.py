"""The store's directory: one process has it at a time, and its files are opened and closed together."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grafter.store.embedded.metadata_db import Ledger
from grafter.store.embedded.reserve import Reserve
from grafter.store.embedded.segments import SegmentLog, StoreError
from grafter.store.embedded.tasks import TaskBook


@dataclass(slots=True)
class Files:
    """What is open; without a directory the ledger and the tasks alone."""

    ledger: Ledger
    tasks: TaskBook
    log: SegmentLog | None = None
    lock: int = -1
    reserve: Reserve | None = None

    def close(self) -> None:
        """Close all of it; the lock last."""
        self.tasks.close()
        self.ledger.close()
        if self.log is not None:
            self.log.close()
        if self.lock >= 0:
            os.close(self.lock)


def open_files(
    directory: Path,
    segment_bytes: int,
    ledger: Callable[[Path | None], Ledger],
    tasks: Callable[[Path | None, Ledger], TaskBook],
) -> Files:
    """Take the directory, which is made when it is missing, and open what is in it. Raises StoreError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"cannot use the store directory {directory}: {error.strerror}; "
            "check that it is a directory which this user may read and write, or set another"
        ) from error
    try:
        _take(lock, directory)
        log = SegmentLog.opened(directory, segment_bytes)
        try:
            book = ledger(directory / "ledger.sqlite")
            try:
                task_book = tasks(directory / "ledger.sqlite", book)
            except BaseException:
                book.close()
                raise
        except BaseException:
            log.close()
            raise
    except StoreError:
        os.close(lock)
        raise
    except (OSError, sqlite3.Error) as error:
        os.close(lock)
        raise StoreError(f"cannot read the store in {directory}: {error}") from error
    return Files(book, task_book, log, lock, Reserve(directory))


def _take(lock: int, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise StoreError(
            f"the store directory {directory} is in use by process {owner}; stop that process or set another directory"
        ) from error
    # The number is for people; a full disk must not keep the store from starting because of it.
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
