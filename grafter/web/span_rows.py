"""The rows of the waterfall as text: a screen reader hears of a span what others see of it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from grafter.core.call_latency import Scalar
from grafter.web import words
from grafter.web.tree import Node
from grafter.web.waterfall import Row, Waterfall

SHOWN_EVENTS = 60
"""Events of one span, and of all media paths together."""


@dataclass(frozen=True, slots=True)
class SpanRow:
    row: Row
    id: str
    name: str
    service: str
    at: str
    takes: str
    error: str
    clues: str
    """Marks and what stands beside the name."""
    hangs: str
    """The name of what it hangs under, for who does not see the indent."""
    details: tuple[tuple[str, str], ...]
    events: tuple[tuple[str, str, str], ...]


def span_rows(fall: Waterfall, start: int, chosen: str) -> Iterator[SpanRow]:
    """One a row. ``start``: of the call; ``chosen``: the id of the span whose attributes are shown."""
    for row in fall.rows:
        node, members = row.node, row.members
        ns = sum(each.ns for each in members or (node,))
        shown = not members and node.id == chosen
        yield SpanRow(
            row=row,
            id=f"g{row.group}" if members else f"s-{node.id}",
            name=words.plain(node.step.name, 80),
            service=words.plain(node.step.service, 40),
            at=words.offset(node.step.start - start),
            takes=words.length(ns) if members else _takes(node),
            error=_error(row),
            clues=f"the longest {words.length(row.worst.ns)}" if members else _clues(row),
            hangs="" if node.parent is None else words.plain(node.parent.step.name, 60),
            details=tuple(_details(node)) if shown else (),
            events=tuple(_events(node, start)) if shown else (),
        )


def _error(row: Row) -> str:
    if not row.members:
        return "error" if row.node.step.error else ""
    failed = sum(member.step.error for member in row.members)
    return words.count(failed, "error") if failed else ""


def _takes(node: Node) -> str:
    attributes = node.step.attributes
    if node.step.end < node.step.start or attributes.get("grafter.time.odd") is True:
        return "unknown"
    return ("≥ " if attributes.get("grafter.end") == "unknown" else "") + words.length(node.ns)


_CLUES = (
    ("grafter.turn.first_token_ms", "first token after {} ms"),
    ("grafter.match", "matched by {}"),
    ("grafter.parent.missing", "its parent never came"),
    ("grafter.synthetic", "made up by grafter"),
    ("grafter.clock.offset_ms", "shifted by {} ms"),
)


def _clues(row: Row) -> str:
    attributes = row.node.step.attributes
    found = [f"interrupted: {mark.label}" if mark.label != "interrupted" else mark.label for mark in row.marks]
    for key, sentence in _CLUES:
        if (value := attributes.get(key)) not in (None, ""):
            shown = f"{value:,.0f}" if isinstance(value, float) else words.plain(str(value), 40)
            found.append(sentence.format(shown))
    return ", ".join(found)


def _details(node: Node) -> Iterator[tuple[str, str]]:
    yield "span id", node.id
    yield "trace id", node.span.trace_id.hex()
    if node.step.parent:
        yield "parent", node.step.parent.hex()
    yield "begins", words.stamp(node.step.start)
    yield "ends", words.stamp(node.step.end)
    if node.span.message:
        yield "status", words.plain(node.span.message, 400)
    for key, value in sorted(node.step.attributes.items()):
        yield words.plain(key, 100), words.plain(value_text(value), 400)


def _events(node: Node, start: int) -> Iterator[tuple[str, str, str]]:
    for time, name, attributes in node.step.events[:SHOWN_EVENTS]:
        details = ", ".join(
            f"{words.plain(key, 60)}={words.plain(value_text(value), 120)}" for key, value in attributes.items()
        )
        yield words.offset(time - start), words.plain(name, 80), details


def value_text(value: Scalar) -> str:
    """An attribute's value; booleans as OTLP writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)
