"""Protobuf bytes to OTLP JSON, by the rules that OTLP adds to proto3 JSON; the way back is ``from_json``.

Trace and span ids are written as hex, all other bytes as base64, enums as integers, 64-bit integers as strings, and
keys in lowerCamelCase. A request is written a span at a time: what is decoded at once is never more than one of them.
Source: OTLP specification, "JSON Protobuf Encoding".
"""

import math
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.errors import RejectedError
from grafter.otlp import shallow_pb2 as shallow
from grafter.otlp.mend import check_size, readable_resource, readable_scope, readable_span

ID_NAMES = frozenset({"traceId", "spanId", "parentSpanId"})
"""The bytes that OTLP JSON has in hex."""

Write = Callable[[Any], Any]


def trace_request_to_json(request: bytes) -> bytes:
    """A serialised ExportTraceServiceRequest as one OTLP JSON document, without a line break in it.

    What is not UTF-8 in it, or is nested too deeply to be read, is mended and marked. Raises RejectedError when the
    bytes are no such request, or a span in it has more values than can be written. Fields that this version of OTLP
    does not know are lost.
    """
    return b"".join(_resource_runs(request))


def _resource_runs(request: bytes) -> Iterator[bytes]:
    """The pieces of a request's document, a span at a time, so that never more than one of them is decoded."""
    try:
        resource_runs = shallow.Request.FromString(request).resource_spans
    except DecodeError as error:
        raise RejectedError("request is not a valid ExportTraceServiceRequest") from error
    yield b'{"resourceSpans":[' if resource_runs else b"{"
    for number, resource_run in enumerate(resource_runs):
        scope_runs = list(resource_run.scope_spans)
        resource_run.ClearField("scope_spans")
        resource = ResourceSpans.FromString(readable_resource(resource_run.SerializeToString()))
        yield b"," * (number > 0) + _opened(_to_dict(resource), "scopeSpans", scope_runs)
        for at, scope_run in enumerate(scope_runs):
            spans = list(scope_run.spans)
            scope_run.ClearField("spans")
            scope = ScopeSpans.FromString(readable_scope(scope_run.SerializeToString()))
            yield b"," * (at > 0) + _opened(_to_dict(scope), "spans", spans)
            for place, raw in enumerate(spans):
                check_size(raw)
                span = Span.FromString(readable_span(raw))
                yield b"," * (place > 0) + orjson.dumps(_to_dict(span))
            yield b"]}" if spans else b"}"
        yield b"]}" if scope_runs else b"}"
    yield b"]}" if resource_runs else b"}"


def _opened(fields: dict[str, Any], key: str, items: Sequence[object]) -> bytes:
    """An object with these fields, open at its end for a list of items, if there are any."""
    start = orjson.dumps(fields)[:-1]
    if not items:
        return start
    return start + (b"," if fields else b"") + f'"{key}":['.encode()


def message_to_json(message: Message) -> bytes:
    """Any OTLP message as one OTLP JSON document."""
    return orjson.dumps(_to_dict(message))


def _to_dict(message: Message) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for field, value in message.ListFields():
        name, write = _writer(field)
        out[name] = [write(item) for item in value] if field.is_repeated else write(value)
    return out


@cache
def _writer(field: FieldDescriptor) -> tuple[str, Write]:
    """The field's JSON key and the writer of one value."""
    name: str = field.json_name
    match field.type:
        case FieldDescriptor.TYPE_MESSAGE:
            return name, _to_dict
        case FieldDescriptor.TYPE_BYTES:
            return name, bytes.hex if name in ID_NAMES else lambda value: b64encode(value).decode()
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return name, _write_double
        case (
            FieldDescriptor.TYPE_INT64
            | FieldDescriptor.TYPE_SINT64
            | FieldDescriptor.TYPE_SFIXED64
            | FieldDescriptor.TYPE_UINT64
            | FieldDescriptor.TYPE_FIXED64
        ):
            return name, str
        case _:
            return name, lambda value: value


def _write_double(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
