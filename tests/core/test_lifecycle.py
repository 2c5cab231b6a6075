"""When a trace leaves: each rule by itself, a long call on a fake clock, and what holds for every order of arrival."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from grafter.core.lifecycle import (
    Decision,
    Release,
    ReleaseReason,
    Wait,
    due_kind,
    due_table,
    step_guest,
    step_host,
    whole_at,
)
from grafter.core.model import Facts, GuestFacts, Source, SpanId, TraceId, UnixNano
from grafter.core.policy import HOUR, MINUTE, SECOND, GraftPolicy, Mode, Unlinked, Waits
from grafter.core.state import GuestState, TraceState
from grafter.guests.sources import RULES
from tests.due_times import due_at

HOST = TraceId(bytes(range(1, 17)))
T0 = UnixNano(1_790_000_000 * SECOND)
POLICY = GraftPolicy()
WAITS = POLICY.waits


def at(seconds: float) -> UnixNano:
    return UnixNano(T0 + int(seconds * SECOND))


def span_id(number: int) -> SpanId:
    return SpanId((number + 1).to_bytes(8))


def guest_part(
    *ids: int,
    parents: Sequence[int] = (),
    head: bool = False,
    top_level: bool = False,
    ended: bool = False,
    guest: str = "trace_a",
    source: Source = Source.SDK,
    host: TraceId | None = HOST,
) -> GuestFacts:
    return GuestFacts(
        guest=guest,
        source=source,
        host=host,
        head=head,
        top_level=top_level,
        ids=tuple(span_id(i) for i in ids),
        parents=tuple(span_id(i) for i in parents),
        ended=ended,
    )


@dataclass(frozen=True)
class HostPart:
    """What one host part adds to a state."""

    facts: Facts = Facts.NONE
    spans: int = 1
    bytes: int = 500


def state_of(*parts: tuple[float, HostPart | GuestFacts], remembered: bool = False) -> TraceState:
    """The state after these parts, each with the second of its arrival."""
    moments = [at(second) for second, _ in parts]
    state = TraceState(min(moments), max(moments), remembered=remembered)
    for second, part in parts:
        absorb(state, part, at(second))
    return state


def absorb(state: TraceState, part: HostPart | GuestFacts, now: UnixNano) -> None:
    state.first, state.last = min(state.first, now), max(state.last, now)
    if isinstance(part, GuestFacts):
        state.guest_spans += len(part.ids)
        state.absorb_guest(part, now)
    else:
        state.host_spans += part.spans
        state.bytes += part.bytes
        state.facts |= part.facts


def outcome(state: TraceState, policy: GraftPolicy = POLICY) -> tuple[ReleaseReason, float]:
    """The reason for which a host's trace leaves if nothing more comes, and the second in which it does."""
    return _outcome(lambda now: step_host(state, now, policy, RULES), state.last)


def guest_outcome(
    state: TraceState, policy: GraftPolicy = POLICY, *, host_released: bool = False, anchor_known: bool = False
) -> tuple[ReleaseReason, float]:
    return _outcome(
        lambda now: step_guest(state, now, policy, RULES, host_released=host_released, anchor_known=anchor_known),
        state.last,
    )


def _outcome(step, last: UnixNano) -> tuple[ReleaseReason, float]:
    now = last
    for _ in range(10):
        decision: Decision = step(now)
        if isinstance(decision, Release):
            return decision.reason, (now - T0) / SECOND
        assert decision.until > now
        just_before = step(UnixNano(decision.until - 1))
        assert just_before == decision, "the answer changed before the moment that it named"
        now = decision.until
    raise AssertionError("never released")


ROOT = HostPart(Facts.ROOT)
ANCHOR = HostPart(Facts.ANCHOR)
PLAIN = HostPart()
WHOLE_GUEST = guest_part(1, 2, parents=[1], head=True, top_level=True)
OPEN_GUEST = guest_part(2, parents=[1], head=True)
MOVING = guest_part(source=Source.OTLP, head=True, guest="moved")
MOVED = guest_part(source=Source.OTLP, head=True, top_level=True, guest="moved")


