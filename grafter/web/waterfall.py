"""Spans as rows and bars: which rows there are, and where each bar begins and how long it is. Pure.

A row is a span, or a group of siblings of one name that are too many to read one by one. Bars are given in hundredths
of the window that is shown, so that the picture has no size of its own. In a row no two bars overlap, none stands
outside of the window, and bars and rows keep the order of time and of the tree.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from grafter.core import semconv
from grafter.web.kinds import Kind, kind
from grafter.web.tree import Node, Tree

FOLD_OVER = 8
"""So many siblings of one name are read one by one; more are a group."""
PAGE_ROWS = 200
_MOST_BARS = 120
"""In the row of a group; more could not be told apart."""
_LEAST_WIDTH = 0.75
"""Hundredths: two pixels of a narrow picture. A bar that is any shorter could not be seen."""


@dataclass(frozen=True, slots=True)
class Bar:
    """From ``x`` on, ``width`` wide, in hundredths of the window."""

    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in a row: a barge-in."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the waterfall."""

    node: Node
    """The span; of a group its first one."""
    kind: Kind
    depth: int
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...] = ()
    members: tuple[Node, ...] = ()
    """Of a group; empty for a span."""
    group: str = ""
    """The name of the group, by which it is opened."""
    within: int = 0
    """Spans of a group with everything under them."""

    @property
    def worst(self) -> Node:
        """Of a group the longest."""
        return max(self.members or (self.node,), key=lambda node: node.ns)


@dataclass(frozen=True, slots=True)
class Waterfall:
    """A page of rows over a window of time."""

    start: int
    end: int
    rows: tuple[Row, ...]
    page: int
    pages: int
    shown: int
    """Spans of the window, on all pages, those in groups included."""
    ticks: tuple[tuple[float, int], ...]
    """Where a line stands, and nanoseconds since the origin."""


