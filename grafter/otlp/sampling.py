"""Sampling on the wire: what policies ask of the spans that leave, and the weight written on each of them.

Looking is cheap where nothing is there to be found: what is asked of every span (status, times, trace state) is read in
one merged message a run, a key is searched in the bytes of a whole run, and only runs that hold what was looked for are
decoded. Writing appends fields to a span; what came stays byte for byte in front of them, but for a rate or a policy
that a new one replaces.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import repeat
from math import inf
from operator import le
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from grafter.consumer import Piece
from grafter.core import semconv
from grafter.core.model import STATUS_ERROR, Envelope
from grafter.core.sampling.barge_in import is_told_by_framework
from grafter.core.sampling.first_token import CALLER_WAIT_KEYS, MODEL_TURN_KEYS
from grafter.core.sampling.policy import SamplingDecision, TraceView
from grafter.core.sampling.weights import MOST_RATE, randomness, read, weigh
from grafter.otlp.frames import first_of, framed, run_of, spans_of
from grafter.otlp.shallow_pb2 import Head, HeadScopeRun, Survey, SurveyScopeRun
from grafter.otlp.spans import attribute_field, attribute_text

_TURN = "grafter.turn."
"""What the turns that grafter measured have in common, those included whose first token never came."""
_FIRST_TOKEN_NEEDLES = tuple(
    key.encode() for key in (_TURN, *CALLER_WAIT_KEYS, *MODEL_TURN_KEYS) if key == _TURN or not key.startswith(_TURN)
)
_FIRST_TOKEN_MARKS = (b"grafter.", b"_latency", b"time_to_first_", b".ttf")
"""In each of those keys stands one of these: to look for few is cheaper, and in most runs there is none."""
_BARGE_IN_NEEDLES = (semconv.BARGE_IN.encode(), b"lk.interrupted", b"turn.was_interrupted")
_RATE_NEEDLE = b"ampleRate"
_RATE_KEYS = ("sampleRate", "SampleRate")
"""As Honeycomb reads them, the first one first."""
_RATE_KEY = "SampleRate"
_OWN_KEYS = (semconv.GRAFTER_POLICY, semconv.GRAFTER_DRY_RUN)
_OWN_NEEDLES = tuple(key.encode() for key in _OWN_KEYS)
_OWN_PREFIX = b"grafter."
"""What both of them begin with: in most runs nothing does."""
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
        self._pieces = _by_envelope(pieces)
        self._guests = guests
        self._complete = complete
        self._surveys: dict[int, Survey] = {}
        self._decoded: dict[int, Sequence[Span]] = {}

    @property
    def pieces(self) -> Sequence[Piece]:
        """Those of one resource and scope are one, for each of them costs more than its spans do."""
        return self._pieces

    @property
    def spans(self) -> int:
        return sum([piece.spans for piece in self._pieces])

    @property
    def guests(self) -> int:
        return self._guests

    @property
    def complete(self) -> bool:
        return self._complete

    def has_error(self) -> bool:
        # Of a status that stands twice on one span the last counts.
        return any(
            STATUS_ERROR in self._survey(at).status.code
            and any(span.status.code == STATUS_ERROR for span in self._spans(at))
            for at in range(len(self._pieces))
        )

    def has_barge_in(self) -> bool:
        return any(map(is_barge_in, self._with(*_BARGE_IN_NEEDLES)))

    def first_token_ms(self) -> float | None:
        spans = self._with(*_FIRST_TOKEN_NEEDLES, marks=_FIRST_TOKEN_MARKS)
        found = (first_token_ms(span) or _given_up_ms(span) for span in spans)
        return max(filter(None, found), default=None)

    def duration_ms(self) -> float:
        earliest: list[int] = []
        latest: list[int] = []
        for at, piece in enumerate(self._pieces):
            survey = self._survey(at)
            # Lists, for each look at what protobuf has makes the numbers anew.
            starts: Sequence[int] = survey.start_time_unix_nano[:]
            ends: Sequence[int] = survey.end_time_unix_nano[:]
            if not (len(starts) == len(ends) == piece.spans and min(starts) > 0 and all(map(le, starts, ends))):
                # Not each of them has both in the right order; only whole ones count.
                spans = [(head.start_time_unix_nano, head.end_time_unix_nano) for head in _heads(piece.payload)]
                starts, ends = ([span[side] for span in spans if 0 < span[0] <= span[1]] for side in (0, 1))
            if starts:
                earliest.append(min(starts))
                latest.append(max(ends))
        return (max(latest) - min(earliest)) / 1e6 if earliest else 0.0

    def values(self, key: str) -> Iterator[str]:
        needle = key.encode()
        for envelope in {id(piece.envelope): piece.envelope for piece in self._pieces}.values():
            if needle in envelope.resource:
                yield from _texts(resource_attributes(envelope), key)
        for span in self._with(needle):
            yield from _texts(span.attributes, key)

    def randomness(self) -> int:
        # The explicit one is made once a trace and handed on from span to span, though not over every hop.
        states = (state for at in range(len(self._pieces)) for state in self._survey(at).trace_state if state)
        rv = next((rv for state in states if (rv := read(state).rv) is not None), None)
        first = first_of(self._pieces[0].payload)
        trace_id = _or_empty(Head.FromString, first, Head).trace_id if rv is None else b""
        return randomness(trace_id, rv)

    def trace_states(self, at: int) -> Sequence[bytes] | None:
        """Those of a piece's spans; None where none of them has one."""
        if not any(self._survey(at).trace_state):
            return None
        return [head.trace_state for head in _heads(self._pieces[at].payload)]

    @cached_property
    def rates(self) -> Sequence[Sequence[int | None] | None]:
        """What the spans of each piece came with, see ``incoming_rate``; None where none of a piece's has a rate."""
        return [
            [incoming_rate(span.attributes) for span in self._spans(at)] if _RATE_NEEDLE in piece.payload else None
            for at, piece in enumerate(self._pieces)
        ]

    def upstream_rate(self, own_scope: bytes) -> int:
        """The rate that the app's own spans came with, the largest of several; 0: none. ``own_scope``: grafter's."""
        found = [0]
        for piece, rates in zip(self._pieces, self.rates, strict=True):
            if piece.envelope.scope != own_scope:
                found.append(resource_rate(piece.envelope) or 0)
                found += [rate or 0 for rate in rates or ()]
        return max(found)

    def _with(self, *needles: bytes, marks: Sequence[bytes] = ()) -> Iterator[Span]:
        """The spans of the runs that hold any of these bytes; ``marks``: one of which stands in each of them."""
        for at, piece in enumerate(self._pieces):
            if _holds(piece.payload, marks or needles) and (not marks or _holds(piece.payload, needles)):
                yield from self._spans(at)

    def _spans(self, at: int) -> Iterable[Span]:
        spans = self._decoded.get(at)
        if spans is not None:
            return spans
        found = spans_in(self._pieces[at].payload)
        if isinstance(found, Sequence) and len(self._decoded) < _KEPT_RUNS:
            self._decoded[at] = found
        return found

    def _survey(self, at: int) -> Survey:
        survey = self._surveys.get(at)
        if survey is None:
            survey = _survey(self._pieces[at].payload)
            if len(self._surveys) < _KEPT_RUNS:
                self._surveys[at] = survey
        return survey


