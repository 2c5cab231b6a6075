"""A backend that is broken for a while, then well: nothing is lost, little is asked, and the books balance."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from grafter.core.policy import SECOND
from grafter.core.retry import RetryPolicy
from grafter.exporter.answer import Accepted, ExportAnswer, Later, Refused
from grafter.exporter.cut import Limits
from grafter.exporter.dead_letters import DeadLetters
from grafter.exporter.sending import Sending
from grafter.telemetry import Metrics
from tests.exporter.doubles import Script, middle, spans_in
from tests.processor.test_processor import host_request
from tests.rig import START, Rig, rig

ALL_REFUSED = [
    Refused("INTERNAL: panic"),
    Refused("INVALID_ARGUMENT: unknown dataset"),
    Refused("HTTP 500"),
    Refused("RESOURCE_EXHAUSTED", too_large=True),
    Later("UNAVAILABLE"),
]
BROKEN_SECONDS = 120
PER_SECOND = 20


@dataclass
class Backend:
    """Answers as its state says; a trace whose number is among the bad ones it never takes."""

    broken: ExportAnswer | None = None
    bad: Callable[[int], bool] = lambda _: False
    taken: Counter[int] = field(default_factory=Counter)
    script: Script = field(init=False)

    def __post_init__(self) -> None:
        self.script = Script(self._answer)

    def _answer(self, body: bytes) -> ExportAnswer:
        if self.broken is not None:
            return self.broken
        numbers = [int.from_bytes(span.trace_id, "big") for span in spans_in(body)]
        if any(map(self.bad, numbers)):
            return Refused("HTTP 400: bad")
        self.taken.update(numbers)
        return Accepted()


def sending(backend: Backend, now: list[int], metrics: Metrics, name: str = "peer") -> Sending:
    async def no_time(_seconds: float) -> None:
        """A blip's pause."""

    return Sending(
        name,
        backend.script,
        metrics=metrics,
        clock=lambda: now[0] / SECOND,
        random=middle,
        sleep=no_time,
        retry=RetryPolicy(),
        limits=Limits(),
    )


class Calls:
    """Traces that come all the while, numbered from 1."""

    def __init__(self, rooms: Rig) -> None:
        self.rooms = rooms
        self.number = 0

    async def come(self, seconds: int) -> None:
        for _ in range(seconds):
            for _ in range(PER_SECOND):
                self.number += 1
                await self.rooms.host(host_request(self.number.to_bytes(16, "big"), (1, 0, "call"), (2, 1, "step")))
            await self.rooms.pass_time(1)

    async def end(self) -> None:
        for _ in range(120):
            await self.rooms.pass_time(5)


