"""By how much a guest's clock is ahead of its host's, from what must have happened before what.

One offset for each guest: the guest's clock less the host's, in nanoseconds. Each ``Pair`` is one step that both sides
dated, and bounds the offset on one side or on both. The bounds of all together decide whether the clock is provably
wrong. A clock that may be right is left alone, and so is one about which the pairs contradict each other.

Two things keep a clock that is right where it is. A pair is believed to the letter only in what no program can date
otherwise (``certain``); how a step mostly lies (``likely``) chooses between offsets that are possible, and proves none.
And of three pairs or more one in twenty, but one at least, may be wrong (a tool that was matched with another call)
without a bound becoming wrong.

Sources: the intersection of intervals with a majority against outliers is Marzullo's, as NTP has it; a line through
all intervals is Duda's and Ashton's convex hull (offset and drift from message pairs).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite
from typing import NamedTuple

from grafter.core.model import UnixNano

MOST_DRIFT = 50e-6
"""By how much a clock of ordinary quality runs fast or slow: 180 ms over an hour. A bound of one moment is by so much
weaker at another."""

MOST_OFFSET = 3_600_000_000_000
"""An hour: clocks that are kept at all differ by less, so what lies further apart was joined wrongly."""

_SLEWED = 500e-6
"""A clock that is being set right runs wrong by no more than this; what runs worse is no clock that drifts."""
_WRONG_OF = 20
_FEW = 3
_MOST_PAIRS = 200


class Finding(StrEnum):
    """What the pairs of a guest came to; ``SHIFTED`` alone moves its spans."""

    AGREES = "agrees"
    """The clocks may be the same."""
    SHIFTED = "shifted"
    DRIFT = "drift"
    """No one offset fits, and a clock that runs at another speed would explain it."""
    CONTRADICTION = "contradiction"
    """No offset and no drift fits: some of the pairs are none."""
    TOO_FAR = "too_far"
    """Further than MOST_OFFSET."""


class Range(NamedTuple):
    """The offsets from ``low`` to ``high``, both included; infinite where a side is open."""

    low: float = -inf
    high: float = inf

    def holds(self, offset: float) -> bool:
        return self.low <= offset <= self.high

    def wider(self, by: float) -> "Range":
        return Range(self.low - by, self.high + by)

    def within(self, other: "Range") -> "Range | None":
        low, high = max(self.low, other.low), min(self.high, other.high)
        return Range(low, high) if low <= high else None

    @property
    def closed(self) -> bool:
        return isfinite(self.low) and isfinite(self.high)

    @property
    def nearest(self) -> float:
        """The middle; of a range that is open the bound that it has."""
        if self.closed:
            return (self.low + self.high) / 2
        return self.low if isfinite(self.low) else self.high


ANY = Range()
"""Nothing is known of the offset."""


class Pair(NamedTuple):
    """What one step that both sides dated says of the offset."""

    at: UnixNano
    """When it was, on either clock."""
    certain: Range
    likely: Range
    """Lies within ``certain``."""


@dataclass(frozen=True, slots=True)
class ClockRecord:
    """What was found out about a guest's clock, and what its spans' times were moved back by."""

    finding: Finding
    offset: int = 0
    """Nanoseconds that the guest's clock is ahead of its host's, as far as its spans were moved; else 0."""
    bounds: Range = ANY
    """Between which the offset lies at any moment of the guest, drift included."""
    pairs: int = 0
    left_out: int = 0
    """How many of the pairs the others outvoted."""
    method: str = ""
    """Of SHIFTED: ``two_sided``, the middle of what is possible, or ``one_sided``, the nearest offset that is."""

    def values(self) -> dict[str, object]:
        """As JSON values, without a bound that is open."""
        sides = (("min_ns", self.bounds.low), ("max_ns", self.bounds.high))
        return {
            "finding": self.finding.value,
            "offset_ns": self.offset,
            **{key: round(side) for key, side in sides if isfinite(side)},
            "pairs": self.pairs,
            "left_out": self.left_out,
            "method": self.method,
        }

    @classmethod
    def of(cls, values: object) -> "ClockRecord | None":
        """What ``values`` made, of a newer version too; None for anything else. Never raises."""
        if not isinstance(values, Mapping):
            return None
        try:
            return cls(
                Finding(str(values["finding"])),
                int(values["offset_ns"]),
                Range(
                    int(values["min_ns"]) if "min_ns" in values else -inf,
                    int(values["max_ns"]) if "max_ns" in values else inf,
                ),
                int(values["pairs"]),
                int(values["left_out"]),
                str(values["method"]),
            )
        except (LookupError, TypeError, ValueError):
            return None


def judge(pairs: Sequence[Pair]) -> ClockRecord | None:
    """What the pairs of one guest say of its clock; None where there are none.

    Zero possible: no shift. Else the nearest bound where one side is bounded, the middle where both are. Where the
    pairs contradict each other all but those that may be wrong must agree, on offsets side by side; else nothing is
    shifted, and what is said is whether a clock that drifts explains them all. Their order makes no difference.
    """
    pairs = _evenly(pairs)
    count = len(pairs)
    if not count:
        return None
    wrong = -(-count // _WRONG_OF) if count >= _FEW else 0
    moments = [pair.at for pair in pairs]
    drifted = (max(moments) - min(moments)) * MOST_DRIFT
    weaker = [pair.certain.wider(drifted) for pair in pairs]
    possible = _agreed(weaker, count - wrong)
    bounds = Range(possible[0].low, possible[-1].high) if possible else ANY
    right = sum([each.holds(0) for each in weaker])
    if right >= count - wrong:
        return ClockRecord(Finding.AGREES, bounds=bounds, pairs=count, left_out=count - right)
    certain = _place([pair.certain for pair in pairs], wrong, drifted)
    likely = _place([pair.likely for pair in pairs], wrong, drifted)
    place = None if certain is None or likely is None else likely.within(certain)
    if place is None or not possible or bounds.holds(0):
        return ClockRecord(_unsettled(pairs), bounds=bounds, pairs=count)
    offset = round(place.nearest)
    if abs(offset) > MOST_OFFSET:
        return ClockRecord(Finding.TOO_FAR, bounds=bounds, pairs=count)
    left_out = sum(not pair.likely.wider(1).holds(offset) for pair in pairs)
    method = "two_sided" if place.closed else "one_sided"
    return ClockRecord(Finding.SHIFTED, offset, bounds, count, left_out, method=method)


def _place(ranges: Sequence[Range], wrong: int, drifted: float) -> Range | None:
    """The offsets that lie in all of the ranges, else in all but one, and so on down to ``wrong``; None where they are
    not all side by side, or a clock that drifts could bring one back that was left out, or have as many agree on other
    offsets."""
    for left_out in range(wrong + 1):
        agreed = _agreed(ranges, len(ranges) - left_out)
        if agreed:
            break
    if len(agreed) != 1 or len(_agreed([each.wider(drifted) for each in ranges], len(ranges) - left_out)) != 1:
        return None
    (place,) = agreed
    for each in ranges:
        if each.within(place) is None and each.wider(drifted).within(place) is not None:
            return None
    return place


def _agreed(ranges: Iterable[Range], least: int) -> list[Range]:
    """The offsets that lie in so many of the ranges, as ranges in order."""
    # At one offset what begins comes before what ends, for both are included.
    edges = sorted([(each.low, 0) for each in ranges] + [(each.high, 1) for each in ranges])
    found = []
    begun, within = -inf, 0
    for offset, ends in edges:
        if ends:
            if within == least:
                found.append(Range(begun, offset))
            within -= 1
        else:
            within += 1
            if within == least:
                begun = offset
    return found


def _unsettled(pairs: Sequence[Pair]) -> Finding:
    """DRIFT, where a clock that runs evenly fast or slow would explain all that is likely."""
    least, most = -_SLEWED, _SLEWED
    for one in pairs:
        for other in pairs:
            apart = one.at - other.at
            if apart > 0:
                least = max(least, (one.likely.low - other.likely.high) / apart)
                most = min(most, (one.likely.high - other.likely.low) / apart)
            elif apart == 0 and one.likely.low > other.likely.high:
                return Finding.CONTRADICTION
    return Finding.DRIFT if least <= most else Finding.CONTRADICTION


def _evenly(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """No more than are weighed against each other, evenly over the time that they take."""
    ordered = sorted(pairs, key=lambda pair: (pair.at, pair.certain.low, pair.certain.high, pair.likely.low))
    if len(ordered) <= _MOST_PAIRS:
        return ordered
    return [ordered[at * (len(ordered) - 1) // (_MOST_PAIRS - 1)] for at in range(_MOST_PAIRS)]
