"""What is kept of a trace after its release, so that what comes late hangs where it would have hung.

Two blobs, each under a version of its own byte: of a host trace, which spans left and where guests may hang; of a
guest, under which trace id and which host span it left and which of its spans are gone. Most traces have no guest,
so the memory of a plain one is packed without any JSON in it.

A version is only ever added to: a reader that knows it reads it, one that does not leaves the blob alone.
"""

import base64
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from grafter.core.explain import MOST_STEPS, GuestRecord, Step, rows_of, steps_of
from grafter.core.guest_index import GuestIndex
from grafter.core.lifecycle import ReleaseReason
from grafter.core.model import Envelope, SpanId, TraceId, UnixNano
from grafter.core.rules import Moved
from grafter.core.sampling.policies import SamplingDecision
from grafter.core.step_index import StepIndex

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

_MOVED, _GUEST_STEPS, _LATE = "moved", "guest_steps", "late"
"""Keys in the JSON of a host's blob; a reader that does not know them leaves them aside."""
_TRACE_KIND = ord("T")
_GUEST_KIND = ord("G")
_VERSION = 1

_HAS_ROOT, _HAS_ENVELOPE, _BY_DIGEST = 1, 2, 4
"""The last: in the place of the root's resource stands its digest, and whoever stored the blob has the rest."""
_DIGEST = 16
# A shorter one takes no more room than what it would take to share it.
_SHARED_FROM = 64
_HAS_HOST = 1

# kind, version, what is there, length of the reason, moment of release, root, its flags, then the lengths of its trace
# state, its envelope's resource and scope, the span ids and the JSON.
_TRACE_HEAD = struct.Struct(">BBBBq8sIIIIII")
# kind, version, what is there, host, trace id, then the lengths of the ids, of the parents and of the JSON.
_GUEST_HEAD = struct.Struct(">BBB16s16sIII")

_NO_SPAN = b"\0" * ID_BYTES
_REASONS = {reason: reason.value.encode() for reason in ReleaseReason}
_BY_REASON = {text: reason for reason, text in _REASONS.items()}


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

    def encode(self) -> bytes:
        """A blob for the store."""
        present = 0
        root = _NO_SPAN
        trace_state = resource = scope = more = b""
        if self.root is not None:
            present = _HAS_ROOT
            root = self.root
            if self.root_trace_state:
                trace_state = _utf8(self.root_trace_state)
            if self.root_envelope is not None and len(self.root_envelope.resource) <= RESOURCE_LIMIT:
                present |= _HAS_ENVELOPE
                resource, scope = self.root_envelope.resource, self.root_envelope.scope[:ENVELOPE_LIMIT]
        ids = self.span_ids[: HOST_SPAN_IDS_LIMIT * ID_BYTES]
        if self.anchors or self.steps or self.guests or self.moved or self.summed or self.guest_steps or self.late:
            others: dict[str, object] = {"guests": self.guests} if self.guests else {}
            if self.summed:
                others["summed"] = self.summed
            if self.guest_steps:
                others[_GUEST_STEPS] = self.guest_steps.values()
            if self.late:
                others[_LATE] = rows_of(self.late)
            if self.moved is not None:
                parent = None if self.moved.parent is None else self.moved.parent.hex()
                others[_MOVED] = [self.moved.host.hex(), parent, self.moved.anchor]
            more = _json(_anchor_values(self.anchors, resource) | self.steps.values() | others)
        reason = _REASONS[self.reason]
        head = _TRACE_HEAD.pack(
            _TRACE_KIND,
            _VERSION,
            present,
            len(reason),
            self.released_at,
            root,
            self.root_flags,
            len(trace_state),
            len(resource),
            len(scope),
            len(ids),
            len(more),
        )
        return b"".join((head, reason, trace_state, resource, scope, ids, more))

    @classmethod
    def decode(cls, blob: bytes) -> "TraceMemory | None":
        """What ``encode`` made; None for a version that is not known, or what is no such blob. Never raises."""
        try:
            kind, version, present, reason_length, at, root, flags, *lengths = _TRACE_HEAD.unpack_from(blob)
            if kind != _TRACE_KIND or version != _VERSION:
                return None
            reason, trace_state, resource, scope, ids, more = _cut(blob, _TRACE_HEAD.size, (reason_length, *lengths))
            values = json.loads(more) if more else None
            return cls(
                reason=_BY_REASON[reason],
                released_at=UnixNano(at),
                root=SpanId(root) if present & _HAS_ROOT else None,
                root_trace_state=_text(trace_state),
                root_flags=flags,
                root_envelope=Envelope(resource, scope) if present & _HAS_ENVELOPE else None,
                span_ids=ids,
                anchors=_anchors(values, resource) if values is not None else (),
                steps=StepIndex.read(values) if values is not None else StepIndex(),
                guests=tuple(map(str, values.get("guests", ()))) if values is not None else (),
                moved=_moved(values.get(_MOVED)) if values is not None else None,
                summed=str(values.get("summed", "")) if values is not None else "",
                guest_steps=GuestIndex.read(values.get(_GUEST_STEPS)) if values is not None else GuestIndex(),
                late=steps_of(values.get(_LATE, ())) if values is not None else (),
            )
        except _NOT_A_BLOB:
            return None


