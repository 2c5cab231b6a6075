"""Holds what came out of a call against its truth, by the attributes' names alone.

Per figure: *right*; *wrong*, off by more than its own stated error and 2 ms; *left out* though it could be known;
*absent*, rightly; *invented*, stated of what does not exist. A figure that is stated though it cannot be known is right
or wrong like any other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.simulator.truth import PARTS, Cut, Expected, Figure, Mark, Truth, Word
from tests.simulator.world import T0, Interval

UNKNOWN_PART = "grafter.caller_wait.unknown_ms"
Finding = Literal["right", "wrong", "left out", "absent", "invented"]
TOLERANCE = 2.0
SORTS = (
    ("resp", "chat"),
    ("call", "execute_tool"),
    ("item_f", "execute_tool"),
    ("item_u", "user_speech"),
    ("input", "user_speech"),
    ("output", "assistant_speech"),
    ("session", "session"),
)

ERRORS = {
    "grafter.turn.first_token_ms": "grafter.turn.first_token.error_ms",
    "gen_ai.response.time_to_first_chunk": "grafter.turn.first_token.error_ms",
    "grafter.turn.first_audio_ms": "grafter.turn.first_audio.error_ms",
    "grafter.turn.speech_end_unix_nano": "grafter.speech_end.error_ms",
    "grafter.turn.endpointing_ms": "grafter.speech_end.error_ms",
    "grafter.caller_wait_ms": "grafter.caller_wait.error_ms",
    "grafter.caller_wait.from_unix_nano": "grafter.caller_wait.error_ms",
    "grafter.unanswered_ms": "grafter.unanswered.error_ms",
    "grafter.unanswered.from_unix_nano": "grafter.unanswered.error_ms",
} | {f"grafter.caller_wait.{part}_ms": "grafter.caller_wait.error_ms" for part in PARTS}
"""Where a figure's own error stands."""


