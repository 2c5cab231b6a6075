"""The store of one process: a log of segment files, an index in memory, a ledger for what outlives the parts.

The event loop owns the index, one thread owns the writing. A request is filed on the index (pure, at once), its
record is queued, and whatever is queued when the writer comes round is written by one system call; then, back on the
loop and in the order of the log, the records are applied to the index and the callers get their answers. What could
not be written was never applied.

Space: segments are given up from the oldest end alone, so that no settlement is ever lost before the parts that it
settled. Where one old trace keeps many dead bytes alive, the oldest segment's live parts are copied to the end of the
log, a megabyte at a time.

Start: the doors may append at once, into a new segment, while a thread reads the old ones into an index of its own;
then the two are merged. Until then nothing is claimed.

Without a directory everything is kept in memory: the same index, no log, a ledger without a file, no thread.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from grafter.core.calls import CallNote
from grafter.core.model import Key, Mark, Part, UnixNano
from grafter.core.policy import Waits
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.base import Bundle, Claim, DeadLetter, Memory, Outcome, Plain, Settlement, Stats, StoredPart
from grafter.store.embedded.compaction import Cleaner, Counts
from grafter.store.embedded.directory import Files, open_files
from grafter.store.embedded.index import Index
from grafter.store.embedded.metadata_db import Ledger
from grafter.store.embedded.part_reader import Fetcher
from grafter.store.embedded.recent import RECENT_BYTES, Recent
from grafter.store.embedded.recovery import Recovery
from grafter.store.embedded.segments import StoreError
from grafter.store.embedded.settling import Settling
from grafter.store.embedded.tasks import KeepsTasks, TaskBook
from grafter.store.embedded.trace_entry import LookAt
from grafter.store.embedded.writer import Place, Writer
from grafter.store.records import RecordType

__all__ = ["EmbeddedStore", "StoreError", "opened"]

SEGMENT_BYTES = 64 << 20
LETTER_BYTES = 64 << 20
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
    look_at: LookAt,
    fsync: str = "interval",
    fsync_interval: float = 1.0,
    clock: Callable[[], int] = time.time_ns,
    segment_bytes: int = SEGMENT_BYTES,
    letter_bytes: int = LETTER_BYTES,
    recent_bytes: int = RECENT_BYTES,
) -> AsyncIterator["EmbeddedStore"]:
    """Open the store in a directory, which is made when it is missing; None keeps everything in memory.

    ``fsync``: ``interval`` brings what was written to the disk every ``fsync_interval`` seconds, ``always`` before
    append returns. ``recent_bytes`` bounds what is kept in memory of the records written last. ``clock`` (Unix
    nanoseconds) says how old memories are at start. On leaving, what is queued is written and brought to the disk;
    what is held stays.

    Raises StoreError when the directory cannot be used.
    """
    if fsync not in ("interval", "always"):
        raise ValueError(f"fsync is {fsync!r}, expected 'interval' or 'always'")

    def ledger(path: Path | None) -> Ledger:
        return Ledger(path, remember=waits.remember, remember_limit=waits.remember_limit, letter_bytes=letter_bytes)

    def tasks(path: Path | None, book: Ledger) -> TaskBook:
        return TaskBook(path, lease_ns, book.writing)

    store = EmbeddedStore(
        await asyncio.to_thread(open_files, directory, segment_bytes, ledger, tasks)
        if directory
        else Files(book := ledger(None), tasks(None, book)),
        waits=waits,
        max_bytes=max_bytes,
        max_trace_bytes=max_trace_bytes,
        lease_ns=lease_ns,
        always=fsync == "always",
        fsync_interval=fsync_interval,
        guests_apart=guests_apart,
        look_at=look_at,
        clock=clock,
        recent_bytes=recent_bytes,
    )
    try:
        store.start()
        yield store
    finally:
        await store.stop()


class EmbeddedStore(KeepsTasks):
    """See grafter.store.base for the promises; made by ``opened``."""

    def __init__(
        self,
        files: Files,
        *,
        waits: Waits,
        max_bytes: int,
        max_trace_bytes: int,
        lease_ns: int,
        always: bool,
        fsync_interval: float,
        guests_apart: bool,
        look_at: LookAt,
        clock: Callable[[], int],
        recent_bytes: int,
    ) -> None:
        super().__init__(files.tasks)
        self.counts = Counts()
        self._files = files
        self._log = files.log
        self._ledger = files.ledger
        self._max_bytes = max_bytes
        self._lease = lease_ns
        self._loop = asyncio.get_running_loop()
        arrival = files.log.arrival if files.log is not None else 0
        # A claim of an earlier process must never fit: tokens start anywhere.
        self._token = int.from_bytes(os.urandom(6), "little") << 16

        def index() -> Index:
            return Index(
                files.ledger,
                look_at,
                waits,
                apart=guests_apart,
                max_trace_bytes=max_trace_bytes,
                arrival=arrival,
                keeps_objects=files.log is None,
            )

        self._index = index()
        self._pending = 0
        self._ready = asyncio.Event()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="grafter-store-read") if files.log is not None else None
        self._recent = Recent(recent_bytes, waits.after_root + _RECENT_MARGIN)
        self._fetcher = Fetcher(self._index.table, files.log, self._recent, self._pool)
        self._cleaner: Cleaner | None = None
        self._full = False
        self._writer = Writer(
            files.log,
            files.ledger,
            files.reserve,
            always=always,
            interval=fsync_interval,
            committed=self._give_up_space,
        )
        self._settling = Settling(self._index, self._writer, logged=files.log is not None)
        self._recovery: Recovery | None = None
        if files.log is not None and files.log.segments:
            self._recovery = Recovery(
                files.log, index(), self._index, self._writer, self.counts, clock, ended=self._open_for_claims
            )

    # Start and stop.

    def start(self) -> None:
        """Begin the threads; called by ``opened``."""
        self._writer.start()
        if self._recovery is not None:
            self._recovery.start()
        else:
            self._open_for_claims()

    async def stop(self) -> None:
        """Write what is queued, bring it to the disk, close; called by ``opened``."""
        await self._writer.stop()
        await self.stop_tasks()
        if self._pool is not None:
            await asyncio.to_thread(self._finish, self._pool)
        self._files.close()

    def _finish(self, pool: ThreadPoolExecutor) -> None:
        if self._recovery is not None:
            self._recovery.join()
        pool.shutdown()

    @property
    def up(self) -> bool:
        """False from a failed write until one works."""
        return self._writer.up

    @property
    def full(self) -> bool:
        """A part was refused because the store is full, and it still nearly is."""
        self._full = self._full and self._index.table.bytes + self._pending > self._max_bytes * 9 // 10
        return self._full or self._writer.short

    @property
    def forgotten(self) -> int:
        """Memories that the limit or the time ended, since the start."""
        return self._ledger.forgotten

    @property
    def forgotten_marks(self) -> int:
        """Marks that the limit on their number ended, since the start."""
        return self._ledger.marks.forgotten

    async def recovered(self) -> None:
        """Wait until the index is whole."""
        await self._ready.wait()

    def hmac_secret(self) -> bytes:
        """32 random bytes, the same for the life of the directory (in memory: of the store)."""
        return self._ledger.secret("hmac")

    # The contract.

    async def append(self, parts: Sequence[Part], now: UnixNano, marks: Sequence[Mark] = ()) -> None:
        if parts or not marks:
            await self._append(parts, now)
        if marks:
            # Only now, in a commit of their own: a mark without its parts would make a repeat lose them.
            marked = [(mark, now) for mark in marks]
            await self._writer.submit([], lambda _: None, marks=marked).future

    async def seen(self, ids: Sequence[str], now: UnixNano) -> Sequence[bool]:
        try:
            if self._pool is None:
                return self._ledger.marks.seen(ids, now)
            return await self._loop.run_in_executor(self._pool, self._ledger.marks.seen, ids, now)
        except sqlite3.Error as error:
            raise UnavailableError(f"marks could not be read: {error}", reason="store_down") from error

    async def note_calls(self, calls: Sequence[CallNote], now: UnixNano) -> None:
        if calls:
            await self._writer.submit([], lambda _: None, calls=[(call, now) for call in calls]).future

    async def noted_calls(self, call_ids: Sequence[str], now: UnixNano) -> Sequence[CallNote | None]:
        try:
            if self._pool is None:
                return self._ledger.calls.noted(call_ids, now)
            return await self._loop.run_in_executor(self._pool, self._ledger.calls.noted, call_ids, now)
        except sqlite3.Error as error:
            raise UnavailableError(f"calls could not be read: {error}", reason="store_down") from error

    async def _append(self, parts: Sequence[Part], now: UnixNano) -> None:
        size = sum([len(part.payload) for part in parts])
        self._admit(size)
        index = self._index
        filed = index.filing.file(parts, now)
        if self._log is None:
            index.add(filed, 0, 0)
            return
        body = b"".join(records.parts_body(filed.keys, filed.rows, filed.blobs, filed.length, filed.moves))

        def apply(places: list[Place]) -> None:
            self._pending -= size
            self._index.add(filed, *places[0])
            self._recent.add(now, places[0], body)

        def refused() -> None:
            self._pending -= size
            self._index.filing.refused(filed)

        self._pending += size
        await self._writer.submit([(RecordType.PARTS, [body])], apply, refused).future

    def _admit(self, size: int) -> None:
        if self._writer.stopping:
            raise UnavailableError("the store is stopping", reason="stopping")
        if self._writer.short:
            raise UnavailableError("the disk is full", retry_after=5.0, reason="disk_full")
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

    async def claim(self, now: UnixNano, limit: int, *, bundles: bool = False) -> Sequence[Claim]:
        if not self._ready.is_set():
            return []
        return self._index.claims.claim(now, limit, self._lease, self._next_token, bundles=bundles)

    def _next_token(self) -> int:
        self._token += 1
        return self._token

    async def postpone(self, claims: Sequence[tuple[Claim, UnixNano]]) -> None:
        for claim, due in claims:
            held = self._index.claims.owner(claim)
            if held is not None:
                self._index.claims.postpone(claim.key, held, due)

    async def renew(self, claims: Sequence[Claim], now: UnixNano) -> None:
        for claim in claims:
            held = self._index.claims.owner(claim)
            if held is not None:
                self._index.claims.renew(claim.key, held, now + self._lease)

    async def move(self, claim: Claim, host: Key) -> bool:
        return await self._settling.move(claim, host)

    async def intend(self, claims: Sequence[Claim], exporter: str) -> Sequence[bool]:
        return await self._settling.note(claims, exporter, Outcome.INTENDED)

    async def outcome(self, claims: Sequence[Claim], exporter: str, outcome: Outcome) -> None:
        await self._settling.note(claims, exporter, outcome)

    async def settle(self, settlements: Sequence[Settlement], now: UnixNano) -> Sequence[bool]:
        return await self._settling.settle(settlements, now)

    async def bundle(self, now: UnixNano, traces: int, spans: int, size: int) -> Bundle | None:
        self._recent.ask(now)
        if not self._ready.is_set():
            return None
        return self._index.bundles.bundle(now, traces, spans, size, self._lease, self._next_token)

    async def read_bundle(self, bundle: Bundle) -> Sequence[Plain]:
        return await self._fetcher.read_bundle(bundle)

    async def intend_bundle(self, bundle: Bundle, exporter: str) -> bool:
        return await self._settling.intend_bundle(bundle, exporter)

    async def settle_bundle(self, bundle: Bundle, blobs: Sequence[bytes], now: UnixNano) -> bool:
        return await self._settling.settle_bundle(bundle, blobs, now)

    async def renew_bundle(self, bundle: Bundle, now: UnixNano) -> None:
        if self._index.bundles.bundled(bundle):
            bundle.lease = now + self._lease

    async def open_bundle(self, bundle: Bundle) -> Sequence[Claim]:
        return self._index.claims.open_bundle(bundle) if self._index.bundles.bundled(bundle) else []

    async def read(self, claims: Sequence[Claim]) -> Sequence[Sequence[StoredPart]]:
        return await self._fetcher.read(claims)

    async def recall(self, keys: Sequence[Key], now: UnixNano) -> Sequence[Memory | None]:
        await self._ready.wait()
        if not any(self._ledger.knows(key) for key in keys):
            return [None] * len(keys)
        try:
            if self._pool is None:
                return [self._ledger.recall(key, now) for key in keys]
            return await self._loop.run_in_executor(self._pool, lambda: [self._ledger.recall(key, now) for key in keys])
        except sqlite3.Error as error:
            raise UnavailableError(f"memories could not be read: {error}", reason="store_down") from error

    async def held(self, key: Key) -> bool:
        await self._ready.wait()
        held = self._index.table.entries.get(key)
        return held is not None and held.host_spans > 0

    async def bury(self, letters: Sequence[DeadLetter]) -> int:
        if not letters:
            return 0
        op = self._writer.submit([], lambda _: None, letters=letters)
        await op.future
        return op.pushed_out

    async def dead_letters(self, limit: int) -> Sequence[DeadLetter]:
        try:
            if self._pool is None:
                return self._ledger.letters(limit)
            return await self._loop.run_in_executor(self._pool, self._ledger.letters, limit)
        except sqlite3.Error as error:
            raise UnavailableError(f"dead letters could not be read: {error}", reason="store_down") from error

    def stats(self) -> Stats:
        index = self._index
        oldest = index.table.oldest()
        return Stats(
            traces=len(index.table.entries),
            spans=index.table.spans,
            bytes=index.table.bytes,
            limit_bytes=self._max_bytes,
            oldest=None if oldest is None else UnixNano(oldest),
            remembered=len(self._ledger),
            recovering=not self._ready.is_set(),
            recovered_spans=0 if self._recovery is None else self._recovery.spans,
            disk_bytes=0 if self._log is None else self._log.disk_bytes + self._ledger.disk_bytes,
        )

    def _give_up_space(self) -> None:
        if self._cleaner is not None:
            self._cleaner.look()

    def _open_for_claims(self) -> None:
        self._ready.set()
        if self._log is not None and self._pool is not None:
            self._cleaner = Cleaner(self._log, self._index, self._writer, self._pool, self.counts)
            self._cleaner.look()
