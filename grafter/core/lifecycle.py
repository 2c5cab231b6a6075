"""When a held trace leaves: the only place that weighs the waits against each other.

Every wait runs on the arrival clock and from the last sign of life: an inbound webhook often ends its root within a
second of a call that lasts an hour, so a root's end alone says nothing. What a wait ends with depends on the state
alone and never on the moment of asking: asked earlier the answer is Wait until that moment, asked at it or later
Release with that reason.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from grafter.core.model import Facts, Source, UnixNano, called
from grafter.core.policy import GraftPolicy, Mode, Unlinked, Waits
from grafter.core.state import GuestState, TraceState


class ReleaseReason(StrEnum):
    """Why a trace left; a metric label and part of its memory, so the values never change."""

    COMPLETE = "complete"
    """Its root came, its guests are whole, and it fell quiet."""
    GUEST_TIMEOUT = "guest_timeout"
    """Its root came, and a guest that was expected or had begun did not become whole in time."""
    LOCAL_ROOT = "local_root"
    """No root, but a span whose parent lives in another process."""
    IDLE = "idle"
    MAX = "max"
    OVERSIZE = "oversize"
    LATE = "late"
    """Host spans of a trace that was released before."""
    STREAM = "stream"
    """Nothing is held back in this mode."""
    UNLINKED = "unlinked"
    """A guest whose host is not known."""
    LATE_GUEST = "late_guest"
    """A guest, or the rest of one, whose host was released before."""
    HOST_MISSING = "host_missing"
    """Guests whose link names a host of which no span came."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing changes before ``until`` unless a part comes. Always later than the moment of asking."""

    until: UnixNano


@dataclass(frozen=True, slots=True)
class Release:
    """The trace leaves now."""

    reason: ReleaseReason
    due: UnixNano | None = field(default=None, compare=False)
    """The moment at which its wait ended; None where there was none to wait for."""


Decision = Wait | Release

# Plain ints: an IntFlag's own operators build a member each time, which is felt at one call a key and request.
_ROOT = int(Facts.ROOT)
_LOCAL_ROOT = int(Facts.LOCAL_ROOT)
_ANCHOR = int(Facts.ANCHOR)
_RULE = int(Facts.RULE)


@dataclass(frozen=True, slots=True)
class Wholeness:
    """What makes a guest of one source whole. The folder of each source under ``guests`` says it; without one, the
    source says itself that it has ended, and nothing else is asked."""

    by_items: bool = False
    """Whole with its trace object and a top-level span; otherwise when its source says that it has ended."""
    by_parents: bool = False
    """Every parent that is named must have come, too."""
    runs: bool = False
    """It goes on for as long as the call does: until it has ended nothing but ``idle`` and ``max`` ends the wait for
    it, however long it is silent."""
    by_root: bool = False
    """Whole with its root (``top_level``) and as quiet as a host has to be, for ``after_root``."""


Rules = Mapping[Source, Wholeness]
_SAYS_SO = Wholeness()


# What of a key's facts counts for its due time; bits of a newer version are left aside.
_KIND_FACTS = int(Facts.ROOT | Facts.LOCAL_ROOT | Facts.ANCHOR)
GUEST_ONLY, REMEMBERED, OWN_KEY, RULED = 8, 16, 32, 64
"""Added to a key's facts they make the index of its row in a due table: no host part is held under this host key; the
key was released before, or the store keeps guests apart because nothing is held back; the key is a guest's own; a rule
may move its trace."""
_NEVER = 1 << 62


class DueRow(NamedTuple):
    """The waits of one kind of key, in nanoseconds: it is due at ``min(latest + quiet, first + longest)``."""

    quiet: int
    """After the arrival of its latest part."""
    longest: int
    """After the arrival of its first part."""
    plain: bool
    """When ``quiet`` ends it, ``step_host`` releases it as COMPLETE without anything left to decide, provided that no
    guest is held under it and that it is not oversize."""


def due_table(waits: Waits) -> tuple[DueRow, ...]:
    """The waits by what is known of a key: 128 rows, of which ``due_kind`` names one.

    Both stores weigh waits by this table alone, the embedded one in Python and the Redis scripts in Lua. A row may name
    a moment that is too early for a step to release the key, and never one that is too late.
    """
    return tuple(_due_row(kind, waits) for kind in range(2 * RULED))


def due_kind(facts: int, *, guest_only: bool, remembered: bool, own_key: bool) -> int:
    """The index of a key's row in a due table."""
    kind = facts & _KIND_FACTS | guest_only * GUEST_ONLY | remembered * REMEMBERED | own_key * OWN_KEY
    return kind | bool(facts & _RULE) * RULED


def _due_row(kind: int, waits: Waits) -> DueRow:
    if kind & REMEMBERED:
        return DueRow(0, _NEVER, plain=False)
    if kind & OWN_KEY:
        quiet = min(waits.guest_quiet, waits.after_root, waits.for_guest, waits.idle)
        return DueRow(quiet, waits.max, plain=False)
    if kind & RULED:
        # Whoever claims it says to its host that more of it has come.
        return DueRow(0, waits.max, plain=False)
    wait = waits.idle
    if not kind & GUEST_ONLY:
        if kind & _ROOT:
            wait = waits.after_root
        elif kind & _LOCAL_ROOT:
            wait = waits.local_root
    plain = bool(kind & _ROOT) and not kind & (_ANCHOR | GUEST_ONLY) and wait <= waits.idle
    return DueRow(min(wait, waits.idle), waits.max, plain)


