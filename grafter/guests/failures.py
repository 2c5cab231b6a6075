"""What kind of error a span ended with, in words of which there are few.

The Agents SDK sends a sentence and no type. Most sentences are constants of the SDK and name the kind; the others are
free text (an exception's, an app's own), which would make a value for every call.

Source: openai-agents 0.24.0, every SpanError in src/agents; the same sentences stand in @openai/agents 0.20.0.
"""

from collections.abc import Mapping

from grafter.guests.values import text_of

OTHER = "_OTHER"
"""OpenTelemetry's word for an error that has no known type."""
KIND_KEY = "grafter.error.type"
"""Stands in a stored error whose type only the dropped ``data`` could tell."""

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
}
_REJECTION = "was manually rejected by user."
_KNOWN = frozenset({*_KINDS.values(), "tool_rejected"})


def error_of(error: object) -> Mapping[str, object] | None:
    """A span's ``error`` as an object, or None when the span has none. A bare string is its message."""
    if error is None or error is False or error == "":
        return None
    if isinstance(error, Mapping):
        return error
    return {"message": error} if isinstance(error, str) else {"data": error}


def error_kind(error: Mapping[str, object]) -> str:
    """The value of ``error.type``: a slug for each of the SDK's own sentences, ``_OTHER`` for free text."""
    kept = error.get(KIND_KEY)
    if isinstance(kept, str) and kept in _KNOWN:
        return kept
    data = error.get("data")
    if isinstance(data, Mapping) and (text_of(data.get("error")) or "").rstrip().endswith(_REJECTION):
        return "tool_rejected"
    message = text_of(error.get("message")) or ""
    kind = _KINDS.get(message)
    if kind is not None:
        return kind
    if message.endswith(" tool not found"):
        return "tool_not_found"
    return "input_filter_error" if message.startswith("Invalid input filter") else OTHER
