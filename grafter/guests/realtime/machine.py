"""The state machine: notes of one call in, spans of what has ended out.

Everything it knows is JSON (``state``), so that it goes on exactly where it was in another process. It reads no
clock: time is what notes say. Nothing in a note can make it fail or grow without end; what cannot be placed is
counted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from grafter.core.model import GuestSpan, UnixNano
from grafter.guests.json_values import MAX_TIME, canonical, list_of, mapping_of, text_of
from grafter.guests.realtime import configuring, endings, responses, speech, tools
from grafter.guests.realtime import session as sessions
from grafter.guests.realtime.live import allowed as live
from grafter.guests.realtime.live import events as live_events
from grafter.guests.realtime.live.talking import ended_by
from grafter.guests.realtime.notes import ALIVE, ENDED, METADATA, SIP, STARTED, Note, Side
from grafter.guests.realtime.records import LIVE
from grafter.guests.realtime.seen import Seen
from grafter.guests.realtime.session import Session

MOST_SESSIONS = 32
"""Of one call; a call that rolls over every hour has one a day's working hour."""
_EXPIRY = 5_000_000_000
"""How near to a session's expiry its last event must be to have been ended by it."""
_FAREWELL = 600_000_000_000
"""How long a line may be silent before somebody hangs up."""
_LONGEST_BY = 32


@dataclass(frozen=True, slots=True)
class Ended:
    """A span, and the guest trace that it belongs to."""

    guest: str
    span: GuestSpan


Handler = Callable[[Session, Note, Mapping[str, object]], None]


