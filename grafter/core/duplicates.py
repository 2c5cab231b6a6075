"""Model calls that the app's own instrumentation wrote a span of too: which host span is which guest's turn.

By the response's id, wherever both have one. Else by time and usage: equal counts of input and output
tokens, less than a second apart, and one to one or not at all, for two calls in a row may well cost the same.

What was used then stands once in the trace, on the host's span where that says anything of it. It cannot be taken from
there: what came is forwarded as it came, and where the host has left before, nothing could be changed at all; the
guest's span is grafter's own to write. So the rule is the same before and after a release.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from grafter.core.model import HostSpan, SpanId
from grafter.core.steps import GuestTurn, HostTurn, inner
from grafter.core.tools import TWO_FIT, Match, Refused

RESPONSE_ID, USAGE_TIME = "response_id", "usage_time"

_APART = 1_000_000_000
"""Pipecat's span of a response begins when the response has ended."""
_MOST_NAMED = 8
_MOST_ALIKE = 200
"""Turns of one usage: what so many have in common tells none of them."""


def match(
    host: Sequence[HostTurn], spans: Mapping[SpanId, HostSpan], turns: Sequence[GuestTurn]
) -> tuple[list[Match], list[Refused]]:
    """The host's model calls that are turns of these guests, and those between which nobody can tell.

    ``spans``: all spans of the host that are here. A span below another of the same response is part of that one.
    """
    by_response: dict[str, list[GuestTurn]] = {}
    for turn in turns:
        if turn.response_id is not None:
            by_response.setdefault(turn.response_id, []).append(turn)
    found: list[Match] = []
    refused: list[Refused] = []
    without: list[HostTurn] = []
    for call in _outermost(host, spans):
        same = by_response.get(call.response_id, []) if call.response_id is not None else []
        if not same:
            without.append(call)
        elif len(same) == 1:
            found.append(_matched(call, same[0], RESPONSE_ID))
        else:
            refused.append(_refused(call, same))
    taken = {each.guest for each in found}
    _by_usage(without, [turn for turn in turns if turn.span_id not in taken], found, refused)
    return found, refused


def _outermost(host: Sequence[HostTurn], spans: Mapping[SpanId, HostSpan]) -> list[HostTurn]:
    """Without the spans below one of the same response."""
    by_id = {call.span.span_id: call for call in host}
    above = inner(spans, by_id)
    kept = []
    for call in host:
        upper = by_id.get(above.get(call.span.span_id, call.span.span_id))
        if upper is None or upper is call or call.response_id is None or call.response_id != upper.response_id:
            kept.append(call)
    return kept


def _by_usage(
    calls: Sequence[HostTurn], turns: Sequence[GuestTurn], found: list[Match], refused: list[Refused]
) -> None:
    """Where one of the two has no response id: equal usage at the same time, where that holds for these two alone.

    First where the two overlap, for calls that follow each other may cost the same; then, of what is left, where they
    are not far apart.
    """
    groups: dict[tuple[int, int], tuple[list[HostTurn], list[GuestTurn]]] = {}
    for turn in turns:
        if turn.usage is not None and any(turn.usage):
            groups.setdefault(turn.usage, ([], []))[1].append(turn)
    for call in calls:
        if call.usage in groups:
            groups[call.usage][0].append(call)
    for mine, theirs in groups.values():
        if not mine or len(theirs) > _MOST_ALIKE:
            continue
        for apart in (0, _APART):
            mine, theirs = _pairs(mine, theirs, apart, found, refused if apart else None)


def _pairs(
    calls: Sequence[HostTurn], turns: Sequence[GuestTurn], apart: int, found: list[Match], refused: list[Refused] | None
) -> tuple[list[HostTurn], list[GuestTurn]]:
    """Match those that are at most so far apart, one to one; the calls and turns that are left.

    ``refused``: where a call goes that several turns are near to, or that is near to another's; None: it is left.
    """
    near = [
        [
            turn
            for turn in turns
            # Two ids that differ are two calls. The Agents SDK sends none of chat completions.
            if (call.response_id is None or turn.response_id is None)
            and turn.start <= call.span.end + apart
            and turn.end + apart >= call.span.start
        ]
        for call in calls
    ]
    claims = Counter(turn.span_id for fitting in near for turn in fitting)
    taken = set()
    left = []
    for call, fitting in zip(calls, near, strict=True):
        if len(fitting) == 1 and claims[fitting[0].span_id] == 1:
            found.append(_matched(call, fitting[0], USAGE_TIME))
            taken.add(fitting[0].span_id)
        elif fitting and refused is not None:
            refused.append(_refused(call, fitting))
        else:
            left.append(call)
    return left, [turn for turn in turns if turn.span_id not in taken]


def _matched(call: HostTurn, turn: GuestTurn, how: str) -> Match:
    return Match(call.span.span_id, turn.span_id, how, turn.guest, turn.span_id)


def _refused(call: HostTurn, turns: Sequence[GuestTurn]) -> Refused:
    return Refused(call.span.span_id, TWO_FIT, tuple(turn.span_id for turn in turns[:_MOST_NAMED]))
