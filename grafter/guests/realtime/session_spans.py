"""Records to spans: names, kinds, attributes, and the figures that ``figures`` makes.

An end that is not known is named in ``grafter.realtime.missing`` instead of being made up, and nothing is drawn longer
than the evidence for it.
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
from grafter.core.policy import MILLISECOND
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
from grafter.guests.messages import text_message
from grafter.guests.realtime import figures
from grafter.guests.realtime.records import LIVE, SESSION, Call, Speech
from grafter.guests.realtime.session import Session

_SLUG = re.compile(r"[a-z0-9_.-]{1,64}")
UNKNOWN = "unknown"

Attributes = dict[str, AttributeValue | Json]


def session_span(session: Session, by: str, more: Attributes, *, content: bool) -> GuestSpan:
    """The session, from its first event to its last; ``more``: what else it says."""
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
    put(attributes, semconv.LIVE_ACTIVE_SECONDS, session.live.active_seconds)
    put(attributes, semconv.LIVE_PAUSED_SECONDS, session.live.paused_seconds)
    put(attributes, semconv.LIVE_IDLE_TIMEOUT, session.live.idle_timeout_s)
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
    attributes.update(more)
    mark(attributes, session.odd)
    if not session.begun:
        attributes[semconv.REALTIME_MISSING] = ("session.started" if config.kind == LIVE else "session.created",)
    return span_of(
        session,
        SESSION,
        None,
        titled("realtime_session", config.model),
        (session.first_at, max(session.first_at, session.last_at)),
        attributes,
        events=span_events(session.events, content),
    )


def speech_span(session: Session, speech: Speech, *, content: bool) -> GuestSpan:
    """The caller's speech, from its first word to its last; the detector's moments are attributes."""
    attributes: Attributes = {}
    identify(attributes, session, speech.id)
    mark(attributes, speech.untimed)
    put(attributes, semconv.SPEECH_AUDIO_START_MS, speech.start_ms)
    put(attributes, semconv.SPEECH_AUDIO_END_MS, speech.end_ms)
    put(attributes, semconv.SPEECH_ENDPOINTING_MS, speech.silence_ms)
    spoken = end_of_speech(attributes, speech, semconv.SPEECH_END_TIME)
    put(attributes, semconv.SPEECH_STOPPED_TIME, speech.stopped_at)
    put(attributes, semconv.SPEECH_COMMITTED_TIME, speech.committed_at)
    if speech.dropped_at is not None:
        attributes[semconv.SPEECH_DROPPED] = True
    put(attributes, semconv.TRANSCRIPTION, speech.transcription)
    if speech.transcription is not None:
        put(attributes, semconv.TRANSCRIPTION_MODEL, session.config.transcription or None)
    if speech.transcription == "failed":
        attributes[semconv.TRANSCRIPTION_ERROR] = error_type(speech.error)
    for key in ("input_tokens", "output_tokens"):
        put(attributes, f"{semconv.TRANSCRIPTION_USAGE}.{key}", count_of(speech.usage.get(key)))
    put(attributes, f"{semconv.TRANSCRIPTION_USAGE}.seconds", float_of(speech.usage.get("seconds")))
    if content and speech.transcript:
        attributes[semconv.GEN_AI_INPUT_MESSAGES] = Json([text_message("user", speech.transcript)])
    missing = []
    if speech.started_at is None and speech.appended_at is None:
        missing.append("input_audio_buffer.speech_started")
    if speech.stopped_at is None and speech.dropped_at is None and speech.commit_at is None:
        missing.append("input_audio_buffer.speech_stopped")
    put(attributes, semconv.REALTIME_MISSING, tuple(missing) or None)
    ends = (spoken, speech.stopped_at, speech.committed_at, speech.dropped_at)
    last = next((at for at in ends if at is not None), None)
    start = earliest(speech.started_at, speech.appended_at)
    if last is None or last == speech.dropped_at:
        # One who falls silent without a word of it: no more of it is known than that it began, and that its audio was
        # thrown away.
        attributes[semconv.GRAFTER_END] = UNKNOWN
    if last is None:
        last = speech.first_at if start is None else start
    start = last if start is None else start
    # Two events that took different ways through the network make a short word none; that is no error of a clock.
    end = last if speech.backwards else max(start, last)
    return span_of(session, speech.id, SESSION, "user_speech", (start, end), attributes)


def call_span(session: Session, call: Call, *, content: bool) -> GuestSpan:
    """A tool, an MCP server's list, or an approval. What was never answered is drawn as far as it is spoken of itself:
    nothing shows it at work after that."""
    attributes: Attributes = {}
    name, kind = _titled_call(session, call, attributes)
    identify(attributes, session, call.id)
    mark(attributes, call.odd)
    put(attributes, semconv.AGENTS_MCP_SERVER, call.server)
    put(attributes, semconv.AGENTS_MCP_TOOLS, tuple(call.tools) or None)
    put(attributes, semconv.MCP_APPROVED, call.approved)
    put(attributes, semconv.TOOL_ARGUMENTS_DIGEST, call.digest)
    if content and call.arguments is not None:
        attributes[semconv.GEN_AI_TOOL_CALL_ARGUMENTS] = Json(structure(call.arguments))
    if content and call.result is not None:
        attributes[semconv.GEN_AI_TOOL_CALL_RESULT] = Json(structure(call.result))
    if call.failed:
        attributes[semconv.ERROR_TYPE] = error_type(call.error, "tool_error")
    requested, answered = _EVENTS[call.kind]
    ends = ((requested, call.started_at), (answered, None if call.unseen else call.ended_at))
    missing = [event for event, at in ends if at is None]
    put(attributes, semconv.REALTIME_MISSING, tuple(missing) or None)
    start = call.first_at if call.started_at is None else call.started_at
    last = call.last_at if call.ended_at is None else call.ended_at
    if call.ended_at is None:
        attributes[semconv.GRAFTER_END] = UNKNOWN
        last = max(start, last)
    return span_of(
        session,
        call.id,
        session.parent(call.response),
        name,
        (start, last),
        attributes,
        kind=kind,
        failed=error_message(call.error, content) if call.failed else None,
    )


_EVENTS = {
    "function": ("function_call", "function_call_output"),
    "mcp": ("response.mcp_call.in_progress", "response.mcp_call.completed"),
    "hosted": ("response.output_item.added", "response.output_item.done"),
    "list": ("mcp_list_tools.in_progress", "mcp_list_tools.completed"),
    "approval": ("mcp_approval_request", "mcp_approval_response"),
}


def agent_of(session: Session) -> str:
    """What the app calls the agent of this session; a word of ours where nothing names one."""
    return session.config.agent or session.config.workflow or "realtime"


def _titled_call(session: Session, call: Call, attributes: Attributes) -> tuple[str, int]:
    if call.kind == "list":
        attributes[semconv.MCP_METHOD_NAME] = "tools/list"
        return "tools/list", SPAN_KIND_CLIENT
    if call.kind == "approval":
        return titled("mcp_approval", call.name), SPAN_KIND_INTERNAL
    attributes[semconv.GEN_AI_OPERATION_NAME] = "execute_tool"
    attributes[semconv.GEN_AI_AGENT_NAME] = agent_of(session)
    if call.kind == "function":
        attributes[semconv.GRAFTER_TIME_OF] = "app"
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


def mark(attributes: Attributes, odd: bool) -> None:
    if odd:
        attributes[semconv.GRAFTER_ODD_TIME] = True


def span_of(
    session: Session,
    identity: str,
    parent: str | None,
    name: str,
    times: tuple[int, int],
    attributes: Attributes,
    *,
    kind: int = SPAN_KIND_INTERNAL,
    failed: str | None = None,
    events: tuple[SpanEvent, ...] = (),
) -> GuestSpan:
    """A span of a session, by its own id and its parent's. ``failed``: with what message it has failed.

    One that ends before it starts leaves as its sender dates it, and says so.
    """
    start, end = times
    if end < start:
        attributes[semconv.GRAFTER_TIME_ODD] = True
    return GuestSpan(
        span_id=session.span_id(identity),
        parent=None if parent is None else session.span_id(parent),
        parent_name=parent or "",
        name=cut_text(name, NAME_BYTES),
        kind=kind,
        start=UnixNano(start),
        end=UnixNano(end),
        attributes=bounded(attributes),
        status_code=STATUS_UNSET if failed is None else STATUS_ERROR,
        status_message=failed or "",
        events=events,
    )


def end_of_speech(attributes: Attributes, speech: Speech, name: str) -> int | None:
    """State under ``name`` when the caller fell silent, and how wrong that may be; that moment, where it is known."""
    end = None if speech.unreliable else figures.speech_end(speech)
    if end is None:
        return None
    attributes[name] = end[0]
    put(attributes, semconv.SPEECH_END_ERROR_MS, milliseconds(figures.speech_end_error(speech)) or None)
    return end[0]


def span_events(events: list[object], content: bool) -> tuple[SpanEvent, ...]:
    found = []
    for entry in events:
        at, name, attributes = (*list_of(entry), None, None, None)[:3]
        if isinstance(at, int) and isinstance(name, str):
            kept: list[tuple[str, AttributeValue]] = []
            for key, value in mapping_of(attributes).items():
                if key in _CONTENT_OF_EVENTS and not content:
                    continue
                if isinstance(value, str):
                    kept.append((key, cut_text(value, ATTRIBUTE_BYTES)))
                elif (number := number_of(value)) is not None:
                    kept.append((key, number))
            found.append(SpanEvent(UnixNano(at), name, tuple(kept)))
    return tuple(found)


_CONTENT_OF_EVENTS = frozenset({semconv.ERROR_MESSAGE, "digit"})


def error_type(error: Mapping[str, object], otherwise: str = OTHER_ERROR) -> str:
    """A word of which there are few: the code, else the type, where either is one."""
    for key in ("code", "type"):
        word = text_of(error.get(key))
        if word is not None and _SLUG.fullmatch(word):
            return word
    return otherwise


def error_message(error: Mapping[str, object], content: bool) -> str:
    return cut_text(text_of(error.get("message")) or "", ATTRIBUTE_BYTES) if content else ""


def earliest(*times: int | None) -> int | None:
    return min((time for time in times if time is not None), default=None)


def milliseconds(length: int) -> float:
    return round(length / MILLISECOND, 3)


def put(attributes: Attributes, name: str, value: AttributeValue | Json | None) -> None:
    """Set an attribute that says something."""
    if value is not None:
        attributes[name] = value
