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
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, overload

from grafter.core.calls import CallNote
from grafter.core.model import Key, Mark, Part, UnixNano
from grafter.core.policy import Waits
from grafter.core.state import TraceState
from grafter.errors import UnavailableError
from grafter.store.embedded.compaction import Compactor, Counts
from grafter.store.embedded.damage import is_damage
from grafter.store.embedded.dead_letters import LetterChange
from grafter.store.embedded.directory import Files, open_files
from grafter.store.embedded.index import Index
from grafter.store.embedded.metadata_db import MetadataBatch, MetadataDB
from grafter.store.embedded.part_reader import RECENT_BYTES, PartReader, RecentRecords
from grafter.store.embedded.recovery import Recovery
from grafter.store.embedded.settling import Settling
from grafter.store.embedded.tasks import TaskMethods, TaskTable
from grafter.store.embedded.writer import DIRECTORY_GONE, Place, Row, Writer
from grafter.store.model import DISK_FULL, DeadLetter, DeadLettersAdded, Memory, Stats, Task, TaskThen, large_envelopes
from grafter.store.records import RecordType

_T = TypeVar("_T")

SEGMENT_BYTES = 64 << 20
LETTER_BYTES = 64 << 20
# What the index has of each, measured over a million of them.
_TRACE_MEMORY, _SPAN_MEMORY, _REMEMBERED_MEMORY = 400, 110, 170
# A trace that ends with its root is released soon after ``after_root``.
_RECENT_MARGIN = 2_000_000_000


@asynccontextmanager
async def opened(
    directory: Path | None,
    *,
    waits: Waits,
    max_bytes: int,
    max_trace_bytes: int,
    lease_ns: int,
    guests_apart: bool,
    fsync: str = "interval",
    fsync_interval: float = 1.0,
    clock: Callable[[], int] = time.time_ns,
    segment_bytes: int = SEGMENT_BYTES,
    letter_bytes: int = LETTER_BYTES,
    drop_oldest_letters: bool = False,
    recent_bytes: int = RECENT_BYTES,
    exporters: Sequence[str] = (),
) -> AsyncIterator["EmbeddedStore"]:
    """Open the store in a directory, which is made when it is missing; None keeps everything in memory.

    ``fsync``: ``interval`` brings what was written to the disk every ``fsync_interval`` seconds, ``always`` before
    append returns. Past ``letter_bytes`` of dead letters the oldest go (``drop_oldest_letters``), or no more are taken.
    ``recent_bytes`` bounds what is kept in memory of the records written last. ``clock`` (Unix nanoseconds) says how
    old memories are at start. ``exporters``: to whom traces leave; after a power cut, which takes what ``interval`` had
    not brought to the disk yet, an intent stands for each of them. On leaving, what is queued is written and brought to
    the disk; what is held stays.

    Raises StoreError when the directory cannot be used.
    """
    if fsync not in ("interval", "always"):
        raise ValueError(f"fsync is {fsync!r}, expected 'interval' or 'always'")

    def metadata(path: Path | None) -> MetadataDB:
        return MetadataDB(
            path,
            remember=waits.remember,
            remember_limit=waits.remember_limit,
            letter_bytes=letter_bytes,
            drop_oldest_letters=drop_oldest_letters,
        )

    def tasks(path: Path | None, database: MetadataDB) -> TaskTable:
        return TaskTable(path, lease_ns, database.writing)

    if directory is None:
        database = metadata(None)
        files = Files(database, tasks(None, database), Begun(None), BootMark(None))
    else:
        files = await asyncio.to_thread(open_files, directory, segment_bytes, metadata, tasks)

    def index() -> Index:
        return Index(
            files.metadata,
            waits,
            apart=guests_apart,
            max_trace_bytes=max_trace_bytes,
            lease=lease_ns,
            arrival=0 if files.log is None else files.log.arrival,
            keeps_objects=files.log is None,
        )

    store = EmbeddedStore(
        files,
        index(),
        RecentRecords(recent_bytes, waits.after_root + _RECENT_MARGIN),
        max_bytes=max_bytes,
        fsync_interval=None if fsync == "always" else fsync_interval,
    )
    try:
        store.start(index(), clock, exporters)
        yield store
    finally:
        await store.stop()


