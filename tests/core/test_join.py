"""The graft itself: one tree under the anchor, each guest span once, whatever came when and how often."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from grafter.core.anchor import AnchorIndex
from grafter.core.join import STAND_IN_NAME, Grafted, alone, graft, host_missing_drops
from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import GuestMemory
from grafter.core.memory_blobs import decode_guest, encode_guest, encode_trace
from grafter.core.model import (
    AttributeValue,
    Envelope,
    GraftedSpan,
    Guest,
    GuestSpan,
    HostSpan,
    Link,
    Source,
    SpanId,
    TraceId,
    UnixNano,
    guest_span_id,
    unlinked_trace_id,
)
from grafter.core.policy import GraftPolicy, HostMissing, Mode
from grafter.core.state import GuestState
from tests.steps import at_most_steps

HOST = TraceId(b"h" * 16)
OPENAI_ID = "trace_0123456789abcdef0123456789abcdef"
POLICY = GraftPolicy()
STREAM = GraftPolicy(mode=Mode.STREAM)
ENVELOPE = Envelope(b"gateway", b"scope")
ROOT_ID = SpanId(b"hostroot")
SESSION_ID = SpanId(b"hostsess")
ROOT = HostSpan(ROOT_ID, b"", "callsphere.call", UnixNano(0), UnixNano(1000), 0x101, "ot=th:8", ENVELOPE)
SESSION = replace(ROOT, span_id=SESSION_ID, parent_span_id=ROOT_ID, name="gen_ai.realtime.session")
NO_HOST = AnchorIndex.of((), POLICY)
INDEX = AnchorIndex.of([ROOT, SESSION], POLICY)
EMPTY = AnchorIndex.of([], POLICY)


def sid(name: str) -> SpanId:
    return guest_span_id(OPENAI_ID, name)


def span(name: str, parent: str | None = None, start: int = 0, *attributes: tuple[str, AttributeValue]) -> GuestSpan:
    return GuestSpan(
        span_id=sid(name),
        parent=None if parent is None else sid(parent),
        parent_name=parent or "",
        name=name,
        kind=1,
        start=UnixNano(start),
        end=UnixNano(start + 10),
        attributes=(("openai.agents.span.id", name), *attributes),
    )


LINK = Link(HOST)


def guest(*spans: GuestSpan, link: Link | None = LINK, in_app: bool = True) -> Guest:
    return Guest(OPENAI_ID, Source.SDK, spans, link, measured_in_app=in_app)


def grafted(*spans: GuestSpan, earlier: GuestMemory | None = None, policy: GraftPolicy = POLICY) -> Grafted:
    return graft(guest(*spans), INDEX, HOST, policy, earlier, {})


def tree(result: Grafted) -> list[tuple[str, bytes]]:
    return [(each.span.name, each.parent_span_id) for each in result.spans]


def added(each: GraftedSpan) -> dict[str, AttributeValue]:
    """The attributes that the graft put on a span."""
    assert each.attributes[: len(each.span.attributes)] == each.span.attributes
    return dict(each.attributes[len(each.span.attributes) :])


TOP = {"grafter.source": "sdk", "grafter.link": "trace_id"}


def test_a_guest_hangs_under_its_anchor() -> None:
    """Top-level spans under the anchor, the others under their own parents, parents first, siblings by start."""
    result = grafted(span("tool", "turn", 30), span("turn", "run", 20), span("chat", "turn", 25), span("run"))
    assert tree(result) == [("run", SESSION_ID), ("turn", sid("run")), ("chat", sid("turn")), ("tool", sid("turn"))]
    assert [added(each) for each in result.spans] == [TOP, {}, {}, {}]
    assert (result.match, result.repeated, result.synthetic) == ("selector", 0, 0)


def test_every_span_takes_the_anchors_words() -> None:
    """Trace id, trace state, sampled flag and, where the guest was measured in the app, the resource."""
    for each in grafted(span("run"), span("turn", "run")).spans:
        assert (each.trace_id, each.trace_state, each.flags, each.envelope) == (HOST, "ot=th:8", 0x101, ENVELOPE)
    unsampled = AnchorIndex.of([replace(SESSION, flags=0x300)], POLICY)
    elsewhere = graft(guest(span("run"), in_app=False), unsampled, HOST, POLICY, None, {})
    assert (elsewhere.spans[0].flags, elsewhere.spans[0].envelope) == (0x100, None)


def test_a_parent_that_never_came_gives_way_to_the_anchor() -> None:
    """The span hangs under the anchor and names the parent as the guest wrote it."""
    result = grafted(span("tool", "span_lost"), span("inner", "tool"))
    assert tree(result) == [("tool", SESSION_ID), ("inner", sid("tool"))]
    assert added(result.spans[0]) == TOP | {"grafter.parent.missing": "span_lost"}


def test_without_an_anchor_the_guest_has_roots_of_its_own() -> None:
    """They stand in the host trace and say so."""
    result = graft(guest(span("run"), span("turn", "run")), EMPTY, HOST, POLICY, None, {})
    assert tree(result) == [("run", b""), ("turn", sid("run"))]
    assert added(result.spans[0]) == TOP | {"grafter.anchor": "none"}
    assert {each.trace_id for each in result.spans} == {HOST}
    assert {each.envelope for each in result.spans} == {None}


def test_an_unseen_anchor_is_believed() -> None:
    """A trace that leaves without its root: the guest hangs under the span that the app named, and says so."""
    named = SpanId(b"unseen__")
    result = graft(guest(span("run"), link=Link(HOST, named)), EMPTY, HOST, POLICY, None, {})
    assert tree(result) == [("run", named)]
    assert added(result.spans[0])["grafter.anchor"] == "unseen"
    assert result.match == "unseen"


def test_a_circle_is_cut_where_it_starts() -> None:
    """The span that starts first hangs under the anchor and names the parent that it lost; the rest stays."""
    result = grafted(span("a", "c", 3), span("b", "a", 1), span("c", "b", 2), span("leaf", "c", 0))
    assert tree(result) == [("b", SESSION_ID), ("c", sid("b")), ("leaf", sid("c")), ("a", sid("c"))]
    assert added(result.spans[0]) == TOP | {"grafter.parent.missing": "a"}


def test_a_span_that_is_its_own_parent() -> None:
    """The smallest circle."""
    result = grafted(span("a", "a"))
    assert tree(result) == [("a", SESSION_ID)]
    assert added(result.spans[0])["grafter.parent.missing"] == "a"


def test_repeats_are_dropped_and_counted() -> None:
    """A span that came twice leaves once; of two that differ the one that ended later."""
    longer, shorter = span("run"), replace(span("run"), end=UnixNano(9))
    for order in ((shorter, longer, shorter), (longer, shorter, shorter)):
        result = grafted(*order)
        assert result.repeated == 2
        assert [each.span for each in result.spans] == [longer]


def test_attribute_keys_stay_unique() -> None:
    """A guest that says grafter's own words is not believed."""
    attributes = grafted(span("run", None, 0, ("grafter.source", "forged"))).spans[0].attributes
    assert Counter(key for key, _ in attributes)["grafter.source"] == 1
    assert dict(attributes)["grafter.source"] == "sdk"


