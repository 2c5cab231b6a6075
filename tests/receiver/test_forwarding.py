"""Metrics and logs on their way through: what one sender is told of several exporters."""

import asyncio
from dataclasses import dataclass, field

import pytest

from grafter.consumer import Signal
from grafter.errors import RejectedError, UnavailableError
from grafter.receiver.otlp import Forwarding
from grafter.telemetry import Metrics
from tests.rig import Peer

DOWN = UnavailableError("backend: HTTP 503", retry_after=7.0)
REFUSED = RejectedError("backend: HTTP 400", reason="refused")


@dataclass
class Door(Peer):
    """A peer for metrics and logs that may fail, after others had their turn."""

    failure: Exception | None = None
    got: list[tuple[Signal, bytes]] = field(default_factory=list)
    name: str = "door"

    async def forward(self, signal: Signal, request: bytes) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.got.append((signal, request))


def counted(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Requests by signal and outcome."""
    return {
        (sample.labels["signal"], sample.labels["outcome"]): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "grafter_passed_requests_total"
    }


async def test_each_signal_goes_to_the_exporters_of_its_pipeline() -> None:
    """Bytes pass as they are, to all of them and to no other."""
    first, second, other = Door(), Door(), Door()
    metrics = Metrics()
    forwarding = Forwarding({Signal.METRICS: [first, second], Signal.LOGS: [other]}, metrics)
    await forwarding.forward(Signal.METRICS, b"\x0a\x00m")
    await forwarding.forward(Signal.LOGS, b"\x0a\x00l")
    assert first.got == second.got == [(Signal.METRICS, b"\x0a\x00m")]
    assert other.got == [(Signal.LOGS, b"\x0a\x00l")]
    assert counted(metrics) == {("metrics", "forwarded"): 1, ("logs", "forwarded"): 1}


@pytest.mark.parametrize(
    ("signals", "expected"),
    [((), frozenset()), ((Signal.LOGS,), {Signal.LOGS}), (tuple(Signal), {Signal.METRICS, Signal.LOGS})],
)
def test_the_signals_are_those_with_a_pipeline(signals: tuple[Signal, ...], expected: set[Signal]) -> None:
    """The doors take these and no others."""
    assert Forwarding({signal: [Door()] for signal in signals}, Metrics()).signals == expected


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [(DOWN, "unavailable"), (REFUSED, "refused"), (RuntimeError("a bug"), "error")],
    ids=["down", "refused", "bug"],
)
@pytest.mark.parametrize("at", [0, 1])
async def test_one_failing_exporter_decides_the_answer_and_takes_nothing_from_the_other(
    failure: Exception, outcome: str, at: int
) -> None:
    """The other exporter has the request; the sender hears of the failure, with its hint."""
    doors = [Door(), Door()]
    doors[at].failure = failure
    metrics = Metrics()
    with pytest.raises(type(failure)) as raised:
        await Forwarding({Signal.METRICS: doors}, metrics).forward(Signal.METRICS, b"m")
    assert raised.value is failure
    assert doors[1 - at].got == [(Signal.METRICS, b"m")]
    assert counted(metrics) == {("metrics", outcome): 1}


@pytest.mark.parametrize("failures", [(DOWN, REFUSED), (REFUSED, DOWN)])
async def test_a_passing_failure_is_said_before_a_refusal(failures: tuple[Exception, Exception]) -> None:
    """Told that it was refused, the sender would forget what the exporter that is down would still have taken."""
    doors = [Door(failure=failure) for failure in failures]
    forwarding = Forwarding({Signal.LOGS: doors}, Metrics())
    with pytest.raises(UnavailableError) as raised:
        await forwarding.forward(Signal.LOGS, b"l")
    assert raised.value.retry_after == 7.0
