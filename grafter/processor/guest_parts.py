"""The stored parts of one guest, read by its source: the same reading for whoever decides and for whoever assembles."""

from collections.abc import Iterable, Mapping, Sequence

from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import GuestMemory
from grafter.core.memory_blobs import decode_guest
from grafter.core.model import NAMED_BY, GuestFacts, Key, Link, TraceId, UnixNano, called, guest_key
from grafter.core.policy import GraftPolicy
from grafter.core.semconv import GEN_AI_RESPONSE_ID
from grafter.core.state import GuestState
from grafter.guests.source import Reading
from grafter.guests.sources import source_of
from grafter.store.model import StoredPart

_INSIDE = frozenset({GEN_AI_RESPONSE_ID})
_MOST_INSIDE = 100
"""Ids of responses that are asked for: a trace with more of them is named by one of these, or by nothing."""


class GuestParts:
    """The parts of one guest with what is remembered of it; mapped when somebody asks, and once however many ask."""

    def __init__(self, parts: Sequence[StoredPart], recalled: Mapping[bytes, bytes], policy: GraftPolicy) -> None:
        """``recalled``: the memories of its key, and of those that this one names."""
        facts = parts[0].guest
        assert facts is not None
        self.parts = parts
        self.facts = facts
        self.name = facts.guest
        self.source = source_of(facts.source)
        self.came = sum(part.spans for part in parts)
        """Spans that were counted when they came."""
        self.memory = _decoded(recalled, guest_key(facts.guest))
        named = next((part.guest for part in parts if part.guest is not None and part.guest.how), None)
        self.given = _given(named) if named is not None else _remembered(self.memory)
        """The link that somebody else named and the guest took up, if it is the one that holds."""
        self._ended = any(part.guest is not None and part.guest.ended for part in parts)
        self._payloads = [part.payload for part in parts]
        self._recalled = recalled
        self._policy = policy
        self._readings: dict[bool, Reading] = {}

    def read(self, *, final: bool) -> Reading:
        """What its parts come to; ``final``: nothing more of it is waited for."""
        reading = self._readings.get(final)
        if reading is None:
            head = None if self.memory is None else self.memory.head
            reading = self.source.read(self.name, self._payloads, self._policy, head, final=final)
            self._readings[final] = reading
        return reading

    def ids(self, *, final: bool) -> list[list[str]]:
        """What somebody may have named the guest by, from what it is called to what is in it; ``final`` as for read."""
        guests = [mapped.guest for mapped in self.read(final=final).guests]
        inside = {value for guest in guests for span in guest.spans for key, value in span.attributes if key in _INSIDE}
        names = dict.fromkeys((called(self.name), *(guest.trace_id for guest in guests)))
        sessions = dict.fromkeys(name for guest in guests for name in sorted(guest.conversation_ids))
        responses = sorted(value for value in inside if isinstance(value, str))[:_MOST_INSIDE]
        return [list(names), list(sessions), responses]

    def is_final(self, state: GuestState | None, reason: ReleaseReason, now: UnixNano) -> bool:
        """Nothing more of it is waited for after a release of this reason."""
        return self.source.is_final(state, reason, self._policy, now, ended=self._ended)

    def hinted_host(self) -> TraceId | None:
        """A host that somebody outside of the app names."""
        return self.source.hinted_host(self._payloads, None if self.memory is None else self.memory.head)

    def only_hints(self) -> bool:
        """Nothing has come but such hints."""
        return self.source.only_hints(self._payloads)

    def memory_of(self, key: Key) -> GuestMemory | None:
        """What was kept of a guest that these parts hold."""
        return self.memory if key == guest_key(self.name) else _decoded(self._recalled, key)


def by_guest(parts: Iterable[StoredPart]) -> list[list[StoredPart]]:
    """The guest parts, by guest, in order of arrival; guests in order of their ids."""
    guests: dict[str, list[StoredPart]] = {}
    for part in parts:
        if part.guest is not None:
            guests.setdefault(part.guest.guest, []).append(part)
    return [guests[name] for name in sorted(guests)]


def _given(facts: GuestFacts) -> Link | None:
    return None if facts.host is None else Link(facts.host, facts.anchor, facts.sampled, facts.how)


def _remembered(memory: GuestMemory | None) -> Link | None:
    """The link by which the guest's first spans left."""
    if memory is None or memory.host is None or memory.record is None or memory.record.link not in NAMED_BY:
        return None
    return Link(memory.host, how=memory.record.link)


def _decoded(recalled: Mapping[bytes, bytes], key: Key) -> GuestMemory | None:
    blob = recalled.get(key)
    return None if blob is None else decode_guest(blob)
