"""Traces of other systems as a source of guests, for the wait of their host alone.

Such a trace is held under its own id, whole, and leaves after its host (``processor/rules.py``). Under the host's key
stand parts without a span, which say that it has begun, that more of it has come, and that its root has.
"""

from collections.abc import Sequence

from grafter.core.lifecycle import Wholeness
from grafter.core.model import GuestFacts, Part, Source, TraceId, guest_key, moved_guest
from grafter.core.policy import GraftPolicy
from grafter.guests.source import GuestSource, Head, Reading


class MovedTraces(GuestSource):
    """Nothing of such a part leaves, and nothing of it is remembered. The trace is whole when its root has come, and it
    is as quiet as its host has to be."""

    wholeness = Wholeness(by_root=True)

    def read(self, guest: str, payloads: Sequence[bytes], policy: GraftPolicy, head: Head, *, final: bool) -> Reading:
        return Reading((), policy.mode)


def sign_of(trace: TraceId, host: TraceId, *, rooted: bool) -> Part:
    """The part by which a host learns that more of a trace has come that moves under it; ``rooted``: its root, too."""
    name = moved_guest(trace)
    # A list of no items: so a version that knows no such source reads it.
    return Part(guest_key(name), b"[]", 0, guest=GuestFacts(name, Source.OTLP, host=host, head=True, top_level=rooted))