class PlainMemories:
    """Encodes the memories of traces that left together as they came: what ``TraceMemory.encode`` makes of them."""

    def __init__(self, reason: ReleaseReason, released_at: UnixNano) -> None:
        self._reason = _REASONS[reason]
        self._at = released_at

    def encode(self, root: bytes, flags: int, trace_state: bytes, resource: bytes, span_ids: bytes) -> bytes:
        """The blob of one trace with a root (8 bytes), whose resource and trace state these are."""
        span_ids = span_ids[: HOST_SPAN_IDS_LIMIT * ID_BYTES]
        present = _HAS_ROOT | _HAS_ENVELOPE
        if len(resource) > RESOURCE_LIMIT:
            present, resource = _HAS_ROOT, b""
        head = _TRACE_HEAD.pack(
            _TRACE_KIND,
            _VERSION,
            present,
            len(self._reason),
            self._at,
            root,
            flags,
            len(trace_state),
            len(resource),
            0,
            len(span_ids),
            0,
        )
        return b"".join((head, self._reason, trace_state, resource, span_ids))


def taken_apart(blob: bytes) -> tuple[bytes, bytes, bytes]:
    """A blob without its root's resource, the digest by which ``put_together`` finds that, and the resource.

    For a store, which has one resource for all the memories of a service. Digest and resource are empty where the blob
    stays as it is.
    """
    if len(blob) < _TRACE_HEAD.size or blob[0] != _TRACE_KIND or blob[1] != _VERSION or not blob[2] & _HAS_ENVELOPE:
        return blob, b"", b""
    start, end = _resource_in(blob)
    if end - start < _SHARED_FROM or end > len(blob):
        return blob, b"", b""
    resource = blob[start:end]
    digest = _digest(resource)
    present = bytes((blob[2] ^ _HAS_ENVELOPE | _BY_DIGEST,))
    length = _DIGEST.to_bytes(4, "big")
    return b"".join((blob[:2], present, blob[3:28], length, blob[32:start], digest, blob[end:])), digest, resource


def digest_in(blob: bytes) -> bytes:
    """The digest of the resource that a blob was parted from; empty where it has all of its own."""
    if len(blob) < _TRACE_HEAD.size or blob[0] != _TRACE_KIND or blob[1] != _VERSION or not blob[2] & _BY_DIGEST:
        return b""
    start, end = _resource_in(blob)
    return blob[start:end]


def put_together(blob: bytes, resource: bytes | None) -> bytes:
    """What ``taken_apart`` was given; ``resource`` None: it is lost, and the blob is as if no span had had one."""
    start, end = _resource_in(blob)
    has = 0 if resource is None else _HAS_ENVELOPE
    present = bytes((blob[2] & ~_BY_DIGEST | has,))
    found = resource or b""
    return b"".join((blob[:2], present, blob[3:28], len(found).to_bytes(4, "big"), blob[32:start], found, blob[end:]))


def _resource_in(blob: bytes) -> tuple[int, int]:
    """Where the root's resource stands in a host's blob (_TRACE_HEAD)."""
    start = _TRACE_HEAD.size + blob[3] + int.from_bytes(blob[24:28], "big")
    return start, start + int.from_bytes(blob[28:32], "big")


