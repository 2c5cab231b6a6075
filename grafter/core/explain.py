"""Why a guest hangs where it hangs: the record of what was decided, made by whoever decides and kept with the memory.

It holds codes and ids, no prose and no content, and is of bounded size. What a code means, and what to change, is said
here too, so that the command, the page and the log say the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from grafter.core.clock import ClockRecord, Finding

MOST_STEPS = 50
"""Matches and refusals kept of each kind; how many there were is kept beside them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A link or an anchor that was there and was not used."""

    what: str
    """``link``, ``named`` (the span that the app named), ``selector`` or ``root``."""
    why: str


@dataclass(frozen=True, slots=True)
class Step:
    """A host span and a guest's span that were matched, or, with the reason, were not."""

    host: str
    """Span id, hex."""
    guest: str
    how: str


@dataclass(frozen=True, slots=True)
class GuestRecord:
    """What was decided about one guest when it left."""

    guest: str
    """Its id as its source wrote it."""
    source: str
    link: str = ""
    """How it named its host, or how that was named for it; empty: it was not."""
    anchor: str = ""
    """How its anchor was found; empty: it left as a trace of its own."""
    span: str = ""
    """The anchor's span id, hex; empty where there is none."""
    refused: tuple[Refusal, ...] = ()
    tools: tuple[Step, ...] = ()
    duplicates: tuple[Step, ...] = ()
    unmatched: tuple[Step, ...] = ()
    counts: tuple[int, int, int] = (0, 0, 0)
    """How many tools, duplicates and unmatched steps there were, of which the above are the first."""
    missing: tuple[str, ...] = ()
    """Guest spans that were named as parents and never came, as the guest wrote them."""
    clock: ClockRecord | None = None
    """What was found out about its clock when it first left; None: nothing says anything of it. Its later spans are
    set back by the same."""

    def with_steps(
        self, tools: Sequence[Step], duplicates: Sequence[Step], unmatched: Sequence[Step], counts: tuple[int, int, int]
    ) -> "GuestRecord":
        """With what was found, after what is known already, when the steps of both sides were lined up.

        ``counts``: how many of each there were; of more than MOST_STEPS the others need not be given.
        """
        return replace(
            self,
            tools=(*self.tools, *tools)[:MOST_STEPS],
            duplicates=(*self.duplicates, *duplicates)[:MOST_STEPS],
            unmatched=(*self.unmatched, *unmatched)[:MOST_STEPS],
            counts=(self.counts[0] + counts[0], self.counts[1] + counts[1], self.counts[2] + counts[2]),
        )

    def refusing(self, refused: Sequence[Refusal]) -> "GuestRecord":
        """With links that were there too and were not used, each once."""
        return replace(self, refused=tuple(dict.fromkeys((*refused, *self.refused))))

    def values(self) -> dict[str, object]:
        """As JSON values, without what is empty."""
        values = {
            "guest": self.guest,
            "source": self.source,
            "link": self.link,
            "anchor": self.anchor,
            "span": self.span,
            "refused": [[refusal.what, refusal.why] for refusal in self.refused],
            "tools": rows_of(self.tools),
            "duplicates": rows_of(self.duplicates),
            "unmatched": rows_of(self.unmatched),
            "counts": list(self.counts) if any(self.counts) else [],
            "missing": list(self.missing[:MOST_STEPS]),
            # A reader that does not know it leaves it alone.
            "clock": {} if self.clock is None else self.clock.values(),
        }
        return {key: value for key, value in values.items() if value}

    @classmethod
    def of(cls, values: object) -> "GuestRecord | None":
        """What ``values`` made; None for anything else. Never raises."""
        if not isinstance(values, Mapping):
            return None
        try:
            counts = [int(count) for count in values.get("counts", ())] or [0, 0, 0]
            return cls(
                guest=str(values["guest"]),
                source=str(values["source"]),
                link=str(values.get("link", "")),
                anchor=str(values.get("anchor", "")),
                span=str(values.get("span", "")),
                refused=tuple(Refusal(what, why) for what, why in values.get("refused", ())),
                tools=steps_of(values.get("tools", ())),
                duplicates=steps_of(values.get("duplicates", ())),
                unmatched=steps_of(values.get("unmatched", ())),
                counts=(counts[0], counts[1], counts[2]),
                missing=tuple(map(str, values.get("missing", ()))),
                clock=ClockRecord.of(values.get("clock")),
            )
        except (LookupError, TypeError, ValueError):
            return None


