"""``python -m bench.turns``: what whose time it was costs in a long call: 300 turns, each with a tool.

The call is joined from its parts, as the server does it, and CPU time is taken within: of what each answer answers and
its figures, of the wait on it, of the guest's clock, and of what is said on the spans as they leave.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson

from grafter.core.lifecycle import ReleaseReason
from grafter.core.model import Key, UnixNano
from grafter.core.policy import GraftPolicy
from grafter.core.state import TraceState
from grafter.guests.realtime import response_spans
from grafter.guests.realtime.intake import read_posts
from grafter.otlp.from_json import Oddities, trace_request_from_json
from grafter.otlp.split import Splitter
from grafter.processor import assembling
from grafter.processor.assembling import Assembler
from grafter.store.model import StoredPart
from tests.core.turn_steps import CLIENT, SERVER, host_spans
from tests.guests.realtime.hand import HOST, TRACE, Call

TURNS, ROUNDS = 300, 9
LIMIT_US = 15.0
"""A span of the trace, for the waits and the clocks together."""
NOW = UnixNano(3 * 10**18)
MAPPING = "what each answer answers"
"""Found out while events become spans, for an answer's own figures; the waits need it, but not they alone."""
MEASURED: tuple[tuple[Any, str, str], ...] = (
    (response_spans, "_latency", MAPPING),
    (response_spans, "_wait", "the wait on each answer"),
    (assembling, "on_host_clock", "the guest's clock"),
    (assembling, "with_latencies", "whose time it was"),
)


def call(turns: int, inside: int = 0) -> tuple[Call, list[dict[str, object]]]:
    """Every ten seconds the caller asks, the model calls a tool, another service serves it, the model answers.

    ``inside``: spans of that service under the one that serves.
    """
    spoken = Call().session()
    voice, calendar = [], []
    for turn in range(turns):
        at, asks, says, name = 10_000 * (turn + 1), f"asks_{turn}", f"says_{turn}", f"call_{turn}"
        spoken.spoke(at + 1000, at + 2000, f"user_{turn}").created(at + 2050, asks).asked_tool(at + 2300, asks, name)
        spoken.done(at + 2350, asks, output=[spoken.tool_item(name)]).handed_back(at + 3300, name).ask(at + 3310)
        spoken.created(at + 3350, says).sound(at + 3700, says).done(at + 4200, says)
        tool, sent, served = (f"{0x1000 + 16 * turn + part:x}" for part in range(3))
        said = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.id": name, "gen_ai.tool.name": "find"}
        voice.append((tool, "2", at + 2305, at + 3295, 1, said))
        voice.append((sent, tool, at + 2320, at + 3280, CLIENT, {}))
        calendar.append((served, sent, at + 2330, at + 3270, SERVER, {}))
        for step in range(inside):
            begins = at + 2340 + step * 900 / inside
            said = {"db.system.name": "postgresql", "db.query.text": "SELECT slot FROM slots WHERE day = $1"}
            calendar.append((f"{0x1000000 + turn * inside + step:x}", served, begins, begins + 20, CLIENT, said))
    spoken.ended(10_000 * (turns + 2))
    return spoken, [*HOST["resourceSpans"], host_spans("voice", *voice), host_spans("calendar", *calendar)]


def stored(policy: GraftPolicy, turns: int, inside: int = 0) -> tuple[TraceState, list[StoredPart]]:
    """The call as the store holds it."""
    spoken, host = call(turns, inside)
    request = trace_request_from_json(orjson.dumps({"resourceSpans": host}), Oddities())
    parts = [*Splitter(policy.anchors).split(request).parts]
    parts += read_posts(orjson.dumps(spoken.rows), False, policy, NOW).parts
    state = TraceState(UnixNano(1), UnixNano(1))
    held = []
    for arrival, part in enumerate(parts):
        held.append(StoredPart(arrival, part.payload, part.spans, part.envelope, part.span_ids, part.guest, part.facts))
        if part.guest is None:
            state.host_spans += part.spans
        else:
            state.absorb_guest(part.guest, UnixNano(1))
    return state, held


def timed(spent: dict[str, float], name: str, work: Callable[..., object]) -> Callable[..., object]:
    """The same, with its CPU time added to ``spent``."""

    def working(*args: object, **more: object) -> object:
        began = time.process_time()
        try:
            return work(*args, **more)
        finally:
            spent[name] += time.process_time() - began

    return working


def main() -> None:
    """Join it several times; exit 1 when waits and clock cost more than the limit."""
    policy = GraftPolicy()
    state, held = stored(policy, TURNS)
    assembler = Assembler(policy, "bench")
    spent: dict[str, float] = {}
    for room, name, what in MEASURED:
        setattr(room, name, timed(spent, what, getattr(room, name)))
    rounds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        spent.update(dict.fromkeys((what for _, _, what in MEASURED), 0.0))
        began = time.process_time()
        out = assembler.host(Key(bytes.fromhex(TRACE)), state, held, ReleaseReason.COMPLETE, NOW, {})
        all_of_it = time.process_time() - began
        assert out.trace is not None
        assert out.latency is not None
        assert len(out.latency.caller_turns) == TURNS
        together = sum(seconds for what, seconds in spent.items() if what != MAPPING)
        for what, seconds in (("all of the join", all_of_it), *spent.items(), ("waits and clock together", together)):
            rounds.setdefault(what, []).append(seconds / out.trace.spans * 1e6)
    print(f"a call of {TURNS} turns with a tool each, {out.trace.spans} spans, us of CPU a span:")
    for what, times in rounds.items():
        limit = f"  (at most {LIMIT_US:.0f})" if what == "waits and clock together" else ""
        print(f"  {what:26} {statistics.median(times):6.1f}  ({min(times):.1f} to {max(times):.1f}){limit}")
    sys.exit(int(statistics.median(rounds["waits and clock together"]) > LIMIT_US))


if __name__ == "__main__":
    main()
