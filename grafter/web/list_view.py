"""The list of calls as plain data. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafter.calls.model import RUNNING, CallRow, TurnRow
from grafter.web import words
from grafter.web.call_view import phone
from grafter.web.lanes import LIMIT_NS
from grafter.web.missing import NEVER_ANSWERED, as_sentence
from grafter.web.problems import ENDED_BADLY
from grafter.web.redaction import Sight, text

FILTERS = (
    ("slow", "Slow", "an answer took over 1.5 s"),
    ("errors", "Errors", "a span failed"),
    ("interrupted", "Interrupted", "the caller spoke into an answer"),
    ("unjoined", "Not joined", "a side of the call is missing"),
    ("live", "Running", "has not ended"),
)
"""Key of the address, label, and what it means."""

_MOST_BARS = 24
_FULL_NS = 2_500 * words.MS


@dataclass(frozen=True, slots=True)
class WaitColumn:
    """A wait as a column: hundredths of the width and of the height."""

    x: float
    width: float
    height: float
    over: bool


@dataclass(frozen=True, slots=True)
class ListRow:
    key: str
    day: str
    clock: str
    stamp: str
    caller: str
    callee: str
    length: str
    outcome: str
    live: bool
    bad: bool
    sentence: str
    slowest: str
    over: bool
    columns: tuple[WaitColumn, ...]
    limit: float
    """The height of the 1500 ms line, in hundredths from above."""
    waits: str
    """What the columns say."""
    marks: tuple[tuple[str, str], ...]
    """Kind and words: what a filter could ask for."""


def list_rows(calls: Sequence[CallRow], sight: Sight, now: int) -> list[ListRow]:
    """As they come, but what is running on top."""
    rows = [_row(call, sight, now) for call in calls]
    return sorted(rows, key=lambda row: not row.live)


def _row(call: CallRow, sight: Sight, now: int) -> ListRow:
    slowest = call.slowest
    over = slowest is not None and _ns(slowest) > LIMIT_NS
    live = call.outcome == RUNNING
    waits = [turn for turn in call.turns if turn.number and turn.wait_ms is not None]
    return ListRow(
        key=call.key,
        day=words.day(call.start),
        clock=words.clock(call.start),
        stamp=words.stamp(call.start),
        caller=phone(call.caller, sight.numbers),
        callee=phone(call.callee, sight.numbers),
        length=words.length((now if live or call.end is None else call.end) - call.start) if live or call.end else "",
        outcome=words.plain(call.outcome, 40),
        live=live,
        bad=call.outcome in ENDED_BADLY,
        sentence=text(_sentence(call, slowest), sight),
        slowest="" if slowest is None else words.length(_ns(slowest)),
        over=over,
        columns=tuple(_columns(waits)),
        limit=round(100 - LIMIT_NS / _FULL_NS * 100, 2),
        waits=_waits_words(waits),
        marks=tuple(_marks(call)),
    )


def _ns(turn: TurnRow) -> int:
    return round((turn.wait_ms or 0.0) * words.MS)


def _sentence(call: CallRow, slowest: TurnRow | None) -> str:
    unanswered = round((call.unanswered_ms or 0.0) * words.MS)
    if unanswered > LIMIT_NS and (slowest is None or unanswered >= _ns(slowest)):
        return f"Waited at least {words.length(unanswered)} for an answer, then the call ended."
    if slowest is not None and (slowest.sentence or slowest.wait_ms):
        sentence = slowest.sentence or f"waited {words.length(_ns(slowest))}"
        return f"Turn {slowest.number}: {words.plain(sentence, 160)}"
    if call.outcome == RUNNING:
        return "How long the caller waits is not known yet."
    if call.outcome in ENDED_BADLY:
        return f"The call ended as {call.outcome}."
    if call.unjoined:
        return as_sentence(call.unjoined[0])
    return "How long the caller waited is not known."


def _columns(waits: Sequence[TurnRow]) -> Iterator[WaitColumn]:
    """Of more turns than fit, the slowest of each run of neighbours."""
    if not waits:
        return
    run = -(-len(waits) // _MOST_BARS)
    some = [max(waits[at : at + run], key=_ns) for at in range(0, len(waits), run)]
    pitch = 100 / max(len(some), 8)
    for at, turn in enumerate(some):
        height = min(_ns(turn) / _FULL_NS, 1.0) * 100
        yield WaitColumn(round(at * pitch, 2), round(pitch * 0.7, 2), round(max(height, 3), 2), _ns(turn) > LIMIT_NS)


def _waits_words(waits: Sequence[TurnRow]) -> str:
    if not waits:
        return "no wait is known"
    slow = sum(_ns(turn) > LIMIT_NS for turn in waits)
    return f"{words.count(len(waits), 'wait')}, {slow or 'none'} over 1.5 s"


def _marks(call: CallRow) -> Iterator[tuple[str, str]]:
    if call.errors:
        yield "errors", words.count(call.errors, "error")
    if call.barge_ins:
        yield "interrupted", f"interrupted {call.barge_ins} ×"
    if call.unjoined and call.outcome not in NEVER_ANSWERED:
        yield "unjoined", "not joined"
    if not call.kept:
        yield "dropped", "sampled away"
