"""What was said in a Live session, as spans: ``user_speech`` and ``assistant_speech``, on the listener's clock.

Figures between two moments of the session are of its own time and exact; what they are on the clock is as good as
the session's beginning is known (``talking``).
"""

from grafter.core import semconv
from grafter.core.model import GuestSpan
from grafter.core.policy import MILLISECOND
from grafter.guests.attributes import Json
from grafter.guests.json_values import MAX_TIME
from grafter.guests.messages import text_message
from grafter.guests.realtime.live.talking import answered
from grafter.guests.realtime.records import SESSION, Utterance
from grafter.guests.realtime.session import Session
from grafter.guests.realtime.session_spans import Attributes, identify, put, span_of

TRANSLATION = "translation"
INPUT_TRANSCRIPT = "input_transcript"
OUTPUT_TRANSCRIPT = "output_transcript"


def utterance_span(session: Session, utterance: Utterance, *, content: bool) -> GuestSpan:
    """A run of fragments, from where the first begins to where the last ends."""
    begun = session.live.begun_at if utterance.begun_at is None else utterance.begun_at
    if begun is None:
        # Nothing else dates the session's time: as if this had come when it was begun to be spoken.
        begun = max(utterance.first_at - utterance.start_ms * MILLISECOND, 0)
    start, end = (min(begun + at * MILLISECOND, MAX_TIME) for at in (utterance.start_ms, utterance.end_ms))
    attributes: Attributes = {}
    identify(attributes, session, utterance.id)
    put(attributes, semconv.SPEECH_AUDIO_START_MS, utterance.start_ms)
    put(attributes, semconv.SPEECH_AUDIO_END_MS, utterance.end_ms)
    if utterance.user:
        put(attributes, semconv.SPEECH_END_TIME, end)
        role, key = "user", semconv.GEN_AI_INPUT_MESSAGES
    else:
        _latency(attributes, session, utterance, begun)
        role, key = "assistant", semconv.GEN_AI_OUTPUT_MESSAGES
    if content and utterance.text:
        attributes[key] = Json([text_message(role, utterance.text)])
    return span_of(session, utterance.id, SESSION, f"{role}_speech", (start, max(start, end)), attributes)


def _latency(attributes: Attributes, session: Session, utterance: Utterance, begun: int) -> None:
    put(attributes, semconv.TURN_FIRST_AUDIO_TIME, begun + utterance.start_ms * MILLISECOND)
    put(attributes, semconv.TURN_FIRST_AUDIO_AT, OUTPUT_TRANSCRIPT)
    put(attributes, semconv.TURN_AUDIO_ENDED_TIME, begun + utterance.end_ms * MILLISECOND)
    question = answered(session, utterance)
    # Who translates does not wait for the end, so that nothing is an answer.
    waits = session.config.kind != TRANSLATION
    if question is not None and waits and not _slept(session, begun, question[1], utterance.start_ms):
        name, ended_ms = question
        put(attributes, semconv.TURN_FIRST_AUDIO_MS, float(utterance.start_ms - ended_ms))
        put(attributes, semconv.TURN_MEASURED_FROM, INPUT_TRANSCRIPT)
        put(attributes, semconv.TURN_MEASURED_FROM_TIME, begun + ended_ms * MILLISECOND)
        put(attributes, semconv.TURN_SPEECH_ITEM, name)
        put(attributes, semconv.TURN_SPEECH_END_TIME, begun + ended_ms * MILLISECOND)


def _slept(session: Session, begun: int, since_ms: int, until_ms: int) -> bool:
    """The session was paused in between, so that what lies between is nobody's time."""
    since, until = (begun + at * MILLISECOND for at in (since_ms, until_ms))
    for pause in session.live.pauses:
        match pause:
            case [int(paused), int() | None as resumed] if paused < until and (resumed is None or resumed > since):
                return True
    return False
