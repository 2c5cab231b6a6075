"""Records to spans: names, kinds, attributes, and the figures that a span may state.

A figure is stated where both its ends are known and in order; an end that is not known is named in
``grafter.realtime.missing`` instead of being made up.
"""

import re
from collections.abc import Mapping

from grafter.core import semconv
from grafter.core.model import (
    SPAN_KIND_CLIENT,
    SPAN_KIND_INTERNAL,
    STATUS_ERROR,
    STATUS_UNSET,
    AttributeValue,
    GuestSpan,
    SpanEvent,
    UnixNano,
)
from grafter.guests.attributes import ATTRIBUTE_BYTES, NAME_BYTES, Json, bounded, cut_text, titled
from grafter.guests.json_values import (
    OTHER_ERROR,
    count_of,
    float_of,
    list_of,
    mapping_of,
    number_of,
    structure,
    text_of,
)
from grafter.guests.messages import answers, text_message
from grafter.guests.realtime import responses as turns
from grafter.guests.realtime.records import LIVE, SESSION, Call, Response, Speech
from grafter.guests.realtime.session import Session
from grafter.guests.usage import call_usage

_MILLISECOND = 1_000_000
_SLUG = re.compile(r"[a-z0-9_.-]{1,64}")
_LONGEST_HEARD_MS = 24 * 3_600_000
_ENDED = {"max_output_tokens": "length", "content_filter": "content_filter"}

Attributes = dict[str, AttributeValue | Json]


def session_span(session: Session, by: str, *, content: bool) -> GuestSpan:
    """The session, from its first event to its last."""
    config = session.config
    attributes: Attributes = {}
    put(attributes, semconv.REALTIME_MODEL, config.model)
    identify(attributes, session, SESSION)
    put(attributes, semconv.REALTIME_CONVERSATION_ID, session.conversation)
    put(attributes, semconv.GRAFTER_ENDED_BY, by)
    put(attributes, semconv.REALTIME_TYPE, config.kind)
    put(attributes, semconv.REALTIME_EXPIRES_AT, config.expires_at)
    put(attributes, semconv.REALTIME_VOICE, config.voice)
    put(attributes, semconv.REALTIME_MODALITIES, tuple(config.modalities) or None)
    put(attributes, semconv.REALTIME_AUDIO_FORMAT.format(direction="input"), config.input_format)
    put(attributes, semconv.REALTIME_AUDIO_FORMAT.format(direction="output"), config.output_format)
    put(attributes, semconv.REALTIME_TURN_DETECTION, config.detection)
    put(attributes, semconv.REALTIME_SILENCE_MS, config.silence_ms)
    put(attributes, semconv.REALTIME_TRANSCRIPTION_MODEL, config.transcription or None)
    put(attributes, semconv.REALTIME_TOOLS, tuple(config.tools) or None)
    put(attributes, semconv.GEN_AI_REQUEST_MAX_TOKENS, config.max_output_tokens)
    put(attributes, semconv.LIVE_DELEGATION_TARGET, session.live.target)
    put(attributes, semconv.LIVE_DELEGATION_MODEL, session.live.backend)
    put(attributes, semconv.LIVE_AUDIO_SECONDS, session.live.seconds)
    put(attributes, semconv.LIVE_CONTEXT_USAGE, session.live.usage_ratio)
    put(attributes, semconv.LIVE_CLOSE_REASON, session.live.closed_by)
    put(attributes, semconv.AGENTS_WORKFLOW_NAME, config.workflow)
    put(attributes, semconv.AGENTS_GROUP_ID, config.group)
    if content and config.instructions:
        attributes[semconv.GEN_AI_SYSTEM_INSTRUCTIONS] = Json([{"type": "text", "content": config.instructions}])
    if session.limits:
        attributes[semconv.RATE_LIMITS] = Json(session.limits)
    for what, count in (
        ("responses", session.turns),
        ("user_turns", session.speeches_ended),
        ("barge_ins", session.barge_ins),
        ("errors", session.errors),
        ("dtmf_keys", session.keys_pressed),
        ("idle_timeouts", session.idle_timeouts),
        ("unknown_events", session.unknown_events),
        ("omitted_spans", session.omitted),
        ("reused_ids", session.reused),
        ("misplaced_events", session.misplaced),
    ):
        put(attributes, semconv.REALTIME_COUNT.format(what=what), count or None)
    put(attributes, semconv.REALTIME_UNKNOWN_TYPES, tuple(sorted(session.unknown)) or None)
    if not session.told:
        attributes[semconv.REALTIME_MISSING] = ("session.started" if config.kind == LIVE else "session.created",)
    return GuestSpan(
        span_id=session.span_id(SESSION),
        parent=None,
        parent_name="",
        name=cut_text(titled("realtime_session", config.model), NAME_BYTES),
        kind=SPAN_KIND_INTERNAL,
        start=UnixNano(session.first_at),
        end=UnixNano(max(session.first_at, session.last_at)),
        attributes=bounded(attributes),
        events=_events(session.events, content),
    )


