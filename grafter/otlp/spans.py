"""Single spans: decoded for the join, encoded after it, edited by appending."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from grafter.core import semconv
from grafter.core.line_up import HostEdit
from grafter.core.model import (
    FLAG_HAS_IS_REMOTE,
    AttributeValue,
    Envelope,
    GraftedSpan,
    HostSpan,
    SpanEvent,
    SpanId,
    SpanLink,
    UnixNano,
)
from grafter.otlp.frames import PREFIX, framed, spans_of
from grafter.otlp.shallow_pb2 import Head, HeadScopeRun, ScopeRun

_NONE: Mapping[str, AttributeValue] = MappingProxyType({})
_MAX_UINT64 = (1 << 64) - 1
_MAX_INT64 = (1 << 63) - 1
_WORD = 64
"""Characters of a text that may well come again."""
_ATTRIBUTES_TAG = 0x4A
"""Field 9, length-delimited: Span.attributes."""
_VALUE_TAG = 0x12
"""Field 2: KeyValue.value."""
_STRING_TAG = 0x0A
"""Field 1: AnyValue.string_value."""
_PARENT_TAG = 0x22
"""Field 4: Span.parent_span_id."""
_LINKS_TAG = 0x6A
"""Field 13: Span.links."""
_LINKED_TRACE_TAG, _LINKED_SPAN_TAG = 0x0A, 0x12
"""Fields 1 and 2: Span.Link.trace_id and Span.Link.span_id."""
_LINK_ATTRIBUTES_TAG = 0x22
"""Field 4: Span.Link.attributes."""


def attribute_text(value: AnyValue) -> str | None:
    """A scalar attribute as text, as a selector writes it; None for arrays, maps and bytes."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind == "int_value":
        return str(value.int_value)
    if kind == "double_value":
        return repr(value.double_value)
    return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """The attributes of host spans that are read, and how a span is known that may have one."""

    keys: frozenset[str]
    prefix: str = "\0"
    """Keys that begin so are read too."""
    marks: tuple[bytes, ...] = ()
    """Of each key that matters alone a piece stands here."""

    @classmethod
    def of(cls, alone: frozenset[str], more: frozenset[str] = frozenset(), *marks: str, prefix: str = "\0") -> "Wanted":
        """``alone``: keys that matter wherever they stand; ``more``: keys beside one of the marks."""
        pieces = [*marks, *sorted(alone, key=len)]
        # Where one is a piece of another, it is found with it.
        fewest = [piece for at, piece in enumerate(pieces) if not any(other in piece for other in pieces[:at])]
        return cls(alone | more, prefix, tuple(piece.encode() for piece in fewest))


_WHOLE_BYTES = 4 << 20
"""A longer run is read span by span: as a whole it takes twice its own room once more."""


def decode(payload: bytes, envelope: Envelope, wanted: Wanted) -> Iterator[tuple[bytes, HostSpan]]:
    """Each span of a run as it came, and what the join reads of it. Attributes: only the wanted keys, as text, lists of
    strings as tuples.

    Only the head of a span is parsed, unless a mark of a wanted key stands somewhere in its bytes.
    """
    # Most of them stand nowhere in a run, which one look at all of it says.
    marks = [mark for mark in wanted.marks if mark in payload]
    raws: Iterable[bytes]
    heads: Iterable[Head]
    if len(payload) <= _WHOLE_BYTES:
        # A run is a ScopeSpans without its scope: read as a whole it takes half the time of as many single spans.
        raws, heads = ScopeRun.FromString(payload).spans, HeadScopeRun.FromString(payload).spans
    else:
        raws, heads = spans_of(payload), map(Head.FromString, spans_of(payload))
    for raw, head in zip(raws, heads, strict=True):
        attributes = _NONE
        for mark in marks:
            if mark in raw:
                attributes = _texts(raw, wanted)
                break
        parent, trace_state = head.parent_span_id, head.trace_state
        yield (
            raw,
            HostSpan(
                SpanId(head.span_id),
                parent if any(parent) else b"",
                head.name.decode("utf-8", "replace"),
                UnixNano(head.start_time_unix_nano),
                UnixNano(head.end_time_unix_nano),
                head.flags,
                trace_state.decode("utf-8", "replace") if trace_state else "",
                envelope,
                attributes,
                head.kind,
            ),
        )


def _texts(raw: bytes, wanted: Wanted) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {}
    try:
        attributes = Span.FromString(raw).attributes
    except DecodeError:
        # The head can be read and the rest cannot: the span is forwarded as it came, it only anchors nothing.
        return found
    keys, prefix = wanted.keys, wanted.prefix
    for attribute in attributes:
        key = attribute.key
        if key in keys or key.startswith(prefix):
            value = attribute.value
            # Most are texts that say something, of which there is nothing else to ask.
            text = value.string_value or attribute_text(value) or _words(value)
            if text is not None:
                found[key] = text
    return found


def _words(value: AnyValue) -> tuple[str, ...] | str | None:
    """A list of strings; of a scalar its text."""
    if value.WhichOneof("value") != "array_value":
        return attribute_text(value)
    members = value.array_value.values
    if any(member.WhichOneof("value") != "string_value" for member in members):
        return None
    return tuple(member.string_value for member in members)


def grafter_scope(version: str) -> bytes:
    """The scope of everything that grafter makes, as an envelope's ``scope``."""
    scope = InstrumentationScope(name="grafter", version=version)
    return ScopeSpans(scope=scope, schema_url=semconv.SCHEMA_URL).SerializeToString()


