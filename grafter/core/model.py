"""The data that travels between the rooms.

Two shapes of one trace live here: the *part* as it is held (opaque bytes and the few facts that decide when the
trace is ready) and the *span* as the join sees it (only what the join reads). Neither knows protobuf.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from enum import IntFlag, StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import NewType

TraceId = NewType("TraceId", bytes)
"""16 bytes, not all zero."""
SpanId = NewType("SpanId", bytes)
"""8 bytes, not all zero."""
UnixNano = NewType("UnixNano", int)
"""Nanoseconds since 1970-01-01T00:00:00Z."""
Key = NewType("Key", bytes)
"""What parts are held under: a host trace's id (16 bytes), or a guest's key (17 bytes, the first is ``g``). Which of
the two it is is asked with ``is_guest_key``."""
HOST_KEY_BYTES = 16
GUEST_KEY_BYTES = 17
"""For whoever lays keys out in records; never to tell what a key is."""

# What a kept envelope takes beside its bytes.
_CACHED_ENVELOPE = 400

AttributeValue = str | bool | int | float | tuple[str, ...]
JsonObject = dict[str, object]
"""A JSON object, as commands and pages are answered."""

SPAN_KIND_INTERNAL = 1
SPAN_KIND_CLIENT = 3
STATUS_UNSET = 0
STATUS_ERROR = 2

_CALL_MARK, _MOVED_MARK = OWN_MARKS = "\0call:", "\0rule:"
"""What names of grafter's own making begin with; no id that comes from outside does (``usable_id``)."""

LARGE_ENVELOPE = 512
"""Bytes of an envelope from which on it is stored once for all parts that share it, and counts as what it is: one that
is smaller costs no more than what is kept of a part beside its spans."""

FLAG_SAMPLED = 0x01
FLAG_HAS_IS_REMOTE = 0x100
FLAG_IS_REMOTE = 0x200


class Source(StrEnum):
    """Where a guest trace came from. The value is a metric label and an attribute."""

    SDK = "sdk"
    WEBHOOK = "webhook"
    SESSIONS = "sessions"
    REALTIME = "realtime"
    OTLP = "otlp"


class Facts(IntFlag):
    """What one host part tells the lifecycle."""

    NONE = 0
    ROOT = 1
    """A span without a parent."""
    LOCAL_ROOT = 2
    """A span whose parent is in another process, by its OTLP flags (is_remote)."""
    ANCHOR = 4
    """A span that matches an anchor selector, so that a guest is expected."""
    RULE = 8
    """A span has a rule's ``match`` key, so that its trace may move to another one. Comes with ANCHOR, for which a
    trace waits and is looked at before it leaves; and it is looked at with each part, for the host waits for it."""
    ANCHORED = 16
    """Where there are rules: the ANCHOR is not only RULE's."""

    def without_rule(self) -> "Facts":
        """The same without what only a rule put there."""
        facts = int(self) & ~Facts.RULE
        return Facts(facts if not self & Facts.RULE or facts & Facts.ANCHORED else facts & ~Facts.ANCHOR)


@dataclass(frozen=True, slots=True)
class Envelope:
    """The resource and the scope that a run of host spans came under, byte for byte.

    ``resource`` is a serialised ResourceSpans without its scope_spans, ``scope`` a serialised ScopeSpans without its
    spans: schema urls and unknown fields included. Equal envelopes may share one ResourceSpans on the way out.
    """

    resource: bytes
    scope: bytes

    @property
    def size(self) -> int:
        return len(self.resource) + len(self.scope)


class EnvelopeCache:
    """Equal envelopes as one object, for which grouping by them is cheap; bounded in bytes."""

    LIMIT = 4 << 20

    def __init__(self) -> None:
        self._known: dict[Hashable, Envelope] = {}
        self._bytes = 0
        # Asked once a part, so that a call of a method of its own would be seen in what a span costs.
        self.get: Callable[[Hashable], Envelope | None] = self._known.get
        """What was kept under that."""

    def put(self, known_by: Hashable, envelope: Envelope) -> Envelope:
        """Keep it, unless it alone takes much of the room."""
        size = envelope.size + _CACHED_ENVELOPE
        if size > self.LIMIT >> 6:
            return envelope
        if self._bytes + size > self.LIMIT:
            self._known.clear()
            self._bytes = 0
        self._bytes += size
        self._known[known_by] = envelope
        return envelope


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """What one guest part tells the lifecycle about its guest."""

    guest: str
    """The guest's own trace id, as its source wrote it; of a Realtime call ``call_guest`` of its key."""
    source: Source
    host: TraceId | None = None
    """The host trace that this part's link names, when it names one."""
    sampled: bool | None = None
    """The sampled flag of the link's traceparent, when it had one."""
    how: str = ""
    """Who named the host, one of NAMED_BY; empty: the guest itself, or nobody."""
    anchor: SpanId | None = None
    """The host span that was named with it; with ``how`` only."""
    head: bool = False
    """The trace object has come."""
    top_level: bool = False
    """A span without a parent has come."""
    ids: tuple[SpanId, ...] = ()
    """Ids of the spans in this part, after the id rule (see guest_span_id)."""
    parents: tuple[SpanId, ...] = ()
    """Ids of the parents that they name, after the id rule."""
    ended: bool = False
    """The source says that no more will come."""


