"""Where a guest hangs: the order of the rules, the preferences among several spans, and what is remembered."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.core.anchor import AnchorIndex, find, matches, wanted_keys
from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import Anchor, AnchorSpan, TraceMemory, merged
from grafter.core.memory_blobs import decode_trace, encode_trace
from grafter.core.model import (
    AttributeValue,
    Envelope,
    Guest,
    GuestSpan,
    HostSpan,
    Link,
    Source,
    SpanId,
    TraceId,
    UnixNano,
)
from grafter.core.policy import GraftPolicy, Selector
from tests.steps import at_most_steps

HOST = TraceId(b"h" * 16)
POLICY = GraftPolicy()
ENVELOPE = Envelope(b"resource", b"scope")
SESSION = "gen_ai.realtime.session"


def span_id(number: int) -> SpanId:
    return SpanId(number.to_bytes(8))


def host_span(
    number: int,
    name: str = "work",
    *,
    parent: int | None = 99,
    start: int = 0,
    end: int = 100,
    flags: int = 0x101,
    trace_state: str = "",
    envelope: Envelope = ENVELOPE,
    **attributes: AttributeValue,
) -> HostSpan:
    return HostSpan(
        span_id=span_id(number),
        parent_span_id=b"" if parent is None else span_id(parent),
        name=name,
        start=UnixNano(start),
        end=UnixNano(end),
        flags=flags,
        trace_state=trace_state,
        envelope=envelope,
        attributes={key.replace("__", "."): value for key, value in attributes.items()},
    )


def guest(
    *, named: int | None = None, start: int = 10, end: int = 20, ids: Sequence[str] = (), sampled: bool | None = None
) -> Guest:
    span = GuestSpan(span_id(500), None, "", "agent", 1, UnixNano(start), UnixNano(end), ())
    link = Link(HOST, None if named is None else span_id(named), sampled)
    return Guest("trace_a", Source.SDK, (span,), link, frozenset(ids))


def found(
    spans: Sequence[HostSpan], searching: Guest, policy: GraftPolicy = POLICY, memory: TraceMemory | None = None
) -> tuple[int | None, str]:
    anchor = find(searching, AnchorIndex.of(spans, policy, memory))
    return None if anchor.span_id is None else int.from_bytes(anchor.span_id), anchor.how


ROOT = host_span(1, "callsphere.call", parent=None)
OTHER = host_span(2)
SESSION_SPAN = host_span(3, SESSION)
CALL = [ROOT, OTHER, SESSION_SPAN]


def test_the_named_span_comes_first() -> None:
    """A span that the app names is the anchor, whatever matches a selector."""
    assert found(CALL, guest(named=2)) == (2, "named")


def test_then_a_span_that_matches_a_selector() -> None:
    """Without a name the session span is the anchor by default."""
    assert found(CALL, guest()) == (3, "selector")


def test_then_the_root() -> None:
    """Without a session span the host's root is."""
    assert found([OTHER, ROOT], guest()) == (1, "root")


def test_then_none() -> None:
    """Without a root there is no anchor."""
    assert found([OTHER], guest()) == (None, "none")
    assert found([], guest()) == (None, "none")


def test_a_named_span_that_was_not_seen_counts_only_without_a_root() -> None:
    """A trace cut before its root may hold the named span elsewhere; one with its root does not."""
    assert found([SESSION_SPAN], guest(named=7)) == (7, "unseen")
    assert found(CALL, guest(named=7)) == (3, "selector")
    assert found([ROOT], guest(named=7)) == (1, "root")


def test_an_anchor_carries_its_spans_words() -> None:
    """Trace state, flags and envelope are those of the span found."""
    other = Envelope(b"another", b"scope")
    span = host_span(2, trace_state="ot=th:8", flags=0x100, envelope=other)
    anchor = find(guest(named=2), AnchorIndex.of([ROOT, span], POLICY))
    assert anchor == Anchor(span_id(2), "named", "ot=th:8", 0x100, other)


def test_without_an_anchor_the_hosts_other_spans_speak_for_its_sampling() -> None:
    """One trace has one sampling decision; without any span the link's flag is all that is known."""
    spans = [host_span(2, flags=0x100, trace_state="ot=th:8")]
    unseen = find(guest(named=7), AnchorIndex.of(spans, POLICY))
    assert unseen == Anchor(span_id(7), "unseen", "ot=th:8", 0x100, None)
    nobody = AnchorIndex.of([], POLICY)
    assert find(guest(sampled=False), nobody).flags == 0
    assert find(guest(sampled=True), nobody).flags == 1
    assert find(guest(), nobody).flags == 1


