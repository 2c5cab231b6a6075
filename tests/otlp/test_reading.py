"""Forwarded traces as spans: what a page reads of OTLP to show a call and to work out whose time a wait was."""

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status, TracesData

from grafter.core.call_latency import Scalar, Step
from grafter.otlp.reading import read_spans, service_of

SPAN = Span(
    trace_id=b"t" * 16,
    span_id=b"s" * 8,
    parent_span_id=b"p" * 8,
    name="chat",
    kind=Span.SPAN_KIND_CLIENT,
    start_time_unix_nano=5,
    end_time_unix_nano=9,
    attributes=[
        KeyValue(key="word", value=AnyValue(string_value="x")),
        KeyValue(key="number", value=AnyValue(int_value=7)),
        KeyValue(key="length", value=AnyValue(double_value=0.5)),
        KeyValue(key="yes", value=AnyValue(bool_value=True)),
        KeyValue(key="list", value=AnyValue(array_value=ArrayValue())),
    ],
    status=Status(code=Status.STATUS_CODE_ERROR),
    events=[Span.Event(time_unix_nano=6, name="cut", attributes=[KeyValue(key="ms", value=AnyValue(int_value=1))])],
)
READ: dict[str, Scalar] = {"word": "x", "number": 7, "length": 0.5, "yes": True, "list": "[]"}


def test_every_span_of_a_document_is_a_step() -> None:
    """With its service, its attributes (what is no scalar as JSON) and its events; a parent of zeros is none."""
    root = Span(span_id=b"r" * 8, parent_span_id=bytes(8))
    resource = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value="voice"))])
    data = TracesData(
        resource_spans=[
            ResourceSpans(resource=resource, scope_spans=[ScopeSpans(spans=[SPAN])]),
            ResourceSpans(scope_spans=[ScopeSpans(spans=[root])]),
        ]
    )
    found = [read.step for read in read_spans([data.SerializeToString()])]
    assert found == [
        Step(b"s" * 8, b"p" * 8, "chat", "voice", 3, 5, 9, True, READ, ((6, "cut", {"ms": 1}),)),
        Step(b"r" * 8, b"", "", "", 0, 0, 0, False, {}),
    ]


def test_what_cannot_be_read_costs_nothing_else() -> None:
    """What is no document is left out, beside one that is; a resource that cannot be read names no service."""
    whole = TracesData(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[SPAN])])]).SerializeToString()
    assert service_of(b"\x0a\xff") == ""
    assert [read.step.span_id for read in read_spans([b"\x0a\xff", whole])] == [b"s" * 8]
