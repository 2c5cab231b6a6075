"""Figures over many calls, against the same counted by hand."""

from collections.abc import Sequence

import pytest
from hypothesis import given

from grafter.calls.merge import calls_of, row
from grafter.calls.model import NO_GUEST, CallRow
from grafter.calls.report import FIGURES, report, rows
from grafter.core.policy import HOUR, SECOND
from tests.calls.records import START, any_records, record, trace, wait

BEGIN = START // HOUR * HOUR


def calls() -> list[CallRow]:
    """Three in one hour, one in the hour after the next."""
    made = [
        record("a", start=BEGIN, traces=(trace(1),), guests=("rtc_1",), barge_ins=2, app_ms=1900.0, openai_ms=2100.0,
               unknown_ms=0.0, turns=(
                   wait(1, 1000.0, model=600.0, tool=400.0),
                   wait(2, 3000.0, model=1000.0, endpointing=500.0, tool=1500.0))),
        record("b", start=BEGIN + 60 * SECOND, traces=(trace(2),), errors=1, unjoined=(NO_GUEST,)),
        record("c", start=BEGIN + 120 * SECOND, traces=(trace(3),), unjoined=(NO_GUEST,), kept=False, app_ms=9000.0,
               tools={"book_slot": (4, 2000.0)}),
        record("d", start=BEGIN + 2 * HOUR, traces=(trace(4),), guests=("rtc_2",), turns=(wait(1, 500.0),),
               app_ms=0.0, openai_ms=400.0, unknown_ms=100.0,
               tools={"book_slot": (1, 3000.0), "find": (1, 10.0)}),
    ]  # fmt: skip
    return [row(call, START) for call in calls_of(made)]


def test_the_whole_and_each_hour() -> None:
    """Every figure; hours without a call are left out. The detector's silence is OpenAI's, as on the page of the call:
    2,100 of the first call's 4,000, and 400 of the last one's 500. A run of agents in which nobody waited is in no
    share."""
    said = report(calls(), BEGIN, BEGIN + 3 * HOUR)
    assert {name: said[name] for name in FIGURES} == {
        "calls": 4, "failed": 1, "slow": 1, "interrupted": 1, "joined": 2, "sampled_away": 1, "turns": 3,
        "wait_p50_ms": 1000.0, "wait_p95_ms": 3000.0, "wait_p99_ms": 3000.0,
        "app_share": pytest.approx(1900 / 4500), "openai_share": pytest.approx(2500 / 4500),
        "barge_in_rate": 0.25, "join_rate": 0.5,
    }  # fmt: skip
    hours = said["hours"]
    assert isinstance(hours, list)
    assert [(one["at"], one["calls"], one["wait_p95_ms"]) for one in hours] == [
        (BEGIN // HOUR, 3, 3000.0),
        (BEGIN // HOUR + 2, 1, 500.0),
    ]
    assert said["not_joined"] == [{"reason": NO_GUEST, "calls": 2}]
    assert said["slowest_tools"] == [
        {"tool": "book_slot", "calls": 5, "mean_ms": 1000.0},
        {"tool": "find", "calls": 1, "mean_ms": 10.0},
    ]
    head, whole, *each = rows(said)
    assert head == ["hour", *FIGURES]
    assert whole[:3] == ["", 4, 1]
    assert len(each) == 2


def test_it_is_drawn_for_a_terminal() -> None:
    """A bar for the calls of each hour, and one for whose time it was."""
    lines = report(calls(), BEGIN, BEGIN + 3 * HOUR)["lines"]
    assert isinstance(lines, list)
    first, last = lines[-2:]
    assert "    3 " + "█" * 20 in first
    assert first.endswith("1 failed")
    assert "3000 ms  " + "█" * 10 + "▒" * 10 in first
    assert "    1 " + "█" * 7 + " " in last
    assert any(NO_GUEST in line for line in lines)


@given(any_records)
def test_the_hours_add_up(records: Sequence[object]) -> None:
    """Whatever the calls are."""
    some = [row(call, START) for call in calls_of(records)]  # type: ignore[arg-type]
    said = report(some, 0, START)
    hours = said["hours"]
    assert isinstance(hours, list)
    for name in FIGURES[:7]:
        assert sum(one[name] for one in hours) == said[name]
    assert all(0 <= one[name] <= 1 for one in [said, *hours] for name in FIGURES[-4:] if one[name] is not None)  # type: ignore[operator]
