"""Realtime events on their way into the store: from a socket or a posted body to parts of notes.

The rule it keeps: whatever is sent, one odd event costs nothing but itself, and audio costs next to nothing. Nine in
ten events of a call are audio deltas, of which only the size and the moment matter; so they are told by their first
bytes, measured where they stand and folded into a run, without being decoded. Anything about them that is not plain is
left to the decoder, so that both ways read every event alike.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grafter.core.link import Malformed, from_metadata
from grafter.core.model import GuestFacts, Link, Part, Source, UnixNano, call_guest, guest_key
from grafter.core.openai.items import parse_json, usable_id
from grafter.core.openai.live import allowed as live
from grafter.core.openai.live.talking import position_of
from grafter.core.openai.media import decoded_size
from grafter.core.openai.realtime.kept import AUDIO_DELTAS, FOLDED, KNOWN, ODD, UNREAD, kept, present_name
from grafter.core.openai.realtime.notes import ENDED, METADATA, SIP, Note, Side, encode
from grafter.core.openai.times import nanoseconds
from grafter.core.openai.values import mapping_of, sound
from grafter.core.policy import HOUR, SECOND, GraftPolicy

SESSIONS = frozenset({"session.created", "session.started", "session.updated", "session.update"})

ENDINGS = live.ENDINGS | frozenset(
    {
        "response.done",
        "response.output_item.done",
        "response.mcp_call.completed",
        "response.mcp_call.failed",
        "mcp_list_tools.completed",
        "mcp_list_tools.failed",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.cleared",
        "input_audio_buffer.committed",
        "input_audio_buffer.timeout_triggered",
        "output_audio_buffer.stopped",
        "output_audio_buffer.cleared",
        "conversation.item.added",
        "conversation.item.create",
        "conversation.item.created",
        "conversation.item.done",
        "conversation.item.truncated",
        "conversation.item.input_audio_transcription.completed",
        "conversation.item.input_audio_transcription.failed",
        "session.created",
        ENDED,
    }
)
"""Events that may end a span; one that turns out not to costs a look. A tool ends by its output, which whoever only
listens beside the call sees as an item of the server's."""

_URGENT = (ENDINGS - live.PATIENT) | SESSIONS | {METADATA, SIP, "response.function_call_arguments.done", "error"}

_CLIENT_EVENTS = live.CLIENTS | frozenset(
    {
        "session.update",
        "transcription_session.update",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "output_audio_buffer.clear",
        "conversation.item.create",
        "conversation.item.delete",
        "conversation.item.retrieve",
        "conversation.item.truncate",
        "response.create",
        "response.cancel",
    }
)

MOST_CALLS = 10_000
"""In one body: each takes a kilobyte while it is read, and naming one takes a sender fourteen bytes."""

_SOUND = AUDIO_DELTAS | {"input_audio_buffer.append", "session.input_audio.append", live.OUTPUT_AUDIO}

_FAR = HOUR
"""A time this far ahead of grafter's clock is no time of an event, and a sender that says it is now has a wrong clock:
clocks that are kept at all differ by seconds, and nothing is received before it is sent."""

_EARLIEST = 1_577_836_800 * SECOND
"""2020, years before there were Realtime calls: a time before it is a zero, a clock that was never set, or one that
counts from its start; taken at its word it would stretch a call over half a century."""

# An object whose members are those of an audio delta, plainly written, up to the audio itself. ASCII without a quote,
# a backslash and control characters, so that what is matched is what a decoder would read.
_TEXT = r'"([ !#-\[\]-~]*)"'
_GAP = r"[ \t\r\n]*"
_COLON = rf"{_GAP}:{_GAP}"
_DELTA = re.compile(
    rf"{_GAP}\{{{_GAP}(?:\"(?:"
    rf"type\"{_COLON}\"(response\.(?:output_)?audio\.delta|input_audio_buffer\.append)\"|"
    rf"event_id\"{_COLON}{_TEXT}|"
    rf"response_id\"{_COLON}{_TEXT}|"
    rf"item_id\"{_COLON}{_TEXT}|"
    rf"(?:output|content)_index\"{_COLON}(?:0|[1-9][0-9]{{0,8}})"
    rf"){_GAP},{_GAP})*\"(delta|audio)\"{_COLON}\""
)
_MILLISECOND = 1_000_000
# Clocks that drift apart would else make every delta of an hour a note of its own.
_DATED_NS = _MILLISECOND