@lru_cache(256)
def _digest(resource: bytes) -> bytes:
    return blake2b(resource, digest_size=_DIGEST).digest()


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

    def encode(self) -> bytes:
        """A blob for the store."""
        limit = GUEST_SPAN_IDS_LIMIT * ID_BYTES
        sent, under = self.sent[-limit:], self.under[-limit:]
        more = _encode_guest(self)
        head = _GUEST_HEAD.pack(
            _GUEST_KIND,
            _VERSION,
            _HAS_HOST if self.host is not None else 0,
            self.host or b"",
            self.trace_id,
            len(sent),
            len(under),
            len(more),
        )
        return b"".join((head, sent, under, more))

    @classmethod
    def decode(cls, blob: bytes) -> "GuestMemory | None":
        """What ``encode`` made; None for a version that is not known, or what is no such blob. Never raises."""
        try:
            kind, version, present, host, trace_id, *lengths = _GUEST_HEAD.unpack_from(blob)
            if kind != _GUEST_KIND or version != _VERSION:
                return None
            sent, under, more = _cut(blob, _GUEST_HEAD.size, lengths)
            values = json.loads(more)
            return cls(
                host=TraceId(host) if present & _HAS_HOST else None,
                trace_id=TraceId(trace_id),
                sent=sent,
                head=dict(values["head"]),
                anchor=_decode_anchor(values["anchor"]) if values["anchor"] else None,
                under=under,
                awaited={
                    SpanId(bytes.fromhex(span_id)): Awaited(name, UnixNano(start), UnixNano(end), bool(stood_in))
                    for span_id, (name, start, end, stood_in) in values["awaited"].items()
                },
                record=GuestRecord.of(values.get("record")),
            )
        except _NOT_A_BLOB:
            return None


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
        moved=old.moved,
        summed=old.summed or new.summed,
        guest_steps=old.guest_steps.merged(new.guest_steps, spoken_for),
        late=(*old.late, *new.late)[:MOST_STEPS],
    )


def latest_anchors(anchors: Iterable[AnchorSpan]) -> tuple[AnchorSpan, ...]:
    """Those of them that are kept, in an order that depends on nothing but themselves."""
    return tuple(sorted(anchors, key=lambda anchor: (anchor.start, anchor.span_id))[-ANCHORS_LIMIT:])


_DECISION = "sampled"
"""Key in the JSON of either blob; a reader that does not know it leaves it aside."""
_HEADS = {_TRACE_KIND: _TRACE_HEAD, _GUEST_KIND: _GUEST_HEAD}


def with_decision(blob: bytes, decision: SamplingDecision) -> bytes:
    """The blob of a host or of a guest, with what tail sampling decided about its trace.

    Raises ValueError for what is no blob of this version.
    """
    head, fields, more = _opened(blob)
    try:
        written = _json(json.loads(more) | _decision_values(decision)) if more else _decision_alone(decision)
    except RecursionError:
        # See _encode_guest: metadata nested as deep as that is nobody's.
        return blob
    return b"".join((head.pack(*fields[:-1], len(written)), blob[head.size : len(blob) - len(more)], written))


@lru_cache(1000)
def _decision_alone(decision: SamplingDecision) -> bytes:
    """The JSON of a trace that has no anchors: nearly every trace, and few are decided in different ways."""
    return _json({"envelopes": [], "anchors": []} | _decision_values(decision))


def _decision_values(decision: SamplingDecision) -> dict[str, object]:
    return {_DECISION: [decision.policy, decision.kept, decision.one_of, decision.upstream]}


def decision_of(blob: bytes) -> SamplingDecision | None:
    """What ``with_decision`` put there; None where nobody has decided, or the blob cannot be read. Never raises."""
    try:
        _, _, more = _opened(blob)
        if not more:
            return None
        policy, kept, one_of, upstream = json.loads(more)[_DECISION]
        return SamplingDecision(str(policy), bool(kept), int(one_of), int(upstream))
    except _NOT_A_BLOB:
        return None


def _opened(blob: bytes) -> tuple[struct.Struct, tuple[int, ...], bytes]:
    """The layout of a blob's head, its fields, and the JSON at its end. Raises ValueError for what is no such blob."""
    if len(blob) < 2 or blob[0] not in _HEADS or blob[1] != _VERSION:
        raise ValueError("no blob of this version")
    head = _HEADS[blob[0]]
    fields = head.unpack_from(blob)
    return head, fields, blob[len(blob) - fields[-1] :]


# What unpacking says of bytes that are no blob of ours.
_NOT_A_BLOB = (struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError)


