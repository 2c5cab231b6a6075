"""Calls as commands answer them: JSON for programs, lines for people. Pure."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from grafter.calls.merge import SLOW_MS
from grafter.calls.model import UNKNOWN, CallId, CallRow, PhoneView, TurnRow
from grafter.core.model import JsonObject
from grafter.core.turn_words import shares

_WHOSE = {
    "tool": "your tools",
    "relay": "your app between them",
    "model": "OpenAI's model",
    "endpointing": "the voice detector's silence",
    "playout": "the way to the caller's ear",
    "unknown": "time of which nothing is known",
}


def ids_answer(ids: Iterable[CallId]) -> list[dict[str, str]]:
    """Kind and id of each; the system too where somebody said it."""
    return [{"kind": one.kind, "id": one.value} | ({"system": one.system} if one.system else {}) for one in ids]


def call_answer(call: CallRow) -> JsonObject:
    """One call; ``lines`` says the same in words."""
    return {
        "key": call.key,
        "start": time_text(call.start),
        "end": None if call.end is None else time_text(call.end),
        "start_unix_nano": call.start,
        "end_unix_nano": call.end,
        "outcome": call.outcome,
        "from": _phone(call.caller),
        "to": _phone(call.callee),
        "ids": ids_answer(call.ids),
        "traces": [trace.hex() for trace in call.traces],
        "guests": list(call.guests),
        "turns": [_turn(turn) for turn in call.turns],
        "app_ms": call.app_ms,
        "openai_ms": call.openai_ms,
        "unknown_ms": call.unknown_ms,
        "unanswered_ms": call.unanswered_ms,
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
    unanswered = call.unanswered_ms or 0.0
    if unanswered > SLOW_MS and (slowest is None or unanswered >= (slowest.wait_ms or 0.0)):
        return f"the caller waited at least {_seconds(unanswered)} for an answer, then the call ended"
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
    lines = [f"{time_text(call.start)}{lasted}  {ended}{f'  {who}' if who else ''}"]
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
        lines.append("  ids " + ", ".join(f"{one.whose} {one.value}" for one in call.ids))
    if not call.kept:
        lines.append(f"  its spans were sampled away{f' by {call.policy}' if call.policy else ''}")
    elif call.policy:
        lines.append(f"  kept by {call.policy}")
    lines += [f"  missing: {line}" for line in call.unjoined]
    if call.recording:
        lines.append(f"  recording {call.recording}")
    return lines


def _turn(turn: TurnRow) -> JsonObject:
    return {
        "number": turn.number,
        "start_unix_nano": turn.start,
        "wait_ms": turn.wait_ms,
        "error_ms": turn.error_ms,
        "parts": dict(turn.parts),
        "first_token_ms": turn.first_token_ms,
        "sentence": turn.sentence,
    }


def _phone(phone: PhoneView | None) -> JsonObject | None:
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


def time_text(moment: int) -> str:
    """A moment, UTC, to the second."""
    try:
        return datetime.fromtimestamp(moment // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(moment)