class Machine:
    """One call, under the key that its sender chose."""

    def __init__(self, call: str, *, content: bool = False) -> None:
        """``content``: whether what was said may stand on spans, where it is in the notes."""
        self.call = call
        self._content = content
        self._sessions: list[Session] = []
        self._current = 0
        self._seen = Seen()
        self._ended_by: str | None = None

    @property
    def sessions(self) -> Sequence[Session]:
        """In order of their beginning; the first is the call's own guest."""
        return self._sessions

    @property
    def ended(self) -> bool:
        """Somebody said that no more will come: of the call, or of a Live session that no other has followed."""
        closed = bool(self._sessions) and self._sessions[self._current].live.closed_at is not None
        return self._ended_by is not None or closed

    def feed(self, note: Note) -> list[Ended]:
        """Take one note; the spans of what it ended. A note that was taken already changes nothing.

        Notes are expected in order of their times; one that comes late is taken for what it still can say.
        """
        kind = note.event.get("type")
        if not isinstance(kind, str):
            return []
        if not self._seen.add(_identity(note, kind)):
            return []
        at = note.at
        if not 0 <= at <= MAX_TIME or note.last > MAX_TIME:
            at = UnixNano(min(max(at, 0), MAX_TIME))
            note = replace(note, at=at, last=UnixNano(min(note.last, MAX_TIME)))
        if note.side is Side.GRAFTER:
            return self._own(note, kind)
        session = self._session(note, kind)
        self._lived(session, at, max(at, note.last))
        handler = HANDLERS.get(kind)
        if handler is None:
            session.count_unknown(kind)
            return []
        if (kind in _CLIENTS) is not (note.side is Side.CLIENT) and kind not in _EITHER:
            session.misplaced += 1
        if kind in live_events.HANDLERS:
            session.config.kind = session.config.kind or LIVE
        handler(session, note, note.event)
        if kind in _SILENT and not endings.crowded(session):
            return []
        return self._told(session, endings.settled(session, at, content=self._content))

    def close(self) -> list[Ended]:
        """No more will come: what is still open ends, and the sessions with it. Once is enough; more does no harm."""
        found: list[Ended] = []
        for session in self._sessions:
            found += self._told(session, endings.closed(session, self._by(session), content=self._content))
        return found

    def state(self) -> dict[str, object]:
        """All that it knows, as JSON."""
        return {
            "sessions": [session.state() for session in self._sessions],
            "current": self._current,
            "seen": self._seen.state(),
            "ended_by": self._ended_by,
            "ended": self.ended,
        }

    @classmethod
    def restored(cls, call: str, state: object, *, content: bool = False) -> "Machine":
        """The machine that ``state`` wrote; a new one from anything else."""
        machine = cls(call, content=content)
        told = mapping_of(state)
        found = [sessions.restored(mapping_of(one)) for one in list_of(told.get("sessions"))]
        machine._sessions = [session for session in found if session is not None][:MOST_SESSIONS]
        current = told.get("current")
        if isinstance(current, int) and 0 <= current < len(machine._sessions):
            machine._current = current
        machine._seen = Seen.restored(told.get("seen"))
        machine._ended_by = text_of(told.get("ended_by"))
        return machine

    def _told(self, session: Session, spans: list[GuestSpan]) -> list[Ended]:
        return [Ended(session.guest, span) for span in spans]

    def _own(self, note: Note, kind: str) -> list[Ended]:
        """A note of grafter's own."""
        if kind == ENDED:
            by = text_of(note.event.get("by")) or "posted"
            self._ended_by = self._ended_by or by[:_LONGEST_BY]
        session = self._sessions[self._current] if self._sessions else None
        if session is None or kind in (METADATA, SIP, STARTED):
            return []
        # Silence and a lost socket are noticed long after the last that was heard; and what arrives so long after it
        # without a time of its own is the end of a recording.
        late = note.event.get("untimed") is True and note.at > session.last_at + _FAREWELL
        if kind == ALIVE or not (late or note.event.get("by") in ("silence", "disconnect")):
            self._lived(session, note.at, note.at)
        return self._told(session, endings.settled(session, note.at, content=self._content))

    def _lived(self, session: Session, at: int, last: int) -> None:
        session.first_at = min(session.first_at, at)
        session.last_at = max(session.last_at, last)

    def _by(self, session: Session) -> str:
        if session.live.closed_at is not None:
            return ended_by(session.live.closed_by)
        expires = session.config.expires_at
        if session.expired or (expires is not None and session.last_at >= expires * 1_000_000_000 - _EXPIRY):
            return "expired"
        if session.followed:
            return "next_session"
        return self._ended_by or "disconnect"

    def _session(self, note: Note, kind: str) -> Session:
        """The session that an event is of: the one that knows what it names, else the newest."""
        if not self._sessions:
            self._begin(note, self.call)
        current = self._sessions[self._current]
        if kind in _NAMING:
            return self._named(note, current)
        if len(self._sessions) == 1:
            return current
        names = _names(note.event)
        conversation = text_of(mapping_of(note.event.get("response")).get("conversation_id"))
        for session in reversed(self._sessions):
            if (conversation is not None and session.conversation == conversation) or any(map(session.knows, names)):
                return session
        return current

    def _named(self, note: Note, current: Session) -> Session:
        told = text_of(mapping_of(note.event.get("session")).get("id"))
        if told is None or told == current.id:
            return current
        for session in self._sessions:
            if session.id == told:
                return session
        if current.id is None:
            current.id = told
            return current
        if len(self._sessions) >= MOST_SESSIONS:
            current.misplaced += 1
            return current
        current.followed = True
        session = self._begin(note, f"{self.call}/{told}")
        session.id = told
        return session

    def _begin(self, note: Note, guest: str) -> Session:
        session = Session(guest=guest, first_at=note.at, last_at=note.at)
        self._sessions.append(session)
        self._current = len(self._sessions) - 1
        return session


def _identity(note: Note, kind: str) -> bytes:
    """What makes two notes the same: a server's event by its id, a client's by what it holds beside (clients count
    their ids anew, and some send one id for ever), others by time, side and content."""
    event_id = text_of(note.event.get("event_id")) if note.count == 1 else None
    told: object
    if event_id is None:
        told = [note.at, note.side.value, note.event, note.count, note.last]
    elif note.side is Side.SERVER:
        # Of audio both who hear it count the bytes.
        told = [event_id, kind, *([True] if note.event.get("beside") is True else [])]
    else:
        told = [note.side.value, note.event]
    return blake2b(canonical(told), digest_size=Seen.BYTES).digest()


