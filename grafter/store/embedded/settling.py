"""What becomes of claims: handed out, exported, moved, settled.

Each is decided on what is known now, written, and applied when it is; what was taken for granted meanwhile is taken
back when it could not be written. All of these raise UnavailableError then.

A trace that ends the process while it is assembled or sent (memory, a bug in a library) would do so at each start.
So each claim is noted before its owner gets it, in a file that outlives the process, and struck off when it is given
back. What is noted at a start was begun and never finished: it is a *suspect*, with the number of ends that came while
it was worked on. Suspects are handed out apart from everything else, which has its time between two of them, and ever
fewer at a time, so that the one that does it is soon alone. The notes are for a process that is killed, and are not
forced to the disk: what a power cut takes of them is no loss.
"""

import asyncio
import os
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TypeVar, overload

from grafter.core.model import HOST_KEY_BYTES, Facts, Key, Part, UnixNano
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.embedded.index import Index
from grafter.store.embedded.metadata_db import MemoryBatch, MetadataBatch
from grafter.store.embedded.part_reader import PartReader
from grafter.store.embedded.trace_table import TraceEntry
from grafter.store.embedded.writer import Op, Row, Writer, nothing
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
from grafter.store.records import Place, RecordType

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

    def end(self, keys: Collection[Key], *, untouched: bool = False) -> None:
        """These were given back: whatever was done with them, the process lives. If they are ``untouched``, suspects
        among them stay what they are."""
        if self._file < 0:
            return
        self.open.difference_update(keys)
        suspects = self.suspects.keys() & keys if self.suspects else ()
        if not untouched:
            for key in suspects:
                del self.suspects[key]
        self._write(_END, 0, keys)
        for key in suspects if untouched else ():
            self._write(_SUSPECT, self.suspects[key], [key])

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
        self.index = index
        self.writer = writer
        self._begun = begun
        self._reader = reader
        self._logged = logged
        self._ready = asyncio.Event()
        """The index is whole."""
        self._others_next = True

    async def claim(self, now: UnixNano, limit: int, plain: PlainLimits | None = None) -> Sequence[Claim | PlainBatch]:
        if plain is not None:
            self._reader.recent.ask(now)
        if not self._ready.is_set():
            return []
        begun, claims = self._begun, self.index.claims
        if not begun.suspects:
            return self._hand_out(now, limit, plain)
        begun.end([key for key in begun.suspects if key not in self.index.table.entries])
        due = [key for key in begun.suspects if claims.is_due(key, now)]
        if any(claims.is_owned(key, now) for key in (begun.open if due else begun.suspects)):
            # Nothing is worked on beside a suspect.
            return []
        # There may be thousands, and a backend may be slow: what else is due has its time between two of them.
        self._others_next = not self._others_next
        others = self._hand_out(now, limit, plain) if self._others_next or not due else []
        if others or not due:
            return others
        self._others_next = False
        return self._hand_out_suspects(due, now)

    def _hand_out(self, now: UnixNano, limit: int, plain: PlainLimits | None) -> Sequence[Claim | PlainBatch]:
        """What is due, without what an earlier process ended on."""
        claims = self.index.claims.claim(now, limit, plain, self._begun.suspects)
        self._begun.begin([claim.key for claim in claims if isinstance(claim, Claim)])
        for claim in claims:
            if isinstance(claim, PlainBatch):
                self._begun.begin(claim.keys)
        return claims

    def _hand_out_suspects(self, due: Collection[Key], now: UnixNano) -> Sequence[Claim]:
        """Some of those on which an earlier process ended."""
        entries = self.index.table.entries
        found = []
        for key in self._begun.group(due):
            claim = self.index.claims.hand_out(key, entries[key], now)
            claim.deaths = self._begun.suspects[key]
            found.append(claim)
        self._begun.begin([claim.key for claim in found])
        return found

    async def claim_deferred(
        self, exporter: str, now: UnixNano, limit: int, *, postponed: bool = False
    ) -> Sequence[Claim]:
        claims, suspects = self.index.claims, self._begun.suspects
        if not self._ready.is_set():
            return []
        if not postponed and any(claims.is_due(key, now) or claims.is_owned(key, now) for key in suspects):
            return []
        found = claims.claim_deferred(exporter, now, limit, postponed=postponed)
        self._begun.begin([claim.key for claim in found])
        return found

    @overload
    async def read(self, claims: PlainBatch) -> Sequence[Plain]: ...
    @overload
    async def read(self, claims: Sequence[Claim]) -> Sequence[Sequence[StoredPart]]: ...
    async def read(self, claims: Claims) -> Sequence[Plain] | Sequence[Sequence[StoredPart]]:
        reader = self._reader
        return await (reader.read_plain(claims) if isinstance(claims, PlainBatch) else reader.read(claims))

    async def split(self, batch: PlainBatch) -> Sequence[Claim]:
        return self.index.claims.split(batch)

    async def renew(self, claims: Claims, now: UnixNano) -> None:
        self.index.claims.renew(claims, now)

    async def postpone(self, claims: Sequence[tuple[Claim, UnixNano]], *, untouched: bool = False) -> None:
        for claim, due in claims:
            self.index.claims.postpone(claim, due)
        self._begun.end([claim.key for claim, _ in claims], untouched=untouched)

    async def move(self, claim: Claim, host: Key, *, if_held: bool = False) -> bool:
        await self._wait_for_moves([claim.key])
        held = self.index.table.entries.get(host)
        if if_held and (held is None or not held.host_spans):
            return False
        entry = self.index.claims.owner(claim)
        if entry is None or claim.key not in self.index.table.guests or entry.attempted >= 0:
            return False
        move = self.index.placement.move_all(claim.key, host)
        token, entry.token = entry.token, 0

        def undo() -> None:
            entry.token = token

        row = (RecordType.PARTS, records.move_body(move))
        moved = await self.write_about([claim.key], row, lambda: self.index.move(move), undo)
        if moved:
            self._begun.end([claim.key])
        return moved

    async def record(self, claims: Claims, exporter: str, outcome: Outcome) -> Sequence[bool]:
        if isinstance(claims, PlainBatch):
            assert outcome is Outcome.INTENDED
            return [await self._intend(claims, exporter)]
        await self._wait_for_moves([claim.key for claim in claims])
        owned = [self.index.claims.owner(claim) is not None for claim in claims]
        owned_keys = [(claim.key, claim.up_to) for claim, own in zip(claims, owned, strict=True) if own]
        if not owned_keys:
            return owned

        def apply() -> list[bool]:
            done = {key: self.index.outcome(key, up_to, exporter, outcome) for key, up_to in owned_keys}
            return [own and done[claim.key] for claim, own in zip(claims, owned, strict=True)]

        row = (RecordType.OUTCOME, [records.encode_outcome(exporter, outcome, owned_keys)] if self._logged else [])
        keys = [key for key, _ in owned_keys]
        return await self.write_about(keys, row, apply, attempt=outcome is Outcome.INTENDED)

    async def defer(self, exporter: str, parts: Sequence[Part], now: UnixNano) -> None:
        if self.writer.reserve.short:
            # What is set aside is for what leaves without a copy.
            raise UnavailableError("the disk is full", retry_after=5.0, reason=DISK_FULL)
        key = Key(os.urandom(HOST_KEY_BYTES))
        batch = [replace(part, key=key, facts=Facts(records.DEFERRED)) for part in parts]
        index = self.index
        placed = index.placement.place(batch, now)
        # An outcome names the exporter from the first moment on.
        up_to = index.table.arrival
        rows: list[Row] = []
        if self._logged:
            rows = [
                (RecordType.PARTS, [placed.body]),
                (RecordType.OUTCOME, [records.encode_outcome(exporter, Outcome.WITHDRAWN, [(key, up_to)])]),
            ]

        def apply(places: list[Place]) -> None:
            index.add(placed, *(places[0] if places else (0, 0)))
            index.outcome(key, up_to, exporter, Outcome.WITHDRAWN)

        await self.writer.submit(Op(apply, rows, attempt=True))

    async def settle(self, settlements: Sequence[Settlement] | PlainSettlement, now: UnixNano) -> Sequence[bool]:
        if isinstance(settlements, PlainSettlement):
            settled = [await self._settle_batch(settlements, now)]
            self._begun.end(settlements.batch.keys)
        else:
            settled = await self._settle_claims(settlements, now)
            self._begun.end([one.claim.key for one in settlements])
        return settled

    async def _settle_claims(self, settlements: Sequence[Settlement], now: UnixNano) -> list[bool]:
        await self._wait_for_moves([settlement.claim.key for settlement in settlements])
        index = self.index
        ends: list[tuple[Settlement, TraceEntry, int]] = []
        for settlement in settlements:
            entry = index.claims.owner(settlement.claim)
            if entry is not None:
                # The claim is spent; nobody may use it again while this is being written.
                ends.append((settlement, entry, entry.token))
                entry.token = 0
        if not ends:
            return [False] * len(settlements)

        def apply() -> list[bool]:
            done = set()
            for settlement, _, _ in ends:
                claim = settlement.claim
                if index.settle(claim.key, claim.up_to, now):
                    done.add(id(settlement))
                for memory in settlement.memories:
                    index.released(memory.key, memory.host)
            return [id(settlement) in done for settlement in settlements]

        def undo() -> None:
            for _, entry, token in ends:
                entry.token = token

        spent = [(settlement.claim.key, settlement.claim.up_to) for settlement, _, _ in ends]
        memories = [(memory, now) for settlement, _, _ in ends for memory in settlement.memories]
        row = (RecordType.SETTLE, [records.encode_keys(spent)] if self._logged else [])
        metadata = MetadataBatch(memories) if memories else None
        return await self.write_about([key for key, _ in spent], row, apply, undo, metadata=metadata)

    async def _intend(self, batch: PlainBatch, exporter: str) -> bool:
        if not self.index.claims.owns(batch):
            return False
        batch.intended += (exporter,)
        if not self._logged:
            return True
        batch.writing += 1

        def undo() -> None:
            batch.writing -= 1
            batch.intended = tuple(name for name in batch.intended if name != exporter)
            # Of a batch nothing is copied, and without copies there may never be room for its intent.
            self.index.claims.split(batch)

        def apply(_: list[Place]) -> bool:
            batch.writing -= 1
            return True

        batch.encoded_keys = batch.encoded_keys or records.encode_keys(self.index.claims.covered(batch))
        body = records.outcome_head(exporter, Outcome.INTENDED) + batch.encoded_keys
        return await self.writer.submit(Op(apply, [(RecordType.OUTCOME, [body])], undo, attempt=True))

    async def _settle_batch(self, settlement: PlainSettlement, now: UnixNano) -> bool:
        index, batch = self.index, settlement.batch
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
        metadata = MetadataBatch(memory_batches=[MemoryBatch(now, batch.keys, settlement.blobs, settlement.resources)])
        return await self.writer.submit(Op(apply, [(RecordType.SETTLE, body)], undo, metadata))

    def write_about(
        self,
        keys: Sequence[Key],
        row: Row,
        apply: Callable[[], _T],
        undo: Callable[[], None] = nothing,
        *,
        attempt: bool = False,
        metadata: MetadataBatch | None = None,
    ) -> asyncio.Future[_T]:
        """Write a row about keys, which are not handed out or copied until it is applied or undone; see ``Op``."""
        table = self.index.table
        for key in keys:
            table.begin_write(key)

        def end() -> None:
            for key in keys:
                table.end_write(key)

        def written(_: list[Place]) -> _T:
            end()
            return apply()

        def failed() -> None:
            end()
            undo()

        return self.writer.submit(Op(written, [row], failed, metadata, attempt=attempt))

    async def _wait_for_moves(self, keys: Iterable[Key]) -> None:
        """Wait until no guest's parts are on their way to a host: only then it shows who owns them."""
        if self._logged and any(key in self.index.table.busy for key in keys if len(key) == records.KEY_BYTES):
            await self.writer.submit(Op(lambda _: None))
