"""Who had the time of agents' runs in which nobody speaks: the model, the app's tools and what lies between.

Only time inside an agent's span counts: between two runs somebody may be thinking. What overlaps is counted once, the
model first.
"""

from grafter.core import semconv
from grafter.core.call_latency import Side, Step
from grafter.core.caller_turns import tool_side
from grafter.core.joined_steps import JoinedSteps, is_guests, is_model_call, is_tool

_AGENT = "invoke_agent"
_MODEL, _TOOL, _OTHER_TOOL, _RUN = range(4)


def time_of_runs(trace: JoinedSteps) -> tuple[int | None, int | None, int | None]:
    """The app's, OpenAI's and the unknown time of all runs, in ns; None of each where there is no run.

    Between two answers of one run it is the app that acts, where the app's own process measured it; before the first
    and after the last nothing says whose the time was.
    """
    edges: list[tuple[int, int, int]] = []
    app_runs = []
    for step in trace.ordered:
        if step.end <= step.start or not is_guests(step):
            continue
        what = None
        if step.attributes.get(semconv.GEN_AI_OPERATION_NAME) == _AGENT:
            what = _RUN
            app_runs.append(_in_app(step, trace))
        elif is_model_call(step):
            what = _MODEL
        elif is_tool(step):
            what = _TOOL if tool_side(step) is Side.APP else _OTHER_TOOL
        if what is not None:
            edges += [(step.start, what, 1), (step.end, what, -1)]
    if not app_runs:
        return None, None, None
    return _swept(sorted(edges), between_is_apps=all(app_runs))


def _in_app(step: Step, trace: JoinedSteps) -> bool:
    """The app's process measured it: it has the resource of what it hangs under."""
    outer = next((above for above in trace.above(step) if not is_guests(above)), None)
    return outer is not None and outer.service == step.service


def _swept(edges: list[tuple[int, int, int]], *, between_is_apps: bool) -> tuple[int, int, int]:
    """Along the edges ``(time, what, +1 or -1)``, in their order."""
    running = [0, 0, 0, 0]
    app = openai = unknown = between = 0
    answered = False
    before = edges[0][0]
    for at, what, change in edges:
        length, before = at - before, at
        if length and running[_RUN]:
            if running[_MODEL]:
                openai += length
            elif running[_TOOL]:
                app += length
            elif running[_OTHER_TOOL] or not (answered and between_is_apps):
                unknown += length
            else:
                between += length
        running[what] += change
        if what == _MODEL and change > 0:
            # It was between two answers.
            app, between, answered = app + between, 0, True
        elif what == _RUN and not running[_RUN]:
            unknown, between, answered = unknown + between, 0, False
    return app, openai, unknown
