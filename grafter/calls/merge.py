"""From what sources say to calls: which records are of one call, and what is shown of it. Pure, and blind to order.

Records are of one call when they share an id or a host trace (the SIP Call-ID is such an id, and a posted link is a
record with two). Beyond that only From, To and the start can tell: two groups of records are one call when neither
contradicts the other, they began within NEAR, and each is the only one that fits the other. Otherwise they stay apart,
and say so. It is always decided about all that is known, so a later record may part what only seemed to be one call.

A leg is a host trace. A transfer ends a leg and not the call, which lasts until the last of its legs has ended.
"""

from base64 import b32encode
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from grafter.calls.ids import SINGLE_KINDS, distinct
from grafter.calls.model import (
    NEVER_CAME,
    NO_GUEST,
    NO_TRACE,
    RUNNING,
    UNKNOWN,
    CallRecord,
    CallRow,
    Origin,
    PhoneView,
    TurnRow,
)
from grafter.core.calls import Phone
from grafter.core.policy import HOUR, SECOND

NEAR = 10 * SECOND
"""Nanoseconds between the starts of two sources of one call: a webhook and its delivery, two clocks."""
LONGEST_RUN = 6 * HOUR
"""A call of which nothing was heard for so long does not run any more, though nobody said how it ended."""
SLOW_MS = 1500.0

_KEY_CHARACTERS = 20
_MOST_TURNS = 2_000
_MOST_GREETINGS = 50
"""Each leg has one."""
_FIT = "another call from and to the same numbers began within seconds, and nothing says whether it is this one"


@lru_cache(maxsize=4096)
def key_of(name: str) -> str:
    """The key of a call that begins with the record of this name."""
    return b32encode(sha256(name.encode()).digest())[:_KEY_CHARACTERS].decode().lower()


@dataclass(frozen=True, slots=True)
class Call:
    """The records of one call, in order of their names."""

    records: tuple[CallRecord, ...]
    ambiguous: bool = False
    """Others fit by numbers and start, and more than one does."""

    @property
    def key(self) -> str:
        """Its own key: the least of ``keys``."""
        return min(self.keys)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key_of(record.name) for record in self.records)

    @property
    def start(self) -> int:
        """When the first source says that it began; where none says, when grafter heard of it first."""
        starts = [record.start for record in self.records if record.start is not None]
        return min(starts) if starts else min(record.at for record in self.records)

    @property
    def caller(self) -> Phone | None:
        return next((one.caller for one in _by_trust(self.records) if one.caller is not None), None)

    @property
    def callee(self) -> Phone | None:
        return next((one.callee for one in _by_trust(self.records) if one.callee is not None), None)


def calls_of(records: Iterable[CallRecord]) -> list[Call]:
    """The calls that these records are of, in order of their starts and keys; each record once, by its name."""
    named = {record.name: record for record in records}
    groups = [Call(tuple(group)) for group in _by_shared_ids([named[name] for name in sorted(named)])]
    return sorted(_by_numbers(groups), key=lambda call: (call.start, call.key))


