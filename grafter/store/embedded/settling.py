"""What becomes of claims: moved, exported, settled.

Each is decided on what is known now, written, and applied when it is; what was taken for granted meanwhile is taken
back when it could not be written. All of these raise UnavailableError then.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from grafter.core.model import HOST_KEY_BYTES, Facts, Key, Part, UnixNano
from grafter.store import records
from grafter.store.embedded.index import Index
from grafter.store.embedded.metadata_db import MemoryBatch, MetadataBatch
from grafter.store.embedded.trace_table import TraceEntry
from grafter.store.embedded.writer import Place, Row, Writer, nothing
from grafter.store.model import (
    DISK_FULL,
    Claim,
    Claims,
    Outcome,
    Plain,
    PlainBatch,
    PlainLimits,
    PlainSettlement,
    Settlement,
    StoredPart,
    StoreError,
)
from grafter.store.records import RecordType

_T = TypeVar("_T")

_RUN = struct.Struct("<cBBI")
"""What happened, ends of the process, bytes of a key, and how many keys follow."""
_BEGIN, _END, _SUSPECT = b"+", b"-", b"="
_SHORTEST = 16
"""Bytes of a host's key; a guest's has more. Keys that have so many in the mean have so many each."""
_MOST_BYTES = 1 << 20
_TOGETHER = 64
"""Suspects of one end that are handed out at a time; those of more go alone."""


class Begun:
    """The notes of one directory; without one nothing outlives the process, and nothing is noted."""

    def __init__(self, directory: Path | None) -> None:
        """Raises StoreError when the file cannot be opened."""
        self.open: set[Key] = set()
        """What was handed out and not given back."""
        self.suspects: dict[Key, int] = {}
        """What was open when a process ended, and how many did."""
        self._file = -1
        self._size = 0
        if directory is None:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file = os.open(directory / "begun", flags, 0o600)
            self._read(os.pread(self._file, os.fstat(self._file).st_size, 0))
        except OSError as error:
            raise StoreError(f"cannot read {directory / 'begun'}: {error.strerror}") from error
        for key in self.open:
            self.suspects[key] = self.suspects.get(key, 0) + 1
        self.open.clear()
        self._rewrite()

    def begin(self, keys: Collection[Key]) -> None:
        """These are handed out."""
        if self._file < 0:
            return
        self.open.update(keys)
        self._write(_BEGIN, 0, keys)

    def end(self, keys: Collection[Key]) -> None:
        """These were given back: whatever was done with them, the process lives."""
        if self._file < 0:
            return
        self.open.difference_update(keys)
        if self.suspects:
            for key in keys:
                self.suspects.pop(key, None)
        self._write(_END, 0, keys)

    def put_off(self, keys: Collection[Key]) -> None:
        """These were given back untouched: suspects among them stay what they are."""
        if self._file < 0:
            return
        self.open.difference_update(keys)
        self._write(_END, 0, keys)
        for key in keys:
            if ends := self.suspects.get(key):
                self._write(_SUSPECT, ends, [key])

    def group(self, due: Collection[Key]) -> list[Key]:
        """Which of these suspects to hand out now, while nothing else is."""
        ends = min(self.suspects[key] for key in due)
        group = [key for key in due if self.suspects[key] == ends]
        return group[: _TOGETHER if ends == 1 else 1]

    def close(self) -> None:
        """At an end in order nothing that is open is to blame for it."""
        if self._file >= 0:
            self.open.clear()
            self._rewrite()
            os.close(self._file)
            self._file = -1

    def _rewrite(self) -> None:
        with suppress(OSError):
            os.ftruncate(self._file, 0)
        self._size = 0
        by_ends = sorted(self.suspects, key=lambda key: self.suspects[key])
        for ends, keys in groupby(by_ends, key=lambda key: self.suspects[key]):
            self._write(_SUSPECT, ends, list(keys))
        self._write(_BEGIN, 0, list(self.open))

    def _write(self, event: bytes, ends: int, keys: Collection[Key]) -> None:
        if not keys:
            return
        data = b"".join(keys)
        if len(data) == _SHORTEST * len(keys):
            data = _RUN.pack(event, min(ends, 255), _SHORTEST, len(keys)) + data
        else:
            data = b"".join([_RUN.pack(event, min(ends, 255), len(key), 1) + key for key in keys])
        # On a full disk a note is missing; nothing depends on it but whom the next start suspects.
        with suppress(OSError):
            self._size += os.pwrite(self._file, data, self._size)
        if self._size > _MOST_BYTES + (len(self.open) + len(self.suspects)) * 64:
            self._rewrite()

    def _read(self, data: bytes) -> None:
        """What was noted; what comes after something that is none is left out."""
        at = 0
        while at + _RUN.size <= len(data):
            event, ends, length, number = _RUN.unpack_from(data, at)
            at += _RUN.size
            if length == 0 or at + length * number > len(data):
                return
            keys = [Key(data[start : start + length]) for start in range(at, at + length * number, length)]
            at += length * number
            if event == _BEGIN:
                self.open.update(keys)
            elif event == _SUSPECT:
                self.suspects.update(dict.fromkeys(keys, ends))
            elif event == _END:
                self.open.difference_update(keys)
                for key in keys:
                    self.suspects.pop(key, None)
            else:
                return


class ClaimMethods:
    """The methods of a Store that hand out claims and take what their owners say of them."""

    def __init__(self, index: Index, writer: Writer, begun: Begun, reader: PartReader, *, logged: bool) -> None:
        """``logged``: there is a log, so records have to be laid out."""
        self._index = index
        self._writer = writer
        self._logged = logged

    async def move(self, claim: Claim, host: Key, *, if_held: bool) -> bool:
        """File what is held of a guest under its host; see Store.move for when it is not."""
        await self._wait_for_moves([claim.key])
        held = self._index.table.entries.get(host)
        if if_held and (held is None or not held.host_spans):
            return False
        entry = self._index.claims.owner(claim)
        if entry is None or claim.key not in self._index.table.guests or entry.attempted >= 0:
            return False
        move = self._index.placement.move_all(claim.key, host)
        token, entry.token = entry.token, 0
        self._index.table.begin_write(claim.key)

        def apply(_: list[Place]) -> bool:
            self._index.table.end_write(claim.key)
            return self._index.move(move)

        def undo() -> None:
            self._index.table.end_write(claim.key)
            entry.token = token

        return await self._write((RecordType.PARTS, records.move_body(move)), apply, undo)

    async def record(self, claims: Claims, exporter: str, outcome: Outcome) -> Sequence[bool]:
        if isinstance(claims, PlainBatch):
            assert outcome is Outcome.INTENDED
            return [await self._intend(claims, exporter)]
        await self._wait_for_moves([claim.key for claim in claims])
        owned = [self._index.claims.owner(claim) is not None for claim in claims]
        owned_keys = [(claim.key, claim.up_to) for claim, own in zip(claims, owned, strict=True) if own]
        if not owned_keys:
            return owned
        for key, _ in owned_keys:
            self._index.table.begin_write(key)

        def apply(_: list[Place]) -> list[bool]:
            undo()
            done = {key: self._index.outcome(key, up_to, exporter, outcome) for key, up_to in owned_keys}
            return [own and done[claim.key] for claim, own in zip(claims, owned, strict=True)]

        def undo() -> None:
            for key, _ in owned_keys:
                self._index.table.end_write(key)

        body = [records.encode_outcome(exporter, outcome, owned_keys)] if self._logged else []
        return await self._write((RecordType.OUTCOME, body), apply, undo, attempt=outcome is Outcome.INTENDED)

    async def defer(self, exporter: str, parts: Sequence[Part], now: UnixNano) -> None:
        """Hold parts as one batch of a backlog, whose exporter an outcome names from the first moment on."""
        key = Key(os.urandom(HOST_KEY_BYTES))
        batch = [replace(part, key=key, facts=Facts(records.DEFERRED)) for part in parts]
        index = self._index
        placed = index.placement.place(batch, now)
        up_to = index.table.arrival
        rows: list[Row] = []
        if self._logged:
            body = records.parts_body(placed.keys, placed.rows, placed.blobs, placed.length, ())
            rows = [
                (RecordType.PARTS, body),
                (RecordType.OUTCOME, [records.encode_outcome(exporter, Outcome.WITHDRAWN, [(key, up_to)])]),
            ]

        def apply(places: list[Place]) -> None:
            index.add(placed, *(places[0] if places else (0, 0)))
            index.outcome(key, up_to, exporter, Outcome.WITHDRAWN)

        await self._writer.submit(rows, apply, attempt=True).future

    async def settle(self, settlements: Sequence[Settlement] | PlainSettlement, now: UnixNano) -> Sequence[bool]:
        if isinstance(settlements, PlainSettlement):
            return [await self._settle_batch(settlements.batch, settlements.blobs, now)]
        await self._wait_for_moves([settlement.claim.key for settlement in settlements])
        owned: list[tuple[Settlement, TraceEntry, int] | None] = []
        for settlement in settlements:
            entry = self._index.claims.owner(settlement.claim)
            if entry is None:
                owned.append(None)
                continue
            # The claim is spent; nobody may use it again while this is being written.
            owned.append((settlement, entry, entry.token))
            entry.token = 0
            self._index.table.begin_write(settlement.claim.key)
        ends = [ending for ending in owned if ending is not None]
        if not ends:
            return [False] * len(owned)
        memories = [(memory, now) for settlement, _, _ in ends for memory in settlement.memories]

        def apply(_: list[Place]) -> list[bool]:
            index = self._index
            done = []
            for ending in owned:
                if ending is None:
                    done.append(False)
                    continue
                claim = ending[0].claim
                index.table.end_write(claim.key)
                done.append(index.settle(claim.key, claim.up_to, now))
                for memory in ending[0].memories:
                    index.released(memory.key, memory.host)
            return done

        def undo() -> None:
            for settlement, entry, token in ends:
                self._index.table.end_write(settlement.claim.key)
                entry.token = token

        body = [records.encode_keys((x.claim.key, x.claim.up_to) for x, _, _ in ends)] if self._logged else []
        return await self._write((RecordType.SETTLE, body), apply, undo, MetadataBatch(memories) if memories else None)

    async def _intend(self, batch: PlainBatch, exporter: str) -> bool:
        if not self._index.claims.owns(batch):
            return False
        batch.intended += (exporter,)
        if not self._logged:
            return True
        batch.writing += 1

        def undo() -> None:
            batch.writing -= 1
            batch.intended = tuple(name for name in batch.intended if name != exporter)
            # Of a batch nothing is copied, and without copies there may never be room for its intent.
            self._index.claims.split(batch)

        def apply(_: list[Place]) -> bool:
            batch.writing -= 1
            return True

        batch.encoded_keys = batch.encoded_keys or records.encode_keys(self._index.claims.covered(batch))
        body = records.outcome_head(exporter, Outcome.INTENDED) + batch.encoded_keys
        return await self._write((RecordType.OUTCOME, [body]), apply, undo, attempt=True)

    async def _settle_batch(self, batch: PlainBatch, blobs: Sequence[bytes], now: UnixNano) -> bool:
        index = self._index
        if not index.claims.owns(batch):
            return False
        batch.writing += 1

        def apply(_: list[Place]) -> bool:
            index.settle_batch(batch, now)
            return True

        def undo() -> None:
            batch.writing -= 1

        # What the intent wrote, which nearly always there was.
        body = [batch.encoded_keys or records.encode_keys(index.claims.covered(batch))] if self._logged else []
        metadata = MetadataBatch(memory_batches=[MemoryBatch(now, batch.keys, blobs)])
        return await self._write((RecordType.SETTLE, body), apply, undo, metadata)

    async def _wait_for_moves(self, keys: Iterable[Key]) -> None:
        """Wait until no guest's parts are on their way to a host: only then it shows who owns them."""
        if self._logged and any(key in self._index.table.busy for key in keys if len(key) == records.KEY_BYTES):
            await self._writer.submit([], lambda _: None).future

    async def _write(
        self,
        row: Row,
        apply: Callable[[list[Place]], _T],
        undo: Callable[[], None],
        metadata: MetadataBatch | None = None,
        *,
        attempt: bool = False,
    ) -> _T:
        """Write, apply, and answer with what ``apply`` returned. Raises UnavailableError; then ``undo`` was called."""
        return await self._writer.submit([row], apply, undo, metadata=metadata, attempt=attempt).future
