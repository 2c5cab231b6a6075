"""Whose milliseconds these were: every wait of a call, from its joined trace.

Pure, and the same for the server as it releases a trace and for the page that shows one. What is measured, from what
to what, stands in ``caller_turns``; what is inside a tool in ``tool_time``; the words in ``turn_words``.
"""

from collections.abc import Iterable, Sequence

from grafter.core import semconv
from grafter.core.agent_runs import time_of_runs
from grafter.core.call_latency import CallerTurn, CallLatency, ModelTurn, Side, Step
from grafter.core.caller_turns import greeting_of_livekit, greetings, heard_in_frameworks, measured, spoken_in_live
from grafter.core.joined_steps import (
    JoinedSteps,
    is_guests,
    is_model_call,
    moment,
    nanoseconds,
    word,
)
from grafter.core.policy import MILLISECOND
from grafter.core.sampling.first_token import MODEL_TURN_KEYS
from grafter.core.tool_time import with_insides
from grafter.core.turn_words import sentence

_FIRST_TOKENS = tuple((key, round(unit * MILLISECOND)) for key, unit in MODEL_TURN_KEYS.items())


def latency(steps: Sequence[Step], *, whole: bool = True) -> CallLatency:
    """Who spent the time of the call whose joined trace this is; the order of the steps does not matter.

    ``whole``: False where some steps may be missing, because they left before or will leave later. What is stated by
    single steps still is, what would have to be added up from several is not.

    Waits are read from what grafter states of them; only where it states none, from LiveKit's or Pipecat's own words.
    Without any, the totals are those of the agents' runs.
    """
    trace = JoinedSteps(steps)
    found, firsts = [*measured(trace), *spoken_in_live(trace, whole=whole)], greetings(trace)
    if not found and not firsts:
        found, first = heard_in_frameworks(trace), greeting_of_livekit(trace)
        firsts = [] if first is None else [first]
    found.sort(key=lambda turn: (turn.start, turn.answer))
    turns = tuple(_numbered(turn, number, trace) for number, turn in enumerate(found, 1))
    greeted = tuple(_numbered(first, 0, trace) for first in firsts)
    app, openai, unknown = span_totals((*turns, *greeted))
    if whole and not turns and not greeted:
        app, openai, unknown = time_of_runs(trace)
    return CallLatency(turns, _model_turns(trace), greeted, app, openai, unknown)


def span_totals(turns: Iterable[CallerTurn]) -> tuple[int | None, int | None, int | None]:
    """How much of these waits was the app's, OpenAI's and unknown, in ns; None of each where there is no wait."""
    sums = dict.fromkeys(Side, 0)
    waits = list(turns)
    for turn in waits:
        for part in turn.parts:
            sums[part.side] += part.ns
    return (sums[Side.APP], sums[Side.OPENAI], sums[Side.UNKNOWN]) if waits else (None, None, None)


def _numbered(turn: CallerTurn, number: int, trace: JoinedSteps) -> CallerTurn:
    parts = with_insides(turn.parts, trace)
    return turn._replace(number=number, parts=parts, sentence=sentence(turn, greeting=not number))


def _model_turns(trace: JoinedSteps) -> tuple[ModelTurn, ...]:
    """The model's answers, in the order of their beginning. What is out of band is no turn; a call that both sides
    traced is one."""
    calls = [step for step in trace.ordered if is_model_call(step)]
    twins = {_id(word(step, semconv.GRAFTER_DUPLICATE_OF)) for step in calls if is_guests(step)}
    found = [step for step in calls if (is_guests(step) or step.span_id not in twins) and _is_model_turn(step, trace)]
    return tuple([_model_turn(step, at) for at, step in enumerate(found, 1)])


def _is_model_turn(step: Step, trace: JoinedSteps) -> bool:
    """It is no part of another, and in the conversation. Of a call's two spans the guest's, which says more."""
    if step.attributes.get(semconv.TURN_CONVERSATION) == "none" or trace.nearest(step, is_model_call) is not None:
        return False
    return is_guests(step) or _id(word(step, semconv.GRAFTER_DUPLICATE_OF)) not in trace.by_id


def _id(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _model_turn(step: Step, at: int) -> ModelTurn:
    first = None
    for key, unit in _FIRST_TOKENS:
        first = nanoseconds(step, key, unit)
        if first is not None:
            break
    begun, delta = moment(step, semconv.TURN_MEASURED_FROM_TIME), moment(step, semconv.TURN_FIRST_DELTA_TIME)
    if first is not None and begun is not None and delta is not None and delta > begun:
        first = delta - begun
    error = nanoseconds(step, semconv.TURN_FIRST_TOKEN_ERROR_MS, MILLISECOND) or 0
    return ModelTurn(at, step.span_id, step.start, first, error)
