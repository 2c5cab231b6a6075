"""What everybody outside of ``guests`` asks of a source, whichever it is: one class a folder, listed in ``sources``.

A folder has the same files whatever it reads: ``intake`` (a body to parts), ``content`` (what of it may be stored),
``spans`` (parts to guest spans) and ``source``, which joins them here and says when a guest of it is whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from grafter.core.lifecycle import ReleaseReason, Wholeness
from grafter.core.model import Guest, Key, Link, TraceId, UnixNano, guest_key
from grafter.core.policy import GraftPolicy, Mode
from grafter.core.state import GuestState


@dataclass(frozen=True, slots=True)
class Mapped:
    """A guest, ready to be hung."""

    guest: Guest
    repeated: int
    """Span items beyond the first of the same id."""
    odd: int
    """Payloads and items that could not be read."""
    head: dict[str, object]
    """What to remember of the trace object, JSON-able and of bounded size: workflow name, group id, metadata, link;
    and ``malformed``, the reason why metadata that seems to name a host names none."""
    weak: Link | None = None
    """Of a guest without a link: a host that it may belong to, which holds only where it is that one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the parts of one guest came to."""

    guests: tuple[Mapped, ...]
    """The guest itself, and then those that its parts hold beside it."""
    mode: Mode
    """STREAM: a span whose parent has not come keeps the place under it; HOLD: it hangs where its guest hangs."""
    goes_on: bool = False
    """More of it is expected, so somebody has to look again."""


Head = Mapping[str, object] | None
"""What a guest's memory has of its trace object (``Mapped.head``); None: nothing of the guest left before."""


class GuestSource(Protocol):
    """One source of guests. What a source does not define, it has from here."""

    wholeness: Wholeness
    """When a guest of it is whole: all of it has come."""
    large_bytes: int = 2 << 20
    """Payload that takes longer to read and join than other requests should wait, some 50 ms."""
    holds_events: bool = False
    """Its parts hold no spans but events, of which spans are made when they are read: they are counted then."""
    has_hints: bool = False
    """Somebody outside of the app may name the host."""

    def read(self, guest: str, payloads: Sequence[bytes], policy: GraftPolicy, head: Head, *, final: bool) -> Reading:
        """The parts of one guest, in order of arrival, to spans.

        ``guest`` is its name in GuestFacts. ``final``: nothing more of it is waited for, so what is open is closed.
        Never raises for what a payload holds.
        """
        ...

    def key(self, trace_id: str) -> Key:
        """The key of a guest of a reading, by its trace id."""
        return guest_key(trace_id)

    def further_keys(self, memory: bytes) -> Sequence[Key]:
        """The keys of the guests beside it that this memory of a guest names: theirs are needed to read it again."""
        return ()

    def hinted_host(self, payloads: Sequence[bytes], head: Head) -> TraceId | None:
        """The host that a hint names: it holds only where it has come."""
        return None

    def only_hints(self, payloads: Sequence[bytes]) -> bool:
        """Nothing has come but hints, so that nobody knows whether anything ever will."""
        return False

    def resumed(self, guest: GuestState, head: Mapping[str, object], *, sent: bool) -> GuestState:
        """What is known of a guest with what its memory adds; ``sent``: spans of it have left."""
        return guest

    def is_final(
        self, guest: GuestState | None, reason: ReleaseReason, policy: GraftPolicy, now: UnixNano, *, ended: bool
    ) -> bool:
        """Nothing more of the guest is waited for after a release of this reason. ``ended``: one of its parts said
        that it has ended."""
        return True
