"""The store's directory: one process has it at a time, and its files are opened and closed together.

To release a trace something is written first (an intent, a memory, a settlement), and room comes back only when a whole
segment is settled; of small traces what is written is more than what they held. On a disk that is entirely full nothing
could ever leave again. So room is set aside (``Reserve``): for each trace that is held, for one segment that has to be
copied before it can be given up, and for what SQLite needs. No part is taken for which it cannot be had. It is one file
of that size, given up piece by piece while the disk is full, and what of it was given up before a kill is not asked for
again by a start.

What is held is in the segments, and needs none of the metadata. So a metadata file that SQLite can no longer read stops
nothing: it is put aside under another name, a new one takes its place with what is readable of it, and the log says
what was lost with the old one, which stays beside it for whoever wants to look.
"""

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from grafter.store.embedded.metadata_db import MetadataDB
from grafter.store.embedded.segments import SegmentLog
from grafter.store.model import StoreError

_LOG = logging.getLogger(__name__)

# A link of these names would have another file truncated in its place.
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
# A mend reads the whole file, on the thread that writes everything.
_PAUSE_SECONDS = 5.0

# What SQLite and the records on their way may need at a time.
_LEAST_BYTES = 16 << 20
# Of a small disk, that much of it is enough: it must not be what fills it.
_LEAST_SHARE = 6
# A key in an intent, in an outcome and in a settlement, and its memory: 25 bytes each, and up to 170.
_TRACE_BYTES = 256
_STEP_BYTES = 1 << 20
_SEGMENTS = 32
"""Segments that a small disk should have room for; they are given up one by one."""
_LEAST_SEGMENT = 1 << 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FILES = ("", "-wal", "-shm")


