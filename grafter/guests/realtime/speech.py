"""What the caller does: speaks, falls silent, presses keys; and what was made of the speech.

The detector says that speech has ended only after it waited for silence, so the end of the speech is that much
earlier, where it is known how much.
"""

from collections.abc import Mapping

from grafter.core import semconv
from grafter.guests.json_values import count_of, mapping_of, text_of
from grafter.guests.realtime.notes import Note
from grafter.guests.realtime.records import Speech
from grafter.guests.realtime.session import Session, trim

_MOST_SILENT = 256
_MILLISECOND = 1_000_000
_JITTER = 1_000 * _MILLISECOND
"""That speech has begun is heard after it has, and on its own way over the network."""
_LONGEST_WAIT_MS = 60_000
"""Of a detector, where the beginning of the speech was not heard."""
SERVER_VAD = "server_vad"


def started(session: Session, note: Note, event: Mapping[str, object]) -> None:
    speech = session.speech(event.get("item_id"), note.at)
    if speech is None or speech.started_at is not None:
        return
    speech.started_at = note.at
    speech.start_ms = count_of(event.get("audio_start_ms"))
    for response in session.responses.values():
        begun = response.playing_at is not None or response.first_audio_at is not None
        if begun and response.played_at is None and response.cleared_at is None and response.spoken_over_at is None:
            response.spoken_over_at = note.at


def stopped(session: Session, note: Note, event: Mapping[str, object]) -> None:
    speech = session.speech(event.get("item_id"), note.at)
    if speech is None or speech.stopped_at is not None:
        return
    speech.stopped_at = note.at
    speech.end_ms = count_of(event.get("audio_end_ms"))
    if session.config.detection == SERVER_VAD:
        speech.silence_ms = _waited(speech, note.at, session.config.silence_ms)
    waiting = session.waiting
    waiting.speech, waiting.speech_at, waiting.speech_stopped_at = speech.id, note.at, note.at
    waiting.silence_ms = speech.silence_ms
    _pass(session, speech.id, speech.started_at or note.at, note.at)


def committed(session: Session, note: Note, event: Mapping[str, object]) -> None:
    """Without a detector (push to talk) this is all that is known of a speech."""
    asked_at, session.waiting.commit_at = session.waiting.commit_at, None
    speech = session.speech(event.get("item_id"), note.at)
    if speech is None or speech.committed_at is not None:
        return
    speech.committed_at = note.at
    if speech.stopped_at is None:
        waiting = session.waiting
        waiting.speech, waiting.speech_stopped_at, waiting.silence_ms = speech.id, None, None
        waiting.speech_at = note.at if asked_at is None else asked_at
        _pass(session, speech.id, note.at if speech.started_at is None else speech.started_at, note.at)


def commit(session: Session, note: Note, event: Mapping[str, object]) -> None:
    session.waiting.commit_at = note.at


def cleared(session: Session, note: Note, event: Mapping[str, object]) -> None:
    for speech in session.speeches.values():
        if speech.started_at is not None and speech.stopped_at is None and speech.committed_at is None:
            speech.dropped_at = note.at if speech.dropped_at is None else speech.dropped_at


def timeout(session: Session, note: Note, event: Mapping[str, object]) -> None:
    """Nobody spoke for so long that the model is asked to go on: no speech, though the buffer becomes an item."""
    session.waiting.idle_at = note.at
    session.idle_timeouts += 1
    session.happened(
        note.at,
        semconv.EVENT_IDLE_TIMEOUT,
        {key: count_of(event.get(key)) for key in ("audio_start_ms", "audio_end_ms")},
    )
    item = text_of(event.get("item_id"))
    if item is None:
        return
    known = session.speeches.get(item)
    if known is not None and known.started_at is None:
        del session.speeches[item]
        known = None
    if known is None and session.span_id(item) not in session.sent:
        session.silent[item] = None
        trim(session.silent, _MOST_SILENT)


def transcribed(session: Session, note: Note, event: Mapping[str, object]) -> None:
    speech = session.speech(event.get("item_id"), note.at)
    if speech is not None and speech.transcription is None:
        speech.transcription = "completed"
        speech.transcript = text_of(event.get("transcript"))
        speech.usage = dict(mapping_of(event.get("usage")))


def not_transcribed(session: Session, note: Note, event: Mapping[str, object]) -> None:
    speech = session.speech(event.get("item_id"), note.at)
    if speech is not None and speech.transcription is None:
        speech.transcription = "failed"
        speech.error = dict(mapping_of(event.get("error")))


def key_pressed(session: Session, note: Note, event: Mapping[str, object]) -> None:
    """A digit on the phone's keypad. Which one is content: it may belong to a PIN."""
    session.keys_pressed += 1
    session.happened(note.at, semconv.EVENT_DTMF, {"digit": text_of(event.get("event"))})


def _waited(speech: Speech, stopped_at: int, silence_ms: int | None) -> int | None:
    """The silence that the detector waited; None where it cannot have: the speech would have ended before it began."""
    longest = _LONGEST_WAIT_MS
    if speech.started_at is not None:
        longest = (stopped_at - speech.started_at + _JITTER) // _MILLISECOND
    return silence_ms if silence_ms is not None and silence_ms <= longest else None


def _pass(session: Session, speech: str, began: int, at: int) -> None:
    """A speech has ended: what was said before it is over."""
    for response in session.responses.values():
        if response.done_at is not None and response.first_at <= began and response.passed_at is None:
            response.passed_at = at
    for other in session.speeches.values():
        ended = other.stopped_at is not None or other.committed_at is not None
        if other.id != speech and ended and other.passed_at is None:
            other.passed_at = at
