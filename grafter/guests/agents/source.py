"""Items of the Agents SDKs as a source of guests, and those of webhooks as another: they differ in name only."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from grafter.core.lifecycle import Wholeness
from grafter.core.model import Source
from grafter.core.policy import GraftPolicy
from grafter.core.state import GuestState
from grafter.guests.agents.spans import map_guest
from grafter.guests.source import GuestSource, Head, Reading


class AgentsSource(GuestSource):
    """Trace objects and spans, as they are posted.

    Nothing on the wire says that a trace has ended. So it is whole with its trace object, a top-level span, and every
    parent that one of its spans names.
    """

    wholeness = Wholeness(by_items=True, by_parents=True)

    def __init__(self, name: Source) -> None:
        self._name = name

    def read(self, guest: str, payloads: Sequence[bytes], policy: GraftPolicy, head: Head, *, final: bool) -> Reading:
        return Reading((map_guest(guest, self._name, payloads, policy, head),), policy.mode)

    def resumed(self, guest: GuestState, head: Mapping[str, object], *, sent: bool) -> GuestState:
        """The rest of a trace of which spans have left: what left counts, so it is whole when no parent is missing."""
        return replace(guest, head=True, top_level=True) if sent else guest
