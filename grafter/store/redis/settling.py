"""Outcomes, leases and settlements: what an owner says of what it owns."""

from collections.abc import Sequence
from itertools import repeat

from grafter.core.memory_edits import taken_apart
from grafter.core.model import HOST_KEY_BYTES, Key, UnixNano
from grafter.errors import UnavailableError
from grafter.store.model import Claim, Claims, Memory, Outcome, PlainBatch, PlainSettlement, Settlement
from grafter.store.redis.claims import ClaimTable
from grafter.store.redis.engine import Engine
from grafter.store.redis.framing import END, LENGTH, Words, word
from grafter.store.redis.layout import MEMORY, WORDS, bucket_of, relative
from grafter.store.redis.memories import Memories
from grafter.store.redis.placement import link_evidence
from grafter.store.redis.scripts import Argument, Item

_ONE = ord("1")
_BOTH, _RESOURCE = word(b"b"), word(b"r")
_MAX_UNSURE = 100_000
_OF_BUCKET = [Words(2, (bucket, word(b""))) for bucket in WORDS]


class Settling:
    """See the module's docstring."""

    def __init__(self, engine: Engine, claims: ClaimTable, memories: Memories) -> None:
        self._engine = engine
        self._memories = memories
        self._claims = claims
        self._unsure: dict[tuple[Key, int], UnixNano] = {}
        """Settlements without an answer, by key and token, with the moment of each: they may have been done."""

    async def lease(self, what: bytes, claims: Sequence[tuple[Key, int, int]], word: bytes = b"") -> list[bool]:
        """One of the words of lua/lease.lua for keys, their tokens, and a time each; where it was done."""
        items: list[Item] = []
        for key, token, at in claims:
            bucket = bucket_of(key)
            items.append((bucket, (bucket, key, token, at)))
        done = [False] * len(items)
        if items:
            runs = await self._engine.run("lease", items, (what, word))
            for indices, reply in runs:
                for i, code in zip(indices, reply, strict=True):
                    done[i] = code == _ONE
        return done

    async def postpone(self, claims: Sequence[tuple[Claim, UnixNano]], *, untouched: bool = False) -> None:
        word = b"untouched" if untouched else b""
        await self.lease(b"postpone", [(claim.key, claim.token, relative(due)) for claim, due in claims], word)
        for claim, _ in claims:
            self._engine.given_back(claim.token, claim.key)

    async def renew(self, claims: Claims, now: UnixNano) -> None:
        until = relative(now) + self._engine.lease_ns
        if not isinstance(claims, PlainBatch):
            await self.lease(b"renew", [(claim.key, claim.token, until) for claim in claims])
        elif self._claims.owned(claims):
            await self.lease(b"renew", [(key, claims.token, until) for key in claims.keys])
            claims.lease = now + self._engine.lease_ns

    async def record(self, claims: Claims, exporter: str, outcome: Outcome) -> list[bool]:
        """See Store.record."""
        if isinstance(claims, PlainBatch):
            assert outcome is Outcome.INTENDED
            return [await self._intend(claims, exporter)]
        word = exporter.encode() + b"\0" + outcome.value.encode()
        return await self.lease(b"outcome", [(claim.key, claim.token, 0) for claim in claims], word)

    async def _intend(self, batch: PlainBatch, exporter: str) -> bool:
        if not self._claims.owned(batch):
            return False
        # What is known of the whole batch lies in each of its buckets.
        buckets = dict.fromkeys(map(bucket_of, batch.keys))
        items: list[Item] = [(bucket, _OF_BUCKET[bucket]) for bucket in buckets]
        runs = await self._engine.run("batch", items, (b"intend", batch.token, exporter.encode()))
        done = all(reply == 1 for _, reply in runs)
        if done:
            batch.intended += (exporter,)
        return done

    async def abandon(self) -> None:
        """Give back everything that this process owns."""
        leases, self._engine.leases = self._engine.leases, {}
        await self.lease(b"abandon", [(key, token, 0) for token, keys in leases.items() for key in keys])

    async def settle(self, settlements: Sequence[Settlement] | PlainSettlement, now: UnixNano) -> list[bool]:
        """See Store.settle."""
        if isinstance(settlements, PlainSettlement):
            return [await self._settle_batch(settlements, now)]
        if not settlements:
            return []
        items: list[Item] = []
        elsewhere: list[list[Memory]] = []
        shared: set[tuple[int, bytes]] = set()
        for claim, memories in ((s.claim, s.memories) for s in settlements):
            bucket = bucket_of(claim.key)
            words: list[Argument] = []
            settled: list[Argument] = [b"s", bucket, claim.key, claim.token]
            others = []
            for memory in memories:
                if self._together(bucket, bucket_of(memory.key)):
                    settled += _memory(memory, words, shared)
                else:
                    others.append(memory)
            items.append((bucket, words + settled))
            elsewhere.append(others)
        owned = [(s.claim.key, s.claim.token) for s in settlements]
        done = await self._settle_once(items, owned, now, sum(len(s.memories) for s in settlements), 0)
        left = [m for own, memories in zip(done, elsewhere, strict=True) if own for m in memories]
        if left:
            # In a cluster what is remembered of a guest lies elsewhere: a crash here forgets what was sent of it.
            try:
                items = []
                for memory in left:
                    words = []
                    own_words = _memory(memory, words, shared)
                    items.append((bucket_of(memory.key), words + own_words))
                await self._settle(items, now, len(left), 0)
            except UnavailableError:
                self._doubt(owned, now)
                raise
        for settlement in settlements:
            self._engine.given_back(settlement.claim.token, settlement.claim.key)
        if any(own and settlement.memories for own, settlement in zip(done, settlements, strict=True)):
            await self._memories.forget(now)
        return done

    def _together(self, one: int, other: int) -> bool:
        """A script may touch both buckets."""
        return one == other or len(self._engine.topology.split([(one, ()), (other, ())])) == 1

    async def _settle_batch(self, settlement: PlainSettlement, now: UnixNano) -> bool:
        """In a cluster a bucket that was taken over keeps what the others give up."""
        batch, blobs = settlement.batch, settlement.blobs
        # Nobody answered: it may have been settled already.
        unsure = (batch.keys[0], batch.token) in self._unsure
        if not self._claims.owned(batch) and not unsure:
            return False
        items: list[Item] = []
        shared: set[tuple[int, bytes]] = set()
        resources = {digest: (word(digest), word(resource)) for digest, resource in settlement.resources.items()}
        for key, blob, named in zip(batch.keys, blobs, settlement.digests or repeat(b""), strict=False):
            bucket = bucket_of(key)
            pieces = (_BOTH, WORDS[bucket], LENGTH[HOST_KEY_BYTES], key, END, LENGTH[len(blob)], blob, END)
            if named and (bucket, named) not in shared:
                shared.add((bucket, named))
                before = (_RESOURCE, WORDS[bucket], *resources[named])
                items.append((bucket, Words(8, (*before, *pieces))))
            else:
                items.append((bucket, Words(4, pieces)))
        owned = [(key, batch.token) for key in batch.keys]
        done = await self._settle_once(items, owned, now, len(items), batch.token)
        self._claims.spent(batch)
        self._engine.leases.pop(batch.token, None)
        if not all(done):
            return False
        await self._memories.forget(now)
        return True

    async def _settle_once(
        self, items: Sequence[Item], owned: Sequence[tuple[Key, int]], now: UnixNano, memories: int, batch: int
    ) -> list[bool]:
        """Settle, and say of what was settled before without an answer that it was done: by its memory, which has the
        moment of the settlement, the same for each attempt."""
        try:
            done = await self._settle(items, now, memories, batch)
            if not self._unsure:
                return done
            left = [i for i, one in enumerate(owned) if not done[i] and self._unsure.get(one) == now]
            raws = await self._engine.commands([self._memories.of(owned[i][0]) for i in left])
        except UnavailableError:
            self._doubt(owned, now)
            raise
        for one in owned:
            self._unsure.pop(one, None)
        for i, raw in zip(left, raws, strict=True):
            done[i] = raw is not None and MEMORY.unpack_from(raw)[2] == float(relative(now))
        return done

    def _doubt(self, owned: Sequence[tuple[Key, int]], now: UnixNano) -> None:
        if len(self._unsure) >= _MAX_UNSURE:
            self._unsure.clear()
        self._unsure |= dict.fromkeys(owned, now)

    async def _settle(self, items: Sequence[Item], now: UnixNano, memories: int, batch: int) -> list[bool]:
        engine = self._engine
        head = (relative(now), engine.order(now, memories + 1), batch)
        done = [False] * len(items)
        went: list[tuple[Key, int]] = []
        doubtful: list[tuple[Key, Key]] = []
        runs = await engine.run_booked("settle", items, head)
        for indices, (codes, gone, unsure, totals) in runs:
            for i, one in zip(indices, codes.ljust(len(indices), b"0") if codes else b"", strict=False):
                done[i] = one == _ONE
            went += [(Key(gone[i]), gone[i + 1]) for i in range(0, len(gone), 2)]
            doubtful += [(Key(unsure[i]), Key(unsure[i + 1])) for i in range(0, len(unsure), 2)]
            engine.totals.changes += 1
            for i in range(0, len(totals), 2):
                engine.totals.read(int(totals[i]), totals[i + 1])
        if went:
            await self._remove_guest_parts(went)
        for own, host in doubtful:
            await self._relink(own, host)
        return done

    async def _remove_guest_parts(self, went: Sequence[tuple[Key, int]]) -> None:
        """Parts of guests are gone; with the last one its link goes, unless it is remembered."""
        items: list[Item] = [(bucket_of(own), (b"u", bucket_of(own), own, count)) for own, count in went]
        runs = await self._engine.run_booked("settle", items, (0, 0, 0))
        for _, (_, _, unsure, _) in runs:
            for i in range(0, len(unsure), 2):
                await self._relink(Key(unsure[i]), Key(unsure[i + 1]))

    async def _relink(self, own: Key, host: Key) -> None:
        """The parts that named a guest's host may be gone; find its link from those that are left."""
        engine = self._engine
        bucket = bucket_of(own)
        here, there = await engine.commands(
            [
                (bucket, ("LRANGE", engine.layout.name(b"g", own), 0, -1)),
                (bucket_of(host), ("LRANGE", engine.layout.name(b"g", host), 0, -1)),
            ]
        )
        found, order = link_evidence(own, here, host, there)
        item: Item = (bucket, ())
        await engine.run("guest", [item], (b"relink", bucket, own, found or b"", order))


def _memory(memory: Memory, before: list[Argument], shared: set[tuple[int, bytes]]) -> list[Argument]:
    """The command that remembers, and in ``before`` what has to come first: the resource, unless ``shared`` has it."""
    bucket = bucket_of(memory.key)
    blob, named, resource = taken_apart(memory.blob)
    if named and (bucket, named) not in shared:
        shared.add((bucket, named))
        before += [b"r", bucket, named, resource]
    return [b"y", bucket, memory.key, memory.host or b"", blob]
