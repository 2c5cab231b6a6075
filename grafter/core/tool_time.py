"""What is inside a tool's time, as far as the app's spans under it say: queue, network, service.

Every figure is a difference of two lengths, each on its own clock, or lies between two moments of one service.

- ``service``: how long a SERVER span, or a CONSUMER's, of another service worked for it.
- ``network``: the CLIENT span less the SERVER spans under it.
- ``queue``: from the end of the PRODUCER span to the beginning of the CONSUMER span, where both are of one service;
  else what the tool waited after sending, less the time that the consumer worked, the way back included; only where
  it has but one to wait for, and its own service has no other span after sending.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from grafter.core.call_latency import Part, Side, Step
from grafter.core.joined_steps import JoinedSteps, is_guests, word
from grafter.core.steps import CALL_IDS

_SERVER, _CLIENT, _PRODUCER, _CONSUMER = 2, 3, 4, 5


def with_insides(parts: Iterable[Part], trace: JoinedSteps) -> tuple[Part, ...]:
    """The parts, each tool with what it was made of."""
    found = []
    for part in parts:
        tool = trace.by_id.get(part.span_id) if part.name == "tool" else None
        found.append(part if tool is None else Part(*part[:5], _within(part.ns, tool, trace)))
    return tuple(found)


class _Hop(NamedTuple):
    """What left the tool's own service and came back, by the clock of who sent it."""

    start: int
    end: int
    service: str
    parts: tuple[Part, ...]


def _within(ns: int, tool: Step, trace: JoinedSteps) -> tuple[Part, ...]:
    """What the ``ns`` nanoseconds that were waited for this tool were made of."""
    hops: list[_Hop] = []
    for host in _hosts(tool, trace):
        for hop in _hops(host, trace):
            if hop.service != host.service or hop.end - host.start <= ns:
                hops.append(hop)
            elif hop.start - host.start < ns and hop.parts[0].name == "network":
                # It outlived the tool: how much of it was in the tool's time nobody says.
                return ()
    found: list[Part] = []
    until = 0
    hops.sort(key=lambda hop: (hop.start, hop.end, hop.parts[0].span_id))
    for hop in hops:
        if hop.start >= until:
            until = hop.end
            found += hop.parts
    # Clocks or spans that disagree with the tool's own time say nothing about it.
    return tuple(found) if 0 < sum([one.ns for one in found]) <= ns else ()


def _hosts(tool: Step, trace: JoinedSteps) -> list[Step]:
    """The app's side of a tool: the span itself, or the spans that hang under the guest's or name the same call."""
    if not is_guests(tool):
        return [tool]
    under = [step for step in trace.children.get(tool.span_id, ()) if not is_guests(step)]
    if under:
        return under
    same = trace.by_call.get(word(tool, *CALL_IDS), ())
    return [step for step in same if not is_guests(step) and _is_outermost(step, tool, trace)][:1]


def _is_outermost(step: Step, tool: Step, trace: JoinedSteps) -> bool:
    """The outermost span of the app that names this call."""
    name = word(tool, *CALL_IDS)
    return not any(word(above, *CALL_IDS) == name and not is_guests(above) for above in trace.above(step))


def _hops(root: Step, trace: JoinedSteps) -> Iterator[_Hop]:
    """What left the tool's own service, the outermost of each."""
    sent: list[tuple[Step, Step]] = []
    open_ = [root]
    seen: set[bytes] = set()
    while open_:
        step = open_.pop()
        if step.span_id in seen or (step is not root and is_guests(step)):
            continue
        seen.add(step.span_id)
        under = trace.children.get(step.span_id, ())
        if step.kind == _CLIENT and (hop := _called(step, under)) is not None:
            yield hop
            continue
        if step.kind == _PRODUCER:
            workers = [one for one in under if one.kind == _CONSUMER]
            # Of several nobody says for which of them the tool waited.
            if len(workers) == 1:
                sent.append((step, workers[0]))
                continue
        open_ += under
    apart = sum([one.service != step.service for step, one in sent])
    for step, one in sent:
        worked = one.end - one.start
        waited: int | None = one.start - step.end
        if one.service != step.service:
            waited = _unworked(step, worked, root, trace) if apart == 1 else None
        if waited is not None and waited >= 0 and worked >= 0:
            queue = Part("queue", waited, Side.APP, word(one, "messaging.destination.name"), step.span_id)
            work = Part("service", worked, Side.APP, one.service, one.span_id)
            yield _Hop(step.start, step.end + waited + worked, step.service, (queue, work))


def _called(step: Step, under: Iterable[Step]) -> _Hop | None:
    """A call of other services, each attempt of it a SERVER span."""
    away = step.end - step.start
    work = []
    for one in under:
        if one.kind == _SERVER:
            worked = one.end - one.start
            if worked < 0 or one.service == step.service:
                return None
            away -= worked
            work.append(Part("service", worked, Side.APP, one.service, one.span_id))
    if not work or away < 0:
        return None
    return _Hop(step.start, step.end, step.service, (Part("network", away, Side.UNKNOWN, "", step.span_id), *work))


def _unworked(sent: Step, worked: int, root: Step, trace: JoinedSteps) -> int | None:
    """How long the tool waited for a consumer's result without it being worked on; None where it waited elsewhere, or
    did something else meanwhile."""
    if root.service != sent.service or not root.start <= sent.end <= root.end:
        return None
    around = {
        sent.span_id,
        *(one.span_id for one in trace.above(sent)),
        *(one.span_id for one in trace.under(sent.span_id)),
    }
    own = (one for one in trace.under(root.span_id) if one.service == root.service and one.span_id not in around)
    return None if any(one.end > sent.end for one in own) else root.end - sent.end - worked
