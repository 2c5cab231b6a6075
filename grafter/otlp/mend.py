"""Requests that the protobuf runtime refuses as a whole for one value: that value mended, the rest as it was.

A span is forwarded as it came, so what is in its strings is first looked at where somebody wants it as text. There the
runtime refuses a whole request for one byte that is not UTF-8 or one value that is nested too deeply. Read here are the
same messages with their strings declared as bytes and their nested values not read at all; so each is judged alone.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from grafter.core.semconv import GRAFTER_VALUE_ODD
from grafter.errors import RejectedError
from grafter.otlp import shallow_pb2 as shallow
from grafter.otlp.frames import framed

# Of values within values; the runtime reads a hundred levels of messages, of which each takes two and a span five.
_MAX_DEPTH = 40
_TOO_DEEP, _UNREADABLE = "(nested too deeply)", "(unreadable)"
_NOT_READ = {("KeyValue", "value"), ("ArrayValue", "values")}
_ODD = common_pb2.KeyValue(key=GRAFTER_VALUE_ODD, value=common_pb2.AnyValue(bool_value=True)).SerializeToString()
_RESOURCE_RUN, _SCOPE_RUN, _SPAN = 0x0A, 0x12, 0x12

_Kind = type[Any]

MAX_VALUES = 100_000
"""Of one span that is to be shown, or written as JSON."""

_NESTED: Mapping[str, Mapping[int, str]] = {
    "Span": {9: "KeyValue", 11: "Event", 13: "Link"},
    "Event": {3: "KeyValue"},
    "Link": {4: "KeyValue"},
    "KeyValue": {2: "AnyValue"},
    "AnyValue": {5: "ArrayValue", 6: "KeyValueList"},
    "ArrayValue": {1: "AnyValue"},
    "KeyValueList": {1: "KeyValue"},
}
"""Where in a span messages stand, by field number: a span's values are counted without being decoded."""


def readable(request: bytes) -> bytes:
    """The request, such that the runtime reads all of it; what was mended is marked ``grafter.value.odd``.

    Raises RejectedError when even its resources and scopes cannot be told apart.
    """
    out = []
    try:
        for resource_run in shallow.Request.FromString(request).resource_spans:
            scope_runs = list(resource_run.scope_spans)
            resource_run.ClearField("scope_spans")
            parts = [readable_resource(resource_run.SerializeToString())]
            for scope_run in scope_runs:
                spans = list(scope_run.spans)
                scope_run.ClearField("spans")
                scope = readable_scope(scope_run.SerializeToString())
                parts.append(framed(_SCOPE_RUN, scope + b"".join(framed(_SPAN, readable_span(raw)) for raw in spans)))
            out.append(framed(_RESOURCE_RUN, b"".join(parts)))
    except DecodeError as error:
        raise RejectedError("request is not a valid ExportTraceServiceRequest") from error
    return b"".join(out)


def check_size(raw: bytes) -> None:
    """Raise RejectedError for a serialised Span of more than MAX_VALUES attributes, events, links and values in them.

    A value of two bytes takes hundreds where it is decoded, so a span that is small on the wire may end the process.
    """
    if len(raw) < 2 * MAX_VALUES:
        return
    found = 0
    left: list[tuple[int, int, Mapping[int, str]]] = [(0, len(raw), _NESTED["Span"])]
    while left:
        at, end, nested = left.pop()
        while at < end:
            tag, at = _varint(raw, at)
            kind = tag & 7
            if kind == 2:
                size, at = _varint(raw, at)
                inner = nested.get(tag >> 3)
                if inner is not None:
                    found += 1
                    if size:
                        left.append((at, min(at + size, end), _NESTED[inner]))
                at += size
            elif kind == 0:
                _, at = _varint(raw, at)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            else:
                break
            if found > MAX_VALUES:
                raise RejectedError(f"a span has more than {MAX_VALUES:,} attributes, events, links and values")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(raw):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at


def readable_span(raw: bytes) -> bytes:
    """The same for one serialised Span. Raises RejectedError for what has not even a span's head."""
    try:
        # As deep as it will stand in a request.
        ExportTraceServiceRequest.FromString(framed(_RESOURCE_RUN, framed(_SCOPE_RUN, framed(_SPAN, raw))))
    except DecodeError:
        pass
    else:
        return raw
    try:
        span = _LENIENT_SPAN.FromString(raw)
    except DecodeError:
        # Something in it has no end. What says where the span belongs has, or it would not have been taken.
        try:
            head = shallow.Head.FromString(raw)
        except DecodeError as error:
            raise RejectedError("a span is no protobuf message") from error
        head.DiscardUnknownFields()
        span = _LENIENT_SPAN.FromString(head.SerializeToString())
    _mend(span)
    span.attributes.append(_KEY_VALUE.FromString(_ODD))
    return bytes(span.SerializeToString())


