"""What was said of calls and is not in the database yet: tasks of the store, which survive the process, and which any
process that shares the store writes down.

The database may be away for hours and the process may be killed: what was put here comes into the database once. Each
task is small, so a trace comes in pieces behind its record.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256

import zstandard

from grafter.calls import encoding
from grafter.calls.model import CallRecord
from grafter.calls.writing import Entry
from grafter.core.model import UnixNano
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError
from grafter.store.base import TaskStore
from grafter.store.model import TASK_BYTES, TASK_NAME_CHARACTERS, Task, TaskThen
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

KIND = "call"
_VERSION = b"\1"
_PIECE = TASK_BYTES - 1024
_MOST_PIECES = 128
"""Of one release: 8 MiB, compressed. What is larger stays at the backend only."""
# To compress more takes milliseconds, all of which the event loop would stand still.
_THREAD_BYTES = 256 << 10
_BATCH = 100
MOST_WAITING = 50_000
"""Tasks of this process that wait: the store keeps twice as many, of all kinds."""
MOST_WITH_TRACES = 20_000
_TOO_LARGE = "the trace is too large to be kept with the call; the backend has it"
_CUT = "the call has more turns than are kept with it"
_ORPHAN_NS = 120 * SECOND
_POLL_SECONDS = 1.0
_LONGEST_BACKOFF = 30.0

Apply = Callable[[Sequence[Entry]], "asyncio.Future[set[str]]"]


class Backlog:
    """Puts records into the store, and brings them from there into the database."""

    def __init__(self, tasks: TaskStore, apply: Apply, metrics: Metrics, clock: Callable[[], int]) -> None:
        self._tasks = tasks
        self._apply = apply
        self._metrics = metrics
        self._clock = clock
        self._wake = asyncio.Event()
        self._draining = asyncio.Lock()
        self._waiting = 0
        self.error = ""
        """Why nothing can be written now; empty while all is well."""

    @property
    def waiting(self) -> int:
        """Tasks that this process has put and nobody here has written."""
        return self._waiting

    @waiting.setter
    def waiting(self, tasks: int) -> None:
        self._waiting = tasks
        self._metrics.unwritten_calls.set(tasks)

    async def put(self, records: Sequence[tuple[CallRecord, bytes]], *, leaving: bool = True) -> None:
        """Keep records and the traces that came with them, until they are written. ``leaving``: they are what traces
        say that leave; the store takes them also while it is full.

        Raises UnavailableError where the store is away. Where too many wait already traces are left out, then records,
        and both are counted: a database that is away must not take the store's room from what it is there for.
        """
        now = UnixNano(self._clock())
        tasks: list[Task] = []
        for record, document in records:
            waiting = self.waiting + len(tasks)
            if waiting >= MOST_WAITING:
                self._metrics.dropped_calls.labels("full").inc()
                continue
            if document and waiting >= MOST_WITH_TRACES:
                self._metrics.dropped_calls.labels("full_trace").inc()
                document = b""
            try:
                if len(document) > _THREAD_BYTES:
                    made = await asyncio.to_thread(_tasks, record, document, now)
                else:
                    made = _tasks(record, document, now)
            except (TypeError, ValueError):
                # No text of one of its fields can be written down; the release must not wait for it.
                logger.exception("a record of a call cannot be stored")
                made = []
            if not made:
                self._metrics.dropped_calls.labels("unusable").inc()
            tasks += made
        if not tasks:
            return
        try:
            await self._tasks.put_tasks(tasks, now, leaving=leaving)
        except UnavailableError as error:
            if error.reason != "tasks_full":
                raise
            self._metrics.dropped_calls.labels("full").inc(len(records))
            return
        self.waiting += len(tasks)
        self._wake.set()

    async def run(self) -> None:
        """Write down what comes, until cancelled."""
        while True:
            self._wake.clear()
            try:
                taken = await self.drain()
            except UnavailableError as error:
                # The store's own; it says so itself.
                logger.debug("the backlog of calls cannot be read: %s", error)
                taken = 0
            except Exception:
                logger.exception("calls could not be written down; they are tried again")
                taken = 0
            if taken < _BATCH:
                try:
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def drain(self, *, once: bool = False) -> int:
        """Write one batch; how many tasks that were. Waits while the database is away.

        ``once``: raises UnavailableError instead.
        """
        async with self._draining:
            claimed = await self._tasks.claim_tasks(KIND, UnixNano(self._clock()), _BATCH)
            if not claimed:
                if not self.error:
                    self.waiting = 0
                return 0
            known: list[tuple[Task, Entry]] = []
            for task in claimed:
                entry = _entry(task)
                if entry is None:
                    self._metrics.dropped_calls.labels("unreadable").inc()
                    await self._tasks.update_task(task, TaskThen.END)
                else:
                    known.append((task, entry))
            orphans = await self._write(known, once=once)
            for task, entry in known:
                if entry.record is None and entry.name in orphans and self._clock() - task.put_at < _ORPHAN_NS:
                    later = replace(task, due=UnixNano(self._clock() + 5 * SECOND))
                    await self._tasks.update_task(later, TaskThen.GIVE_BACK)
                else:
                    await self._tasks.update_task(task, TaskThen.END)
            self.waiting = max(0, self.waiting - len(claimed))
            return len(claimed)

    async def drain_all(self) -> None:
        """Write everything that waits. Raises UnavailableError."""
        while await self.drain(once=True):
            pass

    async def _write(self, known: Sequence[tuple[Task, Entry]], *, once: bool) -> set[str]:
        """Into the database, however long it is away; the names of records that pieces wait for."""
        entries = [entry for _, entry in known]
        wait = 0.5
        while True:
            try:
                orphans = await self._apply(entries)
            except UnavailableError as error:
                if not self.error:
                    logger.warning("%s; what is known of calls waits in the store", error)
                self.error = str(error)
                if once:
                    raise
            except Exception:
                if len(entries) == 1:
                    logger.exception("a record of a call cannot be written, and is dropped")
                    self._metrics.dropped_calls.labels("refused").inc()
                    return set()
                # One by one it shows whose it is.
                return set().union(*[await self._write([one], once=once) for one in known])
            else:
                if self.error:
                    logger.info("the calls' database is back")
                self.error = ""
                self._metrics.written_calls.inc(sum(entry.record is not None for entry in entries))
                return orphans
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_BACKOFF)
            await self._tasks.renew_tasks([task for task, _ in known], UnixNano(self._clock()))


def _tasks(record: CallRecord, document: bytes, now: UnixNano) -> list[Task]:
    """None where the record alone is too large."""
    compressor = zstandard.ZstdCompressor()
    body = compressor.compress(document) if document else b""
    if len(body) > _MOST_PIECES * _PIECE:
        record = replace(record, unjoined=(*record.unjoined, _TOO_LARGE))
        body = b""
    head = compressor.compress(encoding.encode(record))
    while len(head) > _PIECE // 2 and record.turns:
        cut = record.unjoined if _CUT in record.unjoined else (*record.unjoined, _CUT)
        record = replace(record, turns=record.turns[: len(record.turns) // 2], unjoined=cut)
        head = compressor.compress(encoding.encode(record))
    if len(head) > _PIECE:
        return []
    first = _PIECE - len(head)
    blob = _VERSION + len(head).to_bytes(4, "big") + head + body[:first]
    # A name is the store's to bound; the record says its own.
    tasks = [Task(KIND, _name(record.name, 0), now, blob)]
    for piece, at in enumerate(range(first, len(body), _PIECE), 1):
        name = record.name.encode()
        blob = _VERSION + bytes(4) + len(name).to_bytes(2, "big") + piece.to_bytes(2, "big") + name
        tasks.append(Task(KIND, _name(record.name, piece), UnixNano(now + piece), blob + body[at : at + _PIECE]))
    return tasks


def _name(name: str, piece: int) -> str:
    whole = f"{name}#{piece}"
    return whole if len(whole) <= TASK_NAME_CHARACTERS else sha256(whole.encode()).hexdigest()


def _entry(task: Task) -> Entry | None:
    """None for what is no record, or a newer version's."""
    blob = task.blob
    try:
        if blob[:1] != _VERSION:
            return None
        size = int.from_bytes(blob[1:5], "big")
        if size:
            head = zstandard.ZstdDecompressor().decompress(blob[5 : 5 + size], max_output_size=64 << 20)
            record = encoding.decode(head)
            return Entry(record, record.name, 0, blob[5 + size :])
        length, piece = int.from_bytes(blob[5:7], "big"), int.from_bytes(blob[7:9], "big")
        return Entry(None, blob[9 : 9 + length].decode(), piece, blob[9 + length :])
    except (ValueError, zstandard.ZstdError):
        return None
