"""Model calls that the app's own instrumentation wrote a span of too: which host span is which guest's turn.

By the response's id, wherever the host's span has one. Without one by time and usage: equal counts of input and output
tokens, less than a second apart, and one to one or not at all, for two calls in a row may well cost the same.

What was used then stands once in the trace, on the host's span where that says anything of it. It cannot be taken from
there: what came is forwarded as it came, and where the host has left before, nothing could be changed at all; the
guest's span is grafter's own to write. So the rule is the same before and after a release.
"""

from bisect import bisect_left, bisect_right
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
        if call.response_id is None:
            without.append(call)
            continue
        same = by_response.get(call.response_id, [])
        if len(same) == 1:
            found.append(_matched(call, same[0], RESPONSE_ID))
        elif same:
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
    """What has no response id: equal usage at the same time, where that holds for these two alone."""
    by_usage: dict[tuple[int, int], list[GuestTurn]] = {}
    for turn in turns:
        if turn.usage is not None and any(turn.usage):
            by_usage.setdefault(turn.usage, []).append(turn)
    fits: dict[SpanId, list[GuestTurn]] = {}
    claims: dict[SpanId, int] = {}
    by_usage = {usage: group for usage, group in by_usage.items() if len(group) <= _MOST_ALIKE}
    for group in by_usage.values():
        group.sort(key=lambda turn: turn.start)
    longest = {usage: max(turn.end - turn.start for turn in group) for usage, group in by_usage.items()}
    starts = {usage: [turn.start for turn in group] for usage, group in by_usage.items()}
    for call in calls:
        group = by_usage.get(call.usage, []) if call.usage is not None else []
        if not group or call.usage is None:
            continue
        first = bisect_left(starts[call.usage], call.span.start - _APART - longest[call.usage])
        last = bisect_right(starts[call.usage], call.span.end + _APART)
        near = [turn for turn in group[first:last] if turn.end + _APART >= call.span.start]
        fits[call.span.span_id] = near
        for turn in near:
            claims[turn.span_id] = claims.get(turn.span_id, 0) + 1
    for call in calls:
        near = fits.get(call.span.span_id, [])
        if len(near) == 1 and claims[near[0].span_id] == 1:
            found.append(_matched(call, near[0], USAGE_TIME))
        elif near:
            refused.append(_refused(call, near))


def _matched(call: HostTurn, turn: GuestTurn, how: str) -> Match:
    return Match(call.span.span_id, turn.span_id, how, turn.guest, turn.span_id)


def _refused(call: HostTurn, turns: Sequence[GuestTurn]) -> Refused:
    return Refused(call.span.span_id, TWO_FIT, tuple(turn.span_id for turn in turns[:_MOST_NAMED]))
