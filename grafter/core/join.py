"""Hanging guests under their host: ids, parents, resource, sampling bits, and what was sent before.

The answer is a set of spans that depends on the guest's spans alone: not on the order in which they came, nor on how
often, nor on where one release ended and the next began, apart from what can no longer be said of spans already sent.

Stream mode sends spans before their parents. There a parent that has not come keeps its place, is remembered as
awaited, and is stood in for by a synthetic span when the wait for it is over; should it come after all it leaves too,
under the same id.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from grafter.core.anchor import AnchorIndex, find
from grafter.core.explain import MOST_STEPS, GuestRecord, Refusal
from grafter.core.memory import ID_BYTES, Anchor, Awaited, GuestMemory
from grafter.core.model import (
    FLAG_HAS_IS_REMOTE,
    FLAG_SAMPLED,
    SPAN_KIND_INTERNAL,
    AttributeValue,
    GraftedSpan,
    Guest,
    GuestSpan,
    SpanId,
    TraceId,
    UnixNano,
    unlinked_trace_id,
)
from grafter.core.policy import GraftPolicy, HostMissing, Mode
from grafter.core.semconv import (
    AGENTS_SPAN_ID,
    AGENTS_TRACE_ID,
    GRAFTER_ANCHOR,
    GRAFTER_GUEST_SPAN_ID,
    GRAFTER_LINK,
    GRAFTER_PARENT_MISSING,
    GRAFTER_SYNTHETIC,
)
from grafter.core.state import GuestState

GRAFTER_SOURCE = "grafter.source"
"""Where the guest came from: a Source."""

STAND_IN_NAME = "openai.span_not_received"

_SETTLED = b"\0" * ID_BYTES


@dataclass(frozen=True, slots=True)
class Grafted:
    """What leaves of one guest in one release."""

    spans: tuple[GraftedSpan, ...]
    """Parents first; siblings by start, then by id."""
    repeated: int
    """Guest spans left out: they came twice, or had left before."""
    match: str
    """How the anchor was found; a metric label."""
    memory: GuestMemory
    synthetic: int
    """How many of the spans grafter made up."""

    @property
    def record(self) -> GuestRecord:
        """What was decided about the guest, as far as that is known here."""
        record = self.memory.record
        assert record is not None
        return record

    def explained(self, record: GuestRecord) -> "Grafted":
        """The same with more on the record."""
        return replace(self, memory=replace(self.memory, record=record))


def graft(
    guest: Guest,
    index: AnchorIndex,
    host: TraceId,
    policy: GraftPolicy,
    earlier: GuestMemory | None,
    head: Mapping[str, object],
    *,
    overdue: bool = False,
) -> Grafted:
    """Hang a guest's spans under the host span that the index finds for it, under the host's trace id.

    ``earlier``: what was kept of the guest when spans of it left before. They are not sent again, count as parents,
    and what comes now hangs where they hang. ``head``: what the mapping wants to have remembered of the trace object.

    A top-level span hangs under the anchor. So does one whose parent did not come, and the one that starts first of
    spans that name each other in a circle; both name the parent that they lost in ``grafter.parent.missing``.
    Without an anchor these are roots of the host trace and say so.

    In stream mode a parent that did not come is waited for, unless the time for that is over (``overdue``); then a
    synthetic span stands in for it, also where only its children of earlier releases name it.

    The same input gives the same answer, whatever the order of the guest's spans. Never raises for odd input.
    """
    refused: list[Refusal] = []
    anchor = earlier.anchor if earlier is not None and earlier.trace_id == host else None
    if anchor is None or anchor.how == "none":
        # A guest that left without an anchor may have one by now; spans that are roots do not bind the later ones.
        anchor = find(guest, index, refused)
    return _hang(guest, host, host, anchor, earlier, head, refused, stream=policy.mode is Mode.STREAM, overdue=overdue)


def host_missing_drops(guest: GuestState, policy: GraftPolicy) -> bool:
    """A guest whose host never came is dropped instead: by policy, or because the host was sampled away."""
    if policy.host_missing is HostMissing.FOLLOW_FLAGS:
        return guest.sampled is False
    return policy.host_missing is HostMissing.DROP


def alone(guest: Guest, earlier: GuestMemory | None, head: Mapping[str, object]) -> Grafted:
    """A guest without a link, as a trace of its own: under its own trace id where that can be one."""
    anchor = Anchor(None, "none", "", FLAG_SAMPLED, None)
    refused = [Refusal("link", "malformed")] if head.get("malformed") else []
    return _hang(guest, unlinked_trace_id(guest.trace_id), None, anchor, earlier, head, refused)


def _hang(
    guest: Guest,
    trace_id: TraceId,
    host: TraceId | None,
    anchor: Anchor,
    earlier: GuestMemory | None,
    head: Mapping[str, object],
    refused: Sequence[Refusal],
    *,
    stream: bool = False,
    overdue: bool = False,
) -> Grafted:
    sent = earlier.sent_ids() if earlier is not None else set()
    here = earlier is not None and earlier.trace_id == trace_id
    spans = _once(guest.spans, sent)
    awaited = dict(earlier.awaited) if earlier is not None and here else {}
    for span_id in spans:
        awaited.pop(span_id, None)

    # The parent of each span that keeps the one it names, and the awaited ones among those.
    parents: dict[SpanId, SpanId] = {}
    for span in spans.values():
        if span.parent is None:
            continue
        if span.parent in spans or (here and span.parent in sent):
            parents[span.span_id] = span.parent
        elif stream:
            parents[span.span_id] = span.parent
            awaited[span.parent] = _waiting(awaited.get(span.parent), span)
    for span_id in _cuts(spans, parents, earlier if here else None):
        del parents[span_id]

    stand_ins: dict[SpanId, GuestSpan] = {}
    if stream and overdue:
        for span_id, waiting in awaited.items():
            if not waiting.stood_in:
                stand_ins[span_id] = _stand_in(guest, span_id, waiting)
                awaited[span_id] = replace(waiting, stood_in=True)

    ordered = _parents_first(spans | stand_ins, parents)
    sent_now = b"".join(span.span_id for span in ordered if span.span_id not in stand_ins)
    under = b""
    if stream or (earlier is not None and earlier.under):
        before = earlier.under.ljust(len(earlier.sent), b"\0") if earlier is not None else b""
        under = before + b"".join(
            parents.get(span.span_id, _SETTLED) for span in ordered if span.span_id not in stand_ins
        )
    return Grafted(
        spans=_hung(guest, ordered, parents, trace_id, anchor, linked=host is not None),
        repeated=len(guest.spans) - len(spans),
        match=anchor.how,
        memory=GuestMemory(
            host=host,
            trace_id=trace_id,
            sent=(earlier.sent if earlier is not None else b"") + sent_now,
            head=dict(head or (earlier.head if earlier is not None else {})),
            anchor=anchor if host is not None else None,
            under=under,
            awaited=awaited,
            record=_record(guest, spans.values(), parents, anchor if host is not None else None, earlier, refused),
        ),
        synthetic=len(stand_ins),
    )


def _record(
    guest: Guest,
    spans: Iterable[GuestSpan],
    parents: Mapping[SpanId, SpanId],
    anchor: Anchor | None,
    earlier: GuestMemory | None,
    refused: Sequence[Refusal],
) -> GuestRecord:
    """What was decided here, after what an earlier release has on record of the guest's steps."""
    lost = {span.parent_name: None for span in spans if span.parent is not None and span.span_id not in parents}
    known = (earlier.record if earlier is not None else None) or GuestRecord(guest.trace_id, guest.source.value)
    return replace(
        known,
        guest=guest.trace_id,
        source=guest.source.value,
        link="" if guest.link is None else guest.link.how,
        anchor="" if anchor is None else anchor.how,
        span="" if anchor is None or anchor.span_id is None else anchor.span_id.hex(),
        refused=tuple(refused) or known.refused,
        missing=tuple(lost)[:MOST_STEPS],
    )