class EmbeddedStore(ClaimMethods):
    """See grafter.store.base for the promises; made by ``opening.opened``."""

    def __init__(
        self, files: Files, index: Index, recent: RecentRecords, *, max_bytes: int, fsync_interval: float | None
    ) -> None:
        """``fsync_interval`` in seconds; None: what was written is on the disk before append returns."""
        super().__init__(files.tasks, self._mend)
        self.counts = Counts()
        self._files = files
        self._log = files.log
        self._metadata = files.metadata
        self._max_bytes = max_bytes
        self._synced_late = fsync_interval is not None
        self._loop = asyncio.get_running_loop()
        self._index = index
        self._pending = 0
        self._unanswered_spans = 0
        """Stored, though whoever brought them had gone by then."""
        self._ready = asyncio.Event()
        self.moment = UnixNano(0)
        """See ``MomentStore``."""
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="grafter-store-read") if files.log is not None else None
        self._recent = recent
        self._part_reader = PartReader(self._index.table, files.log, self._recent, self._pool)
        self._compactor: Compactor | None = None
        self._full = False
        self._writer = Writer(files, traces=self._held_traces, interval=fsync_interval, committed=self._give_up_space)
        self._settling = Settling(self._index, self._writer, logged=files.log is not None)
        self._recovery: Recovery | None = None
        self._recovering: asyncio.Task[None] | None = None

    # Start and stop.

    def start(self, older: Index, clock: Callable[[], int], exporters: Sequence[str]) -> None:
        """Begin the threads; called by ``opened``. ``older`` is empty, and filled with what was held before."""
        self.moment = UnixNano(max(clock(), self._metadata.moment()))
        boot = self._files.boot
        if self._log is not None and self._pool is not None and self._log.segments:
            self._recovery = Recovery(
                self._log,
                older,
                self._index,
                self._writer,
                self.counts,
                self.moment,
                ended=self._open_for_claims,
                left_to=exporters if boot.cut_off else (),
                seen_to=self._begin_in_boot,
            )
            self._recovering = self._loop.create_task(self._recovery.run(self._pool), name="store.recovery")
        self._writer.start()
        if self._recovery is None:
            self._open_for_claims()
        if not boot.cut_off or self._recovery is None:
            self._begin_in_boot()

    def _begin_in_boot(self) -> None:
        """Have the next start know of a power cut, if one could take what was written."""
        self._files.boot.begin(lasting=not self._synced_late)

    async def stop(self) -> None:
        """Write what is queued, bring it to the disk, close; called by ``opened``."""
        await self._writer.stop()
        await self.stop_tasks()
        if self._recovering is not None:
            await asyncio.wait([self._recovering])
        if self._compactor is not None:
            await self._compactor.stop()
        if self._pool is not None:
            await asyncio.to_thread(self._pool.shutdown)
        self._files.close()

    @property
    def up(self) -> bool:
        """False from a failed write until one works, and while the directory is gone."""
        return self._writer.up and not self._writer.gone

    @property
    def trouble(self) -> str:
        """What is wrong beyond ``up`` and ``full``, for people; empty when nothing is."""
        return DIRECTORY_GONE if self._writer.gone else ""

    @property
    def full(self) -> bool:
        """A part was refused because the store is full, and it still nearly is."""
        self._full = self._full and self._index.table.bytes + self._pending > self._max_bytes * 9 // 10
        return self._full or self._writer.short

    @property
    def memory_bytes(self) -> int:
        """About what the process has in memory of all that is held and remembered."""
        stats = self.stats()
        payloads = stats.bytes if self._log is None else self._recent.bytes
        return (
            payloads
            + self._pending
            + _TRACE_MEMORY * stats.traces
            + _SPAN_MEMORY * stats.spans
            + _REMEMBERED_MEMORY * stats.remembered
        )

    @property
    def forgotten(self) -> int:
        """Memories that the limit or the time ended, since the start."""
        return self._metadata.forgotten

    @property
    def lost_records(self) -> int:
        """Records that were damaged on the disk, since the start."""
        return self.counts.lost_records

    @property
    def forgotten_marks(self) -> int:
        """Marks that the limit on their number ended, since the start."""
        return self._metadata.dedupe_keys.forgotten

    async def recovered(self) -> None:
        """Wait until the index is whole."""
        await self._ready.wait()

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

    async def _append(self, parts: Sequence[Part], now: UnixNano) -> None:
        size = sum([len(part.payload) for part in parts]) + large_envelopes(parts)
        self._admit(size)
        index = self._index
        placed = index.placement.place(parts, now)
        if self._log is None:
            index.add(placed, 0, 0)
            return
        body = b"".join(records.parts_body(placed.keys, placed.rows, placed.blobs, placed.length, placed.moves))

        def apply(places: list[Place]) -> None:
            self._pending -= size
            self._index.add(placed, *places[0])
            self._recent.add(now, places[0], body)
            if op.future.cancelled():
                self._unanswered_spans += sum(part.spans for part in parts)

        def undo() -> None:
            self._pending -= size
            self._index.placement.undo(placed)

        self._pending += size
        op = self._writer.submit([(RecordType.PARTS, [body])], apply, undo, incoming=True)
        try:
            await op.future
        except asyncio.CancelledError:
            if op.future.done() and not op.future.cancelled() and op.future.exception() is None:
                # Its sender has gone in the moment in which it was stored.
                self._unanswered_spans += sum(part.spans for part in parts)
            raise

    def _admit(self, size: int) -> None:
        if self._writer.stopping:
            raise UnavailableError("the store is stopping", reason="stopping")
        if self._writer.gone:
            raise UnavailableError(f"the store cannot write: {DIRECTORY_GONE}", retry_after=5.0, reason="store_down")
        if self._writer.short:
            raise UnavailableError("the disk is full", retry_after=5.0, reason=DISK_FULL)
        held = self._index.table.bytes + self._pending
        if self._recovery is not None:
            held += self._recovery.bytes
        if held + size > self._max_bytes:
            self._full = True
            raise UnavailableError(
                f"store is full: {held} bytes are held, {size} more would pass the limit of {self._max_bytes}",
                retry_after=5.0,
                reason="store_full",
            )

    async def claim(self, now: UnixNano, limit: int, plain: PlainLimits | None = None) -> Sequence[Claim | PlainBatch]:
        if plain is not None:
            self._recent.ask(now)
        if not self._ready.is_set():
            return []
        suspects = self._suspects(now) if self._files.begun.suspects else None
        if suspects is not None:
            return suspects
        claims = self._index.claims.claim(now, limit, plain)
        self._files.begun.begin([claim.key for claim in claims if isinstance(claim, Claim)])
        for claim in claims:
            if isinstance(claim, PlainBatch):
                self._files.begun.begin(claim.keys)
        return claims

    def _suspects(self, now: UnixNano) -> Sequence[Claim] | None:
        """Due keys on which an earlier process ended, while nothing else is worked on; None where there are none."""
        begun, claims, entries = self._files.begun, self._index.claims, self._index.table.entries
        begun.end([key for key in begun.suspects if key not in entries])
        due = [key for key in begun.suspects if claims.is_due(key, now)]
        if any(claims.is_owned(key, now) for key in (begun.open if due else begun.suspects)):
            return []
        if not due:
            return None
        found = []
        for key in begun.group(due):
            claim = claims.hand_out(key, entries[key], now)
            claim.deaths = begun.suspects[key]
            found.append(claim)
        begun.begin([claim.key for claim in found])
        return found

    @overload
    async def read(self, claims: PlainBatch) -> Sequence[Plain]: ...
    @overload
    async def read(self, claims: Sequence[Claim]) -> Sequence[Sequence[StoredPart]]: ...
    async def read(self, claims: Claims) -> Sequence[Plain] | Sequence[Sequence[StoredPart]]:
        reader = self._part_reader
        return await (reader.read_plain(claims) if isinstance(claims, PlainBatch) else reader.read(claims))

    async def record(self, claims: Claims, exporter: str, outcome: Outcome) -> Sequence[bool]:
        return await self._settling.record(claims, exporter, outcome)

    async def settle(self, settlements: Sequence[Settlement] | PlainSettlement, now: UnixNano) -> Sequence[bool]:
        settled = await self._settling.settle(settlements, now)
        if isinstance(settlements, PlainSettlement):
            self._files.begun.end(settlements.batch.keys)
        else:
            self._files.begun.end([one.claim.key for one in settlements])
        return settled

    async def split(self, batch: PlainBatch) -> Sequence[Claim]:
        return self._index.claims.split(batch)

    async def renew(self, claims: Claims, now: UnixNano) -> None:
        self._index.claims.renew(claims, now)

    async def postpone(self, claims: Sequence[tuple[Claim, UnixNano]]) -> None:
        for claim, due in claims:
            self._index.claims.postpone(claim, due)
        self._files.begun.end([claim.key for claim, _ in claims])

    async def move(self, claim: Claim, host: Key, *, if_held: bool = False) -> bool:
        moved = await self._settling.move(claim, host, if_held=if_held)
        if moved:
            self._files.begun.end([claim.key])
        return moved

    async def defer(self, exporter: str, parts: Sequence[Part], now: UnixNano) -> None:
        if self._writer.short:
            # What is set aside is for what leaves without a copy.
            raise UnavailableError("the disk is full", retry_after=5.0, reason=DISK_FULL)
        await self._settling.defer(exporter, parts, now)

    async def claim_deferred(self, exporter: str, now: UnixNano, limit: int) -> Sequence[Claim]:
        if not self._ready.is_set() or self._files.begun.suspects:
            return []
        claims = self._index.claims.claim_deferred(exporter, now, limit)
        if claims:
            self._files.begun.begin([claim.key for claim in claims])
        return claims

    async def recall(self, keys: Sequence[Key], now: UnixNano) -> Sequence[Memory | None]:
        await self._ready.wait()
        if not any(self._metadata.knows(key) for key in keys):
            return [None] * len(keys)
        return await self._ask("memories", lambda: [self._metadata.recall(key, now) for key in keys])

    async def peek(self, key: Key) -> TraceState | None:
        await self._ready.wait()
        entry = self._index.table.entries.get(key)
        return None if entry is None or not (entry.host_spans or entry.guests) else self._index.claims.state_of(entry)

    async def host_of(self, guest: Key) -> Key | None:
        await self._ready.wait()
        known = self._index.table.guests.get(guest)
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

    def stats(self) -> Stats:
        index = self._index
        oldest = index.table.oldest()
        backlogs = {name: index.table.backlog(name) for name in index.table.backlogs}
        return Stats(
            traces=len(index.table.entries) - sum([one.batches for one in backlogs.values()]),
            spans=index.table.spans - sum([one.spans for one in backlogs.values()]),
            bytes=index.table.bytes,
            limit_bytes=self._max_bytes,
            oldest=None if oldest is None else UnixNano(oldest),
            remembered=len(self._metadata),
            recovering=not self._ready.is_set(),
            recovered_spans=self._unanswered_spans + (0 if self._recovery is None else self._recovery.spans),
            disk_bytes=0 if self._log is None else self._log.disk_bytes + self._metadata.disk_bytes,
            dead_letters=self._metadata.letters.held,
            backlogs=backlogs,
        )

    async def _keep(self, batch: MetadataBatch) -> None:
        """Commit what goes into the metadata alone."""
        await self._writer.submit([], lambda _: None, metadata=batch).future

    async def _ask(self, what: str, query: Callable[[], _T]) -> _T:
        """What the metadata says, asked on a thread where it is a file. Raises UnavailableError."""
        if self._pool is None:
            return query()
        try:
            try:
                return await self._loop.run_in_executor(self._pool, query)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                await self._mend()
                return await self._loop.run_in_executor(self._pool, query)
        except sqlite3.Error as error:
            raise UnavailableError(f"{what} could not be read: {error}", reason="store_down") from error

    def _held_traces(self) -> int:
        recovering = self._recovery
        return len(self._index.table.entries) + (0 if recovering is None else recovering.traces)

    async def _mend(self) -> None:
        """Have the writer replace a damaged metadata file. Raises UnavailableError."""

        def renew() -> Sequence[Row]:
            self._files.renew()
            return ()

        await self._writer.submit([], lambda _: None, prepare=renew).future

    def _give_up_space(self) -> None:
        if self._compactor is not None:
            self._compactor.run()

    def _open_for_claims(self) -> None:
        if self._recovery is not None:
            # It is in the ledger too, unless that was damaged.
            self.moment = UnixNano(max(self.moment, self._recovery.latest))
        self._ready.set()
        if self._log is not None and self._pool is not None:
            self._compactor = Compactor(self._log, self._index, self._writer, self._pool, self.counts)
            self._compactor.run()
