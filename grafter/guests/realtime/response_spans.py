"""A response to spans: the model turn with its figures, and what the caller heard of it."""

from grafter.core import semconv
from grafter.core.model import (
    SPAN_KIND_CLIENT,
    AttributeValue,
    GuestSpan,
    SpanEvent,
    UnixNano,
)
from grafter.core.policy import MILLISECOND
from grafter.guests.attributes import Json, titled
from grafter.guests.json_values import count_of, float_of, list_of, mapping_of, text_of
from grafter.guests.messages import answers
from grafter.guests.realtime import figures, heard_audio
from grafter.guests.realtime.figures import Answers, Piece
from grafter.guests.realtime.heard_audio import BargeIn
from grafter.guests.realtime.records import SESSION, Response
from grafter.guests.realtime.session import Session
from grafter.guests.realtime.session_spans import (
    UNKNOWN,
    Attributes,
    agent_of,
    earliest,
    end_of_speech,
    error_message,
    error_type,
    identify,
    mark,
    milliseconds,
    put,
    span_events,
    span_of,
)
from grafter.guests.usage import call_usage

_MICROSECOND = 1_000
_ENDED = {"max_output_tokens": "length", "content_filter": "content_filter"}
AUDIO = "/audio"
"""After a response's id, the id of the span of what the caller heard of it."""
_KINDS = {
    "spoken": ("chat", "response.done"),
    "delegated": ("chat", "response.completed"),
    "decision": ("decision", "decision.event"),
}
"""By a response's kind the operation, and the event that ends it."""


def response_span(session: Session, response: Response, *, content: bool) -> GuestSpan:
    """One model turn, from when the server began it to when it was done; its audio may be heard later.

    A decision of a Live session is one too: a model is asked, though its answer is no message.
    """
    operation, done = _KINDS[response.kind]
    attributes: Attributes = {
        semconv.GEN_AI_OPERATION_NAME: operation,
        semconv.GEN_AI_PROVIDER_NAME: "openai",
        semconv.GEN_AI_AGENT_NAME: agent_of(session),
    }
    mark(attributes, response.odd)
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
    found = Answers(session)
    _latency(attributes, found, response)
    _wait(attributes, found, response)
    broken_in = heard_audio.barge_in(session, response)
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
    ends = (("response.created", response.created_at), (done, response.done_at))
    missing = [name for name, at in ends if at is None]
    put(attributes, semconv.REALTIME_MISSING, tuple(missing) or None)
    failed = response.status == "failed"
    if failed:
        attributes[semconv.ERROR_TYPE] = error_type(response.error)
    start = response.first_at if response.created_at is None else min(response.created_at, response.first_at)
    end = response.last_at if response.done_at is None else response.done_at
    if response.backwards and response.created_at is not None:
        start = response.created_at
    return span_of(
        session,
        response.id,
        SESSION,
        titled(operation, model),
        (start, end),
        attributes,
        kind=SPAN_KIND_CLIENT,
        failed=error_message(response.error, content) if failed else None,
        events=(*_barge_in(broken_in), *span_events(response.errors, content)),
    )


def audio_span(session: Session, response: Response) -> GuestSpan | None:
    """What the caller heard of a response, from the first sound to its end or its cut; None where none was heard.

    Where its end is not known it is drawn as far as audio is known to have come.
    """
    heard = figures.heard_at(session, response)
    if heard is None:
        return None
    start, end = heard[0], earliest(response.played_at, response.cleared_at)
    attributes: Attributes = {}
    identify(attributes, session, response.id + AUDIO)
    mark(attributes, response.odd)
    if end is None:
        broken_in = heard_audio.barge_in(session, response)
        if broken_in is not None and broken_in.heard_ms is not None and not broken_in.at_most:
            end = start + broken_in.heard_ms * MILLISECOND
    if end is None:
        attributes[semconv.GRAFTER_END] = UNKNOWN
        end = start if response.last_audio_at is None else max(start, response.last_audio_at)
    return span_of(session, response.id + AUDIO, response.id, "assistant_speech", (start, end), attributes)


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
    """The functions that it asked for; a call that was cut off in its arguments asks for none, as in ``tools.ran``."""
    calls = [item for item in map(mapping_of, response.output) if item.get("type") == "function_call"]
    if response.status == "completed":
        return sum(item.get("status") != "incomplete" for item in calls)
    return sum(item.get("status") == "completed" for item in calls)


def _settings(attributes: Attributes, response: Response) -> None:
    settings = response.settings
    audio = mapping_of(mapping_of(settings.get("audio")).get("output"))
    put(attributes, semconv.GEN_AI_REQUEST_MAX_TOKENS, count_of(settings.get("max_output_tokens")))
    put(attributes, semconv.GEN_AI_REQUEST_TEMPERATURE, float_of(settings.get("temperature")))
    modalities = [text for text in map(text_of, list_of(settings.get("output_modalities"))) if text is not None]
    if modalities:
        attributes[semconv.GEN_AI_OUTPUT_TYPE] = "speech" if "audio" in modalities else modalities[0]
    put(attributes, semconv.GEN_AI_SPEECH_VOICE, text_of(audio.get("voice")))
    put(attributes, semconv.RESPONSE_AUDIO_BYTES, heard_audio.audio_bytes(response) or None)


