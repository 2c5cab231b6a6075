"""Guests that leave in one release: where each hangs, what it leaves as, what is counted and what is remembered of it.

A guest is hung first and written last: in between the steps of all of them and of their host are lined up, which may
change a span of any.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from grafter.consumer import Piece
from grafter.core.anchor import AnchorIndex
from grafter.core.explain import Refusal
from grafter.core.join import Grafted
from grafter.core.memory import GuestMemory
from grafter.core.memory_blobs import encode_guest
from grafter.core.model import Envelope, GraftedSpan, Guest, Key, TraceId, UnixNano, unlinked_trace_id
from grafter.core.state import GuestState
from grafter.otlp import spans as otlp
from grafter.otlp.frames import PREFIX
from grafter.processor.release_result import Assembled, GuestCount
from grafter.store.model import Memory


@dataclass(frozen=True, slots=True)
class Place:
    """Where a guest hangs, and when."""

    host: TraceId | None
    """None: a trace of its own."""
    index: AnchorIndex | None
    """None: nothing is known of the host."""
    state: GuestState | None
    now: UnixNano
    late: bool
    overdue: bool = False
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Hung:
    guest: Guest
    grafted: Grafted
    came: int
    """How many of its spans had come."""
    place: Place
    first: bool
    """Nothing of it left before."""


Kept = tuple[Key, Key | None, GuestMemory, int | None]
"""A guest's memory, its key and its host's; and which of those that are hung it is, whose memory then has the last
word."""


def pieces_of(spans: Iterable[GraftedSpan], openai: Envelope, scope: bytes) -> list[Piece]:
    """Spans that grafter writes as pieces by resource; ``openai``: of those that take none from a host span."""
    runs: dict[bytes | None, list[bytes]] = {}
    envelopes: dict[bytes | None, Envelope] = {None: openai}
    for span in spans:
        resource = span.envelope.resource if span.envelope is not None else None
        if resource is not None and resource not in envelopes:
            envelopes[resource] = Envelope(resource, scope)
        raw = otlp.encode(span)
        runs.setdefault(resource, []).extend((PREFIX[len(raw)], raw))
    return [Piece(envelopes[resource], b"".join(run), len(run) // 2) for resource, run in runs.items()]


def count(out: Assembled, one: Hung) -> None:
    """Add what is counted of the guest once its release is settled."""
    grafted, place = one.grafted, one.place
    real = len(grafted.spans) - grafted.synthetic
    out.merged += one.came - real
    out.synthetic += grafted.synthetic
    waited = (place.now - place.state.first) / 1e9 if place.state is not None else 0.0
    match = grafted.match if place.host is not None else ""
    malformed = bool(grafted.memory.head.get("malformed"))
    first = one.first and real > 0
    out.guests.append(GuestCount(one.guest.source, real, match, waited, place.late, first, malformed))


def memories(kept: Iterable[Kept], hung: Sequence[Hung]) -> list[Memory]:
    """What is remembered of guests, when all is known that is to be said of them."""
    return [
        Memory(key, encode_guest(memory if at is None else hung[at].grafted.memory), held_under)
        for key, held_under, memory, at in kept
    ]


def unhung(guest: Guest, host: TraceId | None, earlier: GuestMemory | None, head: Mapping[str, object]) -> GuestMemory:
    """What is kept of a guest of which nothing leaves yet."""
    if earlier is not None:
        return replace(earlier, head=head)
    return GuestMemory(host, unlinked_trace_id(guest.trace_id) if host is None else host, head=head)
