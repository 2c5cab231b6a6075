"""OTLP JSON to protobuf bytes, by the rules that OTLP adds to proto3 JSON; the way back is ``to_json``.

Trace and span ids are hex (any case), all other bytes base64; enums are integers; keys are lowerCamelCase, any other
key is unknown and ignored; 64-bit integers are read from strings or numbers. The generic proto3 JSON reader keeps none
of these rules, so the tables here are made from the message descriptors. Source: OTLP specification, "JSON Protobuf
Encoding".

What does not keep to them costs itself: a value of another kind is mended, and what holds it says so
(``grafter.value.odd``); what cannot be mended is left out of its span, or out of its list, alone. No number of a
metric is mended: its data point is left out.
"""

import binascii
import json
import math
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NoReturn

import orjson
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import EncodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter.consumer import Signal
from grafter.core.large_json import MANY_VALUES, read_in_turns, values_in
from grafter.core.semconv import GRAFTER_VALUE_ODD
from grafter.errors import RejectedError
from grafter.otlp.to_json import ID_NAMES

# The protobuf runtimes refuse to read messages that are nested deeper; what is written here must be readable.
_MAX_DEPTH = 100

# No id has so many bytes, so whoever checks the ids finds this one wrong, wherever it stands.
_NO_ID = b"no id"

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_INTEGER_RANGES = {
    FieldDescriptor.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_SINT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_SFIXED32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.TYPE_FIXED32: (0, (1 << 32) - 1),
    FieldDescriptor.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_SINT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_SFIXED64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.TYPE_FIXED64: (0, (1 << 64) - 1),
}

Read = Callable[[Any], Any]

# What says of itself that a value in it was mended.
_MARKED = frozenset(
    {
        "opentelemetry.proto.trace.v1.Span",
        "opentelemetry.proto.logs.v1.LogRecord",
        "opentelemetry.proto.resource.v1.Resource",
        "opentelemetry.proto.common.v1.InstrumentationScope",
    }
)
# Where a field that cannot be read is left out, and the rest is worth having.
_FORGIVING = ("opentelemetry.proto.trace.", "opentelemetry.proto.common.", "opentelemetry.proto.resource.")
_CONTAINERS = frozenset({"resourceSpans", "scopeSpans", "spans"})
_HELD = {
    "ResourceSpans": "scopeSpans",
    "ScopeSpans": "spans",
    "ResourceMetrics": "scopeMetrics",
    "ScopeMetrics": "metrics",
    "ResourceLogs": "scopeLogs",
    "ScopeLogs": "logRecords",
}
"""By message, the key of what it is there for."""
_LINK = "opentelemetry.proto.trace.v1.Span.Link"
# What is no item by itself, but a value of one.
_INSIDE_SPANS = ("opentelemetry.proto.common.", "opentelemetry.proto.trace.v1.Span.")
_MAX_DOUBLE = 1 << 1023
_ANY_VALUE = "opentelemetry.proto.common.v1.AnyValue"


