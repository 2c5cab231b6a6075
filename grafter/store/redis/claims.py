"""Claim, split: what is due goes to one owner.

Which keys are due is looked up first (due_keys.py); then they are taken, and who comes second gets nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter

from grafter.core.model import Key, UnixNano, guest_key
from grafter.core.state import GuestState
from grafter.errors import UnavailableError
from grafter.store.model import Backlog, Claim, PlainBatch, PlainLimits, StoredPart
from grafter.store.records import RecordError
from grafter.store.redis.connection import Command, Reply
from grafter.store.redis.due_keys import OTHERS, PLAIN, DueAhead, DueKeys
from grafter.store.redis.engine import Engine
from grafter.store.redis.framing import END, LENGTH, Words
from grafter.store.redis.layout import (
    SHARED,
    WORDS,
    Head,
    bucket_of,
    guest_states,
    lane,
    link_host,
    outcomes,
    plain_head,
    relative,
    waits_for,
)
from grafter.store.redis.part_reader import PartReader
from grafter.store.redis.scripts import Item

# The fewest keys that a script is asked for: after one large trace many small ones may follow.
_FEW = 32
# Batches of a backlog in one bucket that may be others' while more are looked for.
_OWNED_BATCHES = 16
# Keys on which one replica died that are handed out at a time.
_TOGETHER = 64
# For lua/claim.lua: which keys are wanted.
_OTHERS, _SUSPECTS, _ANY = range(3)


class ClaimTable:
    """Claims, over an engine."""

    def __init__(self, engine: Engine, parts: PartReader) -> None:
        self._engine = engine
        self._parts = parts
        self._due = DueKeys(engine)
        self._ahead = DueAhead()
        self._per_trace = 0.0
        """Spans of the traces in the latest batch, on average; 0 before the first."""
        self._batches: dict[int, PlainBatch] = {}
        """Those that are this process's as far as it knows, by token."""
        self._suspects: dict[Key, int] = {}
        """Due keys on which replicas died, met since the last of them were taken; how many did."""
        self._apart = -1
        """A token of suspects that this process has."""
        self._patience = 0.0
        """Until when nothing else is taken for their sake."""

    @property
    def unreadable(self) -> int:
        """Due keys that this version cannot read: they wait for the one that wrote them."""
        return self._due.unreadable

    async def claim(self, now: UnixNano, limit: int, plain: PlainLimits | None) -> Sequence[Claim | PlainBatch]:
        """See Store.claim."""
        self._end_leases(now)
        self._due.forget_unreadable()
        suspects = await self._suspected(now)
        if suspects is not None:
            return suspects
        batch = None if plain is None else await self._plain_batch(now, plain)
        if batch is not None and self._ahead.has(now):
            # The next call takes those that are known already; what else is due is asked for again behind them.
            return [batch]
        others = await self._one_by_one(now, limit, (PLAIN, OTHERS) if plain is None else (OTHERS,))
        return others if batch is None else [batch, *others]

    async def _suspected(self, now: UnixNano) -> list[Claim] | None:
        """Keys on which replicas died, while this process is at work on nothing else; None where there are none.

        Those of one death come some at a time, those of more alone, so that the one that does it is soon by itself.
        """
        leases, clock = self._engine.leases, asyncio.get_running_loop().time
        if self._apart in leases and clock() < self._patience:
            return []
        self._apart = -1
        if not self._suspects:
            self._patience = 0.0
            return None
        self._patience = self._patience or clock() + 2 * self._engine.lease_ns / 1e9
        if leases and clock() < self._patience:
            return []
        deaths = min(self._suspects.values())
        group = [key for key, many in self._suspects.items() if many == deaths][: _TOGETHER if deaths == 1 else 1]
        # What is left is met again, by whichever replica asks next.
        self._suspects.clear()
        claims = await self._claim_keys(group, now, _SUSPECTS)
        self._patience = clock() + 2 * self._engine.lease_ns / 1e9
        if claims:
            self._apart = claims[0].token
        return claims

    async def _one_by_one(self, now: UnixNano, limit: int, queues: Sequence[bytes]) -> list[Claim]:
        claims: list[Claim] = []
        seen: set[Key] = set()
        while len(claims) < limit:
            some = await self._due.find(now, limit - len(claims), queues, seen)
            if not some:
                break
            seen.update(some)
            claims += await self._claim_keys(some, now)
        return claims

    async def claim_deferred(self, exporter: str, now: UnixNano, limit: int, *, postponed: bool = False) -> list[Claim]:
        """See Store.claim_deferred."""
        engine = self._engine
        name = b"f:" + lane(exporter)
        # Those that somebody owns come first.
        none = Backlog(0, 0, 0, None)
        totals = engine.totals.buckets
        places = [n for n, bucket in enumerate(totals) if bucket.backlogs.get(exporter, none).batches]
        commands: list[tuple[int, Command]] = [
            (bucket, ("ZRANGE", engine.layout.tags[bucket] + name, 0, limit + _OWNED_BATCHES - 1, "WITHSCORES"))
            for bucket in places
        ]
        found: list[tuple[float, Key]] = []
        for flat in await engine.commands(commands):
            found += [(float(flat[i + 1]), Key(flat[i])) for i in range(0, len(flat), 2)]
        keys = [key for _, key in sorted(found) if self._due.is_readable(key)]
        claims: list[Claim] = []
        while keys and len(claims) < limit:
            some, keys = keys[: limit - len(claims)], keys[limit - len(claims) :]
            claims += await self._claim_keys(some, now, _ANY if postponed else _OTHERS)
        return claims

    async def _claim_keys(self, keys: Sequence[Key], now: UnixNano, which: int = _OTHERS) -> list[Claim]:
        engine = self._engine
        token = engine.tokens(len(keys))
        head = (relative(now), engine.lease_ns, token, 0, 0, 0, engine.owner, engine.living, which)
        runs = await engine.run("claim", _items(keys), head)
        taken: list[tuple[Key, Sequence[Reply]]] = []
        by_index = sorted((i, reply) for indices, replies in runs for i, reply in zip(indices, replies, strict=True))
        for i, reply in by_index:
            if reply == b"?":
                self._due.set_aside(keys[i], "its head")
            elif reply and reply[:1] == b"!":
                self._suspects[keys[i]] = int(reply[1:])
            elif reply:
                taken.append((keys[i], reply))
        return await self._of(taken)

    async def _of(self, taken: Sequence[tuple[Key, Sequence[Reply]]]) -> list[Claim]:
        """Claims of what a script handed out: head, outcomes, guests' facts."""
        claims = []
        states: list[dict[str, GuestState]] = []
        unread: list[tuple[Key, int]] = []
        for key, (raw, flat, elements, shared, deaths) in taken:
            head = Head(raw)
            try:
                known, guests = outcomes(flat), guest_states(elements)
            except RecordError as error:
                self._due.set_aside(key, str(error))
                unread.append((key, head.token))
                continue
            states.append(guests)
            self._engine.leases.setdefault(head.token, set()).add(key)
            large = dict(zip(shared[::2], shared[1::2], strict=True))
            state = head.state({})
            claims.append(Claim(key, head.token, head.up_to, state, known, large, deaths, waits_for(key)))
        await self._give_back(unread)
        names = list(dict.fromkeys(chain.from_iterable(states)))
        if names:
            await self._add_links(names, states)
        for claim, guests in zip(claims, states, strict=True):
            claim.state.guests = guests
        return claims

    async def _give_back(self, unread: Sequence[tuple[Key, int]]) -> None:
        """Let somebody else have them at once."""
        if unread:
            items: list[Item] = [(bucket_of(key), (bucket_of(key), key, token, 0)) for key, token in unread]
            await self._engine.run("lease", items, (b"abandon", b""))

    async def _add_links(self, names: Sequence[str], states: Sequence[dict[str, GuestState]]) -> None:
        """What the store knows of a guest's link, from a memory or a move, may be more than its parts say."""
        engine = self._engine
        owns = [guest_key(name) for name in names]
        replies = await engine.commands([(bucket_of(own), ("GET", engine.layout.name(b"l", own))) for own in owns])
        hosts = {name: link_host(raw) for name, raw in zip(names, replies, strict=True)}
        for guests in states:
            for name, state in guests.items():
                host = hosts[name]
                if host is not None and state.host != host:
                    state.host, state.sampled = host, None

    # Plain batches.

    async def _plain_batch(self, now: UnixNano, limits: PlainLimits) -> PlainBatch | None:
        if self._engine.guests_apart:
            return None
        while True:
            refills = not self._ahead.has(now)
            if refills:
                self._ahead.put(now, await self._due.find(now, limits.traces, (PLAIN,), set()))
            keys = self._ahead.take(limits.traces)
            if not keys:
                return None
            batch = await self._claim_plain(keys, now, limits)
            if batch is not None or refills:
                return batch

    async def _claim_plain(self, keys: Sequence[Key], now: UnixNano, limits: PlainLimits) -> PlainBatch | None:
        """A batch of those of the keys that are to be had, as far as it goes; what is left is taken next."""
        engine = self._engine
        _, spans, size = limits
        likely = self._likely(len(keys), spans)
        keys, later = keys[:likely], keys[likely:]
        items = _items(keys)
        if len(engine.topology.split(items)) > 1:
            # No script sees all of them.
            keys, left = await self._fitting(keys, spans, size)
            later = [*left, *later]
            items = _items(keys)
        self._ahead.give_back(later)
        token = engine.tokens()
        head = (relative(now), engine.lease_ns, token, 1, spans, size, engine.owner, engine.living, _OTHERS)
        runs = await engine.run("claim", items, head)
        batch = PlainBatch(token, now, now + engine.lease_ns)
        replies: list[Reply] = [b""] * len(keys)
        for indices, some in runs:
            for i, reply in zip(indices, some, strict=True):
                replies[i] = reply
        full = []
        for key, reply in zip(keys, replies, strict=True):
            if reply == b"?":
                self._due.set_aside(key, "its head")
            elif reply == b"-":
                full.append(key)
            elif reply[:1] == b"!":
                self._suspects[key] = int(reply[1:])
            elif reply:
                parts, own, took = plain_head(reply)
                batch.keys.append(key)
                batch.counts.append(own)
                batch.ends.append(parts)
                batch.spans += own
                batch.size += took
        self._ahead.give_back(full)
        batch.more = bool(full or later)
        if len(batch.keys) + len(full) < len(keys) // 2:
            # Others are at the same ones: what was seen ahead is theirs by now.
            self._ahead.clear()
        if not batch.keys:
            return None
        self._per_trace = batch.spans / len(batch.keys)
        self._batches[token] = batch
        engine.leases[token] = set(batch.keys)
        return batch

    def _likely(self, traces: int, spans: int) -> int:
        """How many traces so many spans are, by those that left last; by what is held before any did."""
        totals = self._engine.totals
        each = self._per_trace or totals.spans / max(1, totals.traces)
        return min(traces, max(_FEW, int(spans / max(1.0, each)) + 1))

    async def _fitting(self, keys: Sequence[Key], spans: int, size: int) -> tuple[list[Key], list[Key]]:
        """As many of these as the limits allow, one in any case; and the others."""
        engine = self._engine
        raws = await engine.commands([(bucket_of(key), ("GET", engine.layout.name(b"m", key))) for key in keys])
        large = await self._large_sizes([key for key, raw in zip(keys, raws, strict=True) if raw and raw[1] & SHARED])
        chosen: list[Key] = []
        in_batch: set[bytes] = set()
        begun = False
        for i, (key, raw) in enumerate(zip(keys, raws, strict=True)):
            try:
                head = Head(raw) if raw is not None else None
            except RecordError as error:
                self._due.set_aside(key, str(error))
                continue
            if head is not None:
                own = large.get(key, {})
                took = head.size - sum([many for named, many in own.items() if named in in_batch])
                if begun and (head.host_spans > spans or took > size):
                    return chosen, list(keys[i:])
                begun = True
                spans -= head.host_spans
                size -= took
                in_batch.update(own)
            chosen.append(key)
        return chosen, []

    async def _large_sizes(self, keys: Sequence[Key]) -> Mapping[Key, Mapping[bytes, int]]:
        """The large envelopes of each of these keys, by digest, with their bytes."""
        tags, name = self._engine.layout.tags, self._engine.layout.name
        sets = await self._engine.commands([(bucket_of(key), ("SMEMBERS", name(b"v", key))) for key in keys])
        found = [(key, one) for key, references in zip(keys, sets, strict=True) for one in references]
        commands: list[tuple[int, Command]] = [
            (one[0], ("HSTRLEN", tags[one[0]] + b"r:" + one[1:], "b")) for _, one in found
        ]
        sizes: dict[Key, dict[bytes, int]] = {}
        for (key, one), many in zip(found, await self._engine.commands(commands), strict=True):
            sizes.setdefault(key, {})[one[1:]] = many
        return sizes

    def _end_leases(self, now: int) -> None:
        for batch in [batch for batch in self._batches.values() if batch.lease <= now]:
            self.spent(batch)

    def owned(self, batch: PlainBatch) -> bool:
        """As far as this process knows the batch is still its own."""
        return batch.token in self._batches

    def spent(self, batch: PlainBatch) -> None:
        """It was settled, or split, or its lease has ended."""
        self._batches.pop(batch.token, None)

    async def split(self, batch: PlainBatch) -> Sequence[Claim]:
        """See Store.split."""
        if not self.owned(batch):
            return []
        items: list[Item] = [(bucket_of(key), (bucket_of(key), key)) for key in batch.keys]
        runs = await self._engine.run("batch", items, (b"split", batch.token, b""))
        self.spent(batch)
        taken = [
            (i, reply) for indices, replies in runs if replies != 0 for i, reply in zip(indices, replies, strict=True)
        ]
        return await self._of([(batch.keys[i], reply) for i, reply in sorted(taken, key=itemgetter(0))])

    async def read(self, claims: Sequence[Claim]) -> Sequence[Sequence[StoredPart]]:
        """See Store.read."""
        found: list[list[StoredPart]] = []
        unread: list[tuple[Key, int]] = []
        for claim, parts in zip(claims, await self._parts.read(claims), strict=True):
            if isinstance(parts, RecordError):
                self._due.set_aside(claim.key, str(parts))
                unread.append((claim.key, claim.token))
            else:
                found.append(parts)
        if unread:
            await self._give_back(unread)
            raise UnavailableError(f"{len(unread)} held traces are a newer version's to read", reason="store_down")
        return found


def _items(keys: Sequence[Key]) -> list[Item]:
    """Each key as an item of a script: its bucket, and itself."""
    items: list[Item] = []
    for key in keys:
        bucket = bucket_of(key)
        items.append((bucket, Words(2, (WORDS[bucket], LENGTH[len(key)], key, END))))
    return items
