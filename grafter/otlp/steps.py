"""Spans as the arithmetic of a call's waits reads them (``core.call_latency``), from OTLP."""

from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, TracesData

from grafter.core.call_latency import Scalar, Step
from grafter.core.model import STATUS_ERROR


def steps_of(document: bytes) -> Iterator[Step]:
    """The spans of a serialised TracesData, which an export request is too. Raises ValueError for what is none."""
    try:
        data = TracesData.FromString(document)
    except DecodeError as error:
        raise ValueError("no OTLP traces") from error
    for resource_spans in data.resource_spans:
        service = _service(resource_spans.resource)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield _step(span, service, span.parent_span_id if any(span.parent_span_id) else b"")


def service_of(resource: bytes) -> str:
    """The service that an envelope's resource names; empty where it names none."""
    try:
        return _service(ResourceSpans.FromString(resource).resource)
    except DecodeError:
        return ""


def _service(resource: Resource) -> str:
    return next((one.value.string_value for one in resource.attributes if one.key == "service.name"), "")


def _step(span: Span, service: str, parent: bytes) -> Step:
    return Step(
        span.span_id,
        parent,
        span.name,
        service,
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == STATUS_ERROR,
        _scalars(span.attributes),
        tuple((event.time_unix_nano, event.name, _scalars(event.attributes)) for event in span.events),
    )


def _scalars(attributes: Iterable[KeyValue]) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    for one in attributes:
        kind = one.value.WhichOneof("value")
        if kind in ("string_value", "bool_value", "int_value", "double_value"):
            found[one.key] = getattr(one.value, kind)
    return found
