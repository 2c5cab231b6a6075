"""When a Realtime call is whole: when it has ended, by its own events, by whoever closes it, or by its silence."""

from collections.abc import Mapping
from dataclasses import replace

from grafter.core.lifecycle import ReleaseReason, Wholeness
from grafter.core.model import UnixNano
from grafter.core.policy import GraftPolicy, Mode
from grafter.core.state import GuestState
from grafter.guests.json_values import mapping_of, text_of
from grafter.guests.realtime.mapping import STATE

WHOLENESS = Wholeness(runs=True)

_FINAL = frozenset({ReleaseReason.MAX, ReleaseReason.HOST_MISSING, ReleaseReason.GUEST_TIMEOUT})
"""Releases after which nothing more is waited for; that of ``idle`` is seen by the silence itself."""


def is_final(
    guest: GuestState | None, reason: ReleaseReason, policy: GraftPolicy, now: UnixNano, *, ended: bool
) -> bool:
    """What is still open of the call is closed by this release, whatever its events say: it is not waited for any
    longer.

    Otherwise only what has ended leaves, and the rest goes on; unless it has all ended, which only its events know
    (``has_ended``): a Live session that was closed may be followed by another one.
    """
    if reason in _FINAL:
        return True
    released_for_good = reason is ReleaseReason.UNLINKED or (
        reason is ReleaseReason.LATE_GUEST and policy.mode is Mode.HOLD
    )
    if released_for_good and not ended:
        return True
    # The reason of an earlier attempt may be forgotten; that the call fell silent is seen by itself.
    return guest is not None and now >= guest.last + policy.waits.idle


def resumed(guest: GuestState, head: Mapping[str, object]) -> GuestState:
    """The rest of a call of which something has left, which may have ended by then."""
    return replace(guest, ended=guest.ended or has_ended(head, goes_on=guest.head))


def has_ended(head: Mapping[str, object], *, goes_on: bool = False) -> bool:
    """By what a release left in the head of a call it has ended: what comes still is late, and not a call that runs.

    ``goes_on``: what comes still may begin a session. Of a Live session that was closed nothing is late then; only
    whoever said that the call itself is over said it for good.
    """
    machine = mapping_of(mapping_of(head.get(STATE)).get("machine"))
    return text_of(machine.get("ended_by")) is not None or (machine.get("ended") is True and not goes_on)
