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
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from grafter.core.model import Envelope, Facts, GuestFacts, Key, Part, UnixNano, guest_key
from grafter.core.policy import Waits
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.base import Claim, DeadLetter, Memory, Outcome, Settlement, Stats, StoredPart
from grafter.store.index import Held, Index, LookAt
from grafter.store.ledger import Ledger
from grafter.store.records import CHUNK, GUEST, LOCATION, ROW, RecordError, RecordType, facts_of
from grafter.store.segments import Damage, Record, Segment, SegmentLog, StoreError

__all__ = ["EmbeddedStore", "StoreError", "opened"]

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

SEGMENT_BYTES = 64 << 20
LETTER_BYTES = 64 << 20
# Dead bytes are given up when the log is this many times what is live, and two segments more.
_WASTE = 4
# What a part costs in the log beside its payload and span ids: its row and key, and its share of the rest.
_PART_COST = records.ROW.size + records.KEY_BYTES + 8
# A claim's parts lie scattered between those of others; reading over a gap is cheaper than another system call.
_GAP = 16 << 10
_READ = 4 << 20
_GROUP_RECORDS = 256
_GROUP_BYTES = 8 << 20
_COPY_BYTES = 1 << 20
_COPY_ROWS = 4000

_Body = Sequence[bytes]
_Place = tuple[int, int]
_Chunk = tuple[int, int, int, int, int, int, int, int, int, int, int]
"""records.CHUNK, unpacked."""


# Calling an enum costs more than the rest of a part's reading.
_FACTS = tuple(Facts(value) for value in range(8))


@dataclass(slots=True)
class Counts:
    """What happened inside since the start."""

    copied_parts: int = 0
    """Parts that were copied so that their segment could be given up."""
    copied_bytes: int = 0
    given_up_segments: int = 0
    lost_records: int = 0
    """Records that were damaged on disk; each is also an ERROR in the log."""
    torn_bytes: int = 0
    """Unacknowledged bytes that an earlier process left behind when it died."""


