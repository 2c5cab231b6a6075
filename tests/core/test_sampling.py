"""Weights by the specification's arithmetic, and policies of which the first that decides is the last that is asked."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.core.policy import SECOND
from grafter.core.sampling.attribute import Attribute
from grafter.core.sampling.barge_in import BargeIn
from grafter.core.sampling.error import Error
from grafter.core.sampling.everything import Always, Drop
from grafter.core.sampling.first_token import FirstToken
from grafter.core.sampling.guest import HasGuest
from grafter.core.sampling.latency import Latency
from grafter.core.sampling.policies import INCOMPLETE, SamplingPolicy
from grafter.core.sampling.policy import SamplingDecision, TraceView
from grafter.core.sampling.probabilistic import Probabilistic
from grafter.core.sampling.rate_limit import RateLimit
from grafter.core.sampling.span_count import SpanCount
from grafter.core.sampling.weights import (
    Weighed,
    decode,
    encode,
    randomness,
    read,
    threshold,
    weigh,
    weight,
)

ALL = 1 << 56

# news of November 2026, section 5.1: one of N, the threshold in four digits, its weight.
ONE_OF = [
    (1, b"0", 1.0),
    (2, b"8", 2.0),
    (3, b"aaab", 3.00005),
    (4, b"c", 4.0),
    (10, b"e666", 9.9994),
    (20, b"f3333", 19.9999),
    (50, b"fae14", 49.9989),
    (100, b"fd70a", 99.9977),
    (1000, b"ffbe77", 1000.013),
    (10000, b"fff9724", 9999.83),
]


@pytest.mark.parametrize(("one_of", "digits", "stands_for"), ONE_OF)
def test_thresholds_are_the_specifications(one_of: int, digits: bytes, stands_for: float) -> None:
    """The listed thresholds mean the listed weights, and ours is the same one with all of its digits."""
    listed = decode(digits)
    assert listed is not None
    assert weight(listed) == pytest.approx(stands_for, rel=1e-5)
    own = threshold(one_of)
    assert abs(own - listed) <= 16 ** (14 - len(digits)) // 2 + 1
    assert round(weight(own)) == one_of
    assert decode(encode(own)) == own
    assert weight(own) == pytest.approx(one_of, rel=1e-9)


@pytest.mark.parametrize(("share", "digits"), [(0.99, b"028f6"), (0.95, b"0cccd"), (0.94, b"0f5c3")])
def test_leading_zeros_are_written(share: float, digits: bytes) -> None:
    """p = 0.99 does not come out as 0.84: a threshold below a sixteenth keeps its leading zero both ways."""
    t = decode(digits)
    assert t is not None
    assert 1 / weight(t) == pytest.approx(share, abs=1e-5)
    assert encode(t) == digits


@given(st.integers(0, ALL - 1))
def test_a_threshold_survives_its_writing(t: int) -> None:
    """Every threshold reads as what was written, in 14 digits or fewer without trailing zeros."""
    digits = encode(t)
    assert decode(digits) == t
    assert 1 <= len(digits) <= 14
    assert digits == b"0" or not digits.endswith(b"0")


def test_weights_add_up_to_what_came() -> None:
    """Of 100,000 trace ids the kept ones' weights add up to 100,000 within three standard deviations, and two replicas
    keep the same ones."""
    rng = random.Random(7)
    ids = [rng.randbytes(16) for _ in range(100_000)]
    for one_of in (2, 10, 100, 1000):
        kept = [i for i in ids if randomness(i) >= threshold(one_of)]
        sigma = one_of * math.sqrt(len(ids) * (1 / one_of) * (1 - 1 / one_of))
        assert abs(len(kept) * one_of - len(ids)) < 3 * sigma
        assert kept == [i for i in ids if Probabilistic("p", one_of).decide(View(trace_id=i), 0).kept]


@pytest.mark.parametrize(
    ("came", "one_of", "leaves"),
    [
        # Nothing came.
        ((b"", None), 100, Weighed(b"ot=th:fd70a3d70a3d71", 100)),
        ((b"", None), 1, Weighed(b"ot=th:0", 1)),
        # A stricter threshold stays, a laxer one rises.
        ((b"ot=th:fd70a", None), 10, Weighed(None, 100)),
        ((b"ot=th:8", None), 4, Weighed(b"ot=th:c", 4)),
        # What was kept for what it is stays as it came; a whole weight is written as a rate too.
        ((b"ot=th:fd70a", None), 1, Weighed(None, 100)),
        ((b"ot=th:028f6", None), 1, Weighed(None, None)),
        ((b"", 5), 1, Weighed(None, None)),
        # A rate without a threshold is multiplied, and no threshold is made up.
        ((b"", 5), 10, Weighed(None, 50)),
        ((b"ot=rv:6e6d1a75832a2f", 5), 10, Weighed(None, 50)),
        # Both, and they agree.
        ((b"ot=th:8", 2), 4, Weighed(b"ot=th:c", 4)),
        # Both, and they do not: each by its own rule, and counted.
        ((b"ot=th:8", 7), 4, Weighed(b"ot=th:c", 28, "weights")),
        ((b"ot=th:8", 7), 1, Weighed(None, None, "weights")),
        # Unknown keys, rv and other vendors survive, in order, behind a bare comma; ours comes first.
        (
            (b"congo=t61, ot=rv:6e6d1a75832a2f;zz:9,rojo=00f", None),
            2,
            Weighed(b"ot=rv:6e6d1a75832a2f;zz:9;th:8,congo=t61,rojo=00f", 2),
        ),
        ((b"ot=zz:9;th:4;q:r,a=b", None), 2, Weighed(b"ot=zz:9;th:8;q:r,a=b", 2)),
        # What cannot be read is passed as it is, and counted.
        ((b"ot=th:xyz,a=b", None), 2, Weighed(None, 2, "tracestate")),
        ((b"ot=th:8;th:c", None), 1, Weighed(None, 1, "tracestate")),
        ((b"ot=th:123456789abcdef", None), 2, Weighed(None, 2, "tracestate")),
        ((b"ot=nonsense", None), 2, Weighed(None, 2, "tracestate")),
    ],
)
def test_what_a_span_leaves_with(came: tuple[bytes, int | None], one_of: int, leaves: Weighed) -> None:
    """By what came (trace state, SampleRate) and by what was decided."""
    assert weigh(*came, one_of, claim=True) == leaves


def test_nothing_is_claimed_where_nothing_is_known() -> None:
    """upstream: unknown writes no weight on what was kept for what it is; what grafter samples is its own to say."""
    assert weigh(b"a=b", None, 1, claim=False) == Weighed()
    assert weigh(b"a=b", None, 2, claim=False) == Weighed(b"ot=th:8,a=b", 2)


@given(st.binary(max_size=60), st.none() | st.integers(1, 1000), st.integers(1, 1000), st.booleans())
def test_no_trace_state_breaks_it(state: bytes, rate: int | None, one_of: int, claim: bool) -> None:
    """Any bytes: no error, no threshold lowered, and no entry of anybody else lost."""
    out = weigh(state, rate, one_of, claim=claim)
    if out.trace_state is not None:
        before, after = read(state), read(out.trace_state)
        assert after.others == before.others
        assert (after.th or 0) >= (before.th or 0)
        assert not after.odd


def test_explicit_randomness_wins() -> None:
    """rv decides where it is there, whatever the trace id says; the flags 01 and 03 make no difference to R."""
    low, high = bytes(16), b"\xff" * 16
    assert randomness(high) == ALL - 1
    assert randomness(low, read(b"ot=rv:ffffffffffffff").rv) == ALL - 1
    assert read(b"ot=rv:123").rv is None
    assert read(b"ot=rv:123;th:8").th == 0x8 << 52


@dataclass
class View(TraceView):
    """A trace as a test wants it, and which questions were asked."""

    trace_id: bytes = bytes(16)
    error: bool = False
    first_token: float | None = None
    duration: float = 0.0
    barge_in: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    spans: int = 1
    guests: int = 0
    complete: bool = True
    asked: list[str] = field(default_factory=list)

    def has_error(self) -> bool:
        self.asked.append("error")
        return self.error

    def has_barge_in(self) -> bool:
        return self.barge_in

    def first_token_ms(self) -> float | None:
        self.asked.append("first_token")
        return self.first_token

    def duration_ms(self) -> float:
        return self.duration

    def values(self, key: str) -> Iterable[str]:
        return [self.attributes[key]] if key in self.attributes else []

    def randomness(self) -> int:
        return randomness(self.trace_id)


LUCKY, UNLUCKY = View(trace_id=b"\xff" * 16), View()

EVERY = SamplingPolicy(
    (
        Error("error"),
        FirstToken("slow", 1500),
        Latency("long", 10_000, 20_000),
        Attribute("vip", "customer.tier", frozenset({"gold"})),
        SpanCount("big", 100),
        BargeIn("barge_in"),
        HasGuest("half", complete=False),
        Probabilistic("one of ten", 10),
        Drop("drop"),
    )
)


@pytest.mark.parametrize(
    ("view", "policy", "kept"),
    [
        (View(error=True, first_token=9000), "error", True),
        (View(first_token=1500.1), "slow", True),
        (View(first_token=1500), "one of ten", False),
        (View(duration=10_001), "long", True),
        (View(duration=20_001), "one of ten", False),
        (View(attributes={"customer.tier": "gold"}), "vip", True),
        (View(attributes={"customer.tier": "tin"}), "one of ten", False),
        (View(spans=100), "big", True),
        (View(barge_in=True), "barge_in", True),
        (View(guests=1, complete=False), "half", True),
        (View(guests=1), "one of ten", False),
        (LUCKY, "one of ten", True),
    ],
)
def test_the_first_match_decides(view: View, policy: str, kept: bool) -> None:
    """Each policy keeps what it is for, and the first one in the list that matches has the last word."""
    decision = EVERY.judge(view, 0)
    assert (decision.policy, decision.kept) == (policy, kept)


def test_what_comes_behind_the_first_match_is_not_asked() -> None:
    """A trace with an error is not searched for first tokens."""
    view = View(error=True)
    EVERY.judge(view, 0)
    assert view.asked == ["error"]


def test_only_what_a_trace_is_keeps_a_late_part() -> None:
    """After a drop neither chance nor always brings a trace back."""
    assert EVERY.kept_for_itself(LUCKY, 0) is None
    assert EVERY.kept_for_itself(View(error=True), 0) == SamplingDecision("error", True)
    assert SamplingPolicy((Always("always"),)).kept_for_itself(View(), 0) is None


def test_the_default_drops_nothing_and_looks_at_nothing() -> None:
    """error, first_token and always keep everything, so no trace need be read; a dry run reads it all the same."""
    assert not SamplingPolicy().looks
    assert SamplingPolicy(dry_run=True).looks
    assert EVERY.drops
    assert SamplingPolicy(()).judge(View(), 0) == SamplingDecision(INCOMPLETE, True)


def test_a_rate_limit_keeps_to_its_rate_and_its_weights_add_up() -> None:
    """50,000 traces of ten spans in 20 s against 5,000 spans a second: about a fifth stays from the third second on,
    and the weights of what was kept add up to what came, within three standard deviations."""
    limit = RateLimit("rate_limit", 5000)
    rng = random.Random(3)
    kept: dict[int, int] = {}
    total = variance = 0.0
    for at in range(50_000):
        now = at * 20 * SECOND // 50_000
        decision = limit.decide(View(trace_id=rng.randbytes(16), spans=10), now)
        if decision.kept:
            total += decision.one_of
            kept[now // SECOND] = kept.get(now // SECOND, 0) + 10
        variance += decision.one_of - 1
    assert abs(total - 50_000) < 3 * math.sqrt(variance)
    assert all(3500 < spans < 6500 for second, spans in kept.items() if second > 1)
