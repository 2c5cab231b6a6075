"""What of a Live event may be stored, event by event; by the rules that hold for Realtime events.

The events of a delegated response come one inside the other: ``response.event`` holds an event of the Responses API.
They are stored unwrapped, under a type that names both (``response.event/response.completed``), so that a note is a
flat object, whatever it is of.

Source of types and members: openai-python 3.54.0, ``types/live`` and ``types/responses``.
"""

from collections.abc import Mapping

from grafter.core.policy import Content
from grafter.guests.realtime.allowed import (
    ERROR,
    GONE,
    Table,
    amount,
    counts,
    identity,
    inside,
    item,
    number,
    own,
    said,
    session,
    word,
)

RESPONSE_EVENT = "response.event"
INNER = "response.event/"
"""Before the type of the event that a ``response.event`` holds."""

INPUT_TRANSCRIPT = "session.input_transcript.delta"
OUTPUT_TRANSCRIPT = "session.output_transcript.delta"
OUTPUT_AUDIO = "session.output_audio.delta"
CLOSED = "session.closed"

_UNNAMED = "odd"


def unwrapped(event: Mapping[str, object]) -> Mapping[str, object]:
    """The event that a ``response.event`` holds, with the id and the delegation of the outer one; any other as it is.

    The Responses API numbers its events and gives them no ids, so nothing is covered by that.
    """
    if event.get("type") != RESPONSE_EVENT:
        return event
    inner = event.get("event")
    found: dict[str, object] = dict(inner) if isinstance(inner, Mapping) else {}
    kind = found.get("type")
    outer = {key: event[key] for key in ("event_id", "delegation_id") if event.get(key) is not None}
    return {**found, **outer, "type": INNER + (kind if isinstance(kind, str) and kind else _UNNAMED)}


def _output_item(value: object, content: Content) -> object:
    """An item of the Responses API. What a custom tool is called with has another name than a function's arguments."""
    if isinstance(value, Mapping) and value.get("type") == "custom_tool_call" and "input" in value:
        value = {**{key: member for key, member in value.items() if key != "input"}, "arguments": value["input"]}
    return item(value, content)


def _response(value: object, content: Content) -> object:
    return _RESPONSE(value, content) if isinstance(value, Mapping) else GONE


_RESPONSE = inside(
    {
        "id": identity,
        "status": word,
        "model": word,
        "previous_response_id": identity,
        "metadata": own,
        "max_output_tokens": amount,
        "temperature": number,
        "usage": counts,
        "error": inside(ERROR),
        "incomplete_details": inside({"reason": word}),
    }
)

_BARE: Table = {"event_id": identity}
_TIMED: Table = {**_BARE, "start_ms": number, "end_ms": number}
_SAID: Table = {**_TIMED, "delta": said}
_SESSION: Table = {**_BARE, "session": session}
_KEY: Table = {**_BARE, "event": said}
_OF_DELEGATION: Table = {**_BARE, "delegation_id": identity}
_OF_ITEM: Table = {**_OF_DELEGATION, "item_id": identity}
_WITH_ITEM: Table = {**_OF_DELEGATION, "item": _output_item}
_WITH_RESPONSE: Table = {**_OF_DELEGATION, "response": _response}

FIRST_TOKENS = frozenset(
    INNER + kind
    for kind in (
        "response.audio.delta",
        "response.audio.transcript.delta",
        "response.code_interpreter_call_code.delta",
        "response.custom_tool_call_input.delta",
        "response.function_call_arguments.delta",
        "response.mcp_call_arguments.delta",
        "response.output_text.delta",
        "response.refusal.delta",
        "response.shell_call_command.delta",
    )
)
"""What a response says first: a word of its answer, or of a call. What it thinks before is neither."""

