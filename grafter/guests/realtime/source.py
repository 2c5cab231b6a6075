"""Realtime calls as a source of guests: one key, several sessions, and releases while the call still runs.

What is stored of a call is its events, so its spans are made only at release, and each release goes on where the one
before it stood: the memory of the call's key holds the state machine, and names the sessions that have memories of
their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from grafter.core.lifecycle import ReleaseReason
from grafter.core.link import from_metadata
from grafter.core.memory import GuestMemory
from grafter.core.model import Key, Link, TraceId, UnixNano, call_guest, called, guest_key
from grafter.core.policy import GraftPolicy, Mode
from grafter.core.state import GuestState
from grafter.guests.json_values import list_of, mapping_of
from grafter.guests.realtime import wholeness
from grafter.guests.realtime.mapping import STATE, map_realtime
from grafter.guests.realtime.notes import SIP, decode
from grafter.guests.source import GuestSource, Reading

_SESSIONS = "sessions"
# One call has a handful of sessions; more are joined all the same, but a repeat of theirs is not seen.
_MAX_SESSIONS = 1_000
_SIP_MARK = SIP.encode()


class RealtimeSource(GuestSource):
    """Events of the Realtime and the Live API, posted or heard by grafter itself."""

    wholeness = wholeness.WHOLENESS
    # An event takes some 200 bytes and 30 us: 40 ms.
    large_bytes = 256 << 10
    holds_events = True
    has_hints = True

    def read(
        self,
        guest: str,
        payloads: Sequence[bytes],
        policy: GraftPolicy,
        head: Mapping[str, object] | None,
        *,
        final: bool,
    ) -> Reading:
        call = called(guest)
        first, *further = map_realtime(call, payloads, policy, head, final=final)
        # The call's own head names the sessions that have left, so that their memories are found again.
        names = _sessions(head) | dict.fromkeys(session.guest.trace_id for session in further)
        if names:
            first = replace(first, head={**first.head, _SESSIONS: list(names)[-_MAX_SESSIONS:]})
        goes_on = not (final or wholeness.has_ended(first.head))
        # While a call runs its session's span, under which all others are, has yet to come.
        return Reading((first, *further), Mode.STREAM if goes_on else Mode.HOLD, goes_on)

    def key(self, trace_id: str) -> Key:
        return guest_key(call_guest(trace_id))

    def further_keys(self, memory: bytes) -> Sequence[Key]:
        known = GuestMemory.decode(memory)
        return () if known is None else [self.key(name) for name in _sessions(known.head)]

    def hinted_host(self, payloads: Sequence[bytes], head: Mapping[str, object] | None) -> TraceId | None:
        """The host that a SIP header of the call names: the caller wrote it."""
        links = (from_metadata({"traceparent": one}, ()) for one in _traceparents(payloads, head))
        return next((link.host for link in links if isinstance(link, Link)), None)

    def only_hints(self, payloads: Sequence[bytes]) -> bool:
        """Nothing has come of the call but what its SIP headers say: nobody may be listening to it."""
        return all(
            note.event.get("type") == SIP for payload in payloads if payload != b"[]" for note in decode(payload)
        )

    def resumed(self, guest: GuestState, head: Mapping[str, object], *, sent: bool) -> GuestState:
        return wholeness.resumed(guest, head)

    def is_final(
        self, guest: GuestState | None, reason: ReleaseReason, policy: GraftPolicy, now: UnixNano, *, ended: bool
    ) -> bool:
        return wholeness.is_final(guest, reason, policy, now, ended=ended)


def _traceparents(payloads: Sequence[bytes], head: Mapping[str, object] | None) -> Iterator[object]:
    yield mapping_of(mapping_of(mapping_of(head).get(STATE)).get("naming")).get("traceparent")
    for payload in payloads:
        if _SIP_MARK in payload:
            yield from (note.event.get("traceparent") for note in decode(payload) if note.event.get("type") == SIP)


def _sessions(head: Mapping[str, object] | None) -> dict[str, None]:
    names = list_of(None if head is None else head.get(_SESSIONS))
    return {name: None for name in names if isinstance(name, str)}
