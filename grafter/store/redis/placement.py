"""Append: where parts belong, and the way of a guest's parts to its host.

Host parts are one script and one round trip. A guest's host may be known from an earlier part, from another replica or
from a memory, which its own bucket knows. On one server the script that stores parts asks there itself
(place_guest.lua), and that is one round trip too, unless parts that came before the link have to move to the host.
Then, and in a cluster, where the host's bucket may be elsewhere, it is asked first (link_guests.lua), and recorded in
the same step. From then on no part is stored under the guest's own key any more, so that whoever learned the link and
then moves what is there has all of it. A host's bucket takes a guest's part unless the host was released; then the
guest's own key does.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from struct import Struct

from grafter.core.model import HOST_KEY_BYTES, LARGE_ENVELOPE, Envelope, Key, Part, UnixNano, is_guest_key
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.model import large_envelopes
from grafter.store.redis.engine import Engine
from grafter.store.redis.framing import END, LENGTH, Words
from grafter.store.redis.layout import (
    ELEMENT,
    GUEST_ELEMENT,
    ITEM,
    SHARED,
    SHARED_VERSION,
    VERSION,
    bucket_of,
    decode_guest_element,
    deferred_key,
    digest,
    element,
    guest_element,
    relative,
)
from grafter.store.redis.scripts import Argument, Item

# Kinds of items, as lua/append.lua has them.
_HOST, _GUEST, _OWN, _MOVED, _MOVE, _UNPLACED, _ENVELOPE = range(7)
_RELEASED, _LINKED, _BEGUN, _, _STORED = b"01234"
_ATTEMPTS = 5
# Parts that one script stores. Its time grows with the square of their number, nobody else is served meanwhile, and a
# command has at most a million words.
_AT_ONCE = 2000
_ELEMENT_BYTES = ELEMENT.size
_RECORD_LENGTH = LENGTH[ITEM.size + HOST_KEY_BYTES]
_RECORD = Struct(f"<{len(_RECORD_LENGTH)}s{ITEM.format[1:]}{HOST_KEY_BYTES}s{len(END)}s")
"""An ITEM with its key, as a word."""


class _Link:
    """What was learned of a guest for one append."""

    __slots__ = ("host", "movable", "pinned", "refused")

    def __init__(self, host: Key | None, movable: int, pinned: int) -> None:
        self.host = host
        self.movable = movable
        self.pinned = pinned
        self.refused = False
        """The host was released."""


class _GuestLock:
    """Whose append of a guest it is."""

    __slots__ = ("lock", "wanted")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class Placement:
    """Append and move, over an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locks: dict[Key, _GuestLock] = {}
        self._whole = len(engine.topology.split([(0, ()), (1, ())])) == 1
        """One script may touch all buckets."""

    async def append(self, parts: Sequence[Part], now: UnixNano) -> None:
        """See Store.append."""
        if not parts:
            return
        totals = self._engine.totals
        size = sum([len(part.payload) for part in parts]) + large_envelopes(parts)
        held = totals.held + totals.pending
        if held + size > totals.max_bytes:
            raise UnavailableError(
                f"store is full: {held} bytes are held, {size} more would pass the limit of {totals.max_bytes}",
                retry_after=5.0,
                reason="store_full",
            )
        totals.pending += size
        totals.in_flight += 1
        try:
            guests = {part.key: part.guest for part in parts if part.guest is not None}
            if not guests:
                await self._store(parts, now, {})
                return
            async with self._one_at_a_time(guests):
                await self._with_guests(parts, now)
        finally:
            totals.pending -= size
            totals.in_flight -= 1

    async def defer(self, exporter: str, parts: Sequence[Part], now: UnixNano) -> None:
        """See Store.defer."""
        engine = self._engine
        key = deferred_key(exporter)
        bucket, at = bucket_of(key), relative(now)
        large = _LargeEnvelopes(whole=self._whole)
        envelopes: dict[int, bytes] = {}
        items: list[Item] = []
        for number, part in enumerate(parts, engine.order(now, len(parts))):
            if part.envelope is None:
                raise ValueError("a host part has no envelope")
            version, facts = VERSION, 0
            envelope = envelopes.get(id(part.envelope))
            if part.envelope.size >= LARGE_ENVELOPE:
                version, facts, envelope = SHARED_VERSION, SHARED, large.refer(part.envelope, key, items)
            elif envelope is None:
                envelope = envelopes[id(part.envelope)] = records.encode_envelope(part.envelope)
            record = ITEM.pack(bucket, _HOST, facts, part.spans, len(part.payload), at) + key
            head = ELEMENT.pack(version, facts, 0, part.spans, len(envelope), len(part.span_ids), number, at)
            items.append((bucket, (record, head + envelope + part.span_ids + part.payload)))
        engine.totals.in_flight += 1
        try:
            await self._append(items)
            size = sum([len(part.payload) for part in parts])
            engine.totals.add_batch(bucket, exporter, now, sum([part.spans for part in parts]), size)
        finally:
            engine.totals.in_flight -= 1

    async def _with_guests(self, parts: Sequence[Part], now: UnixNano) -> None:
        if self._whole and await self._store(parts, now, {}):
            return
        links = await self._link(parts, now)
        for own, link in links.items():
            if link.host is not None and link.movable and not self._engine.guests_apart:
                link.refused = not await self._move_waiting(own, link.host, link.pinned)
        left = list(parts)
        for _ in range(_ATTEMPTS):
            answer = await self._store(left, now, links)
            again = [part for part, code in zip(left, answer, strict=True) if code in (_RELEASED, _LINKED)]
            if not again:
                return
            for part, code in zip(left, answer, strict=True):
                if code == _RELEASED:
                    links[part.key].refused = True
            linked = {part.key for part, code in zip(left, answer, strict=True) if code == _LINKED}
            if linked:
                # Another replica learned the link meanwhile.
                links |= await self._link([part for part in again if part.key in linked], now, again=True)
            left = again
        raise UnavailableError("the guest's link changes too often", reason="store_down")

    @asynccontextmanager
    async def _one_at_a_time(self, guests: Iterable[Key]) -> AsyncIterator[None]:
        """One append of a guest at a time: two that move its parts would move them twice."""
        owns = sorted(guests)
        async with AsyncExitStack() as stack:
            for own in owns:
                lock = self._locks.setdefault(own, _GuestLock())
                lock.wanted += 1
                stack.callback(self._left, own, lock)
                await stack.enter_async_context(lock.lock)
            yield

    def _left(self, own: Key, lock: "_GuestLock") -> None:
        lock.wanted -= 1
        if not lock.wanted:
            del self._locks[own]

    async def _link(self, parts: Sequence[Part], now: UnixNano, *, again: bool = False) -> dict[Key, _Link]:
        """Take note of the guests of these parts, and learn their hosts."""
        counts: dict[Key, int] = {}
        hosts = _named_hosts(parts)
        for part in parts:
            if part.guest is not None:
                counts[part.key] = counts.get(part.key, 0) + (not again)
        order = self._engine.order(now, len(counts))
        items: list[Item] = [
            (bucket_of(own), (bucket_of(own), own, count, hosts.get(own, b""), order + i))
            for i, (own, count) in enumerate(counts.items())
        ]
        owns = list(counts)
        runs = await self._engine.run("link_guests", items, (relative(now),), writing=True)
        links = {}
        for indices, reply in runs:
            for at, i in enumerate(indices):
                host, movable, pinned = reply[3 * at : 3 * at + 3]
                links[owns[i]] = _Link(Key(host) if host else None, movable, pinned)
        return links

    async def _store(self, parts: Sequence[Part], now: UnixNano, links: dict[Key, _Link]) -> bytes:
        """Store parts; a byte a part says what became of it. Where guests belong for which there is no link the script
        finds; nothing when it cannot, and has stored nothing."""
        engine = self._engine
        at = relative(now)
        arrival = engine.order(now, len(parts))
        hosts: dict[Key, bytes] | None = None
        envelopes: dict[int, bytes] = {}
        last, envelope = None, _LARGE
        large = _LargeEnvelopes(whole=self._whole)
        items: list[Item] = []
        for number, part in enumerate(parts, arrival):
            if part.guest is None:
                if part.envelope is not last or last is None:
                    last = part.envelope
                    known = envelopes.get(id(last))
                    envelope = envelopes[id(last)] = _encoded(last) if known is None else known
                if envelope:
                    items.append(_host_item(part, number, at, envelope))
                else:
                    assert last is not None
                    reference = large.refer(last, part.key, items)
                    items.append(_host_item(part, number, at, reference, shared=True))
                continue
            link, key = links.get(part.key), part.key
            rest: tuple[Argument, ...]
            if link is None:
                hosts = _named_hosts(parts) if hosts is None else hosts
                kind, rest = _UNPLACED, (hosts.get(key, b""), number)
            elif link.host is not None and not engine.guests_apart and not link.refused:
                kind, key, rest = _GUEST, link.host, ()
            else:
                kind, rest = _OWN, (link.host or b"",)
            bucket = bucket_of(key)
            facts = records.encode_guest(part.guest)
            record = ITEM.pack(bucket, kind, 0, part.spans, len(part.payload), at) + key
            stored, about = element(part, number, at, facts), guest_element(part.key, number, at, facts)
            items.append((bucket, (record, stored, about, *rest)))
        answer, places = await self._append(items)
        if not answer:
            return answer
        if large.sizes:
            for i, size in large.sizes.items():
                if answer[i] == _STORED:
                    engine.totals.add_envelope(items[i][0], size)
            answer = bytes([code for i, code in enumerate(answer) if i not in large.sizes])
            items = [item for i, item in enumerate(items) if i not in large.sizes]
        engine.totals.add_parts(
            now,
            (
                (bucket if part.guest is None else next(places, bucket), part.spans, len(part.payload), code == _BEGUN)
                for (bucket, _), part, code in zip(items, parts, answer, strict=True)
                if code >= _BEGUN
            ),
        )
        return answer

    async def _append(self, items: Sequence[Item]) -> tuple[bytes, Iterator[int]]:
        """Store them, so many at a time; if a later time fails what was stored before does no harm.

        What became of each, and the buckets of those for which the script found it; nothing for all of them when they
        have to be asked for first.
        """
        if len(items) <= _AT_ONCE:
            return await self._append_some(items)
        answer, places = b"", list[int]()
        for i in range(0, len(items), _AT_ONCE):
            code, found = await self._append_some(items[i : i + _AT_ONCE])
            if not code:
                return code, found
            answer += code
            places += found
        return answer, iter(places)

    async def _append_some(self, items: Sequence[Item]) -> tuple[bytes, Iterator[int]]:
        engine = self._engine
        head = (int(engine.totals.older),)
        runs = await engine.run_booked("append", items, head, writing=True, wait_replicas=engine.wait_replicas)
        if len(runs) == 1:
            code = runs[0][1]
            return (code, iter(())) if isinstance(code, bytes) else (bytes(code[0]), iter(code[1:]))
        answer = bytearray(len(items))
        for indices, reply in runs:
            for i, code in zip(indices, reply, strict=True):
                answer[i] = code
        return bytes(answer), iter(())

    # Moving.

    async def _move_waiting(self, own: Key, host: Key, pinned: int) -> bool:
        """Move what waits under a guest's own key to its host; False when the host was released."""
        return await self._copy_to_host(own, host, pinned, None, 0, _MOVED)

    async def move(self, own: Key, token: int, host: Key) -> bool:
        """See Store.move."""
        engine = self._engine
        if not is_guest_key(own):
            return False
        async with self._one_at_a_time([own]):
            bucket = bucket_of(own)
            item: Item = (bucket, ())
            runs = await engine.run("guest", [item], (b"moving", bucket, own, token, host, engine.order()))
            up_to = runs[0][1]
            if not up_to:
                return False
            engine.totals.in_flight += 1
            try:
                moved = await self._copy_to_host(own, host, 0, up_to, token, _MOVE)
                if moved:
                    engine.given_back(token, own)
                return moved
            finally:
                engine.totals.in_flight -= 1

    async def _copy_to_host(self, own: Key, host: Key, pinned: int, up_to: int | None, token: int, kind: int) -> bool:
        """Copy parts to the host and then forget them here; a crash between the two leaves both."""
        engine = self._engine
        bucket = bucket_of(own)
        parts, facts = await engine.commands(
            [
                (bucket, ("LRANGE", engine.layout.name(b"p", own), pinned, -1)),
                (bucket, ("LRANGE", engine.layout.name(b"g", own), pinned, -1)),
            ]
        )
        both = [
            (part, note)
            for part, note in zip(parts, facts, strict=False)
            if up_to is None or ELEMENT.unpack_from(part)[6] <= up_to
        ]
        if not both:
            return True
        last = max(ELEMENT.unpack_from(part)[6] for part, _ in both)
        arrival = engine.order(count=len(both))
        items: list[Item] = []
        for i, (part, note) in enumerate(both):
            version, flags, more, spans, envelope, head, _, at = ELEMENT.unpack_from(part)
            size = len(part) - ELEMENT.size - more - envelope - head
            again = ELEMENT.pack(version, flags, more, spans, envelope, head, arrival + i, at)
            about = GUEST_ELEMENT.pack(own, arrival + i, at) + note[GUEST_ELEMENT.size :]
            record = ITEM.pack(bucket_of(host), kind, 0, spans, size, at) + host
            items.append((bucket_of(host), (record, again + part[ELEMENT.size :], about)))
        answer, _ = await self._append(items)
        if answer[0] == _RELEASED:
            return False
        item: Item = (bucket, ())
        words = (b"drop_moved", bucket, own, last, token, host, arrival)
        await engine.run_booked("guest", [item], words)
        await engine.read_totals([bucket, bucket_of(host)])
        return True


