"""When a record has become a span: nothing more can be expected of it, or there is no more room to wait.

A response is done long before its audio is heard, and may be interrupted until then; a transcript comes when it
likes; an MCP server's item follows after its call has ended; and posts may overtake each other. So each is held until
what may still come has come, and a little longer, for what leaves cannot be put right.
"""

from typing import TypeVar

from grafter.core.model import GuestSpan
from grafter.guests.realtime import figures, heard_audio, response_spans, session_spans, tools, unanswered
from grafter.guests.realtime.live.utterance_spans import utterance_span
from grafter.guests.realtime.records import MOST_OPEN, MOST_SPANS, Call, Response, Speech, Utterance
from grafter.guests.realtime.session import Session

R = TypeVar("R", Response, Speech, Call, Utterance)

_SECOND = 1_000_000_000
_MILLISECOND = 1_000_000
_PLAYOUT = 60 * _SECOND
"""After a response is done, where it is not known how long its audio plays: longer than answers on a phone are."""
_LONGEST_PLAYOUT = 600 * _SECOND
"""The same where OpenAI plays it and has not said yet that it has ended."""
_LATE = 30 * _SECOND
"""After a speech or a call has ended: transcripts and items come within a few seconds."""
_GRACE = 5 * _SECOND
"""What is over may still be spoken of: by an event on its way over a network, in a post that was overtaken."""


def settled(session: Session, at: int, *, content: bool) -> list[GuestSpan]:
    """The spans of what has ended by now; it is forgotten, but for its ids."""
    found: list[GuestSpan] = []
    responses = [one for one in session.responses.values() if _response_over(session, one, at)]
    speeches = [one for one in session.speeches.values() if _speech_over(session, one, at)]
    calls = [one for one in session.calls.values() if _call_over(one, at)]
    for response in (*responses, *_oldest(session.responses)):
        _leave_response(session, response, found, content=content)
    for speech in (*speeches, *_oldest(session.speeches)):
        _leave_speech(session, speech, found, content=content)
    for call in (*calls, *_oldest(session.calls)):
        _leave_call(session, call, found, content=content)
    utterances = [one for one in session.utterances.values() if _utterance_over(one, at)]
    for utterance in (*utterances, *_oldest(session.utterances)):
        _leave_utterance(session, utterance, found, content=content)
    return found


def _oldest(records: dict[str, R]) -> list[R]:
    """Those that are too many to stay open."""
    return list(records.values())[: max(0, len(records) - MOST_OPEN)]


def crowded(session: Session) -> bool:
    """More is open than may be."""
    return max(len(records) for records in session.open) > MOST_OPEN


def closed(session: Session, by: str, *, content: bool) -> list[GuestSpan]:
    """The spans of all that is open, and of the session itself, once."""
    found: list[GuestSpan] = []
    for response in list(session.responses.values()):
        _leave_response(session, response, found, content=content)
    for speech in list(session.speeches.values()):
        _leave_speech(session, speech, found, content=content)
    for call in list(session.calls.values()):
        _leave_call(session, call, found, content=content)
    for utterance in list(session.utterances.values()):
        _leave_utterance(session, utterance, found, content=content)
    if not session.closed:
        session.closed = True
        found.append(session_spans.session_span(session, by, unanswered.stated(session, by), content=content))
    return found


def _response_over(session: Session, response: Response, at: int) -> bool:
    if response.done_at is None:
        return False
    return at > max(response.done_at, _playback_end(session, response)) + _GRACE


def _playback_end(session: Session, response: Response) -> int:
    """Until when its audio may still be cut."""
    done, heard = response.done_at or 0, figures.heard_at(session, response)
    if not response.speaks or response.status == "cancelled":
        return done
    for end in (response.played_at, response.cleared_at):
        if end is not None:
            return end
    if response.truncations:
        return done
    others = [one for one in session.every_response if one.id != response.id]
    if heard is None or heard[1] != "delta":
        began = response.first_at if heard is None else heard[0]
        later = [one.playing_at for one in others if one.playing_at is not None and one.playing_at > began]
        return min([*later, done + (_LONGEST_PLAYOUT if heard else _PLAYOUT)])
    length = heard_audio.received_ms(session, response)
    if length is not None:
        return heard[0] + length * _MILLISECOND
    later = [one.first_audio_at for one in others if one.first_audio_at is not None and one.first_audio_at > done]
    return min([*later, done + _PLAYOUT])


def _speech_over(session: Session, speech: Speech, at: int) -> bool:
    if speech.dropped_at is not None:
        return at > speech.dropped_at + _GRACE
    end = speech.stopped_at if speech.stopped_at is not None else speech.committed_at
    if end is None:
        if at <= speech.last_at + _LATE:
            return False
        # A transcript alone: the rest is lost, or comes soon. A caller has one mouth: who begins again had stopped.
        silent = speech.transcription is not None and speech.started_at is None
        again = any((one.started_at or 0) > (speech.started_at or speech.first_at) for one in session.every_speech)
        return silent or again
    whole = speech.transcription is not None or session.config.transcription == ""
    return at > end + (_GRACE if whole else _LATE)


def _call_over(call: Call, at: int) -> bool:
    if call.ended_at is None:
        return call.whole is False and at > call.last_at + _LATE
    if call.kind in ("function", "approval"):
        return at > call.ended_at + (_GRACE if call.started_at is not None else _LATE)
    return at > call.ended_at + (_GRACE if call.complete else _LATE)


def _utterance_over(utterance: Utterance, at: int) -> bool:
    return at > utterance.last_at + _GRACE


def _leave_response(session: Session, response: Response, found: list[GuestSpan], *, content: bool) -> None:
    if response.id not in session.responses:
        return
    session.turns += 1
    session.barge_ins += heard_audio.barge_in(session, response) is not None
    _leave(session, response_spans.response_span(session, response, content=content), found)
    audio = response_spans.audio_span(session, response)
    if audio is not None and len(session.sent) + sum(map(len, session.open)) <= MOST_SPANS:
        _leave(session, audio, found)
    del session.responses[response.id]
    session.remember(response)


def _leave_speech(session: Session, speech: Speech, found: list[GuestSpan], *, content: bool) -> None:
    if session.speeches.pop(speech.id, None) is not None:
        session.speeches_ended += 1
        _leave(session, session_spans.speech_span(session, speech, content=content), found)
        session.remember(speech)


def _leave_call(session: Session, call: Call, found: list[GuestSpan], *, content: bool) -> None:
    if session.calls.pop(call.id, None) is not None:
        if tools.ran(call):
            _leave(session, session_spans.call_span(session, call, content=content), found)
        session.remember(call)


def _leave_utterance(session: Session, utterance: Utterance, found: list[GuestSpan], *, content: bool) -> None:
    if session.utterances.pop(utterance.id, None) is not None:
        session.speeches_ended += utterance.user
        span = utterance_span(session, utterance, content=content)
        # What was said before anybody listened was said in this session.
        session.first_at = min(session.first_at, span.start)
        _leave(session, span, found)


def _leave(session: Session, span: GuestSpan, found: list[GuestSpan]) -> None:
    session.sent[span.span_id] = None
    found.append(span)