def _once(spans: Iterable[GuestSpan], sent: set[SpanId]) -> dict[SpanId, GuestSpan]:
    """Each span that has not left before, once; of two that differ under one id always the same one."""
    once: dict[SpanId, GuestSpan] = {}
    for span in spans:
        if span.span_id in sent:
            continue
        known = once.setdefault(span.span_id, span)
        if known is not span and known != span:
            once[span.span_id] = max(known, span, key=_fullness)
    return once


def _fullness(span: GuestSpan) -> tuple[UnixNano, UnixNano, int, str]:
    # A span that is sent again mostly says more: it ended later, or has more to tell.
    return span.end, span.start, len(span.attributes), repr(span)


def _cuts(
    spans: Mapping[SpanId, GuestSpan], parents: Mapping[SpanId, SpanId], earlier: GuestMemory | None
) -> list[SpanId]:
    """Of each circle of parents the span that starts first, the smaller id first: there it is cut open.

    Only stream mode can close a circle through spans that have left, for only there do they wait for a parent.
    """
    edges = parents
    if earlier is not None and earlier.under:
        edges = _edges(earlier) | dict(parents)
    cuts = []
    walked: dict[SpanId, int] = {}
    for walk, node in enumerate(spans):
        while node in edges and node not in walked:
            walked[node] = walk
            node = edges[node]
        if walked.get(node) != walk:
            continue
        circle = [node]
        following = edges[node]
        while following != node:
            circle.append(following)
            following = edges[following]
        movable = [spans[span_id] for span_id in circle if span_id in spans]
        if movable:
            cuts.append(min(movable, key=_earlier).span_id)
    return cuts


