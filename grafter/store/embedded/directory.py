"""The store's directory: one process has it at a time, and its files are opened and closed together."""

import contextlib
import fcntl
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grafter.store.embedded.metadata_db import MetadataDB
from grafter.store.embedded.reserve import Reserve, fitting
from grafter.store.embedded.segments import SegmentLog
from grafter.store.model import StoreError

_LOG = logging.getLogger(__name__)

# A link of these names would have another file truncated in its place.
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


# A mend reads the whole file, on the thread that writes everything.
_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Lock:
    """The directory is this process's own while the file is locked, and there."""

    path: Path
    fd: int

    def is_there(self) -> bool:
        """False: the directory was removed or replaced. What is written into its files now is gone with the process."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self.fd))


@dataclass(slots=True)
class Files:
    """What is open; without a directory the metadata and the tasks alone."""

    metadata: MetadataDB
    tasks: TaskTable
    begun: Begun
    boot: BootMark
    log: SegmentLog | None = None
    reserve: Reserve | None = None
    lock: Lock | None = None
    synced: bool = False
    """Everything that was written is on the disk, and nothing more will be."""
    failed_at: float = 0.0
    """When a damaged metadata file could not be mended."""

    def renew(self) -> None:
        """Put a damaged metadata file aside and go on with a new one; on the writer's thread. Raises OSError."""
        if self.failed_at and time.monotonic() - self.failed_at < _PAUSE_SECONDS:
            raise StoreError("a damaged file could not be put aside; it is tried again soon")
        try:
            with self.tasks.elsewhere():
                self.metadata.renew()
        except OSError as error:
            _LOG.error("%s", error)
            self.failed_at = time.monotonic()
            raise
        self.failed_at = 0.0

    def close(self) -> None:
        """Close all of it; the lock last."""
        self.begun.close()
        self.tasks.close()
        self.metadata.close()
        if self.log is not None:
            self.log.close()
        if self.synced:
            self.boot.end()
        if self.lock is not None:
            os.close(self.lock.fd)


def open_files(
    directory: Path,
    segment_bytes: int,
    metadata: Callable[[Path | None], MetadataDB],
    tasks: Callable[[Path | None, MetadataDB], TaskTable],
) -> Files:
    """Take the directory, which is made when it is missing, and open what is in it. Raises StoreError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_if_shared(directory)
        lock = os.open(directory / "lock", _OPEN, 0o600)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"cannot use the store directory {directory}: {error.strerror}; "
            "check that it is a directory which this user may read and write, or set another"
        ) from error
    undo = contextlib.ExitStack()
    undo.callback(os.close, lock)
    try:
        _take(lock, directory)
        segment_bytes = fitting(segment_bytes, directory)
        log = SegmentLog.opened(directory, segment_bytes)
        undo.callback(log.close)
        reserve = Reserve(directory, segment_bytes)
        database, task_table = _open_ledger(directory / "ledger.sqlite", reserve, metadata, tasks)
        undo.callback(database.close)
        undo.callback(task_table.close)
        begun = Begun(directory)
    except BaseException as error:
        undo.close()
        if isinstance(error, OSError | sqlite3.Error) and not isinstance(error, StoreError):
            raise StoreError(f"cannot read the store in {directory}: {error}") from error
        raise
    boot = BootMark(directory)
    return Files(database, task_table, begun, boot, log, reserve, Lock(directory / "lock", lock))


def _open_ledger(
    ledger: Path,
    reserve: Reserve,
    metadata: Callable[[Path | None], MetadataDB],
    tasks: Callable[[Path | None, MetadataDB], TaskTable],
) -> tuple[MetadataDB, TaskTable]:
    """SQLite makes files beside it, which an orderly stop took away, and a damaged one is copied: on a full disk that
    has the room that is set aside."""
    while True:
        try:
            put_aside_if_damaged(ledger)
            database = metadata(ledger)
            try:
                return database, tasks(ledger, database)
            except BaseException:
                database.close()
                raise
        except (StoreError, OSError):
            if not reserve.gives_way():
                raise


def _refuse_if_shared(directory: Path) -> None:
    if directory.stat().st_mode & stat.S_IWOTH:
        raise StoreError(
            f"the store directory {directory} can be written to by every user of this machine; "
            f"take that away (chmod o-w {directory}) or set another"
        )


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
