"""The one table of event types: who sends one, what of it may be stored, what it does, and what it can end.

A new event is one row (and its handler). The rows stand in the order of cause within one moment: where two events
have the same time, the one whose row comes first is read first, whichever arrived first. The events of a delegated
response of a Live session come one inside the other; they are stored unwrapped, under a type that names both
(``response.event/response.completed``), so that what is stored is flat, whatever it is of.

Source of types and members: openai-python 3.54.0, ``types/realtime``, ``types/beta/realtime``, ``types/live`` and
``types/responses``; ``session.paused`` and ``session.resumed`` 3.57.0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from grafter.guests.json_values import ARGUMENTS_DIGEST
from grafter.guests.realtime import configuring, field_rules, responses, speech, tools
from grafter.guests.realtime.field_rules import (
    ERROR,
    INNER,
    Rule,
    Table,
    byte_count,
    counts,
    flag,
    identity,
    inside,
    number,
    text,
    word,
)
from grafter.guests.realtime.live import delegating, talking
from grafter.guests.realtime.session import Session
from grafter.guests.realtime.stored_event import Side, StoredEvent

Handler = Callable[[Session, StoredEvent, Mapping[str, object]], object]
"""What an event does to its session; what it returns is for other handlers."""

AUDIO_DELTA = "response.output_audio.delta"
AUDIO_APPEND = "input_audio_buffer.append"
OUTPUT_AUDIO = "session.output_audio.delta"
CLOSED = "session.closed"
PLAYED = "grafter.audio.played"

REALTIME, LIVE, BOTH = "realtime", "live", "both"


@dataclass(frozen=True, slots=True)
class EventType:
    name: str
    """Today's name."""
    api: str
    side: Side | None
    """Who sends it; None where either may."""
    fields: Table | None
    """What may be stored, by member; None where nothing of it is of use."""
    handler: Handler | None
    ends: bool = False
    """It may end a span. One that turns out not to costs a pass over what is open."""
    urgent: bool = False
    """It should be stored at once: losing it would lose a turn that is finished, or what the call belongs to."""
    folded: bool = False
    """Of a run of them only the first and the last say anything."""
    names_session: bool = False
    """It says which session it is of."""
    aliases: tuple[str, ...] = ()
    """What the beta API and Azure call it."""


def _table(**rules: Rule) -> Table:
    return {"event_id": identity, "untimed": flag, **rules}


_BARE = _table()
_OF_ITEM = _table(item_id=identity, response_id=identity)
_WITH_ITEM = _table(item=field_rules.item, response_id=identity)
_SESSION = _table(session=field_rules.session)
_RESPONSE = _table(response=field_rules.response)
_TRUNCATION = _table(item_id=identity, audio_end_ms=number)
_ARGUMENTS: Table = {
    **_table(item_id=identity, response_id=identity, call_id=identity, name=word, arguments=text),
    ARGUMENTS_DIGEST: field_rules.digested,
}
_LIMITS = field_rules.each(inside({"name": word, "limit": number, "remaining": number, "reset_seconds": number}))
_TIMED = _table(start_ms=number, end_ms=number, elapsed_ms=number)
_SPOKEN: Table = {**_TIMED, "delta": text}
_KEY = _table(event=text)
_INNER_ITEM = _table(delegation_id=identity, item_id=identity)
_INNER_WITH_ITEM = _table(delegation_id=identity, item=field_rules.responses_item)
_INNER_RESPONSE = _table(delegation_id=identity, response=field_rules.responses_response)
_CONVERSATION = _table(conversation=inside({"id": identity}))
_STARTED = _table(item_id=identity, audio_start_ms=number)
_STOPPED = _table(item_id=identity, audio_end_ms=number)
_DIGIT = _table(event=text, received_at=number)
_TIMEOUT = _table(item_id=identity, audio_start_ms=number, audio_end_ms=number)
_ITEM = _table(item_id=identity)
_TRANSCRIPT = _table(item_id=identity, transcript=text, usage=counts)
_FAILED = _table(item_id=identity, error=inside(ERROR))
_RESPONSE_ID = _table(response_id=identity)
_PART = _table(item_id=identity, response_id=identity, part=field_rules.PART)
_AUDIO = _table(item_id=identity, response_id=identity, delta_bytes=byte_count, beside=flag)
_CALL = _table(item_id=identity, response_id=identity, call_id=identity)
_ERROR = _table(error=inside(ERROR))
_USAGE = _table(usage=counts, context_window=inside({"usage_ratio": number}))
_DELEGATION = _table(offset_ms=number, delegation=inside({"id": identity, "target": word, "response_id": identity}))
_DECISION = _table(
    delegation_id=identity, trigger_id=identity, event=inside({"decision": inside({"model": word, "usage": counts})})
)
_CLOSED = _table(session=field_rules.session, reason=word, usage=counts)

