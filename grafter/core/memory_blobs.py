"""Memories (``core.memory``) as blobs, each under a version of its own byte.

Most traces have no guest, so the memory of a plain one is packed without any JSON in it. A version is only ever added
to: a reader that knows it reads it, one that does not leaves the blob alone.
"""

import base64
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from grafter.core.explain import GuestRecord, rows_of, steps_of
from grafter.core.left_steps import GuestIndex, StepIndex
from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import (
    ENVELOPE_LIMIT,
    GUEST_SPAN_IDS_LIMIT,
    HOST_SPAN_IDS_LIMIT,
    ID_BYTES,
    RESOURCE_LIMIT,
    Anchor,
    AnchorSpan,
    Awaited,
    GuestMemory,
    TraceMemory,
)
from grafter.core.model import Envelope, SpanId, TraceId, UnixNano
from grafter.core.rules import Moved

_MOVED, _GUEST_STEPS, _LATE = "moved", "guest_steps", "late"
"""Keys in the JSON of a host's blob; a reader that does not know them leaves them aside."""
TRACE_KIND = ord("T")
GUEST_KIND = ord("G")
VERSION = 1

HAS_ROOT, HAS_ENVELOPE, BY_DIGEST = 1, 2, 4
"""The last: in the place of the root's resource stands its digest, and whoever stored the blob has the rest."""
_HAS_HOST = 1

# kind, version, what is there, length of the reason, moment of release, root, its flags, then the lengths of its trace
# state, its envelope's resource and scope, the span ids and the JSON.
TRACE_HEAD = struct.Struct(">BBBBq8sIIIIII")
# kind, version, what is there, host, trace id, then the lengths of the ids, of the parents and of the JSON.
GUEST_HEAD = struct.Struct(">BBB16s16sIII")

_NO_SPAN = b"\0" * ID_BYTES
REASONS = {reason: reason.value.encode() for reason in ReleaseReason}
_BY_REASON = {text: reason for reason, text in REASONS.items()}


def encode_trace(memory: TraceMemory) -> bytes:
    present = 0
    root = _NO_SPAN
    trace_state = resource = scope = more = b""
    if memory.root is not None:
        present = HAS_ROOT
        root = memory.root
        if memory.root_trace_state:
            trace_state = _utf8(memory.root_trace_state)
        if memory.root_envelope is not None and len(memory.root_envelope.resource) <= RESOURCE_LIMIT:
            present |= HAS_ENVELOPE
            resource, scope = memory.root_envelope.resource, memory.root_envelope.scope[:ENVELOPE_LIMIT]
    ids = memory.span_ids[: HOST_SPAN_IDS_LIMIT * ID_BYTES]
    if (
        memory.anchors
        or memory.steps
        or memory.guests
        or memory.moved
        or memory.summed
        or memory.guest_steps
        or memory.late
    ):
        others: dict[str, object] = {"guests": memory.guests} if memory.guests else {}
        if memory.summed:
            others["summed"] = memory.summed
        if memory.guest_steps:
            others[_GUEST_STEPS] = memory.guest_steps.values()
        if memory.late:
            others[_LATE] = rows_of(memory.late)
        if memory.moved is not None:
            parent = None if memory.moved.parent is None else memory.moved.parent.hex()
            others[_MOVED] = [memory.moved.host.hex(), parent, memory.moved.anchor]
        more = json_bytes(_anchor_values(memory.anchors, resource) | memory.steps.values() | others)
    reason = REASONS[memory.reason]
    head = TRACE_HEAD.pack(
        TRACE_KIND,
        VERSION,
        present,
        len(reason),
        memory.released_at,
        root,
        memory.root_flags,
        len(trace_state),
        len(resource),
        len(scope),
        len(ids),
        len(more),
    )
    return b"".join((head, reason, trace_state, resource, scope, ids, more))


def decode_trace(blob: bytes) -> TraceMemory | None:
    """What ``encode_trace`` made; None for a version that is not known, or what is no such blob. Never raises."""
    try:
        kind, version, present, reason_length, at, root, flags, *lengths = TRACE_HEAD.unpack_from(blob)
        if kind != TRACE_KIND or version != VERSION:
            return None
        reason, trace_state, resource, scope, ids, more = _cut(blob, TRACE_HEAD.size, (reason_length, *lengths))
        memory = TraceMemory(
            reason=_BY_REASON[reason],
            released_at=UnixNano(at),
            root=SpanId(root) if present & HAS_ROOT else None,
            root_trace_state=_text(trace_state),
            root_flags=flags,
            root_envelope=Envelope(resource, scope) if present & HAS_ENVELOPE else None,
            span_ids=ids,
        )
        if more:
            values = json.loads(more)
            memory.anchors = _anchors(values, resource)
            memory.steps = StepIndex.read(values)
            memory.guests = tuple(map(str, values.get("guests", ())))
            memory.moved = _moved(values.get(_MOVED))
            memory.summed = str(values.get("summed", ""))
            memory.guest_steps = GuestIndex.read(values.get(_GUEST_STEPS))
            memory.late = steps_of(values.get(_LATE, ()))
        return memory
    except NOT_A_BLOB:
        return None


def encode_guest(memory: GuestMemory) -> bytes:
    limit = GUEST_SPAN_IDS_LIMIT * ID_BYTES
    sent, under = memory.sent[-limit:], memory.under[-limit:]
    more = _guest_values(memory)
    head = GUEST_HEAD.pack(
        GUEST_KIND,
        VERSION,
        _HAS_HOST if memory.host is not None else 0,
        memory.host or b"",
        memory.trace_id,
        len(sent),
        len(under),
        len(more),
    )
    return b"".join((head, sent, under, more))


def decode_guest(blob: bytes) -> GuestMemory | None:
    """What ``encode_guest`` made; None for a version that is not known, or what is no such blob. Never raises."""
    try:
        kind, version, present, host, trace_id, *lengths = GUEST_HEAD.unpack_from(blob)
        if kind != GUEST_KIND or version != VERSION:
            return None
        sent, under, more = _cut(blob, GUEST_HEAD.size, lengths)
        values = json.loads(more)
        return GuestMemory(
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
    except NOT_A_BLOB:
        return None


# What unpacking says of bytes that are no blob of ours.
NOT_A_BLOB = (struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError)


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


def _guest_values(memory: GuestMemory) -> bytes:
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
        return json_bytes(values | {"head": memory.head})
    except RecursionError:
        # Metadata nested a thousand deep is nobody's metadata; its guest's spans must still leave.
        return json_bytes(values | {"head": {}})


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


def json_bytes(value: object) -> bytes:
    # The standard library's: metadata may hold lone surrogates, NaN and numbers past 64 bits, which orjson refuses.
    return json.dumps(value, separators=(",", ":")).encode()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")
