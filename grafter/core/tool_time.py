"""What is inside a tool's time, as far as the app's spans under it say: queue, network, service.

Every figure is a difference of two lengths, each on its own clock, or lies between two moments of one service.

- ``service``: how long a SERVER span, or a CONSUMER's, of another service worked for it.
- ``network``: the CLIENT span less the SERVER span under it.
- ``queue``: from the end of the PRODUCER span to the beginning of the CONSUMER span, where both are of one service;
  else what the tool waited after sending, less the time that the consumer worked, the way back included.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from grafter.core.call_latency import Part, Side, Step
from grafter.core.joined_steps import JoinedSteps, is_guests, word
from grafter.core.steps import CALL_IDS

_SERVER, _CLIENT, _PRODUCER, _CONSUMER = 2, 3, 4, 5


def with_insides(parts: Iterable[Part], trace: JoinedSteps) -> tuple[Part, ...]:
    """The parts, each tool with what it was made of."""
    found = tuple(parts)
    if not any(part.name == "tool" and part.span_id in trace.by_id for part in found):
        return found
    return tuple(
        replace(part, within=_within(part, trace)) if part.name == "tool" and part.span_id in trace.by_id else part
        for part in found
    )


def _within(part: Part, trace: JoinedSteps) -> tuple[Part, ...]:
    found: list[Part] = []
    for host in _hosts(trace.by_id[part.span_id], trace):
        found += _hops(host, trace)
    # Clocks or spans that disagree with the tool's own time say nothing about it.
    return tuple(found) if 0 < sum(one.ns for one in found) <= part.ns else ()


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


def _hops(root: Step, trace: JoinedSteps) -> Iterator[Part]:
    """What left the tool's own service, the outermost of each; of what overlaps in time the first."""
    until = 0
    open_ = [root]
    seen: set[bytes] = set()
    while open_:
        step = open_.pop()
        if step.span_id in seen or (step is not root and is_guests(step)):
            continue
        seen.add(step.span_id)
        under = trace.children.get(step.span_id, ())
        hop = list(_hop(step, under, root))
        if hop:
            if step.start >= until:
                until = max(step.end, until)
                yield from hop
            continue
        # The last one is looked at first.
        open_ += reversed(under)


def _hop(step: Step, under: Iterable[Step], root: Step) -> Iterator[Part]:
    length = step.end - step.start
    for one in under:
        worked = one.end - one.start
        if worked < 0 or length < 0:
            continue
        if step.kind == _CLIENT and one.kind == _SERVER and one.service != step.service and worked <= length:
            yield Part("network", length - worked, Side.UNKNOWN, "", step.span_id)
            yield Part("service", worked, Side.APP, one.service, one.span_id)
            return
        if step.kind == _PRODUCER and one.kind == _CONSUMER:
            waited = one.start - step.end if one.service == step.service else _unworked(step, worked, root)
            if waited is not None and waited >= 0:
                yield Part("queue", waited, Side.APP, word(one, "messaging.destination.name"), step.span_id)
                yield Part("service", worked, Side.APP, one.service, one.span_id)
                return


def _unworked(sent: Step, worked: int, root: Step) -> int | None:
    """How long the tool waited for a consumer's result without it being worked on; None where it waited elsewhere."""
    if root.service != sent.service or not root.start <= sent.end <= root.end:
        return None
    return root.end - sent.end - worked