@pytest.mark.parametrize("broken", ALL_REFUSED, ids=lambda answer: answer.reason)
@pytest.mark.parametrize("well_before", [True, False])
async def test_what_a_broken_backend_refuses_is_held(
    broken: ExportAnswer, well_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Two minutes of refusals whatever is sent: no letter, few requests, two lines of log, and everything arrives."""
    caplog.set_level(logging.INFO, "grafter")
    now, metrics, backend = [START], Metrics(), Backend()
    exporter = sending(backend, now, metrics)
    async with rig(exporter, now=now, metrics=metrics) as rooms:
        calls = Calls(rooms)
        if well_before:
            await calls.come(20)
        backend.broken, sent = broken, len(backend.script.bodies)
        await calls.come(BROKEN_SECONDS)
        asked = len(backend.script.bodies) - sent
        backend.broken = None
        await calls.end()
        assert await rooms.store.dead_letters(10) == []
        assert backend.taken == Counter(dict.fromkeys(range(1, calls.number + 1), 2))
        assert asked < 60
        assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == ["WARNING"]
        came, became = rooms.books(2 * calls.number)
        assert came == became
        assert rooms.count("grafter_exporter_sent_spans_total") == 2 * calls.number


async def test_bad_traces_among_good_ones_are_told_from_an_outage_and_come_back_by_retry() -> None:
    """One trace in fifty is refused for good, before, in and after an outage: those lie in the box, all others arrive;
    once the backend takes them the box empties to the last letter, and each span has arrived once."""
    now, metrics, backend = [START], Metrics(), Backend(bad=lambda n: n % 50 == 7)
    exporter = sending(backend, now, metrics)
    async with rig(exporter, now=now, metrics=metrics) as rooms:
        calls = Calls(rooms)
        await calls.come(20)
        backend.broken = ALL_REFUSED[0]
        await calls.come(60)
        backend.broken = None
        await calls.come(20)
        await calls.end()
        bad = {n for n in range(1, calls.number + 1) if n % 50 == 7}
        letters = await rooms.store.dead_letters(1 << 20)
        assert {int.from_bytes(letter.key, "big") for letter in letters} == bad
        assert set(backend.taken) == {*range(1, calls.number + 1)} - bad
        sent = rooms.count("grafter_exporter_sent_spans_total")
        assert rooms.books(int(sent))[0] == rooms.books(int(sent))[1]
        (box,) = rooms.store.stats().dead_letters.values()
        assert (box.letters, box.spans) == (len(bad), 2 * len(bad))

        dead_letters = DeadLetters(rooms.store, {"peer": exporter}, metrics, lambda: now[0])
        refused = await dead_letters.answer("retry", {})
        assert (refused["taken"], refused["next"]) == (0, len(bad))
        assert len(await rooms.store.dead_letters(1 << 20)) == len(bad)
        assert exporter.retry_in() == 0
        backend.bad = lambda _: False
        answer = await dead_letters.answer("retry", {})
        assert (answer["taken"], answer["spans"], answer["left"]) == (len(bad), 2 * len(bad), {})
        assert await rooms.store.dead_letters(10) == []
        assert backend.taken == Counter(dict.fromkeys(range(1, calls.number + 1), 2))
        sent = rooms.count("grafter_exporter_sent_spans_total")
        assert sent == 2 * calls.number
        assert rooms.books(int(sent))[0] == rooms.books(int(sent))[1]


async def test_one_of_two_backends_that_is_broken_costs_the_other_nothing() -> None:
    """The other has everything while it lasts, each once; the broken one gets all of it later."""
    now, metrics = [START], Metrics()
    well, broken = Backend(bad=lambda n: n % 100 == 3), Backend(broken=ALL_REFUSED[1])
    exporters = [sending(well, now, metrics, "well"), sending(broken, now, metrics, "broken")]
    async with rig(*exporters, now=now, metrics=metrics) as rooms:
        calls = Calls(rooms)
        await calls.come(60)
        await rooms.pass_time(30)
        bad = {n for n in range(1, calls.number + 1) if n % 100 == 3}
        assert set(well.taken) == {*range(1, calls.number + 1)} - bad
        assert {letter.exporter for letter in await rooms.store.dead_letters(1 << 20)} == {"well"}
        broken.broken = None
        await calls.end()
        assert broken.taken == Counter(dict.fromkeys(range(1, calls.number + 1), 2))
        assert set(well.taken.values()) == {2}
        assert rooms.store.stats().traces == 0


async def test_past_its_limit_the_box_takes_no_more_and_the_traces_stay_held(caplog: pytest.LogCaptureFixture) -> None:
    """What is refused then is held and said; when there is room again it moves in, and nothing was lost."""
    bad = set(range(1, 81, 2))
    now, metrics, backend = [START], Metrics(), Backend(bad=lambda n: n in bad)
    exporter = sending(backend, now, metrics)
    async with rig(exporter, now=now, metrics=metrics, letter_bytes=2_000) as rooms:
        calls = Calls(rooms)
        await calls.come(20)
        await rooms.pass_time(60)
        letters = await rooms.store.dead_letters(1 << 20)
        assert 0 < len(letters) < len(bad)
        assert len(letters) + rooms.store.stats().traces == len(bad)
        assert any("the dead-letter box is full" in record.message for record in caplog.records)
        assert rooms.count("grafter_dropped_spans_total") == 0

        dead_letters = DeadLetters(rooms.store, {"peer": exporter}, metrics, lambda: now[0])
        seen: set[int] = set()
        for _ in range(20):
            seen |= {int.from_bytes(letter.key, "big") for letter in await rooms.store.dead_letters(1 << 20)}
            await dead_letters.answer("drop", {})
            await calls.come(1)
            await rooms.pass_time(70)
            await calls.come(1)
        assert seen == bad
        await rooms.pass_time(30)
        assert rooms.store.stats().traces == 0
        assert rooms.count("grafter_dropped_spans_total", reason="dead_letters_dropped") == 2 * len(bad)
        sent = rooms.count("grafter_exporter_sent_spans_total")
        assert rooms.books(int(sent))[0] == rooms.books(int(sent))[1]
