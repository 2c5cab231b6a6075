"""Posted bodies of Realtime events: whose they are, from which side, and of which moment; then they are buffered.

The times are the sender's. What cannot be one of them, and a clock that is hours away, is put right here, once for all
that a body brings.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from grafter.core.model import Part, UnixNano
from grafter.core.policy import HOUR, GraftPolicy
from grafter.guests.json_values import EARLIEST, LATEST, list_of, mapping_of, moment, parse_json, usable_id
from grafter.guests.realtime.content import ODD
from grafter.guests.realtime.event_buffer import EventBuffer, kind_of
from grafter.guests.realtime.event_types import CLIENT_EVENTS
from grafter.guests.realtime.stored_event import ENDED, METADATA, Side

MOST_CALLS = 10_000
"""In one body: each takes a kilobyte while it is read, and naming one takes a sender fourteen bytes."""

EXPECTED = 'events as {"at": …, "from": "server" | "client", "event": {"type": …}}, each an object and no JSON text'
"""What a body should hold, for whoever posted something else."""

_SAYS = frozenset({"event", "events", "metadata", "ended", "sent_at"})
"""By which an envelope says something of its call."""

_FAR = HOUR
"""A time this far ahead of grafter's clock is no time of an event, and a sender that says it is now has a wrong clock:
clocks that are kept at all differ by seconds, and nothing is received before it is sent."""

_MOST_AHEAD = 1_000
"""Envelopes that are looked through for a time that another event has none of its own for."""


class NoCallError(ValueError):
    """The body is JSON, and not about calls that can be taken."""


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
    calls: dict[str, EventBuffer] = field(default_factory=dict)
    latest: dict[str, int] = field(default_factory=dict)
    """The latest time of each call in this body."""
    before: dict[str, int] = field(default_factory=dict)
    """The time of the event of each call that was read before."""
    kinds: Counter[str] = field(default_factory=Counter)
    coming: Iterable[object] = ()
    """The envelopes that follow the one that is read."""

    def read(self, envelope: object) -> bool:
        """One envelope or line; False when it names no call."""
        call = usable_id(envelope.get("call")) if isinstance(envelope, Mapping) else None
        if call is None or not isinstance(envelope, Mapping):
            self.kinds[ODD] += 1
            return False
        buffer = self.calls.get(call)
        if buffer is None:
            if len(self.calls) >= MOST_CALLS:
                raise NoCallError(f"body tells of more than {MOST_CALLS} calls; expected fewer")
            buffer = self.calls[call] = EventBuffer(call, self.policy, posted=True)
        sent_at = moment(envelope.get("sent_at"))
        # Positive: how far the sender's clock is ahead at least, for nothing is received before it is sent.
        ahead = None if sent_at is None else sent_at - self.now
        shift = ahead if sent_at is not None and ahead is not None and not EARLIEST <= sent_at <= self.now + _FAR else 0
        entries = envelope.get("events")
        if entries is None:
            entries = [envelope] if "event" in envelope else []
            if len(envelope) > 1 and not _SAYS & envelope.keys():
                # Events under another name, or one that was posted without its envelope: nothing would be kept of it.
                self.kinds[ODD] += 1
        elif not isinstance(entries, list):
            self.kinds[ODD] += 1
            entries = []
        times = [self._time(mapping_of(entry).get("at"), shift) for entry in entries]
        first = next((time for time in times if time is not None), None)
        if first is None and entries and call not in self.before:
            first = self._first_after(call, shift)
        first = self.now if first is None else first
        before = self.before.get(call, first)
        known = []
        for entry, time in zip(entries, times, strict=True):
            before = before if time is None else time
            if self._add(buffer, entry, time, before) and time is not None:
                known.append(time)
        if any(time is not None for time in times):
            self.before[call] = before
        if known:
            self.latest[call] = max(self.latest.get(call, 0), *known)
        self._add_own(buffer, envelope, known, ahead, shift, self.latest.get(call, self.now))
        return True

    def _first_after(self, call: str, shift: int) -> int | None:
        """The first time that a later envelope of the call gives."""
        for envelope in map(mapping_of, self.coming):
            if envelope.get("call") == call:
                events = list_of(envelope.get("events")) or [envelope]
                times = (self._time(mapping_of(entry).get("at"), shift) for entry in events)
                found = next((time for time in times if time is not None), None)
                if found is not None:
                    return found
        return None

    def _add(self, buffer: EventBuffer, entry: object, time: int | None, before: int) -> bool:
        """One event of an envelope; whether it is one. ``before`` stands for a time of its own that it has not."""
        if not isinstance(entry, Mapping):
            self.kinds[ODD] += 1
            return False
        event = entry.get("event")
        side = _side(entry.get("from"), event)
        if side is None:
            self.kinds[ODD] += 1
            return False
        kind = buffer.add_event(event, UnixNano(before if time is None else time), side, untimed=time is None)
        if kind == ODD:
            self.kinds[ODD] += 1
            return False
        self.kinds[kind_of(kind)] += 1
        if time is None:
            self.kinds["untimed"] += 1
        return True

    def _time(self, value: object, shift: int = 0) -> int | None:
        at = moment(value)
        return None if at is None or not EARLIEST <= at - shift <= self.now + _FAR else at - shift

    def _add_own(
        self,
        buffer: EventBuffer,
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
        of_call: dict[str, object] = {}
        if isinstance(metadata, Mapping):
            of_call["metadata"] = dict(metadata)
            self.kinds["metadata"] += 1
        elif metadata is not None:
            self.kinds[ODD] += 1
        if ahead is not None and abs(ahead) < 1 << 62:
            of_call["clock"] = {"ahead_ms": round(ahead / 1e6, 3)} | (
                {"offset_ms": round(shift / 1e6, 3)} if shift else {}
            )
        named = self._time(envelope.get("at"), shift) or self._time(envelope.get("sent_at"), shift)
        own = named or latest
        if of_call:
            buffer.add_own({"type": METADATA, "origin": "posted", **of_call}, UnixNano(min(times, default=own)))
        ended = envelope.get("ended")
        if not isinstance(ended, bool | None):
            self.kinds[ODD] += 1
        if ended is True:
            self.kinds["ended"] += 1
            untimed = {} if named or times or latest != self.now else {"untimed": True}
            buffer.add_own({"type": ENDED, "by": "posted", **untimed}, UnixNano(max(times, default=own)))


def read_posts(body: bytes, ndjson: bool, policy: GraftPolicy, now: UnixNano) -> RealtimeIntake:
    """The parts of a posted body: one envelope, a list of them, or lines (``ndjson``) of envelopes or single events.

    An envelope is ``{"call": KEY, "metadata": {…}, "sent_at": T, "ended": true, "events": [{"at": T, "from": "server"
    | "client", "event": {…}}, …]}`` where all but ``call`` may be left out, a line of a single event ``{"call", "at",
    "from", "event"}``. ``T`` is Unix seconds as a number, or RFC 3339; a number that can only be milliseconds,
    microseconds or nanoseconds is read as those. An event without ``from`` is from the side that sends events of its
    type.

    Times stay as the sender measured them. Only where they cannot be, another stands for them: for one that is missing,
    unreadable, before 2020 or more than an hour ahead that of the event before it in the body, else that of the next,
    else the arrival ``now``; and from a sender whose ``sent_at`` shows its clock to be more than an hour ahead, or
    before 2020, all are moved by the difference. How far ahead its clock is at least is noted either way.

    Raises ValueError, without the payload, for what is no JSON, names no call at all, or more than MOST_CALLS.
    """
    posted = _Posted(policy, now)
    envelopes, broken = _lines(body) if ndjson else _documents(body)
    posted.kinds[ODD] += broken
    named = False
    for index, envelope in enumerate(envelopes, 1):
        posted.coming = islice(envelopes, index, index + _MOST_AHEAD)
        named |= posted.read(envelope)
    if not named:
        raise NoCallError("no usable call; expected an object, a list or lines of objects with a string under call")
    parts = (buffer.take() for buffer in posted.calls.values())
    return RealtimeIntake(tuple(part for part in parts if part is not None), +posted.kinds)


def recorded_at(value: object) -> int | None:
    """The time of an event of a recording, whose arrival nobody wrote down; None where it cannot be one."""
    at = moment(value)
    return at if at is not None and EARLIEST <= at <= LATEST else None


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


def _side(name: object, event: object) -> Side | None:
    if name is None:
        return Side.CLIENT if mapping_of(event).get("type") in CLIENT_EVENTS else Side.SERVER
    return Side(name) if name in ("server", "client") else None
