"""What the caller does: speaks, falls silent, presses keys; and what the server made of the speech.

The detector says that speech has ended only after it waited for silence, so the end of the speech is that much
earlier, where it is known how much.
"""

from collections.abc import Mapping

from grafter.core import semconv
from grafter.core.policy import MILLISECOND
from grafter.guests.json_values import count_of, mapping_of, text_of
from grafter.guests.realtime import requests
from grafter.guests.realtime.records import Speech
from grafter.guests.realtime.session import Session, trim
from grafter.guests.realtime.stored_event import StoredEvent

_MOST_SILENT = 256
_MOST_IDLE = 8
_OVERTAKEN = 5_000_000_000
# A day: no session lasts so long, so a position behind it is no place in its audio and sets no clock.
_LONGEST_AUDIO_MS = 24 * 3_600_000
_JITTER = 1_000 * MILLISECOND
"""That speech has begun is heard after it has, and on its own way over the network."""
_LONGEST_DELAY = 250 * MILLISECOND
"""Of one event over another; what is more is a pause in the audio that was sent, and bounds nothing."""
_LONGEST_WAIT_MS = 60_000
"""Of a detector, where the beginning of the speech was not heard."""
SERVER_VAD = "server_vad"


def appended(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """Audio of the caller. Only where the client decides what is speech does its beginning say anything."""
    first = session.input.appended_at
    if stored.event.get("untimed") is not True:
        session.input.appended_at = stored.at if first is None else min(first, stored.at)
    elif first is None or stored.at < first:
        session.input.odd = True


def started(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    speech = session.speech(event.get("item_id"), stored)
    if speech is None or speech.started_at is not None:
        return
    speech.started_at, speech.odd_start = stored.at, event.get("untimed") is True
    speech.start_ms = count_of(event.get("audio_start_ms"))


def stopped(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """Servers that are only compatible say it more than once: the last that comes later in the audio stands."""
    known = session.speeches.get(str(event.get("item_id")))
    odd_before = known is not None and known.odd
    speech = session.speech(event.get("item_id"), stored)
    end_ms = count_of(event.get("audio_end_ms"))
    if speech is None:
        return
    # Whether its time is known is asked of the stop that stands, not of one that another has replaced.
    speech.odd = odd_before
    if speech.stopped_at is not None and (end_ms is None or end_ms <= (speech.end_ms or 0)):
        return
    speech.stopped_at, speech.end_ms, speech.odd_stop = stored.at, end_ms, event.get("untimed") is True
    speech.late = 0 if end_ms is None or speech.odd_stop else _late(session, stored.at, end_ms)
    _judge(session, speech)


def _late(session: Session, at: int, end_ms: int) -> int:
    """How much longer the detector's word was on its way than the quickest so far, by the clock of the audio."""
    if end_ms > _LONGEST_AUDIO_MS:
        return 0
    began, quickest = at - end_ms * MILLISECOND, session.input.clock_at
    late = 0 if quickest is None else began - quickest
    if quickest is None or not 0 <= late <= _LONGEST_DELAY:
        session.input.clock_at = began
        return 0
    return late if late >= MILLISECOND else 0


def committed(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """Without a detector (push to talk) this and the client's part are all that is known of a speech."""
    request = requests.answered(session, requests.COMMIT)
    known = session.speeches.get(str(event.get("item_id")))
    if known is not None and known.committed_at is not None and event.get("untimed") is True:
        return
    speech = session.speech(event.get("item_id"), stored)
    if speech is not None and _ends_anew(speech):
        speech.committed_at = stored.at
        if speech.stopped_at is None:
            speech.automatic = session.config.creates
        if speech.started_at is None and speech.stopped_at is None and request is not None and not request.odd:
            speech.commit_at, speech.appended_at = request.at, request.begun_at
    if request is None:
        _emptied(session)


def _ends_anew(speech: Speech) -> bool:
    """An item is committed once; a server that is only compatible may do so again after it has gone on listening."""
    before = speech.committed_at
    return before is None or (speech.stopped_at is not None and speech.stopped_at > before)


def configured(session: Session) -> None:
    """What detects a speech is known now; it held for those that were heard before, for nobody had set another."""
    for speech in session.every_speech:
        if speech.automatic is None and speech.stopped_at is not None:
            _judge(session, speech)


def _judge(session: Session, speech: Speech) -> None:
    """Read off the session's settings what they make of a speech that has ended."""
    speech.automatic = session.config.creates
    if session.config.detection == SERVER_VAD and speech.stopped_at is not None:
        speech.silence_ms = _waited(speech, speech.stopped_at, session.config.silence_ms)


def commit(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    begun = session.input.begun_at
    begun = begun if begun is not None and begun <= stored.at else None
    _emptied(session)
    request = requests.record_request(session, stored, requests.COMMIT, begun_at=begun)
    for speech in session.speeches.values():
        # Its post was overtaken by that of the server's answer.
        since = None if speech.committed_at is None else speech.committed_at - stored.at
        heard = speech.started_at is not None or speech.stopped_at is not None
        if since is not None and 0 <= since <= _OVERTAKEN and speech.commit_at is None and not (heard or request.odd):
            request.answered, speech.commit_at, speech.appended_at = True, stored.at, begun
            return


def _emptied(session: Session) -> None:
    session.input.appended_at, session.input.odd = None, False


def clear(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """The client empties the buffer, as it does when a button is pressed.

    The server takes its events in their order: what it appends from now on stays, though it is only later that the
    server says that it has emptied the buffer."""
    if session.input.cleared_at is not None and stored.at <= session.input.cleared_at <= stored.at + _OVERTAKEN:
        # Its post was overtaken by that of the server's answer.
        return
    session.input.clears += 1
    if session.input.appended_at is None or session.input.appended_at <= stored.at:
        _emptied(session)


def cleared(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    if session.input.clears:
        session.input.clears -= 1
    else:
        _emptied(session)
    session.input.cleared_at = max(session.input.cleared_at or 0, stored.at)
    for speech in session.speeches.values():
        if speech.started_at is not None and speech.stopped_at is None and speech.committed_at is None:
            speech.dropped_at = stored.at if speech.dropped_at is None else speech.dropped_at


def timeout(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """Nobody spoke for so long that the model is asked to go on: no speech, though the buffer becomes an item."""
    if event.get("untimed") is True:
        session.idle_untimed = [*session.idle_untimed, stored.at][-_MOST_IDLE:]
    else:
        session.idle = [*session.idle, stored.at][-_MOST_IDLE:]
    session.idle_timeouts += 1
    session.happened(
        stored.at,
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


def transcribed(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """The last one that says anything stands. When it came says nothing of the speech."""
    speech = session.speeches.get(str(event.get("item_id"))) or session.speech(event.get("item_id"), stored)
    if speech is not None:
        speech.transcription = "completed"
        speech.transcript = text_of(event.get("transcript")) or speech.transcript
        speech.usage = dict(mapping_of(event.get("usage"))) or speech.usage


def not_transcribed(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    speech = session.speech(event.get("item_id"), stored)
    if speech is not None and speech.transcription is None:
        speech.transcription = "failed"
        speech.error = dict(mapping_of(event.get("error")))


def key_pressed(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """A digit on the phone's keypad. Which one is content: it may belong to a PIN."""
    session.keys_pressed += 1
    session.happened(stored.at, semconv.EVENT_DTMF, {"digit": text_of(event.get("event"))})


def _waited(speech: Speech, stopped_at: int, silence_ms: int | None) -> int | None:
    """The silence that the detector waited; None where it cannot have: the speech would have ended before it began."""
    longest = _LONGEST_WAIT_MS
    if speech.started_at is not None:
        longest = (stopped_at - speech.started_at + _JITTER) // MILLISECOND
        if speech.start_ms is not None and speech.end_ms is not None and speech.end_ms - speech.start_ms > longest:
            # The audio was sent faster than it is spoken, so a length of it is no length of time.
            return None
    return silence_ms if silence_ms is not None and silence_ms <= longest else None
