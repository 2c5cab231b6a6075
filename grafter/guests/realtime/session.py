"""A session while it is open: its records, and the one place that decides which id may name a span.

An id names one span of a guest for ever, whatever kinds of things reuse it; and what is kept has an end, whatever the
stream does.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeVar

from grafter.core.model import SpanId, guest_span_id
from grafter.guests.json_values import list_of, mapping_of, text_of
from grafter.guests.realtime.records import (
    LIVE,
    LIVE_IDS,
    MOST_EVENTS,
    MOST_ITEMS,
    MOST_SPANS,
    SESSION,
    Call,
    Config,
    Delegation,
    Input,
    Live,
    Record,
    Request,
    Response,
    Speech,
    Utterance,
    read_all,
    read_into,
    read_list,
    written,
)
from grafter.guests.realtime.stored_event import StoredEvent

_MOST_UNKNOWN = 32
"""Different unknown types that are named."""
_ID_BYTES = 8
_MOST_PAST = 24

R = TypeVar("R", Response, Speech, Call, Utterance)
VERSION = 2
"""Of what ``Session.state`` writes."""
_TEXTS = ("id", "conversation", "latest")
_NUMBERS = ("first_at", "last_at", "until", "deaf_until", "since")
_PARTS: Mapping[str, type[Any]] = {"config": Config, "input": Input, "live": Live}
_TABLES: Mapping[str, type[Any]] = {
    "responses": Response,
    "speeches": Speech,
    "calls": Call,
    "utterances": Utterance,
    "delegations": Delegation,
    "past": Response,
    "past_speeches": Speech,
    "past_calls": Call,
}
"""Records by their ids; as the names of all others, those of the members and of what ``Session.state`` writes."""
_FLAGS = ("begun", "followed", "expired", "closed", "buffered", "hears_client", "odd", "further")
_COUNTS = (
    "unknown_events",
    "turns",
    "speeches_ended",
    "barge_ins",
    "errors",
    "keys_pressed",
    "idle_timeouts",
    "omitted",
    "reused",
    "misplaced",
)


@dataclass(slots=True)
class Session:
    """One session of the Realtime API, or of the Live API."""

    guest: str
    """Its guest trace id."""
    id: str | None = None
    conversation: str | None = None
    first_at: int = 0
    last_at: int = 0
    until: int = 0
    """The last moment that somebody dated: ``last_at`` may be when it arrived that the call was over."""
    deaf_until: int = 0
    """Before this its recorder may have missed something."""
    begun: bool = False
    """``session.created``, or ``session.started``, has come."""
    further: bool = False
    """Another session was before it under the same key."""
    followed: bool = False
    """A later session has begun under the same key."""
    expired: bool = False
    """The server said that its time was over."""
    closed: bool = False
    """Its span has left."""
    config: Config = field(default_factory=Config)
    input: Input = field(default_factory=Input)
    requests: list[Request] = field(default_factory=list)
    """The last that the client asked for, in the order of their times."""
    idle: list[int] = field(default_factory=list)
    """When OpenAI was last tired of waiting for the caller."""
    idle_untimed: list[int] = field(default_factory=list)
    """The same, by times that only stand for some that nobody gave."""
    responses: dict[str, Response] = field(default_factory=dict)
    speeches: dict[str, Speech] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    live: Live = field(default_factory=Live)
    utterances: dict[str, Utterance] = field(default_factory=dict)
    delegations: dict[str, Delegation] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)
    """Which response made an item."""
    past: dict[str, Response] = field(default_factory=dict)
    past_speeches: dict[str, Speech] = field(default_factory=dict)
    past_calls: dict[str, Call] = field(default_factory=dict)
    """What has left lately, as evidence for what comes after it."""
    outputs: dict[str, list[object]] = field(default_factory=dict)
    """``[time, text, event id]`` of outputs of calls that are not known, or not yet."""
    silent: dict[str, None] = field(default_factory=dict)
    """Items of the input buffer in which nobody spoke."""
    sent: dict[SpanId, None] = field(default_factory=dict)
    """Spans that have left."""
    since: int = 0
    """What was before is not known, so that nothing of then can be the cause of anything."""
    buffered: bool = False
    """OpenAI plays the audio itself and says when (WebRTC, SIP)."""
    hears_client: bool = False
    """Events of the client are seen, too."""
    odd: bool = False
    latest: str | None = None
    """The newest response of the conversation."""
    limits: list[object] = field(default_factory=list)
    events: list[object] = field(default_factory=list)
    """``[time, name, attributes]`` of what happened to no response."""
    unknown: dict[str, int] = field(default_factory=dict)
    unknown_events: int = 0

    turns: int = 0
    speeches_ended: int = 0
    barge_ins: int = 0
    errors: int = 0
    keys_pressed: int = 0
    idle_timeouts: int = 0
    omitted: int = 0
    """Spans that were one too many."""
    reused: int = 0
    """Ids that named something of another kind already."""
    misplaced: int = 0
    """Events from a side that does not send them, or about nothing that is known."""

    @property
    def open(self) -> tuple[Mapping[str, Record], ...]:
        """The records that become spans, by kind."""
        return self.responses, self.speeches, self.calls, self.utterances

    @property
    def name(self) -> str | None:
        """OpenAI's id of it. A Live session that is recorded is called by its own id, with or without an event."""
        named_by_key = self.config.kind == LIVE and self.guest.startswith(LIVE_IDS) and "/" not in self.guest
        return self.guest if named_by_key else self.id

    def response(self, identity: object, stored: StoredEvent, *, dates: bool = True) -> Response | None:
        """The open response of this id, opened if it is new; None when the id can name none any more.

        ``dates``: something follows from when the event came, so that without its time the response is odd.
        """
        return self._record(self.responses, Response, text_of(identity), stored, dates=dates)

    def speech(self, identity: object, stored: StoredEvent) -> Speech | None:
        """The same of the caller's speech, by its item."""
        name = text_of(identity)
        return None if name in self.silent else self._record(self.speeches, Speech, name, stored)

    def call(self, identity: object, stored: StoredEvent, kind: str) -> Call | None:
        """The same of a call of this kind, by its call id or item."""
        name = text_of(identity)
        known = None if name is None else self.calls.get(name)
        if known is not None and known.kind != kind:
            self.reused += 1
            return None
        found = self._record(self.calls, Call, name, stored)
        if found is not None:
            found.kind = kind
        return found

    def utterance(self, identity: str, stored: StoredEvent) -> Utterance | None:
        """The same of what somebody said in a Live session."""
        return self._record(self.utterances, Utterance, identity, stored)

    @property
    def every_response(self) -> Iterator[Response]:
        """Those that have left lately and those that are open."""
        return chain(self.past.values(), self.responses.values())

    @property
    def every_speech(self) -> Iterator[Speech]:
        return chain(self.past_speeches.values(), self.speeches.values())

    @property
    def every_call(self) -> Iterator[Call]:
        return chain(self.past_calls.values(), self.calls.values())

    def leave(self, record: Record) -> None:
        """It is open no longer; what may be the cause of something stays as evidence, without what only stands on its
        span."""
        match record:
            case Response():
                # How long its audio is, its own format says.
                settings = {"audio": record.settings["audio"]} if "audio" in record.settings else {}
                kept = replace(record, output=[], usage={}, error={}, limits=[], errors=[], settings=settings)
                self._move(self.responses, self.past, kept)
            case Speech():
                self._move(self.speeches, self.past_speeches, replace(record, transcript=None, usage={}, error={}))
            case Call():
                kept_call = replace(record, arguments=None, result=None, error={}, tools=[])
                self._move(self.calls, self.past_calls, kept_call)
            case Utterance():
                del self.utterances[record.id]

    def _move(self, table: dict[str, R], past: dict[str, R], record: R) -> None:
        del table[record.id]
        past[record.id] = record
        trim(past, _MOST_PAST)

    def span_id(self, identity: str) -> SpanId:
        return guest_span_id(self.guest, identity)

    def parent(self, response: str | None) -> str:
        """The guest span id that something of a response hangs under."""
        if response is not None and (response in self.responses or self.span_id(response) in self.sent):
            return response
        return SESSION

    def made_by(self, item: object, response: object = None) -> str | None:
        """The response that an item belongs to; what an event says of it is remembered."""
        name, maker = text_of(item), text_of(response)
        if maker is not None:
            if name is not None and name not in self.items:
                self.items[name] = maker
                trim(self.items, MOST_ITEMS)
            return maker
        return None if name is None else self.items.get(name)

    def knows(self, identity: str) -> bool:
        return (
            identity in self.responses
            or identity in self.items
            or identity in self.calls
            or identity in self.speeches
            or identity in self.delegations
            or identity in self.silent
            or self.span_id(identity) in self.sent
        )

    def waits_for(self, call: str | None) -> bool:
        """A call of this id has no output yet, so that what the client gives for it is one."""
        known = self.calls.get(call or "")
        return known is not None and known.ended_at is None

    def happened(self, at: int, name: str, attributes: Mapping[str, object]) -> None:
        """A span event on the session, as long as there is room."""
        if len(self.events) < MOST_EVENTS:
            self.events.append([at, name, dict(attributes)])

    def count_unknown(self, kind: str) -> None:
        self.unknown_events += 1
        if kind in self.unknown or len(self.unknown) < _MOST_UNKNOWN:
            self.unknown[kind] = self.unknown.get(kind, 0) + 1

    def _record(
        self, table: dict[str, R], kind: type[R], name: str | None, stored: StoredEvent, *, dates: bool = True
    ) -> R | None:
        if name is None:
            return None
        record = table.get(name)
        if record is None:
            if not self._free(name):
                return None
            record = table[name] = kind(id=name, first_at=stored.at)
        record.first_at, record.last_at = min(record.first_at, stored.at), max(record.last_at, stored.at)
        if stored.event.get("untimed") is True and not isinstance(record, Utterance):
            record.odd, self.odd = record.odd or dates, True
        return record

    def _free(self, name: str) -> bool:
        if name == SESSION or any(name in records for records in self.open):
            self.reused += 1
            return False
        if name in self.silent or self.span_id(name) in self.sent:
            return False
        if len(self.sent) + sum(len(records) for records in self.open) >= MOST_SPANS:
            self.omitted += 1
            return False
        return True

    def state(self) -> dict[str, object]:
        return {
            **{name: getattr(self, name) for name in ("guest", *_TEXTS, *_NUMBERS)},
            "version": VERSION,
            "flags": [getattr(self, name) for name in _FLAGS],
            **{name: written(getattr(self, name)) for name in _PARTS},
            "requests": [written(record) for record in self.requests],
            **{name: [written(record) for record in getattr(self, name).values()] for name in _TABLES},
            **{name: getattr(self, name) for name in ("idle", "idle_untimed", "limits", "events")},
            **{name: getattr(self, name) for name in ("items", "outputs", "unknown")},
            "silent": list(self.silent),
            "sent": b64encode(b"".join(self.sent)).decode(),
            "counts": [getattr(self, name) for name in _COUNTS],
        }


