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
import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from grafter.core.model import Facts, Key, Mark, Part, UnixNano
from grafter.core.policy import Waits
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.base import Bundle, Claim, DeadLetter, Memory, Outcome, Plain, Settlement, Stats, StoredPart
from grafter.store.cleaning import Cleaner, Counts
from grafter.store.held import Held, LookAt
from grafter.store.index import Index, first_root
from grafter.store.ledger import Ledger, Sheet
from grafter.store.reading import Reader
from grafter.store.recent import Recent
from grafter.store.records import CHUNK, Chunk, Move, RecordError, RecordType, facts_of
from grafter.store.recovery import rebuild
from grafter.store.reserve import Reserve
from grafter.store.segments import Damage, Segment, SegmentLog, StoreError
from grafter.store.tasks import KeepsTasks, TaskBook
from grafter.store.writer import Place, Row, Writer

__all__ = ["EmbeddedStore", "StoreError", "opened"]

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

SEGMENT_BYTES = 64 << 20
LETTER_BYTES = 64 << 20
RECENT_BYTES = 64 << 20
# A trace that ends with its root is released soon after ``after_root``.
_RECENT_MARGIN = 2_000_000_000
_ROOT = int(Facts.ROOT)


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
        await asyncio.to_thread(_files, directory, segment_bytes, ledger, tasks)
        if directory
        else _Files(book := ledger(None), tasks(None, book)),
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


@dataclass(slots=True)
class _Files:
    """What is open in the directory."""

    ledger: Ledger
    tasks: TaskBook
    log: SegmentLog | None = None
    lock: int = -1
    reserve: Reserve | None = None

    def close(self) -> None:
        self.tasks.close()
        self.ledger.close()
        if self.log is not None:
            self.log.close()
        if self.lock >= 0:
            os.close(self.lock)


def _files(
    directory: Path,
    segment_bytes: int,
    ledger: Callable[[Path | None], Ledger],
    tasks: Callable[[Path | None, Ledger], TaskBook],
) -> _Files:
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
    return _Files(book, task_book, log, lock, Reserve(directory))


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


