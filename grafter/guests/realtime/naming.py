"""How a Realtime call names its host, and what else its metadata says.

Metadata may come from whoever started the recorder, with posted events, and in the session's own tracing
configuration; in that order they are believed, key by key and as links. A SIP header comes from outside and can name
anything, so it only points at a host (see ``Naming.weak``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from grafter.core.link import TRACEPARENT_KEY, Malformed, from_metadata
from grafter.core.model import Link
from grafter.guests.json_values import float_of, mapping_of, text_of
from grafter.guests.realtime.stored_event import METADATA, SIP, StoredEvent

_START = "start"
_POSTED = "posted"
_MOST_KEYS = 256


@dataclass(slots=True)
class Naming:
    """What grafter's own events say of a call; what its sessions say is given with each question."""

    metadata: dict[str, dict[str, object]] = field(default_factory=dict)
    """By origin."""
    traceparent: str | None = None
    clock: dict[str, float] = field(default_factory=dict)
    """``ahead_ms``: the sender's clock is ahead of grafter's by that much at least, for no post comes before it is
    sent; ``offset_ms``: by how much times were set back for it."""

    def take(self, stored: StoredEvent) -> None:
        """Read an event of grafter's own; later keys of one origin win, null takes nothing away."""
        event = stored.event
        if event.get("type") == SIP:
            self.traceparent = self.traceparent or text_of(event.get("traceparent"))
        elif event.get("type") == METADATA:
            origin = _START if event.get("origin") == _START else _POSTED
            known = self.metadata.setdefault(origin, {})
            for key, value in mapping_of(event.get("metadata")).items():
                if value is not None and (key in known or len(known) < _MOST_KEYS):
                    known[key] = value
            for name, value in mapping_of(event.get("clock")).items():
                number = float_of(value)
                if number is not None and name in ("ahead_ms", "offset_ms"):
                    self.clock[name] = max(number, self.clock.get(name, number))

    def merged(self, session: Mapping[str, object]) -> dict[str, object]:
        """All metadata as one object."""
        found: dict[str, object] = {}
        for metadata in reversed(list(self._by_worth(session))):
            found.update(metadata)
        return found

    def link(self, session: Mapping[str, object], keys: Sequence[str]) -> tuple[Link | None, str | None]:
        """The host, by the first metadata that names one; and where none does, why what seems to name one does not."""
        malformed: str | None = None
        for metadata in self._by_worth(session):
            named = from_metadata(metadata, keys)
            if isinstance(named, Link):
                return named, None
            if isinstance(named, Malformed):
                malformed = malformed or named.reason
        return None, malformed

    def weak(self) -> Link | None:
        """The host that the caller's SIP headers name, which holds only where that host is known."""
        named = from_metadata({TRACEPARENT_KEY: self.traceparent}, ())
        return replace(named, how="sip") if isinstance(named, Link) else None

    def state(self) -> dict[str, object]:
        return {"metadata": self.metadata, "traceparent": self.traceparent, "clock": self.clock}

    @classmethod
    def restored(cls, state: object) -> "Naming":
        """What ``state`` wrote; an empty one from anything else."""
        stored = mapping_of(state)
        metadata = mapping_of(stored.get("metadata"))
        return cls(
            metadata={origin: dict(mapping_of(metadata.get(origin))) for origin in (_START, _POSTED)},
            traceparent=text_of(stored.get("traceparent")),
            clock={
                name: number
                for name, value in mapping_of(stored.get("clock")).items()
                if (number := float_of(value)) is not None
            },
        )

    def _by_worth(self, session: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
        for origin in (_START, _POSTED):
            yield self.metadata.get(origin, {})
        yield session
