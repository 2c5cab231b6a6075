"""What a joined trace says of the call that it is of, read from the spans that leave; and whether it is of a call.

Most traces of an app are of no call, and leave undecoded. So a call is looked for in their bytes: a key of one stands
there framed as protobuf frames it (field 1 of a KeyValue, its length, its text). One search goes over many traces.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.consumer import Piece
from grafter.core import semconv
from grafter.core.model import STATUS_ERROR, Envelope
from grafter.core.sampling.first_token import FRAMEWORK_WAIT_KEYS
from grafter.core.tools import NAME_ARGUMENTS, NAME_TIME
from grafter.otlp.frames import first_of, varint
from grafter.otlp.sampling import attributes_of, first_token_ms, is_barge_in, resource_attributes, spans_in

PARTS = ("endpointing", "model", "tool", "relay", "playout", "unknown")
_WAIT = semconv.CALLER_WAIT
_PART_KEYS = {_WAIT.part_ms(part): part for part in PARTS}
_GUEST_ID_KEYS = (semconv.GRAFTER_GUEST_TRACE_ID, semconv.AGENTS_TRACE_ID)
_MATCHED_BY_NAME = (NAME_ARGUMENTS, NAME_TIME)
_FRAMEWORKS = (b"livekit", b"pipecat")
"""In the names of scopes whose spans have a call's id where they learn it, which is not the root."""
_MOST_ENVELOPES = 10_000
_METADATA_BYTES = 64 << 10
_MOST_VALUES = 32
_MOST_TURNS = 1_000
_MOST_TOOLS = 64
_LONGEST_VALUE = 512


_Plain = tuple[list[bytes], list[Envelope], list[bytes], int]
"""A trace as a store hands it out in a plain batch: its runs, their envelopes, their span ids, and which run begins
with the root."""


class CallSearch:
    """Finds the traces that name a call."""

    def __init__(self, keys: Iterable[str]) -> None:
        framed = [varint(len(name)) + name for name in (key.encode() for key in keys)]
        # Of many keys, one search is four times as fast as one after the other; and twice as fast as that where what
        # cannot begin any of them is passed over by sets of bytes.
        begins = [{one[at : at + 1] for one in framed} for at in range(min([3, *map(len, framed)]))]
        ahead = b"".join(b"[" + b"".join(map(re.escape, some)) + b"]" for some in begins)
        self._keys = re.compile(b"\n(?=" + ahead + b")(?:" + b"|".join(map(re.escape, framed)) + b")")
        self._anywhere: dict[int, tuple[Envelope, bool]] = {}

    def one(self, payloads: Iterable[bytes]) -> bool:
        """Whether a trace of these runs names a call."""
        return any(map(self._keys.search, payloads))

    def among(self, traces: Sequence[_Plain], envelopes: Iterable[Envelope], *, whole: bool = False) -> list[int]:
        """Which of many traces name one: by their roots, and by any span of a framework that names it elsewhere.

        ``envelopes``: all that the traces have, each once. ``whole``: all of every trace is searched.
        """
        wide = {id(one) for one in envelopes if self._names_anywhere(one)}
        if whole or wide:
            searched = [
                b"".join(payloads) if whole or any(id(one) in wide for one in own) else first_of(payloads[root])
                for payloads, own, _, root in traces
            ]
        else:
            searched = [first_of(payloads[root]) for payloads, _, _, root in traces]
        if self._keys.search(b"".join(searched)) is None:
            return []
        return [at for at, one in enumerate(searched) if self._keys.search(one)]

    def _names_anywhere(self, envelope: Envelope) -> bool:
        # A process has few of them, and they are shared objects.
        known = self._anywhere.get(id(envelope))
        if known is None or known[0] is not envelope:
            if len(self._anywhere) > _MOST_ENVELOPES:
                self._anywhere.clear()
            known = (envelope, any(name in envelope.scope for name in _FRAMEWORKS))
            self._anywhere[id(envelope)] = known
        return known[1]


