"""Attribute values that must not be read behind grafter, wherever in a span, resource or scope their key stands.

A key may name an attribute, stand in a map within a list within a map, or in JSON that is the text of another
attribute, JSON within JSON included: metadata, tool arguments and answers travel like that.
"""

from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.core import semconv
from grafter.core.model import AttributeValue, Envelope
from grafter.otlp.frames import PREFIX, spans_of
from grafter.otlp.mend import readable_resource, readable_scope, readable_span
from grafter.otlp.spans import any_value, attribute_text

Rewrite = Callable[[AttributeValue], AttributeValue | None]

_MADE = (".metadata.", f"{semconv.AGENTS_CUSTOM}.", f"{semconv.AGENTS_MODEL_CONFIG}.")
"""Before a key of some metadata, custom data or settings that was made an attribute of its own."""
# JSON within JSON; what lies deeper is taken for one value.
_MAX_TEXTS = 8


class Redaction:
    """One set of keys, and what their values become (None: left out)."""

    def __init__(self, keys: frozenset[str], rewrite: Rewrite) -> None:
        self._keys = keys
        self._rewrite = rewrite
        self._needles = [key.encode() for key in keys]
        self._made = tuple(made + key for made in _MADE for key in keys)

    def run(self, run: bytes) -> bytes:
        """A run of framed spans without those values, on spans, events, links and in the status.

        Spans that hold none of the keys stay byte for byte; one that holds one and cannot be decoded is mended.
        """
        out: list[bytes] = []
        for raw in spans_of(run):
            changed = self._span(raw) if self._may_hold(raw) else raw
            out += (PREFIX[len(changed)], changed)
        return b"".join(out)

    def envelope(self, envelope: Envelope) -> Envelope:
        """The envelope without those values in its resource and scope."""
        if not (self._may_hold(envelope.resource) or self._may_hold(envelope.scope)):
            return envelope
        resource = ResourceSpans.FromString(readable_resource(envelope.resource))
        scope = ScopeSpans.FromString(readable_scope(envelope.scope))
        touched = self._attributes(resource.resource.attributes) if resource.HasField("resource") else False
        touched |= self._attributes(scope.scope.attributes) if scope.HasField("scope") else False
        return Envelope(resource.SerializeToString(), scope.SerializeToString()) if touched else envelope

    def _may_hold(self, raw: bytes) -> bool:
        # In JSON a key may be written with escapes.
        return b"\\" in raw or any(needle in raw for needle in self._needles)

    def _span(self, raw: bytes) -> bytes:
        touched = False
        try:
            span = Span.FromString(raw)
        except DecodeError:
            span, touched = Span.FromString(readable_span(raw)), True
        touched |= self._attributes(span.attributes)
        for event in span.events:
            touched |= self._attributes(event.attributes)
        for link in span.links:
            touched |= self._attributes(link.attributes)
        message = self._text(span.status.message, _MAX_TEXTS)
        if message != span.status.message:
            span.status.message, touched = message, True
        return span.SerializeToString() if touched else raw

    def _attributes(self, attributes: "RepeatedCompositeFieldContainer[KeyValue]") -> bool:
        """Rewrite in place; whether anything was."""
        touched = False
        gone: list[int] = []
        for index, attribute in enumerate(attributes):
            if attribute.key in self._keys or attribute.key.endswith(self._made):
                text = attribute_text(attribute.value)
                # Arrays, maps and bytes have no canonical text of their own: their wire form is as good a name.
                value = self._rewrite(text if text is not None else attribute.value.SerializeToString().hex())
                touched = True
                if value is None:
                    gone.append(index)
                else:
                    attribute.value.CopyFrom(any_value(value))
            else:
                touched |= self._value(attribute.value)
        for index in reversed(gone):
            del attributes[index]
        return touched

    def _value(self, value: AnyValue) -> bool:
        match value.WhichOneof("value"):
            case "kvlist_value":
                return self._attributes(value.kvlist_value.values)
            case "array_value":
                return any([self._value(element) for element in value.array_value.values])  # noqa: C419  # each of them
            case "string_value":
                text = self._text(value.string_value, _MAX_TEXTS)
                if text != value.string_value:
                    value.string_value = text
                    return True
        return False

    def _text(self, text: str, texts: int) -> str:
        """A text with the values rewritten in it, if it is JSON; itself where it holds no key."""
        if text.lstrip()[:1] not in ("{", "[", '"') or not self._may_hold(text.encode()):
            return text
        try:
            changed = self._json(orjson.loads(text), texts)
            # Written anew even where nothing was found: of a key that comes twice only the last value was read.
            return orjson.dumps(changed).decode()
        except (ValueError, RecursionError):
            # Cut off, or nested past all measure: where one of the keys stands in it, all of it is that key's value.
            if any(f'"{key}' in text for key in self._keys):
                whole = self._rewrite(text)
                return "" if whole is None else str(whole)
            return text

    def _json(self, value: Any, texts: int) -> Any:
        if isinstance(value, dict):
            kept = {}
            for key, member in value.items():
                if key in self._keys:
                    rewritten = self._rewrite(member if isinstance(member, str) else orjson.dumps(member).decode())
                    if rewritten is not None:
                        kept[key] = rewritten
                else:
                    kept[key] = self._json(member, texts)
            return kept
        if isinstance(value, list):
            return [self._json(member, texts) for member in value]
        if isinstance(value, str):
            if texts == 0:
                return (self._rewrite(value) or "") if any(key in value for key in self._keys) else value
            return self._text(value, texts - 1)
        return value