@pytest.mark.parametrize(
    ("state", "reason", "second"),
    [
        pytest.param(state_of((0, ROOT)), "complete", 10, id="a root and nobody else expected"),
        pytest.param(state_of((0, ROOT), (7, PLAIN)), "complete", 17, id="after_root runs from the last part"),
        pytest.param(state_of((0, ROOT), (0, WHOLE_GUEST)), "complete", 10, id="a whole guest needs no more time"),
        pytest.param(state_of((0, ROOT), (0, OPEN_GUEST)), "guest_timeout", 40, id="a parent of the guest is missing"),
        pytest.param(state_of((0, ROOT), (9, OPEN_GUEST)), "guest_timeout", 49, id="the guest's parts are the trace's"),
        pytest.param(state_of((0, ROOT), (0, ANCHOR)), "guest_timeout", 40, id="a guest is expected and never begins"),
        pytest.param(
            state_of((0, ROOT), (0, ANCHOR), (3, ANCHOR), (4, WHOLE_GUEST)), "complete", 14, id="one guest is enough"
        ),
        pytest.param(
            state_of((0, ROOT), (0, WHOLE_GUEST), (0, replace(OPEN_GUEST, guest="trace_b"))),
            "guest_timeout",
            40,
            id="each guest that has begun counts",
        ),
        pytest.param(state_of((0, HostPart(Facts.LOCAL_ROOT))), "local_root", 600, id="a parent in another process"),
        pytest.param(state_of((0, HostPart(Facts.LOCAL_ROOT)), (1, ROOT)), "complete", 11, id="a root is worth more"),
        pytest.param(state_of((0, PLAIN)), "idle", 600, id="no root at all"),
        pytest.param(state_of((0, PLAIN), (7000, PLAIN)), "max", 7200, id="parts that never end"),
        pytest.param(state_of((0, WHOLE_GUEST)), "host_missing", 600, id="a whole guest waits for its host"),
        pytest.param(state_of((0, WHOLE_GUEST), (6900, OPEN_GUEST)), "host_missing", 7200, id="and not past max"),
        pytest.param(
            state_of((0, ROOT), (0, MOVING)), "guest_timeout", 40, id="a trace that moves here has no root yet"
        ),
        pytest.param(state_of((0, ROOT), (20, MOVED)), "complete", 30, id="it is whole after_root after its last part"),
        pytest.param(state_of((0, ROOT), (9, MOVED), (9, OPEN_GUEST)), "guest_timeout", 49, id="and so is each guest"),
        pytest.param(state_of((0, HostPart(bytes=(64 << 20) + 1))), "oversize", 0, id="too big"),
        pytest.param(state_of((0, PLAIN), remembered=True), "late", 0, id="a late host span"),
        pytest.param(
            state_of((0, PLAIN), (0, OPEN_GUEST), remembered=True), "late_guest", 30, id="it waits with what was left"
        ),
        pytest.param(state_of((0, OPEN_GUEST), remembered=True), "late_guest", 30, id="a late guest, not whole"),
        pytest.param(state_of((0, WHOLE_GUEST), remembered=True), "late_guest", 6, id="a late guest, whole"),
    ],
)
def test_host_rules(state: TraceState, reason: str, second: float) -> None:
    """A host's trace leaves for this reason and in this second, counted from its first part."""
    assert outcome(state) == (reason, second)


def test_stream_holds_nothing_back() -> None:
    """In stream mode host spans leave in the moment in which they come."""
    assert outcome(state_of((0, PLAIN)), GraftPolicy(mode=Mode.STREAM)) == ("stream", 0)


