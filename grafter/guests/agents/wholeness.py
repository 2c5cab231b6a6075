"""When a trace of the Agents SDKs is whole: nothing on the wire says that it has ended.

So it is whole with its trace object, a top-level span, and every parent that one of its spans names.
"""

from dataclasses import replace

from grafter.core.lifecycle import Wholeness
from grafter.core.state import GuestState

WHOLENESS = Wholeness(by_items=True, by_parents=True)


def resumed(guest: GuestState, *, sent: bool) -> GuestState:
    """The rest of a trace of which spans have left: what left counts, so it is whole when no parent is missing."""
    return replace(guest, head=True, top_level=True) if sent else guest