_rows: list[EventType] = []


def _add(
    kinds: str,
    side: Side | None,
    fields: Table | None,
    handler: Handler | None = None,
    *,
    api: str = REALTIME,
    ends: bool = False,
    urgent: bool | None = None,
    folded: bool = False,
    names: bool = False,
    old: str = "",
) -> None:
    """Rows of several events that differ by their names alone; ``old``: what the beta API and Azure call it."""
    _rows.extend(
        EventType(
            name,
            api,
            side,
            fields,
            handler,
            ends=ends,
            urgent=ends if urgent is None else urgent,
            folded=folded,
            names_session=names,
            aliases=(old,) if old else (),
        )
        for name in kinds.split()
    )


def _unread(api: str, side: Side | None, kinds: str, prefix: str = "") -> None:
    """Events of which nothing is of use: another event says the same, or they change nothing that a span shows."""
    for name in kinds.split():
        _add(prefix + name, side, None, api=api)


_S, _C = Side.SERVER, Side.CLIENT

# The session.
_add("session.created", _S, _SESSION, configuring.created, ends=True, names=True, old="transcription_session.created")
_add("session.start", _C, _SESSION, configuring.requested, api=LIVE, urgent=True)
_add("session.started", _S, _SESSION, configuring.created, api=LIVE, ends=True, names=True)
_add("session.update", _C, _SESSION, configuring.requested, api=BOTH, urgent=True, old="transcription_session.update")
_add(
    "session.updated",
    _S,
    _SESSION,
    configuring.updated,
    api=BOTH,
    urgent=True,
    names=True,
    old="transcription_session.updated",
)
_add("conversation.created", _S, _CONVERSATION, configuring.conversation)

# The caller begins to speak; what was heard of an answer is cut.
_add("input_audio_buffer.clear", _C, _BARE, speech.clear)
_add(AUDIO_APPEND, _C, _BARE, speech.appended, folded=True)
_add("input_audio_buffer.speech_started", _S, _STARTED, speech.started, ends=True, urgent=False)
_add("response.cancel", _C, _RESPONSE_ID, responses.cancel)
_add("conversation.item.truncate", _C, _TRUNCATION, responses.truncate)
_add("output_audio_buffer.cleared", _S, _RESPONSE_ID, responses.cut_off, ends=True)
_add("conversation.item.truncated", _S, _TRUNCATION, responses.truncated, ends=True)

# The caller has spoken.
_add("input_audio_buffer.dtmf_event_received", _S, _DIGIT, speech.key_pressed)
_add("input_audio_buffer.timeout_triggered", _S, _TIMEOUT, speech.timeout, ends=True)
_add("input_audio_buffer.speech_stopped", _S, _STOPPED, speech.stopped, ends=True)
_add("input_audio_buffer.commit", _C, _BARE, speech.commit)
_add("input_audio_buffer.committed", _S, _ITEM, speech.committed, ends=True)
_add("input_audio_buffer.cleared", _S, _BARE, speech.cleared, ends=True)
_add("conversation.item.input_audio_transcription.completed", _S, _TRANSCRIPT, speech.transcribed, ends=True)
_add("conversation.item.input_audio_transcription.failed", _S, _FAILED, speech.not_transcribed, ends=True)

# Items: what the app puts into the conversation, and what the server says of it.
_add("conversation.item.create", _C, _WITH_ITEM, tools.item_created, ends=True)
_add("conversation.item.created conversation.item.added", _S, _WITH_ITEM, tools.item_begun, ends=True)
_add("conversation.item.done", _S, _WITH_ITEM, tools.item_whole, ends=True)
_add("mcp_list_tools.in_progress", _S, _ITEM, tools.list_running)
_add("mcp_list_tools.completed", _S, _ITEM, tools.list_completed, ends=True)
_add("mcp_list_tools.failed", _S, _ITEM, tools.list_failed, ends=True)