def test_idle_shorter_than_after_root_wins() -> None:
    """The first wait that ends decides, whatever the config makes of their order."""
    policy = GraftPolicy(waits=Waits(idle=5 * SECOND))
    assert outcome(state_of((0, ROOT), (0, OPEN_GUEST)), policy) == ("idle", 5)


def test_guest_quiet_longer_than_after_root_is_kept() -> None:
    """A guest is whole only after its own quiet, even where the host's is over."""
    policy = GraftPolicy(waits=Waits(guest_quiet=20 * SECOND))
    assert outcome(state_of((0, ROOT), (0, WHOLE_GUEST)), policy) == ("complete", 20)


UNLINKED_WHOLE = replace(WHOLE_GUEST, host=None)
UNLINKED_OPEN = replace(OPEN_GUEST, host=None)


@pytest.mark.parametrize(
    ("state", "reason", "second"),
    [
        pytest.param(state_of((0, UNLINKED_WHOLE)), "unlinked", 6, id="whole"),
        pytest.param(state_of((0, UNLINKED_OPEN)), "unlinked", 30, id="not whole"),
        pytest.param(state_of((0, UNLINKED_OPEN), (25, UNLINKED_OPEN)), "unlinked", 55, id="from its last part"),
        pytest.param(state_of(*((i * 20, UNLINKED_OPEN) for i in range(360))), "unlinked", 7200, id="and not past max"),
    ],
)
def test_unlinked_guest_rules(state: TraceState, reason: str, second: float) -> None:
    """A guest without a link leaves when it is whole, or for_guest after its last part."""
    assert guest_outcome(state) == (reason, second)


def test_unlinked_keep_waits_until_max() -> None:
    """``unlinked: keep`` keeps even a whole guest as long as anything is kept."""
    assert guest_outcome(state_of((0, UNLINKED_WHOLE)), GraftPolicy(unlinked=Unlinked.KEEP)) == ("unlinked", 7200)


def test_a_late_guest_waits_to_be_whole_or_for_guest() -> None:
    """A guest whose host has left waits for the rest of itself, and no longer than for_guest."""
    assert guest_outcome(state_of((0, WHOLE_GUEST)), host_released=True) == ("late_guest", 6)
    assert guest_outcome(state_of((0, OPEN_GUEST)), host_released=True) == ("late_guest", 30)


def test_a_stream_guest_leaves_when_its_anchor_is_known() -> None:
    """In stream mode a linked guest leaves at once when its anchor is known, else for_guest after its last part."""
    policy = GraftPolicy(mode=Mode.STREAM)
    state = state_of((0, OPEN_GUEST), (3, OPEN_GUEST))
    assert guest_outcome(state, policy, host_released=True, anchor_known=True) == ("stream", 3)
    assert guest_outcome(state, policy, host_released=True) == ("late_guest", 33)
    only_head = state_of((0, guest_part(head=True)))
    assert guest_outcome(only_head, policy, host_released=True, anchor_known=True) == ("late_guest", 30)


def test_an_oversize_guest_leaves_at_once() -> None:
    """Size is a bound for a guest's own key too."""
    state = state_of((0, UNLINKED_OPEN))
    state.bytes = POLICY.max_trace_bytes + 1
    assert guest_outcome(state) == ("oversize", 0)


def guest_of(*parts: GuestFacts) -> GuestState:
    return state_of(*((0, part) for part in parts)).guests["trace_a"]


