"""A guest's clock against its host's: bounds from pairs, worked out by hand, and over simulated calls whose true offset
is known."""

from collections import Counter
from dataclasses import dataclass
from itertools import permutations
from math import inf
from random import Random

import pytest

from grafter.core.clock import ClockRecord, Finding, Pair, Range, judge
from grafter.core.model import UnixNano

MS = 1_000_000
SECOND = 1_000 * MS


def pair(low: float, high: float, at: float = 0, likely: tuple[float, float] | None = None) -> Pair:
    """Bounds in milliseconds, ``at`` in seconds."""
    certain = Range(low * MS, high * MS)
    mostly = certain if likely is None else Range(likely[0] * MS, likely[1] * MS)
    return Pair(UnixNano(int(at * SECOND)), certain, mostly)


SAME = [pair(90, 110)] * 3


@pytest.mark.parametrize(
    ("pairs", "finding", "offset", "left_out"),
    [
        # Zero may be right, however little is known.
        ([pair(-5, 5)], Finding.AGREES, 0, 0),
        ([pair(-inf, 0)], Finding.AGREES, 0, 0),
        ([pair(0, inf)], Finding.AGREES, 0, 0),
        ([pair(-400, 20), pair(-30, 500)], Finding.AGREES, 0, 0),
        # One side: the nearest bound.
        ([pair(700, inf)], Finding.SHIFTED, 700, 0),
        ([pair(-inf, -700)], Finding.SHIFTED, -700, 0),
        ([pair(700, inf), pair(900, inf)], Finding.SHIFTED, 900, 0),
        # Both: the middle of what is left of all of them.
        ([pair(700, 900)], Finding.SHIFTED, 800, 0),
        ([pair(700, inf), pair(-inf, 900)], Finding.SHIFTED, 800, 0),
        ([pair(600, 900), pair(700, 1000)], Finding.SHIFTED, 800, 0),
        ([pair(-5200, -4800), pair(-5100, -4700)], Finding.SHIFTED, -4950, 0),
        # What is likely chooses, within what is certain.
        ([pair(700, 900, likely=(840, 880))], Finding.SHIFTED, 860, 0),
        ([pair(700, 900, likely=(700, 900)), pair(600, inf, likely=(850, inf))], Finding.SHIFTED, 875, 0),
        # … and proves nothing.
        ([pair(-100, 900, likely=(840, 880))], Finding.AGREES, 0, 0),
        # … and where it contradicts itself nothing is drawn by it.
        ([pair(700, 900, likely=(700, 710)), pair(700, 900, likely=(890, 900))], Finding.CONTRADICTION, 0, 0),
        # Two that contradict each other: nobody knows which is wrong.
        ([pair(700, 900), pair(-100, 100)], Finding.CONTRADICTION, 0, 0),
        ([pair(5000, inf), pair(-inf, 3000)], Finding.CONTRADICTION, 0, 0),
        # Of more than two one may be wrong, and is named.
        ([*SAME, pair(5000, 5100)], Finding.SHIFTED, 100, 1),
        ([pair(-10, 10), pair(-12, 9), pair(5000, 5100)], Finding.AGREES, 0, 1),
        # One that moves a bound without contradicting any does not move a clock that may be right.
        ([pair(-50, 300), pair(-60, 280), pair(100, 200)], Finding.AGREES, 0, 1),
        # Two against two, and one wrong where there are two ways to leave one out.
        ([pair(90, 110), pair(90, 110), pair(300, 310), pair(300, 310)], Finding.CONTRADICTION, 0, 0),
        ([pair(90, 110), pair(100, 200), pair(190, 210)], Finding.CONTRADICTION, 0, 0),
        # Nobody's clock.
        ([pair(3_700_000, 3_700_010)], Finding.TOO_FAR, 0, 0),
        # A minute apart two pairs differ by 100 ms, which 50 ppm do not explain but a slewed clock would not either.
        ([pair(100, 110), pair(200, 210, at=60)], Finding.CONTRADICTION, 0, 0),
        # An hour apart they differ by what a clock loses in an hour.
        ([pair(100, 110), pair(200, 210, at=3600)], Finding.DRIFT, 0, 0),
        # … which a pair of that width would hide.
        ([pair(100, 205), pair(200, 310, at=3600)], Finding.SHIFTED, 202.5, 0),
        # The last agrees with the second to the letter, and with the first if the clock lost a tenth of what it may
        # have lost in half an hour: which of the first two is wrong nobody knows.
        (
            [
                pair(-5600, -2409, at=1068, likely=(-4020, -3989)),
                pair(-4352, -4194, at=2117, likely=(-4337, -4209)),
                pair(-inf, -3826, at=2801, likely=(-inf, -4026)),
            ],
            Finding.DRIFT,
            0,
            0,
        ),
        # A clock that is right by less than it may have drifted is right.
        ([pair(20, 110), pair(-10, 210, at=3600)], Finding.AGREES, 0, 0),
    ],
)
def test_what_the_pairs_come_to(pairs: list[Pair], finding: Finding, offset: float, left_out: int) -> None:
    """Each row as the rules have it, in whatever order the pairs come."""
    for ordered in permutations(pairs):
        found = judge(ordered)
        assert found is not None
        assert (found.finding, found.offset, found.left_out) == (finding, offset * MS, left_out)
        assert found.pairs == len(pairs)


def test_nothing_is_known_without_pairs() -> None:
    assert judge([]) is None


def test_bounds_are_as_wide_as_the_clocks_may_drift() -> None:
    """50 ppm over ten minutes are 30 ms, on either side."""
    found = judge([pair(700, 900), pair(700, 900, at=600)])
    assert found is not None
    assert found.bounds == Range(670 * MS, 930 * MS)
    assert (found.offset, found.method) == (800 * MS, "two_sided")


