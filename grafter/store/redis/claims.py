"""Claim, split, read: what is due goes to one owner.

Which keys are due is looked up first, a page of each bucket, so that the earliest of all are taken whatever bucket they
are in; then they are taken, and who comes second gets nothing.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter

from grafter.core.model import Envelope, Key, UnixNano, guest_key
from grafter.core.state import GuestState
from grafter.errors import UnavailableError
from grafter.store.model import Backlog, Claim, PlainBatch, PlainLimits, StoredPart
from grafter.store.records import RecordError
from grafter.store.redis.connection import Command, Reply
from grafter.store.redis.engine import Engine
from grafter.store.redis.framing import END, LENGTH, Words
from grafter.store.redis.layout import (
    BUCKETS,
    ELEMENT,
    GUEST,
    SHARED,
    SHARED_VERSION,
    VERSION,
    WORDS,
    Head,
    bucket_of,
    guest_states,
    lane,
    link_host,
    outcomes,
    plain_head,
    reference_in,
    relative,
    waits_for,
)
from grafter.store.redis.scripts import Item

_LOG = logging.getLogger(__name__)

PLAIN, OTHERS = b"d", b"o"
# A page of a bucket is about twice its share of what is asked for, so that one page of each is mostly enough.
_SHARE, _LEAST, _PAGE = BUCKETS // 2, 4, 32
_ROOT = 1
# The fewest keys that a script is asked for: after one large trace many small ones may follow.
_FEW = 32
# Nanoseconds for which keys that were seen to be due are taken without asking again.
_AHEAD = 500_000_000
_UNREADABLE_SECONDS = 60.0
# Batches of a backlog in one bucket that may be others' while more are looked for.
_OWNED_BATCHES = 16
# Keys on which one replica died that are handed out at a time.
_TOGETHER = 64


class DueAhead:
    """Plain keys that were seen to be due when Redis was asked last, the earliest first: enough for some batches."""

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._seen = 0

    def has(self, now: int) -> bool:
        """There are some, and what was due a moment ago still is."""
        if not 0 <= now - self._seen <= _AHEAD:
            self._keys = []
        return bool(self._keys)

    def put(self, now: int, keys: list[Key]) -> None:
        self._keys, self._seen = keys, now

    def take(self, count: int) -> list[Key]:
        taken, self._keys = self._keys[:count], self._keys[count:]
        return taken

    def give_back(self, keys: Sequence[Key]) -> None:
        """Those that came too late for a batch: they are first in the next one."""
        self._keys[:0] = keys

    def clear(self) -> None:
        self._keys = []


class ClaimTable:
    """Claims, over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ahead = DueAhead()
        self._per_trace = 0.0
        """Spans of the traces in the latest batch, on average; 0 before the first."""
        self._batches: dict[int, PlainBatch] = {}
        """Those that are this process's as far as it knows, by token."""
        self._unreadable: set[Key] = set()
        """Due keys that this version cannot read, met since they were forgotten last."""
        self._unreadable_before = 0
        self._forget_at = 0.0
        self._suspects: dict[Key, int] = {}
        """Due keys on which replicas died, met since the last of them were taken; how many did."""
        self._apart = -1
        """A token of suspects that this process has."""
        self._patience = 0.0
        """Until when nothing else is taken for their sake."""

    @property
    def unreadable(self) -> int:
        """Due keys that this version cannot read: they wait for the one that wrote them."""
        return max(len(self._unreadable), self._unreadable_before)

    def _set_aside(self, key: Key, why: str) -> None:
        """It is left to the version that wrote it."""
        if not self.unreadable:
            _LOG.warning("held trace %s is left to a newer version of grafter: %s", key.hex(), why)
        self._unreadable.add(key)

    def _forget_unreadable(self) -> None:
        """Now and then they are tried again: another replica may have dealt with them."""
        now = asyncio.get_running_loop().time()
        if now >= self._forget_at:
            self._forget_at = now + _UNREADABLE_SECONDS
            self._unreadable_before = len(self._unreadable)
            self._unreadable.clear()
        elif now >= self._forget_at - _UNREADABLE_SECONDS / 2:
            self._unreadable_before = 0

    async def claim(self, now: UnixNano, limit: int, plain: PlainLimits | None) -> Sequence[Claim | PlainBatch]:
        """See Store.claim."""
        self._end_leases(now)
        self._forget_unreadable()
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
        claims = await self._claim_keys(group, now, suspects=True)
        self._patience = clock() + 2 * self._engine.lease_ns / 1e9
        if claims:
            self._apart = claims[0].token
        return claims

    async def _one_by_one(self, now: UnixNano, limit: int, queues: Sequence[bytes]) -> list[Claim]:
        claims: list[Claim] = []
        seen: set[Key] = set()
        while len(claims) < limit:
            some = await self._due(now, limit - len(claims), queues, seen)
            if not some:
                break
            seen.update(some)
            claims += await self._claim_keys(some, now)
        return claims

    async def _due(self, now: int, limit: int, queues: Sequence[bytes], seen: set[Key]) -> list[Key]:
        """The keys that are due, earliest first, those of one moment in their own order; fewer than the limit only when
        there are no more."""
        tags = self._engine.layout.tags
        upper = f"{relative(now):d}"
        places = [(bucket, tags[bucket] + queue) for queue in queues for bucket in range(BUCKETS)]
        found: list[tuple[float, Key]] = []
        offset, page = 0, min(limit, max(_LEAST, limit // _SHARE))
        horizon: float | None = None
        while places:
            commands: list[tuple[int, Command]] = [
                (bucket, ("ZRANGEBYSCORE", name, "-inf", upper, "WITHSCORES", "LIMIT", offset, page))
                for bucket, name in places
            ]
            more = []
            for place, flat in zip(places, await self._engine.commands(commands), strict=True):
                for i in range(0, len(flat), 2):
                    key = Key(flat[i])
                    if key not in seen and key not in self._unreadable:
                        found.append((float(flat[i + 1]), key))
                if len(flat) == 2 * page:
                    more.append((float(flat[-1]), place))
            # What a full page may hide comes after its last entry: what is before that is certain.
            horizon = min((last for last, _ in more), default=None)
            certain = len(found) if horizon is None else sum([at <= horizon for at, _ in found])
            if certain >= limit:
                break
            places = [place for last, place in more]
            offset += page
            page = max(page, _PAGE)
        found.sort()
        return [key for _, key in found[:limit]]

    async def claim_deferred(self, exporter: str, now: UnixNano, limit: int) -> list[Claim]:
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
        keys = [key for _, key in sorted(found) if key not in self._unreadable]
        claims: list[Claim] = []
        while keys and len(claims) < limit:
            some, keys = keys[: limit - len(claims)], keys[limit - len(claims) :]
            claims += await self._claim_keys(some, now)
        return claims

    async def _claim_keys(self, keys: Sequence[Key], now: UnixNano, *, suspects: bool = False) -> list[Claim]:
        engine = self._engine
        token = engine.tokens(len(keys))
        head = (relative(now), engine.lease_ns, token, 0, 0, 0, engine.owner, engine.living, int(suspects))
        runs = await engine.run("claim", _items(keys), head)
        taken: list[tuple[Key, Sequence[Reply]]] = []
        by_index = sorted((i, reply) for indices, replies in runs for i, reply in zip(indices, replies, strict=True))
        for i, reply in by_index:
            if reply == b"?":
                self._set_aside(keys[i], "its head")
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
                self._set_aside(key, str(error))
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
            asked = not self._ahead.has(now)
            if asked:
                self._ahead.put(now, await self._due(now, limits.traces, (PLAIN,), set()))
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
        head = (relative(now), engine.lease_ns, token, 1, spans, size, engine.owner, engine.living, 0)
        runs = await engine.run("claim", items, head)
        batch = PlainBatch(token, now, now + engine.lease_ns)
        replies: list[Reply] = [b""] * len(keys)
        for indices, some in runs:
            for i, reply in zip(indices, some, strict=True):
                replies[i] = reply
        full = []
        for key, reply in zip(keys, replies, strict=True):
            if reply == b"?":
                self._set_aside(key, "its head")
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
                self._set_aside(key, str(error))
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

    async def read_plain(self, batch: PlainBatch) -> Sequence[Plain]:
        """See Store.read."""
        lists = await self._lists(batch.keys, batch.ends)
        for key, parts, end in zip(batch.keys, lists, batch.ends, strict=True):
            if len(parts) != end:
                raise UnavailableError(f"parts of {key.hex()} are gone", reason="store_down")
        envelope_of = self._engine.reader.envelope
        large = await self._large(lists)
        found: list[Plain] = []
        unpack, before = ELEMENT.unpack_from, ELEMENT.size
        for parts in lists:
            payloads, envelopes, ids, root = [], [], [], -1
            for i, data in enumerate(parts):
                version, facts, more, _, envelope, head, _, _ = unpack(data)
                if version not in (VERSION, SHARED_VERSION):
                    raise UnavailableError("parts were written by a newer version", reason="store_down")
                if facts & GUEST:
                    # Its lease has ended, another replica has sent it, and this came late.
                    raise UnavailableError("the parts of a batch are gone", reason="store_down")
                begin = before + more
                middle = begin + envelope
                end = middle + head
                envelope = data[begin:middle]
                envelopes.append(large[envelope] if version == SHARED_VERSION else envelope_of(envelope))
                ids.append(data[middle:end])
                payloads.append(data[end:])
                if root < 0 and facts & _ROOT:
                    root = i
            found.append((payloads, envelopes, ids, max(root, 0)))
        return found

    async def read(self, claims: Sequence[Claim]) -> Sequence[Sequence[StoredPart]]:
        """See Store.read."""
        part = self._engine.reader.part
        found: list[list[StoredPart]] = []
        unread: list[tuple[Key, int]] = []
        lists = await self._lists([claim.key for claim in claims])
        large = await self._large(lists)
        for claim, parts in zip(claims, lists, strict=True):
            try:
                covered = [data for data in parts if int.from_bytes(data[16:24], "little") <= claim.up_to]
                found.append([part(data, large) for data in covered])
            except RecordError as error:
                self._set_aside(claim.key, str(error))
                unread.append((claim.key, claim.token))
        if unread:
            await self._give_back(unread)
            raise UnavailableError(f"{len(unread)} held traces are a newer version's to read", reason="store_down")
        return found

    async def _large(self, lists: Sequence[Sequence[bytes]]) -> Mapping[bytes, Envelope]:
        """The envelopes that these parts only refer to. Raises UnavailableError where one is not there."""
        references = {
            reference for parts in lists for data in parts if data[1] & SHARED and (reference := reference_in(data))
        }
        if not references:
            return {}
        tags = self._engine.layout.tags
        wanted = sorted(references)
        commands: list[tuple[int, Command]] = [
            (one[0], ("HGET", tags[one[0]] + b"r:" + one[1:], "b")) for one in wanted
        ]
        blobs = await self._engine.commands(commands)
        if None in blobs:
            raise UnavailableError("an envelope of held parts is gone", reason="store_down")
        # In a cluster there are several copies.
        known: dict[bytes, Envelope] = {}
        for one, blob in zip(wanted, blobs, strict=True):
            if one[1:] not in known:
                known[one[1:]] = records.decode_envelope(blob)
        return {one: known[one[1:]] for one in wanted}

    async def _lists(self, keys: Sequence[Key], ends: Sequence[int] | None = None) -> list[list[bytes]]:
        of = self._engine.layout.parts
        counts = ends if ends is not None else [0] * len(keys)
        buckets = map(bucket_of, keys)
        return await self._engine.commands(
            [(bucket, of(bucket, key, count)) for bucket, key, count in zip(buckets, keys, counts, strict=True)]
        )


def _items(keys: Sequence[Key]) -> list[Item]:
    """Each key as an item of a script: its bucket, and itself."""
    items: list[Item] = []
    for key in keys:
        bucket = bucket_of(key)
        items.append((bucket, Words(2, (WORDS[bucket], LENGTH[len(key)], key, END))))
    return items
