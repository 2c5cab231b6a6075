"""``python -m bench.join``: the release of one large call, 10,000 host spans and 2,000 of a guest, parts to bytes.

Twice: a guest of tools of which the host knows nothing, and one of model calls and tools of which the host has a span
of its own each, so that nearly all of them are matched.

In time of the processor, which whoever else uses the machine does not stretch, and with collections off, as the server
has them while it works.
"""

import gc
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from bench.workload import START
from grafter.core.lifecycle import ReleaseReason
from grafter.core.model import Key, Part, Source, UnixNano
from grafter.core.policy import GraftPolicy
from grafter.core.state import TraceState
from grafter.guests.agents.intake import read_items
from grafter.otlp import build
from grafter.otlp.split import Splitter
from grafter.processor.assembling import Assembler
from grafter.store.model import StoredPart

HOST_SPANS, GUEST_SPANS = 10_000, 2_000
LIMIT_US = 15.0
"""A span, of either: the promise for traces that have guests."""
TRACE = bytes(range(16))
FIRST_STEP = 100
"""The host's span of the guest's first one."""
BEGAN = datetime(2026, 11, 22, 21, 27, 56, tzinfo=UTC)


def host_parts(policy: GraftPolicy, *, steps: bool) -> list[Part]:
    """A call of ten thousand spans, in requests of 512, a session span among them; ``steps``: and one of each of the
    guest's."""
    spans = [
        Span(
            trace_id=TRACE,
            span_id=(n + 1).to_bytes(8, "big"),
            parent_span_id=b"" if n == 0 else (n // 10 + 1).to_bytes(8, "big"),
            name="gen_ai.realtime.session" if n == 1 else f"operation {n % 17}",
            start_time_unix_nano=START + n * 1000,
            end_time_unix_nano=START + n * 1000 + 10**9,
        )
        for n in range(HOST_SPANS)
    ]
    for n, span in enumerate(spans):
        for k in range(8):
            attribute = span.attributes.add(key=f"attribute.{k}")
            attribute.value.string_value = f"value {n * k}"
        if steps and FIRST_STEP <= n < FIRST_STEP + GUEST_SPANS:
            make_step(span, n - FIRST_STEP)
    splitter = Splitter(policy.anchors)
    parts: list[Part] = []
    for at in range(0, HOST_SPANS, 512):
        scope = ScopeSpans(spans=spans[at : at + 512])
        request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])])
        parts += splitter.split(request.SerializeToString()).parts
    return parts


def make_step(span: Span, number: int) -> None:
    """The app's side of the guest's span of this number."""
    words: dict[str, str | int] = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": f"tool_{number % 7}",
        "gen_ai.tool.call.arguments": f'{{"a": {number}}}',
    }
    if number % 2 == 0:
        words = {
            "gen_ai.operation.name": "chat",
            "gen_ai.response.id": f"resp_{number}",
            "gen_ai.usage.input_tokens": 10,
            "gen_ai.usage.output_tokens": 5,
        }
    for key, word in words.items():
        value = span.attributes.add(key=key).value
        if isinstance(word, int):
            value.int_value = word
        else:
            value.string_value = word
    # The guest's begins a millisecond after the one before it, and takes a second.
    began = int(BEGAN.timestamp()) * 10**9 + number * 10**6
    span.start_time_unix_nano, span.end_time_unix_nano = began, began + 10**9


def step_data(number: int, *, steps: bool) -> dict[str, object]:
    if steps and number % 2 == 0:
        usage = {"input_tokens": 10, "output_tokens": 5}
        return {"type": "response", "response_id": f"resp_{number}", "usage": usage}
    given = f'{{"a": {number}}}' if steps else '{"a": 1}'
    return {"type": "function", "name": f"tool_{number % 7}", "input": given, "output": "done"}


def guest_parts(policy: GraftPolicy, *, steps: bool) -> list[Part]:
    """A run of two thousand spans, in posts of 128 items; ``steps``: model calls and tools, each of its own."""
    items: list[object] = [
        {"object": "trace", "id": "trace_bench", "workflow_name": "bench", "metadata": {"trace_id": TRACE.hex()}}
    ]
    items += [
        {
            "object": "trace.span",
            "id": f"span_{n}",
            "trace_id": "trace_bench",
            "parent_id": None if n == 0 else f"span_{n // 5}",
            "started_at": (BEGAN + timedelta(milliseconds=n)).isoformat(timespec="microseconds"),
            "ended_at": (BEGAN + timedelta(milliseconds=n + 1000)).isoformat(timespec="microseconds"),
            "span_data": step_data(n, steps=steps),
            "error": None,
        }
        for n in range(GUEST_SPANS)
    ]
    parts: list[Part] = []
    for at in range(0, len(items), 128):
        parts += read_items(items[at : at + 128], Source.SDK, policy).parts
    return parts


def main() -> None:
    """Assemble each several times; exit 1 when the quickest of either is over the limit."""
    gc.disable()
    slow = [measured(steps=steps) > LIMIT_US for steps in (False, True)]
    sys.exit(1 if any(slow) else 0)


def measured(*, steps: bool) -> float:
    """The least in microseconds a span; it is printed with the median. Whatever else runs only adds to it."""
    policy = GraftPolicy()
    parts = host_parts(policy, steps=steps) + guest_parts(policy, steps=steps)
    state = TraceState(UnixNano(START), UnixNano(START), host_spans=HOST_SPANS)
    stored = []
    for arrival, part in enumerate(parts):
        stored.append(
            StoredPart(arrival, part.payload, part.spans, part.envelope, part.span_ids, part.guest, part.facts)
        )
        if part.guest is not None:
            state.absorb_guest(part.guest, UnixNano(START))
    assembler = Assembler(policy, "bench")
    gc.collect()
    gc.freeze()
    times = []
    for _ in range(7):
        began = time.process_time()
        out = assembler.host(Key(TRACE), state, stored, ReleaseReason.COMPLETE, UnixNano(START), {})
        assert out.trace is not None
        assert out.trace.spans == HOST_SPANS + GUEST_SPANS
        body = build.request([out.trace])
        times.append((time.process_time() - began) * 1e3)
    a_span = min(times) * 1e3 / (HOST_SPANS + GUEST_SPANS)
    matched = f", {body.count(b'grafter.match')} of them matched" if steps else ""
    print(
        f"{HOST_SPANS} host spans and {GUEST_SPANS} guest spans{matched}, joined and written "
        f"({len(body) / 2**20:.1f} MiB): {min(times):.0f} ms (median {statistics.median(times):.0f}), "
        f"{a_span:.1f} us a span (at most {LIMIT_US:.0f})"
    )
    return a_span


if __name__ == "__main__":
    main()
