"""When a record has become a span: nothing more can be expected of it, or there is no more room to wait.

A response is done long before its audio is heard, and may be interrupted until then; a transcript comes when it
likes; an MCP server's item follows after its call has ended; and posts may overtake each other. So each is held until
what may still come has come, and a little longer, for what leaves cannot be put right.
"""

from collections.abc import Iterable

from grafter.core.model import GuestSpan
from grafter.core.policy import MILLISECOND, SECOND
from grafter.guests.realtime import figures, heard_audio, response_spans, session_spans, tools, unanswered
from grafter.guests.realtime.live.utterance_spans import utterance_span
from grafter.guests.realtime.records import MOST_OPEN, MOST_SPANS, Call, Record, Response, Speech, Utterance
from grafter.guests.realtime.session import Session

_PLAYOUT = 60 * SECOND
"""After a response is done, where it is not known how long its audio plays: longer than answers on a phone are."""
_LONGEST_PLAYOUT = 600 * SECOND
"""The same where OpenAI plays it and has not said yet that it has ended."""
_LATE = 30 * SECOND
"""After a speech or a call has ended: transcripts and items come within a few seconds."""
_GRACE = 5 * SECOND
"""What is over may still be spoken of: by an event on its way over a network, in a post that was overtaken."""


def settled(session: Session, at: int, *, content: bool) -> list[GuestSpan]:
    """The spans of what has ended by now; it is forgotten, but for its ids."""
    leaving: dict[str, Record] = {}
    for records in session.open:
        leaving |= {one.id: one for one in records.values() if _is_over(session, one, at)}
        # Those that are too many to stay open.
        leaving |= {one.id: one for one in list(records.values())[: max(0, len(records) - MOST_OPEN)]}
    return _left(session, leaving.values(), content=content)


def crowded(session: Session) -> bool:
    """More is open than may be."""
    return max(len(records) for records in session.open) > MOST_OPEN


def closed(session: Session, by: str, *, content: bool) -> list[GuestSpan]:
    """The spans of all that is open, and of the session itself, once."""
    found = _left(session, [one for records in session.open for one in records.values()], content=content)
    if not session.closed:
        session.closed = True
        found.append(session_spans.session_span(session, by, unanswered.stated(session, by), content=content))
    return found


def _is_over(session: Session, record: Record, at: int) -> bool:
    match record:
        case Response():
            done = record.done_at
            return done is not None and at > max(done, _playback_end(session, record)) + _GRACE
        case Speech():
            return _speech_over(session, record, at)
        case Call():
            return _call_over(record, at)
        case Utterance():
            return at > record.last_at + _GRACE


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
        return heard[0] + length * MILLISECOND
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


def _left(session: Session, records: Iterable[Record], *, content: bool) -> list[GuestSpan]:
    """The spans of open records, which are open no longer."""
    found: list[GuestSpan] = []
    for record in records:
        spans = _spans(session, record, content=content)
        session.sent |= dict.fromkeys(span.span_id for span in spans)
        session.leave(record)
        found += spans
    return found


def _spans(session: Session, record: Record, *, content: bool) -> list[GuestSpan]:
    """What a record becomes, counted."""
    match record:
        case Response():
            session.turns += 1
            session.barge_ins += heard_audio.barge_in(session, record) is not None
            span = response_spans.response_span(session, record, content=content)
            audio = response_spans.audio_span(session, record)
            room = len(session.sent) + sum(map(len, session.open)) < MOST_SPANS
            return [span] if audio is None or not room else [span, audio]
        case Speech():
            session.speeches_ended += 1
            return [session_spans.speech_span(session, record, content=content)]
        case Call():
            return [session_spans.call_span(session, record, content=content)] if tools.ran(record) else []
        case Utterance():
            session.speeches_ended += record.user
            span = utterance_span(session, record, content=content)
            # What was said before anybody listened was said in this session.
            session.first_at = min(session.first_at, span.start)
            return [span]
