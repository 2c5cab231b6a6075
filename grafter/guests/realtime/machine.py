"""The state machine: events of one call in, spans of what has ended out.

Everything it knows is JSON (``state``), so that it goes on exactly where it was in another process. It reads no
clock: time is what events say. Nothing in an event can make it fail or grow without end; what cannot be placed is
counted.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from grafter.core.model import GuestSpan, UnixNano
from grafter.guests.json_values import MAX_TIME, canonical, count_of, list_of, mapping_of, text_of
from grafter.guests.realtime import leaving, requests
from grafter.guests.realtime import session as sessions
from grafter.guests.realtime.event_types import EVENT_TYPES, LIVE
from grafter.guests.realtime.live.talking import ended_by
from grafter.guests.realtime.session import Session
from grafter.guests.realtime.stored_event import ALIVE, ENDED, METADATA, SIP, STARTED, Side, StoredEvent

MOST_SESSIONS = 32
"""Of one call; a call that rolls over every hour has one a day's working hour."""
_EXPIRY = 5_000_000_000
"""How near to a session's expiry its last event must be to have been ended by it."""
_FAREWELL = 600_000_000_000
"""How long a line may be silent before somebody hangs up."""
_LONGEST_BY = 32
_GIVEN, _OF_ITEMS = "conversation.item.create", "conversation.item."


@dataclass(frozen=True, slots=True)
class Ended:
    guest: str
    span: GuestSpan


class Machine:
    """One call, under the key that its sender chose."""

    def __init__(self, call: str, *, content: bool = False) -> None:
        """``content``: whether what was said may stand on spans, where it is in the events."""
        self.call = call
        self._content = content
        self._sessions: list[Session] = []
        self._current = 0
        self._seen = Seen()
        self._ended_by: str | None = None
        self._unheard_of = 0
        """Recorders that have begun to listen and did not report their end: nobody knows until when they heard."""

    @property
    def sessions(self) -> Sequence[Session]:
        """In order of their beginning; the first is the call's own guest."""
        return self._sessions

    @property
    def ended(self) -> bool:
        """Somebody said that no more will come: of the call, or of a Live session that no other has followed."""
        closed = bool(self._sessions) and self._sessions[self._current].live.closed_at is not None
        return self._ended_by is not None or closed

    def feed(self, stored: StoredEvent) -> list[Ended]:
        """Take one event; the spans of what it ended. An event that was taken already changes nothing.

        Events are expected in order of their times; one that comes late is taken for what it still can say.
        """
        kind = stored.event.get("type")
        if not isinstance(kind, str):
            return []
        if not self._seen.add(_identity(stored, kind)):
            return []
        at = stored.at
        if not 0 <= at <= MAX_TIME or stored.last > MAX_TIME:
            at = UnixNano(min(max(at, 0), MAX_TIME))
            stored = replace(stored, at=at, last=UnixNano(min(stored.last, MAX_TIME)))
        if stored.side is Side.GRAFTER:
            return self._own(stored, kind)
        session = self._session(stored, kind)
        self._lived(session, stored, max(at, stored.last))
        row = EVENT_TYPES.get(kind)
        if row is None or row.handler is None:
            session.count_unknown(kind)
            return []
        session.hears_client |= stored.side is Side.CLIENT
        if row.side is not None and row.side is not stored.side:
            session.misplaced += 1
        if row.api == LIVE:
            session.config.kind = session.config.kind or LIVE
        row.handler(session, stored, stored.event)
        if not row.ends and not leaving.crowded(session):
            return []
        return self._settled(at)

    def close(self) -> list[Ended]:
        """No more will come: what is still open ends, and the sessions with it. Once is enough; more does no harm."""
        found: list[Ended] = []
        for session in self._sessions:
            if self._unheard_of:
                session.deaf_until = max(session.deaf_until, session.until)
            found += self._left(session, leaving.closed(session, self._by(session), content=self._content))
        return found

    def state(self) -> dict[str, object]:
        return {
            "sessions": [session.state() for session in self._sessions],
            "current": self._current,
            "seen": self._seen.state(),
            "ended_by": self._ended_by,
            "ended": self.ended,
            "unheard_of": self._unheard_of,
        }

    @classmethod
    def restored(cls, call: str, state: object, *, content: bool = False) -> "Machine":
        """The machine that ``state`` wrote; a new one from anything else."""
        machine = cls(call, content=content)
        stored = mapping_of(state)
        found = [sessions.restored(mapping_of(one)) for one in list_of(stored.get("sessions"))]
        machine._sessions = [session for session in found if session is not None][:MOST_SESSIONS]
        current = stored.get("current")
        if isinstance(current, int) and 0 <= current < len(machine._sessions):
            machine._current = current
        machine._seen = Seen.restored(stored.get("seen"))
        machine._ended_by = text_of(stored.get("ended_by"))
        machine._unheard_of = count_of(stored.get("unheard_of")) or 0
        return machine

    def _settled(self, at: int) -> list[Ended]:
        """What has ended by now, in any session: time goes on in those that another has followed."""
        found: list[Ended] = []
        for session in self._sessions:
            found += self._left(session, leaving.settled(session, at, content=self._content))
        return found

    def _left(self, session: Session, spans: list[GuestSpan]) -> list[Ended]:
        return [Ended(session.guest, span) for span in spans]

    def _own(self, stored: StoredEvent, kind: str) -> list[Ended]:
        """An event of grafter's own."""
        if kind == STARTED:
            self._unheard_of += 1
        elif kind == ENDED:
            if "deaf_until" in stored.event:
                # It says what it missed of all that was before it, too.
                self._unheard_of = 0
            elif stored.event.get("recorder") is True and self._unheard_of:
                self._unheard_of -= 1
            by = text_of(stored.event.get("by")) or "posted"
            self._ended_by = self._ended_by or by[:_LONGEST_BY]
        session = self._sessions[self._current] if self._sessions else None
        if session is None or kind in (METADATA, SIP, STARTED):
            return []
        session.deaf_until = max(session.deaf_until, count_of(stored.event.get("deaf_until")) or 0)
        # Silence and a lost socket are noticed long after the last that was heard; and what arrives so long after it
        # without a time of its own is the end of a recording.
        late = stored.event.get("untimed") is True and stored.at > session.last_at + _FAREWELL
        if kind == ALIVE or not (late or stored.event.get("by") in ("silence", "disconnect")):
            self._lived(session, stored, stored.at)
        return self._settled(stored.at)

    def _lived(self, session: Session, stored: StoredEvent, last: int) -> None:
        session.first_at = min(session.first_at, stored.at)
        session.last_at = max(session.last_at, last)
        # That somebody still listens says nothing of the call, nor that he hears.
        if stored.event.get("untimed") is not True and stored.event.get("type") != ALIVE:
            session.until = max(session.until, last)

    def _by(self, session: Session) -> str:
        if session.live.closed_at is not None:
            return ended_by(session.live.closed_by)
        expires = session.config.expires_at
        if session.expired or (expires is not None and session.last_at >= expires * 1_000_000_000 - _EXPIRY):
            return "expired"
        if session.followed:
            return "next_session"
        return self._ended_by or "disconnect"

    def _session(self, stored: StoredEvent, kind: str) -> Session:
        """The session that an event is of: the one that knows what it names, else the newest."""
        if not self._sessions:
            self._begin(stored, self.call)
        current = self._sessions[self._current]
        row = EVENT_TYPES.get(kind)
        if row is not None and row.names_session:
            return self._named(stored, current)
        if len(self._sessions) == 1:
            return current
        item = mapping_of(stored.event.get("item"))
        called = text_of(item.get("call_id")) or text_of(item.get("approval_request_id"))
        if kind == _GIVEN:
            # What is restored from a session before it bears the ids that it had there.
            return next((one for one in reversed(self._sessions) if one.waits_for(called)), current)
        if kind.startswith(_OF_ITEMS) and requests.is_given(current, called or text_of(item.get("id"))):
            return current
        names = _names(stored.event)
        conversation = text_of(mapping_of(stored.event.get("response")).get("conversation_id"))
        for session in reversed(self._sessions):
            if (conversation is not None and session.conversation == conversation) or any(map(session.knows, names)):
                return session
        return current

    def _named(self, stored: StoredEvent, current: Session) -> Session:
        named = text_of(mapping_of(stored.event.get("session")).get("id"))
        if named is None or named == current.id:
            return current
        for session in self._sessions:
            if session.id == named:
                return session
        if current.id is None:
            current.id = named
            return current
        if len(self._sessions) >= MOST_SESSIONS:
            current.misplaced += 1
            return current
        current.followed = True
        session = self._begin(stored, f"{self.call}/{named}")
        session.id = named
        return session

    def _begin(self, stored: StoredEvent, guest: str) -> Session:
        session = Session(guest=guest, first_at=stored.at, last_at=stored.at, further=bool(self._sessions))
        self._sessions.append(session)
        self._current = len(self._sessions) - 1
        return session