def _holds(run: bytes, needles: Iterable[bytes]) -> bool:
    return any([needle in run for needle in needles])  # noqa: C419  # a list is faster


def _by_envelope(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """The same spans, in one piece for each envelope unless that would be large."""
    if len(pieces) == 1:
        return pieces
    together: dict[int, list[Piece]] = {}
    for piece in pieces:
        together.setdefault(id(piece.envelope), []).append(piece)
    found: list[Piece] = []
    for some in together.values():
        if len(some) == 1 or sum([len(piece.payload) for piece in some]) > _LARGE_RUN:
            found += some
        else:
            payload = b"".join([piece.payload for piece in some])
            found.append(Piece(some[0].envelope, payload, sum([piece.spans for piece in some])))
    return found


def _survey(run: bytes) -> Survey:
    """What all spans of a run say, in one message."""
    if len(run) <= _LARGE_RUN:
        try:
            return SurveyScopeRun.FromString(run).spans
        except DecodeError:
            pass
    whole = Survey()
    for raw in spans_of(run):
        one = _or_empty(Survey.FromString, raw, Survey)
        one.DiscardUnknownFields()
        whole.MergeFrom(one)
    return whole


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


def _given_up_ms(span: Span) -> float | None:
    """How long an answer lasted that was cancelled before any of it came: at least so long somebody waited for it."""
    own = attributes_of(span.attributes)
    lasted = span.end_time_unix_nano - span.start_time_unix_nano
    if own.get(semconv.RESPONSE_STATUS) != "cancelled" or semconv.TURN_FIRST_DELTA_TIME in own or lasted < 0:
        return None
    return None if own.get(semconv.TURN_CONVERSATION) == "none" else lasted / 1e6


def is_barge_in(span: Span) -> bool:
    """grafter's and the conventions' event, or a turn of which a framework says so."""
    return any(event.name == semconv.BARGE_IN for event in span.events) or is_told_by_framework(
        attributes_of(span.attributes)
    )


def incoming_rate(attributes: Attributes) -> int | None:
    """The rate that a span or its resource came with, as Honeycomb reads it; None: none."""
    found = {a.key: a.value for a in attributes if a.key in _RATE_KEYS}
    for key in _RATE_KEYS:
        if key in found:
            number = _number(found[key])
            return 1 if number is None or number < 0.5 else min(int(number + 0.5), MOST_RATE)
    return None


def resource_rate(envelope: Envelope) -> int | None:
    """The rate that stands around a run's spans, on their scope or their resource."""
    if _RATE_NEEDLE not in envelope.resource and _RATE_NEEDLE not in envelope.scope:
        return None
    scope = _or_empty(ScopeSpans.FromString, envelope.scope, ScopeSpans).scope.attributes
    rate = incoming_rate(scope)
    return rate if rate is not None else incoming_rate(resource_attributes(envelope))


class _Suffix(NamedTuple):
    """What is appended to a span."""

    fields: bytes
    rated: bool
    """A rate is among them."""
    odd: str


@lru_cache(1000)
def _suffix(
    decision: SamplingDecision, claim: bool, dry: bool, trace_state: bytes, rate: int | None, lent: bool
) -> _Suffix:
    """What is added to a span that came with these; the first three as ``Weights`` has them.

    ``lent``: the rate is that of the app's spans, and stands nowhere on this one.
    """
    fields = [attribute_field(semconv.GRAFTER_POLICY, decision.policy)]
    rated, odd = False, ""
    if dry:
        fields.append(attribute_field(semconv.GRAFTER_DRY_RUN, "keep" if decision.kept else "drop"))
    else:
        weighed = weigh(trace_state, rate, decision.one_of, claim=claim)
        odd = weighed.odd
        leaves = weighed.rate if weighed.rate is not None or not lent else rate
        if leaves is not None:
            rated = True
            fields.append(attribute_field(_RATE_KEY, leaves))
        if weighed.trace_state is not None:
            fields.append(framed(_TRACE_STATE_TAG, weighed.trace_state))
    return _Suffix(b"".join(fields), rated, odd)


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

    def write(self, view: SpansView) -> tuple[Piece, ...]:
        """The trace's pieces with ``grafter.policy`` and the weight on every span."""
        return tuple(
            Piece(piece.envelope, self._run(piece, view.trace_states(at), rates), piece.spans)
            for at, (piece, rates) in enumerate(zip(view.pieces, view.rates, strict=True))
        )

    def _run(self, piece: Piece, states: Sequence[bytes] | None, rates: Sequence[int | None] | None) -> bytes:
        around = resource_rate(piece.envelope)
        lent = around is None and piece.envelope.scope == self.own_scope and self.decision.upstream > 0
        if lent:
            around = self.decision.upstream
        run = piece.payload
        spans = list(spans_of(run))
        if _OWN_PREFIX in run and any(needle in run for needle in _OWN_NEEDLES):
            # Of a grafter in front of this one.
            spans = [_without(span, _OWN_KEYS) for span in spans]
        if states is None and rates is None:
            # Nearly always: all of them came alike.
            suffix = _suffix(self.decision, self.claim, self.dry, b"", around, lent).fields
            return run_of([span + suffix for span in spans])
        written = []
        for span, state, own in zip(spans, states or repeat(b""), rates or repeat(None), strict=False):
            came = (around, lent) if own is None else (own, False)
            suffix, rated, odd = _suffix(self.decision, self.claim, self.dry, state, *came)
            if odd:
                self.odd[odd] = self.odd.get(odd, 0) + 1
            written.append((_without(span, _RATE_KEYS) if rated and own is not None else span) + suffix)
        return run_of(written)


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