def _edges(memory: GuestMemory) -> dict[SpanId, SpanId]:
    """Child and parent, of the spans that left without being settled."""
    edges = {}
    for i in range(0, len(memory.under), ID_BYTES):
        parent = memory.under[i : i + ID_BYTES]
        if parent != _SETTLED:
            edges[SpanId(memory.sent[i : i + ID_BYTES])] = SpanId(parent)
    return edges


def _parents_first(spans: Mapping[SpanId, GuestSpan], parents: Mapping[SpanId, SpanId]) -> list[GuestSpan]:
    """Depth first without recursion: a guest may be ten thousand levels deep."""
    tops: list[GuestSpan] = []
    children: dict[SpanId, list[GuestSpan]] = {}
    # Latest first, so that the stack gives the earliest back first.
    for span in sorted(spans.values(), key=_earlier, reverse=True):
        parent = parents.get(span.span_id)
        if parent is None or parent not in spans:
            tops.append(span)
        else:
            children.setdefault(parent, []).append(span)
    ordered = []
    stack = tops
    while stack:
        span = stack.pop()
        ordered.append(span)
        stack.extend(children.get(span.span_id, ()))
    return ordered


def _hung(
    guest: Guest,
    spans: Iterable[GuestSpan],
    parents: Mapping[SpanId, SpanId],
    trace_id: TraceId,
    anchor: Anchor,
    *,
    linked: bool,
) -> tuple[GraftedSpan, ...]:
    """The spans as they leave. Only those at the top say how they came there: a column on each would be noise."""
    at_top: list[tuple[str, AttributeValue]] = [(GRAFTER_SOURCE, guest.source.value)]
    if guest.link is not None:
        at_top.append((GRAFTER_LINK, guest.link.how))
    if linked and anchor.how in ("none", "unseen"):
        at_top.append((GRAFTER_ANCHOR, anchor.how))
    # A parent in the same trace is not remote, and grafter knows that: both bits of the flags' second byte are stated.
    flags = anchor.flags & 0xFF | FLAG_HAS_IS_REMOTE
    envelope = anchor.envelope if guest.measured_in_app else None
    at_anchor = anchor.span_id or b""
    leaving = []
    for span in spans:
        parent = parents.get(span.span_id)
        attributes = span.attributes
        if parent is None:
            added = at_top
            if span.parent is not None:
                added = [*at_top, (GRAFTER_PARENT_MISSING, span.parent_name or span.parent.hex())]
            names = {name for name, _ in added}
            attributes = (*(pair for pair in attributes if pair[0] not in names), *added)
        leaving.append(
            GraftedSpan(
                span=span,
                trace_id=trace_id,
                parent_span_id=at_anchor if parent is None else parent,
                trace_state=anchor.trace_state,
                flags=flags,
                envelope=envelope,
                attributes=attributes,
            )
        )
    return tuple(leaving)


def _waiting(known: Awaited | None, child: GuestSpan) -> Awaited:
    """The parent that the child names, spanning its children's time."""
    if known is None:
        return Awaited(child.parent_name, child.start, child.end)
    return replace(known, start=min(known.start, child.start), end=max(known.end, child.end))


def _stand_in(guest: Guest, span_id: SpanId, waiting: Awaited) -> GuestSpan:
    """A span in place of a parent that was waited for in vain."""
    return GuestSpan(
        span_id=span_id,
        parent=None,
        parent_name="",
        name=STAND_IN_NAME,
        kind=SPAN_KIND_INTERNAL,
        start=waiting.start,
        end=waiting.end,
        attributes=(*_own_ids(guest, waiting.name), (GRAFTER_SYNTHETIC, True)),
    )


def _own_ids(guest: Guest, name: str) -> tuple[tuple[str, AttributeValue], ...]:
    """The ids by which the guest's source knows a span that has not come."""
    if not guest.one_trace:
        # Which of its traces it is in stands on its children.
        return ((GRAFTER_GUEST_SPAN_ID, name),)
    return ((AGENTS_TRACE_ID, guest.trace_id), (AGENTS_SPAN_ID, name))


def _earlier(span: GuestSpan) -> tuple[UnixNano, SpanId]:
    return span.start, span.span_id