def step_host(state: TraceState, now: UnixNano, policy: GraftPolicy, rules: Rules) -> Decision:
    """What to do with a key that is a host's trace id, under which its guests are filed too.

    A guest that has begun must become whole; while none has, an anchor span among the host's says that one is
    expected. One that runs as long as the call keeps the trace until it has ended: for it no ``for_guest`` runs. A
    trace of which only guests came waits for its host for as long as any trace may wait.
    """
    waits = policy.waits
    guests = state.guests.values()
    if state.bytes > policy.max_trace_bytes:
        return Release(ReleaseReason.OVERSIZE)
    if state.remembered or policy.mode is Mode.STREAM:
        if policy.mode is Mode.STREAM or not guests:
            return Release(ReleaseReason.STREAM if policy.mode is Mode.STREAM else ReleaseReason.LATE)
        if state.host_spans and all(running(guest, rules) for guest in guests):
            # A call that goes on loses nothing when what it has so far leaves with the late host span.
            return Release(ReleaseReason.LATE)
        # What came of a guest while its host was being released. A late host span waits with it for once, which is
        # seconds: sent without its parents, the guest would hang wrongly for ever.
        return _late_guests(state, now, waits, rules)

    end = state.first + waits.max
    idle = state.last + waits.idle
    if not state.host_spans:
        return _at(min(idle, end), ReleaseReason.HOST_MISSING, now)

    due: int = end
    reason = ReleaseReason.MAX
    if idle <= due:
        due, reason = idle, ReleaseReason.IDLE
    facts = int(state.facts)
    if facts & _ROOT:
        quiet = state.last + waits.after_root
        if guests or facts & _ANCHOR:
            timeout = quiet + waits.for_guest
            if timeout <= due and not any(running(guest, rules) for guest in guests):
                due, reason = timeout, ReleaseReason.GUEST_TIMEOUT
            whole: int | None = _all_whole_at(guests, waits, rules)
        else:
            whole = quiet
        if whole is not None and max(quiet, whole) <= due:
            due, reason = max(quiet, whole), ReleaseReason.COMPLETE
    elif facts & _LOCAL_ROOT:
        local = state.last + waits.local_root
        if local <= due:
            due, reason = local, ReleaseReason.LOCAL_ROOT
    return _at(due, reason, now)


def step_guest(
    state: TraceState,
    now: UnixNano,
    policy: GraftPolicy,
    rules: Rules,
    *,
    host_released: bool,
    anchor_known: bool = False,
    missing_ok: Set[bytes] = frozenset(),
) -> Decision:
    """What to do with a guest's own key: a guest without a link, or one that comes after its host's release.

    ``host_released``: its host is known and nothing waits for the guest there. ``anchor_known``: in stream mode, the
    host span under which it will hang is known too; then STREAM is the answer at once, and LATE_GUEST says that
    ``for_guest`` has passed in vain (spans that are named as parents and have not come by then will not be waited for
    any longer). Without any span, only a trace object, there is nothing to hurry for. ``missing_ok``: ids that were
    sent by an earlier release of the guest.

    A guest that runs as long as the call is waited for until it has ended, or ``idle``. In stream mode what of it has
    ended leaves meanwhile; then IDLE and MAX say that no more of it is expected.

    The answer for a guest without a link is UNLINKED, whichever wait ends it.
    """
    waits = policy.waits
    guests = state.guests.values()
    if state.bytes > policy.max_trace_bytes:
        return Release(ReleaseReason.OVERSIZE)
    linked = host_released or any(guest.host is not None for guest in guests)
    if linked and policy.mode is Mode.STREAM:
        if any(rules.get(guest.source, _SAYS_SO).runs for guest in guests):
            return _stream_call(state, now, waits, anchor_known=anchor_known)
        if anchor_known and state.guest_spans:
            return Release(ReleaseReason.STREAM)
        return _at(_latest(state, waits, rules), ReleaseReason.LATE_GUEST, now)
    if linked:
        return _late_guests(state, now, waits, rules, missing_ok)
    if policy.unlinked is Unlinked.KEEP:
        return _at(state.first + waits.max, ReleaseReason.UNLINKED, now)
    return _at(_earliest(state, waits, rules, missing_ok), ReleaseReason.UNLINKED, now)


def whole_at(guest: GuestState, waits: Waits, rules: Rules, missing_ok: Set[bytes] = frozenset()) -> UnixNano | None:
    """The moment from which the guest counts as whole if nothing more of it comes; None while something is missing.

    What must have come is its source's rule, and then it must have been quiet for a while. ``missing_ok``:
    parents that need not come, for they have been sent before.
    """
    rule = rules.get(guest.source, _SAYS_SO)
    if rule.by_root:
        return UnixNano(guest.last + waits.after_root) if guest.top_level else None
    if not (guest.head and guest.top_level if rule.by_items else guest.ended):
        return None
    if rule.by_parents and guest.missing_parents and not guest.parents - guest.ids <= missing_ok:
        return None
    return UnixNano(guest.last + waits.guest_quiet)