def through_store(memory: GuestMemory) -> GuestMemory:
    decoded = decode_guest(encode_guest(memory))
    assert decoded == memory
    assert decoded is not None
    return decoded


def test_the_rest_of_a_guest_hangs_where_the_first_part_hangs() -> None:
    """Parents that left are kept, repeats of what left are dropped, and the anchor is the one that was used, though
    a better one has come."""
    first = graft(guest(span("run")), AnchorIndex.of([ROOT], POLICY), HOST, POLICY, None, {"name": "Agent workflow"})
    earlier = through_store(first.memory)
    assert earlier.head == {"name": "Agent workflow"}
    rest = graft(
        guest(span("run"), span("turn", "run", 1), span("second run", None, 2)), INDEX, HOST, POLICY, earlier, {}
    )
    assert tree(rest) == [("turn", sid("run")), ("second run", ROOT_ID)]
    assert (rest.repeated, rest.match) == (1, "root")
    assert rest.memory.sent_ids() == {sid("run"), sid("turn"), sid("second run")}
    assert rest.memory.head == {"name": "Agent workflow"}


def test_the_rest_of_a_guest_without_an_anchor_may_find_one() -> None:
    """Spans that left as roots do not keep what comes later from the host that has come since."""
    first = graft(guest(span("run")), NO_HOST, HOST, POLICY, None, {})
    rest = grafted(span("second run"), earlier=through_store(first.memory))
    assert tree(rest) == [("second run", SESSION_ID)]


