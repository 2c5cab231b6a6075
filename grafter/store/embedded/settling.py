"""What becomes of claims and bundles: moved, noted, settled.

Each is decided on what is known now, written, and applied when it is; what was taken for granted meanwhile is taken
back when it could not be written. All of these raise UnavailableError then.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from grafter.core.model import Key, UnixNano
from grafter.store import records
from grafter.store.base import Bundle, Claim, Memory, Outcome, Settlement
from grafter.store.embedded.index import Index
from grafter.store.embedded.metadata_db import Sheet
from grafter.store.embedded.trace_entry import Held
from grafter.store.embedded.writer import Place, Row, Writer
from grafter.store.records import RecordType

_T = TypeVar("_T")


class Settling:
    """See grafter.store.base for what each answer means."""

    def __init__(self, index: Index, writer: Writer, *, logged: bool) -> None:
        """``logged``: there is a log, so records have to be laid out."""
        self._index = index
        self._writer = writer
        self._logged = logged

    async def move(self, claim: Claim, host: Key) -> bool:
        """File what is held of a guest under its host; False when the claim is spent or an export was begun."""
        await self._moved([claim.key])
        held = self._index.claims.owner(claim)
        if held is None or claim.key not in self._index.table.guests or (held.pin is not None and held.pin.stands):
            return False
        move = self._index.filing.move_all(claim.key, host)
        token, held.token = held.token, 0
        self._index.table.begin(claim.key)

        def apply(_: list[Place]) -> bool:
            self._index.table.end(claim.key)
            return self._index.move(move)

        def refused() -> None:
            self._index.table.end(claim.key)
            held.token = token

        return await self._write((RecordType.PARTS, records.move_body(move)), apply, refused)

    async def note(self, claims: Sequence[Claim], exporter: str, outcome: Outcome) -> Sequence[bool]:
        """Keep what is known of an export; False where the claim is spent."""
        await self._moved([claim.key for claim in claims])
        owned = [self._index.claims.owner(claim) is not None for claim in claims]
        noted = [(claim.key, claim.up_to) for claim, own in zip(claims, owned, strict=True) if own]
        if not noted:
            return owned
        for key, _ in noted:
            self._index.table.begin(key)

        def apply(_: list[Place]) -> list[bool]:
            refused()
            done = {key: self._index.outcome(key, up_to, exporter, outcome) for key, up_to in noted}
            return [own and done[claim.key] for claim, own in zip(claims, owned, strict=True)]

        def refused() -> None:
            for key, _ in noted:
                self._index.table.end(key)

        body = [records.encode_outcome(exporter, outcome, noted)] if self._logged else []
        return await self._write((RecordType.OUTCOME, body), apply, refused)

    async def settle(self, settlements: Sequence[Settlement], now: UnixNano) -> Sequence[bool]:
        """Forget what the claims cover and keep their memories; False where the claim is spent."""
        await self._moved([settlement.claim.key for settlement in settlements])
        owned: list[tuple[Settlement, Held, int] | None] = []
        for settlement in settlements:
            held = self._index.claims.owner(settlement.claim)
            if held is None:
                owned.append(None)
                continue
            # The claim is spent; nobody may use it again while this is being written.
            owned.append((settlement, held, held.token))
            held.token = 0
            self._index.table.begin(settlement.claim.key)
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
                index.table.end(claim.key)
                done.append(index.settle(claim.key, claim.up_to, now))
                for memory in entry[0].memories:
                    index.released(memory.key, memory.host)
            return done

        def refused() -> None:
            for settlement, held, token in ends:
                self._index.table.end(settlement.claim.key)
                held.token = token

        body = [records.encode_keys((x.claim.key, x.claim.up_to) for x, _, _ in ends)] if self._logged else []
        return await self._write((RecordType.SETTLE, body), apply, refused, memories)

    async def intend_bundle(self, bundle: Bundle, exporter: str) -> bool:
        """Keep that an export of all of it begins; False when the bundle is no longer its owner's."""
        if not self._index.bundles.bundled(bundle):
            return False
        bundle.intended = exporter
        if not self._logged:
            return True
        bundle.writing = True

        def refused() -> None:
            bundle.writing = False
            bundle.intended = ""

        def apply(_: list[Place]) -> bool:
            bundle.writing = False
            return True

        bundle.noted = records.encode_keys(self._index.bundles.up_tos(bundle))
        body = records.outcome_head(exporter, Outcome.INTENDED) + bundle.noted
        return await self._write((RecordType.OUTCOME, [body]), apply, refused)

    async def settle_bundle(self, bundle: Bundle, blobs: Sequence[bytes], now: UnixNano) -> bool:
        """Forget what it covers, with a memory of each key; False when the bundle is no longer its owner's."""
        index = self._index
        if not index.bundles.bundled(bundle):
            return False
        bundle.writing = True

        def apply(_: list[Place]) -> bool:
            index.settle_bundle(bundle, now)
            return True

        def refused() -> None:
            bundle.writing = False

        # What the intent wrote, which nearly always there was.
        body = [bundle.noted or records.encode_keys(index.bundles.up_tos(bundle))] if self._logged else []
        sheet = Sheet(now, bundle.keys, blobs)
        return await self._writer.submit([(RecordType.SETTLE, body)], apply, refused, sheets=[sheet]).future

    async def _moved(self, keys: Iterable[Key]) -> None:
        """Wait until no guest's parts are on their way to a host: only then it shows who owns them."""
        if self._logged and any(key in self._index.table.busy for key in keys if len(key) == records.KEY_BYTES):
            await self._writer.submit([], lambda _: None).future

    async def _write(
        self,
        row: Row,
        apply: Callable[[list[Place]], _T],
        refused: Callable[[], None],
        memories: Sequence[tuple[Memory, UnixNano]] = (),
    ) -> _T:
        """Write, apply, and answer with what ``apply`` said. Raises UnavailableError; then ``refused`` was called."""
        return await self._writer.submit([row], apply, refused, memories=memories).future