_END = re.compile(rf"{_GAP}\}}{_GAP}")


class _Run:
    """Deltas of one item in a row."""

    __slots__ = ("at", "bytes", "count", "event", "last")

    def __init__(self, event: dict[str, object], at: UnixNano) -> None:
        self.event = event
        self.at = self.last = at
        self.count = 0
        self.bytes = 0

    def add(self, size: int, at: UnixNano) -> None:
        self.count += 1
        self.bytes += size
        if at > self.last:
            self.last = at
        elif at < self.at:
            self.at = at

    def is_dated_by(self, event: Mapping[str, object], at: UnixNano) -> bool:
        """Of a Live session's audio: this delta says better than the run's first one when the session's time began, or
        came before it, so that one position would not fit both."""
        position, first = position_of(event.get("start_ms")), position_of(self.event.get("start_ms"))
        if position is None:
            return False
        return first is None or at < self.at or at - self.at < (position - first) * _MILLISECOND - _DATED_NS

    def note(self, side: Side) -> Note:
        event = {**self.event, "delta_bytes": self.bytes} if "delta_bytes" in self.event else self.event
        return Note(self.at, side, event) if self.count == 1 else Note(self.at, side, event, self.count, self.last)


_Key = tuple[object, ...]


class Gathering:
    """Events of one call, gathered into the next part."""

    def __init__(self, call: str, policy: GraftPolicy, *, beside: bool = False) -> None:
        """``beside``: read by a recorder of grafter's, while the app may post what it reads itself."""
        self._guest = call_guest(call)
        self._key = guest_key(self._guest)
        self._beside = beside
        self._content = policy.content
        self._keys = policy.trace_id_keys
        self._notes: list[Note | tuple[Side, _Run]] = []
        self._runs: dict[_Key, _Run] = {}
        """The runs that the next delta of their item adds to."""
        self._useless: dict[tuple[object, Side], str] = {}
        """Kinds of deltas of which nothing is kept, with their GA names."""
        self._links: dict[str, Link] = {}
        self._head = self._ends = self._ended = self._pressing = False

    def add(self, raw: bytes | str, at: UnixNano, side: Side) -> str:
        """Take one event as JSON text, as it is read from a socket; its GA type, or ``odd``. Never raises."""
        try:
            text = raw if isinstance(raw, str) else raw.decode()
        except UnicodeDecodeError:
            text = ""
        match = _DELTA.match(text)
        if match is not None:
            found = self._add_delta(text, match, at, side)
            if found is not None:
                return found
        try:
            event = parse_json(raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw)
        except ValueError:
            return ODD
        return self.add_event(event, at, side)

    def add_event(self, event: object, at: UnixNano, side: Side) -> str:
        """Take one decoded event; its GA type, or ``odd``. Never raises for a JSON value."""
        if not isinstance(event, Mapping):
            return ODD
        kind = event.get("type")
        if not isinstance(kind, str) or not kind:
            return ODD
        if kind in SESSIONS:
            metadata = mapping_of(mapping_of(event.get("session")).get("tracing")).get("metadata")
            self._read_link("session", metadata)
        event = live.unwrapped(event)
        kind = present_name(event.get("type"))
        if kind == ODD:
            return ODD
        remains = kept(event, side, self._content)
        if remains is None:
            return kind
        if kind in FOLDED:
            key = _key(kind, side, remains)
            run = self._runs.get(key)
            if run is None or (kind == live.OUTPUT_AUDIO and run.is_dated_by(remains, at)):
                run = self._begin(key, remains, at, side)
            size = remains.get("delta_bytes")
            run.add(size if isinstance(size, int) else 0, at)
            return kind
        self._note(Note(at, side, remains), kind)
        return kind

    def say(self, event: Mapping[str, object], at: UnixNano) -> None:
        """Take a note of grafter's own: METADATA, SIP, STARTED, ALIVE or ENDED under ``type``."""
        kind = str(event.get("type"))
        if kind == METADATA:
            metadata = event.get("metadata")
            self._read_link("start" if event.get("origin") == "start" else "posted", metadata)
            self._head |= metadata is not None
        remains = kept(event, Side.GRAFTER, self._content)
        if remains is not None:
            self._note(Note(at, Side.GRAFTER, remains), kind)

    @property
    def pending(self) -> int:
        """How many notes wait to be taken."""
        return len(self._notes)

    @property
    def urgent(self) -> bool:
        """Something waits whose loss would lose a turn that is finished, or what the call belongs to."""
        return self._pressing

    def take(self) -> Part | None:
        """The notes so far as one part of the guest, None when there are none; they are no longer pending then.

        Its facts: the link that is known so far, whether a session or metadata is among the notes (``head``), whether
        something in it may end a span (``top_level``), and whether the call has ended.
        """
        if not self._notes:
            return None
        notes = [note if isinstance(note, Note) else note[1].note(note[0]) for note in self._notes]
        link = next((self._links[origin] for origin in ("start", "posted", "session") if origin in self._links), None)
        facts = GuestFacts(
            guest=self._guest,
            source=Source.REALTIME,
            host=None if link is None else link.host,
            sampled=None if link is None else link.sampled,
            head=self._head,
            top_level=self._ends,
            ended=self._ended,
        )
        try:
            payload = encode(notes)
        except TypeError:
            payload = encode([_sound(note) for note in notes])
        self._notes = []
        self._runs = {}
        self._head = self._ends = self._ended = self._pressing = False
        return Part(self._key, payload, 0, guest=facts)

    def _add_delta(self, text: str, match: re.Match[str], at: UnixNano, side: Side) -> str | None:
        """An audio delta by its text alone; None for one that is not plain enough for that."""
        kind, event_id, response_id, item_id, member = match.groups()
        start = match.end()
        end = text.find('"', start)
        if kind is None or end < 0:
            return None
        if (end != len(text) - 2 or text[-1] != "}") and _END.fullmatch(text, end + 1) is None:
            return None
        audio = text[start:end]
        if "\\" in audio:
            return None
        size = decoded_size(audio)
        key = (kind, side, response_id, item_id, member)
        run = self._runs.get(key)
        if run is None:
            useless = self._useless.get((kind, side))
            if useless is not None:
                return useless
            event = _plain_event(kind, event_id, response_id, item_id, member, size)
            if event is None:
                return None
            name = present_name(event["type"])
            remains = kept(event, side, self._content)
            if remains is None:
                self._useless[(kind, side)] = name
                return name
            # Under the decoded reading's own key too, so that both ways of reading meet in one run.
            slow = _key(name, side, remains)
            run = self._runs.get(slow) or self._begin(slow, remains, at, side)
            self._runs[key] = run
        run.add(size, at)
        return str(run.event["type"])

    def _begin(self, key: _Key, event: dict[str, object], at: UnixNano, side: Side) -> _Run:
        if self._beside and "delta_bytes" in event:
            event = {**event, "beside": True}
        run = _Run(event, at)
        self._runs[key] = run
        self._notes.append((side, run))
        return run

    def _note(self, note: Note, kind: str) -> None:
        # What comes between two deltas may tell them apart: audio after a cut is not audio before it.
        self._runs.clear()
        self._notes.append(note)
        if kind in ENDINGS:
            self._ends = True
            self._ended |= kind in (ENDED, live.CLOSED)
        if kind in _URGENT:
            self._pressing = True
            self._head |= kind in SESSIONS

    def _read_link(self, origin: str, metadata: object) -> None:
        if origin not in self._links:
            link = from_metadata(metadata, self._keys)
            if link is not None and not isinstance(link, Malformed):
                self._links[origin] = link


