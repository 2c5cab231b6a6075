"""What kind of error a span ended with, in words of which there are few.

The Agents SDK sends a sentence and no type. Most sentences are constants of the SDK and name the kind; the others are
free text (an exception's, an app's own), which would make a value for every call. In JavaScript one sentence stands for
every way in which a run can fail, and its data begin with the class of what was thrown: by it the same failure has the
same kind in both languages.

Source: openai-agents 0.24.0, every SpanError in src/agents; the same sentences stand in @openai/agents 0.20.0, whose
classes are those of agents-core, dist/errors.d.ts.
"""

from collections.abc import Mapping

from grafter.guests.json_values import OTHER_ERROR, text_of

KIND_KEY = "grafter.error.type"
"""Stands in a stored error whose type only the dropped ``data`` could tell."""

_ABORTED = "aborted"
_KINDS = {
    "Error getting response": "model_error",
    "Error streaming response": "model_stream_error",
    "Error running tool": "tool_error",
    "Error running tool (non-fatal)": "tool_error",
    "Codex command execution failed.": "tool_error",
    "Tool execution cancelled": "tool_cancelled",
    "Tool not found": "tool_not_found",
    "Guardrail tripwire triggered": "guardrail_tripwire_triggered",
    "Max turns exceeded": "max_turns_exceeded",
    "Multiple handoffs requested": "multiple_handoffs",
    "Invalid JSON": "invalid_json",
    "Invalid JSON provided": "invalid_json",
    "Error in agent run": "agent_error",
    "Error in call_model_input_filter": "input_filter_error",
    "Error in callModelInputFilter": "input_filter_error",
    "Handoff function expected non-null input, but got None": "model_behavior_error",
    "Local shell executor not found": "model_behavior_error",
    "MCP server label not found": "model_behavior_error",
    "Request was aborted.": _ABORTED,
}
_CLASSES = {
    "AbortError": _ABORTED,
    "GuardrailExecutionError": "guardrail_error",
    "InputGuardrailTripwireTriggered": "guardrail_tripwire_triggered",
    "InvalidToolInputError": "invalid_tool_input",
    "InvalidToolOutputError": "invalid_tool_output",
    "MaxTurnsExceededError": "max_turns_exceeded",
    "ModelBehaviorError": "model_behavior_error",
    "ModelRefusalError": "model_refusal",
    "ModelTimeoutError": "model_timeout",
    "OutputGuardrailTripwireTriggered": "guardrail_tripwire_triggered",
    "SystemError": "system_error",
    "ToolCallError": "tool_error",
    "ToolInputGuardrailTripwireTriggered": "guardrail_tripwire_triggered",
    "ToolOutputGuardrailTripwireTriggered": "guardrail_tripwire_triggered",
    "ToolTimeoutError": "tool_timeout",
    "UserError": "user_error",
}
"""What JavaScript's run was ended by."""
_ABORTS = frozenset({"Error: Request was aborted.", "TimeoutError: The operation was aborted due to timeout"})
"""What an abort throws whose class does not say so: OpenAI's client amid a request, a signal's own timer."""
_GENERIC = frozenset({"agent_error", OTHER_ERROR})
"""Kinds that say no more than that something failed."""
_NO_INPUT = "Handoff function expected non empty input"
_REJECTION = "was manually rejected by user."
_KNOWN = frozenset({*_KINDS.values(), *_CLASSES.values(), "tool_rejected"})


def error_of(error: object) -> Mapping[str, object] | None:
    """A span's ``error`` as an object, or None when the span has none. A bare string is its message."""
    if error is None or error is False or error == "":
        return None
    if isinstance(error, Mapping):
        return error
    return {"message": error} if isinstance(error, str) else {"data": error}


def error_kind(error: Mapping[str, object], *, model_call: bool = False) -> str:
    """The value of ``error.type``: a slug for each of the SDK's own sentences and classes, ``_OTHER`` for free text.

    ``model_call``: the span is one, whose free text is the provider's account of why it failed.
    """
    kept = error.get(KIND_KEY)
    if isinstance(kept, str) and kept in _KNOWN:
        return kept
    data = error.get("data")
    thrown = (text_of(data.get("error")) or "") if isinstance(data, Mapping) else ""
    if thrown.rstrip().endswith(_REJECTION):
        return "tool_rejected"
    kind = _by_sentence(text_of(error.get("message")) or "")
    named = _ABORTED if thrown in _ABORTS else _CLASSES.get(thrown.partition(":")[0])
    if named is not None and (kind in _GENERIC or (named == _ABORTED and kind == "model_stream_error")):
        # Who gives up a request is the app or its caller: neither the model nor the agent has failed.
        kind = named
    return "model_error" if kind == OTHER_ERROR and model_call else kind


def _by_sentence(message: str) -> str:
    kind = _KINDS.get(message)
    if kind is not None:
        return kind
    if message.endswith(" tool not found"):
        return "tool_not_found"
    if message.startswith(_NO_INPUT):
        # JavaScript's sentence goes on with what the model gave.
        return "model_behavior_error"
    return "input_filter_error" if message.startswith("Invalid input filter") else OTHER_ERROR
