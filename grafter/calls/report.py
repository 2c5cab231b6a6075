"""Figures over many calls: of a whole time, and of each hour of it in which there were calls. Pure.

What nobody knows is None. A share is of the time of which the waits' parts tell.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from grafter.calls.answers import time_text
from grafter.calls.merge import is_slow
from grafter.calls.model import CallRow
from grafter.core.model import JsonObject
from grafter.core.policy import HOUR

FIGURES = (
    "calls", "failed", "slow", "interrupted", "joined", "sampled_away", "turns", "wait_p50_ms", "wait_p95_ms",
    "wait_p99_ms", "app_share", "openai_share", "barge_in_rate", "join_rate",
)  # fmt: skip
"""What is said of the whole and of each hour."""
_PERCENTILES = (50, 95, 99)
_MOST_TOOLS = 10
_MOST_REASONS = 20
_MOST_HOURS_SHOWN = 48
_BAR = 20


@dataclass(slots=True)
class _Sums:
    counts: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    sides: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Of the calls in which somebody waited: the app's, OpenAI's and the unknown time, greetings included."""

    def add(self, call: CallRow) -> None:
        counts = self.counts
        counts["calls"] += 1
        counts["failed"] += call.errors > 0
        counts["slow"] += is_slow(call)
        counts["interrupted"] += call.barge_ins > 0
        counts["joined"] += bool(call.guests)
        counts["with_trace"] += bool(call.traces)
        counts["sampled_away"] += not call.kept
        for turn in call.turns:
            if turn.number and turn.wait_ms is not None:
                self.waits.append(turn.wait_ms)
        # Of a call in which nobody waited they are the time of agents' runs.
        if any(turn.wait_ms is not None for turn in call.turns):
            for at, ms in enumerate((call.app_ms, call.openai_ms, call.unknown_ms)):
                self.sides[at] += ms or 0.0

    def figures(self) -> JsonObject:
        """By the names of FIGURES."""
        counts, spent = self.counts, sum(self.sides)
        app, openai, _ = self.sides
        whole, traced = counts["calls"], counts["with_trace"]
        waits = sorted(self.waits)
        return {
            **{name: counts[name] for name in FIGURES[:6]},
            "turns": len(waits),
            **{f"wait_p{percent}_ms": _percentile(waits, percent) for percent in _PERCENTILES},
            "app_share": app / spent if spent else None,
            "openai_share": openai / spent if spent else None,
            "barge_in_rate": counts["interrupted"] / whole if whole else None,
            "join_rate": counts["joined"] / traced if traced else None,
        }


def report(calls: Iterable[CallRow], since: int, until: int) -> JsonObject:
    """The figures, by hour too; the slowest tools; why calls did not join. ``lines`` says it in words."""
    whole, by_hour = _Sums(), defaultdict[int, _Sums](_Sums)
    tools: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    reasons: Counter[str] = Counter()
    for call in calls:
        whole.add(call)
        by_hour[call.start // HOUR].add(call)
        for name, (count, ms) in call.tools.items():
            tools[name][0] += count
            tools[name][1] += ms
        if not call.guests:
            reasons.update(call.unjoined)
    slowest = sorted(tools.items(), key=lambda tool: tool[1][1] / max(tool[1][0], 1), reverse=True)[:_MOST_TOOLS]
    answer: JsonObject = {
        "since": time_text(since),
        "until": time_text(until),
        **whole.figures(),
        "slowest_tools": [
            {"tool": name, "calls": int(count), "mean_ms": ms / count} for name, (count, ms) in slowest if count
        ],
        "not_joined": [{"reason": reason, "calls": count} for reason, count in reasons.most_common(_MOST_REASONS)],
        "hours": [{"hour": time_text(hour * HOUR), "at": hour, **by_hour[hour].figures()} for hour in sorted(by_hour)],
    }
    answer["lines"] = [*_whole_lines(answer), *_hour_lines(answer["hours"])]
    return answer


def rows(answer: Mapping[str, object]) -> list[list[object]]:
    """The same for spreadsheets: a head, the whole time, and each hour."""
    some = [{"hour": "", **answer}, *_list(answer["hours"])]
    return [["hour", *FIGURES], *[[one["hour"], *[one[name] for name in FIGURES]] for one in some]]


def _whole_lines(answer: Mapping[str, object]) -> list[str]:
    lines = [f"{answer['since']} to {answer['until']}"]
    lines += [f"  {name.removesuffix('_ms').replace('_', ' '):<16}{figure(name, answer[name])}" for name in FIGURES]
    for tool in _list(answer["slowest_tools"]):
        lines.append(f"  tool {tool['tool']}: {tool['calls']} calls, {tool['mean_ms']:.0f} ms each")
    lines += [f"  not joined, {one['calls']}: {one['reason']}" for one in _list(answer["not_joined"])]
    return lines


def _hour_lines(hours: object) -> list[str]:
    """A line an hour: how many calls, how long the slowest of twenty waits, and whose time it was."""
    shown = _list(hours)[-_MOST_HOURS_SHOWN:]
    if not shown:
        return []
    most = max(one["calls"] for one in shown)
    lines = ["", f"  {'hour':<21}{'calls':<{_BAR + 7}}{'p95':>9}  app / openai / unknown"]
    for one in shown:
        bar = "█" * max(1, round(_BAR * one["calls"] / most))
        failed = f" {one['failed']} failed" if one["failed"] else ""
        p95 = figure("wait_p95_ms", one["wait_p95_ms"])
        lines.append(f"  {one['hour']:<21}{one['calls']:>5} {bar:<{_BAR}} {p95:>9}  {_shares(one)}{failed}")
    return lines


def _shares(one: Mapping[str, float | None]) -> str:
    app, openai = one["app_share"], one["openai_share"]
    if app is None or openai is None:
        return "·" * _BAR
    first, second = round(_BAR * app), round(_BAR * openai)
    return "█" * first + "▒" * second + "·" * (_BAR - first - second)


def figure(name: str, value: object) -> str:
    """A figure of FIGURES for people."""
    if value is None:
        return "not known"
    if name.endswith(("_share", "_rate")):
        return f"{float(str(value)):.1%}"
    return f"{float(str(value)):.0f} ms" if name.endswith("_ms") else str(value)


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    return ordered[ceil(len(ordered) * percent / 100) - 1] if ordered else None


def _list(value: object) -> list[dict[str, Any]]:
    return value if isinstance(value, list) else []