def test_a_link_that_comes_after_an_unlinked_release() -> None:
    """What left stays where it is and is not sent again; its children name it as missing in the host trace."""
    first = alone(guest(span("run"), link=None), None, {})
    rest = grafted(span("run"), span("turn", "run"), earlier=through_store(first.memory))
    assert tree(rest) == [("turn", SESSION_ID)]
    assert rest.repeated == 1
    assert added(rest.spans[0])["grafter.parent.missing"] == "run"


def test_an_unlinked_guest_is_a_trace_of_its_own() -> None:
    """Under its own id where that can be a trace id; its top-level spans are roots; it is sampled."""
    result = alone(guest(span("run"), span("turn", "run"), span("lost", "gone", 5), link=None), None, {"a": 1})
    assert tree(result) == [("run", b""), ("turn", sid("run")), ("lost", b"")]
    assert {each.trace_id for each in result.spans} == {TraceId(bytes.fromhex(OPENAI_ID[6:]))}
    assert {(each.flags, each.trace_state, each.envelope) for each in result.spans} == {(0x101, "", None)}
    assert added(result.spans[0]) == {"grafter.source": "sdk"}
    assert added(result.spans[2]) == {"grafter.source": "sdk", "grafter.parent.missing": "gone"}
    assert through_store(result.memory).host is None
    assert result.memory.trace_id == unlinked_trace_id(OPENAI_ID)


def test_a_guest_whose_host_never_came() -> None:
    """It leaves under the trace id that it names, under the named span where there is one."""
    result = graft(guest(span("run")), NO_HOST, HOST, POLICY, None, {})
    assert tree(result) == [("run", b"")]
    assert result.spans[0].trace_id == HOST
    assert added(result.spans[0])["grafter.anchor"] == "none"
    named = graft(guest(span("run"), link=Link(HOST, SESSION_ID, sampled=False)), NO_HOST, HOST, POLICY, None, {})
    assert tree(named) == [("run", SESSION_ID)]
    assert named.spans[0].flags == 0x100


def test_which_guests_of_a_missing_host_are_dropped() -> None:
    """By default those whose traceparent says that the host was sampled away, and no others."""

    def drops(sampled: bool | None, policy: GraftPolicy = POLICY) -> bool:
        state = GuestState(OPENAI_ID, Source.SDK, UnixNano(0), UnixNano(0), host=HOST, sampled=sampled)
        return host_missing_drops(state, policy)

    assert [drops(sampled) for sampled in (True, None, False)] == [False, False, True]
    assert not drops(False, GraftPolicy(host_missing=HostMissing.FORWARD))
    assert drops(True, GraftPolicy(host_missing=HostMissing.DROP))


def test_stream_sends_a_child_before_its_parent() -> None:
    """The child keeps the parent that it names; the parent finds its place when it comes."""
    child = grafted(span("tool", "turn", 30), policy=STREAM)
    assert tree(child) == [("tool", sid("turn"))]
    assert added(child.spans[0]) == {}
    memory = through_store(child.memory)
    parent = grafted(span("turn", None, 20), earlier=memory, policy=STREAM)
    assert tree(parent) == [("turn", SESSION_ID)]
    assert through_store(parent.memory).awaited == {}


