"""Any order of appends, claims, exports, settlements, moves and crashes, against a model that is plain lists.

The model says what the contract says, in the simplest words that are still exact, and the store has to agree after
every step: no acknowledged part is lost, no settled part comes back, no key has two owners.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from grafter.core.calls import CallNote
from grafter.core.model import Facts, GuestFacts, Key, Part, Source, SpanId, TraceId, UnixNano, guest_key
from grafter.core.policy import SECOND
from grafter.core.state import TraceState, guest_state
from grafter.errors import UnavailableError
from grafter.store.model import Claim, Memory, Outcome, PlainBatch, PlainLimits, PlainSettlement, Settlement
from tests.due_times import due_at
from tests.store import contract
from tests.store.contract import ENVELOPE, LEASE, START, Opened, Place, Settings

HOSTS = [Key(bytes([i]) * 16) for i in (1, 2)]
GUESTS = ["trace_a", "trace_b"]
EXPORTERS = ["x", "y"]
SETTLED_TOGETHER = 4
"""Memories of one settlement at most, of which a store may have those that were replaced for as long as the others."""
WAITS = replace(contract.WAITS, remember=200 * SECOND, remember_limit=3)


@dataclass(eq=False)
class HeldPart:
    part: Part
    now: int
    arrived: int


@dataclass(eq=False)
class HeldKey:
    parts: list[HeldPart] = field(default_factory=list)
    seen: int = 0
    remembered: bool = False
    given: int | None = None
    lease: int | None = None
    owner: int = -1
    fresh: bool = False
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    pinned: list[HeldPart] = field(default_factory=list)

    @property
    def stands(self) -> bool:
        return any(outcome is not Outcome.WITHDRAWN for outcome in self.outcomes.values())

    @property
    def covered(self) -> list[HeldPart]:
        return list(self.pinned if self.stands else self.parts)


@dataclass
class Handed:
    """A claim that was handed out at some time, and what it covers."""

    number: int
    claim: Claim
    covers: list[HeldPart]


@dataclass(eq=False)
class Batched:
    """A plain batch that was handed out, what it covers of each key, and until when it is whole."""

    number: int
    batch: PlainBatch
    covers: dict[Key, list[HeldPart]]
    lease: int
    whole: bool = True


class Model:
    """What a store holds."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys: dict[Key, HeldKey] = {}
        self.links: dict[Key, tuple[int, Key]] = {}
        """Of each held guest: since which arrival it is known (-1: by a memory), and the host."""
        self.memories: dict[Key, tuple[int, Memory]] = {}
        self.arrived = 0

    def remembers(self, key: Key, now: int) -> Memory | None:
        at, memory = self.memories.get(key, (0, None))
        return memory if memory is not None and now < at + self.settings.waits.remember else None

    def parts_of(self, guest: Key) -> list[tuple[Key, HeldPart]]:
        return [(key, p) for key, held in self.keys.items() for p in held.parts if p.part.key == guest and p.part.guest]

    def released(self, host: Key, now: int) -> bool:
        return self.keys[host].remembered if host in self.keys else self.remembers(host, now) is not None

    def key(self, key: Key, now: int) -> HeldKey:
        if key not in self.keys:
            self.keys[key] = HeldKey(remembered=self.remembers(key, now) is not None)
        return self.keys[key]

    def append(self, parts: list[Part], now: int) -> None:
        for part in parts:
            if part.guest is None:
                continue
            if not self.parts_of(part.key) and part.key not in self.links:
                memory = self.remembers(part.key, now)
                if memory is not None and memory.host is not None:
                    self.links[part.key] = (-1, memory.host)
            if part.key not in self.links and part.guest.host is not None:
                self.links[part.key] = (self.arrived, Key(part.guest.host))
        places = {}
        for own in {part.key: part for part in parts if part.guest is not None}:
            link = self.links.get(own)
            if link is None or self.settings.guests_apart:
                continue
            left_behind = any(key == link[1] for key, _ in self.parts_of(own))
            if left_behind or not self.released(link[1], now):
                places[own] = link[1]
                self.move(own, link[1], now)
        for part in parts:
            key = places.get(part.key, part.key)
            held = self.key(key, now)
            held.parts.append(self.arrive(part, now))
            held.seen = now
            if held.lease is not None:
                held.fresh = True
            elif held.given is not None:
                held.given = min(held.given, self.due_by_waits(key))

    def arrive(self, part: Part, now: int) -> HeldPart:
        self.arrived += 1
        return HeldPart(part, now, self.arrived)

    def move(self, guest: Key, host: Key, now: int) -> None:
        held = self.keys.get(guest)
        if held is None:
            return
        staying = held.pinned if held.stands else []
        moving = [p for p in held.parts if p not in staying]
        if not moving:
            return
        is_new = host not in self.keys
        target = self.key(host, moving[0].now)
        for p in moving:
            held.parts.remove(p)
            target.parts.append(p)
            self.arrived += 1
            p.arrived = self.arrived
        last = max(p.now for p in moving)
        target.seen = last if is_new else max(target.seen, last)
        if target.lease is not None:
            target.fresh = True
        if not held.parts:
            del self.keys[guest]

    def state(self, key: Key) -> TraceState:
        held = self.keys[key]
        hosts = [p for p in held.parts if p.part.guest is None]
        guests = [p for p in held.parts if p.part.guest is not None]
        facts = Facts.NONE
        for p in hosts:
            facts |= p.part.facts
        states = guest_state([(p.part.guest, UnixNano(p.now)) for p in guests if p.part.guest is not None])
        for name, state in states.items():
            link = self.links.get(guest_key(name))
            if link is not None and state.host != TraceId(link[1]):
                state.host, state.sampled = TraceId(link[1]), None
        return TraceState(
            UnixNano(min(p.now for p in held.parts)),
            UnixNano(max(p.now for p in held.parts)),
            sum(p.part.spans for p in hosts),
            sum(p.part.spans for p in guests),
            sum(len(p.part.payload) for p in held.parts),
            facts,
            states,
            held.remembered,
        )

    def due_by_waits(self, key: Key) -> int:
        held, state = self.keys[key], self.state(key)
        if state.bytes > self.settings.max_trace_bytes:
            return held.seen
        remembered = held.remembered or self.settings.guests_apart
        return due_at(
            replace(state, last=held.seen), self.settings.waits, remembered=remembered, own_key=len(key) == 17
        )

    def due(self, key: Key) -> int:
        held = self.keys[key]
        if held.lease is not None:
            return held.lease
        return held.given if held.given is not None else self.due_by_waits(key)

    def settle(self, key: Key, covers: list[HeldPart], memories: list[Memory], now: int) -> None:
        held = self.keys[key]
        held.parts = [p for p in held.parts if p not in covers]
        held.lease, held.owner, held.fresh, held.given = None, -1, False, now
        held.outcomes, held.pinned = {}, []
        if not held.parts:
            del self.keys[key]
        for guest in {p.part.key for p in covers if p.part.guest is not None}:
            if not self.parts_of(guest):
                self.links.pop(guest, None)
            elif guest in self.links and self.links[guest][0] != -1:
                self.relink(guest)
        for memory in memories:
            self.memories.pop(memory.key, None)
            self.memories[memory.key] = (now, memory)
            if memory.key in self.keys:
                self.keys[memory.key].remembered = True
            if memory.host is not None and self.parts_of(memory.key):
                self.links[memory.key] = (-1, memory.host)
        for old, (at, _) in list(self.memories.items()) if memories else []:
            if len(self.memories) <= self.settings.waits.remember_limit and now < at + self.settings.waits.remember:
                break
            del self.memories[old]

    def relink(self, guest: Key) -> None:
        """Of what is held the earliest part that says so counts: by where it is placed, or by its own words."""
        self.links.pop(guest, None)
        for key, p in sorted(self.parts_of(guest), key=lambda x: x[1].arrived):
            host = key if key != guest else p.part.guest and p.part.guest.host
            if host is not None:
                self.links[guest] = (p.arrived, Key(host))
                return

    def left(self) -> None:
        """A process that shared the store with others is gone, and so are its leases; all else is as it was."""
        for held in self.keys.values():
            if held.lease is not None:
                held.lease, held.owner, held.fresh = None, -1, False

    def crash(self, now: int) -> None:
        for key, held in self.keys.items():
            held.lease, held.owner, held.fresh, held.given = None, -1, False, None
            held.seen = max(p.now for p in held.parts)
            held.remembered = self.remembers(key, now) is not None
        for guest in map(guest_key, GUESTS):
            self.relink(guest)
            memory = self.remembers(guest, now)
            if memory is not None and memory.host is not None and self.parts_of(guest):
                self.links[guest] = (-1, memory.host)


