"""The stored parts of one guest, read by its source: the same reading for whoever decides and for whoever assembles."""

from collections.abc import Iterable, Mapping, Sequence

from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import GuestMemory
from grafter.core.model import Key, TraceId, UnixNano, guest_key
from grafter.core.policy import GraftPolicy
from grafter.core.state import GuestState
from grafter.guests.source import Reading
from grafter.guests.sources import source_of
from grafter.store.base import StoredPart


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


def _decoded(recalled: Mapping[bytes, bytes], key: Key) -> GuestMemory | None:
    blob = recalled.get(key)
    return None if blob is None else GuestMemory.decode(blob)