def _by_shared_ids(records: Sequence[CallRecord]) -> list[list[CallRecord]]:
    parent = list(range(len(records)))

    def find(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    first: dict[object, int] = {}
    for at, record in enumerate(records):
        for name in (*record.ids, *record.traces):
            one, other = find(first.setdefault(name, at)), find(at)
            parent[max(one, other)] = min(one, other)
    groups: dict[int, list[CallRecord]] = defaultdict(list)
    for at, record in enumerate(records):
        groups[find(at)].append(record)
    return list(groups.values())


def _by_numbers(groups: Sequence[Call]) -> list[Call]:
    """Groups that only numbers and start tell to be one call, where exactly one fits."""
    near: dict[int, list[int]] = {at: [] for at in range(len(groups))}
    same: dict[tuple[str, str], list[int]] = defaultdict(list)
    for at, group in enumerate(groups):
        caller, callee = group.caller, group.callee
        if caller is not None and callee is not None:
            same[caller.hash, callee.hash].append(at)
    for some in same.values():
        some.sort(key=lambda at: groups[at].start)
        for i, one in enumerate(some):
            for other in some[i + 1 :]:
                if groups[other].start - groups[one].start > NEAR:
                    break
                near[one].append(other)
                near[other].append(one)
    out: list[Call] = []
    for at, group in enumerate(groups):
        fits = near[at]
        pair = len(fits) == 1 and near[fits[0]] == [at] and not _contradict(group, groups[fits[0]])
        if not pair:
            out.append(Call(group.records, ambiguous=len(fits) > 1))
        elif at < fits[0]:
            both = (*group.records, *groups[fits[0]].records)
            out.append(Call(tuple(sorted(both, key=lambda record: record.name))))
    return out


def _contradict(one: Call, other: Call) -> bool:
    """Each has a trace, or an id of a kind of which a call has one: they are two."""
    mine, theirs = ({id_.kind for record in call.records for id_ in record.ids} for call in (one, other))
    traced = any(record.traces for record in one.records) and any(record.traces for record in other.records)
    return traced or bool(mine & theirs & SINGLE_KINDS)


def row(call: Call, now: int) -> CallRow:
    """What is shown of a call. ``now``: by it a call that runs is known from one that was forgotten."""
    records = call.records
    trusted = _by_trust(records)
    released = [record for record in records if record.origin is Origin.RELEASE]
    traces: dict[bytes, int] = {}
    for record in records:
        for trace in record.traces:
            start = record.at if record.start is None else record.start
            traces[trace] = min(start, traces.get(trace, start))
    tools: dict[str, tuple[int, float]] = {}
    for record in released:
        for name, (count, ms) in record.tools.items():
            before = tools.get(name, (0, 0.0))
            tools[name] = (before[0] + count, before[1] + ms)
    unjoined = list(dict.fromkeys(line for record in _in_time(records) for line in record.unjoined))
    if any(record.guests for record in records):
        # It came later, or with another leg.
        unjoined = [line for line in unjoined if line not in (NO_GUEST, NEVER_CAME)]
    outcome = _outcome(records, now)
    if not released and outcome != RUNNING:
        unjoined.append(NO_TRACE)
    if call.ambiguous:
        unjoined.append(_FIT)
    decided = [record for record in _in_time(released) if record.policy]
    ends = [record.end for record in records if record.end is not None]
    return CallRow(
        key=call.key,
        start=call.start,
        end=max(ends) if ends and outcome != RUNNING else None,
        outcome=outcome,
        caller=_view(trusted, 0),
        callee=_view(trusted, 1),
        ids=distinct(id_ for record in records for id_ in record.ids),
        traces=tuple(sorted(traces, key=lambda trace: (traces[trace], trace))),
        guests=tuple(sorted({guest for record in records for guest in record.guests})),
        turns=_turns(released),
        errors=sum(record.errors for record in released),
        barge_ins=sum(_barge_ins(some) for some in _by_trace(released)),
        spans=sum(record.spans for record in released),
        unjoined=tuple(unjoined),
        policy=decided[0].policy if decided else "",
        kept=not released or any(record.kept for record in released),
        recording=next((record.recording for record in trusted if record.recording), None),
        app_ms=_sum([record.app_ms for record in released]),
        openai_ms=_sum([record.openai_ms for record in released]),
        unknown_ms=_sum([record.unknown_ms for record in released]),
        tools=tools,
        unanswered_ms=max((each.unanswered_ms for each in released if each.unanswered_ms is not None), default=None),
    )


def is_slow(call: CallRow) -> bool:
    """A turn took longer than a caller takes for an answer, or a caller who hung up had waited as long."""
    figures = [figure for turn in call.turns for figure in (turn.wait_ms, turn.first_token_ms) if figure is not None]
    return max([*figures, call.unanswered_ms or 0.0]) > SLOW_MS


def _turns(released: Sequence[CallRecord]) -> tuple[TurnRow, ...]:
    """In order of time, counted anew: legs count each from 1.

    Of one trace only what is known best: where OpenAI's events gave waits with their parts, what a framework says of
    the same ones, or of its model's turns, is said twice, also where it left by itself.
    """
    found: dict[tuple[int, bool], TurnRow] = {}
    for some in _by_trace(released):
        told = [turn for record in some for turn in record.turns]
        best = max(map(_known, told), default=0)
        found |= {(turn.start, turn.number > 0): turn for turn in told if not turn.number or _known(turn) == best}
    greetings = [turn for (_, answered), turn in sorted(found.items()) if not answered][:_MOST_GREETINGS]
    turns = [turn for (_, answered), turn in sorted(found.items()) if answered][:_MOST_TURNS]
    numbered = [
        TurnRow(at, one.start, one.wait_ms, one.error_ms, one.parts, one.first_token_ms, one.sentence)
        for at, one in enumerate(turns, 1)
    ]
    return (*greetings, *numbered)


def _known(turn: TurnRow) -> int:
    """How much is known of a turn: nothing of the wait, its length, or whose time it was."""
    return 0 if turn.wait_ms is None else 1 + bool(turn.parts)


def _by_trace(released: Sequence[CallRecord]) -> Iterable[list[CallRecord]]:
    """The records of each trace together: what left of it at several times."""
    found: dict[tuple[bytes, ...], list[CallRecord]] = defaultdict(list)
    for record in released:
        found[record.traces].append(record)
    return found.values()


def _barge_ins(records: Sequence[CallRecord]) -> int:
    """Both sides may have seen the same ones, and may have left at different times."""
    told = sum(record.told_barge_ins for record in records)
    guests = 0
    for record in records:
        stated = record.guest_barge_ins or record.told_barge_ins
        guests += record.guest_barge_ins if stated else record.barge_ins
    return max(told, guests)


def _outcome(records: Sequence[CallRecord], now: int) -> str:
    """The word of the leg that ended last; a leg that was transferred goes on elsewhere."""
    with_outcome = [record for record in records if record.outcome and record.outcome != RUNNING]
    last = [record for record in with_outcome if record.outcome != "transferred"] or with_outcome
    if last:
        return max(last, key=lambda record: (record.end or record.start or record.at, record.at, record.name)).outcome
    heard = max(record.at for record in records)
    ended = any(record.end is not None or record.origin is Origin.RELEASE for record in records)
    return UNKNOWN if ended or now - heard > LONGEST_RUN else RUNNING


def _by_trust(records: Sequence[CallRecord]) -> list[CallRecord]:
    """The app's own word first: a webhook's From was written by whoever calls."""
    order = (Origin.APP, Origin.RELEASE, Origin.WEBHOOK, Origin.LINK)
    return sorted(records, key=lambda record: (order.index(record.origin), _moment(record)))


def _in_time(records: Sequence[CallRecord]) -> list[CallRecord]:
    return sorted(records, key=_moment)


def _moment(record: CallRecord) -> tuple[int, str]:
    return record.at if record.start is None else record.start, record.name


def _view(trusted: Sequence[CallRecord], side: int) -> PhoneView | None:
    for record in trusted:
        phone = (record.caller, record.callee)[side]
        if phone is not None:
            return PhoneView(phone.last_four, record.numbers[side])
    return None


def _sum(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) if known else None