TABLES: Mapping[str, Table] = {
    "decision.event": {
        **_OF_DELEGATION,
        "trigger_id": identity,
        "event": inside({"decision": inside({"model": word, "usage": counts})}),
    },
    "response.item.create": {**_BARE, "item": _output_item},
    "session.start": _SESSION,
    "session.started": _SESSION,
    CLOSED: {**_SESSION, "reason": word, "usage": counts},
    "session.usage.updated": {**_BARE, "usage": counts, "context_window": inside({"usage_ratio": number})},
    INPUT_TRANSCRIPT: _SAID,
    OUTPUT_TRANSCRIPT: _SAID,
    OUTPUT_AUDIO: {"start_ms": number},
    "session.delegation.created": {
        **_BARE,
        "offset_ms": number,
        "delegation": inside({"id": identity, "target": word, "response_id": identity}),
    },
    "session.instructions.appended": _TIMED,
    "session.thinking.appended": _TIMED,
    "session.commentary.appended": _TIMED,
    "session.input_audio.muted": _BARE,
    "session.input_audio.unmuted": _BARE,
    "session.output_audio.fixture.playing": _BARE,
    "session.output_audio.fixture.played": _BARE,
    "transport.dtmf.received": _KEY,
    "transport.dtmf.send": _KEY,
    "transport.dtmf.sent": _KEY,
    "transport.ringing": _BARE,
    "transport.answered": _BARE,
    "transport.failed": {**_BARE, "error": inside(ERROR)},
    INNER + "error": {**_OF_DELEGATION, **ERROR},
    INNER + "response.created": _WITH_RESPONSE,
    INNER + "response.queued": _WITH_RESPONSE,
    INNER + "response.in_progress": _WITH_RESPONSE,
    INNER + "response.completed": _WITH_RESPONSE,
    INNER + "response.failed": _WITH_RESPONSE,
    INNER + "response.incomplete": _WITH_RESPONSE,
    INNER + "response.output_item.added": _WITH_ITEM,
    INNER + "response.output_item.done": _WITH_ITEM,
    INNER + "response.mcp_call.in_progress": _OF_ITEM,
    INNER + "response.mcp_call.completed": _OF_ITEM,
    INNER + "response.mcp_call.failed": _OF_ITEM,
    INNER + "response.mcp_list_tools.in_progress": _OF_ITEM,
    INNER + "response.mcp_list_tools.completed": _OF_ITEM,
    INNER + "response.mcp_list_tools.failed": _OF_ITEM,
    **dict.fromkeys(FIRST_TOKENS, _OF_ITEM),
}
"""By type, what stays. Types that both APIs have stand with the Realtime API's own."""

UNREAD = frozenset(
    {
        "decision.create",
        "decision.item.create",
        "decision.item.created",
        "decision.item.delete",
        "decision.item.deleted",
        "info",
        "session.close",
        "session.commentary.append",
        "session.input_audio.append",
        "session.input_audio.mute",
        "session.input_audio.unmute",
        "session.instructions.append",
        "session.output_audio.fixture.play",
        "session.thinking.append",
    }
) | frozenset(
    INNER + kind
    for kind in (
        "response.audio.done",
        "response.audio.transcript.done",
        "response.code_interpreter_call.completed",
        "response.code_interpreter_call.in_progress",
        "response.code_interpreter_call.interpreting",
        "response.code_interpreter_call_code.done",
        "response.compaction.compacting",
        "response.content_part.added",
        "response.content_part.done",
        "response.custom_tool_call_input.done",
        "response.file_search_call.completed",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.function_call_arguments.done",
        "response.image_generation_call.completed",
        "response.image_generation_call.generating",
        "response.image_generation_call.in_progress",
        "response.image_generation_call.partial_image",
        "response.mcp_call_arguments.done",
        "response.output_text.annotation.added",
        "response.output_text.done",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_part.done",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.refusal.done",
        "response.shell_call_command.added",
        "response.shell_call_command.done",
        "response.shell_call_output_content.delta",
        "response.shell_call_output_content.done",
        "response.web_search_call.completed",
        "response.web_search_call.in_progress",
        "response.web_search_call.searching",
    )
)
"""Types of which nothing is of use: another event says the same, or they change nothing that a span tells."""

FOLDED = FIRST_TOKENS | {OUTPUT_AUDIO}
"""Types of which only the first and the last of a run say anything."""

CLIENTS = frozenset(
    {
        "decision.create",
        "decision.item.create",
        "decision.item.delete",
        "response.create",
        "response.item.create",
        "session.close",
        "session.commentary.append",
        "session.input_audio.append",
        "session.input_audio.mute",
        "session.input_audio.unmute",
        "session.instructions.append",
        "session.output_audio.fixture.play",
        "session.start",
        "session.thinking.append",
        "session.update",
        "transport.dtmf.send",
    }
)
"""Types that the client sends. Two of them have come from a server, too: audio that is reflected to a second listener,
and, of old, the notice that a key was sent."""

ENDINGS = frozenset(
    {
        CLOSED,
        "decision.event",
        "response.item.create",
        "session.started",
        INPUT_TRANSCRIPT,
        OUTPUT_TRANSCRIPT,
        *(
            INNER + kind
            for kind in (
                "response.completed",
                "response.created",
                "response.failed",
                "response.incomplete",
                "response.mcp_call.completed",
                "response.mcp_call.failed",
                "response.mcp_list_tools.completed",
                "response.mcp_list_tools.failed",
                "response.output_item.done",
            )
        ),
    }
)
"""Events that may end a span; one that turns out not to costs a look."""

PATIENT = frozenset({INPUT_TRANSCRIPT, OUTPUT_TRANSCRIPT})
"""Endings that need not be stored at once: each ends only what was said some seconds ago."""