class _LargeEnvelopes:
    """The large envelopes of one append: each stands once in each run of the script that has parts under it."""

    def __init__(self, *, whole: bool) -> None:
        """``whole``: one script may touch all buckets, so that one copy is enough for all of them."""
        self.sizes: dict[int, int] = {}
        """Those among the items, by their place there."""
        self._whole = whole
        self._known: dict[int, tuple[bytes, bytes]] = {}
        self._run = 0
        self._sent: set[bytes] = set()

    def refer(self, envelope: Envelope, key: Key, items: list[Item]) -> bytes:
        """The reference for a part that is the next item, with the envelope before it where that is needed."""
        known = self._known.get(id(envelope))
        if known is None:
            blob = records.encode_envelope(envelope)
            known = self._known[id(envelope)] = blob, digest(blob)
        blob, named = known
        bucket = bucket_of(named if self._whole else key)
        reference = bytes((bucket,)) + named
        while True:
            run = len(items) // _AT_ONCE
            if run != self._run:
                # What was sent in another run may be gone before this one.
                self._run = run
                self._sent.clear()
            if reference in self._sent:
                return reference
            self._sent.add(reference)
            self.sizes[len(items)] = len(blob)
            items.append((bucket, (ITEM.pack(bucket, _ENVELOPE, 0, 0, len(blob), 0) + named, blob)))