def test_stream_puts_a_synthetic_span_in_place_of_a_parent_that_does_not_come() -> None:
    """When the wait is over, one stands in under the parent's id, says so, spans its children's time, and is sent
    once; should the parent come after all, it is not taken for a repeat."""
    first = grafted(span("tool", "turn", 30), policy=STREAM)
    second = grafted(span("chat", "turn", 50), earlier=through_store(first.memory), policy=STREAM)
    assert (first.synthetic, second.synthetic) == (0, 0)

    overdue = graft(guest(), INDEX, HOST, STREAM, through_store(second.memory), {}, overdue=True)
    assert overdue.synthetic == 1
    (stand_in,) = overdue.spans
    assert (stand_in.span.name, stand_in.span.span_id, stand_in.parent_span_id) == (
        STAND_IN_NAME,
        sid("turn"),
        SESSION_ID,
    )
    assert (stand_in.span.start, stand_in.span.end) == (30, 60)
    assert dict(stand_in.attributes) == TOP | {
        "openai.agents.trace.id": OPENAI_ID,
        "openai.agents.span.id": "turn",
        "grafter.synthetic": True,
    }

    again = graft(guest(span("more", "turn", 70)), INDEX, HOST, STREAM, through_store(overdue.memory), {}, overdue=True)
    assert (tree(again), again.synthetic) == ([("more", sid("turn"))], 0)
    parent = grafted(span("turn", None, 20), earlier=through_store(again.memory), policy=STREAM)
    assert (tree(parent), parent.repeated) == ([("turn", SESSION_ID)], 0)


def test_stream_closes_no_circle_through_what_left() -> None:
    """A parent that comes last and hangs, by its own word, under its own child is hung under the anchor."""
    first = grafted(span("a", "b", 1), policy=STREAM)
    second = grafted(span("b", "a", 2), earlier=through_store(first.memory), policy=STREAM)
    assert tree(first) + tree(second) == [("a", sid("b")), ("b", SESSION_ID)]
    assert added(second.spans[0])["grafter.parent.missing"] == "a"


@dataclass(frozen=True)
class Shape:
    """A guest of any shape: parents may be missing, in a circle, or the span itself; starts may be equal."""

    spans: tuple[GuestSpan, ...]


NAMES = [f"span_{i}" for i in range(12)]
shapes = st.lists(
    st.tuples(st.none() | st.sampled_from([*NAMES, "gone_1", "gone_2"]), st.integers(0, 5)), min_size=1, max_size=12
).map(lambda rows: Shape(tuple(span(name, parent, start) for name, (parent, start) in zip(NAMES, rows, strict=False))))


def assert_one_tree(spans: Sequence[GraftedSpan], shape: Shape, anchor: bytes) -> None:
    """Each guest span once, all reach the anchor by their parents, and each hangs where it said or says why not."""
    assert Counter(each.span.span_id for each in spans) == Counter(each.span_id for each in shape.spans)
    parents = {each.span.span_id: each.parent_span_id for each in spans}
    for each in spans:
        node: bytes = each.span.span_id
        for _ in range(len(parents)):
            if node == anchor:
                break
            node = parents[SpanId(node)]
        assert node == anchor
        missing = dict(each.attributes).get("grafter.parent.missing")
        if each.span.parent is None:
            assert (each.parent_span_id, missing) == (anchor, None)
        elif missing is None:
            assert each.parent_span_id == each.span.parent
        else:
            assert (each.parent_span_id, missing) == (anchor, each.span.parent_name)


@given(shapes, st.data())
def test_any_order_and_any_repetition_give_the_same_graft(shape: Shape, data: st.DataObject) -> None:
    """The graft depends on the guest's spans alone; it is one tree under the anchor with every span once."""
    expected = grafted(*shape.spans)
    assert_one_tree(expected.spans, shape, SESSION_ID)
    position = {each.span.span_id: i for i, each in enumerate(expected.spans)}
    for i, each in enumerate(expected.spans):
        assert position.get(SpanId(each.parent_span_id), -1) < i, "a child stands before its parent"

    repeats = data.draw(st.lists(st.sampled_from(shape.spans), max_size=4))
    arrived = data.draw(st.permutations([*shape.spans, *repeats]))
    result = grafted(*arrived)
    assert result.spans == expected.spans
    assert result.memory == expected.memory
    assert result.repeated == len(repeats)