def _names(event: Mapping[str, object]) -> list[str]:
    item, response = mapping_of(event.get("item")), mapping_of(event.get("response"))
    found = (
        event.get("response_id"),
        event.get("item_id"),
        event.get("call_id"),
        event.get("delegation_id"),
        response.get("id"),
        item.get("call_id"),
        item.get("id"),
        item.get("approval_request_id"),
    )
    return [name for name in found if isinstance(name, str) and name]


def _item(whole: bool) -> Handler:
    def handler(session: Session, note: Note, event: Mapping[str, object]) -> None:
        named = text_of(event.get("response_id"))
        tools.item_seen(session, note, mapping_of(event.get("item")), named, whole=whole)

    return handler


HANDLERS: Mapping[str, Handler] = {
    **live_events.HANDLERS,
    "conversation.created": configuring.conversation,
    "conversation.item.added": _item(whole=False),
    "conversation.item.create": _item(whole=True),
    "conversation.item.created": _item(whole=False),
    "conversation.item.done": _item(whole=True),
    "conversation.item.input_audio_transcription.completed": speech.transcribed,
    "conversation.item.input_audio_transcription.failed": speech.not_transcribed,
    "conversation.item.truncate": responses.truncate,
    "conversation.item.truncated": responses.truncated,
    "error": responses.error,
    "input_audio_buffer.cleared": speech.cleared,
    "input_audio_buffer.commit": speech.commit,
    "input_audio_buffer.committed": speech.committed,
    "input_audio_buffer.dtmf_event_received": speech.key_pressed,
    "input_audio_buffer.speech_started": speech.started,
    "input_audio_buffer.speech_stopped": speech.stopped,
    "input_audio_buffer.timeout_triggered": speech.timeout,
    "mcp_list_tools.completed": tools.list_completed,
    "mcp_list_tools.failed": tools.list_failed,
    "mcp_list_tools.in_progress": tools.list_running,
    "output_audio_buffer.cleared": responses.cut_off,
    "output_audio_buffer.started": responses.playing,
    "output_audio_buffer.stopped": responses.played,
    "rate_limits.updated": responses.rate_limits,
    "response.cancel": responses.cancel,
    "response.content_part.added": responses.part_added,
    "response.create": responses.create,
    "response.created": responses.created,
    "response.done": responses.done,
    "response.function_call_arguments.delta": responses.delta,
    "response.function_call_arguments.done": tools.arguments_done,
    "response.mcp_call.completed": tools.mcp_completed,
    "response.mcp_call.failed": tools.mcp_failed,
    "response.mcp_call.in_progress": tools.mcp_running,
    "response.mcp_call_arguments.delta": responses.delta,
    "response.mcp_call_arguments.done": tools.mcp_arguments_done,
    "response.output_audio.delta": responses.audio_delta,
    "response.output_audio_transcript.delta": responses.transcript_delta,
    "response.output_item.added": responses.item_added,
    "response.output_item.done": responses.item_done,
    "response.output_text.delta": responses.delta,
    "session.created": configuring.created,
    "session.update": configuring.configured,
    "session.updated": configuring.configured,
}
"""What each type of event does; ``kept`` keeps these and no others."""

_NAMING = frozenset({"session.created", "session.started", "session.updated", live.CLOSED})
_CLIENTS = frozenset(
    {
        "conversation.item.create",
        "conversation.item.truncate",
        "input_audio_buffer.commit",
        "response.cancel",
        "response.create",
        "response.item.create",
        "session.start",
        "session.update",
    }
)
_EITHER = frozenset({"transport.dtmf.send"})
_SILENT = (frozenset(kind for kind in HANDLERS if kind.endswith((".delta", ".added", "_started"))) - live.ENDINGS) | {
    "rate_limits.updated",
    "response.created",
}
"""Types that end nothing; they are many, and what is open need not be looked through for each."""