@pytest.mark.parametrize(
    ("guest", "whole"),
    [
        pytest.param(guest_of(WHOLE_GUEST), True, id="trace object, top level, parents"),
        pytest.param(guest_of(guest_part(1, top_level=True)), False, id="no trace object"),
        pytest.param(guest_of(guest_part(head=True)), False, id="no top-level span"),
        pytest.param(guest_of(WHOLE_GUEST, guest_part(3, parents=[4])), False, id="a parent is missing"),
        pytest.param(guest_of(WHOLE_GUEST, guest_part(3, parents=[9])), True, id="a parent that was sent before"),
        pytest.param(
            guest_of(guest_part(source=Source.REALTIME, top_level=True, head=True)), False, id="has not ended"
        ),
        pytest.param(guest_of(guest_part(source=Source.REALTIME, ended=True)), True, id="says that it has ended"),
        pytest.param(guest_of(guest_part(source=Source.OTLP, head=True)), False, id="a moved trace has no root"),
    ],
)
def test_when_a_guest_is_whole(guest: GuestState, whole: bool) -> None:
    """Whole is what has all its pieces, ``guest_quiet`` after the last one; ids sent before are not missing."""
    expected = guest.last + WAITS.guest_quiet if whole else None
    assert whole_at(guest, WAITS, RULES, frozenset({span_id(9)})) == expected


def test_a_session_is_whole_while_none_of_its_events_promises_more() -> None:
    """An event opens it again; the part that says its pages are read closes that event and no other, in any order."""
    opened = guest_part(parents=[1], head=True, source=Source.SESSIONS)
    closed = guest_part(1, ended=True, source=Source.SESSIONS)
    again = guest_part(parents=[2], head=True, source=Source.SESSIONS)
    closed_again = guest_part(2, ended=True, source=Source.SESSIONS)
    root = HostPart(Facts.ROOT)
    assert outcome(state_of((0, root), (1, opened))) == (ReleaseReason.GUEST_TIMEOUT, 41)
    assert outcome(state_of((0, root), (1, opened), (2, closed))) == (ReleaseReason.COMPLETE, 12)
    assert outcome(state_of((0, root), (1, opened), (2, closed), (3, again))) == (ReleaseReason.GUEST_TIMEOUT, 43)
    assert outcome(state_of((0, root), (1, closed), (2, again), (3, closed_again), (4, opened))) == (
        ReleaseReason.COMPLETE,
        14,
    )


@dataclass
class FakeClockStore:
    """One key of a store, driven as the service drives it: looked at when due, at a tick's distance."""

    policy: GraftPolicy = POLICY
    state: TraceState | None = None
    due: int = 0
    releases: list[tuple[float, ReleaseReason, int, int]] = field(default_factory=list)

    def append(self, part: HostPart | GuestFacts, now: UnixNano) -> None:
        self.state = self.state or TraceState(now, now, remembered=bool(self.releases))
        absorb(self.state, part, now)
        self.due = due_at(self.state, self.policy.waits, remembered=self.state.remembered)

    def tick(self, now: UnixNano) -> None:
        if self.state is None or now < self.due:
            return
        match step_host(self.state, now, self.policy, RULES):
            case Wait(until):
                self.due = until
            case Release(reason):
                self.releases.append(((now - T0) / SECOND, reason, self.state.host_spans, self.state.guest_spans))
                self.state = None


def test_a_call_whose_root_ended_first_is_released_once_and_whole() -> None:
    """A webhook's root span and the guest's first part come in the first second, then host and guest parts every
    20 s for 12 minutes, an error in minute 11, the guest's top-level span last: one release, with everything."""
    parts: dict[int, list[HostPart | GuestFacts]] = {0: [ROOT, guest_part(1, parents=[0], head=True)]}
    host_spans, guest_spans = 1, 1
    for second in range(20, 12 * 60 + 1, 20):
        facts = Facts.ANCHOR if second == 40 else Facts.NONE
        parts[second] = [HostPart(facts, spans=3), guest_part(second, second + 1, parents=[0])]
        host_spans, guest_spans = host_spans + 3, guest_spans + 2
    parts[11 * 60 + 5] = [HostPart(spans=1)]  # the span with the error
    host_spans += 1
    last = 12 * 60 + 15
    parts[last] = [guest_part(0, top_level=True)]
    guest_spans += 1

    store = FakeClockStore()
    for second in range(2 * 3600 + 1):
        for part in parts.get(second, []):
            store.append(part, at(second))
        store.tick(at(second))

    assert store.releases == [(last + 10, "complete", host_spans, guest_spans)]


