"""Sampling on the wire: what policies ask of the spans that leave, and the weight written on each of them.

Looking is cheap where nothing is there to be found: a field or a key is searched in the bytes of a whole run, and only
runs that hold it are decoded. Writing appends fields to a span; what came stays byte for byte in front of them, but
for a rate or a policy that a new one replaces.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.consumer import Piece
from grafter.core import semconv
from grafter.core.model import STATUS_ERROR, Envelope
from grafter.core.sampling.policies import CALLER_WAIT_KEYS, MODEL_TURN_KEYS, SamplingDecision, TraceView
from grafter.core.sampling.weights import MOST_RATE, randomness, read, weigh
from grafter.otlp.frames import PREFIX, first_of, framed, spans_of
from grafter.otlp.shallow_pb2 import Head, HeadScopeRun
from grafter.otlp.spans import attribute_field, attribute_text

_ERROR = bytes((STATUS_ERROR,))
_ERROR_CODE = b"\x18" + _ERROR
"""Status.code = ERROR; in other fields these two bytes may stand too."""
_FIRST_TOKEN_NEEDLES = tuple(key.encode() for key in (*CALLER_WAIT_KEYS, *MODEL_TURN_KEYS))
_BARGE_IN_NEEDLES = (semconv.BARGE_IN.encode(), b"lk.interrupted", b"turn.was_interrupted")
_CALLER_SOURCES = ("audio_activity", "user_turn")
_RATE_NEEDLE = b"ampleRate"
_RATE_KEYS = ("sampleRate", "SampleRate")
"""As Honeycomb reads them, the first one first."""
_RATE_KEY = "SampleRate"
_OWN_KEYS = (semconv.GRAFTER_POLICY, semconv.GRAFTER_DRY_RUN)
_TRACE_STATE_TAG = 0x1A
_ATTRIBUTES_FIELD = 9
_LARGE_RUN = 256 << 10
"""From so many bytes on spans are decoded one by one: decoded they take several times their bytes."""
_KEPT_RUNS = 16
"""Runs that are kept decoded for the next policy."""
_MOST_FIGURE = 1e12
"""Of whatever unit: what is longer than that was not measured."""

Attributes = Iterable[KeyValue]
M = TypeVar("M")


class SpansView(TraceView):
    """A trace as it leaves."""

    def __init__(self, pieces: Sequence[Piece], guests: int, *, complete: bool) -> None:
        self._pieces = pieces
        self._guests = guests
        self._complete = complete
        self._decoded: dict[int, Sequence[Span]] = {}

    @property
    def spans(self) -> int:
        return sum(piece.spans for piece in self._pieces)

    @property
    def guests(self) -> int:
        return self._guests

    @property
    def complete(self) -> bool:
        return self._complete

    def has_error(self) -> bool:
        return any(span.status.code == STATUS_ERROR for span in self._found(_may_hold_error))

    def has_barge_in(self) -> bool:
        return any(map(is_barge_in, self._with(*_BARGE_IN_NEEDLES)))

    def first_token_ms(self) -> float | None:
        return max(filter(None, map(first_token_ms, self._with(*_FIRST_TOKEN_NEEDLES))), default=None)

    def duration_ms(self) -> float:
        starts: list[int] = []
        ends: list[int] = []
        for piece in self._pieces:
            for head in _heads(piece.payload):
                start, end = head.start_time_unix_nano, head.end_time_unix_nano
                if 0 < start <= end:
                    starts.append(start)
                    ends.append(end)
        return (max(ends) - min(starts)) / 1e6 if starts else 0.0

    def values(self, key: str) -> Iterator[str]:
        needle = key.encode()
        for envelope in {id(piece.envelope): piece.envelope for piece in self._pieces}.values():
            if needle in envelope.resource:
                yield from _texts(resource_attributes(envelope), key)
        for span in self._with(needle):
            yield from _texts(span.attributes, key)

    def randomness(self) -> int:
        # It is made once a trace and handed on from span to span: the first of each run has it, if any has.
        heads = [_or_empty(Head.FromString, first_of(piece.payload), Head) for piece in self._pieces]
        states = [read(head.trace_state).rv for head in heads if head.trace_state]
        return randomness(heads[0].trace_id, next((rv for rv in states if rv is not None), None))

    def _with(self, *needles: bytes) -> Iterator[Span]:
        """The spans of the runs that hold any of these bytes."""
        return self._found(lambda run: any([needle in run for needle in needles]))  # noqa: C419  # a list is faster

    def _found(self, may_hold: Callable[[bytes], bool]) -> Iterator[Span]:
        for at, piece in enumerate(self._pieces):
            if may_hold(piece.payload):
                spans = self._decoded.get(at) or spans_in(piece.payload)
                if isinstance(spans, Sequence) and len(self._decoded) < _KEPT_RUNS:
                    self._decoded[at] = spans
                yield from spans


def _may_hold_error(run: bytes) -> bool:
    """The bytes of the status code ERROR stand somewhere in the run."""
    # To look for one byte is ten times faster than for two; where it is frequent it is the other way round. The other
    # one would be: it begins every time of these years.
    at = 0
    for _ in range(1 + len(run) // 200):
        at = run.find(_ERROR, at + 1)
        if at < 0:
            return False
        if run.startswith(_ERROR_CODE, at - 1):
            return True
    return run.find(_ERROR_CODE, at) >= 0


def _heads(run: bytes) -> Iterable[Head]:
    """The heads of a run's spans. A run is a whole ScopeSpans without its scope."""
    if len(run) > _LARGE_RUN:
        return (_or_empty(Head.FromString, raw, Head) for raw in spans_of(run))
    try:
        return HeadScopeRun.FromString(run).spans
    except DecodeError:
        return [_or_empty(Head.FromString, raw, Head) for raw in spans_of(run)]


