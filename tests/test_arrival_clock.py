"""Waits go by a clock that no jump of the wall clock moves, restarts included."""

import logging
import time
from pathlib import Path

import pytest

from grafter.arrival_clock import ArrivalClock
from grafter.core.model import UnixNano
from grafter.core.policy import SECOND
from grafter.otlp.split import Splitter
from grafter.service import running
from tests.processor.test_processor import host_request
from tests.test_service import backend, read, settings

DAY = 86_400 * SECOND


class Clocks:
    """A wall clock that somebody sets, and a steady one."""

    def __init__(self) -> None:
        self.wall = 1_000 * DAY
        self.steady = 7 * SECOND

    def pass_time(self, ns: int) -> None:
        self.wall += ns
        self.steady += ns

    def clock(self, start: int) -> ArrivalClock:
        return ArrivalClock(start, lambda: self.wall, lambda: self.steady)


@pytest.mark.parametrize("jump", [-DAY, -3600 * SECOND, 3600 * SECOND, DAY])
def test_a_jump_moves_nothing_and_is_said_once(jump: int, caplog: pytest.LogCaptureFixture) -> None:
    """The moment goes on at its rate; the log says by how much the wall clock was set, and the gauge has the rest."""
    clocks = Clocks()
    clock = clocks.clock(clocks.wall)
    clocks.pass_time(10 * SECOND)
    assert clock.compare() == 0.0
    clocks.wall += jump
    before = clock()
    clocks.pass_time(SECOND)
    assert clock() - before == SECOND
    with caplog.at_level(logging.WARNING):
        assert clock.compare() == jump / SECOND
        assert clock.compare() == jump / SECOND
    assert [record.message.count("the wall clock is") for record in caplog.records] == [1]
    caplog.clear()
    clocks.wall -= jump
    clock.compare()
    assert len(caplog.records) == 1


def test_a_correction_of_a_second_is_no_jump(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    clock = clocks.clock(clocks.wall)
    clocks.wall -= SECOND
    assert clock.compare() == -1.0
    assert not caplog.records


def lose_ledger(home: Path) -> None:
    for path in home.rglob("ledger.sqlite*"):
        path.unlink()


def test_it_goes_on_from_what_comes_to_light_later() -> None:
    clocks = Clocks()
    clock = clocks.clock(clocks.wall)
    clock.advance(clocks.wall - DAY)
    assert clock() == clocks.wall
    clock.advance(clocks.wall + DAY)
    clocks.pass_time(SECOND)
    assert clock() == clocks.wall + DAY


@pytest.mark.parametrize("lost", [False, True], ids=["ledger there", "ledger lost"])
async def test_what_was_stored_before_the_clock_went_back_leaves_at_the_next_start(tmp_path: Path, lost: bool) -> None:
    """The process before lived a day ahead of this machine's clock. By that clock its trace would be held for a day,
    also where the ledger, which knows how late it was, is gone: then what is held says it."""
    async with backend() as there:
        config = read(tmp_path, settings(tmp_path, {"otlp_http": {"endpoint": there.url}}))
        policy = config.graft_policy()
        tomorrow = UnixNano(time.time_ns() + DAY)
        split = Splitter(policy.anchors).split(host_request(bytes(15) + b"a", (1, 0, "root")))
        async with config.extensions.store.open(policy, None) as store:
            await store.append(split.parts, tomorrow)
            await store.keep_moment(tomorrow)
        if lost:
            lose_ledger(tmp_path)
        async with running(config):
            await there.spans(1)
        async with config.extensions.store.open(policy, None) as store:
            assert tomorrow < store.moment < tomorrow + 3600 * SECOND
