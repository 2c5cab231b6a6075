"""Tools under the model turn that asked for them: which host span ran which tool call of a guest.

By id, wherever both sides have one; else by the tool's name and its arguments; else by its name, where the host's span
lies within the guest's. Never by position, and never between two that fit equally: what is not certain stays where the
app put it, and the refusal is kept with what it was between.

Parallel calls of one tool are told apart by their arguments, a retry belongs to the call that it retries, and a tool
that outlives its turn, runs in another service or calls an agent itself is matched like any other: only its own span
moves, and what hangs below it stays there.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from grafter.core.model import HostSpan, SpanId, UnixNano
from grafter.core.steps import GuestSteps, GuestTool, GuestTurn, HostTool, inner

CALL_ID, NAME_ARGUMENTS, NAME_TIME = "call_id", "name_arguments", "name_time"


@dataclass(frozen=True, slots=True)
class Match:
    """A host span and the guest span of the same step."""

    host: SpanId
    guest: SpanId
    how: str
    guest_index: int
    """Which of the guests that leave together it is of."""
    turn: SpanId | None = None
    """The model turn that asked for it, where that is known."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A host span that was not matched although something fits it."""

    host: SpanId
    why: str
    between: tuple[SpanId, ...] = ()
    """The guest spans that fit it, or the first of them."""


TWO_FIT = "two_fit"
_MOST_NAMED = 8
_ROUNDED = 1_000_000
"""JavaScript's SDK writes whole milliseconds, Python's microseconds: so much a span may begin or end beside itself."""


def find_turns(steps: GuestSteps) -> None:
    """Say of each guest tool which model turn asked for it, and its call id where only a turn's answer has that.

    A turn's answer and a tool that ran beside it are one call where name and arguments fit those two alone.
    """
    by_id = {turn.span_id: turn for turn in steps.turns}
    beside: dict[bytes, list[GuestTurn]] = {}
    by_call: dict[str, list[GuestTurn]] = {}
    for turn in steps.turns:
        beside.setdefault(turn.parent, []).append(turn)
        for call in turn.tool_calls:
            if call.call_id is not None:
                by_call.setdefault(call.call_id, []).append(turn)
    _give_ids(steps.tools, beside)
    for tool in steps.tools:
        if tool.parent in by_id:
            tool.turn = SpanId(tool.parent)
            continue
        named = by_call.get(tool.call_id, []) if tool.call_id is not None else []
        siblings = [turn for turn in beside.get(tool.parent, ()) if turn.start <= tool.start]
        for turns in (named, siblings):
            if len(turns) == 1:
                tool.turn = turns[0].span_id
                break


def match(
    host: Sequence[HostTool], spans: Mapping[SpanId, HostSpan], steps: GuestSteps
) -> tuple[list[Match], list[Refused]]:
    """The host's tools that are steps of these guests, after ``find_turns``; and those between which nobody can tell.

    ``spans``: all spans of the host that are here. A span below another of the same call is part of that one.
    """
    by_id = {tool.span.span_id: tool for tool in host}
    above = inner(spans, by_id)
    outer = _outermost(host, above, by_id)
    guests = _Guests(steps)
    same: dict[tuple[str, str], int] = {}
    for tool in outer:
        if tool.name is not None and tool.digest is not None:
            upper = by_id.get(above.get(tool.span.span_id, tool.span.span_id))
            # An app's own span within an instrumentation's is no second call.
            if upper is None or upper is tool or (upper.name, upper.digest) != (tool.name, tool.digest):
                same[tool.name, tool.digest] = same.get((tool.name, tool.digest), 0) + 1
    found: list[Match] = []
    refused: list[Refused] = []
    for tool in outer:
        answer = guests.of(tool, alone=tool.digest is not None and same.get((tool.name or "", tool.digest)) == 1)
        if isinstance(answer, Match):
            found.append(answer)
        elif answer:
            between = tuple(each.span_id for each in answer[:_MOST_NAMED])
            refused.append(Refused(tool.span.span_id, TWO_FIT, between))
    return found, refused


def _outermost(
    host: Sequence[HostTool], above: Mapping[SpanId, SpanId], by_id: Mapping[SpanId, HostTool]
) -> list[HostTool]:
    """Without the spans below one of the same call: the tool's service, or a library's span within the app's."""
    kept = []
    for tool in host:
        upper = by_id.get(above.get(tool.span.span_id, tool.span.span_id))
        if upper is not None and upper is not tool:
            if tool.call_id is not None and tool.call_id == upper.call_id:
                continue
            if tool.call_id is None and tool.name is not None and tool.name == upper.name:
                continue
        kept.append(tool)
    return kept