host_parts = st.builds(
    lambda key, facts, spans: (key, facts, spans),
    st.sampled_from(HOSTS),
    st.sampled_from([Facts.NONE, Facts.NONE, Facts.ROOT, Facts.ANCHOR]),
    st.integers(1, 3),
)
ids = st.sampled_from([(), (SpanId(b"11111111"),), (SpanId(b"22222222"), SpanId(b"33333333"))])
guest_parts = st.builds(
    GuestFacts,
    guest=st.sampled_from(GUESTS),
    source=st.just(Source.SDK),
    host=st.sampled_from([None, None, *map(TraceId, HOSTS)]),
    sampled=st.sampled_from([None, True, False]),
    how=st.sampled_from(["", "api"]),
    head=st.booleans(),
    ids=ids,
    parents=ids,
)


def machine(
    place: Callable[[], Place], *, apart: bool, durable: bool, shared: bool = False
) -> type[RuleBasedStateMachine]:
    """A state machine over the places that ``place`` makes; in a ``shared`` one a process's end is nothing but that."""

    class StoreMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.now = int(START)
            self.settings = Settings(
                waits=WAITS, max_bytes=1500, max_trace_bytes=300, guests_apart=apart, now=lambda: self.now
            )
            self.model = Model(self.settings)
            self.handed: list[Handed] = []
            self.batches: list[Batched] = []
            self.place = place()
            self.number = 0
            self.links: dict[str, str] = {}

        @initialize()
        def begin(self) -> None:
            self.opening = self.place.open(self.settings)
            self.store: Opened = self.run(self.opening.__aenter__())

        def run(self, coroutine: Any) -> Any:
            return self.runner.run(coroutine)

        def teardown(self) -> None:
            self.run(self.opening.__aexit__(None, None, None))
            self.runner.close()

        def owned(self, handed: Handed) -> bool:
            held = self.model.keys.get(handed.claim.key)
            return held is not None and held.lease is not None and held.owner == handed.number

        @rule(items=st.lists(st.one_of(host_parts, guest_parts), min_size=1, max_size=3), size=st.integers(8, 60))
        def append(self, items: list[Any], size: int) -> None:
            parts = []
            for item in items:
                self.number += 1
                payload = f"{self.number:08d}".encode().ljust(size, b".")
                if isinstance(item, GuestFacts):
                    parts.append(Part(guest_key(item.guest), payload, 1, guest=item))
                else:
                    key, facts, spans = item
                    parts.append(Part(key, payload, spans, ENVELOPE, facts, b"s" * 8 * spans))
            held = sum(len(p.part.payload) for key in self.model.keys.values() for p in key.parts)
            if held + size * len(parts) > self.settings.max_bytes:
                with pytest.raises(UnavailableError):
                    self.run(self.store.append(parts, UnixNano(self.now)))
                return
            self.model.append(parts, self.now)
            self.run(self.store.append(parts, UnixNano(self.now)))

        @rule(guest=st.sampled_from(GUESTS), link=st.sampled_from("ab"))
        def name(self, guest: str, link: str) -> None:
            """The first link that is noted of a guest stands, whatever happens to its parts."""
            self.links.setdefault(guest, link)
            self.run(self.store.put_calls([CallNote(guest, START, link=link)], START))
            self.find_links()

        def find_links(self) -> None:
            found = self.run(self.store.find_calls(GUESTS, START))
            assert {one.call_id: one.link for one in found if one is not None} == self.links

        @rule(seconds=st.sampled_from([0, 1, 5, 7, 11, 61, 250, -3]))
        def pass_time(self, seconds: int) -> None:
            self.now += seconds * SECOND

        @rule(limit=st.integers(1, 5))
        def claim(self, limit: int) -> None:
            due = {key: self.model.due(key) for key in self.model.keys}
            ready = sorted(at for at in due.values() if at <= self.now)
            self.end_leases()
            claims = self.run(self.store.claim(UnixNano(self.now), limit))
            assert [due[claim.key] for claim in claims] == ready[:limit]
            self.take(claims)

        def end_leases(self) -> None:
            for out in self.batches:
                out.whole = out.whole and out.lease > self.now

        def is_plain(self, key: Key) -> bool:
            held, state = self.model.keys[key], self.model.state(key)
            return (
                len(key) == 16
                and not state.guests
                and state.facts & (Facts.ROOT | Facts.ANCHOR) == Facts.ROOT
                and not (held.remembered or held.outcomes or self.settings.guests_apart)
                and held.lease is None
                and held.given is None
                and state.bytes <= self.settings.max_trace_bytes
                and state.last + WAITS.after_root <= min(self.now, state.first + WAITS.max)
            )

        @rule(traces=st.integers(1, 3))
        def claim_plain(self, traces: int) -> None:
            """One claim hands out each due key once, in a batch nothing but plain ones, and among the others none.

            Behind a batch that ends at a limit some may be left for the next claim.
            """
            due = {key for key in self.model.keys if self.model.due(key) <= self.now}
            plain = {key for key in due if self.is_plain(key)}
            self.end_leases()
            limits = PlainLimits(traces, 1000, 1 << 20)
            claims = self.run(self.store.claim(UnixNano(self.now), 100, limits))
            full = False
            if claims and isinstance(claims[0], PlainBatch):
                batch, *claims = claims
                assert set(batch.keys) <= plain
                assert len(set(batch.keys)) == len(batch.keys) <= traces
                out = Batched(-2 - len(self.batches), batch, {}, self.now + LEASE)
                for key, count in zip(batch.keys, batch.counts, strict=True):
                    held = self.model.keys[key]
                    out.covers[key] = list(held.parts)
                    assert count == sum(p.part.spans for p in held.parts)
                    held.lease, held.owner, held.fresh, held.given = out.lease, out.number, False, None
                self.batches.append(out)
                self.read_batch(out)
                full = batch.more or len(batch.keys) == traces
                plain -= set(batch.keys)
                due -= set(batch.keys)
            others = {claim.key for claim in claims}
            assert others <= due - plain if full else others == due
            self.take(claims)

        def read_batch(self, out: Batched) -> None:
            read = self.run(self.store.read(out.batch))
            for key, (payloads, envelopes, ids, root) in zip(out.batch.keys, read, strict=True):
                parts = [p.part for p in out.covers[key]]
                assert payloads == [part.payload for part in parts]
                assert ids == [part.span_ids for part in parts]
                assert set(envelopes) == {ENVELOPE}
                assert Facts.ROOT in parts[root].facts
                assert not any(Facts.ROOT in part.facts for part in parts[:root])

        @precondition(lambda self: self.batches)
        @rule(intend=st.booleans(), end=st.sampled_from(["settle", "split", "renew", "read", "leave"]))
        def end_batch(self, intend: bool, end: str) -> None:
            out = self.batches[-1]
            now = UnixNano(self.now)
            if intend:
                assert self.run(self.store.record(out.batch, "x", Outcome.INTENDED)) == [out.whole]
                for key, covers in out.covers.items() if out.whole else ():
                    self.model.keys[key].outcomes["x"] = Outcome.INTENDED
                    self.model.keys[key].pinned = covers
            if end == "settle":
                blobs = [b"key"] * len(out.batch.keys)
                assert self.run(self.store.settle(PlainSettlement(out.batch, blobs), now)) == [out.whole]
                for key, covers in out.covers.items() if out.whole else ():
                    self.model.settle(key, covers, [Memory(key, b"key")], self.now)
                out.whole = False
            elif end == "split":
                claims = self.run(self.store.split(out.batch))
                assert [claim.key for claim in claims] == (out.batch.keys if out.whole else [])
                self.take(claims, out)
                out.whole = False
            elif end == "renew":
                self.run(self.store.renew(out.batch, now))
                if out.whole:
                    out.lease = self.now + LEASE
                    for key in out.covers:
                        self.model.keys[key].lease = out.lease
            elif end == "read" and out.whole:
                self.read_batch(out)

        def take(self, claims: list[Claim], members: Batched | None = None) -> None:
            assert len({claim.key for claim in claims}) == len(claims)
            for claim in claims:
                held = self.model.keys[claim.key]
                assert claim.state == self.model.state(claim.key)
                assert claim.outcomes == held.outcomes
                if members is not None:
                    handed = Handed(len(self.handed), claim, members.covers[claim.key])
                    held.owner = handed.number
                else:
                    handed = Handed(len(self.handed), claim, held.covered)
                    held.lease, held.owner, held.fresh, held.given = self.now + LEASE, handed.number, False, None
                self.handed.append(handed)
                self.check_read(handed)

        def check_read(self, handed: Handed) -> None:
            (parts,) = self.run(self.store.read([handed.claim]))
            assert [(p.payload, p.spans, p.guest) for p in parts] == [
                (p.part.payload, p.part.spans, p.part.guest) for p in handed.covers
            ]
            assert all(p.envelope == ENVELOPE for p in parts if p.guest is None)
            arrivals = [p.arrival for p in parts]
            assert arrivals == sorted(set(arrivals))
            assert all(arrival <= handed.claim.up_to for arrival in arrivals)

        def some(self, which: int) -> Handed:
            """Mostly one of the latest claims; sometimes one that is long lost."""
            return self.handed[-1 - which % min(len(self.handed), 6)]

        @precondition(lambda self: self.handed)
        @rule(which=st.integers(0, 5))
        def read(self, which: int) -> None:
            handed = self.some(which)
            if self.owned(handed) and all(p in self.model.keys[handed.claim.key].parts for p in handed.covers):
                self.check_read(handed)

        @precondition(lambda self: self.handed)
        @rule(which=st.integers(0, 5), seconds=st.sampled_from([0, 5, 30, 100]))
        def postpone(self, which: int, seconds: int) -> None:
            handed = self.some(which)
            due = self.now + seconds * SECOND
            if self.owned(handed):
                held = self.model.keys[handed.claim.key]
                held.lease, held.owner = None, -1
                held.given = min(due, self.model.due_by_waits(handed.claim.key)) if held.fresh else due
                held.fresh = False
            self.run(self.store.postpone([(handed.claim, UnixNano(due))]))

        @precondition(lambda self: self.handed)
        @rule(which=st.integers(0, 5))
        def renew(self, which: int) -> None:
            handed = self.some(which)
            if self.owned(handed):
                self.model.keys[handed.claim.key].lease = self.now + LEASE
            self.run(self.store.renew([handed.claim], UnixNano(self.now)))

        @precondition(lambda self: self.handed)
        @rule(
            which=st.integers(0, 5),
            exporter=st.sampled_from(EXPORTERS),
            outcome=st.sampled_from([Outcome.INTENDED, *Outcome]),
        )
        def export(self, which: int, exporter: str, outcome: Outcome) -> None:
            handed = self.some(which)
            owned = self.owned(handed)
            if owned:
                held = self.model.keys[handed.claim.key]
                if not held.stands:
                    held.pinned = list(handed.covers)
                held.outcomes[exporter] = outcome
            assert self.run(self.store.record([handed.claim], exporter, outcome)) == [owned]

        @precondition(lambda self: self.handed)
        @rule(which=st.integers(0, 5), remember=st.booleans())
        def settle(self, which: int, remember: bool) -> None:
            handed = self.some(which)
            owned = self.owned(handed)
            memories = []
            if remember:
                memories = [Memory(handed.claim.key, b"key")]
                for name in handed.claim.state.guests:
                    guest = guest_key(name)
                    link = self.model.links.get(guest)
                    if guest != handed.claim.key:
                        memories.append(Memory(guest, b"guest", link[1] if link is not None else None))
            settlement = Settlement(handed.claim, tuple(memories))
            assert self.run(self.store.settle([settlement], UnixNano(self.now))) == [owned]
            if owned:
                self.model.settle(handed.claim.key, handed.covers, memories, self.now)

        @precondition(lambda self: self.handed)
        @rule(which=st.integers(0, 5), host=st.sampled_from(HOSTS), if_held=st.booleans())
        def move(self, which: int, host: Key, if_held: bool) -> None:
            handed = self.some(which)
            key = handed.claim.key
            if key in self.model.links:
                host = self.model.links[key][1]
            possible = self.owned(handed) and len(key) == 17 and not self.model.keys[key].stands
            if if_held and host in self.model.keys:
                possible = possible and any(p.part.guest is None for p in self.model.keys[host].parts)
            elif if_held:
                possible = False
            assert self.run(self.store.move(handed.claim, host, if_held=if_held)) == possible
            if possible:
                self.model.move(key, host, self.now)
                self.model.links[key] = (self.model.arrived, host)

        @precondition(lambda self: durable)
        @rule(clean=st.booleans())
        def restart(self, clean: bool) -> None:
            after = self.place if clean else self.place.crashed()
            self.run(self.opening.__aexit__(None, None, None))
            self.place = after
            self.opening = self.place.open(self.settings)
            self.store = self.run(self.opening.__aenter__())
            self.run(self.store.recovered())
            if shared:
                self.model.left()
            else:
                self.model.crash(self.now)
            for out in self.batches:
                out.whole = False
            self.find_links()

        @invariant()
        def sums_agree(self) -> None:
            stats = self.store.stats()
            parts = [p for held in self.model.keys.values() for p in held.parts]
            assert stats.traces == len(self.model.keys)
            assert stats.spans == sum(p.part.spans for p in parts)
            assert stats.bytes == sum(len(p.part.payload) for p in parts)
            assert stats.oldest == min((p.now for p in parts), default=None)
            assert stats.remembered == len(self.model.memories)
            kept = sum(len(memory.key) + len(memory.blob) for _, memory in self.model.memories.values())
            assert kept <= stats.remembered_bytes <= kept + 60 * (len(self.model.memories) + SETTLED_TOGETHER)
            if not kept:
                assert stats.remembered_bytes == 0
            keys = [*HOSTS, *map(guest_key, GUESTS)]
            recalled = self.run(self.store.recall(keys, UnixNano(self.now)))
            assert recalled == [self.model.remembers(key, self.now) for key in keys]

    StoreMachine.TestCase.settings = settings(
        max_examples=15, stateful_step_count=30, suppress_health_check=list(HealthCheck), deadline=None
    )
    return StoreMachine