@pytest.mark.parametrize(
    "record",
    [
        ClockRecord(Finding.AGREES, pairs=1),
        ClockRecord(Finding.SHIFTED, -5 * SECOND, Range(-5.5 * SECOND, inf), 7, 1, method="one_sided"),
        ClockRecord(Finding.DRIFT, bounds=Range(-3, 4), pairs=9),
    ],
)
def test_a_record_is_read_as_it_was_written(record: ClockRecord) -> None:
    assert ClockRecord.of(record.values()) == record


def test_a_newer_record_is_read_too() -> None:
    known = ClockRecord(Finding.AGREES, pairs=1)
    assert ClockRecord.of(known.values() | {"drift_ppm": 3}) == known


@pytest.mark.parametrize(
    "values",
    [None, "agrees", {}, {"finding": "agrees"}, ClockRecord(Finding.AGREES).values() | {"finding": "moved"}],
    ids=str,
)
def test_what_is_no_record_is_none(values: object) -> None:
    assert ClockRecord.of(values) is None


# --- Simulated calls. What is true is known here, and found out there.


@dataclass
class Step:
    """A tool call, in true time; ns."""

    asked: int
    begun: int
    ended: int
    known: int
    sides: str = "both"
    """Which of its bounds is known."""
    wrong: int = 0
    """By how much the host span that it was matched with is another one's."""


class Call:
    """A call whose host's clock is the true one, and its guest's is ahead by ``offset`` and drifts."""

    def __init__(self, seed: int, *, honest: bool) -> None:
        chance = self.chance = Random(seed)
        self.offset = 0 if honest else round(chance.uniform(-5, 5) * SECOND)
        self.drift = 0.0 if honest else chance.choice((0.0, chance.uniform(-50e-6, 50e-6)))
        self.lasts = round(chance.choice((20, 300, 3600)) * SECOND)
        self.start = 1_800_000_000 * SECOND
        count = chance.choice((1, 2, 3, 5, 12, 20, 40, 80))
        self.steps = sorted((self._step() for _ in range(count)), key=lambda step: step.asked)
        wrong = count // 20 or (count > 2 and chance.random() < 0.5)
        for step in chance.sample(self.steps, int(wrong)):
            # Of another call of the tool, mostly near.
            step.wrong = round(chance.choice((-1, 1)) * chance.choice((0.2, 2, 30)) * chance.uniform(0.5, 1) * SECOND)

    def _jitter(self) -> int:
        """5 to 300 ms, mostly short."""
        return round(min(0.005 + self.chance.expovariate(25), 0.3) * SECOND)

    def _step(self) -> Step:
        asked = self.start + self.chance.randrange(self.lasts)
        begun = asked + self._jitter()
        ended = begun + round(self.chance.choice((0.02, 0.3, 2)) * self.chance.uniform(0.5, 1) * SECOND)
        sides = self.chance.choices(("both", "known", "asked"), (8, 1, 1))[0]
        return Step(asked, begun, ended, ended + self._jitter(), sides)

    def ahead(self, moment: int) -> int:
        """By how much the guest's clock is ahead at a true moment."""
        return self.offset + round(self.drift * (moment - self.start - self.lasts // 2))

    def told(self, moment: int) -> int:
        """What the guest's clock says."""
        return moment + self.ahead(moment)

    def pairs(self) -> list[Pair]:
        found = []
        for step in self.steps:
            asked, known = self.told(step.asked), self.told(step.known)
            begun, ended = step.begun + step.wrong, step.ended + step.wrong
            certain, likely = Range(asked - ended, known - begun), Range(asked - begun, known - ended)
            if step.sides == "known":
                certain, likely = Range(high=certain.high), Range(high=likely.high)
            elif step.sides == "asked":
                certain, likely = Range(low=certain.low), Range(low=likely.low)
            found.append(Pair(UnixNano(begun), certain, likely))
        return found

    def breaks(self, offset: int) -> int:
        """True steps that, drawn so, begin before they are asked for or end after their output is known."""
        early = late = 0
        for step in self.steps:
            if not step.wrong:
                early += step.sides != "known" and self.told(step.asked) - offset > step.begun
                late += step.sides != "asked" and self.told(step.known) - offset < step.ended
        return early + late


SEEDS = 3_000


@pytest.mark.parametrize("seeds", [range(SEEDS), pytest.param(range(SEEDS, 50_000), marks=pytest.mark.slow)], ids=len)
def test_the_true_offset_lies_within_the_bounds_at_every_moment(seeds: range) -> None:
    """Wrong clocks, that drift too: what is stated is right in every run, and no true pair is broken by a shift."""
    came: Counter[Finding] = Counter()
    for seed in seeds:
        call = Call(seed, honest=False)
        found = judge(call.pairs())
        assert found is not None
        came[found.finding] += 1
        for moment in (step.asked for step in call.steps if not step.wrong):
            assert found.bounds.low <= call.ahead(moment) <= found.bounds.high, (seed, found)
        if found.finding is Finding.SHIFTED:
            assert (found.offset > 0) == (call.offset > 0), seed
            assert call.breaks(found.offset) == 0, (seed, found)
    # None of this is bought by shifting nothing.
    assert came[Finding.SHIFTED] > len(seeds) * 0.7, came


@pytest.mark.parametrize("seeds", [range(SEEDS), pytest.param(range(SEEDS, 50_000), marks=pytest.mark.slow)], ids=len)
def test_an_honest_clock_is_never_moved(seeds: range) -> None:
    """With one wrong pair in twenty, or one of few."""
    for seed in seeds:
        found = judge(Call(seed, honest=True).pairs())
        assert found is not None
        assert found.finding is not Finding.SHIFTED, (seed, found)