def _give_ids(tools: Iterable[GuestTool], beside: Mapping[bytes, Sequence[GuestTurn]]) -> None:
    alike: dict[tuple[bytes, str, str], list[GuestTool]] = {}
    for tool in tools:
        if tool.call_id is None and tool.name is not None and tool.digest is not None and tool.parent in beside:
            alike.setdefault((tool.parent, tool.name, tool.digest), []).append(tool)
    if not alike:
        return
    calls: dict[tuple[bytes, str, str], list[str]] = {}
    for parent in {parent for parent, _, _ in alike}:
        for turn in beside[parent]:
            for call in turn.tool_calls:
                if call.call_id is not None and call.digest is not None:
                    calls.setdefault((parent, call.name, call.digest), []).append(call.call_id)
    for key, group in alike.items():
        ids = calls.get(key, ())
        if len(group) == 1 and len(ids) == 1:
            group[0].call_id = ids[0]


class _Guests:
    """The guests' tools, by everything that a host's may be matched by."""

    def __init__(self, steps: GuestSteps) -> None:
        self._by_call: dict[str, list[GuestTool]] = {}
        self._turns_by_call: dict[str, list[GuestTurn]] = {}
        named: dict[tuple[str, str | None, bool], list[GuestTool]] = {}
        for tool in steps.tools:
            if tool.call_id is not None:
                self._by_call.setdefault(tool.call_id, []).append(tool)
            if tool.name is not None:
                named.setdefault((tool.name, tool.digest, tool.call_id is not None), []).append(tool)
        for turn in steps.turns:
            for call in turn.tool_calls:
                if call.call_id is not None:
                    self._turns_by_call.setdefault(call.call_id, []).append(turn)
        self._named = {key: _InTime(tools) for key, tools in named.items()}
        self._digests: dict[str, list[str | None]] = {}
        for name, digest, _ in self._named:
            if digest not in self._digests.setdefault(name, []):
                self._digests[name].append(digest)

    def of(self, tool: HostTool, *, alone: bool) -> Match | list[GuestTool] | list[GuestTurn]:
        """The guest's span of a host's tool; else those that fit it equally, none where none does.

        ``alone``: no other tool of the host has this name and these arguments.
        """
        span = tool.span
        if tool.call_id is not None:
            same = self._by_call.get(tool.call_id, [])
            if len(same) > 1:
                same = [each for each in same if each.start <= span.start <= each.end] or same
            if len(same) == 1:
                return _matched(tool, same[0], CALL_ID)
            if same:
                return same
            turns = self._turns_by_call.get(tool.call_id, [])
            if len(turns) == 1:
                return Match(span.span_id, turns[0].span_id, CALL_ID, turns[0].guest, turns[0].span_id)
            if turns:
                return turns
        if tool.name is None:
            return []
        # A guest's tool with another id ran for another call.
        having = (False,) if tool.call_id is not None else (False, True)
        if tool.digest is not None:
            pools = [pool for one in having if (pool := self._named.get((tool.name, tool.digest, one)))]
            if alone and len(pools) == 1 and len(pools[0]) == 1 and pools[0].first.start <= span.end:
                first = pools[0].first
                if first.end >= span.start:
                    return _matched(tool, first, NAME_ARGUMENTS)
            within = [each for pool in pools for each in pool.around(span.start, span.end)]
            if len(within) == 1:
                return _matched(tool, within[0], NAME_ARGUMENTS)
            if within:
                return within
        # Arguments that are known on both sides and differ are another call's.
        digests = [None] if tool.digest is not None else self._digests.get(tool.name, ())
        keys = [(tool.name, digest, one) for digest in digests for one in having]
        within = []
        for key in keys:
            if key in self._named:
                within += self._named[key].around(span.start, span.end)
                if len(within) > 1:
                    return within
        return _matched(tool, within[0], NAME_TIME) if within else []


class _InTime:
    """Guest tools of one name, by the stretch of time that they take."""

    def __init__(self, tools: Iterable[GuestTool]) -> None:
        self._tools = sorted(tools, key=lambda tool: (tool.start, tool.span_id))
        self._starts = [tool.start for tool in self._tools]
        # Of those up to each place the two that end last: more than two need not be told apart.
        self._latest: list[tuple[GuestTool, ...]] = []
        latest: tuple[GuestTool, ...] = ()
        for tool in self._tools:
            latest = tuple(sorted((*latest, tool), key=lambda each: -each.end)[:2])
            self._latest.append(latest)

    def __len__(self) -> int:
        return len(self._tools)

    @property
    def first(self) -> GuestTool:
        return self._tools[0]

    def around(self, start: UnixNano, end: UnixNano) -> list[GuestTool]:
        """Those that contain this stretch, two at most; where none does, those that do but for what clocks round."""
        for rounded in (0, _ROUNDED):
            begun = bisect_right(self._starts, start + rounded)
            found = [tool for tool in self._latest[begun - 1] if tool.end + rounded >= end] if begun else []
            if found:
                return found
        return []


def _matched(tool: HostTool, guest: GuestTool, how: str) -> Match:
    return Match(tool.span.span_id, guest.span_id, how, guest.guest, guest.turn)