def response_span(session: Session, response: Response, *, content: bool) -> GuestSpan:
    """One model turn, from when the server began it to when it was done; its audio may be heard later.

    A decision of a Live session is one too: a model is asked, though its answer is no message.
    """
    operation, done = _KINDS[response.kind]
    attributes: Attributes = {
        semconv.GEN_AI_OPERATION_NAME: operation,
        semconv.GEN_AI_PROVIDER_NAME: "openai",
    }
    model = response.model or (session.config.model if response.kind == "spoken" else session.live.backend)
    put(attributes, semconv.GEN_AI_REQUEST_MODEL, model)
    if operation == "chat":
        attributes[semconv.GEN_AI_RESPONSE_ID] = response.id
    put(attributes, semconv.LIVE_DELEGATION_ID, response.delegation)
    identify(attributes, session, response.id)
    _state(attributes, response)
    usage, rest = call_usage(response.usage)
    usage.pop(f"{semconv.AGENTS_USAGE}.total_tokens", None)  # a sum of two that stand here
    attributes.update(usage)
    _settings(attributes, response)
    _latency(attributes, response)
    if response.aside:
        attributes[semconv.TURN_CONVERSATION] = "none"
    if response.metadata:
        attributes[semconv.RESPONSE_METADATA] = Json(dict(sorted(response.metadata.items())))
    if response.limits:
        attributes[semconv.RATE_LIMITS] = Json(response.limits)
    if rest:
        attributes[semconv.REALTIME_EXTRA] = Json({"usage": rest})
    if content and response.output:
        attributes[semconv.GEN_AI_OUTPUT_MESSAGES] = Json(answers(response.output))
    told = (("response.created", response.created_at), (done, response.done_at))
    missing = [name for name, at in told if at is None]
    put(attributes, semconv.REALTIME_MISSING, tuple(missing) or None)
    failed = response.status == "failed"
    if failed:
        attributes[semconv.ERROR_TYPE] = _error_type(response.error)
    start = response.first_at if response.created_at is None else min(response.created_at, response.first_at)
    end = response.last_at if response.done_at is None else response.done_at
    return GuestSpan(
        span_id=session.span_id(response.id),
        parent=session.span_id(SESSION),
        parent_name=SESSION,
        name=cut_text(titled(operation, model), NAME_BYTES),
        kind=SPAN_KIND_CLIENT,
        start=UnixNano(start),
        end=UnixNano(max(start, end)),
        attributes=bounded(attributes),
        status_code=STATUS_ERROR if failed else STATUS_UNSET,
        status_message=_message(response.error, content) if failed else "",
        events=(*_barge_in(response), *_events(response.errors, content)),
    )


_KINDS = {
    "spoken": ("chat", "response.done"),
    "delegated": ("chat", "response.completed"),
    "decision": ("decision", "decision.event"),
}
"""By a response's kind the operation, and the event that ends it."""