# What a run of arrivals may look like: a second and a part, host's or guest's.
host_parts = st.builds(HostPart, facts=st.integers(0, 7).map(Facts), spans=st.integers(1, 3), bytes=st.integers(1, 400))
guest_parts = st.sampled_from([("trace_a", Source.SDK), ("trace_b", Source.OTLP), ("rtc_1", Source.REALTIME)]).flatmap(
    lambda guest: st.builds(
        guest_part,
        st.integers(0, 3),
        parents=st.lists(st.integers(0, 3), max_size=2),
        head=st.booleans(),
        top_level=st.booleans(),
        ended=st.booleans(),
        guest=st.just(guest[0]),
        source=st.just(guest[1]),
        host=st.sampled_from([HOST, None]),
    )
)
arrivals = st.lists(st.tuples(st.integers(0, 300), st.one_of(host_parts, guest_parts)), min_size=1, max_size=8)
guest_arrivals = st.lists(st.tuples(st.integers(0, 300), guest_parts), min_size=1, max_size=8)
seconds = st.integers(1, 400).map(lambda s: s * SECOND)
waits = st.builds(
    Waits, after_root=seconds, for_guest=seconds, guest_quiet=seconds, local_root=seconds, idle=seconds, max=seconds
)
policies = st.builds(
    GraftPolicy,
    mode=st.sampled_from(Mode),
    waits=waits,
    unlinked=st.sampled_from(Unlinked),
    max_trace_bytes=st.integers(800, 5000),
)


def steps(state: TraceState, policy: GraftPolicy, *, apart: bool, released: bool, known: bool):
    if apart:
        return lambda now: step_guest(state, now, policy, RULES, host_released=released, anchor_known=known)
    return lambda now: step_host(state, now, policy, RULES)


@given(arrivals, policies, st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.lists(st.integers(0, 1000)))
def test_release_is_monotone_in_time(
    parts: list[tuple[int, HostPart | GuestFacts]],
    policy: GraftPolicy,
    apart: bool,
    remembered: bool,
    released: bool,
    known: bool,
    moments: list[int],
) -> None:
    """Once the answer is Release it stays so, for the same reason; before that it always names the same moment."""
    state = state_of(*parts, remembered=remembered)
    step = steps(state, policy, apart=apart, released=released, known=known)
    reason, second = _outcome(step, state.last)
    for moment in moments:
        now = UnixNano(state.last + moment * SECOND)
        if now >= at(second):
            assert step(now) == Release(reason)
        else:
            assert step(now) == Wait(at(second))


@given(st.data(), arrivals, policies, st.booleans())
def test_the_order_of_absorbing_does_not_matter(
    data: st.DataObject, parts: list[tuple[int, HostPart | GuestFacts]], policy: GraftPolicy, remembered: bool
) -> None:
    """Parts that are summed in another order lead to the same release."""
    shuffled = data.draw(st.permutations(parts))
    one, other = state_of(*parts, remembered=remembered), state_of(*shuffled, remembered=remembered)
    assert outcome(one, policy) == outcome(other, policy)
    for released in (False, True):
        assert guest_outcome(one, policy, host_released=released) == guest_outcome(
            other, policy, host_released=released
        )


@given(arrivals, policies, st.booleans())
def test_no_host_is_due_too_late(
    parts: list[tuple[int, HostPart | GuestFacts]], policy: GraftPolicy, remembered: bool
) -> None:
    """After each append the store's moment is no later than the first moment in which a step would release."""
    remembered = remembered or policy.mode is Mode.STREAM
    state: TraceState | None = None
    for second, part in sorted(parts, key=lambda arrival: arrival[0]):
        state = state or TraceState(at(second), at(second), remembered=remembered)
        absorb(state, part, at(second))
        oversize = state.bytes > policy.max_trace_bytes
        looked = state.last if oversize else due_at(state, policy.waits, remembered=remembered)
        assert looked <= max(at(outcome(state, policy)[1]), state.last)


