"""The figures of the last days as the page shows them: four pictures over the hours, and a table that says the same.
Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafter.calls.report import figure
from grafter.core.policy import HOUR
from grafter.web.words import MS, clock, day, length, plain

PERIODS = {"24h": 24, "7d": 7 * 24, "30d": 30 * 24}
"""What may be asked for, in hours."""
_WAITS = ("wait_p50_ms", "wait_p95_ms", "wait_p99_ms")
_LEAST_SCALE_MS = 2_000.0
_LIMIT_MS = 1_500.0


@dataclass(frozen=True, slots=True)
class Bar:
    """Of one hour; in hundredths of the picture, from its upper left corner."""

    x: float
    width: float
    y: float
    height: float
    fill: str


@dataclass(frozen=True, slots=True)
class Picture:
    title: str
    key: tuple[tuple[str, str], ...]
    """Fill and words of what is drawn."""
    bars: tuple[Bar, ...]
    most: str
    """What the upper edge stands for."""
    limit: float | None = None
    """Where 1.5 s are."""


@dataclass(frozen=True, slots=True)
class ReportView:
    period: str
    since: str
    until: str
    axis: tuple[str, str]
    """The first hour of the pictures, and the last."""
    figures: tuple[tuple[str, str], ...]
    pictures: tuple[Picture, ...]
    hours: tuple[tuple[str, ...], ...]
    tools: tuple[tuple[str, int, str], ...]
    reasons: tuple[tuple[str, int], ...]


_FIGURES = {
    "calls": "calls", "failed": "with a failed span", "slow": "with a wait over 1.5 s", "interrupted": "interrupted",
    "barge_in_rate": "of the calls interrupted", "join_rate": "of the calls joined",
    "wait_p50_ms": "p50 of the wait", "wait_p95_ms": "p95 of the wait", "wait_p99_ms": "p99 of the wait",
    "app_share": "of the waits was your app", "openai_share": "of the waits was OpenAI",
}  # fmt: skip
_FIRST, _SECOND, _THIRD = "said", "heard", "p-unknown"
"""Fills that are nobody's: of the style, or a pattern."""
_APP, _OPENAI = "p-app", "p-openai"


def report_view(answer: Mapping[str, Any], period: str, since: int, until: int) -> ReportView:
    hours = answer["hours"]
    first = since // HOUR
    count = max(1, until // HOUR - first + 1)
    places = [(_place(one, first, count), one) for one in hours]
    most_calls = max((one["calls"] for one in hours), default=0)
    longest = max([_LEAST_SCALE_MS, *(one["wait_p99_ms"] or 0.0 for one in hours)])
    calls, waits, shares, cuts = [], [], [], []
    for (x, width), one in places:
        calls += _stack(x, width, [(_FIRST, one["calls"] - one["failed"]), (_THIRD, one["failed"])], most_calls)
        p50, p95, p99 = (one[name] for name in _WAITS)
        if p50 is not None:
            waits += _stack(x, width, [(_FIRST, p50), (_SECOND, p95 - p50), (_THIRD, p99 - p95)], longest)
        app, openai = one["app_share"], one["openai_share"]
        if app is not None:
            shares += _stack(x, width, [(_APP, app), (_OPENAI, openai), (_THIRD, 1 - app - openai)], 1.0)
        cuts += _stack(x, width, [(_FIRST, one["barge_in_rate"] or 0.0)], 1.0)
    return ReportView(
        period,
        f"{day(since)}, {clock(since)} UTC",
        f"{day(until)}, {clock(until)} UTC",
        (_hour(first), _hour(first + count - 1)),
        tuple((_shown(name, answer[name]), words) for name, words in _FIGURES.items()),
        (
            Picture("Calls", ((_FIRST, "calls"), (_THIRD, "with a failed span")), tuple(calls), f"{most_calls:,}"),
            Picture(
                "What callers waited",
                ((_FIRST, "p50"), (_SECOND, "p95"), (_THIRD, "p99")),
                tuple(waits),
                f"{longest / 1000:.1f} s",
                round(100 - _LIMIT_MS / longest * 100, 2),
            ),
            Picture(
                "Whose time the waits were",
                ((_APP, "your app"), (_OPENAI, "OpenAI"), (_THIRD, "unknown")),
                tuple(shares),
                "100\u00a0%",
            ),
            Picture("Calls that were interrupted", ((_FIRST, "share of calls"),), tuple(cuts), "100\u00a0%"),
        ),
        tuple((one["hour"][:16], *(_shown(name, one[name]) for name in _FIGURES)) for one in reversed(hours)),
        tuple((plain(one["tool"], 60), one["calls"], length(one["mean_ms"] * MS)) for one in answer["slowest_tools"]),
        tuple((plain(one["reason"], 200), one["calls"]) for one in answer["not_joined"]),
    )


def columns() -> list[str]:
    """What the columns of the table of hours are called."""
    return ["Hour", *_FIGURES.values()]


def _shown(name: str, value: object) -> str:
    if value is None:
        return "–"
    return length(float(str(value)) * MS) if name in _WAITS else figure(name, value)


def _hour(number: int) -> str:
    return f"{day(number * HOUR).rpartition(' ')[0]}, {clock(number * HOUR)[:5]}"


def _place(one: Mapping[str, Any], first: int, count: int) -> tuple[float, float]:
    pitch = 100 / count
    return round((one["at"] - first) * pitch, 3), round(pitch * 0.86, 3)


def _stack(x: float, width: float, parts: Sequence[tuple[str, float]], whole: float) -> list[Bar]:
    """From the lower edge up."""
    bars, top = [], 100.0
    for fill, value in parts:
        height = 100 * value / whole if whole else 0.0
        if height > 0:
            top = max(0.0, top - height)
            bars.append(Bar(x, width, round(top, 3), round(min(height, 100.0), 3), fill))
    return bars