def speech_span(session: Session, speech: Speech, end: UnixNano | None, *, content: bool) -> GuestSpan:
    """The caller's speech, as the detector told it; ``end`` is the session's, for what never ended."""
    attributes: Attributes = {}
    identify(attributes, session, speech.id)
    put(attributes, semconv.SPEECH_AUDIO_START_MS, speech.start_ms)
    put(attributes, semconv.SPEECH_AUDIO_END_MS, speech.end_ms)
    put(attributes, semconv.SPEECH_ENDPOINTING_MS, speech.silence_ms)
    put(attributes, semconv.SPEECH_END_TIME, speech_end(speech.stopped_at, speech.silence_ms))
    put(attributes, semconv.SPEECH_COMMITTED_TIME, speech.committed_at)
    if speech.dropped_at is not None:
        attributes[semconv.SPEECH_DROPPED] = True
    put(attributes, semconv.TRANSCRIPTION, speech.transcription)
    if speech.transcription is not None:
        put(attributes, semconv.TRANSCRIPTION_MODEL, session.config.transcription or None)
    if speech.transcription == "failed":
        attributes[semconv.TRANSCRIPTION_ERROR] = _error_type(speech.error)
    for key in ("input_tokens", "output_tokens"):
        put(attributes, f"{semconv.TRANSCRIPTION_USAGE}.{key}", count_of(speech.usage.get(key)))
    put(attributes, f"{semconv.TRANSCRIPTION_USAGE}.seconds", float_of(speech.usage.get("seconds")))
    if content and speech.transcript:
        attributes[semconv.GEN_AI_INPUT_MESSAGES] = Json([text_message("user", speech.transcript)])
    last = next((at for at in (speech.stopped_at, speech.committed_at, speech.dropped_at) if at is not None), None)
    missing = []
    if speech.started_at is None:
        missing.append("input_audio_buffer.speech_started")
    if speech.stopped_at is None and speech.dropped_at is None:
        missing.append("input_audio_buffer.speech_stopped")
    put(attributes, semconv.REALTIME_MISSING, tuple(missing) or None)
    if last is None:
        last = speech.first_at if speech.started_at is None else max(speech.last_at, end or 0)
    start = last if speech.started_at is None else speech.started_at
    return GuestSpan(
        span_id=session.span_id(speech.id),
        parent=session.span_id(SESSION),
        parent_name=SESSION,
        name="user_speech",
        kind=SPAN_KIND_INTERNAL,
        start=UnixNano(start),
        end=UnixNano(max(start, last)),
        attributes=bounded(attributes),
    )


def call_span(session: Session, call: Call, end: UnixNano | None, *, content: bool) -> GuestSpan:
    """A tool, an MCP server's list, or an approval; ``end`` is the session's, for what was never answered."""
    attributes: Attributes = {}
    name, kind = _titled_call(call, attributes)
    identify(attributes, session, call.id)
    put(attributes, semconv.AGENTS_MCP_SERVER, call.server)
    put(attributes, semconv.AGENTS_MCP_TOOLS, tuple(call.tools) or None)
    put(attributes, semconv.MCP_APPROVED, call.approved)
    put(attributes, semconv.TOOL_ARGUMENTS_DIGEST, call.digest)
    if content and call.arguments is not None:
        attributes[semconv.GEN_AI_TOOL_CALL_ARGUMENTS] = Json(structure(call.arguments))
    if content and call.result is not None:
        attributes[semconv.GEN_AI_TOOL_CALL_RESULT] = Json(structure(call.result))
    if call.failed:
        attributes[semconv.ERROR_TYPE] = _error_type(call.error, "tool_error")
    asked, answered = _EVENTS[call.kind]
    told = ((asked, call.started_at), (answered, None if call.untold else call.ended_at))
    missing = [event for event, at in told if at is None]
    put(attributes, semconv.REALTIME_MISSING, tuple(missing) or None)
    start = call.first_at if call.started_at is None else call.started_at
    last = call.ended_at if call.ended_at is not None else max(call.last_at, end or 0)
    parent = session.parent(call.response)
    return GuestSpan(
        span_id=session.span_id(call.id),
        parent=session.span_id(parent),
        parent_name=parent,
        name=cut_text(name, NAME_BYTES),
        kind=kind,
        start=UnixNano(start),
        end=UnixNano(max(start, last)),
        attributes=bounded(attributes),
        status_code=STATUS_ERROR if call.failed else STATUS_UNSET,
        status_message=_message(call.error, content) if call.failed else "",
    )


_EVENTS = {
    "function": ("function_call", "function_call_output"),
    "mcp": ("response.mcp_call.in_progress", "response.mcp_call.completed"),
    "hosted": ("response.output_item.added", "response.output_item.done"),
    "list": ("mcp_list_tools.in_progress", "mcp_list_tools.completed"),
    "approval": ("mcp_approval_request", "mcp_approval_response"),
}


def interrupted(response: Response) -> bool:
    """The caller broke in: its audio was cut, or it was cancelled because somebody spoke while it was heard."""
    begun = response.playing_at is not None or response.first_audio_at is not None
    return (
        response.cut_by is not None
        or response.cleared_at is not None
        or (begun and response.status == "cancelled" and response.reason == "turn_detected")
    )


