"""The one thread that writes, and the group commit: whatever waits when it comes round is one write.

An op goes from the loop to the thread and back. On the thread: memories, dead letters and what else is metadata, then
records into the log. Back on the loop, in the order of the log: ``apply`` or ``undo``, then the caller's answer.
"""

import asyncio
import contextlib
import errno
import logging
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.embedded.directory import NO_ROOM, Files, is_damage, is_full
from grafter.store.embedded.metadata_db import MetadataBatch
from grafter.store.embedded.segments import SegmentLog
from grafter.store.records import Place, RecordError, RecordType

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

_GROUP_RECORDS, _GROUP_BYTES = 256, 8 << 20

Row = tuple[RecordType, Sequence[bytes]]
"""A record: its type and the buffers of its body."""


def nothing() -> None:
    """For an op that took nothing for granted."""


@dataclass(slots=True)
class Op(Generic[_T]):
    """Something to write, and what follows from it on the loop, on which it is made."""

    apply: Callable[[list[Place]], _T]
    """Called with the place of each row when all is written."""
    rows: Sequence[Row] = ()
    undo: Callable[[], None] = nothing
    """Called when it could not be written; then the future has an UnavailableError."""
    metadata: MetadataBatch | None = None
    incoming: bool = False
    """A sender waits for it, and keeps what cannot be written; what drains the store is written before it."""
    attempt: bool = False
    """It only says that something is about to be sent: where room is short it waits for what makes room."""
    prepare: Callable[[], Sequence[Row] | None] | None = None
    """Does something on the writer's thread before the write, and may make the rows. May raise OSError."""
    future: asyncio.Future[_T] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Has what ``apply`` returned."""
    places: list[Place] = field(default_factory=list)
    error: Exception | None = None


# How long a store that cannot write waits for somebody before it tries by itself; and how long a directory that is gone
# may go unseen.
_PROBE_SECONDS = 1.0
DIRECTORY_GONE = "its directory was removed or replaced"
_SLICE_SECONDS = 0.004

Step = Callable[[], None]


class Slices:
    """What came back from the writer's thread, applied on the loop in its order, a slice at a time.

    A group of large requests takes some hundredths of a second to apply. In between the loop takes in what has come to
    the doors meanwhile, of which a library needs several rounds for each request.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._steps: deque[Step] = deque()
        self._is_due = False

    def add(self, steps: Iterable[Step]) -> None:
        """Take these after all that were added before: at once, as far as a slice goes, the rest soon."""
        self._steps.extend(steps)
        if not self._is_due:
            self._take()

    def finish(self) -> None:
        """Take all that is left, now."""
        while self._steps:
            self._take()

    def _take(self) -> None:
        self._is_due = True
        until = time.perf_counter() + _SLICE_SECONDS
        try:
            while self._steps:
                self._steps.popleft()()
                if time.perf_counter() >= until:
                    break
        finally:
            # A step that fails holds up none behind it.
            self._is_due = bool(self._steps)
            if self._steps:
                self._loop.call_soon(self._take)