def readable_resource(raw: bytes) -> bytes:
    """The same for a serialised ResourceSpans without scopes."""
    return _envelope(_RESOURCE_SPANS, trace_pb2.ResourceSpans, raw, "resource")


def readable_scope(raw: bytes) -> bytes:
    """The same for a serialised ScopeSpans without spans."""
    return _envelope(_SCOPE_SPANS, trace_pb2.ScopeSpans, raw, "scope")


def _envelope(lenient: _Kind, kind: type[Message], raw: bytes, field: str) -> bytes:
    """A resource or scope with what stands beside it."""
    try:
        kind.FromString(raw)
    except DecodeError:
        pass
    else:
        return raw
    try:
        message = lenient.FromString(raw)
    except DecodeError:
        message = lenient()
    _mend(message)
    getattr(message, field).attributes.append(_KEY_VALUE.FromString(_ODD))
    return bytes(message.SerializeToString())


def _mend(message: Any, depth: int = _MAX_DEPTH) -> None:
    """Make UTF-8 of every string in a lenient message, and values that can be read of its values."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                _mend(inner, depth)
        elif (message.DESCRIPTOR.name, field.name) in _NOT_READ:
            if field.is_repeated:
                mended = [_value(inner, depth) for inner in value]
                message.ClearField(field.name)
                getattr(message, field.name).extend(mended)
            else:
                setattr(message, field.name, _value(value, depth))
        elif (message.DESCRIPTOR.full_name, field.name) in _STRINGS:
            if field.is_repeated:
                for at, text in enumerate(value):
                    value[at] = _text(text)
            else:
                setattr(message, field.name, _text(value))


def _value(raw: bytes, depth: int) -> bytes:
    """One serialised AnyValue, mended."""
    if depth <= 0:
        return common_pb2.AnyValue(string_value=_TOO_DEEP).SerializeToString()
    try:
        value = _LENIENT_VALUE.FromString(raw)
    except DecodeError:
        return common_pb2.AnyValue(string_value=_UNREADABLE).SerializeToString()
    _mend(value, depth - 1)
    return bytes(value.SerializeToString())


def _text(raw: bytes) -> bytes:
    return raw.decode("utf-8", "replace").encode()


_STRINGS: set[tuple[str, str]] = set()


def _lenient(pool: descriptor_pool.DescriptorPool, file: FileDescriptor) -> None:
    """Add a file to the pool under another package, its strings as bytes and its values not read."""
    raw = file.serialized_pb.replace(b"opentelemetry.proto", b"grafter.mendable_ls").replace(
        b"opentelemetry/proto", b"grafter/mendable_ls"
    )
    written = descriptor_pb2.FileDescriptorProto.FromString(raw)
    kinds = [(written.package, kind) for kind in written.message_type]
    while kinds:
        package, kind = kinds.pop()
        name = f"{package}.{kind.name}"
        kinds += [(name, inner) for inner in kind.nested_type]
        for field in kind.field:
            if field.type == FieldDescriptor.TYPE_STRING:
                _STRINGS.add((name, field.name))
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
            elif (kind.name, field.name) in _NOT_READ:
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
                field.ClearField("type_name")
    pool.Add(written)


def _kinds() -> dict[str, _Kind]:
    pool = descriptor_pool.DescriptorPool()
    for file in (common_pb2.DESCRIPTOR, resource_pb2.DESCRIPTOR, trace_pb2.DESCRIPTOR):
        _lenient(pool, file)
    trace, common = "grafter.mendable_ls.trace.v1.", "grafter.mendable_ls.common.v1."
    names = [trace + "ResourceSpans", trace + "ScopeSpans", trace + "Span", common + "KeyValue", common + "AnyValue"]
    return {
        name.rpartition(".")[2]: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names
    }


_KINDS = _kinds()
_RESOURCE_SPANS, _SCOPE_SPANS, _LENIENT_SPAN = _KINDS["ResourceSpans"], _KINDS["ScopeSpans"], _KINDS["Span"]
_KEY_VALUE, _LENIENT_VALUE = _KINDS["KeyValue"], _KINDS["AnyValue"]