def service_resource(service_name: str) -> bytes:
    """A resource that says only the service's name, as an envelope's ``resource``."""
    resource = Resource(attributes=[key_value("service.name", service_name)])
    return ResourceSpans(resource=resource).SerializeToString()


def encode(grafted: GraftedSpan) -> bytes:
    """A grafted span as a serialised Span, its fields in ascending order."""
    source = grafted.span
    flags = grafted.flags | FLAG_HAS_IS_REMOTE
    head = Span(
        trace_id=grafted.trace_id,
        span_id=source.span_id,
        trace_state=grafted.trace_state,
        parent_span_id=grafted.parent_span_id,
        name=_text(source.name),
        kind=source.kind,  # type: ignore[arg-type]  # the enum is open: any int is kept
        start_time_unix_nano=_time(source.start),
        end_time_unix_nano=_time(source.end),
    )
    fields = [head.SerializeToString()]
    fields += [attribute_field(key, value) for key, value in grafted.attributes]
    if source.events:
        fields.append(_events(source.events))
    fields += [_link_field(link, grafted.trace_id, flags) for link in source.links]
    if source.status_code:
        status = Status(code=source.status_code, message=_text(source.status_message))  # type: ignore[arg-type]  # see kind
        fields.append(Span(status=status).SerializeToString())
    fields.append(_flags_field(flags))
    return b"".join(fields)


def _events(events: Iterable[SpanEvent]) -> bytes:
    span = Span()
    for event in events:
        span.events.add(
            time_unix_nano=_time(event.time),
            name=_text(event.name),
            attributes=[key_value(key, value) for key, value in event.attributes],
        )
    return span.SerializeToString()


def _link_field(link: SpanLink, trace_id: bytes, flags: int) -> bytes:
    fields = [framed(_LINKED_TRACE_TAG, trace_id), framed(_LINKED_SPAN_TAG, link.span_id)]
    fields += [attribute_field(key, value, _LINK_ATTRIBUTES_TAG) for key, value in link.attributes]
    fields.append(_link_flags_field(flags))
    return framed(_LINKS_TAG, b"".join(fields))


@lru_cache(256)
def _link_flags_field(flags: int) -> bytes:
    return Span.Link(flags=flags).SerializeToString()


@lru_cache(256)
def _flags_field(flags: int) -> bytes:
    return Span(flags=flags).SerializeToString()


def with_attribute(run: bytes, key: str, value: AttributeValue) -> bytes:
    """The run with one attribute more on each span; everything else stays byte for byte."""
    added = attribute_field(key, value)
    out: list[bytes] = []
    for span in spans_of(run):
        out += (PREFIX[len(span) + len(added)], span, added)
    return b"".join(out)


def edited(raw: bytes, edit: HostEdit, trace_id: bytes) -> bytes:
    """A serialised span with what the edit adds behind it; what it came with stays byte for byte, but for attributes
    that the edit gives another name.

    The later of two parents is the one that holds (proto3: the last of a scalar's values wins).
    """
    added = [_renamed(raw, edit.renamed) if edit.renamed else raw]
    if edit.parent is not None:
        added.append(framed(_PARENT_TAG, edit.parent))
    added += [attribute_field(key, value) for key, value in edit.attributes]
    added += [_link_field(link, trace_id, FLAG_HAS_IS_REMOTE) for link in edit.links]
    return b"".join(added)


def _renamed(raw: bytes, names: Mapping[str, str]) -> bytes:
    span = Span.FromString(raw)
    for attribute in span.attributes:
        attribute.key = names.get(attribute.key, attribute.key)
    return span.SerializeToString()


def attribute_field(key: str, value: AttributeValue, tag: int = _ATTRIBUTES_TAG) -> bytes:
    """One attribute as a field that can be appended to any serialised Span; ``tag``: of the field that it is there."""
    if isinstance(value, str):
        return _word_field(key, value, tag) if len(value) <= _WORD else _text_field(key, value, tag)
    return framed(tag, key_value(key, value).SerializeToString())


@lru_cache(4096)
def _word_field(key: str, value: str, tag: int) -> bytes:
    """Names, models and words of a few spellings are on every span; writing one anew costs many times a look."""
    return _text_field(key, value, tag)


def _text_field(key: str, value: str, tag: int) -> bytes:
    """Nearly all attributes are texts, and many come once: framed by hand in half the time that a message takes."""
    text = framed(_VALUE_TAG, framed(_STRING_TAG, value.encode("utf-8", "replace")))
    return framed(tag, _key_field(key) + text)


@lru_cache(4096)
def _key_field(key: str) -> bytes:
    return KeyValue(key=_text(key)).SerializeToString()


def key_value(key: str, value: AttributeValue) -> KeyValue:
    return KeyValue(key=_text(key), value=any_value(value))


def any_value(value: AttributeValue) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            if -_MAX_INT64 - 1 <= value <= _MAX_INT64:
                return AnyValue(int_value=value)
            return AnyValue(string_value=str(value))
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=_text(value))
        case _:
            return AnyValue(array_value=ArrayValue(values=_strings(value)))


def _strings(values: Iterable[str]) -> list[AnyValue]:
    return [AnyValue(string_value=_text(v)) for v in values]


def _text(text: str) -> str:
    # protobuf strings are UTF-8: a lone surrogate, legal in JSON, would make the whole span unsendable.
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def _time(nanoseconds: int) -> int:
    return min(max(nanoseconds, 0), _MAX_UINT64)
