"""Hosted Agents sessions as a source of guests: all turns of a session are one guest."""

from collections.abc import Sequence

from grafter.core.policy import GraftPolicy
from grafter.guests.sessions.spans import map_session
from grafter.guests.sessions.wholeness import WHOLENESS
from grafter.guests.source import GuestSource, Head, Reading


class SessionsSource(GuestSource):
    """What OpenAI's API answers about a session."""

    wholeness = WHOLENESS

    def read(self, guest: str, payloads: Sequence[bytes], policy: GraftPolicy, head: Head, *, final: bool) -> Reading:
        return Reading((map_session(guest, payloads, policy, head),), policy.mode)