@dataclass(slots=True)
class Turn:
    """A wait of the caller, or a model turn that no wait is known of."""

    start: int
    wait_ms: float | None = None
    error_ms: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    first_token_ms: float | None = None
    sentence: str = ""


@dataclass(slots=True)
class CallFacts:
    """What the spans of one release say."""

    trace_id: bytes = b""
    start: int | None = None
    end: int | None = None
    """Of the spans whose times are in order."""
    spans: int = 0
    errors: int = 0
    guest_barge_ins: int = 0
    """By OpenAI's events."""
    told_barge_ins: int = 0
    """By the word of the app, or of LiveKit or Pipecat: they may be the same ones."""
    root: bool = False
    root_failed: bool = False
    values: dict[str, list[str]] = field(default_factory=dict)
    """By wanted key, what spans, resources and OpenAI's metadata have there; the root's first."""
    guests: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    unanswered_ms: float | None = None
    """What a caller had waited at least when a call ended."""
    tools: dict[str, tuple[int, float]] = field(default_factory=dict)
    unanchored: bool = False
    """OpenAI's spans hang under no span of the host that was seen."""
    missing_parents: int = 0
    disconnected: bool = False
    """The recorder of the call lost its connection."""


def call_facts(pieces: Sequence[Piece], wanted: frozenset[str]) -> CallFacts:
    """``wanted``: keys whose values are asked for."""
    facts = CallFacts()
    seen: dict[str, dict[str, None]] = {}
    rooted: dict[str, dict[str, None]] = {}
    tool_calls: dict[str, tuple[str, float]] = {}
    resources: set[int] = set()
    for piece in pieces:
        if id(piece.envelope) not in resources:
            resources.add(id(piece.envelope))
            _collect(attributes_of(resource_attributes(piece.envelope)), wanted, seen)
        for span in spans_in(piece.payload):
            attributes = attributes_of(span.attributes)
            root = not any(span.parent_span_id)
            _collect(attributes, wanted, rooted if root else seen)
            _count(facts, span, attributes, root=root)
            guest = next((attributes[key] for key in _GUEST_ID_KEYS if key in attributes), None)
            if guest is not None and guest not in facts.guests and len(facts.guests) < _MOST_VALUES:
                facts.guests.append(guest)
            cuts = sum(event.name == semconv.BARGE_IN for event in span.events)
            if guest is None or not cuts:
                facts.told_barge_ins += cuts or is_barge_in(span)
            else:
                facts.guest_barge_ins += cuts
            _turn(facts, span, attributes)
            _tool(tool_calls, span, attributes)
    for name, ms in tool_calls.values():
        if name in facts.tools or len(facts.tools) < _MOST_TOOLS:
            count, before = facts.tools.get(name, (0, 0.0))
            facts.tools[name] = (count + 1, before + ms)
    facts.turns.sort(key=lambda turn: turn.start)
    if any(turn.wait_ms is not None for turn in facts.turns):
        facts.turns = [turn for turn in facts.turns if turn.wait_ms is not None]
    del facts.turns[_MOST_TURNS:]
    for values in (rooted, seen):
        for key, some in values.items():
            known = facts.values.setdefault(key, [])
            known += [one for one in some if one not in known][: _MOST_VALUES - len(known)]
    return facts


def _count(facts: CallFacts, span: Span, attributes: Mapping[str, str], *, root: bool) -> None:
    facts.trace_id = facts.trace_id or span.trace_id
    facts.spans += 1
    failed = span.status.code == STATUS_ERROR
    facts.errors += failed
    if root:
        facts.root = True
        facts.root_failed |= failed
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    if 0 < start <= end < 1 << 63:
        facts.start = start if facts.start is None else min(facts.start, start)
        facts.end = end if facts.end is None else max(facts.end, end)
    facts.unanchored |= attributes.get(semconv.GRAFTER_ANCHOR) in ("none", "unseen")
    facts.missing_parents += semconv.GRAFTER_PARENT_MISSING in attributes
    facts.disconnected |= attributes.get(semconv.GRAFTER_ENDED_BY) == "disconnect"


