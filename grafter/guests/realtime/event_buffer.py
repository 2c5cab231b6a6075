"""The events of one call on their way into the store: gathered into parts.

The rule it keeps: whatever is sent, one odd event costs nothing but itself, and audio costs next to nothing. Nine in
ten events of a call are audio deltas, of which only the size and the moment matter; so they are told by their first
bytes, measured where they stand and folded into a run, without being decoded. Anything about them that is not plain is
left to the decoder, so that both ways read every event alike.
"""

import re
from collections.abc import Mapping

from grafter.core.link import Malformed, from_metadata
from grafter.core.model import GuestFacts, Link, Part, Source, UnixNano, call_guest, guest_key
from grafter.core.policy import MILLISECOND, GraftPolicy
from grafter.guests.json_values import json_safe, mapping_of, parse_json
from grafter.guests.media import decoded_size
from grafter.guests.realtime.content import ODD, kept, present_name
from grafter.guests.realtime.event_types import (
    AUDIO_APPEND,
    AUDIO_DELTA,
    CLOSED,
    EVENT_TYPES,
    OUTPUT_AUDIO,
    SESSION_EVENTS,
    SOUND,
)
from grafter.guests.realtime.field_rules import unwrapped
from grafter.guests.realtime.live.talking import place_of
from grafter.guests.realtime.stored_event import ENDED, METADATA, SIP, Side, StoredEvent, encode

# An object whose members are those of an audio delta, plainly written, up to the audio itself. ASCII without a quote,
# a backslash and control characters, so that what is matched is what a decoder would read.
_TEXT = r'"([ !#-\[\]-~]*)"'
_GAP = r"[ \t\r\n]*"
_COLON = rf"{_GAP}:{_GAP}"
_DELTA = re.compile(
    rf"{_GAP}\{{{_GAP}(?:\"(?:"
    rf"type\"{_COLON}\"(response\.(?:output_)?audio\.delta)\"|"
    rf"event_id\"{_COLON}{_TEXT}|"
    rf"response_id\"{_COLON}{_TEXT}|"
    rf"item_id\"{_COLON}{_TEXT}|"
    rf"(?:output|content)_index\"{_COLON}(?:0|[1-9][0-9]{{0,8}})"
    rf"){_GAP},{_GAP})*\"delta\"{_COLON}\""
)
# Clocks that drift apart would else make every delta of an hour an event of its own.
_DATED_NS = MILLISECOND
_PAUSE = 1_000 * MILLISECOND
"""Between two pieces of the caller's audio: a client sends ten and more a second, or it has stopped."""

_END = re.compile(rf"{_GAP}\}}{_GAP}")


class _Run:
    """Deltas of one item in a row."""

    __slots__ = ("at", "bytes", "count", "event", "ids", "last")

    def __init__(self, event: dict[str, object], at: UnixNano) -> None:
        self.event = event
        self.at = self.last = at
        self.count = 0
        self.ids: set[str] = set()
        """Of those that were decoded: what is posted may be posted twice."""
        self.bytes = 0

    def repeats(self, event_id: object) -> bool:
        """An event of this id is in the run already."""
        if not isinstance(event_id, str) or event_id in self.ids:
            return isinstance(event_id, str)
        self.ids.add(event_id)
        return False

    def add(self, size: int, at: UnixNano) -> None:
        self.count += 1
        self.bytes += size
        if at > self.last:
            self.last = at
        elif at < self.at:
            self.at = at

    def is_apart(self, kind: str, event: Mapping[str, object], at: UnixNano) -> bool:
        """This one begins a run of its own: the caller paused before it, or it was posted out of its order."""
        if kind == AUDIO_APPEND:
            return not self.last <= at <= self.last + _PAUSE
        return kind == OUTPUT_AUDIO and self.is_dated_by(event, at)

    def is_dated_by(self, event: Mapping[str, object], at: UnixNano) -> bool:
        """Of a Live session's audio: this delta says better than the run's first one when the session's time began, or
        came before it, so that one position would not fit both."""
        position, first = place_of(event), place_of(self.event)
        if position is None:
            return False
        return first is None or at < self.at or at - self.at < (position - first) * MILLISECOND - _DATED_NS

    def as_stored(self, side: Side) -> StoredEvent:
        event = {**self.event, "delta_bytes": self.bytes} if "delta_bytes" in self.event else self.event
        return (
            StoredEvent(self.at, side, event)
            if self.count == 1
            else StoredEvent(self.at, side, event, self.count, self.last)
        )


_Key = tuple[object, ...]