def spans_in(run: bytes) -> Iterable[Span]:
    if len(run) > _LARGE_RUN:
        return (_or_empty(Span.FromString, raw, Span) for raw in spans_of(run))
    try:
        return ScopeSpans.FromString(run).spans
    except DecodeError:
        # One of them has bytes that are no span's; it says nothing, and leaves as it came.
        return [_or_empty(Span.FromString, raw, Span) for raw in spans_of(run)]


def _or_empty(parse: Callable[[bytes], M], raw: bytes, empty: Callable[[], M]) -> M:
    try:
        return parse(raw)
    except DecodeError:
        return empty()


def resource_attributes(envelope: Envelope) -> Attributes:
    return _or_empty(ResourceSpans.FromString, envelope.resource, ResourceSpans).resource.attributes


def attributes_of(attributes: Attributes) -> dict[str, str]:
    """Scalar attributes as text, by key."""
    return {each.key: text for each in attributes if (text := attribute_text(each.value)) is not None}


def _texts(attributes: Attributes, key: str) -> Iterator[str]:
    for attribute in attributes:
        if attribute.key == key and (text := attribute_text(attribute.value)) is not None:
            yield text


def _number(value: AnyValue) -> float | None:
    """A figure in any of the forms in which instrumentations write one; None for what is none."""
    text = attribute_text(value)
    try:
        number = float(text) if text is not None and value.WhichOneof("value") != "bool_value" else -1.0
    except ValueError:
        return None
    return number if 0 <= number < inf else None


def first_token_ms(span: Span) -> float | None:
    """What one span says: how long its caller waited, else its model turn's first token. Out of band nobody waits."""
    longest: dict[bool, float] = {}
    for attribute in span.attributes:
        key = attribute.key
        if key == semconv.TURN_CONVERSATION and attribute.value.string_value == "none":
            return None
        caller = key in CALLER_WAIT_KEYS
        unit = CALLER_WAIT_KEYS.get(key) or MODEL_TURN_KEYS.get(key)
        if unit is not None and (number := _number(attribute.value)) is not None and number < _MOST_FIGURE:
            longest[caller] = max(longest.get(caller, 0.0), number * unit)
    return longest.get(True, longest.get(False))


def is_barge_in(span: Span) -> bool:
    """grafter's and the conventions' event; LiveKit's turn that a caller interrupted, not the program; Pipecat's, where
    it was not the end of the conversation that interrupted it."""
    if any(event.name == semconv.BARGE_IN for event in span.events):
        return True
    said = attributes_of(span.attributes)
    if said.get("lk.interrupted") == "true":
        return said.get("lk.interruption.source", _CALLER_SOURCES[0]) in _CALLER_SOURCES
    return said.get("turn.was_interrupted") == "true" and said.get("turn.ended_by_conversation_end") != "true"


def incoming_rate(attributes: Attributes) -> int | None:
    """The rate that a span or its resource came with, as Honeycomb reads it; None: none."""
    found = {a.key: a.value for a in attributes if a.key in _RATE_KEYS}
    for key in _RATE_KEYS:
        if key in found:
            number = _number(found[key])
            return 1 if number is None or number < 0.5 else min(int(number + 0.5), MOST_RATE)
    return None


