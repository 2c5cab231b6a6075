"""Spans as grafter writes them, read by the runtime that whoever receives them has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from grafter.core.line_up import HostEdit
from grafter.core.model import (
    FLAG_HAS_IS_REMOTE,
    FLAG_SAMPLED,
    STATUS_ERROR,
    AttributeValue,
    Envelope,
    GraftedSpan,
    GuestSpan,
    SpanEvent,
    SpanId,
    SpanLink,
    TraceId,
    UnixNano,
)
from grafter.otlp.spans import Wanted, any_value, attribute_field, decode, edited, encode, key_value

TRACE, OWN, PARENT, OTHER = TraceId(b"t" * 16), SpanId(b"own span"), SpanId(b"parents."), SpanId(b"anothers")
VALUES = st.one_of(
    st.text(max_size=200),
    st.text(st.characters(codec=None), max_size=5),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=False),
    st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
PAIRS = st.lists(st.tuples(st.text(min_size=1, max_size=40), VALUES), max_size=6).map(tuple)


def pairs(attributes: object) -> list[tuple[str, AnyValue]]:
    return [(each.key, each.value) for each in attributes]  # type: ignore[attr-defined]


def expected(given: tuple[tuple[str, AttributeValue], ...]) -> list[tuple[str, AnyValue]]:
    return [(key.encode("utf-8", "replace").decode(), any_value(value)) for key, value in given]


@given(PAIRS, PAIRS, st.booleans())
def test_what_leaves_reads_as_what_was_meant(
    attributes: tuple[tuple[str, AttributeValue], ...], of_link: tuple[tuple[str, AttributeValue], ...], failed: bool
) -> None:
    """Each field of a span, of its links and its events, whatever kind a value is of and whatever stands in a text."""
    link, event = SpanLink(OTHER, of_link), SpanEvent(UnixNano(15), "said", of_link)
    span = GuestSpan(
        *(OWN, PARENT, "parent", "chat", 3, UnixNano(10), UnixNano(20), attributes),
        *(STATUS_ERROR if failed else 0, "no" if failed else "", (link,), (event,)),
    )
    read = Span.FromString(encode(GraftedSpan(span, TRACE, PARENT, "a=b", FLAG_SAMPLED, None, attributes)))
    flags = FLAG_SAMPLED | FLAG_HAS_IS_REMOTE
    assert pairs(read.attributes) == expected(attributes)
    assert pairs(read.links[0].attributes) == pairs(read.events[0].attributes) == expected(of_link)
    del read.attributes[:], read.links[0].attributes[:], read.events[0].attributes[:]
    assert read == Span(
        trace_id=TRACE,
        span_id=OWN,
        parent_span_id=PARENT,
        trace_state="a=b",
        name="chat",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=10,
        end_time_unix_nano=20,
        links=[Span.Link(trace_id=TRACE, span_id=OTHER, flags=flags)],
        events=[Span.Event(time_unix_nano=15, name="said")],
        status=Status(code=Status.STATUS_CODE_ERROR, message="no") if failed else None,
        flags=flags,
    )


@pytest.mark.parametrize("values", [(True, 1, 1.0), (1.0, 1, True), (False, 0, "0"), ("", "0", 0)])
def test_values_that_are_equal_in_python_keep_their_kinds(values: tuple[AttributeValue, ...]) -> None:
    """What was written before is found again by more than what Python holds for equal."""
    for value in values:
        read = Span.FromString(attribute_field("key", value))
        assert pairs(read.attributes) == [("key", any_value(value))]


def test_an_edit_stands_behind_what_came() -> None:
    """A span that came keeps its bytes; of two parents the later holds, and what is added is read like what came."""
    raw = Span(trace_id=TRACE, span_id=OWN, parent_span_id=OTHER, name="tool").SerializeToString()
    edit = HostEdit(PARENT, [("grafter.match", "call_id")], [SpanLink(OTHER, (("why", "asked"),))])
    out = edited(raw, edit, TRACE)
    read = Span.FromString(out)
    assert out.startswith(raw)
    assert (read.parent_span_id, read.name) == (PARENT, "tool")
    assert pairs(read.attributes) == expected((("grafter.match", "call_id"),))
    (link,) = read.links
    assert (link.trace_id, link.span_id, link.flags) == (TRACE, OTHER, FLAG_HAS_IS_REMOTE)
    assert pairs(link.attributes) == expected((("why", "asked"),))


def test_a_long_run_is_read_as_a_short_one() -> None:
    """Read span by span it takes less memory, and says the same."""
    spans = [
        Span(span_id=bytes([n]) * 8, name=f"step {n}", kind=n, start_time_unix_nano=n, attributes=[key_value("k", "v")])
        for n in (1, 2, 3)
    ]
    run = ScopeSpans(spans=spans).SerializeToString()
    large = ScopeSpans(spans=[Span(name="x" * (5 << 20))]).SerializeToString()
    envelope, wanted = Envelope(b"", b""), Wanted.of(frozenset({"k"}))
    short = list(decode(run, envelope, wanted))
    assert [(raw, host.name, host.attributes) for raw, host in short] == [
        (span.SerializeToString(), span.name, {"k": "v"}) for span in spans
    ]
    assert list(decode(run + large, envelope, wanted))[:3] == short