def has_fallen_silent(guest: GuestState, now: UnixNano, waits: Waits) -> bool:
    """Nothing of it has come for ``idle``."""
    return now >= guest.last + waits.idle


def sign_of_life_every(waits: Waits) -> int:
    """Nanoseconds after which a silent call's recorder says that it goes on; that one of those is lost ends nothing."""
    return waits.idle // 3


def is_overdue(state: TraceState, now: UnixNano, waits: Waits) -> bool:
    """Stream mode: parents that were named and have not come are no longer waited for."""
    return now >= state.last + min(waits.for_guest, waits.idle)


def is_over(state: TraceState, now: UnixNano, waits: Waits) -> bool:
    """It was held for ``max``, past which nothing is."""
    return now >= state.first + waits.max


def running(guest: GuestState, rules: Rules) -> bool:
    """It goes on as long as the call, and has not ended."""
    return not guest.ended and rules.get(guest.source, _SAYS_SO).runs


def _stream_call(state: TraceState, now: UnixNano, waits: Waits, *, anchor_known: bool) -> Decision:
    """Stream mode: what of a running call has ended leaves at once, or after ``for_guest`` where its anchor is unknown.

    That wait runs from the first part that is held: of a running call there is always a new one.
    """
    guests = state.guests.values()
    leaves = any(guest.top_level or guest.ended for guest in guests)
    if leaves and anchor_known:
        return Release(ReleaseReason.STREAM)
    due, reason = min((state.last + waits.idle, ReleaseReason.IDLE), (state.first + waits.max, ReleaseReason.MAX))
    anchored = state.first + waits.for_guest
    if leaves and anchored < due:
        due, reason = anchored, ReleaseReason.LATE_GUEST
    return _at(due, reason, now)


def _late_guests(
    state: TraceState, now: UnixNano, waits: Waits, rules: Rules, missing_ok: Set[bytes] = frozenset()
) -> Decision:
    return _at(_earliest(state, waits, rules, missing_ok), ReleaseReason.LATE_GUEST, now)


def _earliest(state: TraceState, waits: Waits, rules: Rules, missing_ok: Set[bytes]) -> int:
    """Whole, or ``for_guest`` after the last part, or the end of every wait."""
    latest = _latest(state, waits, rules)
    whole = _all_whole_at(state.guests.values(), waits, rules, missing_ok)
    return latest if whole is None else min(whole, latest)


def _latest(state: TraceState, waits: Waits, rules: Rules) -> int:
    runs = any(running(guest, rules) for guest in state.guests.values())
    wait = waits.idle if runs else min(waits.for_guest, waits.idle)
    return min(state.last + wait, state.first + waits.max)


def _all_whole_at(
    guests: Iterable[GuestState], waits: Waits, rules: Rules, missing_ok: Set[bytes] = frozenset()
) -> UnixNano | None:
    """The moment from which all are whole; None while one is not, or where there is none at all."""
    latest: UnixNano | None = None
    for guest in guests:
        whole = whole_at(guest, waits, rules, missing_ok)
        if whole is None:
            return None
        if latest is None or whole > latest:
            latest = whole
    return latest


def _at(due: int, reason: ReleaseReason, now: UnixNano) -> Decision:
    return Release(reason, UnixNano(due)) if now >= due else Wait(UnixNano(due))


def awaited(state: TraceState, rules: Rules) -> tuple[str, ...]:
    """What a held key still waits for, as codes for ``explain``: ``root``, ``host``, ``quiet`` or, of a guest by its
    name, ``guest`` (none has begun), ``call`` (a rule may move it), ``end``, ``trace_object``, ``top_level``,
    ``parents``, ``link``, ``moving`` (the root of a trace that a rule moves here).

    A guest's code is followed by a blank and its id.
    """
    found = []
    if state.host_spans and not int(state.facts) & (_ROOT | _LOCAL_ROOT):
        found.append("root")
    elif not state.host_spans and any(guest.host is not None for guest in state.guests.values()):
        found.append("host")
    if int(state.facts) & _ANCHOR and not state.guests:
        found.append("call" if int(state.facts) & _RULE else "guest")
    for guest in state.guests.values():
        rule = rules.get(guest.source, _SAYS_SO)
        if rule.by_root:
            lacking = {"moving": not guest.top_level}
        elif not rule.by_items:
            lacking = {"end": not guest.ended}
        else:
            parents = rule.by_parents and guest.missing_parents
            lacking = {"trace_object": not guest.head, "top_level": not guest.top_level, "parents": parents}
        if guest.host is None and not state.host_spans:
            lacking["link"] = True
        found += [f"{code} {called(guest.guest)}" for code, missing in lacking.items() if missing]
    return tuple(found) or ("quiet",)
