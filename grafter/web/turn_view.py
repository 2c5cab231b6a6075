"""The turns of a call as the page shows them: each wait with its parts, beside 1500 ms and beside the usual. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from grafter.calls.model import TurnRow
from grafter.core.call_latency import CallerTurn, CallLatency, ModelTurn, Part, Side
from grafter.web import words
from grafter.web.kinds import PARTS
from grafter.web.lanes import LIMIT_NS
from grafter.web.problems import turn_sentence

SHOWN_TURNS = 30
"""More turns than this are shown by their slowest, and all of them on request."""
_FULL_SCALE_NS = 2_000 * words.MS
"""A bar is drawn on this scale at least, so that a quick answer looks quick."""

_SIDES = {
    "endpointing": Side.OPENAI,
    "model": Side.OPENAI,
    "tool": Side.APP,
    "relay": Side.APP,
    "playout": Side.CARRIER,
}
"""Whose the parts are where only their names are kept."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a wait; ``x`` and ``width`` in hundredths of the scale that all turns share."""

    x: float
    width: float
    side: Side
    name: str
    letter: str
    label: str
    length: str
    span: str
    within: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TurnView:
    """A wait."""

    number: int
    start: int
    at: str
    wait: str
    error: str
    wait_ns: int | None
    over: bool
    pieces: tuple[Piece, ...]
    limit: float
    """Where 1500 ms stand."""
    app: str
    openai: str
    line: str
    unknown: str
    first_token: str
    answered: str
    """When the answer itself was heard, where the caller was told to wait for a tool first."""
    usual: str
    """How it compares with the median: ``3.1 ×``."""
    sentence: str
    measured: str
    """From what to what."""

    @property
    def id(self) -> str:
        """Of its row; a call may have several greetings."""
        return f"turn-{self.number}" if self.number else f"greeting-{self.start}"

    @property
    def name(self) -> str:
        return f"Turn {self.number}" if self.number else "Greeting"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure beside its median over the last calls."""

    name: str
    here: str
    usual: str
    times: str
    more: bool


def turns_of(rows: Sequence[TurnRow]) -> tuple[CallerTurn, ...]:
    """The turns that the call map remembers, where the spans are gone."""
    found = []
    for row in rows:
        if row.wait_ms is None or not row.number:
            continue
        parts = tuple(
            Part(name, round(value * words.MS), _SIDES.get(name, Side.UNKNOWN)) for name, value in row.parts.items()
        )
        wait = sum(part.ns for part in parts) or round(row.wait_ms * words.MS)
        error = round(row.error_ms * words.MS)
        found.append(CallerTurn(row.number, row.start, row.start + wait, "", "", error, parts, b"", None, row.sentence))
    return tuple(found)


def turn_views(latency: CallLatency, start: int, medians: Mapping[str, float]) -> list[TurnView]:
    """All turns in order of time; each leg begins with its greeting."""
    turns = sorted([*latency.greetings, *latency.caller_turns], key=lambda turn: turn.start)
    scale = max([_FULL_SCALE_NS, *(turn.end - turn.start for turn in turns)])
    models = {model.span_id: model for model in latency.model_turns}
    return [_view(turn, start, scale, models.get(turn.answer), medians) for turn in turns]


def _view(turn: CallerTurn, start: int, scale: int, model: ModelTurn | None, medians: Mapping[str, float]) -> TurnView:
    wait = turn.end - turn.start
    sides = {side: sum(part.ns for part in turn.parts if part.side is side) for side in Side}
    known = bool(turn.parts)
    usual = medians.get("wait_ms") if turn.number else None
    token = None if model is None else model.first_token_ns

    def share(side: Side) -> str:
        return words.length(sides[side]) if sides[side] else ("–" if known else "unknown")

    return TurnView(
        number=turn.number,
        start=turn.start,
        at=words.offset(turn.start - start),
        wait=words.length(wait),
        error=words.error(turn.error_ns),
        wait_ns=wait,
        over=wait > LIMIT_NS and turn.number > 0,
        pieces=tuple(_pieces(turn.parts, scale)),
        limit=round(LIMIT_NS / scale * 100, 3),
        app=share(Side.APP),
        openai=share(Side.OPENAI),
        line=share(Side.CARRIER),
        unknown=share(Side.UNKNOWN),
        first_token=words.stated(token, 0 if model is None else model.error_ns) if token is not None else "unknown",
        answered="" if (turn.answer_audio_ns or 0) <= wait else words.length(turn.answer_audio_ns or 0),
        usual=f"{wait / (usual * words.MS):.1f} ×" if usual else "",
        sentence=turn_sentence(turn),
        measured=measured(turn),
    )


def _pieces(parts: Sequence[Part], scale: int) -> Iterator[Piece]:
    at = 0
    for part in parts:
        x, until = round(at / scale * 100, 3), round((at + part.ns) / scale * 100, 3)
        at += part.ns
        letter, word = PARTS.get(part.name, ("?", part.name))
        label = words.plain(part.what, 60) if part.name == "tool" and part.what else word
        within = tuple(
            f"{words.length(each.ns)} {PARTS.get(each.name, ('', each.name))[1]} {words.plain(each.what, 40)}".strip()
            for each in part.within
        )
        yield Piece(
            x,
            round(until - x, 3),
            part.side,
            part.name,
            letter,
            label,
            words.length(part.ns),
            part.span_id.hex(),
            within,
        )


_BEGINS = {
    "speech_end": "the end of the caller's speech",
    "commit": "the app's word that the caller had finished",
    "session": "the session's beginning",
    "user_transcript": "the end of the caller's speech as its transcript dates it",
}
_ENDS = {
    "output_audio_buffer": "the first audio that was played",
    "delta": "the first audio that left OpenAI",
    "output_transcript": "the first word as its transcript dates it",
}


def measured(turn: CallerTurn) -> str:
    """From what to what a wait was measured."""
    if not turn.start_word and not turn.end_word:
        return ""
    begins = _BEGINS.get(turn.start_word, turn.start_word.replace("_", " "))
    ends = _ENDS.get(turn.end_word, turn.end_word.replace("_", " "))
    return f"from {begins} to {ends}"


def comparisons(turns: Sequence[CallerTurn], medians: Mapping[str, float]) -> list[Comparison]:
    """The median turn of this call beside the median of the last calls, the whole wait first."""
    if not turns or not medians:
        return []
    found = []
    names = ["wait_ms", *(name for name in PARTS if name in {key.removesuffix("_ms") for key in medians} - {"wait"})]
    for name in names:
        usual = medians.get(name, medians.get(f"{name}_ms"))
        if usual is None:
            continue
        if name == "wait_ms":
            values = [turn.end - turn.start for turn in turns]
        else:
            values = [sum(part.ns for part in turn.parts if part.name == name) for turn in turns]
            values = [value for value in values if value]
        if not values:
            continue
        here = sorted(values)[len(values) // 2]
        label = "whole wait" if name == "wait_ms" else PARTS[name][1]
        times = f"{here / (usual * words.MS):.1f} ×" if usual >= 1 else ""
        found.append(
            Comparison(label, words.length(here), words.length(usual * words.MS), times, here > usual * words.MS * 1.25)
        )
    return found