@dataclass(slots=True)
class Part:
    """What one request brought for one trace (host: for one trace under one envelope).

    Host: ``payload`` is a run of framed Span messages, each as field 2 of ScopeSpans, byte for byte as received; where
    ``facts`` says ROOT it begins with a root span.
    Guest: ``payload`` is a JSON list of OpenAI items, already without the content that may not be stored.
    """

    key: Key
    payload: bytes
    spans: int
    envelope: Envelope | None = None
    """Host parts only."""
    facts: Facts = Facts.NONE
    span_ids: bytes = b""
    """Host parts only: the 8-byte span ids, joined, in the payload's order."""
    guest: GuestFacts | None = None
    """Guest parts only; then ``key`` is guest_key(guest.guest), and the store decides where the part is placed."""


@dataclass(frozen=True, slots=True)
class DedupeKey:
    """That something, such as a delivery, was dealt with, so that its repeat is known."""

    id: str
    """Of any length, unique among all keys: the receiver puts its own name before it."""
    ttl: int
    """Nanoseconds for which it is known."""


@dataclass(slots=True)  # not frozen: one is made for each span, and a frozen one takes four times as long
class HostSpan:
    """What the join reads of a host span."""

    span_id: SpanId
    parent_span_id: bytes
    """8 bytes, or empty for a root."""
    name: str
    start: UnixNano
    end: UnixNano
    flags: int
    trace_state: str
    envelope: Envelope
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    """Only the attributes that a selector, a preference or a match asks for; lists of strings as tuples."""
    kind: int = 0
    """Of OTLP: SPAN_KIND_CLIENT and its like; 0 where it does not say."""


@dataclass(frozen=True, slots=True)
class SpanLink:
    span_id: SpanId
    attributes: tuple[tuple[str, AttributeValue], ...] = ()


