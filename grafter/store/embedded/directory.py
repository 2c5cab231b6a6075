"""The store's directory: one process has it at a time, and its files are opened and closed together."""

import contextlib
import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grafter.store.base import StoreError
from grafter.store.embedded.damage import put_aside_if_damaged
from grafter.store.embedded.metadata_db import MetadataDB
from grafter.store.embedded.segments import SegmentLog
from grafter.store.embedded.tasks import TaskTable

_RESERVE_BYTES = 16 << 20
# On a small disk the reserve must not be what fills it.
_RESERVE_SHARE = 20
# A link of these names would have another file truncated in its place.
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Reserve:
    """Space on the disk that only draining may use: one file of a fixed size, there or not.

    Releasing a trace writes a few bytes itself (an intent, a memory, a settlement), and only settled traces give space
    back. On a disk that is entirely full nothing could ever leave again, so this file keeps some space: it is given up
    when the disk is full, the receivers stay shut, and they open when it can be had again with as much to spare.

    Methods never raise for a full disk.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "reserve"
        self._size = min(_RESERVE_BYTES, self._free() // _RESERVE_SHARE)
        self.held = False
        """The space is kept; False: it was given up, or could not be had."""
        self.take(spare=0)

    def take(self, spare: int | None = None) -> bool:
        """Keep the space, if that leaves ``spare`` bytes (None: as much again) on the disk."""
        if self.held:
            return True
        if self._free() < self._size + (self._size if spare is None else spare):
            return False
        try:
            file = os.open(self._path, _OPEN, 0o600)
        except OSError:
            return False
        try:
            if self._size:
                os.posix_fallocate(file, 0, self._size)
            self.held = True
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)
        finally:
            os.close(file)
        return self.held

    def give_up(self) -> bool:
        """Free the space; False when there was none."""
        if not self.held:
            return False
        self.held = False
        with contextlib.suppress(OSError):
            file = os.open(self._path, _OPEN, 0o600)
            try:
                os.ftruncate(file, 0)
            finally:
                os.close(file)
        return True

    def _free(self) -> int:
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize


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
    log: SegmentLog | None = None
    reserve: Reserve | None = None
    lock: Lock | None = None

    def renew(self) -> None:
        """Put a damaged metadata file aside and go on with a new one; on the writer's thread. Raises OSError."""
        with self.tasks.elsewhere():
            self.metadata.renew()

    def close(self) -> None:
        """Close all of it; the lock last."""
        self.tasks.close()
        self.metadata.close()
        if self.log is not None:
            self.log.close()
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
        log = SegmentLog.opened(directory, segment_bytes)
        undo.callback(log.close)
        ledger = directory / "ledger.sqlite"
        put_aside_if_damaged(ledger)
        database = metadata(ledger)
        undo.callback(database.close)
        task_table = tasks(ledger, database)
    except BaseException as error:
        undo.close()
        if isinstance(error, OSError | sqlite3.Error) and not isinstance(error, StoreError):
            raise StoreError(f"cannot read the store in {directory}: {error}") from error
        raise
    return Files(database, task_table, log, Reserve(directory), Lock(directory / "lock", lock))


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