class Writer:
    """Writes ops. Without a log there is no thread: an op is applied when it is submitted."""

    def __init__(self, files: Files, *, traces: Callable[[], int], interval: float | None) -> None:
        """``traces``: how many are held; called on the writer's thread. ``interval``: seconds after which what was
        written is brought to the disk; None: before an op is answered."""
        self.up = True
        """False from a failed write until one works."""
        self.gone = False
        """The directory was removed or replaced: parts would be written where nobody finds them. What is held still
        leaves, by the files that are open."""
        self.stopping = False
        self.group_applied = nothing
        """Called on the loop after each group that was applied."""
        self.applied = files.log.newest + 1 if files.log is not None else 0
        """Every record of a segment below this one is applied."""
        self._files = files
        self.reserve = files.reserve
        self._log = files.log
        self._traces = traces
        self._checked_at = 0.0
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._back = Slices(self._loop)
        self._queued: list[Op[Any]] = []
        self._inbox: queue.SimpleQueue[list[Op[Any]] | None] = queue.SimpleQueue()
        self._stop_sync = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin the threads."""
        if self._log is not None:
            self._threads = [threading.Thread(target=self._write_forever, name="grafter-store-write", daemon=True)]
            if self._interval is not None:
                sync = threading.Thread(target=self._sync_forever, name="grafter-store-sync", daemon=True)
                self._threads.append(sync)
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """Take no more, write and answer what was taken, bring it to the disk."""
        self.stopping = True
        self._flush()
        self._inbox.put(None)
        self._stop_sync.set()
        if self._log is not None:
            await asyncio.to_thread(self._finish, self._log)
            await asyncio.sleep(0)  # The last answers were put into the loop before the thread ended.
            self._back.finish()

    def _finish(self, log: SegmentLog) -> None:
        for thread in self._threads:
            thread.join()
        try:
            log.sync()
            self._files.synced = True
        except OSError as error:
            _LOG.error("the last writes may not be on the disk: %s", error.strerror)

    def submit(self, op: Op[_T]) -> asyncio.Future[_T]:
        """Queue an op, and give its future. Raises UnavailableError when stopping."""
        if self.stopping:
            op.undo()
            raise UnavailableError("the store is stopping", reason="stopping")
        if self._log is None:
            self._keep([op])
            self._answer(op)
        else:
            if not self._queued:
                # Everything that this round of the loop brings goes over in one hop.
                self._loop.call_soon(self._flush)
            self._queued.append(op)
        return op.future

    def _flush(self) -> None:
        if self._queued:
            self._inbox.put(self._queued)
            self._queued = []

    def _write_forever(self) -> None:
        # Nothing of what was written is kept while the next is waited for: no name of it is left.
        while self._write_next():
            pass

    def _write_next(self) -> bool:
        """Wait for ops, at most until the next probe, and write them; False after the last."""
        try:
            ops = self._inbox.get(timeout=_PROBE_SECONDS)
        except queue.Empty:
            self._check_directory()
            if not self.up or self.reserve.short:
                self._probe()
            return True
        if ops is None:
            return False
        goes_on = True
        while not self._inbox.empty():
            more = self._inbox.get()
            if more is None:
                goes_on = False
                break
            ops += more
        self._check_directory()
        self._reopen()
        for group in _groups(ops):
            self._write(group)
        return goes_on

    def _write(self, group: list[Op[Any]]) -> None:
        try:
            self._commit(group)
        except Exception as error:  # noqa: BLE001  # a bug met by one request must not end all writing
            _LOG.exception("a write failed for a reason that nobody foresaw")
            for op in group:
                op.error = op.error or error
        steps: list[Step] = [*[partial(self._answer, op) for op in group], self._group_is_over]
        self._loop.call_soon_threadsafe(self._back.add, steps)

    def _check_directory(self) -> None:
        """See, once a second, that the directory is still there."""
        now = time.monotonic()
        if now - self._checked_at < _PROBE_SECONDS:
            return
        self._checked_at = now
        if not self.reserve.short:
            self.reserve.trim(self._traces())
        gone = not self._files.are_there()
        if gone and not self.gone:
            _LOG.error(
                "the store directory %s was removed or replaced; parts are refused, what is held goes on leaving and "
                "ends with this process. Put it back, or start anew",
                self._files.lock.parent,
            )
        elif self.gone and not gone:
            _LOG.info("the store directory is there again; parts are taken")
        self.gone = gone

    def _probe(self) -> None:
        """Find out whether writing works again, for nobody may come while it is known not to."""
        assert self._log is not None
        if not self.up:
            try:
                self._log.write([(RecordType.SETTLE, records.VERSION, [records.encode_keys(())])])
            except OSError:
                return
            self.up = True
            _LOG.info("the store can write again")
        self._reopen()

    def _reopen(self) -> None:
        """After the disk was full: take parts when there is space, else see that what is dead can be given up."""
        if self._log is None or not self.reserve.short or self.reserve.reopens(self._traces()):
            return
        with contextlib.suppress(OSError):
            number = self._log.rotate()
            if number is not None:
                # Behind every group that is on its way back to the loop.
                self._loop.call_soon_threadsafe(self._back.add, [partial(self._rotated, number)])

    def _rotated(self, number: int) -> None:
        self.applied = max(self.applied, number)
        self._group_is_over()

    def _commit(self, group: list[Op[Any]]) -> None:
        """On the writer's thread."""
        self._keep(group)
        for op in group:
            if op.prepare is not None:
                try:
                    op.rows = op.prepare() or ()
                except (OSError, RecordError) as error:
                    op.error = error
        # Each may begin a trace.
        incoming = sum(op.incoming for op in group)
        if self.gone:
            _refuse(group, OSError(errno.ENOENT, DIRECTORY_GONE))
        elif incoming and not self.reserve.covers(self._traces() + incoming):
            _refuse(group, _no_space())
        if self.reserve.short and self.reserve.holds_back(below=True):
            self._hold_back(group, _no_space())
        writing = [op for op in group if op.error is None and op.rows]
        if writing:
            try:
                self._log_rows(writing)
                self.up = True
            except OSError as error:
                if self.up:
                    _LOG.error("the store cannot write and refuses parts until it can: %s", error.strerror)
                self.up = False
                for op in writing:
                    op.error = op.error or error

    def _log_rows(self, writing: list[Op[Any]]) -> None:
        """Write the rows of these ops; where there is room for some alone, the others have an error. Raises OSError."""
        assert self._log is not None
        while True:
            ready = [op for op in writing if op.error is None]
            try:
                places = self._log.write([(kind, records.VERSION, body) for op in ready for kind, body in op.rows])
                break
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                # Parts wait outside until it is there again; what drains the store goes on.
                _refuse(writing, error)
                if self.reserve.holds_back():
                    self._hold_back(writing, error)
                self.reserve.run_short()
                if all(op.error is not None for op in writing):
                    return
                if not self.reserve.give_up():
                    raise
        rest = iter(places)
        for op in ready:
            op.places = list(islice(rest, len(op.rows)))
        if self.reserve.starved and any(op.attempt for op in ready):
            self.reserve.starved = False
        if self._interval is None:
            try:
                self._log.sync()
            except OSError:
                self._log.take_back(places)
                raise

    def _hold_back(self, group: list[Op[Any]], error: OSError) -> None:
        for op in group:
            if op.attempt:
                op.error = op.error or error
                self.reserve.starved = True

    def _keep(self, group: list[Op[Any]]) -> None:
        """Commit what goes into the metadata: before the settlement, so that none goes without the other.

        Marks come in ops of their own, made when the parts that they speak of are stored.
        """
        keeping = [(op, op.metadata) for op in group if op.metadata is not None]
        if not keeping:
            return
        batch = MetadataBatch.joined([metadata for _, metadata in keeping])
        mended = False
        try:
            while True:
                try:
                    self._files.metadata.commit(batch)
                    break
                except sqlite3.DatabaseError as error:
                    if is_damage(error) and not mended:
                        # Once: what a new file does not mend would be tried for ever.
                        mended = True
                        self._files.renew()
                    elif is_full(error):
                        self.reserve.run_short()
                        if not self.reserve.give_up():
                            raise
                    else:
                        raise
        except (OSError, sqlite3.Error) as error:
            _LOG.warning("the store could not write its ledger: %s", error)
            for op, _ in keeping:
                op.error = error

    def _group_is_over(self) -> None:
        if not self.stopping:
            self.group_applied()

    def _answer(self, op: Op[Any]) -> None:
        result = None
        failure: Exception | None = None
        if op.error is not None:
            op.undo()
            reason = op.error.strerror if isinstance(op.error, OSError) else str(op.error)
            failure = UnavailableError(f"the store could not write: {reason}", reason="store_down")
            failure.__cause__ = op.error
        else:
            try:
                result = op.apply(op.places)
            except Exception as error:  # noqa: BLE001  # a bug met by one op must not leave the others unanswered
                _LOG.exception("what was written could not be applied")
                failure = error
            if op.places:
                self.applied = op.places[-1][0]
        if not op.future.done():
            if failure is not None:
                op.future.set_exception(failure)
            else:
                op.future.set_result(result)

    def _sync_forever(self) -> None:
        assert self._log is not None
        while not self._stop_sync.wait(self._interval):
            try:
                self._log.sync()
            except OSError as error:
                _LOG.error("acknowledged parts may not be on the disk: %s", error.strerror)
                self.up = False


def _no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _refuse(group: list[Op[Any]], error: OSError) -> None:
    """What senders wait for is not written."""
    for op in group:
        if op.incoming:
            op.error = op.error or error


def _groups(ops: list[Op[Any]]) -> Iterator[list[Op[Any]]]:
    """Cut what waits into pieces that one write takes."""
    group: list[Op[Any]] = []
    size = 0
    for op in ops:
        group.append(op)
        size += sum(map(len, op.rows[0][1])) if op.rows else 0
        if size >= _GROUP_BYTES or len(group) >= _GROUP_RECORDS:
            yield group
            group, size = [], 0
    if group:
        yield group
