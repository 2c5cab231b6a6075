"""The steps of guests that have left: what a host span is matched with that comes after them.

It is part of the memory of the host trace with which they left. A host span that comes later may still be moved, for
it has not left itself; so may the spans of a trace that follows that host by a rule. What is kept is what matching
reads of a step, and which counts of a model's answer stand in the trace already. Of a guest that left apart from its
host, late or in stream mode, each step that has an id is remembered by that.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from grafter.core.model import Key, SpanId, TraceId, UnixNano, guest_key
from grafter.core.steps import GuestSteps, GuestTool, GuestTurn

LEFT_LIMIT = 1_000
"""Tools, and model turns, kept of one host trace: those that left last."""
LEFT = -1
"""In place of the number of a guest that leaves now."""

_LONGEST = 256


@dataclass(frozen=True, slots=True)
class GuestIndex:
    """The steps of guests that left with a host."""

    tools: tuple[GuestTool, ...] = ()
    """A call of which there was no span of its own stands here under the turn that asked for it, without a name."""
    turns: tuple[GuestTurn, ...] = ()
    """Without the usage of a turn that a host span without its id was found to be: there is no second one."""
    counts: Mapping[SpanId, tuple[str, ...]] | None = None
    """The attributes under which a turn's tokens stand in the trace."""
    open: bool = False
    """A host span that has not come may stand above one of the guests, so that none may be hung below them."""

    @classmethod
    def of(
        cls,
        steps: GuestSteps,
        counts: Mapping[SpanId, tuple[str, ...]],
        spoken_for: Iterable[SpanId],
        *,
        open_: bool,
    ) -> "GuestIndex":
        """Of guests that leave now, after ``find_turns``. ``spoken_for``: turns that were matched without their id."""
        run = {tool.call_id for tool in steps.tools if tool.call_id is not None}
        calls = [
            GuestTool(turn.span_id, b"", LEFT, turn.start, turn.end, None, None, call.call_id, turn.span_id)
            for turn in steps.turns[-LEFT_LIMIT:]
            for call in turn.tool_calls
            if call.call_id is not None and call.call_id not in run
        ]
        tools = [*steps.tools[-LEFT_LIMIT:], *calls][-LEFT_LIMIT:]
        gone = frozenset(spoken_for)
        turns = [_left_turn(turn, spoken_for=turn.span_id in gone) for turn in steps.turns[-LEFT_LIMIT:]]
        return cls(
            tuple(map(_left_tool, tools)),
            tuple(turn for turn in turns if turn.response_id is not None or turn.usage is not None),
            {span_id: keys for span_id, keys in counts.items() if keys},
            open_,
        )

    def __bool__(self) -> bool:
        return bool(self.tools or self.turns)

    def merged(self, later: "GuestIndex", spoken_for: Iterable[SpanId] = ()) -> "GuestIndex":
        """With those of guests that left later, and without the usage of turns that were matched since."""
        gone = frozenset(spoken_for)
        if not later and not gone:
            return self
        turns = [replace(turn, usage=None) if turn.span_id in gone else turn for turn in self.turns]
        return GuestIndex(
            (*self.tools, *later.tools)[-LEFT_LIMIT:],
            (*turns, *later.turns)[-LEFT_LIMIT:],
            {**(self.counts or {}), **(later.counts or {})},
            self.open or later.open,
        )

    def by_step(self) -> dict[str, "GuestIndex"]:
        """What there is under each call's and each response's id, by itself."""
        found: dict[str, GuestIndex] = {}
        for tool in self.tools:
            if tool.call_id is not None:
                known = found.get(tool.call_id, GuestIndex())
                found[tool.call_id] = replace(known, tools=(*known.tools, tool), open=self.open)
        for turn in self.turns:
            if turn.response_id is not None:
                known = found.get(turn.response_id, GuestIndex())
                keys = (self.counts or {}).get(turn.span_id, ())
                counts = {**(known.counts or {}), turn.span_id: keys}
                found[turn.response_id] = replace(known, turns=(*known.turns, turn), counts=counts, open=self.open)
        return found

    def values(self) -> list[object]:
        """As JSON, bounded; nothing where it is empty."""
        if not self:
            return []
        counts = self.counts or {}
        keys: dict[str, int] = {}
        tools = [
            [
                tool.span_id.hex(),
                _short(tool.call_id),
                _short(tool.name),
                tool.digest,
                tool.start,
                tool.end,
                None if tool.turn is None else tool.turn.hex(),
            ]
            for tool in self.tools
        ]
        turns = [
            [
                turn.span_id.hex(),
                _short(turn.response_id),
                turn.start,
                turn.end,
                turn.usage,
                [keys.setdefault(key, len(keys)) for key in counts.get(turn.span_id, ())],
            ]
            for turn in self.turns
        ]
        return [tools, turns, list(keys), self.open]

    @classmethod
    def read(cls, values: Any) -> "GuestIndex":
        """What ``values`` made. Raises what reading odd JSON raises: ValueError, TypeError, LookupError."""
        if not values:
            return cls()
        tools, turns, keys, open_ = values
        return cls(
            tuple(_tool(row) for row in tools),
            tuple(_turn(row) for row in turns),
            {SpanId(bytes.fromhex(row[0])): tuple(keys[at] for at in row[5]) for row in turns if row[5]},
            bool(open_),
        )


def step_key(host: TraceId, step: str) -> Key:
    """The key under which a step is remembered of a guest that left apart from its host, which may leave later: by its
    host's trace id, and the id of the call or response."""
    return guest_key(f"\0step:{host.hex()}:{step}")


def _left_tool(tool: GuestTool) -> GuestTool:
    return GuestTool(
        tool.span_id, tool.parent, LEFT, tool.start, tool.end, tool.name, tool.digest, tool.call_id, tool.turn
    )


def _left_turn(turn: GuestTurn, *, spoken_for: bool) -> GuestTurn:
    usage = None if spoken_for else turn.usage
    return GuestTurn(turn.span_id, b"", LEFT, turn.start, turn.end, turn.response_id, usage, ())


def _tool(row: list[Any]) -> GuestTool:
    span_id, call_id, name, digest, start, end, turn = row
    turn_id = None if turn is None else SpanId(bytes.fromhex(turn))
    own = SpanId(bytes.fromhex(span_id))
    return GuestTool(own, b"", LEFT, UnixNano(int(start)), UnixNano(int(end)), name, digest, call_id, turn_id)


def _turn(row: list[Any]) -> GuestTurn:
    span_id, response_id, start, end, usage, _ = row
    used = None if usage is None else (int(usage[0]), int(usage[1]))
    own = SpanId(bytes.fromhex(span_id))
    return GuestTurn(own, b"", LEFT, UnixNano(int(start)), UnixNano(int(end)), response_id, used, ())


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LONGEST else None