def waterfall(
    tree: Tree,
    start: int,
    end: int,
    *,
    opened: Collection[str] = (),
    evidence: Collection[bytes] = (),
    page: int = 1,
    everything: bool = False,
    origin: int | None = None,
) -> Waterfall:
    """The rows of what overlaps the window from ``start`` to ``end``, with all that it hangs under; or, without a bar
    where it is outside, of ``everything``.

    ``opened``: groups whose members are shown; ``evidence``: span ids that no group hides. ``page`` counts from 1; one
    that there is not becomes the nearest. ``origin``: what ticks are round moments from; None: the window's start.
    """
    end = max(end, start + 1)
    wanted = {id(node) for node in tree.nodes} if everything else _within(tree, start, end)
    seen = _seen(tree, evidence)
    rows = list(_rows(tree, wanted, seen, opened))
    pages = max(1, -(-len(rows) // PAGE_ROWS))
    page = min(max(page, 1), pages)
    some = rows[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    drawn = tuple(_drawn(row, start, end) for row in some)
    return Waterfall(start, end, drawn, page, pages, len(wanted), tuple(_ticks(start, end, origin)))


def page_of(
    tree: Tree, start: int, end: int, span_id: bytes, evidence: Collection[bytes], everything: bool = False
) -> int:
    """On which page a span's row stands, where ``evidence`` is kept out of groups."""
    wanted = {id(node) for node in tree.nodes} if everything else _within(tree, start, max(end, start + 1))
    seen = _seen(tree, evidence)
    for at, (node, _, _) in enumerate(_rows(tree, wanted, seen, ())):
        if node.step.span_id == span_id:
            return at // PAGE_ROWS + 1
    return 1


def _within(tree: Tree, start: int, end: int) -> set[int]:
    wanted: set[int] = set()
    for node in tree.nodes:
        if node.step.start <= end and max(node.step.start, node.step.end) >= start:
            wanted.add(id(node))
            for above in node.above():
                if id(above) in wanted:
                    break
                wanted.add(id(above))
    return wanted


def _seen(tree: Tree, evidence: Collection[bytes]) -> set[int]:
    """What no group may hide: these spans, and all that they hang under."""
    seen: set[int] = set()
    for span_id in evidence:
        at = tree.by_id.get(span_id)
        while at is not None and id(at) not in seen:
            seen.add(id(at))
            at = at.parent
    return seen


_Planned = tuple[Node, tuple[Node, ...], str]


def _rows(tree: Tree, wanted: Collection[int], seen: Collection[int], opened: Collection[str]) -> Iterator[_Planned]:
    """Node, members and name of each row, in order, whatever the depth."""
    waiting: list[_Planned] = _siblings("", [root for root in tree.roots if id(root) in wanted], seen)[::-1]
    while waiting:
        node, members, group = waiting.pop()
        yield node, members, group
        if members:
            if group in opened:
                waiting += [(member, (), "") for member in members[::-1]]
        else:
            below = [child for child in node.children if id(child) in wanted]
            waiting += _siblings(node.id, below, seen)[::-1]


def _siblings(under: str, nodes: Sequence[Node], seen: Collection[int]) -> list[_Planned]:
    """Rows of siblings: where many have one name, those that nobody asks for are one row, in the place of the first."""
    by_name: dict[str, list[Node]] = {}
    for node in nodes:
        if id(node) not in seen:
            by_name.setdefault(node.step.name, []).append(node)
    planned: list[_Planned] = []
    for node in nodes:
        alike = by_name.get(node.step.name, [])
        if id(node) in seen or len(alike) <= FOLD_OVER:
            planned.append((node, (), ""))
        elif alike[0] is node:
            planned.append((node, tuple(alike), f"{under}-{node.id}"))
    return planned


def _drawn(row: _Planned, start: int, end: int) -> Row:
    node, members, group = row
    bars = tuple(
        bars_of([(each.step.start, max(each.step.start, each.step.end)) for each in members or (node,)], start, end)
    )
    within = sum(1 + sum(1 for _ in member.below()) for member in members)
    marks = () if members else tuple(_marks(node, start, end))
    return Row(node, kind(node), node.depth, bars, marks, members, group, within)


def bars_of(spans: Sequence[tuple[int, int]], start: int, end: int) -> Iterator[Bar]:
    """Bars that cover these spans of time within the window, apart from each other and in order.

    What overlaps, or would touch as it is drawn, is one bar.
    """
    whole = end - start
    drawn: list[list[float]] = []
    for begins, ends in sorted(spans):
        if ends < start or begins > end:
            continue
        x = (max(begins, start) - start) / whole * 100
        until = (min(ends, end) - start) / whole * 100
        if until - x < _LEAST_WIDTH:
            x = min(x, 100 - _LEAST_WIDTH)
            until = x + _LEAST_WIDTH
        if drawn and (x <= drawn[-1][1] or len(drawn) == _MOST_BARS):
            drawn[-1][1] = max(drawn[-1][1], until)
        else:
            drawn.append([x, until])
    for x, until in drawn:
        at = round(x, 3)
        yield Bar(at, round(min(until, 100.0) - at, 3))


def _marks(node: Node, start: int, end: int) -> Iterator[Mark]:
    for time, name, attributes in node.step.events:
        if name == semconv.BARGE_IN and start <= time <= end:
            heard = attributes.get(semconv.AUDIO_ELAPSED_MS)
            words = f"{float(heard):,.0f} ms heard" if isinstance(heard, (int, float)) else "interrupted"
            yield Mark(round((time - start) / (end - start) * 100, 3), words)


_STEPS = tuple(one * unit for unit in (10**6, 10**7, 10**8, 10**9) for one in (1, 2, 5)) + tuple(
    one * 10**9 for one in (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600)
)


def _ticks(start: int, end: int, origin: int | None) -> Iterator[tuple[float, int]]:
    """At most seven round moments."""
    whole = end - start
    origin = start if origin is None else origin
    step = next((one for one in _STEPS if whole / one <= 7), whole // 7 + 1)
    for at in range(start - origin - (start - origin) % step + step, end - origin, step):
        yield round((at + origin - start) / whole * 100, 3), at