def _cut(blob: bytes, at: int, lengths: Iterable[int]) -> list[bytes]:
    """The pieces that stand behind the head. Raises ValueError unless they fill the blob."""
    pieces = []
    for length in lengths:
        pieces.append(blob[at : at + length])
        at += length
    if at != len(blob):
        raise ValueError("lengths and blob differ")
    return pieces


def _moved(values: list[str | None] | None) -> Moved | None:
    if values is None:
        return None
    host, parent, anchor = values
    return Moved(
        TraceId(bytes.fromhex(str(host))), None if parent is None else SpanId(bytes.fromhex(parent)), str(anchor)
    )


_ROOTED = "rooted"
"""Key in the JSON of a host's blob: of which envelopes the resource is the root's, and does not stand there again."""


def _anchor_values(anchors: tuple[AnchorSpan, ...], root: bytes) -> dict[str, object]:
    # A thousand anchors come under a handful of envelopes.
    places: dict[Envelope, int] = {}
    rows = []
    for anchor in anchors:
        envelope = anchor.envelope
        if envelope is not None and len(envelope.scope) + (
            0 if envelope.resource == root else len(envelope.resource)
        ) > (ENVELOPE_LIMIT):
            envelope = None
        place = None if envelope is None else places.setdefault(envelope, len(places))
        rows.append(
            [
                anchor.span_id.hex(),
                anchor.start,
                anchor.end,
                anchor.trace_state,
                anchor.flags,
                place,
                sorted(anchor.conversation_ids),
            ]
        )
    rooted = [place for envelope, place in places.items() if root and envelope.resource == root]
    texts = [
        _envelope_texts(replace(each, resource=b"") if place in rooted else each) for each, place in places.items()
    ]
    return {"envelopes": texts, "anchors": rows} | ({_ROOTED: rooted} if rooted else {})


def _anchors(values: Mapping[str, Any], root: bytes) -> tuple[AnchorSpan, ...]:
    envelopes = [_envelope(texts) for texts in values["envelopes"]]
    for place in values.get(_ROOTED, ()):
        envelopes[place] = replace(envelopes[place], resource=root)
    return tuple(
        AnchorSpan(
            span_id=SpanId(bytes.fromhex(span_id)),
            start=UnixNano(start),
            end=UnixNano(end),
            trace_state=trace_state,
            flags=flags,
            envelope=None if place is None else envelopes[place],
            conversation_ids=frozenset(conversation_ids),
        )
        for span_id, start, end, trace_state, flags, place, conversation_ids in values["anchors"]
    )


def _encode_guest(memory: GuestMemory) -> bytes:
    anchor = memory.anchor
    values: dict[str, object] = {
        "anchor": anchor
        and [
            None if anchor.span_id is None else anchor.span_id.hex(),
            anchor.how,
            anchor.trace_state,
            anchor.flags,
            None
            if anchor.envelope is None or anchor.envelope.size > 2 * ENVELOPE_LIMIT
            else _envelope_texts(anchor.envelope),
        ],
        "awaited": {
            span_id.hex(): [waiting.name, waiting.start, waiting.end, waiting.stood_in]
            for span_id, waiting in memory.awaited.items()
        },
    }
    if memory.record is not None:
        # A reader that does not know it leaves it alone.
        values["record"] = memory.record.values()
    try:
        return _json(values | {"head": memory.head})
    except RecursionError:
        # Metadata nested a thousand deep is nobody's metadata; its guest's spans must still leave.
        return _json(values | {"head": {}})


def _decode_anchor(values: tuple[str | None, str, str, int, list[str] | None]) -> Anchor:
    span_id, how, trace_state, flags, envelope = values
    return Anchor(
        span_id=None if span_id is None else SpanId(bytes.fromhex(span_id)),
        how=how,
        trace_state=trace_state,
        flags=flags,
        envelope=None if envelope is None else _envelope(envelope),
    )


def _envelope_texts(envelope: Envelope) -> list[str]:
    return [base64.b64encode(envelope.resource).decode(), base64.b64encode(envelope.scope).decode()]


def _envelope(texts: list[str]) -> Envelope:
    resource, scope = texts
    return Envelope(base64.b64decode(resource), base64.b64decode(scope))


def _json(value: object) -> bytes:
    # The standard library's: metadata may hold lone surrogates, NaN and numbers past 64 bits, which orjson refuses.
    return json.dumps(value, separators=(",", ":")).encode()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")