def upstream_rate(pieces: Iterable[Piece], own_scope: bytes) -> int:
    """The rate that the app's own spans came with, the largest of several; 0: none. ``own_scope``: grafter's."""
    rates = [0]
    for piece in pieces:
        if piece.envelope.scope != own_scope:
            rates.append(_resource_rate(piece.envelope) or 0)
            if _RATE_NEEDLE in piece.payload:
                rates += [incoming_rate(span.attributes) or 0 for span in spans_in(piece.payload)]
    return max(rates)


def _resource_rate(envelope: Envelope) -> int | None:
    if _RATE_NEEDLE not in envelope.resource and _RATE_NEEDLE not in envelope.scope:
        return None
    scope = _or_empty(ScopeSpans.FromString, envelope.scope, ScopeSpans).scope.attributes
    rate = incoming_rate(scope)
    return rate if rate is not None else incoming_rate(resource_attributes(envelope))


@dataclass(slots=True)
class Weights:
    """Writes on spans what was decided about their trace."""

    decision: SamplingDecision
    claim: bool
    """What came without a weight was not sampled before."""
    own_scope: bytes
    """The scope of the spans that grafter makes: they weigh as the app's do."""
    dry: bool = False
    """Say only what would have become of it."""
    odd: dict[str, int] = field(default_factory=dict)
    """Spans whose weight did not fit together, by what was odd."""
    _suffixes: dict[tuple[bytes, int | None, bool], tuple[bytes, bool, str]] = field(default_factory=dict)

    def write(self, pieces: Iterable[Piece]) -> tuple[Piece, ...]:
        """The pieces with ``grafter.policy`` and the weight on every span."""
        return tuple(Piece(piece.envelope, self._run(piece), piece.spans) for piece in pieces)

    def _run(self, piece: Piece) -> bytes:
        run, known = piece.payload, self._suffixes
        around = _resource_rate(piece.envelope)
        lent = around is None and piece.envelope.scope == self.own_scope and self.decision.upstream > 0
        if lent:
            around = self.decision.upstream
        # Of a grafter in front of this one.
        stale = any(key.encode() in run for key in _OWN_KEYS)
        rates: Sequence[int | None] | None = None
        if _RATE_NEEDLE in run:
            rates = [incoming_rate(span.attributes) for span in spans_in(run)]
        out: list[bytes] = []
        for at, (raw, head) in enumerate(zip(spans_of(run), _heads(run), strict=True)):
            own = None if rates is None else rates[at]
            came = (head.trace_state, own if own is not None else around, lent and own is None)
            suffix, rated, odd = known.get(came) or self._suffix(*came)
            if odd:
                self.odd[odd] = self.odd.get(odd, 0) + 1
            gone = _RATE_KEYS if rated and own is not None else ()
            span = _without(raw, (*gone, *_OWN_KEYS)) if gone or stale else raw
            out += (PREFIX[len(span) + len(suffix)], span, suffix)
        return b"".join(out)

    def _suffix(self, trace_state: bytes, rate: int | None, lent: bool) -> tuple[bytes, bool, str]:
        """The fields to append to a span that came with these, whether a rate is among them, and what was odd.

        ``lent``: the rate is that of the app's spans, and stands nowhere on this one.
        """
        fields = [attribute_field(semconv.GRAFTER_POLICY, self.decision.policy)]
        rated, odd = False, ""
        if self.dry:
            fields.append(attribute_field(semconv.GRAFTER_DRY_RUN, "keep" if self.decision.kept else "drop"))
        else:
            weighed = weigh(trace_state, rate, self.decision.one_of, claim=self.claim)
            odd = weighed.odd
            leaves = weighed.rate if weighed.rate is not None or not lent else rate
            if leaves is not None:
                rated = True
                fields.append(attribute_field(_RATE_KEY, leaves))
            if weighed.trace_state is not None:
                fields.append(framed(_TRACE_STATE_TAG, weighed.trace_state))
        made = self._suffixes[trace_state, rate, lent] = (b"".join(fields), rated, odd)
        return made


def _without(span: bytes, keys: Collection[str]) -> bytes:
    """The span without the attributes of these keys; every other field as it came."""
    kept: list[bytes] = []
    for number, start, at, end in _fields(span):
        if number == _ATTRIBUTES_FIELD and _or_empty(KeyValue.FromString, span[at:end], KeyValue).key in keys:
            continue
        kept.append(span[start:end])
    return b"".join(kept)


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message that was decoded before: number, start of the field, start and end of its value."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        value = at
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                length, value = _varint(message, at)
                at = value + length
            case 5:
                at += 4
            case _:
                # A group: nobody writes one any more, and everything from here on stays as it came.
                at = len(message)
        yield tag >> 3, start, value, at


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
