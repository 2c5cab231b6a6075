"""Calls as commands answer them: JSON for programs, lines for people. Pure."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil

from grafter.calls.merge import SLOW_MS, is_slow
from grafter.calls.model import UNKNOWN, CallRow, PhoneView, TurnRow
from grafter.core.turn_words import shares

Answer = dict[str, object]

_APP, _OPENAI = ("tool", "relay"), ("model",)
_WHOSE = {
    "tool": "your tools",
    "relay": "your app between them",
    "model": "OpenAI's model",
    "endpointing": "the voice detector's silence",
    "playout": "the way to the caller's ear",
    "unknown": "time of which nothing is known",
}
_PERCENTILES = (50, 95, 99)


def call_answer(call: CallRow) -> Answer:
    """One call; ``lines`` says the same in words."""
    return {
        "key": call.key,
        "start": _time(call.start),
        "end": None if call.end is None else _time(call.end),
        "start_unix_nano": call.start,
        "end_unix_nano": call.end,
        "outcome": call.outcome,
        "from": _phone(call.caller),
        "to": _phone(call.callee),
        "ids": [{"kind": one.kind, "id": one.value} for one in call.ids],
        "traces": [trace.hex() for trace in call.traces],
        "guests": list(call.guests),
        "turns": [_turn(turn) for turn in call.turns],
        "app_ms": call.app_ms,
        "openai_ms": call.openai_ms,
        "unknown_ms": call.unknown_ms,
        "errors": call.errors,
        "barge_ins": call.barge_ins,
        "spans": call.spans,
        "tools": {name: {"calls": count, "ms": ms} for name, (count, ms) in call.tools.items()},
        "unjoined": list(call.unjoined),
        "policy": call.policy,
        "kept": call.kept,
        "recording": call.recording,
        "verdict": verdict(call),
        "lines": _lines(call),
    }


def verdict(call: CallRow) -> str:
    """Whose time the longest wait was, in one sentence."""
    slowest = call.slowest
    if slowest is None or slowest.wait_ms is None:
        first = max((turn for turn in call.turns if turn.first_token_ms is not None), key=_first, default=None)
        if first is None:
            return "how long the caller waited is not known"
        return (
            f"how long the caller waited is not known; the model's slowest first token took "
            f"{_seconds(_first(first))}, in turn {first.number}"
        )
    error = f" (up to {_seconds(slowest.error_ms)} more)" if slowest.error_ms >= 5 else ""
    waited = f"{_seconds(slowest.wait_ms)}{error}"
    whose = ""
    if slowest.parts:
        # Rounded as in the sentence that stands below it, which has a figure for the same part.
        lengths = [round(ms * 1e6) for ms in slowest.parts.values()]
        hundredths = dict(zip(slowest.parts, shares(lengths, sum(lengths)), strict=True))
        most = max(slowest.parts, key=lambda part: slowest.parts[part])
        whose = f"; {hundredths[most] / 100:.2f} s of it was {_WHOSE.get(most, most)}"
    if slowest.wait_ms <= SLOW_MS:
        return f"no answer was slow: the longest wait, in turn {slowest.number}, was {waited}{whose}"
    return f"turn {slowest.number} was slow: the caller waited {waited}{whose}"


def found_lines(calls: Sequence[CallRow], text: str, *, more: bool) -> list[str]:
    """A list of calls for people; ``text`` is what was asked for."""
    if not calls:
        return not_found_lines(text)
    lines = [f"{len(calls)}{' or more' if more else ''} call{'' if len(calls) == 1 else 's'}"]
    for call in calls:
        lines += ["", *_lines(call)]
    return lines


def not_found_lines(text: str) -> list[str]:
    """That nothing was found, and what a number may lack."""
    lines = ["no call is known of this number or id" if text else "no call is known"]
    if _NATIONAL.fullmatch(text.strip()):
        lines.append("a number without + is read as one of the country that extensions.calls.region names")
    return lines


_NATIONAL = re.compile(r"[(\d][\d ()./-]{2,}")


def _lines(call: CallRow) -> list[str]:
    lasted = "" if call.end is None else f"  {_duration(call.end - call.start)}"
    who = " ".join(
        f"{word} {_shown(phone)}" for word, phone in (("from", call.caller), ("to", call.callee)) if phone is not None
    )
    ended = "how it ended is not known" if call.outcome == UNKNOWN else call.outcome
    lines = [f"{_time(call.start)}{lasted}  {ended}{f'  {who}' if who else ''}"]
    lines.append(f"  {verdict(call)}")
    slowest = call.slowest
    if slowest is not None and slowest.sentence:
        lines.append(f"  turn {slowest.number}: {slowest.sentence}")
    counted = [
        _many(len([turn for turn in call.turns if turn.number]), "turn"),
        _many(call.barge_ins, "interruption"),
        _many(call.errors, "failed span"),
        _many(call.spans, "span"),
    ]
    lines.append("  " + ", ".join(counted))
    lines += [f"  trace {trace.hex()}" for trace in call.traces]
    if call.ids:
        lines.append("  ids " + ", ".join(f"{one.kind} {one.value}" for one in call.ids))
    if not call.kept:
        lines.append(f"  its spans were sampled away{f' by {call.policy}' if call.policy else ''}")
    elif call.policy:
        lines.append(f"  kept by {call.policy}")
    lines += [f"  missing: {line}" for line in call.unjoined]
    if call.recording:
        lines.append(f"  recording {call.recording}")
    return lines


def report(calls: Iterable[CallRow], since: int, until: int) -> Answer:
    """Figures over many calls; what nobody knows is null."""
    waits: list[float] = []
    parts: dict[str, float] = defaultdict(float)
    tools: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    counts: Counter[str] = Counter()
    for call in calls:
        counts["calls"] += 1
        counts["failed"] += call.errors > 0
        counts["slow"] += is_slow(call)
        counts["interrupted"] += call.barge_ins > 0
        counts["joined"] += bool(call.guests)
        counts["with_trace"] += bool(call.traces)
        counts["sampled_away"] += not call.kept
        for turn in call.turns:
            if turn.number and turn.wait_ms is not None:
                waits.append(turn.wait_ms)
                for name, ms in turn.parts.items():
                    parts[name] += ms
        for name, (count, ms) in call.tools.items():
            tools[name][0] += count
            tools[name][1] += ms
    spent = sum(parts.values())
    slowest = sorted(tools.items(), key=lambda tool: tool[1][1] / max(tool[1][0], 1), reverse=True)[:10]
    whole = counts["calls"]
    said: Answer = {
        "since": _time(since),
        "until": _time(until),
        **{name: counts[name] for name in ("calls", "failed", "slow", "interrupted", "joined", "sampled_away")},
        "turns": len(waits),
        **{f"wait_p{percent}_ms": _percentile(waits, percent) for percent in _PERCENTILES},
        "app_share": sum(parts[name] for name in _APP) / spent if spent else None,
        "openai_share": sum(parts[name] for name in _OPENAI) / spent if spent else None,
        "barge_in_rate": counts["interrupted"] / whole if whole else None,
        "join_rate": counts["joined"] / counts["with_trace"] if counts["with_trace"] else None,
        "slowest_tools": [
            {"tool": name, "calls": int(count), "mean_ms": ms / count} for name, (count, ms) in slowest if count
        ],
    }
    said["lines"] = _report_lines(said)
    return said


def _report_lines(said: Mapping[str, object]) -> list[str]:
    lines = [f"{said['since']} to {said['until']}"]
    for name, value in said.items():
        if name in ("since", "until", "slowest_tools"):
            continue
        if value is None:
            shown = "not known"
        elif name.endswith(("_share", "_rate")):
            shown = f"{float(str(value)):.1%}"
        elif name.endswith("_ms"):
            shown = f"{float(str(value)):.0f} ms"
        else:
            shown = str(value)
        lines.append(f"  {name.removesuffix('_ms').replace('_', ' '):<16}{shown}")
    tools = said["slowest_tools"]
    named = tools if isinstance(tools, list) else []
    return lines + [f"  tool {tool['tool']}: {tool['calls']} calls, {tool['mean_ms']:.0f} ms each" for tool in named]


def _percentile(figures: Sequence[float], percent: int) -> float | None:
    """The nearest rank."""
    ordered = sorted(figures)
    return ordered[ceil(len(ordered) * percent / 100) - 1] if ordered else None


def _turn(turn: TurnRow) -> Answer:
    return {
        "number": turn.number,
        "start_unix_nano": turn.start,
        "wait_ms": turn.wait_ms,
        "error_ms": turn.error_ms,
        "parts": dict(turn.parts),
        "first_token_ms": turn.first_token_ms,
        "sentence": turn.sentence,
    }


def _phone(phone: PhoneView | None) -> Answer | None:
    return None if phone is None else {"last_four": phone.last_four, "number": phone.number}


def _shown(phone: PhoneView) -> str:
    return phone.number or (f"…{phone.last_four}" if phone.last_four else "a short number")


def _first(turn: TurnRow) -> float:
    return turn.first_token_ms or 0.0


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _seconds(ms: float) -> str:
    return f"{ms / 1000:.2f} s"


def _duration(ns: int) -> str:
    seconds = ns / 1e9
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _time(moment: int) -> str:
    try:
        return datetime.fromtimestamp(moment // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(moment)