@given(guest_arrivals, policies, st.booleans(), st.booleans(), st.booleans())
def test_no_guest_is_due_too_late(
    parts: list[tuple[int, GuestFacts]], policy: GraftPolicy, remembered: bool, released: bool, known: bool
) -> None:
    """The same for a guest's own key, which a store in stream mode looks at without delay."""
    remembered = remembered or policy.mode is Mode.STREAM
    state: TraceState | None = None
    for second, part in sorted(parts, key=lambda arrival: arrival[0]):
        state = state or TraceState(at(second), at(second), remembered=remembered)
        absorb(state, part, at(second))
        looked = due_at(state, policy.waits, remembered=remembered, own_key=True, guest_only=True)
        reason, due = guest_outcome(state, policy, host_released=released, anchor_known=known)
        assume(reason is not ReleaseReason.OVERSIZE)
        assert looked <= max(at(due), state.last)


@given(arrivals, policies)
def test_a_plain_row_ends_complete(parts: list[tuple[int, HostPart | GuestFacts]], policy: GraftPolicy) -> None:
    """Without guests a trace is COMPLETE where a plain row's quiet ends it; so is no other one without an anchor."""
    parts = [(second, part) for second, part in parts if isinstance(part, HostPart)]
    assume(parts)
    state = state_of(*parts)
    assume(state.bytes <= policy.max_trace_bytes and policy.mode is not Mode.STREAM)
    row = due_table(policy.waits)[
        due_kind(int(state.facts), guest_only=state.host_spans == 0, remembered=False, own_key=False)
    ]
    plain = row.plain and state.last + row.quiet <= state.first + row.longest
    decision = step_host(state, UnixNano(state.last + row.quiet), policy, RULES)
    is_complete = decision == Release(ReleaseReason.COMPLETE) and not state.facts & Facts.ANCHOR
    assert plain == is_complete


def test_the_defaults_are_the_documented_ones() -> None:
    """10 s after the root, 30 s for a guest, 6 s of quiet, 10 min idle and for a local root, 2 h at most."""
    assert (WAITS.after_root, WAITS.for_guest, WAITS.guest_quiet) == (10 * SECOND, 30 * SECOND, 6 * SECOND)
    assert (WAITS.local_root, WAITS.idle, WAITS.max) == (10 * MINUTE, 10 * MINUTE, 2 * HOUR)


def call_part(*, ended: bool = False, top_level: bool = False, host: TraceId | None = HOST) -> GuestFacts:
    """A part of a Realtime call: notes, of which no span is made before release."""
    return guest_part(source=Source.REALTIME, guest="rtc_1", head=True, ended=ended, top_level=top_level, host=host)


CALL, FINISHED_TURN, CALL_END = call_part(), call_part(top_level=True), call_part(ended=True, top_level=True)
STREAM = replace(POLICY, mode=Mode.STREAM)