def kind_of(event_type: str) -> str:
    """What an event is counted as, by what ``Gathering`` answered: few words, so that they can be a metric's label.

    ``audio``, ``event``, ``unknown_type`` (kept) or ``odd`` (skipped).
    """
    if event_type in _SOUND:
        return "audio"
    if event_type == ODD:
        return ODD
    return "event" if event_type in KNOWN or event_type in UNREAD else "unknown_type"


@dataclass(frozen=True, slots=True)
class RealtimeIntake:
    """What one posted body brought."""

    parts: tuple[Part, ...]
    """One for each call, in order of first appearance."""
    kinds: Counter[str]
    """Every event once, by ``kind_of``; and ``metadata``, ``ended`` and ``untimed`` (an event whose time was none, so
    that another stands for it)."""


@dataclass(slots=True)
class _Posted:
    policy: GraftPolicy
    now: UnixNano
    calls: dict[str, Gathering] = field(default_factory=dict)
    latest: dict[str, int] = field(default_factory=dict)
    """The latest time of each call in this body."""
    before: dict[str, int] = field(default_factory=dict)
    """The time of the event of each call that was read before."""
    kinds: Counter[str] = field(default_factory=Counter)

    def read(self, envelope: object) -> bool:
        """One envelope or line; False when it names no call."""
        call = usable_id(envelope.get("call")) if isinstance(envelope, Mapping) else None
        if call is None or not isinstance(envelope, Mapping):
            self.kinds[ODD] += 1
            return False
        gathering = self.calls.get(call)
        if gathering is None:
            if len(self.calls) >= MOST_CALLS:
                raise ValueError(f"body tells of more than {MOST_CALLS} calls; expected fewer")
            gathering = self.calls[call] = Gathering(call, self.policy)
        sent_at = nanoseconds(envelope.get("sent_at"))
        # Positive: how far the sender's clock is ahead at least, for nothing is received before it is sent.
        ahead = None if sent_at is None else sent_at - self.now
        shift = (
            ahead if sent_at is not None and ahead is not None and not _EARLIEST <= sent_at <= self.now + _FAR else 0
        )
        entries = envelope.get("events")
        if entries is None:
            entries = [envelope] if "event" in envelope else []
        elif not isinstance(entries, list):
            self.kinds[ODD] += 1
            entries = []
        times = [self._time(mapping_of(entry).get("at"), shift) for entry in entries]
        first = next((time for time in times if time is not None), self.now)
        before = self.before.get(call, first)
        known = []
        for entry, time in zip(entries, times, strict=True):
            before = before if time is None else time
            if self._add(gathering, entry, time, before) and time is not None:
                known.append(time)
        if any(time is not None for time in times):
            self.before[call] = before
        if known:
            self.latest[call] = max(self.latest.get(call, 0), *known)
        self._say(gathering, envelope, known, ahead, shift, self.latest.get(call, self.now))
        return True

    def _add(self, gathering: Gathering, entry: object, time: int | None, before: int) -> bool:
        """One event of an envelope; whether it is one. ``before`` stands for a time of its own that it has not."""
        if not isinstance(entry, Mapping):
            self.kinds[ODD] += 1
            return False
        event = entry.get("event")
        side = _side(entry.get("from"), event)
        if side is None:
            self.kinds[ODD] += 1
            return False
        kind = gathering.add_event(event, UnixNano(before if time is None else time), side)
        if kind == ODD:
            self.kinds[ODD] += 1
            return False
        self.kinds[kind_of(kind)] += 1
        if time is None:
            self.kinds["untimed"] += 1
        return True

    def _time(self, value: object, shift: int = 0) -> int | None:
        at = nanoseconds(value)
        return None if at is None or not _EARLIEST <= at - shift <= self.now + _FAR else at - shift

    def _say(
        self,
        gathering: Gathering,
        envelope: Mapping[str, object],
        times: Sequence[int],
        ahead: int | None,
        shift: int,
        latest: int,
    ) -> None:
        """What an envelope says beside its events. It holds from the first event on, and an end after the last.

        Without an event or a time of its own it is of the moment of the events that came with it (``latest``).
        """
        metadata = envelope.get("metadata")
        said: dict[str, object] = {}
        if isinstance(metadata, Mapping):
            said["metadata"] = dict(metadata)
            self.kinds["metadata"] += 1
        elif metadata is not None:
            self.kinds[ODD] += 1
        if ahead is not None and abs(ahead) < 1 << 62:
            said["clock"] = {"ahead_ms": round(ahead / 1e6, 3)} | (
                {"offset_ms": round(shift / 1e6, 3)} if shift else {}
            )
        named = self._time(envelope.get("at"), shift) or self._time(envelope.get("sent_at"), shift)
        own = named or latest
        if said:
            gathering.say({"type": METADATA, "origin": "posted", **said}, UnixNano(min(times, default=own)))
        if envelope.get("ended") is True:
            self.kinds["ended"] += 1
            untimed = {} if named or times or latest != self.now else {"untimed": True}
            gathering.say({"type": ENDED, "by": "posted", **untimed}, UnixNano(max(times, default=own)))