class _WrongError(Exception):
    """A value of the wrong shape; the path grows while it leaves the levels of the document."""

    def __init__(self, expected: str, instead: Any = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.instead = instead
        """What the value can only have meant; None when nobody knows."""
        self.path: list[str] = []


@dataclass(slots=True)
class Oddities:
    """What a document had that OTLP JSON has not."""

    rejected: int = 0
    """Spans, log records or data points that were left out."""
    mended: int = 0
    """Values that were mended, or left out of what holds them."""
    first: str = ""
    """Where the first of all stood, and what was expected there; never a value."""

    def note(self, message: Message, path: str, expected: str) -> None:
        """Keep where it was, if it is the first."""
        self.first = self.first or f"{message.DESCRIPTOR.name}{path}: expected {expected}"


def trace_request_from_json(body: bytes, odd: Oddities | None = None) -> bytes:
    """One OTLP JSON document as a serialised ExportTraceServiceRequest; ``odd`` is filled with what was amiss.

    Raises RejectedError, which names the path but no value, when the document as a whole has another shape. A span
    whose ids are of the wrong length, or not hex, is carried through with ids that the split refuses, so that it
    alone is lost.
    """
    return _from_json(ExportTraceServiceRequest(), body, Oddities() if odd is None else odd)


def request_from_json(signal: Signal, body: bytes, odd: Oddities | None = None) -> bytes:
    """The same for a metrics or logs request."""
    message = ExportMetricsServiceRequest() if signal is Signal.METRICS else ExportLogsServiceRequest()
    return _from_json(message, body, Oddities() if odd is None else odd)


def _from_json(message: Message, body: bytes, odd: Oddities) -> bytes:
    document = _loads(body)
    try:
        _fill(message, document, _MAX_DEPTH, odd)
    except _WrongError as error:
        path = "".join(reversed(error.path)).lstrip(".") or "document"
        raise RejectedError(f"OTLP JSON: {path}: expected {error.expected}") from None
    expected = next(iter(_readers(message.DESCRIPTOR)))
    if document and expected not in document:
        # Unknown keys are ignored, but of a document that has no other nothing would be kept.
        raise RejectedError(f"OTLP JSON: document: expected the key {expected}, and keys in lowerCamelCase throughout")
    try:
        return message.SerializeToString()
    except EncodeError as error:
        # Whatever its fields hold they can be written: it is how protobuf says this.
        raise MemoryError from error


def _loads(body: bytes) -> Any:
    in_turns = values_in(body) > MANY_VALUES
    if not in_turns:
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
    # JavaScript writes half a surrogate pair where it cut a string, others cut in the middle of a character; orjson
    # refuses both. Slower, but seldom. Each byte that is not UTF-8 becomes half a surrogate pair too.
    try:
        text = body.decode("utf-8", "surrogateescape")
        if in_turns:
            return read_in_turns(text, _no_constant)
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        # The error's own text may quote the body.
        raise RejectedError("request body is not valid JSON, or is nested too deeply") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _fill(message: Message, value: Any, depth: int, odd: Oddities) -> None:
    if type(value) is not dict:
        raise _WrongError("an object")
    if depth <= 0:
        raise _WrongError("fewer levels")
    descriptor = message.DESCRIPTOR
    readers = _readers(descriptor)
    oneofs: set[str] = set()
    mended = odd.mended
    for key, item in value.items():
        known = readers.get(key)
        if known is None or item is None:
            if known is None and "_" in key and _camel(key) in readers:
                odd.note(message, f".{key}", f"{_camel(key)}, and keys in lowerCamelCase throughout")
            continue
        name, oneof, repeated, read = known
        try:
            if oneof:
                if oneof in oneofs:
                    raise _WrongError(f"one value of {oneof} only")
                oneofs.add(oneof)
            if repeated:
                _fill_list(getattr(message, name), item, read, depth, odd)
            elif read is None:
                nested = getattr(message, name)
                nested.SetInParent()
                _fill(nested, item, depth - 1, odd)
            else:
                setattr(message, name, read(item))
        except _WrongError as error:
            error.path.append(f".{key}")
            _mend(message, name, key, item, error, odd)
    held = _HELD.get(descriptor.name)
    if held is not None and not value.get(held) and _has_more(value, readers):
        # Such as the instrumentationLibrarySpans of old SDKs: unknown keys are ignored, but nothing else is here.
        odd.rejected += 1
        odd.note(message, "", f"{held}, and keys in lowerCamelCase throughout")
    if odd.mended != mended and descriptor.full_name in _MARKED:
        message.attributes.add(key=GRAFTER_VALUE_ODD).value.bool_value = True  # type: ignore[attr-defined]


def _has_more(value: dict[Any, Any], known: Mapping[str, object]) -> bool:
    return any(key not in known and type(item) in (dict, list) and item for key, item in value.items())


def _mend(message: Message, name: str, key: str, item: Any, error: _WrongError, odd: Oddities) -> None:
    """Do without the value that an error is about. Raises the error where more than that is wrong."""
    kind = message.DESCRIPTOR.full_name
    if error.instead is not None:
        setattr(message, name, error.instead)
    elif kind == _ANY_VALUE:
        if message.WhichOneof("value") in (None, name):
            message.Clear()
            if type(item) in (int, float) and abs(item) < _MAX_DOUBLE:
                message.double_value = item  # type: ignore[attr-defined]
            else:
                message.string_value = _as_text(item)  # type: ignore[attr-defined]
    elif kind.startswith(_FORGIVING):
        message.ClearField(name)
    else:
        raise error
    if key in _CONTAINERS:
        odd.rejected += 1
    else:
        odd.mended += 1
    odd.note(message, "".join(reversed(error.path)), error.expected)


def _as_text(value: Any) -> str:
    if type(value) is str:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    try:
        return json.dumps(value, separators=(",", ":"))
    except RecursionError:
        return ""


def _camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _fill_list(target: Any, items: Any, read: Read | None, depth: int, odd: Oddities) -> None:
    if type(items) is not list:
        raise _WrongError("a list")
    for at, item in enumerate(items):
        if read is not None:
            try:
                target.append(read(item))
            except _WrongError as error:
                error.path.append(f"[{at}]")
                raise
            continue
        message = target.add()
        try:
            _fill(message, item, depth - 1, odd)
            if message.DESCRIPTOR.full_name == _LINK and _NO_ID in (message.trace_id, message.span_id):
                # Backends refuse a whole request for it.
                raise _WrongError("ids in hex")
        except _WrongError as error:
            del target[-1]
            error.path.append(f"[{at}]")
            odd.note(message, "".join(reversed(error.path)), error.expected)
            if message.DESCRIPTOR.full_name.startswith(_INSIDE_SPANS):
                odd.mended += 1
            else:
                odd.rejected += 1


@cache
def _readers(descriptor: Descriptor) -> dict[str, tuple[str, str, bool, Read | None]]:
    """By JSON key: the field's name, its oneof's name, whether it is a list, its reader (None: a message)."""
    return {
        field.json_name: (
            field.name,
            field.containing_oneof.name if field.containing_oneof is not None else "",
            field.is_repeated,
            _reader(field),
        )
        for field in descriptor.fields
    }


def _reader(field: FieldDescriptor) -> Read | None:
    match field.type:
        case FieldDescriptor.TYPE_MESSAGE:
            return None
        case FieldDescriptor.TYPE_STRING:
            return _read_string
        case FieldDescriptor.TYPE_BYTES:
            return _read_id if field.json_name in ID_NAMES else _read_bytes
        case FieldDescriptor.TYPE_BOOL:
            return _read_bool
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return _read_double
        case FieldDescriptor.TYPE_ENUM:
            assert field.enum_type is not None
            return partial(_read_enum, _enum_names(field.enum_type))
        case _:
            return _integer_reader(*_INTEGER_RANGES[field.type])


def _read_string(value: Any) -> str:
    if type(value) is not str:
        raise _WrongError("a string", _as_text(value))
    try:
        value.encode()
    except UnicodeEncodeError:
        # protobuf strings are UTF-8, which has no lone surrogates.
        raise _WrongError("UTF-8", _as_text(value)) from None
    return value


def _read_id(value: Any) -> bytes:
    if type(value) is not str:
        return _NO_ID
    try:
        return binascii.unhexlify(value)
    except ValueError:
        return _NO_ID


def _read_bytes(value: Any) -> bytes:
    if type(value) is not str:
        raise _WrongError("a base64 string")
    # proto3 JSON takes the standard and the URL-safe alphabet, with padding or without.
    text = value.rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise _WrongError("a base64 string") from None


def _read_bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _WrongError("true or false", {"true": True, "false": False}.get(value) if type(value) is str else None)
    return value


def _read_double(value: Any) -> float:
    if type(value) is str and value in _SPECIAL:
        return _SPECIAL[value]
    if type(value) in (float, int) or (type(value) is str and _NUMBER.fullmatch(value)):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise _WrongError("a number")


def _read_enum(names: dict[str, int], value: Any) -> int:
    if type(value) is not int or not -(1 << 31) <= value < 1 << 31:
        raise _WrongError("an enum value as an integer", names.get(value.upper()) if type(value) is str else None)
    return value


def _enum_names(enum: EnumDescriptor) -> dict[str, int]:
    """What is written where an enum's number is meant: its name, the name without what all of them begin with, as APIs
    of the SDKs have it, or the digits."""
    names = {name: value.number for name, value in enum.values_by_name.items()}
    common = next(iter(names)).rpartition("_")[0] + "_"
    return {
        **names,
        **{name.removeprefix(common): number for name, number in names.items()},
        **{str(number): number for number in names.values()},
    }


def _integer_reader(least: int, most: int) -> Read:
    expected = f"an integer from {least} to {most}"

    def read(value: Any) -> int:
        if (type(value) is float and value.is_integer()) or (type(value) is str and _INTEGER.fullmatch(value)):
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise _WrongError(expected)
        return value

    return read
