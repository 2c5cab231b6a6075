"""``processors.tail_sampling``: what a file may say, what it may not, and what it is in the core."""

from collections.abc import Callable

import pytest

from grafter.components import Config
from grafter.config.problems import ConfigError
from grafter.config.show import as_yaml
from grafter.core.policy import MINUTE
from grafter.core.sampling.attribute import Attribute
from grafter.core.sampling.barge_in import BargeIn
from grafter.core.sampling.error import Error
from grafter.core.sampling.everything import Drop
from grafter.core.sampling.first_token import FirstToken
from grafter.core.sampling.guest import HasGuest
from grafter.core.sampling.latency import Latency
from grafter.core.sampling.policies import SamplingPolicy
from grafter.core.sampling.probabilistic import Probabilistic
from grafter.core.sampling.span_count import SpanCount

Read = Callable[..., Config]

EXAMPLE = """
processors:
  tail_sampling:
    regret: 1m
    upstream: unknown
    policies:
      - {type: error}
      - {type: first_token}
      - {type: latency, threshold_ms: 5, upper_threshold_ms: 9}
      - {type: attribute, name: vip, key: tier, values: [gold, 7, true]}
      - {type: span_count, max_spans: 3}
      - {type: guest, present: false, complete: true}
      - {type: barge_in}
      - {type: probabilistic, one_of: 100}
      - {type: drop}
"""


def test_the_default_is_the_cores_own() -> None:
    """tail_sampling left alone gives the core exactly its own defaults, which can drop nothing."""
    assert Config().sampling_policy() == SamplingPolicy()


def test_every_policy_reaches_the_core(read: Read) -> None:
    """graft runs without being named, and printed the config is the same one again."""
    config = read(EXAMPLE)
    assert list(config.active().processors) == ["graft", "tail_sampling"]
    sampling = config.sampling_policy()
    assert sampling == SamplingPolicy(
        (
            Error("error"),
            FirstToken("first_token", 1500),
            Latency("latency", 5, 9),
            Attribute("vip", "tier", frozenset({"gold", "7", "true"})),
            SpanCount("span_count", 1, 3),
            HasGuest("guest", False, True),
            BargeIn("barge_in"),
            Probabilistic("probabilistic", 100),
            Drop("drop"),
        ),
        regret=MINUTE,
        claims_upstream=False,
    )
    assert read(as_yaml(config)).sampling_policy() == sampling


def test_it_may_be_left_out(read: Read) -> None:
    """A pipeline of graft alone samples nothing."""
    assert read("service: {pipelines: {traces: {processors: [graft]}}}").sampling_policy() is None


@pytest.mark.parametrize(("percent", "one_of"), [("1", 100), ("3", 33), ("50", 2), ("100", 1), ("0.01", 10000)])
def test_a_percentage_becomes_one_of_n(read: Read, percent: str, one_of: int) -> None:
    """The nearest one, with a word where it is not the same."""
    config = read(
        f"processors: {{tail_sampling: {{policies: [{{type: probabilistic, sampling_percentage: {percent}}}]}}}}"
    )
    sampling = config.sampling_policy()
    assert sampling is not None
    assert sampling.policies == (Probabilistic("probabilistic", one_of),)
    said = " ".join(config.warnings)
    assert ("becomes one_of: 33 (3.03 %)" in said) == (percent == "3")


@pytest.mark.parametrize(
    ("policies", "problem"),
    [
        ("[{type: eror}]", ".0.type: 'eror' is not one of error, "),
        ("[{type: error, key: a}, {type: drop}]", ".0.key: is no key of error, but of attribute"),
        ("[{type: attribute}, {type: drop}]", ".0: attribute needs key"),
        ("[{type: span_count}, {type: drop}]", ".0: span_count needs min_spans, max_spans or both"),
        ("[{type: probabilistic}]", ".0: probabilistic needs one_of or sampling_percentage, one of the two"),
        ("[{type: probabilistic, one_of: 2, sampling_percentage: 50}]", ".0: probabilistic needs one_of or"),
        (
            "[{type: probabilistic, sampling_percentage: 75}]",
            ".0.sampling_percentage: 75 is no one of N: the nearest are one_of: 1 (100 %) and one_of: 2 (50 %)",
        ),
        ("[{type: probabilistic, sampling_percentage: 0}]", ".0.sampling_percentage: 0 keeps nothing"),
        ("[{type: error}]", ": decides nothing where none of them matches: end with one of probabilistic, rate_limit"),
        ("[]", ": decides nothing where none of them matches"),
        ("[{type: always}, {type: drop}]", ".1: is never reached: always decides about every trace"),
        ("[{type: probabilistic, one_of: 2}, {type: always}]", ".1: is never reached: probabilistic decides"),
        ("[{type: error}, {type: error}, {type: drop}]", ".1: is called error, as another is: give it a name"),
    ],
)
def test_what_cannot_work_is_said(read: Read, policies: str, problem: str) -> None:
    """A line for each mistake, at its place."""
    with pytest.raises(ConfigError) as raised:
        read(f"processors: {{tail_sampling: {{policies: {policies}}}}}")
    assert f"processors.tail_sampling.policies{problem}" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "processors: {graft: {mode: stream}, tail_sampling: {policies: [{type: drop}]}}",
            "processors.tail_sampling: needs graft's mode hold",
        ),
        (
            "service: {pipelines: {traces: {processors: [tail_sampling, graft]}}}",
            "service.pipelines.traces.processors: names tail_sampling before graft",
        ),
        (
            "service: {pipelines: {traces: {processors: [tail_sampling]}}}",
            "service.pipelines.traces.processors: needs graft",
        ),
    ],
)
def test_it_needs_whole_traces(read: Read, text: str, problem: str) -> None:
    """It stands behind graft, which holds traces back."""
    with pytest.raises(ConfigError) as raised:
        read(text)
    assert problem in str(raised.value)
    assert read("processors: {graft: {mode: stream}, tail_sampling: }").sampling_policy() == SamplingPolicy()
