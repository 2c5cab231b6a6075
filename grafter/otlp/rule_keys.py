"""What rules ask of spans: which of them have a call's id, and how those leave that move to another trace."""

from collections.abc import Iterable, Sequence, Set

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.core.join import GRAFTER_SOURCE
from grafter.core.model import RULE, AttributeValue, Facts, NamedLink, Part, Source, TraceId
from grafter.core.rules import MOST_VALUES, Moved, RuleSet, Values, moved_span_id
from grafter.core.semconv import (
    GRAFTER_ANCHOR,
    GRAFTER_GUEST_SPAN_ID,
    GRAFTER_GUEST_TRACE_ID,
    GRAFTER_LINK,
)
from grafter.otlp.frames import PREFIX, framed, spans_of
from grafter.otlp.guest_ids import Attributes, attributes_in, keyed
from grafter.otlp.shallow_pb2 import Head
from grafter.otlp.spans import attribute_field, attribute_text

_KEY_TAG = _TRACE_TAG = 0x0A
_SPAN_TAG, _PARENT_TAG = 0x12, 0x22
# An anchor is what a trace waits for as for its other half, in both stores.
_MATCHED = Facts.RULE | Facts.ANCHOR


class RuleKeys:
    """Looks for the keys of rules, each framed, in bytes first."""

    def __init__(self, rules: RuleSet, attributes: Attributes | None = None) -> None:
        """``attributes``: the compiled look at a span; None: the same in Python."""
        self._rules = rules
        self._attributes = attributes or attributes_in
        self._framed = tuple(framed(_KEY_TAG, key.encode()) for key in sorted(rules.match_keys | rules.host_keys))

    def mentioned(self, data: bytes) -> bool:
        """Whether one of the keys seems to stand there."""
        return any(key in data for key in self._framed)

    def mark(self, parts: Iterable[Part]) -> list[NamedLink]:
        """Mark the parts whose trace may move; and what is to be noted of those that may be hosts."""
        links: dict[str, NamedLink] = {}
        for part in parts:
            if not self.mentioned(part.payload):
                continue
            values = self.values([part.payload])
            if values.match:
                part.facts |= _MATCHED
            for link in self._rules.notes(TraceId(part.key), values):
                links.setdefault(link.guest, link)
        return list(links.values())

    def values(self, runs: Sequence[bytes]) -> Values:
        """What the spans of one trace have under the keys; of a key with many values, the first MOST_VALUES."""
        found: dict[str, dict[str, None]] = {}
        read: set[bytes] = set()
        keys = self._framed
        for raw in (raw for run in runs if self.mentioned(run) for raw in spans_of(run)):
            if not any(key in raw for key in keys):
                continue
            for key, text in self._pairs(raw, read):
                under = found.setdefault(key, {})
                if len(under) == MOST_VALUES:
                    # The span is read for another key.
                    continue
                under[text] = None
                if len(under) == MOST_VALUES:
                    keys = tuple(each for each in keys if each != framed(_KEY_TAG, key.encode()))
            if not keys:
                break
        return self._rules.values((key, text) for key, under in found.items() for text in under)

    def _pairs(self, raw: bytes, read: set[bytes]) -> Iterable[tuple[str, str]]:
        try:
            attributes = [KeyValue.FromString(each) for each in keyed(raw, self._framed, self._attributes, read)]
        except DecodeError:
            # Only its head was read so far. It is forwarded as it came.
            return
        for attribute in attributes:
            text = attribute_text(attribute.value)
            if text is not None:
                yield attribute.key, text


def moved_run(run: bytes, trace: bytes, to: Moved, kept: Set[bytes], roots: Set[bytes], *, own: bool) -> bytes:
    """A run of spans of a trace that moves: under the other's trace id, each span with an id by the rule for guests.

    ``own``: they came as spans of the trace; otherwise they are grafter's, of its guests, and keep their ids. ``kept``:
    the ids of all spans that keep theirs. ``roots``: the ids of those that came without a parent. What a span came with
    stays in its bytes, and what holds is appended; only a span with links into its own trace is written anew.
    """
    out: list[bytes] = []
    top: list[tuple[str, AttributeValue]] = [(GRAFTER_SOURCE, Source.OTLP.value), (GRAFTER_LINK, RULE)]
    if to.parent is None:
        top.append((GRAFTER_ANCHOR, to.anchor))
    for raw in spans_of(run):
        head = Head.FromString(raw)
        added = [framed(_TRACE_TAG, to.host)]
        if any(head.parent_span_id):
            parent = head.parent_span_id
            added.append(framed(_PARENT_TAG, parent if parent in kept else moved_span_id(trace, parent)))
        elif to.parent is not None:
            added.append(framed(_PARENT_TAG, to.parent))
        if own:
            added.append(framed(_SPAN_TAG, moved_span_id(trace, head.span_id)))
            ids = [(GRAFTER_GUEST_TRACE_ID, trace.hex()), (GRAFTER_GUEST_SPAN_ID, head.span_id.hex())]
            added += [attribute_field(key, value) for key, value in ids]
            if head.span_id in roots:
                # One that hangs under its step hangs somewhere, whatever the anchor is.
                hangs = any(head.parent_span_id)
                added += [attribute_field(key, value) for key, value in (top[:2] if hangs else top)]
        span = b"".join((_relinked(raw, trace, to, kept), *added))
        out += (PREFIX[len(span)], span)
    return b"".join(out)


def _relinked(raw: bytes, trace: bytes, to: Moved, kept: Set[bytes]) -> bytes:
    """A span whose links into its own trace lead to where that is now."""
    if raw.count(trace) < 2:
        return raw
    try:
        span = Span.FromString(raw)
    except DecodeError:
        return raw
    inside = [link for link in span.links if link.trace_id == trace]
    for link in inside:
        link.trace_id = to.host
        if link.span_id not in kept:
            link.span_id = moved_span_id(trace, link.span_id)
    return span.SerializeToString() if inside else raw