def fitting(segment_bytes: int, directory: Path) -> int:
    """The size of a segment, smaller where the disk is small."""
    found = os.statvfs(directory)
    return min(segment_bytes, max(_LEAST_SEGMENT, found.f_blocks * found.f_frsize // _SEGMENTS))


class Reserve:
    """Room on the disk that only what leaves may use, and what is refused while there is none. Never raises OSError."""

    def __init__(self, directory: Path | None, segment_bytes: int) -> None:
        """Without a directory nothing is set aside, and nothing is ever short."""
        self.short = False
        """The disk was full, and what is free since then is for draining."""
        self.starved = False
        """And attempts find no room either, until the log is cleaned."""
        self.cleanable = False
        """There is something to clean."""
        self.bytes = 0
        """What is set aside."""
        self._directory = directory
        self._works = directory is not None
        self._least = self._last = 0
        if directory is None:
            return
        found = os.statvfs(directory)
        self._least = segment_bytes + min(_LEAST_BYTES, found.f_blocks * found.f_frsize // _LEAST_SHARE)
        # Of it, what the copying of a segment needs, and what is written meanwhile: without that no room would come
        # back from a log full of records of attempts.
        self._last = (segment_bytes + self._least) // 2
        with contextlib.suppress(OSError):
            self.bytes = os.stat(directory / "reserve", follow_symlinks=False).st_size

    @property
    def for_attempts(self) -> int:
        """Bytes on the disk that attempts may use."""
        return max(0, self.bytes + self._free() - self._last)

    def covers(self, traces: int) -> bool:
        """Set aside what so many held traces need. False where the disk does not have it: it is short from now on."""
        wanted = self._wanted(traces)
        if self.bytes < wanted and self._works:
            self._resize(wanted + _STEP_BYTES)
        if self.bytes >= wanted or not self._works:
            return True
        self.run_short()
        return False

    def reopens(self, traces: int) -> bool:
        """While it is short: whether parts may be taken again. There has to be as much to spare as nobody's trace
        needs, so that they are not taken for a moment only; else what the disk has goes to the last of it."""
        wanted = self._wanted(traces)
        if self.bytes + self._free() >= wanted + self._least:
            # It may be more than that, of traces that have left since.
            self._resize(wanted)
            if self.bytes >= wanted or not self._works:
                self.short = False
                _LOG.info("there is space on the disk again; parts are taken")
                return True
        size = min(self._last, self.bytes + self._free())
        if size > self.bytes and self._works:
            self._resize(size)
        return False

    def run_short(self) -> None:
        """From now on parts are refused."""
        if not self.short:
            _LOG.error("the disk is full; parts are refused until there is space, what is held goes on leaving")
        self.short = True

    def holds_back(self, *, below: bool = False) -> bool:
        """Attempts are not written where only the last of what was set aside is left, or ``below`` that, and cleaning
        the log would bring more: it is for the cleaning, and what becomes free goes there first."""
        return self.cleanable and self.bytes <= self._last - below

    def give_up(self) -> bool:
        """Free a piece of it; False when there is none left."""
        if not self.bytes:
            return False
        self._resize(max(0, self.bytes - max(_STEP_BYTES, self.bytes // 8)))
        return True

    def gives_way(self) -> bool:
        """The same where the disk is full; False where it is not, or nothing is left."""
        return self._free() < _STEP_BYTES and self.give_up()

    def trim(self, traces: int) -> None:
        """Give back what is twice too much."""
        wanted = self._wanted(traces)
        if self.bytes > 2 * wanted:
            self._resize(wanted)

    def _wanted(self, traces: int) -> int:
        return self._least + _TRACE_BYTES * traces

    def _resize(self, size: int) -> None:
        assert self._directory is not None
        try:
            file = os.open(self._directory / "reserve", _OPEN, 0o600)
        except OSError as error:
            self._failed(error)
            return
        try:
            if size <= self.bytes:
                os.ftruncate(file, size)
            else:
                os.posix_fallocate(file, self.bytes, size - self.bytes)
            self.bytes = size
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(file, self.bytes)
            self._failed(error)
        finally:
            os.close(file)

    def _failed(self, error: OSError) -> None:
        """A disk that is not full and cannot set room aside: then there is none, and parts are taken without it."""
        if error.errno not in NO_ROOM and self._works:
            self._works = False
            _LOG.warning("no room can be set aside for what leaves when the disk is full: %s", error.strerror)

    def _free(self) -> int:
        if self._directory is None:
            return 0
        try:
            found = os.statvfs(self._directory)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize


@dataclass(slots=True)
class Files:
    """What is open; without a directory the metadata alone."""

    metadata: MetadataDB
    reserve: Reserve
    log: SegmentLog | None = None
    lock: Path = Path()
    lock_fd: int = -1
    """The directory is this process's own while this file is locked, and there."""
    synced: bool = False
    """Everything that was written is on the disk, and nothing more will be."""
    failed_at: float = 0.0
    """When a damaged metadata file could not be mended."""

    def are_there(self) -> bool:
        """False: the directory was removed or replaced. What is written into it now is gone with the process."""
        try:
            found = os.stat(self.lock, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self.lock_fd))

    def renew(self) -> None:
        """Put a damaged metadata file aside and go on with a new one; on the writer's thread. Raises OSError."""
        if self.failed_at and time.monotonic() - self.failed_at < _PAUSE_SECONDS:
            raise StoreError("a damaged file could not be put aside; it is tried again soon")
        try:
            with self.metadata.elsewhere():
                assert self.metadata.path is not None
                put_aside_if_damaged(self.metadata.path, thorough=True)
        except OSError as error:
            _LOG.error("%s", error)
            self.failed_at = time.monotonic()
            raise
        self.failed_at = 0.0

    def close(self) -> None:
        """Close all of it but the lock, which goes last."""
        self.metadata.close()
        if self.log is not None:
            self.log.close()

    def release(self) -> None:
        """Let another process have the directory."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)


def open_files(directory: Path, segment_bytes: int, ledger: Callable[[Path], MetadataDB]) -> Files:
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
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, lock)
        try:
            _take(lock, directory)
            segment_bytes = fitting(segment_bytes, directory)
            log = SegmentLog.opened(directory, segment_bytes)
            undo.callback(log.close)
            reserve = Reserve(directory, segment_bytes)
            metadata = _open_ledger(directory / "ledger.sqlite", reserve, ledger)
        except StoreError:
            raise
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot read the store in {directory}: {error}") from error
        undo.pop_all()
    return Files(metadata, reserve, log, directory / "lock", lock)


def _open_ledger(path: Path, reserve: Reserve, ledger: Callable[[Path], MetadataDB]) -> MetadataDB:
    """SQLite makes files beside it, which an orderly stop took away, and a damaged one is copied: on a full disk that
    has the room that is set aside."""
    while True:
        try:
            put_aside_if_damaged(path)
            return ledger(path)
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


def is_full(error: BaseException) -> bool:
    """Whether SQLite found no room on the disk."""
    return getattr(error, "sqlite_errorcode", None) in _FULL


def is_damage(error: BaseException | None) -> bool:
    """Whether SQLite says that the file is none, or not whole; also where a mend of it failed, which left it closed."""
    if isinstance(error, sqlite3.ProgrammingError):
        return "closed" in str(error)
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the kind, the rest says more of it.
    return code is not None and code & 0xFF in _DAMAGE


def put_aside_if_damaged(path: Path, *, thorough: bool = False) -> None:
    """Rename a damaged file, and copy what is readable of it into a new one at its place; a file that is whole, or not
    there, stays. Where there is no room for the copy, the damaged one stays too, for the next try. ``thorough``: its
    indexes are compared with its tables too. Raises OSError."""
    why = _damage_of(path, "integrity_check" if thorough else "quick_check") if path.exists() else ""
    if not why:
        return
    aside = _free_name(path)
    try:
        _rename(path, aside)
        kept = _copied(aside, path)
    except (OSError, sqlite3.Error) as error:
        _rename(aside, path)
        raise StoreError(f"{path.name} is damaged ({why}), and a new one cannot be made: {error}") from error
    _log_damage(path, why, aside, kept)


def _damage_of(path: Path, check: str) -> str:
    """What is wrong with the file, in SQLite's words; empty also where it cannot be opened, which is no damage."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=0.5)) as file:
            found = str(file.execute(f"PRAGMA {check}(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error) if is_damage(error) else ""
    return "" if found == "ok" else found


def _rename(path: Path, to: Path) -> None:
    """A database with all of its files; what has their names is replaced. The file itself is the last, for where it is
    missing a log beside it is thrown away."""
    for suffix in reversed(_FILES):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{to}{suffix}")


def _log_damage(path: Path, why: str, aside: Path, kept: dict[str, int]) -> None:
    rows = ", ".join(f"{count} of {table}" for table, count in kept.items() if count) or "none"
    _LOG.error(
        "%s is damaged (%s) and was put aside as %s; what is held is not in it. Rows that could be read and are kept: "
        "%s. The rest is lost with it: memories of traces that have left (what comes late of them is a trace of its "
        "own), dead letters, which webhooks came before, what is still to be fetched, who called whom, and the key of "
        "the hashes of phone numbers",
        path.name,
        why,
        aside.name,
        rows,
    )


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return aside


def _copied(damaged: Path, path: Path) -> dict[str, int]:
    """How many rows of each table could be read and were copied; the tables are made as they were there."""
    kept: dict[str, int] = {}
    with contextlib.closing(sqlite3.connect(damaged, timeout=0.5)) as old:
        try:
            (version,) = old.execute("PRAGMA user_version").fetchone()
            tables = old.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        except sqlite3.Error:
            return kept
        path.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(path)) as new:
            for name, sql in tables:
                try:
                    new.execute(sql)
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                        raise
                    # What makes the table is damaged itself.
                    continue
                kept[name] = _copy_rows(old, new, name)
            new.execute(f"PRAGMA user_version = {int(version)}")
            new.commit()
    return kept


def _copy_rows(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> int:
    """From both ends, since one bad page hides what lies behind it."""
    quoted = '"' + table.replace('"', '""') + '"'  # a name that SQLite itself gave
    columns = len(new.execute(f"SELECT * FROM {quoted}").description)
    insert = f"INSERT OR IGNORE INTO {quoted} VALUES ({', '.join('?' * columns)})"
    before = new.total_changes
    for order in ("", " ORDER BY rowid DESC"):
        new.executemany(insert, _readable(old, f"SELECT * FROM {quoted}{order}"))
    return new.total_changes - before


def _readable(old: sqlite3.Connection, query: str) -> Iterator[tuple[object, ...]]:
    """The rows before the first that cannot be read."""
    with contextlib.suppress(sqlite3.Error):
        yield from old.execute(query)
