"""The store of one process: a log of segment files, an index in memory, a database for what outlives the parts.

The event loop owns the index, one thread owns the writing. A request is placed on the index (pure, at once), its
record is queued, and whatever is queued when the writer comes round is written by one system call; then, back on the
loop and in the order of the log, the records are applied to the index and the callers get their answers. What could
not be written was never applied.

Space: segments are given up from the oldest end alone, so that no settlement is ever lost before the parts that it
settled. Where one old trace keeps many dead bytes alive, the oldest segment's live parts are copied to the end of the
log, a megabyte at a time.

Start: receivers may append at once, into a new segment, while a thread reads the old ones into an index of its own;
then the two are merged. Until then nothing is claimed.

Without a directory everything is kept in memory: the same index, no log, a database without a file, no thread.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from grafter.core.calls import CallNote
from grafter.core.model import DedupeKey, Key, Part, UnixNano
from grafter.core.state import TraceState
from grafter.errors import UnavailableError
from grafter.store.embedded.compaction import Compactor, Counts
from grafter.store.embedded.directory import Files, is_damage, is_full
from grafter.store.embedded.index import Index
from grafter.store.embedded.metadata_db import MetadataBatch
from grafter.store.embedded.metadata_tables import DeadLetterChange
from grafter.store.embedded.part_reader import PartReader, RecentRecords
from grafter.store.embedded.settling import Begun, ClaimMethods
from grafter.store.embedded.writer import DIRECTORY_GONE, Op, Writer
from grafter.store.model import DISK_FULL, DeadLetter, DeadLettersAdded, Memory, Stats, Task, TaskThen, large_envelopes
from grafter.store.records import Place, RecordType

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")

# What the index has of each, measured over a million of them.
_TRACE_MEMORY, _SPAN_MEMORY, _REMEMBERED_MEMORY = 400, 110, 170
# What is placed and applied in one step: a request of 64 MiB, or of 80,000 traces, would hold up all others meanwhile.
_STEP_PARTS, _STEP_BYTES = 4096, 8 << 20
# Each step's record has its own copy of the envelopes; where those are larger together, all of it is one step.
_STEP_ENVELOPES = 64 << 10


class EmbeddedStore(ClaimMethods):
    """See grafter.store.base for the promises; made by ``opening.opened``."""

    def __init__(
        self,
        files: Files,
        begun: Begun,
        index: Index,
        recent: RecentRecords,
        *,
        moment: UnixNano,
        max_bytes: int,
        fsync_interval: float | None,
    ) -> None:
        """``fsync_interval`` in seconds; None: what was written is on the disk before append returns."""
        self.log = files.log
        self.pool = ThreadPoolExecutor(2, thread_name_prefix="grafter-store-read") if files.log is not None else None
        writer = Writer(files, traces=self._held_traces, interval=fsync_interval)
        reader = PartReader(index.table, files.log, recent, self.pool)
        super().__init__(index, writer, begun, reader, logged=files.log is not None)
        self.counts = Counts()
        self.moment = moment
        """See ``MomentStore``."""
        self.older: Index | None = None
        """What was held before the start, while it is read back."""
        self.recovering: asyncio.Task[None] | None = None
        self.recovered_spans = 0
        """Those of before the start, and those of requests that were stored though whoever brought them had gone."""
        self._files = files
        self._metadata = files.metadata
        self._max_bytes = max_bytes
        self._pending = 0
        self._full = False
        self._compactor: Compactor | None = None
        self._failing: set[str] = set()
        """What could not be read when it was tried last, of which the log knows."""

    # Start and stop.

    def open_for_claims(self) -> None:
        """The index is whole."""
        self._ready.set()
        if self.log is not None and self.pool is not None:
            self._compactor = Compactor(self.log, self.index, self.writer, self.pool, self.counts)
            self.writer.group_applied = self._compactor.run
            self._compactor.run()

    async def stop(self) -> None:
        """Write what is queued, bring it to the disk; called by ``opening.opened``."""
        await self.writer.stop()
        if self.recovering is not None:
            await asyncio.wait([self.recovering])
        if self._compactor is not None:
            await self._compactor.stop()
        if self.pool is not None:
            await asyncio.to_thread(self.pool.shutdown)

    async def recovered(self) -> None:
        """Wait until the index is whole."""
        await self._ready.wait()

    # How it is.

    @property
    def up(self) -> bool:
        """False from a failed write until one works, and while the directory is gone."""
        return self.writer.up and not self.writer.gone

    @property
    def error(self) -> str:
        """What is wrong beyond ``up`` and ``full``, for people; empty when nothing is."""
        return DIRECTORY_GONE if self.writer.gone else ""

    @property
    def full(self) -> bool:
        """A part was refused because the store is full, and it still nearly is."""
        self._full = self._full and self.index.table.bytes + self._pending > self._max_bytes * 9 // 10
        return self._full or self._files.reserve.short

    @property
    def memory_bytes(self) -> int:
        """About what the process has in memory of all that is held and remembered."""
        stats = self.stats()
        payloads = stats.bytes if self.log is None else self._reader.recent.bytes
        return (
            payloads
            + self._pending
            + _TRACE_MEMORY * stats.traces
            + _SPAN_MEMORY * stats.spans
            + _REMEMBERED_MEMORY * stats.remembered
        )

    @property
    def forgotten(self) -> Mapping[str, int]:
        """Memories that were forgotten since the start, by why (FORGOTTEN_BY)."""
        return self._metadata.forgotten

    @property
    def lost_records(self) -> int:
        """Records that were damaged on the disk, since the start."""
        return self.counts.lost_records

    @property
    def forgotten_marks(self) -> int:
        """Marks that the limit on their number ended, since the start."""
        return self._metadata.dedupe_keys.forgotten

    def hmac_secret(self) -> bytes:
        """32 random bytes, the same for the life of the directory (in memory: of the store)."""
        return self._metadata.secret("hmac")

    # The contract.

    async def append(self, parts: Sequence[Part], now: UnixNano, dedupe_keys: Sequence[DedupeKey] = ()) -> None:
        if parts or not dedupe_keys:
            await self._append(parts, now)
        if dedupe_keys:
            # Only now, in a commit of their own: a key without its parts would make a repeat lose them.
            await self._keep(MetadataBatch(dedupe_keys=[(key, now) for key in dedupe_keys]))

    async def keep_moment(self, now: UnixNano) -> None:
        await self._keep(MetadataBatch(moment=now))

    async def seen(self, ids: Sequence[str], now: UnixNano) -> Sequence[bool]:
        return await self._ask("dedupe keys", lambda: self._metadata.dedupe_keys.seen(ids, now))

    async def put_calls(self, calls: Sequence[CallNote], now: UnixNano) -> None:
        if calls:
            await self._keep(MetadataBatch(calls=[(call, now) for call in calls]))

    async def find_calls(self, call_ids: Sequence[str], now: UnixNano) -> Sequence[CallNote | None]:
        return await self._ask("calls", lambda: self._metadata.calls.find(call_ids, now))

    async def first_link(self, call_id: str, link: str, now: UnixNano) -> str:
        await self.put_calls([CallNote(call_id, now, link=link)], now)
        (note,) = await self.find_calls([call_id], now)
        return link if note is None or note.link is None else note.link

    async def _append(self, parts: Sequence[Part], now: UnixNano) -> None:
        large = large_envelopes(parts)
        size = sum([len(part.payload) for part in parts]) + large
        self._admit(size)
        if (size > _STEP_BYTES or len(parts) > _STEP_PARTS) and large <= _STEP_ENVELOPES and parts[-1].guest is None:
            steps = list(_steps(parts))
            if len(steps) > 1:
                await self._append_in_steps(steps, now)
                return
        index = self.index
        placed = index.placement.place(parts, now)
        if self.log is None:
            index.add(placed, 0, 0)
            return

        def apply(places: list[Place]) -> None:
            self._pending -= size
            index.add(placed, *places[0])
            self._reader.recent.add(now, places[0], placed.body)
            if stored.cancelled():
                self.recovered_spans += sum(part.spans for part in parts)

        def undo() -> None:
            self._pending -= size
            index.placement.undo(placed)

        self._pending += size
        # The op itself would be a cycle with its own apply, and keep the body until the garbage collector came.
        stored = self.writer.submit(Op(apply, [(RecordType.PARTS, [placed.body])], undo, incoming=True))
        try:
            await stored
        except asyncio.CancelledError:
            if stored.done() and not stored.cancelled() and stored.exception() is None:
                # Its sender has gone in the moment in which it was stored.
                self.recovered_spans += sum(part.spans for part in parts)
            raise

    async def _append_in_steps(self, steps: Sequence[Sequence[Part]], now: UnixNano) -> None:
        """What was stored of a host's parts when a later step fails does no harm."""
        stored = 0
        try:
            for step in steps:
                await self._append(step, now)
                stored += sum([part.spans for part in step])
                await asyncio.sleep(0)
        except BaseException:
            # Their sender will not hear that these were stored.
            self.recovered_spans += stored
            raise

    def _admit(self, size: int) -> None:
        if self.writer.stopping:
            raise UnavailableError("the store is stopping", reason="stopping")
        if self.writer.gone:
            raise UnavailableError(f"the store cannot write: {DIRECTORY_GONE}", retry_after=5.0, reason="store_down")
        if self._files.reserve.short:
            raise UnavailableError("the disk is full", retry_after=5.0, reason=DISK_FULL)
        held = self.index.table.bytes + self._pending + (0 if self.older is None else self.older.table.bytes)
        if held + size > self._max_bytes:
            self._full = True
            raise UnavailableError(
                f"store is full: {held} bytes are held, {size} more would pass the limit of {self._max_bytes}",
                retry_after=5.0,
                reason="store_full",
            )

    async def recall(self, keys: Sequence[Key], now: UnixNano) -> Sequence[Memory | None]:
        await self._ready.wait()
        if not any(self._metadata.knows(key) for key in keys):
            return [None] * len(keys)
        return await self._ask("memories", lambda: [self._metadata.recall(key, now) for key in keys])

    async def peek(self, key: Key) -> TraceState | None:
        await self._ready.wait()
        entry = self.index.table.entries.get(key)
        return None if entry is None or not (entry.host_spans or entry.guests) else self.index.claims.state_of(entry)

    async def host_of(self, guest: Key) -> Key | None:
        await self._ready.wait()
        known = self.index.table.guests.get(guest)
        return None if known is None else known.host

    async def add_dead_letters(self, letters: Sequence[DeadLetter], *, together: bool = False) -> DeadLettersAdded:
        if not letters:
            return DeadLettersAdded(0)
        return (await self._change_letters(DeadLetterChange(add=letters, together=together))).added

    async def dead_letters(self, limit: int, *, skip: int = 0, oldest: bool = False) -> Sequence[DeadLetter]:
        return await self._ask("dead letters", lambda: self._metadata.letters.page(limit, skip, oldest=oldest))

    async def remove_dead_letters(self, letters: Sequence[DeadLetter]) -> Sequence[bool]:
        return (await self._change_letters(DeadLetterChange(remove=[int(letter.id) for letter in letters]))).removed

    async def record_retry(self, letters: Sequence[DeadLetter], *, begun: bool) -> None:
        await self._change_letters(DeadLetterChange(retry=[(int(letter.id), begun) for letter in letters]))

    async def _change_letters(self, change: DeadLetterChange) -> DeadLetterChange:
        await self._keep(MetadataBatch(letters=[change]))
        return change

    async def put_tasks(self, tasks: Sequence[Task], now: UnixNano, *, leaving: bool = False) -> None:
        await self._ask("tasks", lambda: self._metadata.tasks.put(tasks, now), leaving=leaving)

    async def claim_tasks(self, kind: str, now: UnixNano, limit: int) -> Sequence[Task]:
        return await self._ask("tasks", lambda: self._metadata.tasks.claim(kind, now, limit))

    async def find_task(self, kind: str, name: str) -> Task | None:
        return await self._ask("tasks", lambda: self._metadata.tasks.find(kind, name))

    async def update_task(self, task: Task, then: TaskThen) -> bool:
        return await self._ask("tasks", lambda: self._metadata.tasks.update(task, then), leaving=True)

    async def renew_tasks(self, tasks: Sequence[Task], now: UnixNano) -> None:
        await self._ask("tasks", lambda: self._metadata.tasks.renew(tasks, now))

    async def _keep(self, batch: MetadataBatch) -> None:
        """Commit what goes into the metadata alone."""
        await self.writer.submit(Op(lambda _: None, metadata=batch))

    async def _ask(self, what: str, query: Callable[[], _T], *, leaving: bool = False) -> _T:
        """What the metadata says, on a thread where it is a file; of a damaged one, what the one in its place says.
        ``leaving``: on a full disk it may use what is set aside for what leaves."""
        mended = False
        try:
            while True:
                try:
                    found = await self._on_pool(query)
                    break
                except sqlite3.DatabaseError as error:
                    if is_damage(error) and not mended:
                        mended = True
                        await self.writer.submit(Op(lambda _: None, prepare=self._files.renew))
                    elif not (leaving and is_full(error) and await self._gave_up_reserve()):
                        raise
        except sqlite3.Error as error:
            if what not in self._failing:
                self._failing.add(what)
                _LOG.warning("the store's %s could not be read or written: %s", what, error)
            raise UnavailableError(f"{what} could not be read or written: {error}", reason="store_down") from error
        self._failing.discard(what)
        return found

    async def _on_pool(self, query: Callable[[], _T]) -> _T:
        if self.pool is None:
            return query()
        if self.writer.stopping:
            raise UnavailableError("the store is stopping", reason="stopping")
        return await asyncio.get_running_loop().run_in_executor(self.pool, query)

    async def _gave_up_reserve(self) -> bool:
        """Free a piece of what is set aside; False when there is none left."""
        given: list[bool] = []

        def give_up() -> None:
            self._files.reserve.run_short()
            given.append(self._files.reserve.give_up())

        # It is the writer's own.
        await self.writer.submit(Op(lambda _: None, prepare=give_up))
        return given[0]

    def stats(self) -> Stats:
        index = self.index
        oldest = index.table.oldest()
        backlogs = {name: index.table.backlog(name) for name in index.table.backlogs}
        return Stats(
            traces=len(index.table.entries) - sum([one.batches for one in backlogs.values()]),
            spans=index.table.spans - sum([one.spans for one in backlogs.values()]),
            bytes=index.table.bytes,
            limit_bytes=self._max_bytes,
            oldest=None if oldest is None else UnixNano(oldest),
            remembered=len(self._metadata),
            remembered_bytes=self._metadata.remembered_bytes,
            recovering=not self._ready.is_set(),
            recovered_spans=self.recovered_spans,
            disk_bytes=0 if self.log is None else self.log.disk_bytes + self._metadata.disk_bytes,
            dead_letters=self._metadata.letters.held,
            backlogs=backlogs,
        )

    def _held_traces(self) -> int:
        # On the writer's thread: the loop may end the recovery between two looks.
        older = self.older
        return len(self.index.table.entries) + (0 if older is None else len(older.table.entries))


def _steps(parts: Sequence[Part]) -> Iterator[Sequence[Part]]:
    first = size = 0
    for i, part in enumerate(parts):
        if i > first and (i - first == _STEP_PARTS or size + len(part.payload) > _STEP_BYTES):
            yield parts[first:i]
            first, size = i, 0
        size += len(part.payload)
    yield parts[first:]