PREFERENCES = {
    "equal conversation id before overlap": (
        [
            host_span(4, SESSION, start=0, end=50),
            host_span(5, SESSION, start=200, end=300, gen_ai__conversation__id="conv_1"),
        ],
        5,
    ),
    "equal conversation id, of two that began after it": (
        [
            host_span(4, SESSION, start=30, end=50),
            host_span(5, SESSION, start=40, end=50, session__id="conv_1"),
        ],
        5,
    ),
    "any of the keys of a session": (
        [host_span(4, SESSION), host_span(5, SESSION, openai__session__id="conv_1")],
        5,
    ),
    "overlap before a later start": (
        [host_span(4, SESSION, start=0, end=50), host_span(5, SESSION, start=5, end=6)],
        4,
    ),
    "the latest start that is not after the guest's": (
        [
            host_span(4, SESSION, start=3, end=50),
            host_span(5, SESSION, start=7, end=50),
            host_span(6, SESSION, start=12, end=50),
        ],
        5,
    ),
    "a start that is not after, without any overlap": (
        [host_span(4, SESSION, start=0, end=1), host_span(5, SESSION, start=2, end=3)],
        5,
    ),
    "the smaller span id": ([host_span(5, SESSION), host_span(4, SESSION)], 4),
    "the only one, though it fits nowhere": (
        [host_span(4, SESSION, start=1000, end=2000, session__id="conv_2")],
        4,
    ),
}


@pytest.mark.parametrize(("spans", "expected"), PREFERENCES.values(), ids=PREFERENCES)
def test_preferences(spans: Sequence[HostSpan], expected: int) -> None:
    """Among several spans that match, this one is the anchor of a guest from 10 to 20 with conversation conv_1."""
    for order in (spans, spans[::-1]):
        assert found([ROOT, *order], guest(ids=["conv_1"])) == (expected, "selector")


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(-5, 30), st.sampled_from(["", "a", "b"])), min_size=1),
    st.integers(0, 30),
    st.integers(0, 30),
    st.sets(st.sampled_from(["a", "b"])),
    st.data(),
)
def test_the_search_agrees_with_weighing_each(
    rows: list[tuple[int, int, str]], start: int, length: int, ids: set[str], data: st.DataObject
) -> None:
    """The indexed search finds what comparing every span by every preference finds, in any order, repeated or not.

    A span that ends before it starts counts as a moment.
    """
    spans = [
        host_span(number + 1, SESSION, start=begun, end=begun + taken, gen_ai__conversation__id=conversation)
        for number, (begun, taken, conversation) in enumerate(rows)
    ]
    end = start + length

    def weight(span: HostSpan) -> tuple[bool, bool, int, int]:
        return (
            span.attributes["gen_ai.conversation.id"] in ids,
            span.start <= end and max(span.start, span.end) >= start,
            span.start if span.start <= start else -1,
            -int.from_bytes(span.span_id),
        )

    best = max(spans, key=weight)
    arrived = data.draw(st.permutations(spans + spans[:2]))
    searching = guest(start=start, end=end, ids=sorted(ids))
    assert found(arrived, searching) == (int.from_bytes(best.span_id), "selector")

    # The same when some of them left before.
    cut = data.draw(st.integers(0, len(spans)))
    memory = AnchorIndex.of(spans[:cut], POLICY).memory(ReleaseReason.STREAM, UnixNano(1))
    decoded = decode_trace(encode_trace(memory))
    assert found(spans[cut:], searching, memory=decoded) == (int.from_bytes(best.span_id), "selector")


def test_selectors_match_name_and_attributes() -> None:
    """All that a selector says must match; values are compared as text; an empty name matches every name."""
    span = host_span(4, "leg", kind="ai", attempt=2, final=True)
    assert matches(Selector(attributes=(("kind", "ai"), ("attempt", "2"), ("final", "true"))), span)
    assert not matches(Selector(name="leg", attributes=(("kind", "human"),)), span)
    assert not matches(Selector(name="leg", attributes=(("absent", ""),)), span)
    assert not matches(Selector(name="call", attributes=(("kind", "ai"),)), span)