def read_posts(body: bytes, ndjson: bool, policy: GraftPolicy, now: UnixNano) -> RealtimeIntake:
    """The parts of a posted body: one envelope, a list of them, or lines (``ndjson``) of envelopes or single events.

    An envelope is ``{"call": KEY, "metadata": {…}, "sent_at": T, "ended": true, "events": [{"at": T, "from": "server"
    | "client", "event": {…}}, …]}`` where all but ``call`` may be left out, a line of a single event ``{"call", "at",
    "from", "event"}``. ``T`` is Unix seconds as a number, or RFC 3339. An event without ``from`` is from the side that
    sends events of its type.

    Times stay as the sender measured them. Only where they cannot be, another stands for them: for one that is missing,
    unreadable, before 2020 or more than an hour ahead that of the event before it in the body, else that of the next,
    else the arrival ``now``; and from a sender whose ``sent_at`` shows its clock to be more than an hour ahead, or
    before 2020, all are moved by the difference. How far ahead its clock is at least is noted either way.

    Raises ValueError, without the payload, for what is no JSON, names no call at all, or more than MOST_CALLS.
    """
    posted = _Posted(policy, now)
    envelopes, broken = _lines(body) if ndjson else _documents(body)
    posted.kinds[ODD] += broken
    named = [posted.read(envelope) for envelope in envelopes]
    if not any(named):
        raise ValueError("no usable call; expected an object, a list or lines of objects with a string under call")
    parts = (gathering.take() for gathering in posted.calls.values())
    return RealtimeIntake(tuple(part for part in parts if part is not None), +posted.kinds)


