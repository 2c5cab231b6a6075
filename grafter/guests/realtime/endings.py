"""When a record has become a span: nothing more can be expected of it, or there is no more room to wait.

A response is done long before its audio is heard, and may be interrupted until then; a transcript comes when it
likes; an MCP server's item is told after its call has ended. So each is held until what may still come has come, or
the next turn has ended a while ago, or is too late.
"""

from typing import TypeVar

from grafter.core.model import GuestSpan, UnixNano
from grafter.guests.realtime import spans
from grafter.guests.realtime.live.spans import utterance_span
from grafter.guests.realtime.records import MOST_OPEN, Call, Response, Speech, Utterance
from grafter.guests.realtime.session import Session

R = TypeVar("R", Response, Speech, Call, Utterance)

_SECOND = 1_000_000_000
_PLAYOUT = 60 * _SECOND
"""After a response is done: longer than answers on a phone are, and the end of what is waited for."""
_LATE = 30 * _SECOND
"""After a speech or a call has ended: transcripts and items come within a few seconds."""
_OVERTAKEN = 5 * _SECOND
"""After the next turn has ended: what says how much of an answer was heard comes on its way, over a network and in any
order, and the caller's \"stop\" may be over before it."""


def settled(session: Session, at: int, *, content: bool) -> list[GuestSpan]:
    """The spans of what has ended by now; it is forgotten, but for its ids."""
    found: list[GuestSpan] = []
    responses = [one for one in session.responses.values() if _response_over(one, at)]
    speeches = [one for one in session.speeches.values() if _speech_over(session, one, at)]
    calls = [one for one in session.calls.values() if _call_over(one, at)]
    for response in (*responses, *_oldest(session.responses)):
        _leave_response(session, response, found, content=content)
    for speech in (*speeches, *_oldest(session.speeches)):
        _leave_speech(session, speech, None, found, content=content)
    for call in (*calls, *_oldest(session.calls)):
        _leave_call(session, call, None, found, content=content)
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
    end = UnixNano(session.last_at)
    for response in list(session.responses.values()):
        _leave_response(session, response, found, content=content)
    for speech in list(session.speeches.values()):
        _leave_speech(session, speech, end, found, content=content)
    for call in list(session.calls.values()):
        _leave_call(session, call, end, found, content=content)
    for utterance in list(session.utterances.values()):
        _leave_utterance(session, utterance, found, content=content)
    if not session.closed:
        session.closed = True
        found.append(spans.session_span(session, by, content=content))
    return found


def _response_over(response: Response, at: int) -> bool:
    if response.done_at is None:
        return False
    heard = not response.speaks or response.played_at is not None or response.cut_by == "truncated"
    return heard or _overtaken(response, at) or at > response.done_at + _PLAYOUT


def _speech_over(session: Session, speech: Speech, at: int) -> bool:
    if speech.dropped_at is not None:
        return True
    end = speech.stopped_at if speech.stopped_at is not None else speech.committed_at
    if end is None:
        # A transcript alone: the rest is lost, or comes soon.
        return speech.transcription is not None and speech.started_at is None and at > speech.last_at + _LATE
    told = speech.transcription is not None or session.config.transcription == ""
    return told or _overtaken(speech, at) or at > end + _LATE


def _overtaken(record: Response | Speech, at: int) -> bool:
    return record.passed_at is not None and at > record.passed_at + _OVERTAKEN


def _call_over(call: Call, at: int) -> bool:
    if call.ended_at is None:
        return False
    if call.kind in ("function", "approval"):
        return call.started_at is not None or at > call.ended_at + _LATE
    return call.told or at > call.ended_at + _LATE


def _utterance_over(utterance: Utterance, at: int) -> bool:
    return at > utterance.last_at + _OVERTAKEN


def _leave_response(session: Session, response: Response, found: list[GuestSpan], *, content: bool) -> None:
    if session.responses.pop(response.id, None) is not None:
        session.turns += 1
        session.barge_ins += spans.interrupted(response)
        _leave(session, spans.response_span(session, response, content=content), found)


def _leave_speech(
    session: Session, speech: Speech, end: UnixNano | None, found: list[GuestSpan], *, content: bool
) -> None:
    if session.speeches.pop(speech.id, None) is not None:
        session.speeches_ended += 1
        _leave(session, spans.speech_span(session, speech, end, content=content), found)


def _leave_call(session: Session, call: Call, end: UnixNano | None, found: list[GuestSpan], *, content: bool) -> None:
    if session.calls.pop(call.id, None) is not None:
        _leave(session, spans.call_span(session, call, end, content=content), found)


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