@given(shapes, st.data())
def test_releases_add_up(shape: Shape, data: st.DataObject) -> None:
    """However a guest is spread over releases, with repeats: together they are one tree with every span once."""
    spans = data.draw(st.permutations(shape.spans))
    cut = data.draw(st.integers(0, len(spans)))
    first = grafted(*spans[:cut])
    second = grafted(*spans, earlier=through_store(first.memory))
    assert second.repeated == cut
    assert second.memory.sent_ids() == {each.span_id for each in spans}
    assert_one_tree(first.spans + second.spans, shape, SESSION_ID)


@given(shapes, st.data())
def test_a_streamed_guest_adds_up(shape: Shape, data: st.DataObject) -> None:
    """Span by span in any order, the wait for parents over at the end: one tree, no circle, every span once."""
    memory: GuestMemory | None = None
    leaving: list[GraftedSpan] = []
    for each in data.draw(st.permutations(shape.spans)):
        result = grafted(each, earlier=memory, policy=STREAM)
        memory = through_store(result.memory)
        leaving += result.spans
    last = graft(guest(), INDEX, HOST, STREAM, memory, {}, overdue=True)
    gone = {each.parent for each in shape.spans} - {each.span_id for each in shape.spans} - {None}
    assert {each.span.span_id for each in last.spans} == gone
    assert last.synthetic == len(gone)
    stand_ins = Shape(shape.spans + tuple(each.span for each in last.spans))
    assert_one_tree([*leaving, *last.spans], stand_ins, SESSION_ID)


def test_ten_thousand_levels() -> None:
    """A guest as deep as it is large is grafted without recursion, and comes out from the top down."""
    spans = [span("0"), *(span(str(i), str(i - 1)) for i in range(1, 10_000))]
    result = grafted(*reversed(spans))
    assert [each.span.name for each in result.spans] == [str(i) for i in range(10_000)]
    circle = [replace(spans[0], parent=sid("9999"), parent_name="9999"), *spans[1:]]
    assert len(grafted(*circle).spans) == 10_000


def test_a_large_trace_is_grafted_in_steps_that_grow_with_it() -> None:
    """10,000 host spans and 6,000 guest spans, index, graft and memories together: 550,000 steps; to walk the spans
    before each of the guest's takes 36 million."""
    host = [ROOT, SESSION]
    host += [replace(ROOT, span_id=SpanId(i.to_bytes(8)), parent_span_id=ROOT_ID, name="work") for i in range(1, 9_999)]
    spans = [span("0"), *(span(str(i), str(i // 3), i) for i in range(1, 6_000))]
    with at_most_steps(1_500_000):
        index = AnchorIndex.of(host, POLICY)
        result = graft(guest(*spans), index, HOST, POLICY, None, {})
        encode_trace(index.memory(ReleaseReason.COMPLETE, UnixNano(1)))
        encode_guest(result.memory)
    assert len(result.spans) == 6_000


def test_a_million_span_ids_are_distinct_and_not_zero() -> None:
    """Ids of spans of one trace, of the form that the Agents SDK gives them."""
    ids = {guest_span_id(OPENAI_ID, f"span_{number:024x}") for number in range(1_000_000)}
    assert len(ids) == 1_000_000
    assert b"\0" * 8 not in ids


@settings(max_examples=50)
@given(st.text(st.characters()), st.text(st.characters()))
def test_odd_names_do_no_harm(trace: str, name: str) -> None:
    """Ids that are no UTF-8, or empty, are grafted and remembered like any other."""
    odd = GuestSpan(guest_span_id(trace, name), sid("gone"), name, name, 1, UnixNano(0), UnixNano(0), ())
    result = graft(Guest(trace, Source.SDK, (odd,), Link(HOST)), INDEX, HOST, STREAM, None, {name: name})
    assert len(result.spans) == 1
    through_store(result.memory)
