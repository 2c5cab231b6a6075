"""A call map in memory, filled with traces that grafter itself joined: the page needs no database to be tried out."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from grafter.calls.model import NO_GUEST, CallId, CallRecord, CallRow, Forgotten, Page, PhoneView, Search, TurnRow
from grafter.commands.demo.many_calls import all_calls
from grafter.commands.demo.script import CLINIC, PlayedCall
from grafter.commands.graft import guest_parts, host_parts, released
from grafter.commands.send import Receiver, Request
from grafter.components import Config
from grafter.core.turns import latency
from grafter.errors import RejectedError, UnavailableError
from grafter.otlp import build
from grafter.otlp.reading import read_spans
from grafter.telemetry import Metrics
from grafter.web.tree import Tree

MS = 1_000_000
LAST = datetime(2026, 11, 28, 16, 40, tzinfo=UTC)
"""When the last of the calls began."""


@dataclass
class MemoryCalls:
    """See CallMap."""

    rows: list[CallRow] = field(default_factory=list)
    documents: dict[str, list[bytes]] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """Key of a call by the name of its story."""
    earlier: dict[str, str] = field(default_factory=dict)
    """Key that a call has, by one that it had."""
    searches: list[Search] = field(default_factory=list)
    away: bool = False
    often: bool = False

    async def search(self, search: Search) -> Page:
        self._here()
        self.searches.append(search)
        if self.often:
            raise UnavailableError("too often", retry_after=7.0, reason="rate")
        rows = [row for row in self.rows if self._fits(row, search)]
        rows.sort(key=lambda row: -row.start)
        begin = int(search.before or 0)
        some = rows[begin : begin + search.limit]
        return Page(tuple(some), str(begin + search.limit) if len(rows) > begin + search.limit else None)

    async def call(self, key: str) -> CallRow | None:
        self._here()
        key = self.earlier.get(key, key)
        return next((row for row in self.rows if row.key == key), None)

    async def spans(self, key: str) -> Sequence[bytes]:
        self._here()
        return self.documents.get(key, [])

    async def recent_medians(self, limit: int = 100) -> Mapping[str, float]:
        figures: dict[str, list[float]] = {}
        for row in self.rows[:limit]:
            for turn in row.turns:
                if turn.number and turn.wait_ms is not None:
                    figures.setdefault("wait_ms", []).append(turn.wait_ms)
                    for name, ms in turn.parts.items():
                        figures.setdefault(name, []).append(ms)
        return {name: median(values) for name, values in figures.items()}

    async def record(self, record: CallRecord) -> None:
        raise NotImplementedError

    async def link(self, one: CallId, other: CallId, at: int) -> None:
        raise NotImplementedError

    async def over(self, since: int, until: int, work: Callable[[Iterable[CallRow]], Any]) -> Any:
        self._here()
        return work([row for row in self.rows if since <= row.start <= until])

    async def forget(self, number: str, who: str = "") -> Forgotten:
        digits = _digits(number)
        if not any(map(str.isdigit, number)):
            raise RejectedError("that is no phone number", reason="number")
        gone = [row for row in self.rows if self.numbers.get(row.key) == digits]
        self.rows = [row for row in self.rows if row not in gone]
        return Forgotten(len(gone), tuple(trace for row in gone for trace in row.traces))

    def _here(self) -> None:
        if self.away:
            raise UnavailableError("away")

    def _fits(self, row: CallRow, search: Search) -> bool:
        text = search.text.strip()
        if text:
            ids = {each.value for each in row.ids} | {trace.hex() for trace in row.traces} | set(row.guests)
            if text not in ids and self.numbers.get(row.key) != _digits(text):
                return False
        slow = any((turn.wait_ms or 0) > 1500 for turn in row.turns if turn.number)
        return not (
            (search.slow and not slow)
            or (search.errors and not row.errors)
            or (search.interrupted and not row.barge_ins)
            or (search.unjoined and not row.unjoined)
            or (search.live and row.outcome != "running")
        )


def _digits(text: str) -> str:
    digits = "".join(each for each in text if each in "0123456789").removeprefix("00")
    return digits if len(digits) > 10 else f"1{digits}"


async def joined(call: PlayedCall) -> list[bytes]:
    """The traces of a played call, as grafter forwards them: the file's way through the server's own rooms."""
    policy = Config().graft_policy()
    parts = []
    if call.script.hosted:
        for _, request in call.host.requests():
            parts += host_parts(
                Path("host"), Request(Receiver.OTLP, request, "application/x-protobuf", 0, None, "host"), policy
            ).parts
    for post in call.posts():
        body = json.dumps(post).encode()
        at = call.start.timestamp() + call.length_ms / 1000
        parts += guest_parts(
            Path("guest"), Request(Receiver.REALTIME, body, "application/json", 0, at, "guest"), policy
        )
    traces = await released(parts, policy, Metrics())
    return [build.request([trace]) for trace in traces]


async def memory_calls(calls: Sequence[PlayedCall] | None = None) -> MemoryCalls:
    """Every kind of call, joined."""
    found = MemoryCalls()
    for number, call in enumerate(all_calls(LAST) if calls is None else calls):
        # Of a call that runs nothing has left yet.
        documents = [] if call.name == "running" else await joined(call)
        key = f"c{number:02}-{call.name.replace(' ', '-')}"
        found.names[call.name] = key
        found.documents[key] = documents
        found.numbers[key] = _digits(call.script.caller)
        found.rows.append(row_of(key, call, documents))
    found.rows.reverse()
    return found


def row_of(key: str, call: PlayedCall, documents: Sequence[bytes], numbers: bool = False) -> CallRow:
    """What the call map would know of it."""
    spans = list(read_spans(documents))
    tree = Tree(spans)
    known = latency([span.step for span in spans])
    firsts = {turn.span_id: turn.first_token_ns for turn in known.model_turns}
    turns = tuple(
        TurnRow(
            turn.number,
            turn.start,
            (turn.end - turn.start) / MS,
            turn.error_ns / MS,
            _sums(turn.parts),
            None if (first := firsts.get(turn.answer)) is None else first / MS,
            turn.sentence,
        )
        for turn in known.caller_turns
    )
    start = round(call.start.timestamp() * 1000) * MS
    live = call.name == "running"
    unjoined = {
        "metadata missing": ("no OpenAI spans: metadata.trace_id was never set",),
        "no openai": (NO_GUEST,),
        "app silent": ("no spans of the app came for the trace that OpenAI's metadata names",),
    }.get(call.name, ())
    return CallRow(
        key=key,
        start=start,
        end=None if live else start + call.length_ms * MS,
        outcome="running" if live else call.script.outcome,
        caller=PhoneView(call.script.caller[-4:], call.script.caller if numbers else None),
        callee=PhoneView(CLINIC[-4:], CLINIC if numbers else None),
        ids=(CallId("twilio", call.sid), *([CallId("openai_realtime", call.call)] if call.script.guest else [])),
        traces=(call.host.trace_id,),
        guests=(call.call,) if call.script.guest and call.script.linked else (),
        turns=turns,
        errors=sum(span.step.error for span in spans),
        barge_ins=sum(name == "gen_ai.audio.barge_in" for span in spans for _, name, _ in span.step.events),
        spans=len(tree),
        unjoined=unjoined,
        policy="" if live else "error" if any(span.step.error for span in spans) else "always",
        kept=True,
        tools={"book_slot": (1, 1_680.0)} if call.name == "slow tool" else {},
        app_ms=None if known.app_ns is None else known.app_ns / MS,
        openai_ms=None if known.openai_ns is None else known.openai_ns / MS,
        unknown_ms=None if known.unknown_ns is None else known.unknown_ns / MS,
    )


def _sums(parts: Sequence[object]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for part in parts:
        sums[part.name] = sums.get(part.name, 0.0) + part.ns / MS  # type: ignore[attr-defined]
    return sums
