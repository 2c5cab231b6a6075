"""``python -m bench.join``: the release of one large call, 10,000 host spans and 2,000 of a guest, parts to bytes.

In time of the processor, which whoever else uses the machine does not stretch, and with collections off, as the server
has them while it works.
"""

import gc
import statistics
import sys
import time

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
LIMIT_MS = 300.0
TRACE = bytes(range(16))


def host_parts(policy: GraftPolicy) -> list[Part]:
    """A call of ten thousand spans, in requests of 512, a session span among them."""
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
    splitter = Splitter(policy.anchors)
    parts: list[Part] = []
    for at in range(0, HOST_SPANS, 512):
        scope = ScopeSpans(spans=spans[at : at + 512])
        request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])])
        parts += splitter.split(request.SerializeToString()).parts
    return parts


def guest_parts(policy: GraftPolicy) -> list[Part]:
    """A run of two thousand spans, in posts of 128 items."""
    items: list[object] = [
        {"object": "trace", "id": "trace_bench", "workflow_name": "bench", "metadata": {"trace_id": TRACE.hex()}}
    ]
    items += [
        {
            "object": "trace.span",
            "id": f"span_{n}",
            "trace_id": "trace_bench",
            "parent_id": None if n == 0 else f"span_{n // 5}",
            "started_at": "2026-11-22T21:27:56.032785+00:00",
            "ended_at": "2026-11-22T21:27:56.196109+00:00",
            "span_data": {"type": "function", "name": f"tool_{n % 7}", "input": '{"a": 1}', "output": "done"},
            "error": None,
        }
        for n in range(GUEST_SPANS)
    ]
    parts: list[Part] = []
    for at in range(0, len(items), 128):
        parts += read_items(items[at : at + 128], Source.SDK, policy).parts
    return parts


def main() -> None:
    """Assemble it several times; exit 1 when the median is over the limit."""
    policy = GraftPolicy()
    parts = host_parts(policy) + guest_parts(policy)
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
    gc.disable()
    times = []
    for _ in range(7):
        began = time.process_time()
        out = assembler.host(Key(TRACE), state, stored, ReleaseReason.COMPLETE, UnixNano(START), {})
        assert out.trace is not None
        assert out.trace.spans == HOST_SPANS + GUEST_SPANS
        body = build.request([out.trace])
        times.append((time.process_time() - began) * 1e3)
    median = statistics.median(times)
    print(
        f"{HOST_SPANS} host spans and {GUEST_SPANS} guest spans joined and written ({len(body) / 2**20:.1f} MiB): "
        f"{median:.0f} ms (min {min(times):.0f}, max {max(times):.0f}; limit {LIMIT_MS:.0f}), "
        f"{median * 1e3 / (HOST_SPANS + GUEST_SPANS):.1f} us a span"
    )
    sys.exit(0 if median <= LIMIT_MS else 1)


if __name__ == "__main__":
    main()