_LARGE = b""
"""In the place of an encoded envelope, which is never empty: it is stored apart."""


def _encoded(envelope: Envelope | None) -> bytes:
    """An envelope as it stands in a part, or _LARGE."""
    if envelope is None:
        raise ValueError("a host part has no envelope")
    return _LARGE if envelope.size >= LARGE_ENVELOPE else records.encode_envelope(envelope)


def _host_item(part: Part, number: int, at: int, envelope: bytes, *, shared: bool = False) -> Item:
    """A host's part as lua/append.lua takes it; ``shared``: in the place of its envelope stands a reference."""
    key = part.key
    if is_guest_key(key):
        raise ValueError("a host part is under a guest's key")
    bucket = bucket_of(key)
    facts, spans, head, payload = int(part.facts), part.spans, part.span_ids, part.payload
    version = VERSION
    if shared:
        version, facts = SHARED_VERSION, facts | SHARED
    before, after, size = len(envelope), len(head), len(payload)
    # A record and the part, each as a word, without a copy of the payload before the command's own.
    pieces = (
        _RECORD.pack(_RECORD_LENGTH, bucket, _HOST, facts, spans, size, at, key, END),
        LENGTH[_ELEMENT_BYTES + before + after + size],
        ELEMENT.pack(version, facts, 0, spans, before, after, number, at),
        envelope,
        head,
        payload,
        END,
    )
    return bucket, Words(2, pieces)


def _named_hosts(parts: Sequence[Part]) -> dict[Key, bytes]:
    """The host that the first part of each guest names, if one does."""
    hosts: dict[Key, bytes] = {}
    for part in parts:
        if part.guest is not None and part.guest.host is not None:
            hosts.setdefault(part.key, part.guest.host)
    return hosts


def link_evidence(own: Key, here: Sequence[bytes], host: Key, there: Sequence[bytes]) -> tuple[Key | None, int]:
    """A guest's link by what is held of it: the earliest part counts, by where it is stored or by what it names."""
    found: tuple[int, Key | None] | None = None
    for key, elements in ((own, here), (host, there)):
        for data in elements:
            of, arrival, facts, _ = decode_guest_element(data)
            if of != own:
                continue
            code = host if key != own else (Key(facts.host) if facts.host is not None else None)
            if code is not None and (found is None or arrival < found[0]):
                found = (arrival, code)
    return (None, 0) if found is None else (found[1], found[0])