def _collect(attributes: Mapping[str, str], wanted: frozenset[str], into: dict[str, dict[str, None]]) -> None:
    for key in wanted & attributes.keys():
        _put(into, key, attributes[key])
    metadata = attributes.get(semconv.AGENTS_TRACE_METADATA)
    if metadata is None or len(metadata) > _METADATA_BYTES:
        return
    try:
        read = orjson.loads(metadata)
    except orjson.JSONDecodeError:
        return
    if isinstance(read, dict):
        for key in wanted & read.keys():
            if isinstance(read[key], str):
                _put(into, key, read[key])


def _put(into: dict[str, dict[str, None]], key: str, value: str) -> None:
    known = into.setdefault(key, {})
    if len(known) < _MOST_VALUES and 0 < len(value) <= _LONGEST_VALUE:
        known[value] = None


def _turn(facts: CallFacts, span: Span, attributes: Mapping[str, str]) -> None:
    unanswered = _figure(attributes, semconv.UNANSWERED.ms)
    if unanswered is not None:
        facts.unanswered_ms = max(unanswered, facts.unanswered_ms or 0.0)
        return
    wait = _figure(attributes, _WAIT.ms)
    if wait is None:
        # A framework's own word has no parts here, by which whoever puts records together tells it from grafter's.
        wait = next((ms for key in FRAMEWORK_WAIT_KEYS if (ms := _stated_ms(attributes, key)) is not None), None)
    first = _figure(attributes, semconv.TURN_FIRST_TOKEN_MS)
    if first is None and wait is None:
        first = first_token_ms(span)
    if wait is None and first is None:
        return
    begun = attributes.get(_WAIT.begin_time, "") if wait is not None else ""
    start = int(begun) if begun.isascii() and begun.isdecimal() and len(begun) < 20 else span.start_time_unix_nano
    parts = {part: ms for key, part in _PART_KEYS.items() if (ms := _figure(attributes, key)) is not None}
    error = _figure(attributes, _WAIT.error_ms if wait is not None else semconv.TURN_FIRST_TOKEN_ERROR_MS)
    if wait is None:
        parts = {}
    facts.turns.append(Turn(start, wait, error or 0.0, parts, first, attributes.get(_WAIT.sentence, "")))


def _tool(calls: dict[str, tuple[str, float]], span: Span, attributes: Mapping[str, str]) -> None:
    """A tool that both sides traced is one: the host's span of it says how long it took."""
    name = attributes.get(semconv.GEN_AI_TOOL_NAME)
    if name is None or attributes.get(semconv.GRAFTER_END) == "unknown":
        return
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    if not 0 < start <= end:
        return
    # What was matched without an id hangs under the guest's span of the same call.
    moved = attributes.get(semconv.GRAFTER_MATCH) in _MATCHED_BY_NAME
    call = attributes.get(semconv.GEN_AI_TOOL_CALL_ID) or (span.parent_span_id if moved else span.span_id).hex()
    guest = any(key in attributes for key in _GUEST_ID_KEYS)
    if call not in calls or not guest:
        calls[call] = (name[:_LONGEST_VALUE], (end - start) / 1e6)


def _stated_ms(attributes: Mapping[str, str], key: str) -> float | None:
    value = _figure(attributes, key)
    return None if value is None else value * FRAMEWORK_WAIT_KEYS[key]


def _figure(attributes: Mapping[str, str], key: str) -> float | None:
    text = attributes.get(key)
    try:
        number = -1.0 if text is None else float(text)
    except ValueError:
        return None
    return number if 0 <= number < 1e20 else None