def speech_end(stopped_at: int | None, silence_ms: int | None) -> int | None:
    """When the caller fell silent; None where the detector's wait is not known."""
    if stopped_at is None or silence_ms is None:
        return None
    return max(stopped_at - silence_ms * _MILLISECOND, 0)


def _titled_call(call: Call, attributes: Attributes) -> tuple[str, int]:
    if call.kind == "list":
        attributes[semconv.MCP_METHOD_NAME] = "tools/list"
        return "tools/list", SPAN_KIND_CLIENT
    if call.kind == "approval":
        put(attributes, semconv.GEN_AI_TOOL_NAME, call.name)
        return titled("mcp_approval", call.name), SPAN_KIND_INTERNAL
    attributes[semconv.GEN_AI_OPERATION_NAME] = "execute_tool"
    put(attributes, semconv.GEN_AI_TOOL_NAME, call.name)
    attributes[semconv.GEN_AI_TOOL_TYPE] = "function" if call.kind == "function" else "extension"
    attributes[semconv.GEN_AI_TOOL_CALL_ID] = call.id
    if call.kind == "mcp":
        attributes[semconv.MCP_METHOD_NAME] = "tools/call"
    return titled("execute_tool", call.name), SPAN_KIND_INTERNAL


def identify(attributes: Attributes, session: Session, identity: str) -> None:
    """The ids that every span of a session has; ``identity`` is its own."""
    # What the app calls the conversation, as with the SDKs' traces; else OpenAI's word that is known first and so is
    # the same on every span of the session.
    name = session.name
    put(attributes, semconv.GEN_AI_CONVERSATION_ID, session.config.group or name or session.conversation)
    put(attributes, semconv.GEN_AI_REALTIME_SESSION_ID, name)
    attributes[semconv.GRAFTER_GUEST_TRACE_ID] = session.guest
    attributes[semconv.GRAFTER_GUEST_SPAN_ID] = identity


def _state(attributes: Attributes, response: Response) -> None:
    put(attributes, semconv.RESPONSE_STATUS, response.status)
    put(attributes, semconv.RESPONSE_STATUS_REASON, response.reason)
    reason = None
    if response.status == "completed":
        reason = "tool_call" if _calls(response) else "stop"
    elif response.status == "failed":
        reason = "error"
    elif response.status in ("cancelled", "incomplete"):
        reason = _ENDED.get(response.reason or "", response.reason or response.status)
    put(attributes, semconv.GEN_AI_RESPONSE_FINISH_REASONS, None if reason is None else (reason,))
    put(attributes, semconv.RESPONSE_TOOL_CALLS, _calls(response) or None)


def _calls(response: Response) -> int:
    return sum(mapping_of(item).get("type") in ("function_call", "mcp_call") for item in response.output)


def _settings(attributes: Attributes, response: Response) -> None:
    settings = response.settings
    audio = mapping_of(mapping_of(settings.get("audio")).get("output"))
    put(attributes, semconv.GEN_AI_REQUEST_MAX_TOKENS, count_of(settings.get("max_output_tokens")))
    put(attributes, semconv.GEN_AI_REQUEST_TEMPERATURE, float_of(settings.get("temperature")))
    modalities = [text for text in map(text_of, list_of(settings.get("output_modalities"))) if text is not None]
    if modalities:
        attributes[semconv.GEN_AI_OUTPUT_TYPE] = "speech" if "audio" in modalities else modalities[0]
    put(attributes, semconv.GEN_AI_SPEECH_VOICE, text_of(audio.get("voice")))
    put(attributes, semconv.RESPONSE_AUDIO_BYTES, max(response.audio_bytes, response.audio_bytes_beside) or None)


