"""A host that never ended its root, as one that crashed: the spans that stand in for those that never came.

What an app had open when it died is never sent: its root, and mostly the span of the session, whose children and whose
OpenAI half have come. Each of those parents is stood in for under its own id, so that what names it hangs where it
would have hung, also what comes later, and no span of the app changes; above them stands one root that says what it is.
A trace that begins in another process says so by its flags, and is not one of these.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from grafter.core.model import (
    FLAG_HAS_IS_REMOTE,
    FLAG_IS_REMOTE,
    SPAN_KIND_INTERNAL,
    AttributeValue,
    GraftedSpan,
    Guest,
    GuestSpan,
    HostSpan,
    SpanId,
    TraceId,
    UnixNano,
    guest_span_id,
)
from grafter.core.semconv import CRASH, GRAFTER_ENDED_BY, GRAFTER_SYNTHETIC

ROOT_NAME = "app.root_not_received"
SPAN_NAME = "app.span_not_received"


@dataclass(frozen=True, slots=True)
class StandIns:
    """What stands in for spans of the host that never came."""

    root: HostSpan
    """As an anchor."""
    spans: tuple[GraftedSpan, ...]
    """The root first. Of the resource of the host's first span."""


def stand_ins(trace: TraceId, host: Sequence[HostSpan], guests: Iterable[Guest]) -> StandIns | None:
    """What stands in for the missing parents of these host spans, and for the spans that the guests' metadata name.

    None where nothing is missing, where there is a root, and where a parent is in another process. The only parent that
    is missing is the root itself; above several stands one with an id made of the trace id.
    """
    if not host or any(not span.parent_span_id or span.flags & FLAG_IS_REMOTE for span in host):
        return None
    known = {span.span_id for span in host}
    times: dict[SpanId, tuple[UnixNano, UnixNano]] = {}
    start, end = min(span.start for span in host), max(span.end for span in host)
    for span in host:
        if span.parent_span_id not in known:
            _widen(times, SpanId(span.parent_span_id), span.start, span.end)
    for guest in guests:
        named = None if guest.link is None or guest.link.host != trace else guest.link.span_id
        for part in guest.spans:
            start, end = min(start, part.start), max(end, part.end)
            if named is not None and named not in known:
                _widen(times, named, part.start, part.end)
    if not times:
        return None
    first = min(host, key=lambda span: (span.start, span.span_id))
    root_id = next(iter(times)) if len(times) == 1 else guest_span_id(trace.hex(), ROOT_NAME)
    attributes: tuple[tuple[str, AttributeValue], ...] = ((GRAFTER_SYNTHETIC, True), (GRAFTER_ENDED_BY, CRASH))
    spans = [_span(trace, first, root_id, b"", ROOT_NAME, start, end, attributes)]
    if len(times) > 1:
        for span_id, (begun, ended) in sorted(times.items()):
            spans.append(_span(trace, first, span_id, root_id, SPAN_NAME, begun, ended, attributes[:1]))
    root = HostSpan(root_id, b"", ROOT_NAME, start, end, first.flags & 0xFF, first.trace_state, first.envelope)
    return StandIns(root, tuple(spans))


def _widen(times: dict[SpanId, tuple[UnixNano, UnixNano]], span_id: SpanId, start: UnixNano, end: UnixNano) -> None:
    begun, ended = times.get(span_id, (start, end))
    times[span_id] = min(begun, start), max(ended, end)


def _span(
    trace: TraceId,
    first: HostSpan,
    span_id: SpanId,
    parent: bytes,
    name: str,
    start: UnixNano,
    end: UnixNano,
    attributes: tuple[tuple[str, AttributeValue], ...],
) -> GraftedSpan:
    span = GuestSpan(span_id, None, "", name, SPAN_KIND_INTERNAL, start, end, attributes)
    flags = first.flags & 0xFF | FLAG_HAS_IS_REMOTE
    return GraftedSpan(span, trace, parent, first.trace_state, flags, first.envelope, attributes)