# A response, from its request to its end.
_add("response.create", _C, _RESPONSE, responses.create, api=BOTH)
_add("response.created", _S, _RESPONSE, responses.created)
_add("rate_limits.updated", _S, _table(rate_limits=_LIMITS), responses.rate_limits)
_add("response.output_item.added", _S, _WITH_ITEM, responses.item_added)
_add("response.content_part.added", _S, _PART, responses.part_added)
_add("response.output_text.delta", _S, _OF_ITEM, responses.text_delta, folded=True, old="response.text.delta")
_add(
    "response.output_audio_transcript.delta",
    _S,
    _OF_ITEM,
    responses.transcript_delta,
    folded=True,
    old="response.audio_transcript.delta",
)
_add(AUDIO_DELTA, _S, _AUDIO, responses.audio_delta, folded=True, old="response.audio.delta")
_add("response.function_call_arguments.delta", _S, _CALL, responses.heard_of, folded=True)
_add("response.mcp_call_arguments.delta", _S, _OF_ITEM, responses.heard_of, folded=True)
_add("output_audio_buffer.started", _S, _RESPONSE_ID, responses.playing)
_add("response.function_call_arguments.done", _S, _ARGUMENTS, tools.arguments_done, urgent=True)
_add("response.mcp_call_arguments.done", _S, _ARGUMENTS, tools.mcp_arguments_done)
_add("response.mcp_call.in_progress", _S, _OF_ITEM, tools.mcp_running)
_add("response.mcp_call.completed", _S, _OF_ITEM, tools.mcp_completed, ends=True)
_add("response.mcp_call.failed", _S, _OF_ITEM, tools.mcp_failed, ends=True)
_add("response.output_item.done", _S, _WITH_ITEM, responses.item_done, ends=True)
_add("response.done", _S, _RESPONSE, responses.done, ends=True)
# grafter's own word, for a player that says what it has played, as Twilio does by its marks.
_add(PLAYED, _C, _table(item_id=identity, played_bytes=byte_count), responses.marked)
_add("output_audio_buffer.stopped", _S, _RESPONSE_ID, responses.played, ends=True)
_add("error", _S, _ERROR, responses.error, api=BOTH, urgent=True)

# The Live API.
_add("transport.ringing", _S, _BARE, talking.happened("ringing"), api=LIVE)
_add("transport.answered", _S, _BARE, talking.happened("answered"), api=LIVE)
_add("transport.failed", _S, _ERROR, talking.failed, api=LIVE)
_add("transport.dtmf.received", _S, _KEY, speech.key_pressed, api=LIVE)
# Of old the notice that a key was sent came from the server under the name of the request.
_add("transport.dtmf.send", None, _KEY, talking.key_sent, api=LIVE)
_add("transport.dtmf.sent", _S, _KEY, talking.key_sent, api=LIVE)
_add("session.input_transcript.delta", _S, _SPOKEN, talking.heard, api=LIVE, ends=True, urgent=False)
_add("session.output_transcript.delta", _S, _SPOKEN, talking.spoke, api=LIVE, ends=True, urgent=False)
_add(
    OUTPUT_AUDIO,
    _S,
    {"start_ms": number, "elapsed_ms": number, "untimed": flag},
    talking.sounded,
    api=LIVE,
    folded=True,
)
for _what in ("instructions", "thinking", "commentary"):
    _add(f"session.{_what}.appended", _S, _TIMED, talking.happened(f"{_what}_appended"), api=LIVE)
_add("session.input_audio.muted", _S, _BARE, talking.happened("input_muted"), api=LIVE)
_add("session.input_audio.unmuted", _S, _BARE, talking.happened("input_unmuted"), api=LIVE)
_add("session.output_audio.fixture.playing", _S, _BARE, talking.happened("fixture_playing"), api=LIVE)
_add("session.output_audio.fixture.played", _S, _BARE, talking.happened("fixture_played"), api=LIVE)
_add("session.paused", _S, _TIMED, talking.paused, api=LIVE)
_add("session.resumed", _S, _TIMED, talking.resumed, api=LIVE)
_add("session.usage.updated", _S, _USAGE, talking.used, api=LIVE)
_add("session.delegation.created", _S, _DELEGATION, delegating.created, api=LIVE)
_add("decision.event", _S, _DECISION, delegating.decided, api=LIVE, ends=True)
_add("response.item.create", _C, _table(item=field_rules.responses_item), delegating.item_given, api=LIVE, ends=True)

# Inside response.event.
_add(INNER + "error", _S, {**_table(delegation_id=identity), **ERROR}, delegating.error, api=LIVE)
_add(INNER + "response.created", _S, _INNER_RESPONSE, delegating.begun, api=LIVE, ends=True)
for _what in ("queued", "in_progress"):
    _add(INNER + f"response.{_what}", _S, _INNER_RESPONSE, delegating.described, api=LIVE)