@pytest.mark.parametrize(
    ("state", "reason", "second"),
    [
        pytest.param(state_of((0, ROOT), (0, CALL)), "idle", 600, id="a call that runs keeps its trace, even silent"),
        pytest.param(state_of((0, ROOT), (0, CALL), (500, CALL)), "idle", 1100, id="each of its parts is a sign"),
        pytest.param(state_of((0, CALL), (500, CALL_END), (500, ROOT)), "complete", 510, id="its end is what counts"),
        pytest.param(state_of((0, ROOT), (0, CALL_END)), "complete", 10, id="an end may be all that came"),
        pytest.param(
            state_of((0, ROOT), (0, CALL_END), (0, OPEN_GUEST)), "guest_timeout", 40, id="beside it others may be late"
        ),
        pytest.param(
            state_of((0, ROOT), (0, CALL), (0, OPEN_GUEST)), "idle", 600, id="they too are waited for so long"
        ),
        pytest.param(
            state_of((0, ROOT), (0, CALL), *((s, CALL) for s in range(500, 7300, 500))), "max", 7200, id="not past max"
        ),
        pytest.param(state_of((0, CALL)), "host_missing", 600, id="it waits for its host as any guest does"),
        pytest.param(state_of((0, PLAIN), (0, CALL), remembered=True), "late", 0, id="a late host span need not wait"),
        pytest.param(state_of((0, CALL), remembered=True), "late_guest", 600, id="what was left of it waits for it"),
        pytest.param(state_of((0, CALL), (5, CALL_END), remembered=True), "late_guest", 11, id="until its end"),
        pytest.param(
            state_of((0, PLAIN), (0, CALL_END), remembered=True), "late_guest", 6, id="an ended one is a guest like any"
        ),
    ],
)
def test_a_running_call_keeps_its_trace(state: TraceState, reason: str, second: float) -> None:
    """Until it says that it has ended nothing but idle and max ends the wait for it."""
    assert outcome(state) == (reason, second)


@pytest.mark.parametrize(
    ("state", "linked", "reason", "second"),
    [
        pytest.param(state_of((0, call_part(host=None))), False, "unlinked", 600, id="unlinked, until idle"),
        pytest.param(
            state_of((0, call_part(host=None)), (5, call_part(host=None, ended=True))),
            False,
            "unlinked",
            11,
            id="or ended",
        ),
        pytest.param(state_of((0, CALL), (400, CALL)), True, "late_guest", 1000, id="its host left: until idle"),
        pytest.param(state_of((0, CALL), (400, CALL_END)), True, "late_guest", 406, id="its host left: or ended"),
        pytest.param(
            state_of((0, CALL), *((s, CALL) for s in range(500, 7300, 500))), True, "late_guest", 7200, id="or max"
        ),
    ],
)
def test_a_running_call_apart_from_its_host(state: TraceState, linked: bool, reason: str, second: float) -> None:
    """The same holds where it is held under its own key."""
    assert guest_outcome(state, host_released=linked) == (reason, second)


@pytest.mark.parametrize(
    ("state", "anchor_known", "reason", "second"),
    [
        pytest.param(state_of((0, CALL)), True, "idle", 600, id="nothing has ended: nothing leaves"),
        pytest.param(state_of((0, FINISHED_TURN)), True, "stream", 0, id="a finished turn leaves"),
        pytest.param(state_of((0, CALL_END)), True, "stream", 0, id="the end leaves"),
        pytest.param(
            state_of((0, FINISHED_TURN), *((s, CALL) for s in range(1, 30))),
            False,
            "late_guest",
            30,
            id="without an anchor after for_guest, however lively the call is",
        ),
        pytest.param(
            state_of((0, CALL), *((s, CALL) for s in range(500, 7300, 500))), True, "max", 7200, id="and max ends it"
        ),
    ],
)
def test_a_streamed_call(state: TraceState, anchor_known: bool, reason: str, second: float) -> None:
    """What has ended leaves while the call runs; idle and max say that no more of it is expected."""
    assert guest_outcome(state, STREAM, host_released=True, anchor_known=anchor_known) == (reason, second)


def test_a_call_of_twelve_minutes_is_released_once_and_whole() -> None:
    """A part each second, a hold of nine minutes in the middle, a root that ended at the start: one release."""
    state = state_of((0, ROOT))
    parts = [*range(1, 90), *range(630, 720)]
    due = UnixNano(0)
    for second in range(1, 721):
        if second in parts:
            absorb(state, FINISHED_TURN if second % 10 == 0 else CALL, at(second))
            due = at(second)
        if at(second) >= due:
            decision = step_host(state, at(second), POLICY, RULES)
            assert isinstance(decision, Wait), f"released in second {second}"
            due = decision.until
    absorb(state, CALL_END, at(721))
    assert outcome(state) == (ReleaseReason.COMPLETE, 731)
