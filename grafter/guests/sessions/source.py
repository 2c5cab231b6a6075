"""Hosted Agents sessions as a source of guests: all turns of a session are one guest."""

from collections.abc import Sequence

from grafter.core.lifecycle import Wholeness
from grafter.core.policy import GraftPolicy
from grafter.guests.sessions.spans import map_session
from grafter.guests.source import GuestSource, Head, Reading


class SessionsSource(GuestSource):
    """What OpenAI's API answers about a session. It ends with each event, for a turn is over then, and goes on with the
    next one.

    What its parts name as ids and parents are not spans but promises. An event's first part names one as a parent, and
    the part with which all pages of that event have been read names it as an id. So a session is whole when it has
    ended and no promise is open.
    """

    wholeness = Wholeness(by_parents=True)

    def read(self, guest: str, payloads: Sequence[bytes], policy: GraftPolicy, head: Head, *, final: bool) -> Reading:
        return Reading((map_session(guest, payloads, policy, head),), policy.mode)
