"""Which keys leave in batches: those of which the core says the same one by one, whatever the waits and the clock."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grafter.core.lifecycle import Release, ReleaseReason, step_host
from grafter.core.model import Facts, Key, Part, UnixNano
from grafter.core.policy import GraftPolicy, Waits
from grafter.core.state import TraceState, guest_state
from grafter.guests.sources import RULES
from grafter.store.embedded import opening as embedded
from grafter.store.model import Claim, Memory, PlainBatch, PlainLimits, PlainSettlement, Settlement
from tests.store.contract import ENVELOPE, LEASE, START, guest_part

KEYS = [Key(bytes([i]) * 16) for i in range(1, 6)]
MAX_TRACE_BYTES = 30

waits = st.builds(
    Waits,
    after_root=st.integers(0, 12),
    for_guest=st.integers(0, 12),
    guest_quiet=st.integers(0, 6),
    local_root=st.integers(0, 12),
    idle=st.integers(1, 12),
    max=st.integers(1, 20),
    remember=st.just(1 << 60),
    remember_limit=st.just(1000),
)
host_part = st.tuples(
    st.sampled_from(KEYS),
    st.sampled_from([Facts.ROOT, Facts.ROOT, Facts.ROOT, Facts.NONE, Facts.LOCAL_ROOT, Facts.ANCHOR]),
    st.integers(1, 12),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.one_of(host_part, st.sampled_from(KEYS)), min_size=1, max_size=4)),
        st.tuples(st.just("pass"), st.sampled_from([0, 1, 2, 3, 5, 8, 13, -4])),
        st.tuples(st.just("look"), st.booleans()),
    ),
    max_size=25,
)


@settings(suppress_health_check=list(HealthCheck))
@given(waits=waits, steps=steps)
async def test_a_plain_batch_has_what_the_core_calls_complete(waits: Waits, steps: list[tuple[str, object]]) -> None:
    """Exactly the plain traces that would be released as complete; whatever else is to be released, a claim brings."""
    policy = GraftPolicy(waits=waits, max_trace_bytes=MAX_TRACE_BYTES)
    now = int(START)
    held: dict[Key, list[tuple[int, Part]]] = {}
    remembered: set[Key] = set()
    given_back: set[Key] = set()

    def state(key: Key) -> TraceState:
        parts = held[key]
        facts, host, guests = 0, 0, []
        for at, part in parts:
            if part.guest is None:
                facts |= int(part.facts)
                host += part.spans
            else:
                guests.append((part.guest, UnixNano(at)))
        times = [at for at, _ in parts]
        size = sum(len(part.payload) for _, part in parts)
        spans = UnixNano(min(times)), UnixNano(max(times))
        return TraceState(*spans, host, len(guests), size, Facts(facts), guest_state(guests), key in remembered)

    async with embedded.opened(
        None,
        waits=waits,
        max_bytes=1 << 30,
        max_trace_bytes=MAX_TRACE_BYTES,
        lease_ns=LEASE,
        guests_apart=False,
    ) as store:
        for what, how in [*steps, ("pass", 1000), ("look", True)]:
            if what == "append":
                parts = []
                for one in how:  # type: ignore[attr-defined]
                    if isinstance(one, bytes):
                        if one in remembered:
                            continue  # it would be placed under its own key
                        parts.append(guest_part("g", f"trace_{one.hex()}", Key(one)))
                        held.setdefault(Key(one), []).append((now, parts[-1]))
                    else:
                        key, facts, size = one
                        parts.append(Part(key, b"x" * size, 1, ENVELOPE, facts, b"s" * 8))
                        held.setdefault(key, []).append((now, parts[-1]))
                await store.append(parts, UnixNano(now))
                continue
            if what == "pass":
                now += how  # type: ignore[operator]
                continue
            decided = {key: step_host(state(key), UnixNano(now), policy, RULES) for key in held}
            leave = {key for key, decision in decided.items() if isinstance(decision, Release)}
            plain = {
                key
                for key in leave - remembered - given_back
                if decided[key] == Release(ReleaseReason.COMPLETE)
                and not state(key).guests
                and not state(key).facts & Facts.ANCHOR
            }
            every = await store.claim(UnixNano(now), 1000, PlainLimits(1000, 1 << 20, 1 << 20))
            batch = next((one for one in every if isinstance(one, PlainBatch)), None)
            batched = set() if batch is None else set(batch.keys)
            claims = [one for one in every if isinstance(one, Claim)]
            claimed = {claim.key for claim in claims}
            assert batched == plain
            assert not claimed & batched
            # What was due at its arrival is due then, also when the clock has been turned back since.
            assert {key for key in leave if now >= held[key][-1][0]} <= claimed | batched
            if batch is not None:
                assert await store.settle(PlainSettlement(batch, [b"m"] * len(batch.keys)), UnixNano(now)) == [True]
            for claim in claims:
                decision = decided[claim.key]
                if isinstance(decision, Release):
                    memory = Memory(claim.key, b"m")
                    assert await store.settle([Settlement(claim, (memory,))], UnixNano(now)) == [True]
                else:
                    given_back.add(claim.key)
                    await store.postpone([(claim, decision.until)])
            for key in leave & (claimed | batched):
                del held[key]
                remembered.add(key)
            given_back &= set(held)
        assert store.stats().traces == 0
