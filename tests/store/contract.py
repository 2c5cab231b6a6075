"""What every store must do, as tests: a suite of single claims and a machine that tries any order of them.

A store takes part by a *place*: something that can be opened, left, and opened again, and of which one can ask what a
kill at this moment would leave behind.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import pytest

from grafter.core.lifecycle import ReleaseReason, due_kind, due_table
from grafter.core.memory import TraceMemory
from grafter.core.memory_blobs import decode_trace, encode_trace
from grafter.core.memory_edits import PlainMemories
from grafter.core.model import (
    DedupeKey,
    Envelope,
    Facts,
    GuestFacts,
    Key,
    Part,
    Source,
    SpanId,
    TraceId,
    UnixNano,
    guest_key,
)
from grafter.core.policy import SECOND, Waits
from grafter.errors import UnavailableError
from grafter.store.base import Store
from grafter.store.model import (
    Backlog,
    Claim,
    DeadLetter,
    DeadLetterCounts,
    DeadLettersAdded,
    Memory,
    Outcome,
    PlainBatch,
    PlainLimits,
    PlainSettlement,
    Settlement,
    StoredPart,
)

START = UnixNano(1_800_000_000 * SECOND)
LATER = UnixNano(START + 10_000 * SECOND)
"""When everything that is held at START is due."""
LEASE = 10 * SECOND
ENVELOPE = Envelope(b"resource", b"scope")
SIZE = 5000
LARGE = Envelope(b"r" * SIZE, b"scope")
HOST = Key(bytes(range(16)))
OTHER = Key(bytes(range(16, 32)))


WAITS = Waits(
    after_root=10 * SECOND,
    for_guest=30 * SECOND,
    guest_quiet=6 * SECOND,
    local_root=90 * SECOND,
    idle=60 * SECOND,
    max=600 * SECOND,
    remember=1000 * SECOND,
    remember_limit=100,
)
"""Waits of which a test can tell by the moment which one it was."""


@dataclass(frozen=True)
class Settings:
    """What a place opens its store with."""

    waits: Waits = WAITS
    max_bytes: int = 1 << 30
    max_trace_bytes: int = 1 << 20
    guests_apart: bool = False
    now: Callable[[], int] = lambda: START


class Opened(Store, Protocol):
    """A store with what a test has to wait for, and what else its service asks of it."""

    @property
    def forgotten(self) -> Mapping[str, int]: ...

    async def recovered(self) -> None: ...


class Place(Protocol):
    def open(self, settings: Settings) -> AbstractAsyncContextManager[Opened]: ...

    def crashed(self) -> "Place":
        """What a kill at this moment would leave, while the store goes on here."""
        ...


def host_part(text: str = "part", key: Key = HOST, facts: Facts = Facts.NONE, spans: int = 1) -> Part:
    return Part(key, text.encode(), spans, ENVELOPE, facts, bytes(range(8)) * spans)


def guest_part(text: str = "guest", guest: str = "trace_g", host: Key | None = None, **facts: object) -> Part:
    known = GuestFacts(guest, Source.SDK, None if host is None else TraceId(host))
    return Part(guest_key(guest), text.encode(), 1, guest=replace(known, **facts))  # type: ignore[arg-type]


def texts(parts: Iterable[StoredPart]) -> list[str]:
    return [part.payload.decode() for part in parts]


KINDS = [
    *([host_part(facts=Facts(facts))] for facts in range(8)),
    *([host_part(facts=Facts.RULE | Facts.ANCHOR | Facts(facts))] for facts in range(4)),
    [guest_part(host=HOST)],
    [guest_part()],
]
"""Parts that make a key of each kind for which waits are told apart."""


async def claim_one(store: Store, now: int = LATER) -> Claim:
    (claim,) = await store.claim(UnixNano(now), 10)
    return claim


async def claim_plain(
    store: Store, now: int = LATER, traces: int = 100, spans: int = 1000, size: int = 1 << 20
) -> PlainBatch | None:
    """The plain traces that are due; the others are given back."""
    claims = await store.claim(UnixNano(now), 100, PlainLimits(traces, spans, size))
    await store.postpone([(claim, UnixNano(now)) for claim in claims if isinstance(claim, Claim)])
    return next((claim for claim in claims if isinstance(claim, PlainBatch)), None)


async def claim_others(store: Store, now: int = LATER, limit: int = 10) -> list[Claim]:
    """What is due, of which nothing is plain."""
    claims = []
    for claim in await store.claim(UnixNano(now), limit, PlainLimits(100, 1000, 1 << 20)):
        assert isinstance(claim, Claim)
        claims.append(claim)
    return claims


async def held_texts(store: Store, now: int = LATER) -> dict[Key, list[str]]:
    """Everything that is due, and its claims given back."""
    claims = await store.claim(UnixNano(now), 1000)
    parts = await store.read(claims)
    await store.postpone([(claim, UnixNano(now)) for claim in claims])
    return {claim.key: texts(read) for claim, read in zip(claims, parts, strict=True)}


async def release(store: Store, *memories: Memory, now: int = LATER) -> None:
    """Settle everything that is due."""
    claims = await store.claim(UnixNano(now), 1000)
    settled = await store.settle(
        [Settlement(claim, memories if i == 0 else ()) for i, claim in enumerate(claims)], UnixNano(now)
    )
    assert all(settled)


class StoreContract:
    """Claims about any store. Subclasses give the fixture ``place``."""

    copies = 1
    """Of a large envelope of one request, at most."""

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings()

    async def test_what_was_appended_is_read_back_byte_for_byte(self, place: Place, settings: Settings) -> None:
        """Payload, envelope, span ids and every guest fact come back as they went in, in order of arrival."""
        facts = GuestFacts(
            "trace_\ud800\x00é",
            Source.REALTIME,
            host=TraceId(HOST),
            sampled=False,
            head=True,
            top_level=True,
            ids=(SpanId(b"12345678"), SpanId(b"abcdefgh")),
            parents=(SpanId(b"87654321"),),
            ended=True,
            how="api",
            anchor=SpanId(b"anchored"),
        )
        guest = Part(guest_key(facts.guest), b'[{"a": 1}]', 2, guest=facts)
        host = Part(HOST, b"\x00\xff" * 1000, 2, Envelope(b"r" * 300, b""), Facts.ROOT | Facts.ANCHOR, b"i" * 16)
        bare = Part(HOST, b"", 1, Envelope(b"", b"s"), Facts.NONE, b"")
        async with place.open(settings) as store:
            await store.append([host, guest, bare], START)
            (parts,) = await store.read([await claim_one(store)])
            assert [(p.payload, p.spans, p.envelope, p.span_ids, p.guest, p.facts) for p in parts] == [
                (host.payload, 2, host.envelope, host.span_ids, None, host.facts),
                (guest.payload, 2, None, b"", facts, Facts.NONE),
                (bare.payload, 1, bare.envelope, b"", None, Facts.NONE),
            ]
            assert [p.arrival for p in parts] == sorted({p.arrival for p in parts})

    async def test_a_large_envelope_counts_once_and_goes_with_the_last_part_under_it(
        self, place: Place, settings: Settings
    ) -> None:
        """However many traces share it: in what is held, in what is claimed together, and each trace has it back."""
        other = Envelope(b"s" * SIZE, b"scope")
        parts = [Part(Key(bytes([i]) * 16), b"root", 1, LARGE, Facts.ROOT, bytes(8)) for i in range(10)]
        parts.append(Part(Key(b"\xaa" * 16), b"root", 1, other, Facts.ROOT, bytes(8)))
        async with place.open(settings) as store:
            await store.append(parts, START)
            assert SIZE * 2 <= store.stats().bytes - 11 * 4 <= (1 + min(10, self.copies)) * (SIZE + 32)
            batch = await claim_plain(store, size=SIZE + 200)
            assert batch is not None
            assert 5 <= len(batch.keys) <= 10
            read = await store.read(batch)
            assert {one.resource for envelopes in (plain[1] for plain in read) for one in envelopes} <= {
                LARGE.resource,
                other.resource,
            }
            assert len({id(plain[1][0]) for plain in read if plain[1][0] == LARGE}) <= 1
            claims = await store.split(batch)
            assert all(SIZE <= claim.state.bytes <= SIZE + 64 for claim in claims)
            assert all(sum(claim.envelopes.values()) >= SIZE for claim in claims)
            assert all(await store.settle(settlements(claims), LATER))
            left = [one for one in await store.claim(LATER, 20) if isinstance(one, Claim)]
            assert len(left) + len(claims) == 11
            assert [one.envelope for found in await store.read(left) for one in found] == [
                other if claim.key[0] == 0xAA else LARGE for claim in left
            ]
            assert len({tuple(claim.envelopes) for claim in left}) <= 2
            for claim in left:
                assert store.stats().bytes >= SIZE
                assert await store.settle(settlements([claim]), LATER) == [True]
            assert store.stats().bytes == 0

    async def test_what_comes_later_keeps_its_large_envelope(self, place: Place, settings: Settings) -> None:
        """A part that came during a lease is under the envelope that the settled ones were under."""
        part = Part(HOST, b"a", 1, LARGE, Facts.NONE, bytes(8))
        async with place.open(settings) as store:
            await store.append([part], START)
            claim = await claim_one(store)
            await store.append([replace(part, payload=b"b")], UnixNano(LATER + 1))
            assert await store.settle([Settlement(claim, (Memory(HOST, b"m"),))], UnixNano(LATER + 1)) == [True]
            assert SIZE < store.stats().bytes < SIZE + 64
            (parts,) = await store.read([await claim_one(store, UnixNano(2 * LATER - START))])
            assert [(one.payload, one.envelope) for one in parts] == [(b"b", LARGE)]

    async def test_large_envelopes_fill_the_store(self, place: Place, settings: Settings) -> None:
        """They count against the limit before they are stored."""
        async with place.open(replace(settings, max_bytes=3 * SIZE)) as store:
            for i in range(2):
                envelope = Envelope(bytes([i]) * SIZE, b"")
                await store.append([Part(Key(bytes([i]) * 16), b"x", 1, envelope, Facts.NONE, b"")], START)
            with pytest.raises(UnavailableError, match="full"):
                await store.append([Part(OTHER, b"x", 1, LARGE, Facts.NONE, b"")], START)

    async def test_resources_that_memories_share_come_back(self, place: Place, settings: Settings) -> None:
        """Of hosts in a plain batch and by themselves; after a newer one took a key's place too."""

        def memory(resource: bytes) -> bytes:
            root = Envelope(resource, b"")
            return encode_trace(TraceMemory(ReleaseReason.COMPLETE, START, SpanId(b"12345678"), root_envelope=root))

        keys = [Key(bytes([i]) * 16) for i in range(6)]
        async with place.open(settings) as store:
            await store.append([host_part("root", key, Facts.ROOT) for key in keys[:4]], START)
            batch = await claim_plain(store)
            assert batch is not None
            plain = PlainMemories(ReleaseReason.COMPLETE, START)
            for key in batch.keys:
                plain.add(b"12345678", 0, b"", (b"a" if key[0] % 2 else b"b") * 300, b"")
            settlement = PlainSettlement(batch, plain.blobs, plain.digests, plain.resources)
            assert await store.settle(settlement, LATER) == [True]
            await store.append([host_part("x", key) for key in keys[3:]], LATER)
            claims = await claim_others(store, UnixNano(LATER + 700 * SECOND), 9)
            settled = [Settlement(claim, (Memory(claim.key, memory(b"a" * 300)),)) for claim in claims]
            assert all(await store.settle(settled, UnixNano(LATER + 1)))
            found = await store.recall(keys, UnixNano(LATER + 2))
            resources = [decode_trace(one.blob) for one in found if one is not None]
            assert [one.root_envelope.resource[:1] for one in resources if one and one.root_envelope] == [
                b"b",
                b"a",
                b"b",
                b"a",
                b"a",
                b"a",
            ]

    async def test_an_empty_part_takes_nothing_from_its_neighbours(self, place: Place, settings: Settings) -> None:
        """Parts without a byte are parts, wherever in a request they stand."""
        empty = Part(HOST, b"", 1, ENVELOPE, Facts.NONE, b"")
        parts = [empty, host_part("a"), empty, empty, host_part("b"), empty]
        async with place.open(settings) as store:
            await store.append(parts, START)
            (read,) = await store.read([await claim_one(store)])
            assert texts(read) == ["", "a", "", "", "b", ""]
            assert [part.span_ids for part in read] == [part.span_ids for part in parts]
            assert {part.envelope for part in read} == {ENVELOPE}

    async def test_a_claim_sums_up_what_is_held(self, place: Place, settings: Settings) -> None:
        """The state has the first and last arrival, spans, bytes, facts and guests of all parts of the key."""
        a, b = SpanId(b"aaaaaaaa"), SpanId(b"bbbbbbbb")
        async with place.open(settings) as store:
            await store.append([host_part("abc", facts=Facts.ANCHOR, spans=2)], START)
            await store.append([guest_part("12", host=HOST, ids=(a,), parents=(b,))], UnixNano(START + 5))
            await store.append([guest_part("3", head=True, ids=(b,))], UnixNano(START + 9))
            state = (await claim_one(store)).state
            assert (state.first, state.last) == (START, START + 9)
            assert (state.host_spans, state.guest_spans, state.bytes) == (2, 2, 6)
            assert state.facts == Facts.ANCHOR
            assert not state.remembered
            guest = state.guests["trace_g"]
            assert (guest.first, guest.last, guest.host) == (START + 5, START + 9, HOST)
            assert guest.head
            assert not guest.missing_parents

    async def test_a_look_is_what_a_claim_would_say(self, place: Place, settings: Settings) -> None:
        """It changes nothing, whoever owns the key; of what was settled, or never came, there is nothing to see."""
        async with place.open(settings) as store:
            await store.append([host_part(facts=Facts.ROOT), guest_part(host=HOST, head=True)], UnixNano(START))
            seen = await store.peek(HOST)
            claim = await claim_one(store)
            assert seen == await store.peek(HOST) == claim.state
            assert await store.peek(OTHER) is None
            assert await store.settle([Settlement(claim)], UnixNano(LATER)) == [True]
            assert await store.peek(HOST) is None

    async def test_a_guests_host_is_known_by_the_guests_own_key(self, place: Place, settings: Settings) -> None:
        """Since its link is, for as long as something of it is held, and by whoever opens the store next."""
        own = guest_key("trace_g")
        async with place.open(settings) as store:
            await store.append([guest_part("1", ids=(SpanId(bytes(7) + b"a"),))], UnixNano(START))
            assert await store.host_of(own) is None
            await store.append([guest_part("2", host=HOST, head=True)], UnixNano(START))
            assert await store.host_of(own) == HOST
            assert await store.host_of(guest_key("trace_other")) is None

    async def test_keys_are_claimed_when_due_and_earliest_first(self, place: Place, settings: Settings) -> None:
        """Nothing is handed out before its time; a limit takes those that are due longest."""
        keys = [Key(bytes([i]) * 16) for i in range(4)]
        async with place.open(settings) as store:
            for i, key in enumerate(reversed(keys)):
                await store.append([host_part(key=key, facts=Facts.ROOT)], UnixNano(START + i * SECOND))
            assert await store.claim(UnixNano(START + 10 * SECOND - 1), 10) == []
            first = await store.claim(UnixNano(START + 12 * SECOND), 2)
            assert [claim.key for claim in first] == [keys[3], keys[2]]
            assert [c.key for c in await store.claim(UnixNano(START + 12 * SECOND), 2)] == [keys[1]]

    async def test_each_kind_of_key_is_due_when_the_table_says(self, place: Place, settings: Settings) -> None:
        """One row of ``due_table`` a kind of key decides its moment, whoever weighs it: Python, or Lua in Redis.

        A second append makes each row's two bounds show: a moment after the latest part, or one after the first.
        """
        now = int(START)
        async with place.open(settings) as store:
            for parts, remembered, gap in itertools.product(KINDS, (False, True), (0, 5 * SECOND, 597 * SECOND)):
                key = HOST if parts[0].guest is None or parts[0].guest.host else parts[0].key
                if remembered and parts[0].guest is not None and key == HOST:
                    continue  # it would be placed under its own key
                now += 10 * settings.waits.max
                if remembered:
                    await store.append(parts, UnixNano(now))
                    await release(store, Memory(key, b"m"), now=now + settings.waits.max)
                await store.append(parts, UnixNano(now))
                await store.append(parts, UnixNano(now + gap))
                quiet, longest, _ = due_table(settings.waits)[
                    due_kind(
                        int(parts[0].facts),
                        guest_only=key == HOST and parts[0].guest is not None,
                        remembered=remembered,
                        own_key=key != HOST,
                    )
                ]
                due = min(now + gap + quiet, now + longest)
                if due > now + gap:
                    assert await store.claim(UnixNano(due - 1000), 10) == []
                claim = await claim_one(store, due)
                assert claim.key == key
                assert await store.settle([Settlement(claim)], UnixNano(due)) == [True]

    async def test_a_part_moves_the_due_time(self, place: Place, settings: Settings) -> None:
        """Each append sets it anew: later for another part, earlier when a root comes."""
        async with place.open(settings) as store:
            await store.append([host_part()], START)
            await store.append([host_part()], UnixNano(START + 50 * SECOND))
            assert await store.claim(UnixNano(START + 109 * SECOND), 10) == []
            await store.append([host_part(facts=Facts.ROOT)], UnixNano(START + 60 * SECOND))
            assert await store.claim(UnixNano(START + 70 * SECOND - 1), 10) == []
            assert len(await store.claim(UnixNano(START + 70 * SECOND), 10)) == 1

    async def test_a_key_has_one_owner(self, place: Place, settings: Settings) -> None:
        """A claimed key is not handed out again before its lease ends, and then under another token."""
        async with place.open(settings) as store:
            await store.append([host_part()], START)
            first = await claim_one(store)
            assert await store.claim(UnixNano(LATER + LEASE - 1), 10) == []
            second = await claim_one(store, LATER + LEASE)
            assert second.token != first.token

    async def test_a_lost_claim_can_do_nothing(self, place: Place, settings: Settings) -> None:
        """With a token that is no longer the key's own nothing happens, and it is said."""
        async with place.open(settings) as store:
            await store.append([guest_part()], START)
            lost = await claim_one(store)
            owner = await claim_one(store, LATER + LEASE)
            assert await store.record([lost], "a", Outcome.INTENDED) == [False]
            assert await store.settle([Settlement(lost, (Memory(lost.key, b"x"),))], LATER) == [False]
            assert not await store.move(lost, HOST)
            await store.record([lost], "a", Outcome.ACCEPTED)
            await store.postpone([(lost, START)])
            await store.renew([lost], UnixNano(LATER + 1000 * SECOND))
            assert await store.recall([lost.key], LATER) == [None]
            assert await store.claim(UnixNano(LATER + 2 * LEASE - 1), 10) == []
            again = await claim_one(store, LATER + 2 * LEASE)
            assert again.outcomes == {}
            assert await store.settle([Settlement(owner)], LATER) == [False]
            assert await store.settle([Settlement(again), Settlement(again)], LATER) == [True, False]

    async def test_a_renewed_lease_runs_from_then(self, place: Place, settings: Settings) -> None:
        """An owner that is still at work keeps its key."""
        async with place.open(settings) as store:
            await store.append([host_part()], START)
            claim = await claim_one(store)
            await store.renew([claim], UnixNano(LATER + LEASE - 1))
            assert await store.claim(UnixNano(LATER + 2 * LEASE - 2), 10) == []
            assert await store.record([claim], "a", Outcome.INTENDED) == [True]
            assert len(await store.claim(UnixNano(LATER + 2 * LEASE - 1), 10)) == 1

    async def test_a_late_part_survives_the_settlement(self, place: Place, settings: Settings) -> None:
        """A part that came after the claim is not read with it, stays held, and is due at once."""
        async with place.open(settings) as store:
            await store.append([host_part("early", facts=Facts.ROOT, spans=3)], START)
            claim = await claim_one(store)
            await store.append([host_part("late", spans=2)], LATER)
            assert [texts(p) for p in await store.read([claim])] == [["early"]]
            assert await store.settle([Settlement(claim, (Memory(HOST, b"m"),))], LATER) == [True]
            left = await claim_one(store)
            assert [texts(p) for p in await store.read([left])] == [["late"]]
            assert left.state.remembered
            assert (left.state.facts, left.state.host_spans, left.state.bytes) == (Facts.NONE, 2, 4)
            assert (left.state.first, left.state.last) == (LATER, LATER)

    async def test_a_settled_part_does_not_come_back(self, place: Place, settings: Settings) -> None:
        """After its settlement a key is as if it had never been, but for its memory."""
        async with place.open(settings) as store:
            await store.append([host_part(), guest_part(host=HOST)], START)
            await release(store, Memory(HOST, b"m"))
            assert await store.claim(UnixNano(LATER + LEASE * 100), 10) == []
            stats = store.stats()
            assert (stats.traces, stats.spans, stats.bytes, stats.oldest) == (0, 0, 0, None)

    async def test_an_outcome_pins_what_a_claim_covers(self, place: Place, settings: Settings) -> None:
        """While an export's outcome stands, each new claim covers the same parts, and tells what is known."""
        async with place.open(settings) as store:
            await store.append([host_part("one")], START)
            claim = await claim_one(store)
            assert await store.record([claim], "a", Outcome.INTENDED) == [True]
            assert await store.record([claim], "b", Outcome.INTENDED) == [True]
            await store.record([claim], "a", Outcome.ACCEPTED)
            await store.append([host_part("two")], LATER)
            again = await claim_one(store, LATER + LEASE)
            assert again.up_to == claim.up_to
            assert again.outcomes == {"a": Outcome.ACCEPTED, "b": Outcome.INTENDED}
            assert [texts(p) for p in await store.read([again])] == [["one"]]
            assert await store.settle([Settlement(again)], LATER) == [True]
            last = await claim_one(store)
            assert last.outcomes == {}
            assert [texts(p) for p in await store.read([last])] == [["two"]]

    async def test_one_claim_brings_plain_traces_and_others(self, place: Place, settings: Settings) -> None:
        """The plain ones as one batch, which is first; without limits for one each comes as a claim of its own."""
        keys = [Key(i.to_bytes(16, "big")) for i in range(1, 4)]
        async with place.open(settings) as store:
            await store.append([host_part("root", key, Facts.ROOT) for key in keys], START)
            await store.append([host_part("rootless", OTHER)], START)
            batch, other = await store.claim(LATER, 10, PlainLimits(100, 1000, 1 << 20))
            assert isinstance(batch, PlainBatch)
            assert isinstance(other, Claim)
            assert (batch.keys, other.key) == (keys, OTHER)
            await store.postpone([(claim, LATER) for claim in [other, *await store.split(batch)]])
            singles = await store.claim(LATER, 10)
            assert {claim.key for claim in singles if isinstance(claim, Claim)} == {*keys, OTHER}

    async def test_a_trace_that_idle_ends_is_not_plain(self, place: Place) -> None:
        """Where ``idle`` is the shorter wait something is left to decide: why the trace leaves."""
        waits = replace(WAITS, after_root=2 * WAITS.idle)
        async with place.open(Settings(waits=waits)) as store:
            await store.append([host_part(facts=Facts.ROOT)], START)
            assert [claim.key for claim in await claim_others(store)] == [HOST]

    async def test_plain_traces_come_as_one(self, place: Place, settings: Settings) -> None:
        """A plain batch has the due plain traces, claims have the rest, and nothing is handed out twice."""
        keys = [Key(i.to_bytes(16, "big")) for i in range(1, 6)]
        async with place.open(settings) as store:
            await store.append([host_part("root", key, Facts.ROOT) for key in keys], START)
            await store.append([host_part("rest", key, spans=2) for key in keys[:2]], START)
            await store.append([host_part("anchor", keys[4], Facts.ANCHOR), host_part("rootless", OTHER)], START)
            batch = await claim_plain(store)
            assert batch is not None
            assert (batch.keys, batch.counts, batch.spans) == (keys[:4], [3, 3, 1, 1], 8)
            assert [plain[0] for plain in await store.read(batch)] == [[b"root", b"rest"]] * 2 + [[b"root"]] * 2
            assert await claim_plain(store) is None
            assert {claim.key for claim in await claim_others(store, LATER, 10)} == {keys[4], OTHER}

    async def test_a_plain_batch_ends_before_what_does_not_fit(self, place: Place, settings: Settings) -> None:
        """A large trace between small ones goes alone, in its turn; a plain batch that ends before others says so.

        However small it is: else what is due would wait for another look after every large trace.
        """
        sizes = [1, 1, 50_000, 1, 1, 1, 700, 400, 1]
        keys = [Key(n.to_bytes(16)) for n in range(len(sizes))]
        async with place.open(settings) as store:
            for at, (key, spans) in enumerate(zip(keys, sizes, strict=True)):
                part = host_part(key=key, facts=Facts.ROOT)
                await store.append([replace(part, spans=spans, span_ids=bytes(8 * spans))], UnixNano(START + at))
            found = []
            while batch := await claim_plain(store):
                found.append((batch.keys, batch.spans, batch.more))
            assert found == [
                (keys[:2], 2, True),
                (keys[2:3], 50_000, found[1][2]),
                (keys[3:7], 703, True),
                (keys[7:], 401, False),
            ]

    async def test_a_plain_batch_is_settled_as_a_whole(self, place: Place, settings: Settings) -> None:
        """Its keys are remembered, and what came meanwhile stays held and is due at once."""
        keys = [HOST, OTHER]
        async with place.open(settings) as store:
            await store.append([host_part("root", key, Facts.ROOT) for key in keys], START)
            batch = await claim_plain(store)
            assert batch is not None
            await store.append([host_part("late", spans=2)], LATER)
            assert await store.record(batch, "a", Outcome.INTENDED) == [True]
            assert await store.settle(PlainSettlement(batch, [b"one", b"two"]), LATER) == [True]
            assert await store.settle(PlainSettlement(batch, [b"one", b"two"]), LATER) == [False]
            assert await store.recall(keys, LATER) == [Memory(HOST, b"one"), Memory(OTHER, b"two")]
            claim = await claim_one(store)
            assert (claim.key, claim.outcomes, claim.state.remembered) == (HOST, {}, True)
            assert [texts(p) for p in await store.read([claim])] == [["late"]]
            assert (store.stats().traces, store.stats().spans, store.stats().bytes) == (1, 2, 4)

    @pytest.mark.parametrize("how", ["split", "lease over"])
    async def test_an_intent_of_a_batch_is_one_of_each_key(self, place: Place, settings: Settings, how: str) -> None:
        """Whoever gets the keys one by one knows that an export was begun, and of what."""
        async with place.open(settings) as store:
            await store.append([host_part("root", key, Facts.ROOT) for key in (HOST, OTHER)], START)
            batch = await claim_plain(store)
            assert batch is not None
            assert await store.record(batch, "a", Outcome.INTENDED) == [True]
            await store.append([host_part("late")], LATER)
            if how == "split":
                claims = await store.split(batch)
            else:
                assert await claim_plain(store, UnixNano(LATER + LEASE)) is None
                claims = await claim_others(store, UnixNano(LATER + LEASE), 10)
            assert await store.settle(PlainSettlement(batch, [b"", b""]), LATER) == [False]
            assert [(claim.key, claim.outcomes) for claim in claims] == [
                (HOST, {"a": Outcome.INTENDED}),
                (OTHER, {"a": Outcome.INTENDED}),
            ]
            assert [texts(p) for p in await store.read(claims)] == [["root"], ["root"]]
            assert await store.settle([Settlement(claim) for claim in claims], LATER) == [True, True]

    async def test_intents_of_a_batch_for_several_exporters_stand_for_each_key(
        self, place: Place, settings: Settings
    ) -> None:
        async with place.open(settings) as store:
            keys = [Key(bytes([i]) * 16) for i in (1, 2)]
            await store.append([host_part(f"{i}", key, Facts.ROOT) for i, key in enumerate(keys)], START)
            batch = await claim_plain(store)
            assert await store.record(batch, "a", Outcome.INTENDED) == [True]
            assert await store.record(batch, "b", Outcome.INTENDED) == [True]
            claims = await store.split(batch)
            both = {"a": Outcome.INTENDED, "b": Outcome.INTENDED}
            assert {claim.key: claim.outcomes for claim in claims} == dict.fromkeys(keys, both)
            await store.record(claims, "a", Outcome.ACCEPTED)
            again = await claim_others(store, LATER + LEASE)
            assert [claim.outcomes for claim in again] == [{"a": Outcome.ACCEPTED, "b": Outcome.INTENDED}] * 2

    async def test_what_waits_for_one_exporter_is_no_others(self, place: Place, settings: Settings) -> None:
        """A batch of a backlog is handed out to who works for its exporter, and to nobody else, until it is settled."""
        async with place.open(settings) as store:
            await store.append([host_part("held")], START)
            parts = [
                host_part("one", HOST, spans=3),
                replace(host_part("two", spans=2), span_ids=b"a head of any size"),
            ]
            await store.defer("otlp_grpc/slow", parts, START)
            await store.defer("a/seven", [host_part("three")], LATER)
            stats = store.stats()
            assert (stats.traces, stats.spans, stats.bytes, stats.oldest) == (1, 1, len("heldonetwothree"), START)
            assert stats.backlogs["otlp_grpc/slow"] == Backlog(1, 5, 6, START)
            assert stats.backlogs["a/seven"] == Backlog(1, 1, 5, LATER)
            assert [claim.key for claim in await store.claim(LATER, 10)] == [HOST]
            assert await store.claim_deferred("other", LATER, 10) == []
            (claim,) = await store.claim_deferred("otlp_grpc/slow", LATER, 10)
            assert (claim.waits_for, dict(claim.outcomes).get("otlp_grpc/slow")) in (
                ("otlp_grpc/slow", None),
                ("otlp_grpc/slow", Outcome.WITHDRAWN),
            )
            assert await store.claim_deferred("otlp_grpc/slow", LATER, 10) == []
            (read,) = await store.read([claim])
            assert [(p.payload, p.spans, p.span_ids, p.envelope) for p in read] == [
                (p.payload, p.spans, p.span_ids, p.envelope) for p in parts
            ]
            assert await store.record([claim], "otlp_grpc/slow", Outcome.INTENDED) == [True]
            await store.postpone([(claim, UnixNano(LATER + 2 * SECOND))])
            assert await store.claim_deferred("otlp_grpc/slow", UnixNano(LATER + SECOND), 10) == []
            (claim,) = await store.claim_deferred("otlp_grpc/slow", UnixNano(LATER + 2 * SECOND), 10)
            assert claim.outcomes["otlp_grpc/slow"] is Outcome.INTENDED
            assert await store.settle([Settlement(claim)], LATER) == [True]
            stats = store.stats()
            assert (stats.spans, stats.bytes) == (1, len("heldthree"))
            assert stats.backlogs.get("otlp_grpc/slow", Backlog(0, 0, 0, None)).batches == 0

    async def test_a_backlog_is_handed_out_earliest_first_and_again_when_a_lease_ends(
        self, place: Place, settings: Settings
    ) -> None:
        async with place.open(settings) as store:
            for i in range(5):
                await store.defer("a", [host_part(f"{i}")], UnixNano(START + i * SECOND))
            first = await store.claim_deferred("a", LATER, 2)
            assert [texts(parts) for parts in await store.read(first)] == [["0"], ["1"]]
            second = await store.claim_deferred("a", LATER, 2)
            assert [texts(parts) for parts in await store.read(second)] == [["2"], ["3"]]
            assert await store.settle([Settlement(claim) for claim in first], LATER) == [True, True]
            await store.renew(second[1:], UnixNano(LATER + LEASE // 2))
            third = await store.claim_deferred("a", UnixNano(LATER + LEASE), 10)
            assert sorted(texts(parts)[0] for parts in await store.read(third)) == ["2", "4"]
            assert await store.settle([Settlement(second[0])], LATER) == [False]

    async def test_a_backlog_is_had_whole_where_that_is_asked_for(self, place: Place, settings: Settings) -> None:
        """What is postponed comes too; what somebody owns does not."""
        async with place.open(settings) as store:
            for i in range(3):
                await store.defer("a", [host_part(f"{i}")], UnixNano(START + i * SECOND))
            first, second = await store.claim_deferred("a", LATER, 2)
            await store.postpone([(first, UnixNano(LATER + 3600 * SECOND))])
            assert [texts(p) for p in await store.read(await store.claim_deferred("a", LATER, 10))] == [["2"]]
            assert await store.claim_deferred("a", LATER, 10) == []
            (claim,) = await store.claim_deferred("a", LATER, 10, postponed=True)
            assert [texts(p) for p in await store.read([claim])] == [["0"]]
            assert await store.settle([Settlement(claim), Settlement(second)], LATER) == [True, True]
            assert store.stats().backlogs["a"].batches == 1

    async def test_a_full_store_still_defers(self, place: Place, settings: Settings) -> None:
        """What is deferred is held already, and settled next."""
        async with place.open(replace(settings, max_bytes=100)) as store:
            await store.append([host_part("x" * 90)], START)
            await store.defer("a", [host_part("x" * 90)], START)
            with pytest.raises(UnavailableError):
                await store.append([host_part("more", Key(bytes([7]) * 16))], START)
            await release(store)
            assert store.stats().bytes == 90
            with pytest.raises(UnavailableError):
                await store.append([host_part("x" * 20, Key(bytes([7]) * 16))], START)

    async def test_a_withdrawn_intent_is_void(self, place: Place, settings: Settings) -> None:
        """When no outcome stands any more, the next claim covers what came meanwhile and is no resend."""
        async with place.open(settings) as store:
            await store.append([host_part("one")], START)
            claim = await claim_one(store)
            await store.record([claim], "a", Outcome.INTENDED)
            await store.record([claim], "a", Outcome.WITHDRAWN)
            await store.append([host_part("two")], LATER)
            await store.postpone([(claim, LATER)])
            again = await claim_one(store)
            assert Outcome.INTENDED not in again.outcomes.values()
            assert [texts(p) for p in await store.read([again])] == [["one", "two"]]

    async def test_postponed_is_due_then_or_earlier(self, place: Place, settings: Settings) -> None:
        """A given time holds, unless a part that came during the claim or after it says an earlier one."""

        def at(seconds: int) -> UnixNano:
            return UnixNano(START + seconds * SECOND)

        async with place.open(settings) as store:
            await store.append([host_part()], START)
            claim = await claim_one(store, at(60))
            await store.postpone([(claim, at(70))])
            assert await store.claim(at(69), 10) == []
            claim = await claim_one(store, at(70))
            await store.append([host_part(facts=Facts.ROOT)], at(71))
            await store.postpone([(claim, at(500))])
            assert await store.claim(at(80), 10) == []
            claim = await claim_one(store, at(81))
            await store.postpone([(claim, at(500))])
            await store.append([host_part()], at(100))
            assert await store.claim(at(109), 10) == []
            claim = await claim_one(store, at(110))
            await store.postpone([(claim, at(111))])
            await store.append([host_part()], at(110))
            assert len(await store.claim(at(111), 10)) == 1

    async def test_too_large_a_trace_is_due_at_once(self, place: Place, settings: Settings) -> None:
        """A key that grows past max_trace_bytes is handed out without any wait."""
        async with place.open(replace(settings, max_trace_bytes=100)) as store:
            await store.append([host_part("x" * 60)], START)
            assert await store.claim(START, 10) == []
            await store.append([host_part("x" * 60)], UnixNano(START + 1))
            assert len(await store.claim(UnixNano(START + 1), 10)) == 1

    async def test_a_full_store_refuses_and_keeps_what_it_has(self, place: Place, settings: Settings) -> None:
        """Past max_bytes nothing of the request is taken; what a settlement frees can be used again."""
        async with place.open(replace(settings, max_bytes=100)) as store:
            await store.append([host_part("x" * 90)], START)
            before = store.stats()
            with pytest.raises(UnavailableError, match="full") as refusal:
                await store.append([host_part("y", OTHER), host_part("y" * 20), guest_part(host=HOST)], START)
            assert refusal.value.retry_after > 0
            assert store.stats() == replace(before, disk_bytes=store.stats().disk_bytes)
            assert await held_texts(store) == {HOST: ["x" * 90]}
            await release(store)
            await store.append([host_part("y" * 100)], LATER)

    async def test_concurrent_requests_are_all_stored(self, place: Place, settings: Settings) -> None:
        """However many come at once, each is whole when its append returns."""
        async with place.open(settings) as store:

            async def send(i: int) -> None:
                await store.append([host_part(f"{i}.{j}", Key(bytes([i]) * 16)) for j in range(3)], START)

            await asyncio.gather(*(send(i) for i in range(60)))
            held = await held_texts(store)
            assert held == {Key(bytes([i]) * 16): [f"{i}.{j}" for j in range(3)] for i in range(60)}

    async def test_a_guest_with_a_link_is_filed_under_its_host(self, place: Place, settings: Settings) -> None:
        """Whether the host has come or not, and for later parts that do not say it again."""
        async with place.open(settings) as store:
            await store.append([guest_part("1", host=HOST)], START)
            await store.append([guest_part("2"), host_part("h")], START)
            await store.append([guest_part("3", host=OTHER)], START)
            assert await held_texts(store) == {HOST: ["1", "2", "h", "3"]}

    async def test_a_link_brings_earlier_parts_along(self, place: Place, settings: Settings) -> None:
        """What waited under the guest's own key moves to the host in the append that brings the link."""
        async with place.open(settings) as store:
            await asyncio.gather(store.append([guest_part("1")], START), store.append([guest_part("2")], START))
            await store.append([guest_part("other", "trace_o")], START)
            await store.append([guest_part("3"), guest_part("4", host=HOST), guest_part("5")], START)
            assert await held_texts(store) == {guest_key("trace_o"): ["other"], HOST: ["1", "2", "3", "4", "5"]}
            assert store.stats().traces == 2

    async def test_a_link_that_comes_at_the_same_time_brings_them_too(self, place: Place, settings: Settings) -> None:
        """Concurrent requests of one guest end under one key, whichever of them had the link."""
        async with place.open(settings) as store:
            await asyncio.gather(
                *(store.append([guest_part(str(i), host=HOST if i == 2 else None)], START) for i in range(5))
            )
            held = await held_texts(store)
            assert {key: sorted(parts) for key, parts in held.items()} == {HOST: ["0", "1", "2", "3", "4"]}

    async def test_moved_parts_are_not_in_a_claim_that_never_saw_them(self, place: Place, settings: Settings) -> None:
        """An owner of the host settles what it read, and no part that was moved there meanwhile."""
        async with place.open(settings) as store:
            await store.append([guest_part("early")], START)
            await store.append([host_part("host", facts=Facts.ROOT)], START)
            (claim,) = [c for c in await store.claim(LATER, 10) if c.key == HOST]
            await store.append([guest_part("link", host=HOST)], LATER)
            assert [texts(p) for p in await store.read([claim])] == [["host"]]
            assert await store.settle([Settlement(claim)], LATER) == [True]
            assert await held_texts(store, LATER + LEASE) == {HOST: ["early", "link"]}

    async def test_a_guest_that_moved_away_is_nobodys(self, place: Place, settings: Settings) -> None:
        """The claim of a guest's key is void once its parts are placed under the host."""
        async with place.open(settings) as store:
            await store.append([guest_part("1")], START)
            claim = await claim_one(store)
            await store.append([guest_part("2", host=HOST)], LATER)
            assert await store.record([claim], "a", Outcome.INTENDED) == [False]
            assert await store.settle([Settlement(claim)], LATER) == [False]
            assert await held_texts(store) == {HOST: ["1", "2"]}

    async def test_what_may_have_left_is_not_moved(self, place: Place, settings: Settings) -> None:
        """Parts of which an export was begun stay where they are; only what came after them goes to the host."""
        async with place.open(settings) as store:
            await store.append([guest_part("1")], START)
            claim = await claim_one(store)
            assert await store.record([claim], "a", Outcome.INTENDED) == [True]
            await store.append([guest_part("2")], LATER)
            assert not await store.move(claim, HOST)
            await store.append([guest_part("3", host=HOST)], LATER)
            await store.record([claim], "a", Outcome.ACCEPTED)
            assert [texts(p) for p in await store.read([claim])] == [["1"]]
            assert await store.settle([Settlement(claim)], LATER) == [True]
            # What moved came at LATER, and its waits run from there.
            assert await held_texts(store, LATER + 10_000 * SECOND) == {HOST: ["2", "3"]}

    async def test_guests_of_a_released_host_wait_apart(self, place: Place, settings: Settings) -> None:
        """Until the host's memory ends, its late guests are placed under their own keys."""
        async with place.open(settings) as store:
            await store.append([host_part()], START)
            await release(store, Memory(HOST, b"m"))
            await store.append([guest_part("late", host=HOST)], LATER)
            assert list(await held_texts(store, LATER + 100 * SECOND)) == [guest_key("trace_g")]
            await store.append([guest_part("new", "trace_n", host=HOST)], UnixNano(LATER + 1000 * SECOND))
            assert HOST in await held_texts(store, LATER + 2000 * SECOND)

    async def test_a_remembered_link_files_late_parts(self, place: Place, settings: Settings) -> None:
        """A guest's memory names its host: later parts go there, even when they say another."""
        async with place.open(settings) as store:
            await store.append([guest_part("1", host=HOST)], START)
            await release(store, Memory(guest_key("trace_g"), b"g", HOST))
            await store.append([guest_part("2", host=OTHER)], LATER)
            claim = await claim_one(store, LATER + 1000 * SECOND)
            assert claim.key == HOST
            assert claim.state.guests["trace_g"].host == HOST

    async def test_apart_guests_stay_under_their_own_keys(self, place: Place, settings: Settings) -> None:
        """A store that was opened with guests_apart never files a guest under a host, unless told to."""
        async with place.open(replace(settings, guests_apart=True)) as store:
            await store.append([host_part("h"), guest_part("1", host=HOST)], START)
            await store.append([guest_part("2")], START)
            assert await held_texts(store) == {HOST: ["h"], guest_key("trace_g"): ["1", "2"]}
            claims = {claim.key: claim for claim in await store.claim(LATER, 10)}
            assert claims[guest_key("trace_g")].state.guests["trace_g"].host == HOST

    async def test_a_move_files_a_guest_from_now_on(self, place: Place, settings: Settings) -> None:
        """Parts that are held and parts that come later are the host's; the claim is spent."""
        async with place.open(settings) as store:
            await store.append([guest_part("1"), guest_part("2")], START)
            claim = await claim_one(store)
            assert await store.move(claim, HOST)
            assert not await store.move(claim, OTHER)
            await store.append([guest_part("3", host=OTHER)], LATER)
            moved = await claim_one(store, LATER + 1000 * SECOND)
            assert moved.key == HOST
            assert moved.state.guests["trace_g"].host == HOST
            assert [texts(p) for p in await store.read([moved])] == [["1", "2", "3"]]

    async def test_memories_end_by_time_and_by_number(self, place: Place, settings: Settings) -> None:
        """Past ``remember`` a memory is gone; past ``remember_limit`` the oldest go first; a new one replaces."""
        keys = [Key(bytes([i]) * 16) for i in range(6)]
        settings = replace(settings, waits=replace(settings.waits, remember_limit=4))
        async with place.open(settings) as store:
            for i, key in enumerate(keys):
                await store.append([host_part(key=key)], START)
                claim = await claim_one(store)
                memories = (Memory(key, bytes([i])), *([Memory(keys[2], b"new")] if i == 5 else []))
                assert await store.settle([Settlement(claim, memories)], UnixNano(LATER + i)) == [True]
            blobs = [m and m.blob for m in await store.recall(keys, LATER)]
            assert blobs == [None, None, b"new", b"\3", b"\4", b"\5"]
            assert store.stats().remembered == 4
            ends = UnixNano(LATER + 4 + settings.waits.remember)
            assert [m is not None for m in await store.recall(keys[3:], ends)] == [False, False, True]

    async def test_memories_tell_what_they_were_told(self, place: Place, settings: Settings) -> None:
        """Blob and host come back; an unknown key is None."""
        memory = Memory(guest_key("trace_g"), b"\x00blob", HOST)
        async with place.open(settings) as store:
            await store.append([host_part()], START)
            await release(store, memory)
            assert await store.recall([memory.key, OTHER], LATER) == [memory, None]
            assert await store.recall([], LATER) == []

    async def test_a_guest_moves_to_a_host_that_is_held(self, place: Place, settings: Settings) -> None:
        """Where that is asked for: a key under which nothing waits, or only guests do, holds no host part."""
        async with place.open(settings) as store:
            await store.append([guest_part("moves", "trace_m"), guest_part("waits", host=HOST)], START)
            claims = {claim.key: claim for claim in await store.claim(LATER, 10)}
            guest = claims[guest_key("trace_m")]
            assert not await store.move(guest, HOST, if_held=True)
            assert not await store.move(guest, OTHER, if_held=True)
            assert texts((await store.read([guest]))[0]) == ["moves"]
            await store.append([host_part("host")], LATER)
            assert await store.move(guest, HOST, if_held=True)
            await store.postpone([(claims[HOST], LATER)])
            assert sorted((await held_texts(store))[HOST]) == ["host", "moves", "waits"]

    async def test_stats_count_what_is_held(self, place: Place, settings: Settings) -> None:
        """Keys, spans, payload bytes, and the arrival of the oldest part, also after the oldest has gone."""
        async with place.open(settings) as store:
            await store.append([host_part("abc", spans=3, facts=Facts.ROOT)], START)
            await store.append([host_part("de", OTHER, spans=2)], UnixNano(START + 5))
            stats = store.stats()
            assert (stats.traces, stats.spans, stats.bytes, stats.oldest) == (2, 5, 5, START)
            await release(store, now=START + 11 * SECOND)
            stats = store.stats()
            assert (stats.traces, stats.spans, stats.bytes, stats.oldest) == (1, 2, 2, START + 5)

    async def test_dead_letters_are_kept_newest_first(self, place: Place, settings: Settings) -> None:
        """What a peer refused for good is there to be looked at."""
        letters = [DeadLetter(HOST, "otlp", f"why {i}", UnixNano(START + i), i, b"x" * i) for i in range(4)]
        async with place.open(settings) as store:
            assert await store.add_dead_letters(letters[:2]) == DeadLettersAdded(2)
            assert await store.add_dead_letters(letters[2:], together=True) == DeadLettersAdded(2)
            assert await store.add_dead_letters([]) == DeadLettersAdded(0)
            assert list(await store.dead_letters(2)) == [letters[3], letters[2]]
            assert list(await store.dead_letters(2, skip=1)) == [letters[2], letters[1]]
            assert list(await store.dead_letters(2, skip=1, oldest=True)) == [letters[1], letters[2]]
            assert await store.dead_letters(2, skip=4) == []
            assert len({letter.id for letter in await store.dead_letters(9)}) == 4

    async def test_a_dead_letter_is_removed_once(self, place: Place, settings: Settings) -> None:
        """Of those who remove it at the same time one is told that it did; the others stay, equal ones too."""
        letters = [DeadLetter(HOST, name, "why", START, 2, b"x") for name in ("a", "b", "b")]
        async with place.open(settings) as store:
            await store.add_dead_letters(letters)
            oldest, *_ = found = await store.dead_letters(9, oldest=True)
            said = await asyncio.gather(*(store.remove_dead_letters(found[:2]) for _ in range(3)))
            assert sorted(one for one, _ in said) == [False, False, True]
            left = await store.dead_letters(9)
            assert oldest.id not in {letter.id for letter in left}
            assert {letter.exporter for letter in left} <= {"b"}
            held = store.stats().dead_letters
            assert held.get("a", DeadLetterCounts(0, 0, 0)) == DeadLetterCounts(0, 0, 0)
            assert held.get("b", DeadLetterCounts(0, 0, 0)).letters == len(left)

    async def test_the_box_says_what_it_has(self, place: Place, settings: Settings) -> None:
        """Letters, spans and bytes by exporter."""
        async with place.open(settings) as store:
            await store.add_dead_letters([DeadLetter(HOST, "a", "why", START, 2, b"x" * 40)])
            await store.add_dead_letters([DeadLetter(HOST, "b", "why", START, n, b"x" * 100) for n in (3, 4)])
            held = store.stats().dead_letters
            assert {name: (of.letters, of.spans) for name, of in held.items()} == {"a": (1, 2), "b": (2, 7)}
            assert held["b"].bytes >= 200

    async def test_that_a_letter_is_being_sent_again_is_kept(self, place: Place, settings: Settings) -> None:
        """From the attempt's begin until it is known that nothing was taken; for each letter by itself."""
        async with place.open(settings) as store:
            await store.add_dead_letters([DeadLetter(HOST, "a", f"why {i}", START, 2, b"x") for i in range(2)])
            first, _ = await store.dead_letters(9, oldest=True)
            await store.record_retry([first], begun=True)
            await store.record_retry([first], begun=True)
            assert [one.retried for one in await store.dead_letters(9, oldest=True)] == [True, False]
            await store.record_retry([first], begun=False)
            assert [one.retried for one in await store.dead_letters(9)] == [False, False]

    async def test_an_empty_request_is_stored_too(self, place: Place, settings: Settings) -> None:
        """No parts, no change, no error."""
        async with place.open(settings) as store:
            await store.append([], START)
            assert store.stats().traces == 0
            assert await store.record([], "a", Outcome.INTENDED) == []
            assert await store.settle([], START) == []
            assert await store.read([]) == []

    async def test_a_mark_is_seen_until_its_time_is_over(self, place: Place, settings: Settings) -> None:
        """Only the id that was marked, from the append on; marked again it is seen for longer, never shorter."""
        async with place.open(settings) as store:
            assert await store.seen(["one", "two"], START) == [False, False]
            await store.append([host_part()], START, [DedupeKey("one", 100 * SECOND), DedupeKey("\ud800", SECOND)])
            assert await store.seen(["two", "one", "\ud800"], START) == [False, True, True]
            assert await store.seen(["one"], UnixNano(START + 100 * SECOND - 1)) == [True]
            assert await store.seen(["one"], UnixNano(START + 100 * SECOND)) == [False]
            await store.append(
                [], UnixNano(START + SECOND), [DedupeKey("one", 10 * SECOND), DedupeKey("\ud800", 10 * SECOND)]
            )
            later = UnixNano(START + 11 * SECOND - 1)
            assert await store.seen(["one", "\ud800"], later) == [True, True]
            assert await store.seen(["one"], UnixNano(START + 50 * SECOND)) == [True]
            assert await held_texts(store) == {HOST: ["part"]}

    async def test_what_is_refused_is_not_marked(self, place: Place, settings: Settings) -> None:
        """A full store takes neither the parts nor their key, so that the sender's repeat is no repeat."""
        async with place.open(replace(settings, max_bytes=100)) as store:
            with pytest.raises(UnavailableError):
                await store.append([host_part("x" * 200)], START, [DedupeKey("one", SECOND)])
            assert await store.seen(["one"], START) == [False]
            await store.append([host_part()], START, [DedupeKey("one", SECOND)])
            assert await store.seen(["one"], START) == [True]

    async def test_deliveries_at_once_are_each_stored(self, place: Place, settings: Settings) -> None:
        """One id that comes many times at once is one key, and every part is there: a reader tells equal ones apart."""
        async with place.open(settings) as store:
            appends = [store.append([host_part("same")], START, [DedupeKey("one", SECOND)]) for _ in range(20)]
            await asyncio.gather(*appends)
            assert await store.seen(["one"], START) == [True]
            assert set((await held_texts(store))[HOST]) == {"same"}


class DurableContract:
    """Claims about a store that outlives its process."""

    copies = 1

    async def test_a_restart_changes_nothing(self, place: Place, settings: Settings) -> None:
        """What was held, remembered and buried is there after a stop, and nothing else."""
        letter = DeadLetter(HOST, "otlp", "why", START, 1, b"x")
        async with place.open(settings) as store:
            await store.append([host_part("gone", OTHER, Facts.ROOT)], START)
            await release(store, Memory(OTHER, b"m"), now=START + 10 * SECOND)
            await store.append([guest_part("1"), host_part("h", facts=Facts.ROOT)], START)
            await store.append([guest_part("2", host=HOST, head=True)], UnixNano(START + 1))
            await store.add_dead_letters([letter])
            await store.record_retry(await store.dead_letters(1), begun=True)
            before = [replace(c, token=0) for c in await store.claim(LATER, 10)]
            held = store.stats()
        async with place.open(settings) as store:
            await store.recovered()
            after = await store.claim(LATER, 10)
            assert [replace(claim, token=0) for claim in after] == before
            assert [texts(parts) for parts in await store.read(after)] == [["h", "1", "2"]]
            stats = store.stats()
            assert (stats.traces, stats.spans, stats.bytes) == (held.traces, held.spans, held.bytes)
            assert (stats.recovered_spans, stats.remembered, stats.recovering) == (3, 1, False)
            assert (await store.recall([OTHER], START)) == [Memory(OTHER, b"m")]
            (found,) = await store.dead_letters(9)
            assert found == letter
            assert found.retried
            assert stats.dead_letters["otlp"].spans == 1

    @pytest.mark.parametrize("killed", [False, True])
    async def test_a_backlog_outlives_its_process(self, place: Place, settings: Settings, killed: bool) -> None:
        """With what is known of its exports, and for whom it waits, whoever that is."""
        async with place.open(settings) as store:
            await store.append([host_part("held")], START)
            await store.defer("a", [host_part("one"), host_part("two")], START)
            await store.defer("gone", [host_part("three")], START)
            (claim,) = await store.claim_deferred("a", LATER, 10)
            await store.record([claim], "a", Outcome.INTENDED)
            if not killed:
                await store.postpone([(claim, LATER)])
            crashed = place.crashed() if killed else None
        now = UnixNano(LATER + LEASE)
        async with (crashed or place).open(settings) as store:
            await store.recovered()
            stats = store.stats()
            assert (stats.traces, stats.spans) == (1, 1)
            assert {name: one.spans for name, one in stats.backlogs.items()} == {"a": 2, "gone": 1}
            claims = [*await store.claim(now, 10), *await store.claim_deferred("a", now, 10)]
            await store.postpone([(one, now) for one in claims if isinstance(one, Claim) and not one.waits_for])
            (claim,) = [one for one in claims if isinstance(one, Claim) and one.waits_for]
            assert (claim.waits_for, claim.outcomes["a"]) == ("a", Outcome.INTENDED)
            (parts,) = await store.read([claim])
            assert texts(parts) == ["one", "two"]
            assert await store.settle([Settlement(claim)], now) == [True]
            (other,) = await store.claim_deferred("gone", now, 10)
            assert await store.settle([Settlement(other)], now) == [True]
            assert store.stats().bytes == len("held")
        async with (crashed or place).open(settings) as store:
            await store.recovered()
            assert (store.stats().spans, sum(one.spans for one in store.stats().backlogs.values())) == (1, 0)

    async def test_a_killed_process_leaves_what_it_acknowledged(self, place: Place, settings: Settings) -> None:
        """Without a stop: parts, settlements and outcomes count; leases do not; an intent alone is unknown."""
        async with place.open(settings) as store:
            await store.append([host_part("a"), host_part("b", OTHER)], START)
            claims = {claim.key: claim for claim in await store.claim(LATER, 10)}
            await store.record(list(claims.values()), "x", Outcome.INTENDED)
            await store.record([claims[OTHER]], "x", Outcome.ACCEPTED)
            await store.settle([Settlement(claims[OTHER])], LATER)
            await store.append([host_part("c")], LATER)
            async with place.crashed().open(settings) as again:
                await again.recovered()
                claim = await claim_one(again, LATER + 60 * SECOND)
                assert claim.outcomes == {"x": Outcome.INTENDED}
                assert claim.up_to == claims[HOST].up_to
                assert [texts(p) for p in await again.read([claim])] == [["a"]]
                assert await again.settle([Settlement(claims[HOST])], LATER) == [False]
                assert await again.settle([Settlement(claim)], LATER) == [True]
                assert await held_texts(again, LATER + 60 * SECOND) == {HOST: ["c"]}

    async def test_a_mark_never_outlives_the_parts_that_came_with_it(self, place: Place, settings: Settings) -> None:
        """Killed at any moment: what is marked has its parts; what was acknowledged is marked."""
        async with place.open(settings) as store:
            appends = []
            for i in range(200):
                key = DedupeKey(f"id {i}", 1000 * SECOND)
                appends.append(asyncio.ensure_future(store.append([host_part(str(i))], START, [key])))
                await asyncio.sleep(0)
                if i % 40 == 39:
                    done = [n for n, one in enumerate(appends) if one.done()]
                    async with place.crashed().open(settings) as left:
                        seen = await left.seen([f"id {n}" for n in range(i + 1)], START)
                        await left.recovered()
                        held = set((await held_texts(left)).get(HOST, ()))
                        assert {str(n) for n, one in enumerate(seen) if one} <= held
                        assert all(seen[n] for n in done)
            await asyncio.gather(*appends)
        async with place.open(settings) as again:
            assert all(await again.seen([f"id {n}" for n in range(200)], START))

    async def test_the_moment_that_was_kept_is_not_gone_back_from(self, place: Place, settings: Settings) -> None:
        """After a stop and after a crash; a store that knows of none, or only of an earlier one, goes by a clock."""
        async with place.open(settings) as store:
            first = store.moment
            ahead = UnixNano(max(first, START) + 86_400 * SECOND)
            await store.keep_moment(ahead)
            place = place.crashed()
        async with place.open(settings) as store:
            assert store.moment == ahead
            await store.keep_moment(UnixNano(ahead - 172_800 * SECOND))
        async with place.open(settings) as store:
            assert first <= store.moment < ahead

    async def test_arrivals_rise_over_restarts_whatever_the_clock(self, place: Place, settings: Settings) -> None:
        """A clock that was set back does not let an old claim's bound cover new parts."""
        arrivals: list[int] = []
        for i in range(4):
            async with place.open(settings) as store:
                await store.append([host_part(str(i))], UnixNano(START - i * 1000 * SECOND))
                await store.recovered()
                claim = await claim_one(store)
                (parts,) = await store.read([claim])
                assert texts(parts) == [str(j) for j in range(i + 1)]
                assert [part.arrival for part in parts[:-1]] == arrivals
                arrivals = [part.arrival for part in parts]
        assert arrivals == sorted(set(arrivals))

    async def test_a_plain_batch_that_was_being_sent_at_a_crash(self, place: Place, settings: Settings) -> None:
        """After the restart each of its keys tells that an export was begun."""
        async with place.open(settings) as store:
            await store.append([host_part("root", key, Facts.ROOT) for key in (HOST, OTHER)], START)
            batch = await claim_plain(store)
            assert batch is not None
            await store.record(batch, "a", Outcome.INTENDED)
            left = place.crashed()
        async with left.open(settings) as store:
            await store.recovered()
            assert await claim_plain(store) is None
            claims = await claim_others(store, LATER, 10)
            assert {claim.key: claim.outcomes for claim in claims} == {
                HOST: {"a": Outcome.INTENDED},
                OTHER: {"a": Outcome.INTENDED},
            }

    async def test_a_large_envelope_is_there_and_counted_after_a_crash(self, place: Place, settings: Settings) -> None:
        """With parts of before and after, and half of them settled."""
        keys = [Key(bytes([i]) * 16) for i in range(8)]
        async with place.open(settings) as store:
            await store.append([Part(key, b"a", 1, LARGE, Facts.NONE, bytes(8)) for key in keys], START)
            claims = await claim_others(store, LATER, 4)
            assert all(await store.settle(settlements(claims), LATER))
            left = place.crashed()
        async with left.open(settings) as store:
            await store.recovered()
            await store.append([Part(key, b"b", 1, LARGE, Facts.NONE, bytes(8)) for key in keys[:2]], LATER)
            held = store.stats().bytes
            assert SIZE < held <= (1 + min(8, self.copies)) * (SIZE + 32)
            claims = await claim_others(store, UnixNano(LATER + LATER - START), 9)
            assert {part.envelope for parts in await store.read(claims) for part in parts} == {LARGE}
            assert all(await store.settle(settlements(claims), LATER))
            assert store.stats().bytes == 0

    async def test_the_doors_do_not_wait_for_the_recovery(self, place: Place, settings: Settings) -> None:
        """An append at the very start is taken, and is part of the same trace when the index is whole."""
        async with place.open(settings) as store:
            await store.append([host_part("old", facts=Facts.ROOT)], START)
        async with place.open(settings) as store:
            await store.append([host_part("new", spans=4), host_part("n", OTHER)], UnixNano(START + 1))
            await store.recovered()
            assert await held_texts(store) == {HOST: ["old", "new"], OTHER: ["n"]}
            claim = next(c for c in await store.claim(LATER, 9) if c.key == HOST)
            assert (claim.state.facts, claim.state.host_spans) == (Facts.ROOT, 5)

    @pytest.mark.parametrize("first_has_link", [True, False])
    async def test_a_link_holds_over_a_restart(self, place: Place, settings: Settings, first_has_link: bool) -> None:
        """A guest whose link stands on one side of a restart and whose parts stand on the other is one guest."""
        async with place.open(settings) as store:
            await store.append([guest_part("1", host=HOST if first_has_link else None)], START)
        async with place.open(settings) as store:
            await store.append([guest_part("2", host=None if first_has_link else HOST)], START)
            await store.recovered()
            # Filed under the host in the background: one more request is behind it.
            await store.append([host_part("h")], START)
            held = await held_texts(store)
            assert {key: sorted(parts) for key, parts in held.items()} == {HOST: ["1", "2", "h"]}


def settlements(claims: Sequence[Claim]) -> list[Settlement]:
    return [Settlement(claim) for claim in claims]
