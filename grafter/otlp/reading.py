"""Forwarded traces as whoever explains them reads them: every span with all of its attributes, as it was sent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, SpanFlags, Status, TracesData

from grafter.core.call_latency import Scalar, Step
from grafter.core.joined_steps import is_guests

GRAFTER_SCOPE = "grafter"
"""The scope of everything that grafter makes: OpenAI's spans, and those that stand for one that never came."""

_SAYS_REMOTE = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
# JSON of what lies deeper would be read by nobody.
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class ReadSpan:
    """A span, and what of it is no matter of time."""

    step: Step
    trace_id: bytes
    guest: bool
    """Made by grafter of what OpenAI's side sent."""
    message: str = ""
    """Of its status; may hold anything."""
    links: tuple[tuple[bytes, bytes], ...] = ()
    """Trace id and span id of each."""
    remote: bool | None = None
    """Whether its parent is in another process; None where its sender does not say."""
    resource: Mapping[str, Scalar] = field(default_factory=dict)
    scope: str = ""
    """Its name."""


def read_spans(documents: Sequence[bytes]) -> Iterator[ReadSpan]:
    """The spans of serialised TracesData, each once, in the order in which they stand.

    Of a span that was sent twice the last one counts. A document that cannot be read is left out: it is one release of
    several, and the others are worth seeing.
    """
    found: dict[tuple[bytes, bytes], ReadSpan] = {}
    for document in documents:
        try:
            data = TracesData.FromString(document)
        except DecodeError:
            continue
        for resource_spans in data.resource_spans:
            resource = _attributes(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                scope = scope_spans.scope.name
                for span in scope_spans.spans:
                    found[span.trace_id, span.span_id] = _read(span, resource, scope)
    yield from found.values()


def service_of(resource: bytes) -> str:
    """The service that an envelope's resource names; empty where it names none, or cannot be read."""
    try:
        return _service(_attributes(ResourceSpans.FromString(resource).resource.attributes))
    except DecodeError:
        return ""


def _service(resource: Mapping[str, Scalar]) -> str:
    service = resource.get("service.name", "")
    return service if isinstance(service, str) else ""


def _read(span: Span, resource: Mapping[str, Scalar], scope: str) -> ReadSpan:
    step = Step(
        span.span_id,
        span.parent_span_id if any(span.parent_span_id) else b"",
        span.name,
        _service(resource),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == Status.STATUS_CODE_ERROR,
        _attributes(span.attributes),
        tuple((event.time_unix_nano, event.name, _attributes(event.attributes)) for event in span.events),
    )
    links = tuple((link.trace_id, link.span_id) for link in span.links)
    remote = bool(span.flags & SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK) if span.flags & _SAYS_REMOTE else None
    guest = scope == GRAFTER_SCOPE or is_guests(step)
    return ReadSpan(step, span.trace_id, guest, span.status.message, links, remote, resource, scope)


def _attributes(attributes: RepeatedCompositeFieldContainer[KeyValue]) -> Mapping[str, Scalar]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Scalar:
    """A scalar as it is; what is none as JSON text."""
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "int_value":
            return value.int_value
        case "bool_value":
            return value.bool_value
        case "double_value":
            return value.double_value
        case None:
            return ""
    return orjson.dumps(_plain(value)).decode()


def _plain(value: AnyValue, depth: int = 0) -> object:
    match value.WhichOneof("value"):
        case "array_value":
            return "…" if depth == _DEEPEST else [_plain(each, depth + 1) for each in value.array_value.values]
        case "kvlist_value":
            pairs = value.kvlist_value.values
            return "…" if depth == _DEEPEST else {each.key: _plain(each.value, depth + 1) for each in pairs}
        case "bytes_value":
            return f"{len(value.bytes_value):,} bytes"
    return _value(value)