@dataclass(frozen=True, slots=True)
class SpanEvent:
    time: UnixNano
    name: str
    attributes: tuple[tuple[str, AttributeValue], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call that stands in a model's answer: what a tool that ran is recognised by, and nothing that leaves."""

    call_id: str | None
    name: str
    digest: str | None
    """SHA-256 of its arguments, as ``grafter.arguments.sha256`` has it."""


@dataclass(slots=True)  # not frozen: one is made for each span, and a frozen one takes four times as long
class GuestSpan:
    """A guest span, mapped to OpenTelemetry's words but not yet hung anywhere."""

    span_id: SpanId
    parent: SpanId | None
    """The parent that the guest names, after the id rule; None for a top-level span."""
    parent_name: str
    """The parent's id as the guest wrote it, for grafter.parent.missing; empty for a top-level span."""
    name: str
    kind: int
    start: UnixNano
    end: UnixNano
    attributes: tuple[tuple[str, AttributeValue], ...]
    status_code: int = STATUS_UNSET
    status_message: str = ""
    links: tuple[SpanLink, ...] = ()
    events: tuple[SpanEvent, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    """Of a model turn: the tool calls in its answer, where the source has them."""


@dataclass(frozen=True, slots=True)
class Link:
    """To which host trace a guest belongs, and how that is known."""

    host: TraceId
    span_id: SpanId | None = None
    """The host span that the app named as the anchor."""
    sampled: bool | None = None
    how: str = "trace_id"
    """``traceparent``, ``trace_id``, ``openai_trace_id`` or one of NAMED_BY; the value of grafter.link."""


BACKWARD, BY_API, RULE = "backward", "api", "rule"
NAMED_BY = (BACKWARD, BY_API, RULE)
"""Who may name a guest's host beside the guest: a host span with the guest's id, or a post to ``/api/links``; and of an
OTLP trace a value that it has in common with its host."""


@dataclass(slots=True)  # not frozen: an app may name one on each of its spans
class NamedLink:
    """That a guest belongs to a host, said by somebody else than the guest."""

    guest: str
    """An id of OpenAI's: of the guest, or of something in it."""
    host: TraceId
    span_id: SpanId | None = None
    """The host span that was named as the anchor."""
    sampled: bool | None = None
    how: str = BACKWARD
    """One of NAMED_BY."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest trace, ready to be hung: what is common to every source."""

    trace_id: str
    source: Source
    spans: tuple[GuestSpan, ...]
    link: Link | None = None
    conversation_ids: frozenset[str] = frozenset()
    """Session and conversation ids, compared with the host's when several anchors match."""
    measured_in_app: bool = False
    """Its spans were timed in the app's own process, so they take the anchor's resource."""
    one_trace: bool = True
    """``trace_id`` is the id of the one trace that its source has all its spans in; otherwise each span says itself
    which of several it is in."""


@dataclass(slots=True)  # not frozen: one is made for each span, and a frozen one takes four times as long
class GraftedSpan:
    """A guest span as it leaves: under a trace id, a parent and a resource."""

    span: GuestSpan
    trace_id: TraceId
    parent_span_id: bytes
    """8 bytes, or empty when it is a root of its trace."""
    trace_state: str
    flags: int
    envelope: Envelope | None
    """The anchor's envelope, whose resource it takes; None: the resource ``service.name=openai``."""
    attributes: tuple[tuple[str, AttributeValue], ...]
    """The span's own and those that the graft adds, in that order; keys are unique."""
    _named: Mapping[str, AttributeValue] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def named(self) -> Mapping[str, AttributeValue]:
        """The attributes by their keys; made once, for several ask."""
        if self._named is None:
            self._named = dict(self.attributes)
        return self._named

    def with_attributes(
        self, attributes: tuple[tuple[str, AttributeValue], ...], span: GuestSpan | None = None
    ) -> "GraftedSpan":
        """The same with these attributes in place of its own, and ``span`` in place of its own where one is given.

        ``replace`` takes three times as long.
        """
        return GraftedSpan(
            span or self.span,
            self.trace_id,
            self.parent_span_id,
            self.trace_state,
            self.flags,
            self.envelope,
            attributes,
        )


def guest_key(guest_trace_id: str) -> Key:
    """The key under which a guest's parts are held while they are held apart from a host."""
    return Key(b"g" + sha256(_utf8(guest_trace_id)).digest()[:16])


def is_guest_key(key: Key) -> bool:
    """The key is a guest's own, and no host trace's id. A host's id may begin with any byte, so the first says nothing.

    Raises ValueError for what is neither.
    """
    if len(key) == HOST_KEY_BYTES:
        return False
    if len(key) == GUEST_KEY_BYTES:
        return True
    raise ValueError(f"a key has {len(key)} bytes, expected {HOST_KEY_BYTES} or {GUEST_KEY_BYTES}")


def call_guest(call: str) -> str:
    """The name of a Realtime call among guests. An app may call a call and an SDK trace by one id; what is stored of
    them differs, so they are two guests, and no id of an item begins like this (``usable_id``)."""
    return f"{_CALL_MARK}{call}"


def moved_guest(trace: TraceId) -> str:
    """The name of a trace that a rule moves among the guests of its host."""
    return f"{_MOVED_MARK}{trace.hex()}"


def called(guest: str) -> str:
    """The id that the source wrote: of a Realtime call its key."""
    return guest.removeprefix(_CALL_MARK).removeprefix(_MOVED_MARK)


@lru_cache(4096)
def guest_span_id(guest_trace_id: str, guest_span_id: str) -> SpanId:
    """The span id under which a guest span leaves: for ever, from any replica, in any order.

    The first 8 bytes of SHA-256 over the guest trace id, one zero byte, and the guest span id, all UTF-8; the last
    bit is set should all be zero.
    """
    digest = sha256(_utf8(guest_trace_id) + b"\0" + _utf8(guest_span_id)).digest()[:8]
    return SpanId(digest if any(digest) else b"\0\0\0\0\0\0\0\1")


def unlinked_trace_id(guest_trace_id: str) -> TraceId:
    """The trace id under which a guest without a host leaves.

    The 32 hex digits of a ``trace_<32 hex>`` id where it is that and not all zero, else the first 16 bytes of
    SHA-256 over the id.
    """
    named = openai_trace_id(guest_trace_id)
    return named or TraceId(sha256(_utf8(guest_trace_id)).digest()[:16])


def openai_trace_id(guest_trace_id: str) -> TraceId | None:
    """The W3C trace id that an OpenAI trace id of the form ``trace_<32 hex>`` can stand for, else None."""
    digits = guest_trace_id.removeprefix("trace_")
    if len(digits) != 32 or digits == guest_trace_id or not digits.isascii():
        return None
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        return None
    return TraceId(raw) if len(raw) == 16 and any(raw) else None


def _utf8(text: str) -> bytes:
    # A lone surrogate is legal in JSON and in a Python str; it must not cost the item its id.
    return text.encode("utf-8", "surrogatepass")