@dataclass(frozen=True, slots=True)
class Span:
    """A span that came out, as plain values."""

    id: str
    """``grafter.guest.span_id``."""
    name: str
    start: int
    end: int
    attributes: Mapping[str, object]
    events: Sequence[tuple[str, int, Mapping[str, object]]] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure, word, barge-in or span of one call."""

    seed: int
    owner: str
    what: str
    kind: str
    finding: Finding
    got: object = None
    right: object = None

    def __str__(self) -> str:
        where = f"{self.what} of {self.owner} ({self.kind}), seed {self.seed}"
        return f"{self.finding}: {where}: {self.got}; right: {self.right}"


def judge(truth: Truth, spans: Sequence[Span]) -> list[Verdict]:
    """Every verdict of one call."""
    found: dict[str, list[Span]] = {}
    for span in spans:
        found.setdefault(span.id, []).append(span)
    verdicts = list(_spans(truth, found))
    verdicts += [_figure(truth, f, found[f.owner][0]) for f in truth.figures if f.owner in found]
    verdicts += [_word(truth, w, found[w.owner][0]) for w in truth.words if w.owner in found]
    for cut in truth.cuts:
        if cut.owner in found:
            verdicts += _cut(truth, cut, found[cut.owner][0])
    verdicts += [_mark(truth, m, found[m.owner][0]) for m in truth.marks if m.owner in found]
    for owner in {f.owner for f in truth.figures}:
        if owner in found:
            verdicts += _sum(truth, found[owner][0])
    return verdicts


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _stated(name: str, value: object) -> float | None:
    """In milliseconds; moments since T0."""
    number = _number(value)
    if number is None or not name.endswith("_unix_nano"):
        in_seconds = name == "gen_ai.response.time_to_first_chunk" or name.endswith("_seconds")
        return number * 1000 if number is not None and in_seconds else number
    assert isinstance(value, int)
    return (value - T0 * 10**9) / 1e6


def _inside(value: float, right: Sequence[Interval], error: float) -> bool:
    return any(low - error - TOLERANCE <= value <= high + error + TOLERANCE for low, high in right)


def _figure(truth: Truth, figure: Figure, span: Span) -> Verdict:
    value = _stated(figure.name, span.attributes.get(figure.name))
    error = _number(span.attributes.get(ERRORS.get(figure.name, ""))) or 0.0
    finding: Finding
    if value is None:
        finding = "left out" if figure.knowable else "absent"
    elif not figure.right:
        finding = "invented"
    else:
        larger = error > value and figure.name.endswith("_ms") and ".caller_wait." not in figure.name
        finding = "right" if _inside(value, figure.right, error) and not larger else "wrong"
        if finding == "wrong" and figure.name == UNKNOWN_PART and value >= 0:
            # To say that it is not known is no wrong figure of it; whether all parts add up is judged apart.
            finding = "left out"
    return Verdict(truth.seed, figure.owner, figure.name, figure.kind, finding, value, figure.right)


def _mark(truth: Truth, mark: Mark, span: Span) -> Verdict:
    got = sorted((at - T0 * 10**9) / 1e6 for name, at, _ in span.events if name == mark.name)
    finding: Finding = "right" if got else "absent"
    if len(got) != len(mark.at):
        finding = "left out" if len(got) < len(mark.at) else "invented"
    elif any(abs(at - right) > TOLERANCE for at, right in zip(got, sorted(mark.at), strict=True)):
        finding = "wrong"
    return Verdict(truth.seed, mark.owner, mark.name, mark.kind, finding, got, mark.at)


def _word(truth: Truth, word: Word, span: Span) -> Verdict:
    value = span.attributes.get(word.name)
    finding: Finding
    if value is None:
        finding = "left out" if word.knowable else "absent"
    elif not word.right:
        finding = "invented"
    else:
        stated = set(value) if isinstance(value, list | tuple) else {value}
        finding = "right" if stated <= word.right else "wrong"
    return Verdict(truth.seed, word.owner, word.name, word.kind, finding, value, sorted(word.right))


def _sum(truth: Truth, span: Span) -> Iterator[Verdict]:
    """The parts of a wait add up to it, exactly."""
    parts = [_number(span.attributes.get(f"grafter.caller_wait.{part}_ms")) for part in PARTS]
    total = _number(span.attributes.get("grafter.caller_wait_ms"))
    stated = [part for part in parts if part is not None]
    if stated or total is not None:
        adds_up = total is not None and (not stated or abs(sum(stated) - total) < 1e-6)
        finding: Finding = "right" if adds_up else "wrong"
        yield Verdict(truth.seed, span.id, "sum of the parts of the wait", "sum", finding, stated, total)


def _cut(truth: Truth, cut: Cut, span: Span) -> Iterator[Verdict]:
    events = [(at, attributes) for name, at, attributes in span.events if name == "gen_ai.audio.barge_in"]
    name = "gen_ai.audio.barge_in"

    def say(what: str, finding: Finding, got: object, right: object = None) -> Verdict:
        return Verdict(truth.seed, cut.owner, what, cut.kind, finding, got, right)

    if not events:
        yield say(name, "left out" if cut.must and cut.knowable else "absent", None, cut.when)
        return
    if cut.must is False:
        yield say(name, "invented", events)
        return
    if cut.when is None or cut.heard is None:
        return
    at, attributes = events[0]
    moment = (at - T0 * 10**9) / 1e6
    right = len(events) == 1 and (not cut.knowable or _inside(moment, [cut.when], 0.0))
    yield say(name, "right" if right else "wrong", [(t - T0 * 10**9) / 1e6 for t, _ in events], cut.when)
    heard = _number(attributes.get("audio.elapsed_ms"))
    if heard is None:
        yield say("audio.elapsed_ms", "left out" if cut.must and cut.knowable else "absent", None, cut.heard)
        return
    error = _number(attributes.get("audio.elapsed.error_ms")) or 0.0
    marked = attributes.get("grafter.audio.heard_at_most") is True
    true = _inside(heard, [cut.heard], error)
    exact = marked or not cut.bound or abs(heard - cut.really) <= error + TOLERANCE
    yield say("audio.elapsed_ms", "right" if true and exact else "wrong", (heard, marked), (cut.heard, cut.really))
    for key, words in (("grafter.audio.heard_by", cut.heard_by), ("grafter.barge_in.by", cut.by)):
        if (word := attributes.get(key)) is not None:
            yield say(key, "right" if word in words else "wrong", word, sorted(words))


def _spans(truth: Truth, found: Mapping[str, list[Span]]) -> Iterator[Verdict]:
    wanted: dict[str, list[Expected]] = {}
    for expected in truth.spans:
        wanted.setdefault(expected.owner, []).append(expected)
    for owner, expectations in wanted.items():
        first, spans = expectations[0], found.get(owner, [])
        must = sum(e.must for e in expectations)
        what = f"span {_sort(owner)}"
        if len(spans) < must:
            yield Verdict(truth.seed, owner, what, first.kind, "left out", len(spans), must)
        elif len(spans) > len(expectations):
            yield Verdict(truth.seed, owner, what, first.kind, "invented", len(spans), len(expectations))
        elif spans and len(expectations) == 1:
            yield from _times(truth, first, spans[0], what)
    for owner, spans in found.items():
        if owner not in wanted:
            yield Verdict(truth.seed, owner, f"span {_sort(owner)}", spans[0].name, "invented", spans[0].name)


def _sort(owner: str) -> str:
    """What kind of span an id belongs to, for the table."""
    if owner.endswith("/audio"):
        return "assistant_speech"
    return next((sort for start, sort in SORTS if owner.startswith(start)), "other")


def _times(truth: Truth, expected: Expected, span: Span, what: str) -> Iterator[Verdict]:
    for edge, at, right in (("start", span.start, expected.start), ("end", span.end, expected.end)):
        if right is not None:
            moment = (at - T0 * 10**9) / 1e6
            error = _number(span.attributes.get("grafter.speech_end.error_ms")) or 0.0 if edge == "end" else 0.0
            finding: Finding = "right" if _inside(moment, [right], error) else "wrong"
            yield Verdict(truth.seed, expected.owner, f"{what}: {edge}", expected.kind, finding, moment, right)
    if expected.open is not None:
        says = span.attributes.get("grafter.end") == "unknown"
        finding = "right" if says == expected.open else "wrong"
        yield Verdict(truth.seed, expected.owner, f"{what}: grafter.end", expected.kind, finding, says, expected.open)
