"""A caller who was still waiting when the call ended: how long at least, by what was heard and what was not.

It is no wait, for no answer ended it, and no sum of waits has it. Nor does any event say who hung up.
"""

from collections.abc import Iterable, Sequence

from grafter.core import semconv
from grafter.core.policy import MILLISECOND
from grafter.core.turn_words import waited_in_vain
from grafter.guests.realtime import figures, heard_audio, requests
from grafter.guests.realtime.records import LIVE, Response, Speech
from grafter.guests.realtime.session import Session
from grafter.guests.realtime.session_spans import Attributes, milliseconds, put

_CALL_IS_OVER = ("close", "posted")
"""What a session was ended by where its last moment is the call's: a lost socket, a silence or the session's own limit
says nothing of the caller."""


def stated(session: Session, by: str) -> Attributes:
    """What the session's span says of it: from the end of the caller's last speech to the last moment of the call.

    Nothing where something was heard since, where no answer was due, or where either moment is not known. ``by``: what
    the session was ended by.
    """
    speech = _last(list(session.every_speech), session.every_response)
    if by not in _CALL_IS_OVER or session.config.kind == LIVE or session.odd or speech is None:
        return {}
    fell_silent, error = figures.speech_end(speech), figures.speech_end_error(speech)
    if fell_silent is None or speech.unreliable or error >= session.until - fell_silent[0]:
        return {}
    since, length = fell_silent[0], session.until - fell_silent[0]
    if session.deaf_until > since or _speaks_elsewhere(session) or _holds_the_button(session, speech):
        return {}
    if _heard_until(session) > since or not _is_due(session, speech):
        return {}
    names = semconv.UNANSWERED
    attributes: Attributes = {names.ms: milliseconds(length)}
    put(attributes, names.error_ms, milliseconds(error) or None)
    attributes[names.begin], attributes[names.begin_time] = fell_silent[1], since
    attributes[names.end_time] = session.until
    attributes[names.sentence] = waited_in_vain(length)
    return attributes


def _last(speeches: Sequence[Speech], responses: Iterable[Response]) -> Speech | None:
    """The last that was said, where that is over: one who is still speaking waits for nothing.

    None where the last that was heard was thrown away: whether it was noise, or words after which the wait began anew,
    nobody knows.
    """
    last = max(speeches, key=lambda one: max(one.started_at or 0, one.committed_at or 0, _over(one)), default=None)
    if last is None or last.dropped_at is not None or not _over(last):
        return None
    if last.committed_at is not None:
        return last
    if any(one.committed_at is not None for one in speeches):
        return None
    # Servers that are only compatible may not say that they commit; that they answer says it too.
    return last if any((one.created_at or 0) >= _over(last) and not one.aside for one in responses) else None


def _over(speech: Speech) -> int:
    return speech.stopped_at or speech.commit_at or 0


def _is_due(session: Session, speech: Speech) -> bool:
    """OpenAI answers the speech by itself, has begun to, or was asked to."""
    over = _over(speech)
    if speech.automatic is True:
        return True
    if any((one.created_at or 0) >= over and not one.aside for one in session.every_response):
        return True
    asked = [one for one in session.requests if one.kind == requests.CREATE and one.at >= over]
    return any(not (one.refused or one.doubtful or one.odd or one.aside) for one in asked)


def _holds_the_button(session: Session, speech: Speech) -> bool:
    """Of push to talk: the client has begun on the next speech, by its audio or by emptying the buffer for it, or has
    committed one of which the server had no time to speak."""
    if speech.commit_at is None or speech.stopped_at is not None:
        return False
    begun = [session.input.appended_at or 0, session.input.cleared_at or 0]
    begun += [one.at for one in session.requests if one.kind == requests.COMMIT and not (one.answered or one.refused)]
    return max(begun) > speech.commit_at


def _speaks_elsewhere(session: Session) -> bool:
    """OpenAI gives it no audio: what its caller hears the app speaks itself, and no event says when."""
    return bool(session.config.modalities) and "audio" not in session.config.modalities


def _heard_until(session: Session) -> int:
    """Until when any of the audio may have been heard, the end of the call where nobody knows; 0 where none was."""
    found, queued = 0, 0
    for one in sorted(session.every_response, key=lambda one: (one.first_audio_at or one.first_at, one.id)):
        heard = figures.heard_at(session, one)
        if heard is None and not _may_be_heard(session, one):
            continue
        stopped, length = _stopped(one), heard_audio.received_ms(session, one)
        if stopped is not None:
            until = stopped
        elif heard is None or length is None:
            until = _next_played(session, one)
        else:
            # An app plays one answer after another, however early the next one comes.
            until = max(heard[0], queued) + length * MILLISECOND
            until = max(until, one.last_audio_at or 0)
        queued = until
        found = max(found, until)
    return found


def _may_be_heard(session: Session, response: Response) -> bool:
    """Of one without a sound that was seen: nobody knows that nothing of it was heard."""
    if response.speaks or response.aside:
        return response.speaks
    if response.has_words or response.in_text:
        return True
    seen = response.id in session.items.values() or any(one.response == response.id for one in session.every_call)
    return response.status in ("completed", "incomplete") and not seen


def _stopped(response: Response) -> int | None:
    """When its audio stopped, by the server's word."""
    stopped = [at for at in (response.played_at, response.cleared_at) if at is not None]
    if response.status == "cancelled" and response.reason == "turn_detected" and response.done_at is not None:
        # One that an app takes back by itself comes no further; what has come of it plays on.
        stopped.append(response.done_at)
    # What came after it was cut may have been played all the same.
    stopped += [at for at in heard_audio.cut_at(response) if at >= (response.last_audio_at or 0)]
    return min(stopped, default=None)


def _next_played(session: Session, response: Response) -> int:
    """OpenAI plays one answer after another: when it began the next one, which no app says of its own player."""
    began = response.playing_at or response.first_at
    later = [one.playing_at for one in session.every_response if one.playing_at is not None]
    return min((at for at in later if at > began), default=session.until)
