"""What the protobuf runtime refuses as a whole, mended where it is wrong and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.errors import RejectedError
from grafter.otlp.frames import framed
from grafter.otlp.mend import readable, readable_span
from grafter.otlp.split import Splitter

ODD = KeyValue(key="grafter.value.odd", value=AnyValue(bool_value=True))
BAD = b"caf\xe9"


def span(number: int, **more) -> bytes:
    return Span(trace_id=b"t" * 16, span_id=number.to_bytes(8), **more).SerializeToString()


def attribute(key: bytes, value: bytes) -> bytes:
    return framed(0x4A, framed(0x0A, key) + framed(0x12, value))


def request(*spans: bytes, resource: bytes = b"", scope: bytes = b"") -> bytes:
    return framed(0x0A, resource + framed(0x12, scope + b"".join(framed(0x12, one) for one in spans)))


def read(*spans: bytes, **more) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(readable(request(*spans, **more)))


def spans_of(message: ExportTraceServiceRequest) -> list[Span]:
    return list(message.resource_spans[0].scope_spans[0].spans)


def test_one_string_that_is_not_utf8_costs_its_characters() -> None:
    """Name, key, value, event and status are mended where they stand; a neighbour stays byte for byte."""
    odd = span(1, start_time_unix_nano=7) + framed(0x2A, b"n\xff") + attribute(b"k", framed(0x0A, BAD))
    odd += attribute(b"k\xff", b"") + framed(0x5A, framed(0x12, b"e\xff")) + framed(0x7A, framed(0x12, b"m\xff"))
    good = span(2, name="good")
    mended, other = spans_of(read(odd, good))
    assert (mended.name, mended.events[0].name, mended.status.message) == ("n\ufffd", "e\ufffd", "m\ufffd")
    assert [(a.key, a.value.string_value) for a in mended.attributes[:2]] == [("k", "caf\ufffd"), ("k\ufffd", "")]
    assert (mended.attributes[2], mended.start_time_unix_nano) == (ODD, 7)
    assert other.SerializeToString() == good


def test_resources_and_scopes_are_mended_and_marked() -> None:
    """One bad byte in a resource does not cost every span that shares it."""
    bad = framed(0x0A, framed(0x0A, framed(0x0A, b"service.name") + framed(0x12, framed(0x0A, BAD))))
    message = read(span(1), resource=bad, scope=framed(0x0A, framed(0x0A, b"scope\xff")))
    resource, scope = message.resource_spans[0].resource, message.resource_spans[0].scope_spans[0].scope
    assert (resource.attributes[0].value.string_value, resource.attributes[1]) == ("caf\ufffd", ODD)
    assert (scope.name, scope.attributes[0]) == ("scope\ufffd", ODD)


@pytest.mark.parametrize("levels", [60, 300])
def test_what_is_nested_too_deeply_ends_in_a_word(levels: int) -> None:
    """A value past what the runtime reads is cut there, and its neighbours stay."""
    value = framed(0x0A, b"deep")
    for _ in range(levels):
        value = framed(0x2A, framed(0x0A, value))
    (mended,) = spans_of(read(span(1, name="n") + attribute(b"deep", value) + attribute(b"k", framed(0x0A, b"v"))))
    assert "(nested too deeply)" in str(mended.attributes[0])
    assert [a.key for a in mended.attributes] == ["deep", "k", "grafter.value.odd"]


def test_a_span_whose_insides_have_no_end_keeps_its_head() -> None:
    """What the door took can be shown: its ids, name and times at least."""
    raw = span(1, name="call", start_time_unix_nano=7) + b"\x4a\x05\x0a\x10aaa"
    mended = Span.FromString(readable_span(raw))
    assert (mended.name, mended.span_id, mended.start_time_unix_nano) == ("call", (1).to_bytes(8), 7)
    assert list(mended.attributes) == [ODD]


@given(
    junk=st.binary(max_size=40), key=st.binary(max_size=8), fields=st.lists(st.sampled_from([0x2A, 0x4A, 0x5A, 0x6A]))
)
def test_whatever_the_door_takes_can_be_read(junk: bytes, key: bytes, fields: list[int]) -> None:
    """Any bytes in any field of a span that the split takes become a request that the runtime reads, with that span."""
    raw = span(1) + b"".join(framed(tag, framed(0x0A, key) + junk) for tag in fields)
    taken = Splitter(()).split(request(raw))
    assert taken.spans == 1
    assert spans_of(read(raw))[0].span_id == (1).to_bytes(8)


def test_bytes_that_are_no_request_are_refused() -> None:
    """Where not even resources can be told apart, nothing is made up."""
    with pytest.raises(RejectedError):
        readable(b"\x0a\xff")
