"""What ``/admin/explain`` and ``/admin/status`` answer: read from the store, never changed there.

A question is an id of any kind: a host's trace id, an OpenAI trace id, the id of a call or a session. What the id may
stand for is asked of the store, held and remembered alike; the answer says which of them were found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from grafter.core import explain
from grafter.core.lifecycle import Release, Rules, awaited, step_guest, step_host
from grafter.core.link import from_text, is_nameable
from grafter.core.memory import TraceMemory
from grafter.core.memory_blobs import decode_guest, decode_trace
from grafter.core.model import RULE, JsonObject, Key, UnixNano, call_guest, called, guest_key, is_guest_key
from grafter.core.policy import GraftPolicy
from grafter.core.state import TraceState
from grafter.guests.sessions.poll_state import Progress
from grafter.guests.sources import RULES
from grafter.receiver.openai_api import is_session_id
from grafter.store.base import CallStore, HeldStore, TaskStore
from grafter.telemetry import Metrics


class ReadStore(HeldStore, CallStore, TaskStore, Protocol):
    """What of a store is read, and never changed."""


@dataclass(frozen=True, slots=True)
class Explainer:
    """Answers from what a store holds and remembers; methods raise UnavailableError when it cannot be asked."""

    store: ReadStore
    policy: GraftPolicy
    clock: Callable[[], int]
    rules: Rules = field(default_factory=lambda: RULES)
    pulls: Sequence[tuple[str, str]] = ()
    """Under which kind of task, and for which project, hosted sessions are pulled."""

    async def explain(self, query: str) -> JsonObject:
        """Everything that is known under an id; ``lines`` says it in words, and says so where nothing is known."""
        query = query.strip()
        host = _host_key(query)
        keys = [*([] if host is None else [host]), guest_key(query), guest_key(call_guest(query))]
        now = UnixNano(self.clock())
        answer: JsonObject = {"asked": query}
        lines: list[str] = []
        for key in keys:
            state = await self.store.peek(key)
            if state is None and is_guest_key(key):
                # What names its host is held under that, with all else that is held of it.
                linked = await self.store.host_of(key)
                state = None if linked is None else await self.store.peek(linked)
                if state is not None and not {query, call_guest(query)} & state.guests.keys():
                    state = None
                if linked is not None and state is not None:
                    answer["filed_under"] = linked.hex()
                    lines.append(f"held with your trace {linked.hex()}, to which it belongs")
                    key = linked
            if state is not None and "held" not in answer:
                answer["held"] = held = self._held(key, state, now)
                lines += _strings(held["lines"])
        guests: list[JsonObject] = []
        for key, memory in zip(keys, await self.store.recall(keys, now), strict=True):
            if memory is None:
                continue
            if not is_guest_key(key):
                trace = decode_trace(memory.blob)
                if trace is not None:
                    answer["left"] = left = _left(trace, now)
                    lines += _strings(left["lines"])
                    guests += await self._guests(trace.guests, now)
            else:
                guests += [_guest(memory.blob)]
        guests = [guest for guest in guests if guest]
        for guest in guests:
            lines += _strings(guest["lines"])
        if guests:
            answer["guests"] = guests
        lines += await self._named(query, answer, guests, now)
        lines += await self._pulled(query, answer, now)
        answer["lines"] = lines or [f"nothing is held or remembered under {query}; {_where(query)}"]
        return answer

    def _held(self, key: Key, state: TraceState, now: UnixNano) -> JsonObject:
        if is_guest_key(key):
            released = any(guest.host is not None for guest in state.guests.values())
            decision = step_guest(state, now, self.policy, self.rules, host_released=released)
        else:
            decision = step_host(state, now, self.policy, self.rules)
        codes = awaited(state, self.rules)
        lacks = [code.partition(" ")[0] for code in codes]
        leaves = 0 if isinstance(decision, Release) else decision.until - now
        since = now - state.last
        what = f"{state.host_spans} spans of yours, {state.guest_spans} of OpenAI's"
        line = (
            f"held: {what}; waits for {explain.waits(codes)}; last part {explain.lasting(since)} ago; "
            f"leaves, should nothing more come, in {explain.lasting(leaves)}"
        )
        return {
            "host_spans": state.host_spans,
            "guest_spans": state.guest_spans,
            "guests": sorted(map(called, state.guests)),
            "waits_for": list(codes),
            "last_part_seconds": since / 1e9,
            "leaves_in_seconds": leaves / 1e9,
            "late": state.remembered,
            "lines": [line, *(f"  to change: {each}" for each in explain.advice_while_held(lacks))],
        }

    async def _named(self, query: str, answer: JsonObject, guests: Sequence[JsonObject], now: UnixNano) -> list[str]:
        """What a span of the app, or a post, named under this id, and whether it was used."""
        (note,) = await self.store.find_calls([query], now) if is_nameable(query) else (None,)
        link = None if note is None or note.link is None else from_text(query, note.link)
        if link is None:
            return []
        host = link.host.hex()
        answer["named"] = {"by": link.how, "host": host, "span": None if link.span_id is None else link.span_id.hex()}
        lines = [f"{explain.LINKS[link.how]} names trace {host} for it"]
        lines += [
            "  not used: it had left before, or something that comes first names another trace"
            for guest in guests
            if guest["host"] != host
        ]
        return lines

    async def _pulled(self, query: str, answer: JsonObject, now: UnixNano) -> list[str]:
        """How far the pulling of a hosted session of this id has come, and when OpenAI is asked again."""
        found: list[JsonObject] = []
        lines: list[str] = []
        for kind, project in self.pulls if is_session_id(query) else ():
            task = await self.store.find_task(kind, f"{project}/{query}")
            if task is None:
                continue
            progress = Progress.decode(task.blob)
            answered = progress.answered
            again = None if progress.over else max(task.due - now, 0)
            found.append(
                {
                    "project": project,
                    "traces": progress.found,
                    "failures": progress.failures,
                    "answer": None if answered is None else answered.outcome,
                    "next_in_seconds": None if again is None else again / 1e9,
                }
            )
            last = "OpenAI has not answered yet" if answered is None else f"OpenAI's last answer: {answered.outcome}"
            failed = f", {progress.failures} attempts in a row failed" if progress.failures else ""
            then = "not asked again" if again is None else f"asked again in {explain.lasting(again)}"
            lines.append(
                f"pulled for project {project}: {last}{failed}; traces that were new: {progress.found}; {then}"
            )
        if found:
            answer["pulls"] = found
        return lines

    async def _guests(self, names: Sequence[str], now: UnixNano) -> list[JsonObject]:
        """The guests that left with a trace, each under the key of its source."""
        keys = [key for name in names for key in (guest_key(name), guest_key(call_guest(name)))]
        return [_guest(memory.blob) for memory in await self.store.recall(keys, now) if memory is not None]


def status(store: HeldStore, metrics: Metrics, now: int) -> JsonObject:
    """What is held, for how long, and what receivers ("doors") and exporters did since the start."""
    stats = store.stats()
    counted: dict[str, dict[str, dict[str, float]]] = {"doors": {}, "exporters": {}}
    for metric in metrics.registry.collect():
        place = {"grafter_receiver": "doors", "grafter_exporter": "exporters"}.get("_".join(metric.name.split("_")[:2]))
        if place is None:
            continue
        for sample in metric.samples:
            labels = sample.labels
            name = labels.get("exporter") if place == "exporters" else labels.get("transport")
            if name is None or sample.name.endswith(("_bucket", "_created", "_sum", "_count")):
                continue
            sums = counted[place].setdefault(name, {})
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    oldest = None if stats.oldest is None else (now - stats.oldest) / 1e9
    lines = [
        f"holds traces: {stats.traces}, spans: {stats.spans}, bytes: {stats.bytes} of {stats.limit_bytes}",
        f"the oldest part came {explain.lasting(now - stats.oldest)} ago" if stats.oldest is not None else "none waits",
        f"remembers traces that left, OpenAI's among them: {stats.remembered}, bytes: {stats.remembered_bytes}",
    ]
    lines += [
        f"exporter {name} alone has not got: spans {one.spans}, bytes {one.bytes}"
        + ("" if one.oldest is None else f", the first for {explain.lasting(now - one.oldest)}")
        for name, one in sorted(stats.backlogs.items())
        if one.batches
    ]
    for place, found in counted.items():
        for name, sums in sorted(found.items()):
            shown = ", ".join(f"{key.split('_', 2)[2]} {value:g}" for key, value in sorted(sums.items()) if value)
            lines.append(f"{place.removesuffix('s')} {name}: {shown or 'nothing yet'}")
    return {
        "held": {"traces": stats.traces, "spans": stats.spans, "bytes": stats.bytes, "limit_bytes": stats.limit_bytes},
        "oldest_seconds": oldest,
        "backlogs": {
            name: {"spans": one.spans, "bytes": one.bytes}
            for name, one in sorted(stats.backlogs.items())
            if one.batches
        },
        "remembered": stats.remembered,
        "remembered_bytes": stats.remembered_bytes,
        "recovering": stats.recovering,
        **counted,
        "lines": lines,
    }


def _host_key(query: str) -> Key | None:
    digits = query.removeprefix("trace_").lower().replace("-", "")
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        return None
    return Key(raw) if len(raw) == 16 and any(raw) else None


def _left(trace: TraceMemory, now: UnixNano) -> JsonObject:
    count = len(trace.span_ids) // 8
    guests = ", ".join(trace.guests) or "nothing of OpenAI's"
    line = (
        f"left {explain.lasting(now - trace.released_at)} ago ({trace.reason}): {count} spans of yours, with {guests}"
    )
    lines = [line]
    moved: dict[str, object] = {}
    if trace.moved is not None:
        parent = None if trace.moved.parent is None else trace.moved.parent.hex()
        moved["moved"] = {"host": trace.moved.host.hex(), "span": parent, "anchor": trace.moved.anchor}
        under = f", under span {parent}" if parent else ""
        lines.append(f"moved by {explain.LINKS[RULE]} to trace {trace.moved.host.hex()}{under}")
    late: dict[str, object] = {}
    if trace.late:
        late["late"] = explain.rows_of(trace.late)
        lines += explain.late_sentences(trace.late)
    return {
        **moved,
        **late,
        "reason": trace.reason.value,
        "seconds_ago": (now - trace.released_at) / 1e9,
        "host_spans": count,
        "root": None if trace.root is None else trace.root.hex(),
        "guests": list(trace.guests),
        "lines": lines,
    }


def _guest(blob: bytes) -> JsonObject:
    memory = decode_guest(blob)
    if memory is None:
        return {}
    record = memory.record
    left = {
        "trace_id": memory.trace_id.hex(),
        "host": None if memory.host is None else memory.host.hex(),
        "spans": len(memory.sent) // 8,
    }
    if record is None and not memory.sent:
        return {
            **left,
            "lines": [
                "OpenAI's half was dropped, or nothing of it was there to send: its host never came. "
                "processors.graft.host_missing decides what becomes of it then"
            ],
        }
    if record is None:
        return {
            **left,
            "lines": [f"{left['spans']} spans of OpenAI's left under {left['trace_id']}; no record is kept"],
        }
    lines = [f"  {line}" for line in explain.sentences(record)]
    lines += [f"  to change: {line}" for line in explain.advice(record)]
    first = f"{record.source} {record.guest}: {left['spans']} spans under {left['trace_id']}"
    return {**left, **record.values(), "advice": explain.advice(record), "lines": [first, *lines]}


def _where(query: str) -> str:
    never = "it never came, came to another grafter, was dropped, or left longer ago than wait.remember"
    if query.startswith("sess_"):
        return (
            f"of a hosted session: {never}, or nobody asked for its traces (grafter pull, the webhook); "
            "a Realtime session is found by the id of its call, or the KEY under which its events are posted"
        )
    if _host_key(query) is not None or query.startswith(("trace_", "rtc_", "live_")):
        return never
    return "a trace id has 32 hex digits; OpenAI's begin with trace_, rtc_, live_ or sess_"


def _strings(lines: object) -> list[str]:
    return [str(line) for line in lines] if isinstance(lines, list) else []
