"""A wait in words that a person can read: ``waited 2.93 s: 0.50 the voice detector, 0.75 the model in two answers``.

The parts that are shown add up to the time that is shown, to the hundredth of a second.
"""

from collections.abc import Sequence

from grafter.core.call_latency import CallerTurn, Part, Side

_HUNDREDTH = 10_000_000
_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_WORDS = {
    ("endpointing", Side.OPENAI): "the voice detector",
    ("endpointing", Side.APP): "your turn detection",
    ("model", Side.OPENAI): "the model",
    ("model", Side.UNKNOWN): "the model",
    ("greeting", Side.OPENAI): "the model",
    ("greeting", Side.UNKNOWN): "the greeting",
    ("relay", Side.APP): "your app",
    ("accept", Side.APP): "your app",
    ("dispatch", Side.APP): "the dispatch",
    ("connect", Side.APP): "connecting",
    ("playout", Side.OPENAI): "until it was played",
    ("playout", Side.UNKNOWN): "the voice",
}
_ANSWERING = ("model", "greeting")
"""Parts of which each is one answer's."""
_BEGINNINGS = {"session": "the session began", "dispatch": "the job was dispatched"}
_TOOLS = {Side.APP: "your tool", Side.OPENAI: "OpenAI's tool", Side.UNKNOWN: "the MCP tool"}


def sentence(turn: CallerTurn, *, greeting: bool) -> str:
    """What the caller waited for: an answer, or the greeting."""
    total = turn.end - turn.start
    length = f"{_seconds(_rounded(total))} s"
    begin = _BEGINNINGS.get(turn.start_word, turn.start_word)
    words = f"heard the greeting {length} after {begin}" if greeting else f"waited {length}"
    if turn.error_ns >= _HUNDREDTH:
        words += f", perhaps {_seconds(_rounded(turn.error_ns))} s longer"
    lengths: dict[str, int] = {}
    answers: dict[str, set[bytes]] = {}
    for part in turn.parts:
        name = _word(part)
        lengths[name] = lengths.get(name, 0) + part.ns
        if part.name in _ANSWERING:
            answers.setdefault(name, set()).add(part.span_id)
    shown = []
    for name, hundredths in zip(lengths, shares([*lengths.values()], total), strict=True):
        if hundredths:
            several = len(answers.get(name, ()))
            shown.append(f"{_seconds(hundredths)} {name}{f' in {_count(several)} answers' if several > 1 else ''}")
    if turn.answer_audio_ns is not None and turn.answer_audio_ns > total:
        later = f"; the answer itself came after {_seconds(_rounded(turn.answer_audio_ns))} s"
    else:
        later = ""
    return (f"{words}: {', '.join(shown)}" if shown else words) + later


def waited_in_vain(ns: int) -> str:
    """How long somebody had waited at least, when the call ended before an answer was heard."""
    return f"waited at least {_seconds(_rounded(ns))} s for an answer, then the call ended"


def totals(app_ns: int | None, openai_ns: int | None, unknown_ns: int | None) -> str:
    """Who had how much of a call's waits; empty where nothing is known of any of them."""
    named = (("your app", app_ns), ("OpenAI with the network", openai_ns), ("unknown", unknown_ns))
    known = [f"{_seconds(_rounded(ns))} s {name}" for name, ns in named if ns]
    return ", ".join(known)


def _word(part: Part) -> str:
    if part.name == "tool":
        return f"{_TOOLS.get(part.side, 'the tool')} {part.what}".rstrip()
    return _WORDS.get((part.name, part.side), part.name)


def _count(number: int) -> str:
    return _COUNTS[number] if number < len(_COUNTS) else str(number)


def _rounded(ns: int) -> int:
    return (ns + _HUNDREDTH // 2) // _HUNDREDTH


def _seconds(hundredths: int) -> str:
    return f"{hundredths // 100}.{hundredths % 100:02}"


def shares(lengths: Sequence[int], total: int) -> list[int]:
    """Lengths in nanoseconds as hundredths of a second that add up to the rounded total: those cut most are rounded up
    first."""
    found = [ns // _HUNDREDTH for ns in lengths]
    missing = _rounded(total) - sum(found)
    if missing:
        by_rest = sorted(range(len(lengths)), key=lambda at: (-(lengths[at] % _HUNDREDTH), -lengths[at], at))
        for at in by_rest[:missing]:
            found[at] += 1
    return found
