"""Realtime calls among the guests: one key, several sessions, and releases while the call still runs.

What is stored of a call is its events, so its spans are made only at release, and each release goes on where the one
before it stood: the memory of the call's key holds the state machine, and names the sessions that have memories of
their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from grafter.core.lifecycle import ReleaseReason
from grafter.core.link import from_metadata
from grafter.core.memory import GuestMemory
from grafter.core.model import (
    Guest,
    Key,
    Link,
    Source,
    TraceId,
    UnixNano,
    call_guest,
    called,
    guest_key,
    unlinked_trace_id,
)
from grafter.core.policy import GraftPolicy, Mode
from grafter.core.state import GuestState, TraceState
from grafter.guests.agents.spans import Mapped
from grafter.guests.realtime.spans import STATE, map_realtime
from grafter.guests.realtime.stored_event import SIP, decode
from grafter.guests.values import list_of, mapping_of, text_of
from grafter.store.base import StoredPart

_SESSIONS = "sessions"
# One call has a handful of sessions; more are joined all the same, but a repeat of theirs is not told.
_MAX_SESSIONS = 1_000

_FINAL = frozenset(
    {
        ReleaseReason.MAX,
        ReleaseReason.HOST_MISSING,
        ReleaseReason.GUEST_TIMEOUT,
    }
)
"""Releases after which nothing more is waited for; that of ``idle`` is seen by the silence itself."""

_SIP_MARK = SIP.encode()

# A note takes some 200 bytes and 30 us: 40 ms.
_LARGE_BYTES = 256 << 10


def is_large(state: TraceState) -> bool:
    """To read the events of the calls among these guests takes longer than others should wait."""
    return state.bytes > _LARGE_BYTES and any(guest.source is Source.REALTIME for guest in state.guests.values())


def is_call(parts: Sequence[StoredPart]) -> bool:
    """These are the parts of a Realtime call."""
    facts = parts[0].guest
    return facts is not None and facts.source is Source.REALTIME


def is_final(
    parts: Sequence[StoredPart],
    guest: GuestState | None,
    reason: ReleaseReason,
    policy: GraftPolicy,
    now: UnixNano,
) -> bool:
    """What is still open of the call is closed by this release, whatever its events say: it is not waited for any
    longer.

    Otherwise only what has ended leaves, and the rest goes on; unless it has all ended, which only its events know
    (``has_ended``): a Live session that was closed may be followed by another one.
    """
    if reason in _FINAL:
        return True
    said = any(part.guest is not None and part.guest.ended for part in parts)
    if not said and (
        reason is ReleaseReason.UNLINKED or (reason is ReleaseReason.LATE_GUEST and policy.mode is Mode.HOLD)
    ):
        return True
    # The reason of an earlier attempt may be forgotten; that the call fell silent is seen by itself.
    return guest is not None and now >= guest.last + policy.waits.idle


def has_ended(head: Mapping[str, object] | None, *, goes_on: bool = False) -> bool:
    """By what a release left in the head of a call it has ended: what comes still is late, and not a call that runs.

    ``goes_on``: what comes still may begin a session. Of a Live session that was closed nothing is late then; only
    whoever said that the call itself is over said it for good.
    """
    machine = mapping_of(mapping_of(mapping_of(head).get(STATE)).get("machine"))
    return text_of(machine.get("ended_by")) is not None or (machine.get("ended") is True and not goes_on)


def mapped_sessions(
    parts: Sequence[StoredPart], recalled: Mapping[bytes, bytes], policy: GraftPolicy, *, final: bool
) -> list[tuple[Mapped, GuestMemory | None]]:
    """The sessions of one call, the one that bears its key first, each with what was kept of it.

    The first one's head also names the others that have left, so that their memories are found again.
    """
    facts = parts[0].guest
    assert facts is not None
    call = called(facts.guest)
    earlier = _recalled(recalled, call)
    head = None if earlier is None else earlier.head
    sessions = map_realtime(call, [part.payload for part in parts], policy, head, final=final)
    names = _names(head) | dict.fromkeys(each.guest.trace_id for each in sessions if each.guest.trace_id != call)
    found = []
    for session in sessions:
        name = session.guest.trace_id
        if name != call:
            found.append((session, _recalled(recalled, name)))
        elif names:
            more = {**session.head, _SESSIONS: list(names)[-_MAX_SESSIONS:]}
            found.append((replace(session, head=more), earlier))
        else:
            found.append((session, earlier))
    return found


def spans_of(parts: Sequence[StoredPart], recalled: Mapping[bytes, bytes], policy: GraftPolicy) -> int:
    """How many spans these parts of a call would make: what is dropped is counted too."""
    return sum(len(mapped.guest.spans) for mapped, _ in mapped_sessions(parts, recalled, policy, final=True))


def call_key(name: str) -> Key:
    """The key of a call, or of a further session of one, by its trace id as a guest."""
    return guest_key(call_guest(name))


def session_keys(recalled: Iterable[bytes]) -> list[Key]:
    """The keys of the further sessions that these memories of guests name."""
    keys: list[Key] = []
    for blob in recalled:
        memory = GuestMemory.decode(blob)
        if memory is not None:
            keys += map(call_key, _names(memory.head))
    return keys


def without_spans(guest: Guest, host: TraceId | None, earlier: GuestMemory | None, mapped: Mapped) -> GuestMemory:
    """What is kept of a session of which nothing leaves yet: it is hung when there is something to hang."""
    if earlier is not None:
        return replace(earlier, head=mapped.head)
    return GuestMemory(host, unlinked_trace_id(guest.trace_id) if host is None else host, head=mapped.head)


def sip_host(parts: Iterable[StoredPart], recalled: Mapping[bytes, bytes]) -> TraceId | None:
    """The host that a SIP header of the call names, now or by what was kept of it. It holds only where it has come."""
    named: list[object] = []
    for part in parts:
        if part.guest is not None and (memory := _recalled(recalled, called(part.guest.guest))) is not None:
            state = mapping_of(mapping_of(memory.head.get(STATE)).get("naming"))
            named.append(state.get("traceparent"))
        if _SIP_MARK in part.payload:
            named += [note.event.get("traceparent") for note in decode(part.payload) if note.event.get("type") == SIP]
    links = (from_metadata({"traceparent": one}, ()) for one in named)
    return next((link.host for link in links if isinstance(link, Link)), None)


def only_named(parts: Iterable[StoredPart]) -> bool:
    """Nothing has come of the call but what its SIP headers say: nobody may be listening to it, and nothing waits."""
    return all(
        note.event.get("type") == SIP for part in parts if part.payload != b"[]" for note in decode(part.payload)
    )


def _recalled(recalled: Mapping[bytes, bytes], name: str) -> GuestMemory | None:
    blob = recalled.get(call_key(name))
    return None if blob is None else GuestMemory.decode(blob)


def _names(head: Mapping[str, object] | None) -> dict[str, None]:
    names = list_of(None if head is None else head.get(_SESSIONS))
    return {name: None for name in names if isinstance(name, str)}
