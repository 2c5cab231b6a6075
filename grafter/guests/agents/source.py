"""Items of the Agents SDKs as a source of guests, and those of webhooks as another: they differ in name only."""

from collections.abc import Mapping, Sequence

from grafter.core.model import Source
from grafter.core.policy import GraftPolicy
from grafter.core.state import GuestState
from grafter.guests.agents.spans import map_guest
from grafter.guests.agents.wholeness import WHOLENESS, resumed
from grafter.guests.source import GuestSource, Head, Reading


class AgentsSource(GuestSource):
    """Trace objects and spans, as they are posted."""

    wholeness = WHOLENESS

    def __init__(self, name: Source) -> None:
        self._name = name

    def read(self, guest: str, payloads: Sequence[bytes], policy: GraftPolicy, head: Head, *, final: bool) -> Reading:
        return Reading((map_guest(guest, self._name, payloads, policy, head),), policy.mode)

    def resumed(self, guest: GuestState, head: Mapping[str, object], *, sent: bool) -> GuestState:
        return resumed(guest, sent=sent)
