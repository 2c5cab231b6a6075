"""Geometry: whatever the spans claim, rows keep the tree's order, bars keep time's, and nothing is lost or outside."""

from hypothesis import given, settings
from hypothesis import strategies as st

from grafter.core.call_latency import CallerTurn, Part, Side, Step
from grafter.otlp.reading import ReadSpan
from grafter.web.lanes import strips
from grafter.web.tree import Tree
from grafter.web.waterfall import FOLD_OVER, PAGE_ROWS, Bar, bars_of, page_of, waterfall

BASE = 1_700_000_000_000_000_000
MS = 1_000_000


def span(number: int, parent: int, start: int, end: int, name: str = "work") -> ReadSpan:
    up = b"" if parent < 0 else parent.to_bytes(8, "big")
    step = Step(number.to_bytes(8, "big"), up, name, "app", 1, BASE + start, BASE + end, False, {})
    return ReadSpan(step, bytes(16), guest=False)


@st.composite
def forests(draw: st.DrawFn) -> list[ReadSpan]:
    """Up to 80 spans: any parent, themselves, missing ones and circles included, any times, few names."""
    count = draw(st.integers(1, 80))
    return [
        span(
            number + 1,
            draw(st.integers(-1, count + 3)),
            draw(st.integers(0, 10_000)) * MS,
            draw(st.integers(0, 12_000)) * MS,
            draw(st.sampled_from(["chat", "tool", "speech"])),
        )
        for number in range(count)
    ]


def in_order(bars: tuple[Bar, ...]) -> bool:
    """Within the window, one after the other, none over another."""
    at = 0.0
    for bar in bars:
        if bar.x < at - 0.0011 or bar.width < 0 or bar.x + bar.width > 100.0011:
            return False
        at = bar.x + bar.width
    return True


@given(forests(), st.booleans())
def test_every_span_is_in_the_tree_once(spans: list[ReadSpan], reverse: bool) -> None:
    """Orphans, circles and spans that name themselves are roots; the order in which they came says nothing."""
    tree = Tree(spans[::-1] if reverse else spans)
    walked = [node.step.span_id for node in tree]
    assert sorted(walked) == sorted(one.step.span_id for one in spans)
    assert walked == [node.step.span_id for node in Tree(spans)]
    for node in tree:
        assert node.depth == (0 if node.parent is None else node.parent.depth + 1)


@given(forests(), st.integers(0, 10_000), st.integers(1, 12_000))
def test_rows_and_bars_keep_order_and_stay_inside(spans: list[ReadSpan], start: int, length: int) -> None:
    """In each row bars are in order, apart, and within the window; parents stand above what hangs under them."""
    tree = Tree(spans)
    fall = waterfall(tree, BASE + start * MS, BASE + (start + length) * MS)
    shown: set[bytes] = set()
    for row in fall.rows:
        assert in_order(row.bars)
        if row.node.parent is not None:
            assert row.node.parent.step.span_id in shown
        shown.add(row.node.step.span_id)
    for row in fall.rows:
        if not row.members and row.node.step.start <= fall.end and row.node.step.end >= fall.start:
            assert row.bars


@given(forests(), st.data())
def test_nothing_of_the_window_is_lost(spans: list[ReadSpan], data: st.DataObject) -> None:
    """Each span is a row, stands in one group, or hangs under a member of one; evidence is always a row."""
    tree = Tree(spans)
    evidence = data.draw(st.sets(st.sampled_from([one.step.span_id for one in spans]), max_size=4))
    fall = waterfall(tree, BASE, BASE + 12_000 * MS, evidence=evidence)
    assert fall.pages == 1
    rows = [row.node.step.span_id for row in fall.rows if not row.members]
    folded = [below.step.span_id for row in fall.rows for member in row.members for below in (member, *member.below())]
    assert sorted([*rows, *folded]) == sorted(one.step.span_id for one in spans)
    assert evidence <= set(rows)
    assert all(len(row.members) > FOLD_OVER for row in fall.rows if row.members)


@given(forests())
@settings(max_examples=60, deadline=None)
def test_an_opened_group_shows_its_members(spans: list[ReadSpan]) -> None:
    """With every group opened there is a row for each span."""
    tree = Tree(spans)
    opened: set[str] = set()
    while True:
        fall = waterfall(tree, BASE, BASE + 12_000 * MS, opened=opened)
        more = {row.group for row in fall.rows if row.members} - opened
        if not more:
            break
        opened |= more
    rows = [row.node.step.span_id for row in fall.rows if not row.members]
    assert sorted(rows) == sorted(one.step.span_id for one in spans)


@given(st.lists(st.tuples(st.integers(-500, 1500), st.integers(-500, 1500)), max_size=400))
def test_bars_cover_what_they_stand_for(spans: list[tuple[int, int]]) -> None:
    """Of many spans of time the bars are apart, in order, few, and every span that shows is under one of them."""
    some = [(min(pair), max(pair)) for pair in spans]
    bars = tuple(bars_of(some, 0, 1000))
    assert in_order(bars)
    assert len(bars) <= 120
    for begins, ends in some:
        if ends >= 0 and begins <= 1000:
            middle = (max(begins, 0) + min(ends, 1000)) / 20
            assert any(bar.x - 0.2 <= middle <= bar.x + bar.width + 0.2 for bar in bars)


def test_ten_thousand_siblings_are_pages() -> None:
    """A call of an hour has more spans than a page; each page has its share, and a span's page is found."""
    spans = [span(1, -1, 0, 3_600_000 * MS, "call")]
    spans += [span(at + 2, 1, at * 360 * MS, at * 360 * MS + 200 * MS, f"step {at}") for at in range(10_000)]
    tree = Tree(spans)
    first = waterfall(tree, tree.start, tree.end)
    assert (len(first.rows), first.pages, first.shown) == (PAGE_ROWS, 51, 10_001)
    last = (9_999 + 2).to_bytes(8, "big")
    found = page_of(tree, tree.start, tree.end, last, [last])
    assert last in {row.node.step.span_id for row in waterfall(tree, tree.start, tree.end, page=found).rows}


def test_a_chain_of_ten_thousand_is_no_recursion() -> None:
    """However deep spans hang, they are read."""
    tree = Tree([span(at + 1, at, at * MS, (20_000 - at) * MS) for at in range(10_000)])
    assert len(list(tree)) == 10_000
    assert waterfall(tree, tree.start, tree.end).pages == 50


@given(
    st.lists(st.tuples(st.integers(0, 60_000), st.lists(st.integers(0, 3_000), min_size=1, max_size=5)), max_size=30),
    st.integers(1, 120_000),
)
def test_lanes_never_overlap(waits: list[tuple[int, list[int]]], length: int) -> None:
    """Waits of a caller who speaks again overlap; their bars do not, and parts stay within their wait."""
    turns = [
        CallerTurn(
            number,
            BASE + at * MS,
            BASE + (at + sum(parts)) * MS,
            "",
            "",
            0,
            tuple(Part("model", ms * MS, Side.OPENAI) for ms in parts),
            b"",
            None,
            "",
        )
        for number, (at, parts) in enumerate(waits, 1)
    ]
    for strip in strips(Tree([span(1, -1, 0, 1)]), turns, BASE, BASE + length * MS):
        assert in_order(tuple(wait.bar for wait in strip.waits))
        for wait in strip.waits:
            assert in_order(tuple(part.bar for part in wait.parts))
            assert all(part.bar.x >= wait.bar.x - 0.0011 for part in wait.parts)
            assert wait.limit is None or wait.bar.x - 0.001 <= wait.limit <= wait.bar.x + wait.bar.width + 0.001