def _latency(attributes: Attributes, response: Response) -> None:
    """What a caller's wait is added up from, and the two figures that one turn can state alone."""
    since = response.measured_at
    heard_at, heard = (
        (response.first_audio_at, "delta")
        if response.playing_at is None
        else (response.playing_at, "output_audio_buffer")
    )
    first = _earliest(response.first_delta_at, heard_at)
    if since is not None:
        token_ms, audio_ms = milliseconds(since, first), milliseconds(since, heard_at)
        put(attributes, semconv.TURN_FIRST_TOKEN_MS, token_ms)
        put(attributes, semconv.TURN_FIRST_AUDIO_MS, audio_ms)
        put(attributes, semconv.TURN_MEASURED_FROM, response.measured)
        put(attributes, semconv.TURN_MEASURED_FROM_TIME, since)
    put(attributes, semconv.TURN_FIRST_DELTA_TIME, response.first_delta_at)
    put(attributes, semconv.TURN_FIRST_AUDIO_TIME, heard_at)
    put(attributes, semconv.TURN_FIRST_AUDIO_AT, None if heard_at is None else heard)
    put(attributes, semconv.TURN_AUDIO_ENDED_TIME, _earliest(response.played_at, response.cleared_at))
    if response.measured in (turns.SPEECH_STOPPED, turns.COMMITTED):
        put(attributes, semconv.TURN_SPEECH_ITEM, response.speech)
        put(attributes, semconv.TURN_SPEECH_END_TIME, speech_end(response.speech_stopped_at, response.silence_ms))
        put(attributes, semconv.TURN_ENDPOINTING_MS, response.silence_ms)
    put(attributes, semconv.TURN_AFTER_TOOL, response.after_tool)


def _barge_in(response: Response) -> tuple[SpanEvent, ...]:
    if not interrupted(response):
        return ()
    elapsed, told = response.cut_ms, response.cut_by
    cut_at = response.cut_at
    if elapsed is None and response.cleared_at is not None:
        cut_at, told = response.cleared_at, "output_audio_buffer"
        elapsed = _between(response.playing_at, response.cleared_at)
    elif told is None:
        cut_at, told = response.done_at, "turn_detected"
        elapsed = _between(response.playing_at, response.spoken_over_at)
    spoken = response.spoken_over_at
    by_speech = (spoken is not None and (cut_at is None or spoken <= cut_at)) or response.reason == "turn_detected"
    attributes: dict[str, AttributeValue] = {}
    if elapsed is not None and elapsed <= _LONGEST_HEARD_MS:
        attributes[semconv.AUDIO_ELAPSED_MS] = elapsed
    attributes[semconv.GRAFTER_BARGE_IN_FROM] = told
    attributes[semconv.GRAFTER_BARGE_IN_BY] = "speech" if by_speech else "client"
    at = spoken if by_speech and spoken is not None else cut_at
    return (SpanEvent(UnixNano(response.last_at if at is None else at), semconv.BARGE_IN, tuple(attributes.items())),)


def _events(events: list[object], content: bool) -> tuple[SpanEvent, ...]:
    found = []
    for entry in events:
        at, name, attributes = (*list_of(entry), None, None, None)[:3]
        if isinstance(at, int) and isinstance(name, str):
            told: list[tuple[str, AttributeValue]] = []
            for key, value in mapping_of(attributes).items():
                if key in _CONTENT_OF_EVENTS and not content:
                    continue
                if isinstance(value, str):
                    told.append((key, cut_text(value, ATTRIBUTE_BYTES)))
                elif (number := number_of(value)) is not None:
                    told.append((key, number))
            found.append(SpanEvent(UnixNano(at), name, tuple(told)))
    return tuple(found)


_CONTENT_OF_EVENTS = frozenset({semconv.ERROR_MESSAGE, "digit"})


def _error_type(error: Mapping[str, object], otherwise: str = OTHER_ERROR) -> str:
    """A word of which there are few: the code, else the type, where either is one."""
    for key in ("code", "type"):
        word = text_of(error.get(key))
        if word is not None and _SLUG.fullmatch(word):
            return word
    return otherwise


def _message(error: Mapping[str, object], content: bool) -> str:
    return cut_text(text_of(error.get("message")) or "", ATTRIBUTE_BYTES) if content else ""


def _earliest(*times: int | None) -> int | None:
    return min((time for time in times if time is not None), default=None)


def milliseconds(since: int, until: int | None) -> float | None:
    """From one moment to another; None where the second is not known, or not the second."""
    return None if until is None or until < since else round((until - since) / _MILLISECOND, 3)


def _between(since: int | None, until: int | None) -> int | None:
    if since is None or until is None or until < since:
        return None
    return (until - since) // _MILLISECOND


def put(attributes: Attributes, name: str, value: AttributeValue | Json | None) -> None:
    """Set an attribute that says something."""
    if value is not None:
        attributes[name] = value
