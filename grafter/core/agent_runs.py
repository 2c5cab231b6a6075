"""Who had the time of agents' runs in which nobody speaks: the model, the app's tools and what lies between.

Only time inside an agent's span counts: between two runs somebody may be thinking. What overlaps is counted once, the
model first.
"""

from grafter.core import semconv
from grafter.core.call_latency import Side, Step
from grafter.core.caller_turns import tool_side
from grafter.core.joined_steps import JoinedSteps, is_guests, is_model_call, is_tool, word

_AGENT = "invoke_agent"
_MODEL, _OTHER_MODEL, _TOOL, _OTHER_TOOL, _BETWEEN, _RUN = range(6)
_SIDES = {
    _MODEL: Side.OPENAI,
    _OTHER_MODEL: Side.UNKNOWN,
    _TOOL: Side.APP,
    _OTHER_TOOL: Side.UNKNOWN,
    _BETWEEN: Side.APP,
    _RUN: Side.UNKNOWN,
}
"""Whose time it is in which several of these go on: the first one's."""


def time_of_runs(trace: JoinedSteps) -> tuple[int | None, int | None, int | None]:
    """The app's, OpenAI's and the unknown time of all runs, in ns; None of each where there is no run.

    Between two answers of one run it is the app that acts, where the app's own process measured it; before the first
    and after the last nothing says whose the time was. Nor is a model's of another provider OpenAI's.
    """
    runs = {step.span_id: step for step in trace.ordered if step.end > step.start and _is_run(step)}
    if not runs:
        return None, None, None
    edges: list[tuple[int, int, int]] = []
    answers: dict[bytes, list[int]] = {}
    for step in trace.ordered:
        if step.end <= step.start or not is_guests(step):
            continue
        what = None
        if step.span_id in runs:
            what = _RUN
        elif is_model_call(step):
            what = _MODEL if word(step, semconv.GEN_AI_PROVIDER_NAME) in ("", "openai") else _OTHER_MODEL
            run = trace.nearest(step, _is_run)
            if run is not None:
                answers.setdefault(run.span_id, []).append(step.start)
        elif is_tool(step):
            what = _TOOL if tool_side(step) is Side.APP else _OTHER_TOOL
        if what is not None:
            edges += [(step.start, what, 1), (step.end, what, -1)]
    for span_id, starts in answers.items():
        if span_id in runs and _in_app(runs[span_id], trace):
            edges += [(min(starts), _BETWEEN, 1), (max(starts), _BETWEEN, -1)]
    return _swept(sorted(edges))


def _is_run(step: Step) -> bool:
    return step.attributes.get(semconv.GEN_AI_OPERATION_NAME) == _AGENT and is_guests(step)


def _is_hosts(step: Step) -> bool:
    return not is_guests(step)


def _in_app(step: Step, trace: JoinedSteps) -> bool:
    """The app's process measured it: it has the resource of what it hangs under."""
    outer = trace.nearest(step, _is_hosts)
    return outer is not None and outer.service == step.service


def _swept(edges: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Along the edges ``(time, what, +1 or -1)``, in their order."""
    running = dict.fromkeys(_SIDES, 0)
    sums = dict.fromkeys(Side, 0)
    before = edges[0][0]
    for at, what, change in edges:
        if at > before and running[_RUN]:
            sums[next(side for one, side in _SIDES.items() if running[one])] += at - before
        before = at
        running[what] += change
    return sums[Side.APP], sums[Side.OPENAI], sums[Side.UNKNOWN]