LINKS: Mapping[str, str] = {
    "backward": "a span of yours that has its id",
    "api": "a post to /api/links",
    "rule": "a value that both have, by processors.graft.rules,",
}
"""Who named a guest's host beside the guest."""
_ANCHORS = {
    "named": "the span that your metadata names",
    "selector": "a span that matches processors.graft.anchors",
    "root": "the root of your trace",
    "unseen": "the span that your metadata names, which was not seen",
    "none": "nothing: your trace had no span to hang it under",
}
_WHY = {
    "malformed": "the metadata seems to name a trace, in a form that cannot be read",
    "not_in_host": "the span that the metadata names is not in that trace",
    "no_match": "no span of that trace matches processors.graft.anchors",
    "absent": "that trace has no root, so far",
    "two_fit": "more than one span of OpenAI's fits equally",
    "two_hosts": "spans of several traces of yours have its ids",
    "came_later": "the metadata names another trace, and came after a link had been used",
    "circle": "OpenAI's trace hangs below this span, which therefore stays where it is",
    "sent_before": "the span had left before, and cannot be moved any more",
}
_ADVICE = {
    "malformed": "put the 32 hex digits of your trace id under trace_id in the metadata",
    "not_in_host": "name the span under which it should hang, or leave span_id out",
    "two_hosts": "put trace_id into the metadata, or the id of the call or session on the spans of one trace only",
    "two_fit": "set gen_ai.tool.call.id (tools) or gen_ai.response.id (model calls) on your own spans",
    "sent_before": "raise wait.for_guest, should OpenAI's half often come this late",
    "contradiction": "look for spans of yours that carry the id of a tool call or response of another step",
    "too_far": "look whether the metadata of an earlier call was used again",
    "drift": "have the clocks of both sides set by NTP",
    "unlinked": "put trace_id or traceparent into the metadata of the trace or session",
    "none": "end and export the spans of your trace, or raise wait.idle",
}


def sentences(record: GuestRecord) -> list[str]:
    lines = []
    if not record.anchor:
        lines.append("left as a trace of its own: it names no trace of yours")
    else:
        by = LINKS.get(record.link, record.link) or "its id"
        lines.append(f"linked by {by}; hangs under {_ANCHORS.get(record.anchor, record.anchor)}")
        if record.span:
            lines[-1] += f" ({record.span})"
    lines += [f"not by {refusal.what}: {_WHY.get(refusal.why, refusal.why)}" for refusal in record.refused]
    for word, count, steps in (
        ("tools under their turns", record.counts[0], record.tools),
        ("model calls that your app traced too", record.counts[1], record.duplicates),
    ):
        if count:
            lines.append(f"{count} {word}: {_ways(steps)}")
    lines += [f"{step.host} left where it was: {_WHY.get(step.how, step.how)}" for step in record.unmatched]
    if record.missing:
        lines.append(f"named as parents and never came: {', '.join(record.missing)}")
    if record.clock is not None:
        lines.append(_clock(record.clock))
    return lines


def advice(record: GuestRecord) -> list[str]:
    """What to change, where something was not found."""
    codes = [*(refusal.why for refusal in record.refused), *(step.how for step in record.unmatched)]
    if not record.anchor and not {"malformed", "two_hosts"}.intersection(codes):
        codes.append("unlinked")
    if record.anchor == "none":
        codes.append("none")
    if record.clock is not None:
        codes.append(record.clock.finding)
    return [_ADVICE[code] for code in dict.fromkeys(codes) if code in _ADVICE]