def _latency(attributes: Attributes, answers: Answers, response: Response) -> None:
    """The model turn, from what began it to its first output, and what its caller's wait is added up from."""
    answer, heard = answers.of(response), figures.heard_at(answers.session, response)
    cause, first = answer.cause, figures.first_token_at(answers.session, response)
    if cause is not None and not response.unreliable:
        token, audio = _since(cause, first), _since(cause, None if heard is None else heard[0])
        if token is not None:
            attributes[semconv.TURN_FIRST_TOKEN_MS] = token
            put(attributes, semconv.TURN_FIRST_TOKEN_ERROR_MS, milliseconds(cause.error) or None)
            attributes[semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = round(token / 1_000, 6)
        if audio is not None:
            attributes[semconv.TURN_FIRST_AUDIO_MS] = audio
            put(attributes, semconv.TURN_FIRST_AUDIO_ERROR_MS, milliseconds(cause.error) or None)
        put(attributes, semconv.TURN_MEASURED_FROM, cause.word)
        put(attributes, semconv.TURN_MEASURED_FROM_TIME, cause.at)
    if not response.unreliable:
        put(attributes, semconv.TURN_FIRST_DELTA_TIME, response.first_delta_at)
        put(attributes, semconv.TURN_FIRST_AUDIO_TIME, None if heard is None else heard[0])
        put(attributes, semconv.TURN_FIRST_AUDIO_AT, None if heard is None else heard[1])
        put(attributes, semconv.TURN_AUDIO_ENDED_TIME, earliest(response.played_at, response.cleared_at))
    speech = None if response.aside else figures.speech_answered(answers, response)
    if speech is not None:
        put(attributes, semconv.TURN_SPEECH_ITEM, speech.id)
        end_of_speech(attributes, speech, semconv.TURN_SPEECH_END_TIME)
        put(attributes, semconv.TURN_ENDPOINTING_MS, None if speech.unreliable else speech.silence_ms)
    put(attributes, semconv.TURN_AFTER_TOOL, response.after_tool if answer.tool is None else answer.tool.id)


def _since(cause: figures.Cause, until: int | None) -> float | None:
    """A figure in milliseconds; None where it is not known, out of order, or less than its own error. Nothing is
    answered in no time: a clock that says so is too coarse to say how long it took."""
    if until is None or until <= cause.at or cause.error > until - cause.at:
        return None
    return milliseconds(until - cause.at)


def _wait(attributes: Attributes, answers: Answers, response: Response) -> None:
    if figures.heard_at(answers.session, response) is None:
        return
    wait, names = figures.caller_wait(answers, response), semconv.CALLER_WAIT
    if wait is None:
        wait, names = figures.greeting(answers, response), semconv.GREETING
    if wait is None:
        return
    attributes[names.ms] = _microseconds(wait.end - wait.start) / 1000
    put(attributes, names.error_ms, milliseconds(wait.error) or None)
    attributes[names.begin], attributes[names.begin_time] = wait.start_word, wait.start
    attributes[names.end], attributes[names.end_time] = wait.end_word, wait.end
    before = 0
    for part, length in wait.parts.items():
        # Each from its rounded begin to its rounded end, were they one after the other: so they add up to the wait.
        attributes[names.part_ms(part)] = (_microseconds(before + length) - _microseconds(before)) / 1000
        before += length
    attributes[names.pieces] = " ".join([_piece(piece, answers.session) for piece in wait.pieces])


def _microseconds(length: int) -> int:
    return round(length / _MICROSECOND)


def _piece(piece: Piece, session: Session) -> str:
    text = f"{piece.part}:{piece.length}"
    if piece.by:
        text += f":{session.span_id(piece.by).hex()}"
    return text + ":mcp" if piece.mcp else text


def _barge_in(broken_in: BargeIn | None) -> tuple[SpanEvent, ...]:
    if broken_in is None:
        return ()
    attributes: dict[str, AttributeValue] = {}
    if broken_in.heard_ms is not None and broken_in.heard_by is not None:
        attributes[semconv.AUDIO_ELAPSED_MS] = broken_in.heard_ms
        attributes[semconv.AUDIO_HEARD_BY] = broken_in.heard_by
    if broken_in.error_ms:
        attributes[semconv.AUDIO_HEARD_ERROR_MS] = broken_in.error_ms
    if broken_in.at_most:
        attributes[semconv.AUDIO_HEARD_AT_MOST] = True
    if broken_in.past_end:
        attributes[semconv.AUDIO_TRUNCATE_PAST_END] = True
    attributes[semconv.GRAFTER_BARGE_IN_BY] = broken_in.by
    return (SpanEvent(UnixNano(broken_in.at), semconv.BARGE_IN, tuple(attributes.items())),)
