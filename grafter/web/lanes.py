"""What the caller said, waited for and heard, as lanes over time. Pure.

Each strip is a piece of the call with three lanes: the caller's speech, the wait with its parts, the answer. In a lane
nothing overlaps; barge-ins are marks, and each wait has the moment at which it was too long.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafter.core import semconv
from grafter.core.call_latency import CallerTurn, Part, Side
from grafter.core.joined_steps import nanoseconds
from grafter.core.sampling.barge_in import is_told_by_framework
from grafter.web.kinds import PARTS
from grafter.web.tree import Tree
from grafter.web.waterfall import Bar, Mark, bars_of
from grafter.web.words import MINUTE, MS, SECOND

LIMIT_NS = 1500 * MS
"""A caller who waits longer notices: over this an answer is slow."""

_MOST_STRIPS = 6
_LEAST_WITH_PARTS = 0.008
_WORDS_WIDTH = 18.0
_NICE = (15 * SECOND, 20 * SECOND, 30 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 20 * MINUTE, 60 * MINUTE)
_CALLER = ("user_speech", "user_speaking")
_AGENT = ("assistant_speech", "agent_speaking")


@dataclass(frozen=True, slots=True)
class PartBar:
    bar: Bar
    side: Side
    name: str
    letter: str


@dataclass(frozen=True, slots=True)
class WaitBar:
    """A wait with its parts; ``limit``: where 1500 ms of it were over, if they were."""

    number: int
    bar: Bar
    parts: tuple[PartBar, ...]
    limit: float | None


@dataclass(frozen=True, slots=True)
class Strip:
    start: int
    end: int
    caller: tuple[Bar, ...]
    """The caller's speech."""
    waits: tuple[WaitBar, ...]
    agent: tuple[Bar, ...]
    """What the caller heard."""
    marks: tuple[Mark, ...]

    @property
    def empty(self) -> bool:
        return not (self.caller or self.waits or self.agent or self.marks)


@dataclass(frozen=True, slots=True)
class BargeIn:
    at: int
    heard_ms: float | None
    at_most: bool
    """Less may have been heard."""
    span_id: bytes
    more_ms: float = 0.0
    """By how much more may have been heard."""


def barge_ins(tree: Tree) -> list[BargeIn]:
    """Each once, in order: both sides may tell of the same one. Only where no event does, what a framework says."""
    found: list[BargeIn] = []
    for node in sorted(tree.nodes, key=lambda node: not node.span.guest):
        for time, name, attributes in node.step.events:
            heard = attributes.get(semconv.AUDIO_ELAPSED_MS)
            more = attributes.get(semconv.AUDIO_HEARD_ERROR_MS)
            if name == semconv.BARGE_IN and not any(abs(time - other.at) < SECOND // 2 for other in found):
                found.append(
                    BargeIn(
                        time,
                        float(heard) if isinstance(heard, (int, float)) and not isinstance(heard, bool) else None,
                        attributes.get(semconv.AUDIO_HEARD_AT_MOST) is True,
                        node.step.span_id,
                        float(more) if isinstance(more, (int, float)) and not isinstance(more, bool) else 0.0,
                    )
                )
    return sorted(found or _told_by_framework(tree), key=lambda one: one.at)


def _told_by_framework(tree: Tree) -> list[BargeIn]:
    """At the end of what was last heard of the turn."""
    found = []
    for node in tree.nodes:
        if is_told_by_framework(node.step.attributes) and node.step.end >= node.step.start:
            spoken = [each.step.end for each in node.children if each.step.name in _AGENT]
            heard = nanoseconds(node.step, "lk.playout.position", SECOND)
            at = max(spoken, default=node.step.end)
            found.append(BargeIn(at, None if heard is None else heard / MS, False, node.step.span_id))
    return found


def strips(tree: Tree, turns: Sequence[CallerTurn], start: int, end: int) -> Iterator[Strip]:
    """The window in at most six pieces of one length, so that a second stays as wide as it can."""
    whole = max(end - start, SECOND)
    piece = next((one for one in _NICE if whole <= one * _MOST_STRIPS), whole // _MOST_STRIPS + 1)
    if whole <= 45 * SECOND:
        piece = whole
    caller, agent = _spoken(tree, _CALLER), _spoken(tree, _AGENT)
    cut = barge_ins(tree)
    for begins in range(start, start + whole, piece):
        ends = begins + piece
        yield Strip(
            begins,
            ends,
            tuple(bars_of(caller, begins, ends)),
            tuple(_waits(turns, begins, ends)),
            tuple(bars_of(agent, begins, ends)),
            tuple(_marks([one for one in cut if begins <= one.at < ends], begins, ends)),
        )


def _spoken(tree: Tree, names: tuple[str, ...]) -> list[tuple[int, int]]:
    spoken = (node.step for node in tree.nodes if node.step.name in names)
    return [(step.start, step.end) for step in spoken if step.end > step.start]


def _waits(turns: Sequence[CallerTurn], start: int, end: int) -> Iterator[WaitBar]:
    """Of waits that overlap, which callers who speak again make, a later one begins where the one before it ended."""
    whole, free = end - start, start
    for turn in sorted(turns, key=lambda turn: (turn.start, turn.end)):
        begins, ends = max(turn.start, free), min(turn.end, end)
        if ends <= begins:
            continue
        free = ends
        parts, at = [], turn.start
        shown: Sequence[Part] = turn.parts
        if ends - begins < whole * _LEAST_WITH_PARTS and shown:
            # Too narrow to be told apart: what took longest stands for all.
            longest = max(shown, key=lambda part: part.ns)
            shown = (longest._replace(ns=turn.end - turn.start),)
        for part in shown:
            from_, until = max(at, begins), min(at + part.ns, ends)
            at += part.ns
            if until > from_:
                letter = PARTS.get(part.name, ("?", ""))[0]
                parts.append(PartBar(_bar(from_, until, start, whole), part.side, part.name, letter))
        late = turn.start + LIMIT_NS
        limit = round((late - start) / whole * 100, 3) if begins <= late < ends else None
        yield WaitBar(turn.number, _bar(begins, ends, start, whole), tuple(parts), limit)


def _bar(begins: int, ends: int, start: int, whole: int) -> Bar:
    x, until = round((begins - start) / whole * 100, 3), round((ends - start) / whole * 100, 3)
    return Bar(x, round(until - x, 3))


def _marks(cut: Sequence[BargeIn], start: int, end: int) -> Iterator[Mark]:
    """A mark that has others near it has no words in the picture: the list below it says them."""
    at = [round((one.at - start) / (end - start) * 100, 3) for one in cut]
    for x, one in zip(at, cut, strict=True):
        alone = all(x == other or abs(x - other) > _WORDS_WIDTH for other in at)
        words = "interrupted" if one.heard_ms is None else f"interrupted, {one.heard_ms:,.0f} ms heard"
        yield Mark(x, words if alone else "")
