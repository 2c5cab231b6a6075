"""The steps of those that have left, on either side: what comes later is matched with them. Both are part of the memory
of a host trace.

Of the host's tools, and of its model calls that said what was used, the ids are kept (``StepIndex``): by them a guest
that comes late says on its own side what stands there already; and when they were, which bounds its clock.

Of guests' steps what matching reads is kept (``GuestIndex``), and which counts of a model's answer stand in the trace
already: a host span that comes later may still be moved, for it has not left itself; so may the spans of a trace that
follows that host by a rule. Of a guest that left apart from its host, late or in stream mode, each step that has an id
is remembered by that.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from grafter.core.model import Key, SpanId, TraceId, UnixNano, guest_key
from grafter.core.steps import GuestSteps, GuestTool, GuestTurn

STEPS_LIMIT = 1_000
"""Tools, and model calls, kept of one host trace; the ids of longer calls than any are cut at their first."""

LEFT_LIMIT = 1_000
"""Tools, and model turns, kept of one host trace: those that left last."""
LEFT = -1
"""In place of the number of a guest that leaves now."""

_LONGEST_ID = 256


@dataclass(frozen=True, slots=True)
class StepTime:
    """When a step was that has left, and by whose clock."""

    start: UnixNano
    end: UnixNano
    runs: bool
    """Its span describes the step, and does not only name its id."""
    clock: str
    """``clock_of`` its resource."""


def clock_of(resource: bytes) -> str:
    """A short name of a resource, by which spans of one clock are known."""
    return sha256(resource).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class StepIndex:
    """The host spans that left and by which a guest that comes later knows its own steps again."""

    tools: Mapping[str, SpanId] = field(default_factory=dict)
    """By the id of the tool call."""
    responses: Mapping[str, SpanId] = field(default_factory=dict)
    """By the id of the model's response, where they say what was used."""
    times: Mapping[SpanId, StepTime] = field(default_factory=dict)
    """Of those spans; none where an earlier version kept them."""

    @classmethod
    def of(
        cls,
        tools: Mapping[str, SpanId],
        responses: Mapping[str, SpanId],
        times: Mapping[SpanId, StepTime] | None = None,
    ) -> "StepIndex":
        """With no more than may be kept: the last of each."""
        tools, responses = _kept(tools), _kept(responses)
        known = times or {}
        kept = dict.fromkeys((*tools.values(), *responses.values()))
        return cls(tools, responses, {span_id: known[span_id] for span_id in kept if span_id in known})

    @classmethod
    def read(cls, values: Mapping[str, Mapping[str, str]]) -> "StepIndex":
        """What ``values`` made. Raises what reading odd JSON raises: ValueError, TypeError, AttributeError."""
        times = _times(values.get("times", {}))
        return cls(_spans(values.get("tools", {})), _spans(values.get("responses", {})), times)

    def merged(self, later: "StepIndex") -> "StepIndex":
        """With those of spans that left later; the first span of a step stays."""
        if not later:
            return self
        times = {**later.times, **self.times}
        return StepIndex.of({**later.tools, **self.tools}, {**later.responses, **self.responses}, times)

    def values(self) -> dict[str, object]:
        """As JSON values, none where it is empty. A reader that does not know these keys leaves them alone."""
        if not self:
            return {}
        times = {span_id.hex(): [time.start, time.end, time.runs, time.clock] for span_id, time in self.times.items()}
        return {"tools": _hex(self.tools), "responses": _hex(self.responses)} | ({"times": times} if times else {})

    def __bool__(self) -> bool:
        return bool(self.tools or self.responses)


@dataclass(frozen=True, slots=True)
class GuestIndex:
    """The steps of guests that left with a host."""

    tools: tuple[GuestTool, ...] = ()
    """A call of which there was no span of its own stands here under the turn that asked for it, without a name."""
    turns: tuple[GuestTurn, ...] = ()
    """Without the usage of a turn that a host span without its id was found to be: there is no second one."""
    counts: Mapping[SpanId, tuple[str, ...]] = field(default_factory=dict)
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
            {**self.counts, **later.counts},
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
                counts = {**known.counts, turn.span_id: self.counts.get(turn.span_id, ())}
                found[turn.response_id] = replace(known, turns=(*known.turns, turn), counts=counts, open=self.open)
        return found

    def values(self) -> list[object]:
        """As JSON, bounded; nothing where it is empty."""
        if not self:
            return []
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
                [keys.setdefault(key, len(keys)) for key in self.counts.get(turn.span_id, ())],
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


def _kept(steps: Mapping[str, SpanId]) -> dict[str, SpanId]:
    short = [(step, span_id) for step, span_id in steps.items() if len(step) <= _LONGEST_ID]
    return dict(short[-STEPS_LIMIT:])


def _hex(steps: Mapping[str, SpanId]) -> dict[str, str]:
    return {step: span_id.hex() for step, span_id in steps.items()}


def _spans(steps: Mapping[str, str]) -> dict[str, SpanId]:
    return {step: SpanId(bytes.fromhex(span_id)) for step, span_id in steps.items()}


def _times(rows: Mapping[str, Any]) -> dict[SpanId, StepTime]:
    return {
        SpanId(bytes.fromhex(span_id)): StepTime(UnixNano(int(start)), UnixNano(int(end)), bool(runs), str(clock))
        for span_id, (start, end, runs, clock) in rows.items()
    }


# Of both there may be a thousand, and ``replace`` takes three times as long.
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
    return text if text is None or len(text) <= _LONGEST_ID else None