class EventBuffer:
    """Events of one call, gathered into the next part."""

    def __init__(self, call: str, policy: GraftPolicy, *, beside: bool = False, posted: bool = False) -> None:
        """``beside``: read by a recorder of grafter's, while the app may post what it reads itself. ``posted``: events
        may come more than once, which a socket does not do."""
        self._guest = call_guest(call)
        self._key = guest_key(self._guest)
        self._beside = beside
        self._posted = posted
        self._content = policy.content
        self._keys = policy.trace_id_keys
        self._stored: list[StoredEvent | tuple[Side, _Run]] = []
        self._runs: dict[_Key, _Run] = {}
        """The runs that the next delta of their item adds to."""
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

    def add_event(self, event: object, at: UnixNano, side: Side, *, untimed: bool = False) -> str:
        """Take one decoded event; its GA type, or ``odd``. Never raises for a JSON value.

        ``untimed``: ``at`` only stands for a time that nobody gave, so that no figure may be made of it.
        """
        if not isinstance(event, Mapping):
            return ODD
        kind = event.get("type")
        if not isinstance(kind, str) or not kind:
            return ODD
        if kind in SESSION_EVENTS:
            metadata = mapping_of(mapping_of(event.get("session")).get("tracing")).get("metadata")
            self._read_link("session", metadata)
        event = unwrapped(event)
        kind = present_name(event.get("type"))
        if kind == ODD:
            return ODD
        remains = kept(event, side, self._content)
        if remains is None:
            return kind
        if untimed:
            remains["untimed"] = True
        row = EVENT_TYPES.get(kind)
        silent = kind == AUDIO_DELTA and remains.get("delta_bytes") == 0
        if row is not None and row.folded and not silent:
            key = _key(kind, side, remains)
            run = self._runs.get(key)
            if run is None or run.is_apart(kind, remains, at):
                run = self._begin(key, remains, at, side)
            size = remains.get("delta_bytes")
            if not (self._posted and run.repeats(remains.get("event_id"))):
                run.add(size if isinstance(size, int) else 0, at)
            return kind
        self._append(StoredEvent(at, side, remains), kind)
        return kind

    def add_own(self, event: Mapping[str, object], at: UnixNano) -> None:
        """Take an event of grafter's own: METADATA, SIP, STARTED, ALIVE or ENDED under ``type``."""
        kind = str(event.get("type"))
        if kind == METADATA:
            metadata = event.get("metadata")
            self._read_link("start" if event.get("origin") == "start" else "posted", metadata)
            self._head |= metadata is not None
        remains = kept(event, Side.GRAFTER, self._content)
        if remains is not None:
            self._append(StoredEvent(at, Side.GRAFTER, remains), kind)

    @property
    def pending(self) -> int:
        """How many events wait to be taken."""
        return len(self._stored)

    @property
    def urgent(self) -> bool:
        """Something waits whose loss would lose a turn that is finished, or what the call belongs to."""
        return self._pressing

    def take(self) -> Part | None:
        """The events so far as one part of the guest, None when there are none; they are no longer pending then.

        Its facts: the link that is known so far, whether a session or metadata is among the events (``head``), whether
        something in it may end a span (``top_level``), and whether the call has ended.
        """
        if not self._stored:
            return None
        stored_events = [
            stored if isinstance(stored, StoredEvent) else stored[1].as_stored(stored[0]) for stored in self._stored
        ]
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
            payload = encode(stored_events)
        except TypeError:
            payload = encode([_json_safe(stored) for stored in stored_events])
        self._stored = []
        self._runs = {}
        self._head = self._ends = self._ended = self._pressing = False
        return Part(self._key, payload, 0, guest=facts)

    def _add_delta(self, text: str, match: re.Match[str], at: UnixNano, side: Side) -> str | None:
        """An audio delta by its text alone; None for one that is not plain enough for that."""
        kind, event_id, response_id, item_id = match.groups()
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
        if not size:
            return None
        key = (kind, side, response_id, item_id)
        run = self._runs.get(key)
        if run is None:
            event = _plain_event(kind, event_id, response_id, item_id, size)
            remains = kept(event, side, self._content)
            if remains is None:
                return None
            # Under the decoded reading's own key too, so that both ways of reading meet in one run.
            slow = _key(present_name(kind), side, remains)
            run = self._runs.get(slow) or self._begin(slow, remains, at, side)
            self._runs[key] = run
        run.add(size, at)
        return str(run.event["type"])

    def _begin(self, key: _Key, event: dict[str, object], at: UnixNano, side: Side) -> _Run:
        if self._beside and "delta_bytes" in event:
            event = {**event, "beside": True}
        run = _Run(event, at)
        self._runs[key] = run
        self._stored.append((side, run))
        return run

    def _append(self, stored: StoredEvent, kind: str) -> None:
        # What comes between two deltas may tell them apart: audio after a cut is not audio before it.
        self._runs.clear()
        self._stored.append(stored)
        row = EVENT_TYPES.get(kind)
        if kind == ENDED or (row is not None and row.ends):
            self._ends = True
            self._ended |= kind in (ENDED, CLOSED)
        if kind in (ENDED, METADATA, SIP) or (row is not None and row.urgent):
            self._pressing = True
            self._head |= kind in SESSION_EVENTS

    def _read_link(self, origin: str, metadata: object) -> None:
        if origin not in self._links:
            link = from_metadata(metadata, self._keys)
            if link is not None and not isinstance(link, Malformed):
                self._links[origin] = link


def kind_of(event_type: str) -> str:
    """What an event is counted as, by what ``EventBuffer`` answered: few words, so that they can be a metric's label.

    ``audio``, ``event``, ``unknown_type`` (kept) or ``odd`` (skipped).
    """
    if event_type in SOUND:
        return "audio"
    if event_type == ODD:
        return ODD
    return "event" if event_type in EVENT_TYPES else "unknown_type"


def _key(kind: str, side: Side, event: Mapping[str, object]) -> _Key:
    names = (event.get("response_id"), event.get("item_id"), event.get("delegation_id"))
    return ("decoded", kind, side, *names, event.get("untimed"))


def _plain_event(
    kind: str, event_id: str | None, response_id: str | None, item_id: str | None, size: int
) -> dict[str, object]:
    """The event as a decoder would give it, its audio measured."""
    found = {"type": kind, "event_id": event_id, "response_id": response_id, "item_id": item_id}
    return {**{name: value for name, value in found.items() if value is not None}, "delta_bytes": size}


def _json_safe(stored: StoredEvent) -> StoredEvent:
    return StoredEvent(stored.at, stored.side, mapping_of(json_safe(dict(stored.event))), stored.count, stored.last)