class EmbeddedStore(KeepsTasks):
    """See grafter.store.base for the promises; made by ``opened``."""

    def __init__(
        self,
        files: _Files,
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
        self._clock = clock
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

        self._new_index = index
        self._index = index()
        self._pending = 0
        self._ready = asyncio.Event()
        self._recovered_spans = 0
        self._old = list(files.log.segments.values()) if files.log is not None else []
        self._recovering_index: Index | None = None
        self._recovery: threading.Thread | None = None
        self._reader = Reader()
        self._recent = Recent(recent_bytes, waits.after_root + _RECENT_MARGIN)
        self._pool: ThreadPoolExecutor | None = None
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

    # Start and stop.

    def start(self) -> None:
        """Begin the threads; called by ``opened``."""
        if self._log is not None:
            self._pool = ThreadPoolExecutor(2, thread_name_prefix="grafter-store-read")
        self._writer.start()
        if self._old:
            self._recovery = threading.Thread(target=self._recover, name="grafter-store-recover", daemon=True)
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
        self._full = self._full and self._index.bytes + self._pending > self._max_bytes * 9 // 10
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

    async def _append(self, parts: Sequence[Part], now: UnixNano) -> None:
        size = sum([len(part.payload) for part in parts])
        self._admit(size)
        index = self._index
        filed = index.file(parts, now)
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
            self._index.refused(filed)

        self._pending += size
        await self._write((RecordType.PARTS, [body]), apply, refused)

    def _admit(self, size: int) -> None:
        if self._writer.stopping:
            raise UnavailableError("the store is stopping", reason="stopping")
        if self._writer.short:
            raise UnavailableError("the disk is full", retry_after=5.0, reason="disk_full")
        held = self._index.bytes + self._pending
        if self._recovering_index is not None:
            held += self._recovering_index.bytes
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
        return self._index.claim(now, limit, self._lease, self._next_token, bundles=bundles)

    def _next_token(self) -> int:
        self._token += 1
        return self._token

    async def postpone(self, claims: Sequence[tuple[Claim, UnixNano]]) -> None:
        for claim, due in claims:
            held = self._index.owner(claim)
            if held is not None:
                self._index.postpone(claim.key, held, due)

    async def renew(self, claims: Sequence[Claim], now: UnixNano) -> None:
        for claim in claims:
            held = self._index.owner(claim)
            if held is not None:
                self._index.renew(claim.key, held, now + self._lease)

    async def move(self, claim: Claim, host: Key) -> bool:
        await self._moved([claim.key])
        held = self._index.owner(claim)
        if held is None or claim.key not in self._index.guests or (held.pin is not None and held.pin.stands):
            return False
        move = self._index.move_all(claim.key, host)
        token, held.token = held.token, 0
        self._index.begin(claim.key)

        def apply(_: list[Place]) -> bool:
            self._index.end(claim.key)
            return self._index.move(move)

        def refused() -> None:
            self._index.end(claim.key)
            held.token = token

        return await self._write(_moving(move), apply, refused)

    async def intend(self, claims: Sequence[Claim], exporter: str) -> Sequence[bool]:
        return await self._note(claims, exporter, Outcome.INTENDED)

    async def outcome(self, claims: Sequence[Claim], exporter: str, outcome: Outcome) -> None:
        await self._note(claims, exporter, outcome)

    async def _note(self, claims: Sequence[Claim], exporter: str, outcome: Outcome) -> Sequence[bool]:
        await self._moved([claim.key for claim in claims])
        owned = [self._index.owner(claim) is not None for claim in claims]
        noted = [(claim.key, claim.up_to) for claim, own in zip(claims, owned, strict=True) if own]
        if not noted:
            return owned
        for key, _ in noted:
            self._index.begin(key)

        def apply(_: list[Place]) -> list[bool]:
            refused()
            done = {key: self._index.outcome(key, up_to, exporter, outcome) for key, up_to in noted}
            return [own and done[claim.key] for claim, own in zip(claims, owned, strict=True)]

        def refused() -> None:
            for key, _ in noted:
                self._index.end(key)

        body = [records.encode_outcome(exporter, outcome, noted)] if self._log is not None else []
        return await self._write((RecordType.OUTCOME, body), apply, refused)

    async def settle(self, settlements: Sequence[Settlement], now: UnixNano) -> Sequence[bool]:
        await self._moved([settlement.claim.key for settlement in settlements])
        owned: list[tuple[Settlement, Held, int] | None] = []
        for settlement in settlements:
            held = self._index.owner(settlement.claim)
            if held is None:
                owned.append(None)
                continue
            # The claim is spent; nobody may use it again while this is being written.
            owned.append((settlement, held, held.token))
            held.token = 0
            self._index.begin(settlement.claim.key)
        ends = [entry for entry in owned if entry is not None]
        if not ends:
            return [False] * len(owned)
        memories = [(memory, now) for settlement, _, _ in ends for memory in settlement.memories]

        def apply(_: list[Place]) -> list[bool]:
            index = self._index
            done = []
            for entry in owned:
                if entry is None:
                    done.append(False)
                    continue
                claim = entry[0].claim
                index.end(claim.key)
                done.append(index.settle(claim.key, claim.up_to, now))
                for memory in entry[0].memories:
                    index.released(memory.key, memory.host)
            return done

        def refused() -> None:
            for settlement, held, token in ends:
                self._index.end(settlement.claim.key)
                held.token = token

        body = [records.encode_keys((x.claim.key, x.claim.up_to) for x, _, _ in ends)] if self._log is not None else []
        return await self._write((RecordType.SETTLE, body), apply, refused, memories)

    async def _moved(self, keys: Iterable[Key]) -> None:
        """Wait until no guest's parts are on their way to a host: only then it shows who owns them."""
        if self._log is not None and any(key in self._index.busy for key in keys if len(key) == records.KEY_BYTES):
            await self._writer.submit([], lambda _: None).future

    async def bundle(self, now: UnixNano, traces: int, spans: int, size: int) -> Bundle | None:
        self._recent.forget(now)
        if not self._ready.is_set():
            return None
        return self._index.bundle(now, traces, spans, size, self._lease, self._next_token)

    async def read_bundle(self, bundle: Bundle) -> Sequence[Plain]:
        if self._log is None:
            return self._index.plain_objects(bundle)
        recent = self._recent
        found: list[Plain | None] = []
        missing: list[tuple[int, list[Chunk]]] = []
        for i, chunks in enumerate(self._index.plain_chunks(bundle)):
            plain = recent.plain(chunks, first_root(chunks))
            if plain is None:
                missing.append((i, list(CHUNK.iter_unpack(chunks))))
            found.append(plain)
        if missing:
            read = await self._fetch([chunks for _, chunks in missing])
            for (i, _), parts in zip(missing, read, strict=True):
                found[i] = _plain(parts)
        return [plain for plain in found if plain is not None]

    async def intend_bundle(self, bundle: Bundle, exporter: str) -> bool:
        if not self._index.bundled(bundle):
            return False
        bundle.intended = exporter
        if self._log is None:
            return True
        bundle.writing = True

        def refused() -> None:
            bundle.writing = False
            bundle.intended = ""

        def apply(_: list[Place]) -> bool:
            bundle.writing = False
            return True

        bundle.noted = records.encode_keys(self._index.up_tos(bundle))
        body = records.outcome_head(exporter, Outcome.INTENDED) + bundle.noted
        return await self._write((RecordType.OUTCOME, [body]), apply, refused)

    async def settle_bundle(self, bundle: Bundle, blobs: Sequence[bytes], now: UnixNano) -> bool:
        index = self._index
        if not index.bundled(bundle):
            return False
        bundle.writing = True

        def apply(_: list[Place]) -> bool:
            index.settle_bundle(bundle, now)
            return True

        def refused() -> None:
            bundle.writing = False

        body = [bundle.noted] if self._log is not None else []
        sheet = Sheet(now, bundle.keys, blobs)
        return await self._writer.submit([(RecordType.SETTLE, body)], apply, refused, sheets=[sheet]).future

    async def renew_bundle(self, bundle: Bundle, now: UnixNano) -> None:
        if self._index.bundled(bundle):
            bundle.lease = now + self._lease

    async def open_bundle(self, bundle: Bundle) -> Sequence[Claim]:
        return self._index.open_bundle(bundle.token) if self._index.bundled(bundle) else []

    async def read(self, claims: Sequence[Claim]) -> Sequence[Sequence[StoredPart]]:
        if self._log is None:
            return [self._from_memory(claim) for claim in claims]
        wanted = []
        for claim in claims:
            held = self._index.entries.get(claim.key)
            wanted.append([] if held is None else [c for c in CHUNK.iter_unpack(held.chunks) if c[2] <= claim.up_to])
        return await self._fetch(wanted)

    async def _fetch(self, wanted: Sequence[Sequence[Chunk]]) -> Sequence[list[StoredPart]]:
        """The parts of these chunks, from the disk. Raises UnavailableError."""
        assert self._log is not None
        assert self._pool is not None
        segments: dict[int, Segment] = {}
        for chunks in wanted:
            for chunk in chunks:
                if chunk[0] not in segments:
                    segments[chunk[0]] = self._log.segments[chunk[0]]
        for segment in segments.values():
            segment.readers += 1
        try:
            return await self._loop.run_in_executor(self._pool, self._reader.fetch, wanted, segments)
        except (OSError, RecordError) as error:
            raise UnavailableError(f"held parts could not be read: {error}", reason="store_down") from error
        finally:
            for segment in segments.values():
                segment.readers -= 1
                self._log.released(segment)

    def _from_memory(self, claim: Claim) -> list[StoredPart]:
        held = self._index.entries.get(claim.key)
        if held is None or held.objects is None:
            return []
        chunks: Iterable[tuple[int, ...]] = CHUNK.iter_unpack(held.chunks)
        if held.arrival > claim.up_to:
            chunks = [chunk for chunk in chunks if chunk[2] <= claim.up_to]
        objects, guests = held.objects, held.guests
        parts = [
            StoredPart(chunk[2], payload, chunk[4], envelope, head, None, facts_of(chunk[5]))
            for chunk, payload, envelope, head in zip(chunks, objects[0::3], objects[1::3], objects[2::3], strict=False)
        ]
        if guests is not None:
            for part in parts:
                if part.arrival in guests:
                    part.guest = records.decode_guest(guests[part.arrival][1])
        return parts

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
        held = self._index.entries.get(key)
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
        oldest = index.oldest()
        return Stats(
            traces=len(index.entries),
            spans=index.spans,
            bytes=index.bytes,
            limit_bytes=self._max_bytes,
            oldest=None if oldest is None else UnixNano(oldest),
            remembered=len(self._ledger),
            recovering=not self._ready.is_set(),
            recovered_spans=self._recovered_spans,
            disk_bytes=0 if self._log is None else self._log.disk_bytes + self._ledger.disk_bytes,
        )

    # Inside.

    async def _write(
        self,
        row: Row,
        apply: Callable[[list[Place]], _T],
        refused: Callable[[], None],
        memories: Sequence[tuple[Memory, UnixNano]] = (),
    ) -> _T:
        """Write, apply, and answer with what ``apply`` said. Raises UnavailableError; then ``refused`` was called."""
        return await self._writer.submit([row], apply, refused, memories=memories).future

    def _give_up_space(self) -> None:
        if self._cleaner is not None:
            self._cleaner.look()

    def _open_for_claims(self) -> None:
        self._ready.set()
        if self._log is not None and self._pool is not None:
            self._cleaner = Cleaner(self._log, self._index, self._writer, self._pool, self.counts)
            self._cleaner.look()

    def _recover(self) -> None:
        """On a thread of its own."""
        assert self._log is not None
        index = self._recovering_index = self._new_index()
        try:
            damage = rebuild(self._log, self._old, index, self._clock, stopping=lambda: self._writer.stopping)
        except Exception:  # noqa: BLE001  # without it a thread would end unseen, and claims wait for ever
            _LOG.exception("what was held before the start cannot be read; nothing is released")
            self._writer.up = False
            return
        if damage is not None:
            # The loop is gone when the store was left meanwhile.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._recovered, index, damage)

    def _recovered(self, index: Index, damage: Damage) -> None:
        if self._writer.stopping:
            return
        self._recovered_spans = index.spans
        self.counts.lost_records += damage.records
        self.counts.torn_bytes += damage.torn
        if damage.records:
            _LOG.error(
                "%d damaged records (%d bytes) of the store are lost; everything else was read",
                damage.records,
                damage.bytes,
            )
        _LOG.info(
            "recovered %d spans of %d traces; %d bytes were never acknowledged and are cut off",
            index.spans,
            len(index.entries),
            damage.torn,
        )
        guests = index.absorb(self._index)
        self._index, self._recovering_index, self._old = index, None, []
        for key, host in index.stray_guests(guests, self._clock()):
            index.begin(key)
            self._move_stray(index, key, index.move_all(key, host))
        self._open_for_claims()

    def _move_stray(self, index: Index, key: Key, move: Move) -> None:
        def apply(_: list[Place]) -> None:
            index.end(key)
            index.move(move)

        future = self._writer.submit([_moving(move)], apply, lambda: index.end(key)).future
        # Where this fails it stays under its own key, and is released from there.
        future.add_done_callback(lambda done: done.exception())


def _plain(parts: Sequence[StoredPart]) -> Plain:
    """Host parts that were read back, as a bundle gives them."""
    root = next(i for i, part in enumerate(parts) if int(part.facts) & _ROOT)
    envelopes = [part.envelope for part in parts if part.envelope is not None]
    return [part.payload for part in parts], envelopes, [part.span_ids for part in parts], root


def _moving(move: Move) -> Row:
    return RecordType.PARTS, records.parts_body((), (), (), records.PARTS_HEAD.size, (move,))
