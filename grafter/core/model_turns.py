"""The model's answers of a call, whoever traced them, each once."""

from grafter.core import semconv
from grafter.core.call_latency import ModelTurn, Step
from grafter.core.joined_steps import (
    MILLISECOND,
    JoinedSteps,
    is_guests,
    is_model_call,
    moment,
    nanoseconds,
    word,
)
from grafter.core.sampling.policies import MODEL_TURN_KEYS


def model_turns(trace: JoinedSteps) -> tuple[ModelTurn, ...]:
    """In the order of their beginning. What is out of band is no turn; a call that both sides traced is one."""
    calls = [step for step in trace.ordered if is_model_call(step)]
    twins = {_id(word(step, semconv.GRAFTER_DUPLICATE_OF)) for step in calls if is_guests(step)}
    found = [step for step in calls if (is_guests(step) or step.span_id not in twins) and _is_turn(step, trace)]
    return tuple(_turn(step, at) for at, step in enumerate(found, 1))


def _is_turn(step: Step, trace: JoinedSteps) -> bool:
    """It is no part of another, and in the conversation. Of a call's two spans the guest's, which says more."""
    if step.attributes.get(semconv.TURN_CONVERSATION) == "none" or any(map(is_model_call, trace.above(step))):
        return False
    return is_guests(step) or _id(word(step, semconv.GRAFTER_DUPLICATE_OF)) not in trace.by_id


def _id(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _turn(step: Step, at: int) -> ModelTurn:
    first = None
    begun, delta = moment(step, semconv.TURN_MEASURED_FROM_TIME), moment(step, semconv.TURN_FIRST_DELTA_TIME)
    for key, unit in MODEL_TURN_KEYS.items():
        stated = nanoseconds(step, key, round(unit * MILLISECOND))
        if stated is not None:
            first = stated
            break
    if first is not None and begun is not None and delta is not None and delta > begun:
        first = delta - begun
    error = nanoseconds(step, semconv.TURN_FIRST_TOKEN_ERROR_MS, MILLISECOND) or 0
    said = word(step, semconv.TURN_MEASURED_FROM) if first is not None else ""
    model = word(step, semconv.GEN_AI_RESPONSE_MODEL, semconv.GEN_AI_REQUEST_MODEL, "llm.model_name")
    return ModelTurn(at, step.span_id, step.start, step.end, first, said, error, model)