def test_wanted_keys() -> None:
    """The attributes to decode are those of the selectors and those that name a conversation."""
    policy = GraftPolicy(anchors=(Selector(attributes=(("kind", "ai"),)),))
    assert wanted_keys(policy) == {
        "kind",
        "gen_ai.conversation.id",
        "session.id",
        "gen_ai.realtime.session.id",
        "openai.session.id",
    }


def remember(*spans: HostSpan) -> TraceMemory:
    """The memory of a release of these spans, through the store."""
    memory = AnchorIndex.of(spans, POLICY).memory(ReleaseReason.COMPLETE, UnixNano(1))
    decoded = decode_trace(encode_trace(memory))
    assert decoded is not None
    return decoded


def test_a_late_guest_finds_what_it_would_have_found() -> None:
    """Every rule holds for a host that has left: named, selector, root."""
    memory = remember(*CALL)
    assert found([], guest(named=2), memory=memory) == (2, "named")
    assert found([], guest(), memory=memory) == (3, "selector")
    assert found([], guest(named=7), memory=remember(ROOT, OTHER)) == (1, "root")
    assert found([], guest(named=7), memory=remember(OTHER)) == (7, "unseen")
    assert found([], guest(), memory=remember(OTHER)) == (None, "none")


def test_a_remembered_span_that_is_named_takes_its_roots_words() -> None:
    """Of most spans only the id is kept: sampling and resource are then the root's."""
    root = replace(ROOT, trace_state="ot=th:8", flags=0x100)
    anchor = find(guest(named=2), AnchorIndex.of([], POLICY, remember(root, OTHER)))
    assert anchor == Anchor(span_id(2), "named", "ot=th:8", 0x100, ENVELOPE)


def test_late_host_spans_count_too() -> None:
    """A session span that came late is an anchor for what comes later still."""
    memory = merged(remember(ROOT), remember(SESSION_SPAN))
    assert found([], guest(), memory=memory) == (3, "selector")
    assert found([SESSION_SPAN], guest(), memory=remember(ROOT)) == (3, "selector")


def test_a_memory_holds_what_matched() -> None:
    """Root and anchors are kept with what a guest takes from them."""
    session = replace(SESSION_SPAN, attributes={"session.id": "s1", "gen_ai.conversation.id": "c1"})
    memory = AnchorIndex.of([session, OTHER, ROOT], POLICY).memory(ReleaseReason.COMPLETE, UnixNano(5))
    assert memory == TraceMemory(
        reason=ReleaseReason.COMPLETE,
        released_at=UnixNano(5),
        root=span_id(1),
        root_flags=0x101,
        root_envelope=ENVELOPE,
        span_ids=span_id(1) + span_id(2) + span_id(3),
        anchors=(AnchorSpan(span_id(3), UnixNano(0), UnixNano(100), "", 0x101, ENVELOPE, frozenset({"s1", "c1"})),),
    )


@given(st.permutations([ROOT, replace(ROOT, end=UnixNano(7)), OTHER, SESSION_SPAN, replace(SESSION_SPAN, flags=1)]))
def test_spans_that_claim_one_id_are_told_apart_the_same_way(spans: list[HostSpan]) -> None:
    """Two spans under one id give one answer in any order."""
    index = AnchorIndex.of(spans, POLICY)
    reference = AnchorIndex.of(sorted(spans, key=repr), POLICY)
    assert find(guest(), index) == find(guest(), reference)
    assert index.memory(ReleaseReason.MAX, UnixNano(1)) == reference.memory(ReleaseReason.MAX, UnixNano(1))


def test_the_search_does_not_walk_the_spans() -> None:
    """A long span before many short ones, and many guests after them: two thousand searches among 20,000 spans take
    354,000 steps, where walking them took forty million and more."""
    spans = [host_span(1, SESSION, end=1_000_000)]
    spans += [host_span(n, SESSION, start=n, end=n + 1) for n in range(2, 20_000)]
    index = AnchorIndex.of(spans, POLICY)
    with at_most_steps(1_000_000):
        assert {find(guest(start=30_000 + n), index).span_id for n in range(1_000)} == {span_id(1)}
        assert {find(guest(start=0, end=30_000 + n), index).span_id for n in range(1_000)} == {span_id(1)}