def restored(state: Mapping[str, object]) -> Session | None:
    """The session that ``Session.state`` wrote; None for what names none."""
    guest = text_of(state.get("guest"))
    if guest is None:
        return None
    members: dict[str, Any] = {name: text_of(state.get(name)) for name in _TEXTS}
    members |= {name: _whole(state.get(name)) for name in _NUMBERS}
    members |= {name: read_into(kind(), state.get(name)) for name, kind in _PARTS.items()}
    members |= {name: read_all(kind, state.get(name)) for name, kind in _TABLES.items()}
    session = Session(
        guest=guest,
        **members,
        requests=read_list(Request, state.get("requests")),
        idle=[_whole(at) for at in list_of(state.get("idle"))],
        idle_untimed=[_whole(at) for at in list_of(state.get("idle_untimed"))],
        items=_strings(state.get("items")),
        outputs={key: row for key, row in mapping_of(state.get("outputs")).items() if isinstance(row, list)},
        silent=dict.fromkeys(item for item in list_of(state.get("silent")) if isinstance(item, str)),
        sent=dict.fromkeys(_ids(state.get("sent"))),
        limits=list_of(state.get("limits")),
        events=list_of(state.get("events")),
        unknown={kind: _whole(count) for kind, count in mapping_of(state.get("unknown")).items()},
    )
    for name, flag in zip(_FLAGS, list_of(state.get("flags")), strict=False):
        setattr(session, name, flag is True)
    if state.get("version") != VERSION:
        # An earlier release remembered conclusions, not what led to them; what began under it has no cause here.
        session.since = session.last_at
    for name, count in zip(_COUNTS, list_of(state.get("counts")), strict=False):
        setattr(session, name, _whole(count))
    return session


def trim(table: dict[str, Any], most: int) -> None:
    while len(table) > most:
        del table[next(iter(table))]


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _strings(value: object) -> dict[str, str]:
    return {key: member for key, member in mapping_of(value).items() if isinstance(member, str)}


def _ids(value: object) -> list[SpanId]:
    try:
        raw = b64decode(value) if isinstance(value, str) else b""
    except ValueError:
        return []
    return [SpanId(raw[at : at + _ID_BYTES]) for at in range(0, len(raw), _ID_BYTES)]
