"""Posted bodies of Realtime events: whose they are, from which side, and of which moment; then they are gathered.

The times are the sender's. What cannot be one of them, and a clock that is hours away, is put right here, once for all
that a body brings.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grafter.core.model import Part, UnixNano
from grafter.core.policy import HOUR, SECOND, GraftPolicy
from grafter.guests.json_values import mapping_of, moment, nanoseconds, parse_json, usable_id
from grafter.guests.realtime.gathering import Gathering, kind_of
from grafter.guests.realtime.kept import ODD
from grafter.guests.realtime.live import allowed as live
from grafter.guests.realtime.notes import ENDED, METADATA, Side

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

_FAR = HOUR
"""A time this far ahead of grafter's clock is no time of an event, and a sender that says it is now has a wrong clock:
clocks that are kept at all differ by seconds, and nothing is received before it is sent."""

_EARLIEST = 1_577_836_800 * SECOND
"""2020, years before there were Realtime calls: a time before it is a zero, a clock that was never set, or one that
counts from its start; taken at its word it would stretch a call over half a century."""


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
                raise NoCallError(f"body tells of more than {MOST_CALLS} calls; expected fewer")
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
        at = moment(value)
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
        raise NoCallError("no usable call; expected an object, a list or lines of objects with a string under call")
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
