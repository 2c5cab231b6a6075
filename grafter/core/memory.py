"""What is kept of a trace after its release, so that what comes late hangs where it would have hung.

Of a host trace: which spans left, and where guests may hang. Of a guest: under which trace id and which host span it
left, and which of its spans are gone. ``core.memory_blobs`` packs both for the store.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from grafter.core.explain import MOST_STEPS, GuestRecord, Step
from grafter.core.left_steps import GuestIndex, StepIndex
from grafter.core.lifecycle import ReleaseReason
from grafter.core.model import Envelope, SpanId, TraceId, UnixNano
from grafter.core.rules import Moved

ID_BYTES = 8

HOST_SPAN_IDS_LIMIT = 20_000
"""Span ids kept of one host trace, the first that left: a guest names a span from early in the call, and 160 kB a
trace is what a memory may cost. A guest that names a later one is hung as if it had named none."""

ANCHORS_LIMIT = 1_000
"""Anchor spans kept of one host trace: those that started last, since a late guest belongs to the end of a call."""

NAMED_GUESTS_LIMIT = 100
"""Guests named in the memory of one host trace, for whoever asks what joined it."""

GUEST_SPAN_IDS_LIMIT = 250_000
"""Ids kept of the spans sent of one guest, the last that left: repeats come soon after the first."""

RESOURCE_LIMIT = 16 << 10
"""Bytes of a root's resource that are kept; a guest that comes late under a larger one takes none of its attributes."""

ENVELOPE_LIMIT = 2 << 10
"""The same of the envelope of an anchor, unless its resource is the root's."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a guest hangs, and how that was found."""

    span_id: SpanId | None
    """None: nowhere, its top-level spans are roots of the host trace."""
    how: str
    """``named``, ``selector``, ``root``, ``unseen`` (named, and not known to exist) or ``none``; a metric label."""
    trace_state: str
    flags: int
    """As on the anchor's span; of ``unseen`` and ``none`` what is known of the host's other spans, or of the link."""
    envelope: Envelope | None
    """Whose resource a guest that was measured in the app takes; None where no span was seen."""


@dataclass(frozen=True, slots=True)
class AnchorSpan:
    """A host span that matched an anchor selector."""

    span_id: SpanId
    start: UnixNano
    end: UnixNano
    trace_state: str
    flags: int
    envelope: Envelope | None
    conversation_ids: frozenset[str] = frozenset()


@dataclass(slots=True)  # not frozen: one is made for each trace, and a frozen one takes three times as long
class TraceMemory:
    """What is kept of a released host trace."""

    reason: ReleaseReason
    released_at: UnixNano
    root: SpanId | None = None
    root_trace_state: str = ""
    root_flags: int = 0
    root_envelope: Envelope | None = None
    span_ids: bytes = b""
    """The 8-byte ids of the host spans that left, joined, up to HOST_SPAN_IDS_LIMIT; one may stand here twice."""
    anchors: tuple[AnchorSpan, ...] = ()
    """Up to ANCHORS_LIMIT."""
    steps: StepIndex = field(default_factory=StepIndex)
    """Up to STEPS_LIMIT of each."""
    guests: tuple[str, ...] = ()
    """The guests that left with it, as their sources wrote them; up to NAMED_GUESTS_LIMIT."""
    moved: Moved | None = None
    """By a rule it left under the trace id of another."""
    summed: str = ""
    """What its sums are of, where it left with any: ``waits`` of callers, or ``runs`` of agents. What comes late of the
    other kind may lie within them."""
    guest_steps: GuestIndex = field(default_factory=GuestIndex)
    """Of the guests that left with it."""
    late: tuple[Step, ...] = ()
    """Host spans that came after guests had left, and what was found of theirs; the first MOST_STEPS."""

    def sent(self, span_id: bytes) -> bool:
        """The host span left, as far as is remembered."""
        ids = self.span_ids
        at = ids.find(span_id)
        while at % ID_BYTES and at >= 0:  # found across two neighbours
            at = ids.find(span_id, at + 1)
        return at >= 0


@dataclass(frozen=True, slots=True)
class Awaited:
    """A parent that guest spans already sent name, and that has not come (stream mode)."""

    name: str
    """Its id as the guest wrote it."""
    start: UnixNano
    end: UnixNano
    """The time that those children span."""
    stood_in: bool = False
    """A synthetic span was sent in its place."""


@dataclass(frozen=True, slots=True)
class GuestMemory:
    """What is kept of a guest of which spans have left."""

    host: TraceId | None
    """None: it left without a link, as a trace of its own."""
    trace_id: TraceId
    """The trace id under which it left."""
    sent: bytes = b""
    """The 8-byte ids of its spans that left, joined, up to GUEST_SPAN_IDS_LIMIT."""
    head: Mapping[str, object] = field(default_factory=dict)
    """What the mapping wants to know again of the trace object; JSON."""
    anchor: Anchor | None = None
    """Where it was hung; None for a trace of its own."""
    under: bytes = b""
    """Stream mode: beside each id of ``sent`` its parent, or zeros for one that is settled. Empty otherwise."""
    awaited: Mapping[SpanId, Awaited] = field(default_factory=dict)
    """Stream mode: parents that may still come."""
    record: GuestRecord | None = field(default=None, compare=False)
    """What was decided about it, for whoever asks why."""

    def sent_ids(self) -> set[SpanId]:
        """The ids of ``sent``, one by one."""
        sent = self.sent
        return {SpanId(sent[i : i + ID_BYTES]) for i in range(0, len(sent), ID_BYTES)}


def merged(old: TraceMemory | None, new: TraceMemory, spoken_for: Iterable[SpanId] = ()) -> TraceMemory:
    """The memory of a trace after more of its host spans have left: the first decision holds, the rest is added.

    ``spoken_for``: turns of guests that left before, which these host spans were found to be without an id.
    """
    if old is None:
        return new
    rooted = old if old.root is not None else new
    anchors = {anchor.span_id: anchor for anchor in (*new.anchors, *old.anchors)}
    return replace(
        old,
        root=rooted.root,
        root_trace_state=rooted.root_trace_state,
        root_flags=rooted.root_flags,
        root_envelope=rooted.root_envelope,
        # Repeats are not looked for: in stream mode this runs at each request of a trace that may be hours long.
        span_ids=(old.span_ids + new.span_ids)[: HOST_SPAN_IDS_LIMIT * ID_BYTES],
        anchors=latest_anchors(anchors.values()) if new.anchors else old.anchors,
        steps=old.steps.merged(new.steps),
        guests=tuple(dict.fromkeys((*old.guests, *new.guests)))[:NAMED_GUESTS_LIMIT],
        summed=old.summed or new.summed,
        guest_steps=old.guest_steps.merged(new.guest_steps, spoken_for),
        late=(*old.late, *new.late)[:MOST_STEPS],
    )


def latest_anchors(anchors: Iterable[AnchorSpan]) -> tuple[AnchorSpan, ...]:
    """Those of them that are kept, in an order that depends on nothing but themselves."""
    return tuple(sorted(anchors, key=lambda anchor: (anchor.start, anchor.span_id))[-ANCHORS_LIMIT:])