_add(INNER + "response.output_item.added", _S, _INNER_WITH_ITEM, delegating.item_added, api=LIVE)
# What a response says first: a word of its answer, or of a call. What it thinks before is neither.
_add(
    f"{INNER}response.audio.delta {INNER}response.audio.transcript.delta {INNER}response.output_text.delta "
    f"{INNER}response.refusal.delta {INNER}response.code_interpreter_call_code.delta "
    f"{INNER}response.custom_tool_call_input.delta {INNER}response.function_call_arguments.delta "
    f"{INNER}response.mcp_call_arguments.delta {INNER}response.shell_call_command.delta",
    _S,
    _INNER_ITEM,
    delegating.spoken,
    api=LIVE,
    folded=True,
)
_add(INNER + "response.mcp_call.in_progress", _S, _INNER_ITEM, tools.mcp_running, api=LIVE)
_add(INNER + "response.mcp_call.completed", _S, _INNER_ITEM, tools.mcp_completed, api=LIVE, ends=True)
_add(INNER + "response.mcp_call.failed", _S, _INNER_ITEM, tools.mcp_failed, api=LIVE, ends=True)
_add(INNER + "response.mcp_list_tools.in_progress", _S, _INNER_ITEM, tools.list_running, api=LIVE)
_add(INNER + "response.mcp_list_tools.completed", _S, _INNER_ITEM, tools.list_completed, api=LIVE, ends=True)
_add(INNER + "response.mcp_list_tools.failed", _S, _INNER_ITEM, tools.list_failed, api=LIVE, ends=True)
_add(INNER + "response.output_item.done", _S, _INNER_WITH_ITEM, delegating.item_done, api=LIVE, ends=True)
for _what in ("completed", "failed", "incomplete"):
    _add(INNER + f"response.{_what}", _S, _INNER_RESPONSE, delegating.ended, api=LIVE, ends=True)
_add(CLOSED, _S, _CLOSED, talking.closed, api=LIVE, ends=True, names=True)

_unread(REALTIME, _C, "conversation.item.delete conversation.item.retrieve")
_unread(REALTIME, _C, "output_audio_buffer.clear")
_unread(REALTIME, _S, "conversation.item.deleted conversation.item.retrieved response.content_part.done")
_unread(REALTIME, _S, "delta segment", "conversation.item.input_audio_transcription.")
_add("response.output_audio.done", _S, None, old="response.audio.done")
_add("response.output_audio_transcript.done", _S, None, old="response.audio_transcript.done")
_add("response.output_text.done", _S, None, old="response.text.done")
_unread(LIVE, _S, "decision.item.created decision.item.deleted info")
_unread(LIVE, _C, "decision.create decision.item.create decision.item.delete")
_unread(
    LIVE,
    _C,
    "close commentary.append input_audio.append input_audio.mute input_audio.unmute instructions.append "
    "output_audio.fixture.play thinking.append",
    "session.",
)
_unread(
    LIVE,
    _S,
    "audio.done audio.transcript.done code_interpreter_call.completed code_interpreter_call.in_progress "
    "code_interpreter_call.interpreting code_interpreter_call_code.done compaction.compacting content_part.added "
    "content_part.done custom_tool_call_input.done file_search_call.completed file_search_call.in_progress "
    "file_search_call.searching function_call_arguments.done image_generation_call.completed "
    "image_generation_call.generating image_generation_call.in_progress image_generation_call.partial_image "
    "mcp_call_arguments.done output_text.annotation.added output_text.done reasoning_summary_part.added "
    "reasoning_summary_part.done reasoning_summary_text.delta reasoning_summary_text.done reasoning_text.delta "
    "reasoning_text.done refusal.done shell_call_command.added shell_call_command.done "
    "shell_call_output_content.delta shell_call_output_content.done web_search_call.completed "
    "web_search_call.in_progress web_search_call.searching",
    INNER + "response.",
)

EVENT_TYPES: Mapping[str, EventType] = {row.name: row for row in _rows}
"""All rows, in the order of cause, by today's names."""
RANK: Mapping[str, int] = {name: index for index, name in enumerate(EVENT_TYPES)}
"""Of two events of one moment the lower was first."""
PRESENT_NAMES: Mapping[str, str] = {alias: row.name for row in _rows for alias in row.aliases}
"""Names of the beta API and of Azure, and what today's API calls the same."""
AUDIO_DELTAS = frozenset({AUDIO_DELTA, *EVENT_TYPES[AUDIO_DELTA].aliases})
"""Types whose ``delta`` is sound, as either API calls them."""
SOUND = AUDIO_DELTAS | {AUDIO_APPEND, "session.input_audio.append", OUTPUT_AUDIO}
CLIENT_EVENTS = frozenset(name for row in _rows if row.side is not Side.SERVER for name in (row.name, *row.aliases))
"""What an event that is posted without a side is taken for; two of them have come from a server, too."""
SESSION_EVENTS = frozenset({"session.created", "session.started", "session.updated", "session.update"})
"""Events whose ``session`` may link the call to its host."""