class Seen:
    """The digests of the events that were taken last, a thousand or so.

    A repeat comes soon: a post that is sent again, two readers of one socket. What comes again after that meets spans
    whose ids are taken.
    """

    BYTES = 8
    MOST = 1_024

    def __init__(self) -> None:
        self._digests: dict[bytes, None] = {}

    def add(self, digest: bytes) -> bool:
        """Whether it is new."""
        if digest in self._digests:
            return False
        self._digests[digest] = None
        if len(self._digests) > self.MOST:
            del self._digests[next(iter(self._digests))]
        return True

    def state(self) -> str:
        return b64encode(b"".join(self._digests)).decode()

    @classmethod
    def restored(cls, state: object) -> "Seen":
        """What ``state`` wrote; an empty one from anything else."""
        seen = cls()
        try:
            raw = b64decode(state) if isinstance(state, str) else b""
        except ValueError:
            raw = b""
        for at in range(0, len(raw), cls.BYTES):
            seen.add(raw[at : at + cls.BYTES])
        return seen


def _identity(stored: StoredEvent, kind: str) -> bytes:
    """What makes two events the same: a server's event by its id and what it is about, for one that is only compatible
    counts anew in each session; others by time, side and content, for so do clients, and some send one id for ever."""
    event_id = text_of(stored.event.get("event_id")) if stored.count == 1 and stored.side is Side.SERVER else None
    # Of audio both who hear it count the bytes.
    beside = [True] if stored.event.get("beside") is True else []
    identity: object = [
        event_id,
        kind,
        *beside,
        *_names(stored.event),
        mapping_of(stored.event.get("session")).get("id"),
    ]
    if event_id is None:
        identity = [stored.at, stored.side.value, stored.event, stored.count, stored.last]
    return blake2b(canonical(identity), digest_size=Seen.BYTES).digest()


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
