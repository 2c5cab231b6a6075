"""What is stored of one Realtime event, or of a run of audio deltas. The form between receivers and machine.

Events carry no wall-clock time, so a stored event has the moment at which whoever read the socket got it. Payloads of
guest parts of source ``realtime`` are JSON lists of stored events; they may arrive in any order and more than once, and
are read back in order of their times.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush

import orjson

from grafter.core.model import UnixNano


class Side(StrEnum):
    SERVER = "server"
    CLIENT = "client"
    GRAFTER = "grafter"
    """No event of OpenAI's: METADATA, SIP, STARTED, ALIVE, ENDED, made by a receiver."""


# Asked once an event, and a tenth of the price of the enum's own call.
_SIDES: Mapping[str, Side] = {side.value: side for side in Side}
METADATA = "grafter.metadata"
"""``metadata``: the app's own, as posted or as given at the recorder's start; ``origin``: ``start`` or ``posted``."""
SIP = "grafter.sip"
"""``traceparent``: of a SIP header. It links only where its host has come."""
STARTED = "grafter.started"
"""A recorder began to listen; ``from`` and ``to`` are not kept: grafter adds no phone number to any span."""
ALIVE = "grafter.alive"
"""Nothing happened, and somebody is still listening."""
ENDED = "grafter.ended"
"""No more will come; ``by``: ``posted``, ``close``, ``disconnect``, ``expired``, ``silence`` or ``stopped``;
``untimed``: nobody said when, so that its time is that of its arrival; ``deaf_until``, of a recorder that heard
something: since when it listened without a break, in Unix nanoseconds; its own time where it did not to the end;
``recorder``: it is a recorder that has ended, of which nothing else is to come."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event, or ``count`` audio deltas of one item in a row."""

    at: UnixNano
    """Arrival of the event, of a run its first."""
    side: Side
    event: Mapping[str, object]
    """What is kept of it (``content.kept``); ``type`` is a str and a GA name, whatever the sender spoke."""
    count: int = 1
    last: int = 0
    """Of a run the arrival of its last delta; ``event["delta_bytes"]`` is the sum then. 0 for a single event."""


def encode(stored_events: Iterable[StoredEvent]) -> bytes:
    """A part's payload."""
    return orjson.dumps([_row(stored) for stored in stored_events])


def decode(payload: bytes) -> list[StoredEvent]:
    """The events of a payload, in its order. Raises ValueError for what is no JSON list; odd members are left out."""
    rows = orjson.loads(payload)
    if not isinstance(rows, list):
        raise ValueError("payload is not a list of stored events")
    return [stored for stored in map(_of_row, rows) if stored is not None]


def begins(payload: bytes) -> int | None:
    """The time of a payload's earliest event; None where it has none. Raises ValueError as ``decode`` does."""
    return min((stored.at for stored in decode(payload)), default=None)


def in_order(payloads: Iterable[tuple[int, bytes]], rank: Callable[[StoredEvent], int]) -> Iterator[StoredEvent]:
    """All events by their time, then by cause (``rank``), then by arrival: the order in which the machine wants them.

    Each payload comes with what ``begins`` says of it, and is decoded when its time has come: a stored event takes six
    times the room of its JSON, and a call may hold a million.
    """
    waiting: list[tuple[int, int, int, int, StoredEvent]] = []
    for begin, arrival, payload in sorted(
        (begin, arrival, payload) for arrival, (begin, payload) in enumerate(payloads)
    ):
        while waiting and waiting[0][0] < begin:
            yield heappop(waiting)[-1]
        before = (-1, 0)
        for place, stored in enumerate(decode(payload)):
            cause = rank(stored)
            # Its time is that of the event before it, and so it came behind that one, whatever causes what.
            if stored.event.get("untimed") is True and before[0] == stored.at:
                cause = max(cause, before[1])
            before = (stored.at, cause)
            heappush(waiting, (stored.at, cause, arrival, place, stored))
    while waiting:
        yield heappop(waiting)[-1]


def _row(stored: StoredEvent) -> list[object]:
    row: list[object] = [stored.at, stored.side.value, stored.event]
    return row if stored.count == 1 else [*row, stored.count, stored.last]


def _of_row(row: object) -> StoredEvent | None:
    match row:
        case [int(at), str(side), dict(event)] if isinstance(event.get("type"), str):
            count, last = 1, 0
        case [int(at), str(side), dict(event), int(count), int(last)] if isinstance(event.get("type"), str):
            pass
        case _:
            return None
    known = _SIDES.get(side)
    return None if known is None else StoredEvent(UnixNano(at), known, event, count, last)
