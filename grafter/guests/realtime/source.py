"""Realtime calls as a source of guests: one key, several sessions, and releases while the call still runs.

What is stored of a call is its events, so its spans are made only at release, and each release goes on where the one
before it stood: the memory of the call's key holds the state machine, and names the sessions that have memories of
their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from grafter.core.lifecycle import ReleaseReason, Wholeness, has_fallen_silent
from grafter.core.link import from_metadata
from grafter.core.memory_blobs import decode_guest
from grafter.core.model import Key, Link, TraceId, UnixNano, call_guest, called, guest_key
from grafter.core.policy import GraftPolicy, Mode
from grafter.core.state import GuestState
from grafter.guests.json_values import list_of, mapping_of, text_of
from grafter.guests.realtime.spans import STATE, map_realtime
from grafter.guests.realtime.stored_event import SIP, decode
from grafter.guests.source import GuestSource, Head, Reading

_SESSIONS = "sessions"
# One call has a handful of sessions; more are joined all the same, but a repeat of theirs is not seen.
_MAX_SESSIONS = 1_000
_SIP_MARK = SIP.encode()

_FINAL = frozenset({ReleaseReason.MAX, ReleaseReason.HOST_MISSING, ReleaseReason.GUEST_TIMEOUT})
"""Releases after which nothing more is waited for; that of ``idle`` is seen by the silence itself."""


class RealtimeSource(GuestSource):
    """Events of the Realtime and the Live API, posted or heard by grafter itself."""

    wholeness = Wholeness(runs=True)
    # An event takes some 200 bytes and 30 us: 40 ms.
    large_bytes = 256 << 10
    holds_events = True
    has_hints = True

    def read(self, guest: str, payloads: Sequence[bytes], policy: GraftPolicy, head: Head, *, final: bool) -> Reading:
        call = called(guest)
        first, *further = map_realtime(call, payloads, policy, head, final=final)
        # The call's own head names the sessions that have left, so that their memories are found again.
        names = _sessions(head) | dict.fromkeys(session.guest.trace_id for session in further)
        if names:
            first = replace(first, head={**first.head, _SESSIONS: list(names)[-_MAX_SESSIONS:]})
        goes_on = not (final or has_ended(first.head))
        # While a call runs its session's span, under which all others are, has yet to come.
        return Reading((first, *further), Mode.STREAM if goes_on else Mode.HOLD, goes_on)

    def key(self, trace_id: str) -> Key:
        return guest_key(call_guest(trace_id))

    def further_keys(self, memory: bytes) -> Sequence[Key]:
        known = decode_guest(memory)
        return () if known is None else [self.key(name) for name in _sessions(known.head)]

    def hinted_host(self, payloads: Sequence[bytes], head: Head) -> TraceId | None:
        """The host that a SIP header of the call names: the caller wrote it."""
        links = (from_metadata({"traceparent": one}, ()) for one in _traceparents(payloads, head))
        return next((link.host for link in links if isinstance(link, Link)), None)

    def only_hints(self, payloads: Sequence[bytes]) -> bool:
        """Nothing has come of the call but what its SIP headers say: nobody may be listening to it."""
        return all(
            stored.event.get("type") == SIP for payload in payloads if payload != b"[]" for stored in decode(payload)
        )

    def resumed(self, guest: GuestState, head: Mapping[str, object], *, sent: bool) -> GuestState:
        """The rest of a call of which something has left, which may have ended by then."""
        return replace(guest, ended=guest.ended or has_ended(head, goes_on=guest.head))

    def is_final(
        self, guest: GuestState | None, reason: ReleaseReason, policy: GraftPolicy, now: UnixNano, *, ended: bool
    ) -> bool:
        """What is still open of the call is closed by this release, whatever its events say.

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
        return guest is not None and has_fallen_silent(guest, now, policy.waits)


def has_ended(head: Mapping[str, object], *, goes_on: bool = False) -> bool:
    """By what a release left in the head of a call it has ended: what comes still is late, and not a call that runs.

    ``goes_on``: what comes still may begin a session. Of a Live session that was closed nothing is late then; only
    whoever said that the call itself is over said it for good.
    """
    machine = mapping_of(mapping_of(head.get(STATE)).get("machine"))
    return text_of(machine.get("ended_by")) is not None or (machine.get("ended") is True and not goes_on)


def _traceparents(payloads: Sequence[bytes], head: Head) -> Iterator[object]:
    yield mapping_of(mapping_of(mapping_of(head).get(STATE)).get("naming")).get("traceparent")
    for payload in payloads:
        if _SIP_MARK in payload:
            yield from (
                stored.event.get("traceparent") for stored in decode(payload) if stored.event.get("type") == SIP
            )


def _sessions(head: Head) -> dict[str, None]:
    names = list_of(None if head is None else head.get(_SESSIONS))
    return {name: None for name in names if isinstance(name, str)}