def _documents(body: bytes) -> tuple[Sequence[object], int]:
    try:
        value = parse_json(body)
    except ValueError:
        # Lines that were posted as one document: the first one tells.
        first, more, _ = body.lstrip().partition(b"\n")
        if not more:
            raise
        try:
            head = parse_json(first)
        except ValueError:
            head = None
        if not isinstance(head, dict):
            raise
        return _lines(body)
    return (value if isinstance(value, list) else [value]), 0


def _lines(body: bytes) -> tuple[Sequence[object], int]:
    found: list[object] = []
    broken = 0
    for line in body.split(b"\n"):
        if not line.strip():
            continue
        try:
            found.append(parse_json(line))
        except ValueError:
            broken += 1
    if broken and not found:
        raise ValueError("body is not JSON, in none of its lines")
    return found, broken


def _side(said: object, event: object) -> Side | None:
    if said is None:
        return Side.CLIENT if mapping_of(event).get("type") in _CLIENT_EVENTS else Side.SERVER
    return Side(said) if said in ("server", "client") else None


def _key(kind: str, side: Side, event: Mapping[str, object]) -> _Key:
    return ("decoded", kind, side, event.get("response_id"), event.get("item_id"), event.get("delegation_id"))


def _plain_event(
    kind: str, event_id: str | None, response_id: str | None, item_id: str | None, member: str, size: int
) -> dict[str, object] | None:
    """The event as a decoder would give it, its audio measured; None when the audio stands where none belongs."""
    if (member == "audio") is not (kind == "input_audio_buffer.append"):
        return None
    found = {"type": kind, "event_id": event_id, "response_id": response_id, "item_id": item_id}
    return {**{name: value for name, value in found.items() if value is not None}, "delta_bytes": size}


def _sound(note: Note) -> Note:
    return Note(note.at, note.side, mapping_of(sound(dict(note.event))), note.count, note.last)
