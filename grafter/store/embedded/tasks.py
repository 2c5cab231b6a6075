"""Tasks of the store of one process: a table beside the memories, and the leases, which end with the process.

The table is in the metadata's file, under a connection and on a thread of its own: a task is rare beside a trace, and
its commit is a fraction of a millisecond. A lock that both share keeps one from running into the other. A version of
grafter that knows no tasks opens the same file and leaves them alone.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from grafter.core.model import UnixNano
from grafter.errors import UnavailableError
from grafter.store.base import TASK_BYTES, TASK_NAME_CHARACTERS, TASKS_LIMIT, StoreError, Task, TaskThen
from grafter.store.embedded.damage import is_damage

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS task (kind TEXT NOT NULL, name TEXT NOT NULL, due INTEGER NOT NULL,"
    " put INTEGER NOT NULL, blob BLOB NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS task_due ON task (kind, due)",
)
_PUT = (
    "INSERT INTO task (kind, name, due, put, blob) VALUES (?, ?, ?, ?, ?) ON CONFLICT (kind, name) DO UPDATE SET"
    " due = min(due, excluded.due), put = max(put + 1, excluded.put),"
    " blob = CASE WHEN length(excluded.blob) THEN excluded.blob ELSE blob END"
)


@dataclass(slots=True)
class _Lease:
    token: int
    until: int
    woken: int | None = None
    """It was put meanwhile, and is due again at this time."""


class TaskTable:
    """The table and the leases. Methods raise sqlite3.Error; any thread may call them."""

    def __init__(self, path: Path | None, lease: int, writing: threading.Lock) -> None:
        """Open the table in the metadata's file, which exists; None keeps it in memory. Raises StoreError.

        ``lease`` in nanoseconds; ``writing`` is held by whoever writes into the file.
        """
        self._path = path
        self._lease = lease
        self._file = writing
        self._lock = threading.Lock()
        self._leases: dict[tuple[str, str], _Lease] = {}
        # A task of an earlier process must never fit: tokens start anywhere.
        self._token = int.from_bytes(os.urandom(6), "little") << 16
        self._open()

    def _open(self) -> None:
        path = self._path
        try:
            self._table = sqlite3.connect(
                path or ":memory:", isolation_level=None, check_same_thread=False, timeout=5.0
            )
            with self._writing():
                for statement in _SCHEMA:
                    self._table.execute(statement)
            (self._count,) = self._table.execute("SELECT count(*) FROM task").fetchone()
        except sqlite3.Error as error:
            raise StoreError(f"cannot use {path}: {error}; check its permissions and the space on the disk") from error

    def put(self, tasks: Sequence[Task], now: int) -> None:
        """See TaskStore."""
        with self._lock:
            for task in tasks:
                if len(task.blob) > TASK_BYTES or not 0 < len(task.name) <= TASK_NAME_CHARACTERS:
                    raise ValueError(f"a task has {len(task.blob)} bytes and a name of {len(task.name)} characters")
            with self._writing():
                added = sum(self._put(task, now) for task in tasks)
                if added and self._count + added > TASKS_LIMIT:
                    raise UnavailableError(f"{TASKS_LIMIT} tasks wait already", retry_after=60.0, reason="tasks_full")
            self._count += added
            for task in tasks:
                lease = self._leases.get((task.kind, task.name))
                if lease is None:
                    continue
                if task.blob:
                    # What its owner knows of it is void.
                    del self._leases[task.kind, task.name]
                else:
                    lease.woken = task.due if lease.woken is None else min(lease.woken, task.due)

    def claim(self, kind: str, now: int, limit: int) -> list[Task]:
        """See TaskStore."""
        with self._lock:
            ended = [key for key, lease in self._leases.items() if lease.until <= now]
            for key in ended:
                del self._leases[key]
            rows = self._table.execute(
                "SELECT name, due, put, blob FROM task WHERE kind = ? AND due <= ? ORDER BY due LIMIT ?",
                (kind, now, limit + len(self._leases)),
            ).fetchall()
            claimed: list[Task] = []
            for name, due, put, blob in rows:
                if (kind, name) in self._leases or len(claimed) >= limit:
                    continue
                self._token += 1
                self._leases[kind, name] = _Lease(self._token, now + self._lease)
                claimed.append(Task(kind, name, UnixNano(due), blob, self._token, put))
            return claimed

    def find(self, kind: str, name: str) -> Task | None:
        """See TaskStore."""
        with self._lock:
            row = self._table.execute(
                "SELECT due, put, blob FROM task WHERE kind = ? AND name = ?", (kind, name)
            ).fetchone()
        return None if row is None else Task(kind, name, UnixNano(row[0]), row[2], put_at=row[1])

    def update(self, task: Task, then: TaskThen) -> bool:
        """See TaskStore."""
        if len(task.blob) > TASK_BYTES:
            raise ValueError(f"a task has {len(task.blob)} bytes")
        with self._lock:
            lease = self._owned(task)
            if lease is None:
                return False
            name = (task.kind, task.name)
            ends = then is TaskThen.END and lease.woken is None
            with self._writing():
                if ends:
                    self._table.execute("DELETE FROM task WHERE kind = ? AND name = ?", name)
                elif then is TaskThen.END:
                    self._table.execute("UPDATE task SET due = ? WHERE kind = ? AND name = ?", (lease.woken, *name))
                else:
                    due = task.due if lease.woken is None else min(task.due, lease.woken)
                    values = (due, task.blob, *name)
                    self._table.execute("UPDATE task SET due = ?, blob = ? WHERE kind = ? AND name = ?", values)
            self._count -= ends
            if then is not TaskThen.KEEP:
                del self._leases[name]
            return True

    def renew(self, tasks: Sequence[Task], now: int) -> None:
        """See TaskStore."""
        with self._lock:
            for task in tasks:
                lease = self._owned(task)
                if lease is not None:
                    lease.until = now + self._lease

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """The file is replaced inside: nobody asks meanwhile, and then the new one is asked. Raises StoreError."""
        with self._lock:
            self._table.close()
            try:
                yield
            finally:
                self._open()

    def close(self) -> None:
        """Give the file back; leases end, tasks stay."""
        with self._lock:
            self._table.close()

    def _put(self, task: Task, now: int) -> bool:
        """Whether it was not there."""
        name = (task.kind, task.name)
        known = self._table.execute("SELECT 1 FROM task WHERE kind = ? AND name = ?", name).fetchone()
        self._table.execute(_PUT, (*name, task.due, now, task.blob))
        return known is None

    def _owned(self, task: Task) -> _Lease | None:
        lease = self._leases.get((task.kind, task.name))
        return lease if lease is not None and lease.token == task.token else None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._file:
            self._table.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._table.execute("COMMIT")
            except BaseException:
                if self._table.in_transaction:
                    self._table.execute("ROLLBACK")
                raise


class TaskMethods:
    """The methods of a TaskStore, on a thread of their own."""

    def __init__(self, tasks: TaskTable, mend: Callable[[], Awaitable[None]]) -> None:
        """``mend``: has a damaged file replaced. Raises UnavailableError."""
        self._task_book = tasks
        self._mend_tasks = mend
        self._task_thread = ThreadPoolExecutor(1, thread_name_prefix="grafter-store-tasks")

    async def put_tasks(self, tasks: Sequence[Task], now: UnixNano) -> None:
        """See TaskStore."""
        await self._on_thread(lambda: self._task_book.put(tasks, now))

    async def claim_tasks(self, kind: str, now: UnixNano, limit: int) -> Sequence[Task]:
        """See TaskStore."""
        return await self._on_thread(lambda: self._task_book.claim(kind, now, limit))

    async def find_task(self, kind: str, name: str) -> Task | None:
        """See TaskStore."""
        return await self._on_thread(lambda: self._task_book.find(kind, name))

    async def update_task(self, task: Task, then: TaskThen) -> bool:
        """See TaskStore."""
        return await self._on_thread(lambda: self._task_book.update(task, then))

    async def renew_tasks(self, tasks: Sequence[Task], now: UnixNano) -> None:
        """See TaskStore."""
        await self._on_thread(lambda: self._task_book.renew(tasks, now))

    async def stop_tasks(self) -> None:
        """Finish what was asked."""
        await asyncio.to_thread(self._task_thread.shutdown)

    async def _on_thread(self, work: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        try:
            try:
                return await loop.run_in_executor(self._task_thread, work)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                await self._mend_tasks()
                return await loop.run_in_executor(self._task_thread, work)
        except sqlite3.Error as error:
            _LOG.warning("the store's tasks could not be read or written: %s", error)
            raise UnavailableError(f"tasks could not be read or written: {error}", reason="store_down") from error
        except RuntimeError as error:
            # The thread takes nothing any more.
            raise UnavailableError("the store is stopping", reason="stopping") from error
