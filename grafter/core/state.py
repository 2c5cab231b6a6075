"""What is known of a held trace without reading it: the sum of the facts of its parts.

A store keeps these sums beside the bytes and hands them out with a claim; the lifecycle decides on them alone.
Every operation here commutes, so that the order of arrival does not matter.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from grafter.core.model import Facts, GuestFacts, Source, SpanId, TraceId, UnixNano


@dataclass(slots=True)
class GuestState:
    """What is known of one guest of a held trace."""

    guest: str
    source: Source
    first: UnixNano
    last: UnixNano
    """Arrival of its first and of its latest part."""
    host: TraceId | None = None
    sampled: bool | None = None
    head: bool = False
    top_level: bool = False
    ended: bool = False
    ids: set[SpanId] = field(default_factory=set)
    parents: set[SpanId] = field(default_factory=set)

    def absorb(self, facts: GuestFacts, now: UnixNano) -> None:
        """Add what one more part says. A link once known never changes."""
        self.first = min(self.first, now)
        self.last = max(self.last, now)
        if self.host is None and facts.host is not None:
            self.host = facts.host
            self.sampled = facts.sampled
        self.head |= facts.head
        self.top_level |= facts.top_level
        self.ended |= facts.ended
        self.ids.update(facts.ids)
        self.parents.update(facts.parents)

    @property
    def missing_parents(self) -> bool:
        """Some span names a parent that has not come."""
        return not self.parents <= self.ids


@dataclass(slots=True)
class TraceState:
    """What is known of one held key."""

    first: UnixNano
    last: UnixNano
    """Arrival of the first and of the latest part, guests' parts included."""
    host_spans: int = 0
    guest_spans: int = 0
    bytes: int = 0
    facts: Facts = Facts.NONE
    guests: dict[str, GuestState] = field(default_factory=dict)
    remembered: bool = False
    """The trace of this key was released before, so what is held now came late (or mode is stream)."""

    def absorb_guest(self, facts: GuestFacts, now: UnixNano) -> None:
        """Add a guest part's facts."""
        known = self.guests.get(facts.guest)
        if known is None:
            known = self.guests[facts.guest] = GuestState(facts.guest, facts.source, now, now)
        known.absorb(facts, now)


def guest_state(parts: Iterable[tuple[GuestFacts, UnixNano]]) -> dict[str, GuestState]:
    """The states of the guests that these parts belong to, whatever their order."""
    state = TraceState(UnixNano(0), UnixNano(0))
    for facts, now in parts:
        state.absorb_guest(facts, now)
    return state.guests