@dataclass(slots=True)
class _Op(Generic[_T]):
    """Something to write, and what follows from it on the loop."""

    future: asyncio.Future[_T]
    records: Sequence[tuple[RecordType, _Body]]
    apply: Callable[[list[_Place]], _T]
    refused: Callable[[], None]
    memories: Sequence[tuple[Memory, UnixNano]] = ()
    letters: Sequence[DeadLetter] = ()
    prepare: Callable[[], Sequence[tuple[RecordType, _Body]]] | None = None
    """On the writer's thread, before the write: makes the records."""
    pushed_out: int = 0
    places: list[_Place] = field(default_factory=list)
    error: Exception | None = None


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
) -> AsyncIterator["EmbeddedStore"]:
    """Open the store in a directory, which is made when it is missing; None keeps everything in memory.

    ``fsync``: ``interval`` brings what was written to the disk every ``fsync_interval`` seconds, ``always`` before
    append returns. ``clock`` (Unix nanoseconds) says how old memories are at start. On leaving, what is queued is
    written and brought to the disk; what is held stays.

    Raises StoreError when the directory cannot be used.
    """
    if fsync not in ("interval", "always"):
        raise ValueError(f"fsync is {fsync!r}, expected 'interval' or 'always'")

    def ledger(path: Path | None) -> Ledger:
        return Ledger(path, remember=waits.remember, remember_limit=waits.remember_limit, letter_bytes=letter_bytes)

    store = EmbeddedStore(
        await asyncio.to_thread(_files, directory, segment_bytes, ledger) if directory else _Files(ledger(None)),
        waits=waits,
        max_bytes=max_bytes,
        max_trace_bytes=max_trace_bytes,
        lease_ns=lease_ns,
        always=fsync == "always",
        fsync_interval=fsync_interval,
        guests_apart=guests_apart,
        look_at=look_at,
        clock=clock,
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
    log: SegmentLog | None = None
    lock: int = -1

    def close(self) -> None:
        self.ledger.close()
        if self.log is not None:
            self.log.close()
        if self.lock >= 0:
            os.close(self.lock)


def _files(directory: Path, segment_bytes: int, ledger: Callable[[Path | None], Ledger]) -> _Files:
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
            if not log.segments:
                book.load()
        except BaseException:
            log.close()
            raise
    except StoreError:
        os.close(lock)
        raise
    except (OSError, sqlite3.Error) as error:
        os.close(lock)
        raise StoreError(f"cannot read the store in {directory}: {error}") from error
    return _Files(book, log, lock)


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


class EmbeddedStore:
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
    ) -> None:
        self.up = True
        """False from a failed write until one works."""
        self.counts = Counts()
        self._files = files
        self._log = files.log
        self._ledger = files.ledger
        self._max_bytes = max_bytes
        self._lease = lease_ns
        self._always = always
        self._fsync_interval = fsync_interval
        self._clock = clock
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
        self._stopping = False
        self._ready = asyncio.Event()
        self._recovered_spans = 0
        self._old = sorted(files.log.segments.values(), key=lambda x: x.number) if files.log is not None else []
        self._recovering_index: Index | None = None
        self._loop = asyncio.get_running_loop()
        self._queued: list[_Op[Any]] = []
        self._inbox: queue.SimpleQueue[list[_Op[Any]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stop_sync = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        # Every record of a segment below this one is applied.
        self._applied = files.log.newest + 1 if files.log is not None else 0
        self._giving_up: set[int] = set()
        self._cleaning: int | None = None
        self._pass_end = 0
        self._floor = 0
        self._envelopes: dict[bytes, Envelope] = {}

    # Start and stop.

    def start(self) -> None:
        """Begin the threads; called by ``opened``."""
        if self._log is None:
            self._ready.set()
            return
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="grafter-store-read")
        self._thread(self._write_forever, "write")
        if not self._always:
            self._thread(self._sync_forever, "sync")
        if self._old:
            self._thread(self._recover, "recover")
        else:
            self._ready.set()

    def _thread(self, run: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=run, name=f"grafter-store-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    async def stop(self) -> None:
        """Write what is queued, bring it to the disk, close; called by ``opened``."""
        self._stopping = True
        self._flush()
        self._inbox.put(None)
        self._stop_sync.set()

        def finish() -> None:
            for thread in self._threads:
                thread.join()
            if self._pool is not None:
                self._pool.shutdown()
            if self._log is not None:
                try:
                    self._log.sync()
                except OSError as error:
                    _LOG.error("the last writes may not be on the disk: %s", error.strerror)

        if self._log is not None:
            await asyncio.to_thread(finish)
            # The writer's last answers were put into the loop before it ended; let them run.
            await asyncio.sleep(0)
        self._files.close()

    async def recovered(self) -> None:
        """Wait until the index is whole."""
        await self._ready.wait()

    def hmac_secret(self) -> bytes:
        """32 random bytes, the same for the life of the directory (in memory: of the store)."""
        return self._ledger.secret("hmac")

    # The contract.

    async def append(self, parts: Sequence[Part], now: UnixNano) -> None:
        size = sum([len(part.payload) for part in parts])
        self._admit(size)
        index = self._index
        filed = index.file(parts, now)
        if self._log is None:
            index.add(filed, 0, 0)
            return
        body = records.parts_body(filed.keys, filed.rows, filed.blobs, filed.length, filed.moves)

        def apply(places: list[_Place]) -> None:
            self._pending -= size
            self._index.add(filed, *places[0])

        def refused() -> None:
            self._pending -= size
            self._index.refused(filed)

        self._pending += size
        await self._write([(RecordType.PARTS, body)], apply, refused)

    def _admit(self, size: int) -> None:
        if self._stopping:
            raise UnavailableError("the store is stopping", reason="stopping")
        held = self._index.bytes + self._pending
        if self._recovering_index is not None:
            held += self._recovering_index.bytes
        if held + size > self._max_bytes:
            raise UnavailableError(
                f"store is full: {held} bytes are held, {size} more would pass the limit of {self._max_bytes}",
                retry_after=5.0,
                reason="store_full",
            )

    async def claim(self, now: UnixNano, limit: int) -> Sequence[Claim]:
        return self._index.claim(now, limit, self._lease, self._next_token) if self._ready.is_set() else []

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

        def apply(_: list[_Place]) -> bool:
            self._index.end(claim.key)
            return self._index.move(move)

        def refused() -> None:
            self._index.end(claim.key)
            held.token = token

        return await self._write(
            [(RecordType.PARTS, records.parts_body((), (), (), records.PARTS_HEAD.size, (move,)))], apply, refused
        )

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

        def apply(_: list[_Place]) -> list[bool]:
            refused()
            done = {key: self._index.outcome(key, up_to, exporter, outcome) for key, up_to in noted}
            return [own and done[claim.key] for claim, own in zip(claims, owned, strict=True)]

        def refused() -> None:
            for key, _ in noted:
                self._index.end(key)

        body = [records.encode_outcome(exporter, outcome, noted)] if self._log is not None else []
        return await self._write([(RecordType.OUTCOME, body)], apply, refused)

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

        def apply(_: list[_Place]) -> list[bool]:
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
        return await self._write([(RecordType.SETTLE, body)], apply, refused, memories=memories)

    async def _moved(self, keys: Iterable[Key]) -> None:
        """Wait until no guest's parts are on their way to a host: only then it shows who owns them."""
        if self._log is not None and any(key in self._index.busy for key in keys if len(key) == records.KEY_BYTES):
            await self._write([], lambda _: None, lambda: None)

    async def read(self, claims: Sequence[Claim]) -> Sequence[Sequence[StoredPart]]:
        if self._log is None:
            return [self._from_memory(claim) for claim in claims]
        wanted = []
        segments: dict[int, Segment] = {}
        for claim in claims:
            held = self._index.entries.get(claim.key)
            chunks = [] if held is None else [c for c in CHUNK.iter_unpack(held.chunks) if c[2] <= claim.up_to]
            wanted.append(chunks)
            for chunk in chunks:
                if chunk[0] not in segments:
                    segments[chunk[0]] = self._log.segments[chunk[0]]
        assert self._pool is not None
        for segment in segments.values():
            segment.readers += 1
        try:
            return await self._loop.run_in_executor(self._pool, self._fetch, wanted, segments)
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
        parts = []
        objects = iter(held.objects)
        for chunk, payload, envelope, head in zip(
            CHUNK.iter_unpack(held.chunks), objects, objects, objects, strict=True
        ):
            arrival, flags = chunk[2], chunk[5]
            if arrival > claim.up_to:
                break
            guest = None
            if flags & GUEST and held.guests is not None:
                guest = records.decode_guest(held.guests[arrival][1])
            assert isinstance(payload, bytes)
            assert isinstance(head, bytes)
            assert envelope is None or isinstance(envelope, Envelope)
            parts.append(StoredPart(arrival, payload, chunk[4], envelope, head, guest, facts_of(flags)))
        return parts

    def _fetch(self, wanted: Sequence[Sequence[_Chunk]], segments: dict[int, Segment]) -> list[list[StoredPart]]:
        """On a reading thread: everything in as few reads as is sensible."""
        ranges: dict[tuple[int, int], int] = {}
        for chunks in wanted:
            for number, body, _, _, _, _, at, length, head, head_length, size in chunks:
                ranges[number, body + head] = head_length + size
                if length:
                    ranges[number, body + at] = length
        found = dict(_read_ranges(sorted(ranges.items()), segments))
        envelopes: dict[tuple[int, int], Envelope] = {}
        result = []
        for chunks in wanted:
            parts = []
            for number, body, arrival, _, spans, flags, at, length, head, head_length, size in chunks:
                data, start = found[number, body + head]
                middle = start + head_length
                guest: GuestFacts | None = None
                envelope: Envelope | None = None
                span_ids = b""
                if flags & GUEST:
                    guest = records.decode_guest(data[start:middle])
                else:
                    span_ids = data[start:middle]
                    place = (number, body + at)
                    envelope = envelopes.get(place)
                    if envelope is None:
                        raw, first = found[place]
                        envelope = envelopes[place] = self._envelope(raw[first : first + length])
                parts.append(
                    StoredPart(arrival, data[middle : middle + size], spans, envelope, span_ids, guest, facts_of(flags))
                )
            result.append(parts)
        return result

    def _envelope(self, blob: bytes) -> Envelope:
        # A few envelopes cover all that is held; sharing them makes the exporter's grouping cheap.
        known = self._envelopes.get(blob)
        if known is None:
            if len(self._envelopes) >= 1024:
                self._envelopes.clear()
            known = self._envelopes[blob] = records.decode_envelope(blob)
        return known

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
        op = await self._submit([], lambda _: None, lambda: None, letters=letters)
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

    @property
    def forgotten(self) -> int:
        """Memories that the limit or the time ended, since the start."""
        return self._ledger.forgotten

    # Writing.

    async def _write(
        self,
        rows: Sequence[tuple[RecordType, _Body]],
        apply: Callable[[list[_Place]], _T],
        refused: Callable[[], None],
        *,
        memories: Sequence[tuple[Memory, UnixNano]] = (),
    ) -> _T:
        """Write, apply, and answer with what ``apply`` said. Raises UnavailableError; then ``refused`` was called."""
        op = await self._submit(rows, apply, refused, memories=memories)
        return await op.future

    async def _submit(
        self,
        rows: Sequence[tuple[RecordType, _Body]],
        apply: Callable[[list[_Place]], _T],
        refused: Callable[[], None],
        *,
        memories: Sequence[tuple[Memory, UnixNano]] = (),
        letters: Sequence[DeadLetter] = (),
        prepare: Callable[[], Sequence[tuple[RecordType, _Body]]] | None = None,
    ) -> _Op[_T]:
        op = _Op(self._loop.create_future(), rows, apply, refused, memories, letters, prepare)
        if self._stopping:
            refused()
            raise UnavailableError("the store is stopping", reason="stopping")
        if self._log is None:
            self._keep([op])
            self._answer(op)
        else:
            if not self._queued:
                # Everything that this round of the loop brings goes over in one hop.
                self._loop.call_soon(self._flush)
            self._queued.append(op)
        return op

    def _flush(self) -> None:
        if self._queued:
            self._inbox.put(self._queued)
            self._queued = []

    def _write_forever(self) -> None:
        stop = False
        while not stop:
            ops = self._inbox.get()
            if ops is None:
                return
            while not self._inbox.empty():
                more = self._inbox.get()
                if more is None:
                    stop = True
                    break
                ops += more
            for group in _groups(ops):
                try:
                    self._commit(group)
                except Exception as error:  # noqa: BLE001  # a bug met by one request must not end all writing
                    _LOG.exception("a write failed for a reason that nobody foresaw")
                    for op in group:
                        op.error = op.error or error
                self._loop.call_soon_threadsafe(self._committed, group)

    def _commit(self, group: list[_Op[Any]]) -> None:
        """On the writer's thread."""
        assert self._log is not None
        self._keep(group)
        rows: list[tuple[int, int, _Body]] = []
        writing = []
        for op in group:
            if op.prepare is not None:
                try:
                    op.records = op.prepare()
                except (OSError, RecordError) as error:
                    op.error = error
            if op.error is None and op.records:
                rows += [(kind, records.VERSION, body) for kind, body in op.records]
                writing.append(op)
        if rows:
            try:
                places = self._log.write(rows)
                if self._always:
                    try:
                        self._log.sync()
                    except OSError:
                        self._log.take_back(places)
                        raise
                self.up = True
                for op in writing:
                    op.places = places[: len(op.records)]
                    del places[: len(op.records)]
            except OSError as error:
                self._failed(error)
                for op in writing:
                    op.error = error

    def _keep(self, group: list[_Op[Any]]) -> None:
        """Put memories and letters into the ledger: before the settlement, so that none goes without the other."""
        keeping = [op for op in group if op.memories or op.letters]
        if not keeping:
            return
        try:
            keeping[0].pushed_out = self._ledger.commit(
                [memory for op in keeping for memory in op.memories],
                [letter for op in keeping for letter in op.letters],
            )
        except sqlite3.Error as error:
            _LOG.warning("the store could not write its ledger: %s", error)
            for op in keeping:
                op.error = error

    def _failed(self, error: OSError) -> None:
        if self.up:
            _LOG.error("the store cannot write and refuses parts until it can: %s", error.strerror)
        self.up = False

    def _committed(self, group: list[_Op[Any]]) -> None:
        """On the loop, in the order of the log."""
        for op in group:
            self._answer(op)
            if op.places:
                self._applied = op.places[-1][0]
        if not self._stopping:
            self._give_up_space()

    def _answer(self, op: _Op[Any]) -> None:
        if op.error is None:
            result = op.apply(op.places)
            if not op.future.done():
                op.future.set_result(result)
            return
        op.refused()
        if not op.future.done():
            reason = op.error.strerror if isinstance(op.error, OSError) else str(op.error)
            error = UnavailableError(f"the store could not write: {reason}", reason="store_down")
            error.__cause__ = op.error
            op.future.set_exception(error)

    def _sync_forever(self) -> None:
        assert self._log is not None
        while not self._stop_sync.wait(self._fsync_interval):
            try:
                self._log.sync()
            except OSError as error:
                _LOG.error("acknowledged parts may not be on the disk: %s", error.strerror)
                self.up = False

    # Giving up space.

    def _give_up_space(self) -> None:
        log = self._log
        if log is None or not self._ready.is_set():
            return
        for number in list(log.segments):
            if number >= self._applied or number == log.newest or number in self._index.live:
                break
            if number not in self._giving_up:
                self._giving_up.add(number)
                self._in_background(self._discard(number), lambda: None)
        if self._cleaning is not None or len(log.segments) < 3:
            return
        index = self._index
        live = index.bytes + index.parts * _PART_COST + index.spans * 8
        limit = _WASTE * live + 2 * log.segment_bytes
        if log.disk_bytes <= limit:
            self._pass_end = self._floor = 0
            return
        oldest = next(iter(log.segments))
        if log.disk_bytes <= self._floor or oldest >= self._applied or oldest in self._giving_up:
            return
        if self._pass_end and oldest > self._pass_end:
            # Everything was copied once and it is still as large: envelopes that nobody shares. Not again at once.
            self._floor, self._pass_end = log.disk_bytes * 3 // 2, 0
            return
        self._pass_end = self._pass_end or log.newest
        self._cleaning = oldest
        self._begin_copying(log.segments[oldest])

    def _discard(self, number: int) -> Callable[[], Sequence[tuple[RecordType, _Body]]]:
        def discard() -> Sequence[tuple[RecordType, _Body]]:
            assert self._log is not None
            self._log.discard(number)
            self.counts.given_up_segments += 1
            return []

        return discard

    def _in_background(
        self,
        prepare: Callable[[], Sequence[tuple[RecordType, _Body]]],
        then: Callable[[], None],
        apply: Callable[[list[_Place]], None] = lambda _: None,
    ) -> None:
        """Queue work for the writer that no caller waits for."""
        if self._stopping:
            return
        op: _Op[None] = _Op(self._loop.create_future(), [], apply, lambda: None, prepare=prepare)

        def done(future: asyncio.Future[None]) -> None:
            if (error := future.exception()) is not None:
                _LOG.warning("the log could not be cleaned: %s", error)
                self._cleaning = None
                if self._log is not None:
                    self._floor = self._log.disk_bytes + self._log.segment_bytes
            elif not self._stopping:
                then()

        op.future.add_done_callback(done)
        if not self._queued:
            self._loop.call_soon(self._flush)
        self._queued.append(op)

    def _begin_copying(self, segment: Segment) -> None:
        assert self._log is not None
        assert self._pool is not None
        log = self._log

        def tables() -> list[tuple[int, records.Parts, list[Key | None]]]:
            found = []
            for record in log.scan(segment, Damage()):
                if record.type == RecordType.PARTS and record.version <= records.VERSION:
                    parts = records.decode_parts(record.body)
                    found.append((record.offset, parts, [own for own, _ in _guests(record.body, parts)]))
            return found

        def begin(future: Future[list[tuple[int, records.Parts, list[Key | None]]]]) -> None:
            def copy() -> None:
                if self._stopping:
                    return
                if error := future.exception():
                    _LOG.error("a segment that is still needed could not be read: %s", error)
                    self._cleaning, self._floor = None, log.disk_bytes * 3 // 2
                    return
                rows = (
                    (key, own, row, body)
                    for body, parts, owns in future.result()
                    for key, own, row in zip(parts.keys, owns, parts.rows, strict=True)
                )
                self._copy(segment, rows, skipped=False)

            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(copy)

        self._pool.submit(tables).add_done_callback(begin)

    def _copy(self, segment: Segment, rows: Iterator[tuple[Key, Key | None, bytes, int]], *, skipped: bool) -> None:
        """One step: look at some parts of the oldest segment, and have those that are live written again."""
        index = self._index
        live: list[tuple[Key, _Chunk]] = []
        size = 0
        ended = True
        for examined, (key, own, row, body) in enumerate(rows, 1):
            found = index.locate(key, own, row, segment.number, body)
            if found is not None:
                if found[0] in index.busy:
                    # It may be settled or moved by what is being written, and must not come back behind that.
                    skipped = True
                else:
                    chunk: _Chunk = CHUNK.unpack(found[1])
                    live.append((found[0], chunk))
                    size += chunk[9] + chunk[10]
            if size >= _COPY_BYTES or examined >= _COPY_ROWS:
                ended = False
                break

        def then() -> None:
            if not ended:
                self._copy(segment, rows, skipped=skipped)
                return
            self._cleaning = None
            if segment.number in self._index.live and not skipped:
                assert self._log is not None
                _LOG.error("held parts of segment %d are damaged and keep it on the disk", segment.number)
                self._floor = self._log.disk_bytes * 3 // 2
            elif not skipped:
                self._give_up_space()

        if not live:
            self._loop.call_soon(then)
            return
        outcomes = index.outcomes({key for key, _ in live})
        rows_written: list[bytes] = []

        def prepare() -> Sequence[tuple[RecordType, _Body]]:
            body, written = _copied_parts(live, segment)
            rows_written[:] = written
            self.counts.copied_parts += len(live)
            self.counts.copied_bytes += size
            return [
                (RecordType.PARTS, body),
                *(
                    (RecordType.OUTCOME, [records.encode_outcome(exporter, outcome, keys)])
                    for (exporter, outcome), keys in outcomes.items()
                ),
            ]

        def apply(places: list[_Place]) -> None:
            location = LOCATION.pack(*places[0])
            for (key, _), row in zip(live, rows_written, strict=True):
                self._index.relocate(key, location + row)

        self._in_background(prepare, then, apply)

    # Recovery.

    def _recover(self) -> None:
        """On a thread of its own: read the old segments into an index of its own."""
        assert self._log is not None
        index = self._recovering_index = self._new_index()
        damage = Damage()
        try:
            self._ledger.load()
            for segment in self._old:
                for record in self._log.scan(segment, damage):
                    if self._stopping:
                        return
                    try:
                        _replay(index, record, segment.number)
                    except RecordError as error:
                        damage.records += 1
                        _LOG.error("a record in %s cannot be read: %s", segment.path.name, error)
            index.recall_links(self._clock())
            index.schedule_all()
        except (OSError, sqlite3.Error) as error:
            _LOG.error("what was held before the start cannot be read, and nothing is released: %s", error)
            self.up = False
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._recovered, index, damage)

    def _recovered(self, index: Index, damage: Damage) -> None:
        if self._stopping:
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
        if damage.torn:
            _LOG.info("cut off %d bytes of a write that was never acknowledged", damage.torn)
        _LOG.info("recovered %d spans of %d traces", index.spans, len(index.entries))
        guests = index.absorb(self._index)
        self._index, self._recovering_index, self._old = index, None, []
        for key, host in index.stray_guests(guests, self._clock()):
            move = index.move_all(key, host)
            index.begin(key)
            self._move_stray(key, move)
        self._ready.set()
        self._give_up_space()

    def _move_stray(self, key: Key, move: records.Move) -> None:
        def apply(_: list[_Place]) -> None:
            self._index.end(key)
            self._index.move(move)

        op: _Op[None] = _Op(
            self._loop.create_future(),
            [(RecordType.PARTS, records.parts_body((), (), (), records.PARTS_HEAD.size, (move,)))],
            apply,
            lambda: self._index.end(key),
        )
        # It stays under its own key when this fails, and is released from there.
        op.future.add_done_callback(lambda future: future.exception())
        if not self._queued:
            self._loop.call_soon(self._flush)
        self._queued.append(op)


def _groups(ops: list[_Op[Any]]) -> Iterator[list[_Op[Any]]]:
    """Cut what waits into pieces that one write takes."""
    group: list[_Op[Any]] = []
    size = 0
    for op in ops:
        group.append(op)
        size += sum(map(len, op.records[0][1])) if op.records else 0
        if size >= _GROUP_BYTES or len(group) >= _GROUP_RECORDS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _replay(index: Index, record: Record, segment: int) -> None:
    """Apply one record. Raises RecordError for what this version cannot read."""
    if record.version > records.VERSION:
        raise RecordError(f"it has version {record.version}, this grafter reads {records.VERSION}")
    match record.type:
        case RecordType.PARTS:
            parts = records.decode_parts(record.body)
            for move in parts.moves:
                index.move(move)
            for key, row, (_, guest) in zip(parts.keys, parts.rows, _guests(record.body, parts), strict=True):
                index.restore(key, row, segment, record.offset, guest)
        case RecordType.OUTCOME:
            exporter, outcome, keys = records.decode_outcome(record.body)
            for key, up_to in keys:
                index.outcome(key, up_to, exporter, outcome)
        case RecordType.SETTLE:
            for key, up_to in records.decode_keys(record.body):
                index.settle(key, up_to, None)
        case _:
            raise RecordError(f"it has the unknown type {record.type}")


def _guests(body: memoryview, parts: records.Parts) -> Iterator[tuple[Key | None, bytes | None]]:
    """Of each part its guest's key and encoded facts; None for a host's part."""
    for row in parts.rows:
        if not row[21] & (GUEST >> 8):
            yield None, None
            continue
        _, _, _, _, _, _, at, length, _ = ROW.unpack(row)
        facts = bytes(body[at : at + length])
        yield guest_key(records.decode_guest(facts).guest), facts


def _read_ranges(
    ranges: Sequence[tuple[tuple[int, int], int]], segments: dict[int, Segment]
) -> Iterator[tuple[tuple[int, int], tuple[bytes, int]]]:
    """For each (segment, offset) the bytes read and where in them it starts; neighbours share one read."""
    i = 0
    while i < len(ranges):
        (number, start), length = ranges[i]
        end = start + length
        j = i + 1
        while j < len(ranges):
            (other, at), length = ranges[j]
            if other != number or at > end + _GAP or at + length > start + _READ:
                break
            end = max(end, at + length)
            j += 1
        data = SegmentLog.read(segments[number], start, end - start)
        for place, _ in ranges[i:j]:
            yield place, (data, place[1] - start)
        i = j


def _copied_parts(live: Sequence[tuple[Key, _Chunk]], segment: Segment) -> tuple[_Body, list[bytes]]:
    """A PARTS body with these parts as they are held now, and its rows. Raises OSError."""
    position = records.PARTS_HEAD.size + len(live) * (records.KEY_BYTES + ROW.size)
    blobs: list[bytes] = []
    rows = []
    envelopes: dict[bytes, int] = {}
    for _, (_, body, arrival, now, spans, flags, at, length, head, head_length, size) in live:
        envelope = 0
        if length:
            blob = SegmentLog.read(segment, body + at, length)
            if blob not in envelopes:
                envelopes[blob] = position
                blobs.append(blob)
                position += length
            envelope = envelopes[blob]
        blobs.append(SegmentLog.read(segment, body + head, head_length + size))
        rows.append(ROW.pack(arrival, now, spans, flags, envelope, length, position, head_length, size))
        position += head_length + size
    return records.parts_body([key for key, _ in live], rows, blobs, position, ()), rows