_ADVICE_WHILE_HELD = {
    "link": "put trace_id or traceparent into the metadata, or its id on a span of yours, or post it to /api/links: "
    "any of these joins it while it is held",
    "host": "look whether your trace is exported here, and whether the id in the metadata is its own",
    "trace_object": "look whether the SDK's exporter sends here from the start of the trace on, not only its spans",
    "parents": "flush the SDK's traces before the process ends",
}


def advice_while_held(lacks: Iterable[str]) -> list[str]:
    """What to look at while something is missing, by the codes of ``lifecycle.awaited`` without ids."""
    return [_ADVICE_WHILE_HELD[code] for code in dict.fromkeys(lacks) if code in _ADVICE_WHILE_HELD]


_UNSETTLED = {
    Finding.DRIFT: "no one offset of its clock fits, as if it ran at another speed; its times are as they came",
    Finding.CONTRADICTION: "what both sides dated contradicts itself, so its times are as they came",
    Finding.TOO_FAR: "its times are more than an hour from your app's; that is no clock, so they are as they came",
}


def _clock(clock: ClockRecord) -> str:
    seen = f"{clock.pairs} {'step' if clock.pairs == 1 else 'steps'} that both sides dated"
    if clock.left_out:
        seen += f", {clock.left_out} of them outvoted"
    if clock.finding is Finding.AGREES:
        return f"its clock may well be your app's ({seen}); its times are as they came"
    if clock.finding is not Finding.SHIFTED:
        return f"{_UNSETTLED[clock.finding]} ({seen})"
    sides = (("at least", clock.bounds.low), ("at most", clock.bounds.high))
    bounds = ", ".join(f"{word} {_seconds(side)}" for word, side in sides if isfinite(side))
    return f"its clock is {_seconds(clock.offset)} ahead of your app's ({bounds}; {seen}); it is drawn without that"


def _seconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e9:.3f} s"


def _ways(steps: Iterable[Step]) -> str:
    ways: dict[str, int] = {}
    for step in steps:
        ways[step.how] = ways.get(step.how, 0) + 1
    return ", ".join(f"{count} by {how}" for how, count in sorted(ways.items()))


def late_sentences(late: Sequence[Step]) -> list[str]:
    """What was found of host spans that came after OpenAI's half had left, in words."""
    lost = [step for step in late if step.how in _WHY]
    found = [step for step in late if step.how not in _WHY]
    lines = [f"steps that came after OpenAI's span of them: {len(found)} ({_ways(found)})"] if found else []
    return lines + [f"{step.host} left where it was: {_WHY[step.how]}" for step in lost]


def rows_of(steps: Iterable[Step]) -> list[list[str]]:
    return [[step.host, step.guest, step.how] for step in steps]


def steps_of(rows: Iterable[Sequence[str]]) -> tuple[Step, ...]:
    """What ``rows_of`` made. Raises what reading odd JSON raises."""
    return tuple(Step(host, guest, how) for host, guest, how in rows)


_AWAITED = {
    "root": "the root of your trace",
    "host": "your trace, of which no span has come",
    "guest": "OpenAI's half, of which nothing has come",
    "call": "the trace of its call, should that be another one by processors.graft.rules",
    "quiet": "nothing but quiet",
    "end": "the end of",
    "trace_object": "the trace object of",
    "top_level": "a top-level span of",
    "parents": "spans that others name as parents, of",
    "link": "a link to a trace of yours, of",
    "moving": "the root, which a rule moves here, of trace",
}


def waits(codes: Iterable[str]) -> str:
    """What a held trace waits for, in words, from the codes of ``lifecycle.awaited``."""
    words = []
    for code in codes:
        what, _, whose = code.partition(" ")
        words.append(f"{_AWAITED.get(what, what)} {whose}".rstrip())
    return ", ".join(words)


def lasting(nanoseconds: int) -> str:
    """A length of time as people say it: ``8 min 20 s``."""
    seconds = max(0, nanoseconds) // 1_000_000_000
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    units = ((hours, "h"), (minutes, "min")) if hours else ((minutes, "min"), (seconds, "s"))
    return " ".join(f"{count} {unit}" for count, unit in units if count) or "0 s"
