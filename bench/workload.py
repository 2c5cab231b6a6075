"""The load: traces of 20 spans of about 500 bytes, 64 traces open at a time, their spans interleaved at random.

Interleaving is the worst case for a splitter: hardly two neighbours belong to one trace. Every lap sends the same
bytes with other trace ids, so that a run is as long as it has to be and every trace is new.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.otlp.frames import varint

SPANS_PER_TRACE = 20
OPEN_TRACES = 64
START = 1_790_000_000_000_000_000


def _attribute(key: str, value: str | int) -> KeyValue:
    attribute = KeyValue(key=key)
    if isinstance(value, int):
        attribute.value.int_value = value
    else:
        attribute.value.string_value = value
    return attribute


@dataclass(frozen=True, slots=True)
class Template:
    """One request, cut at its trace ids: pieces[0] id[0] pieces[1] id[1] ... pieces[n]."""

    pieces: tuple[bytes, ...]
    tails: tuple[bytes, ...]
    """The last 12 bytes of each span's trace id; a lap's salt stands before them."""

    def request(self, lap: int) -> bytes:
        """The request of a lap; laps are told apart by the first 4 bytes of every trace id."""
        salt = (lap + 1).to_bytes(4, "big")
        out = [b""] * (2 * len(self.tails) + 1)
        out[0::2] = self.pieces
        out[1::2] = [salt + tail for tail in self.tails]
        return b"".join(out)


class Workload:
    """Requests of ``batch`` spans; a lap is a whole number of traces."""

    def __init__(self, batch: int, traces: int, seed: int = 7) -> None:
        rng = random.Random(seed)
        self.batch = batch
        order = list(self._interleaved(traces, rng))
        self.spans_per_lap = len(order)
        self.templates = [self._template(order[at : at + batch], rng) for at in range(0, len(order), batch)]

    @staticmethod
    def _interleaved(traces: int, rng: random.Random) -> Iterator[tuple[bytes, int]]:
        """(trace id tail, number of the span within its trace); the root comes last, as it ends last."""
        waiting = [rng.randbytes(12) for _ in range(traces)]
        running = [[waiting.pop(), 0] for _ in range(min(OPEN_TRACES, traces))]
        while running:
            slot = rng.randrange(len(running))
            tail, number = running[slot]
            assert isinstance(tail, bytes)
            assert isinstance(number, int)
            yield tail, number
            if number + 1 < SPANS_PER_TRACE:
                running[slot][1] = number + 1
            elif waiting:
                running[slot] = [waiting.pop(), 0]
            else:
                running.pop(slot)

    def _template(self, spans: list[tuple[bytes, int]], rng: random.Random) -> Template:
        resource = Resource(
            attributes=[_attribute(f"service.attribute.{n}", f"value of attribute {n}") for n in range(7)]
            + [_attribute("service.name", "bench")]
        ).SerializeToString()
        scope = InstrumentationScope(name="bench.instrumentation", version="1.0").SerializeToString()
        head = b"\x0a" + varint(len(scope)) + scope
        cut: list[bytes] = []
        for tail, number in spans:
            body = self._span(tail, number, rng)
            length = len(body) + 18
            cut.append(b"\x12" + varint(length) + b"\x0a\x10")
            cut.append(body)
        size = len(head) + sum(map(len, cut)) + 16 * len(spans)
        run = b"\x0a" + varint(len(resource)) + resource + b"\x12" + varint(size) + head
        start = b"\x0a" + varint(len(run) + sum(map(len, cut)) + 16 * len(spans)) + run
        pieces = [start + cut[0]]
        pieces += [cut[n] + cut[n + 1] for n in range(1, len(cut) - 1, 2)]
        pieces.append(cut[-1])
        return Template(tuple(pieces), tuple(tail for tail, _ in spans))

    @staticmethod
    def _span(tail: bytes, number: int, rng: random.Random) -> bytes:
        """Everything of a span behind its trace id."""
        root = number == SPANS_PER_TRACE - 1
        start = START + rng.randrange(10**9)
        span = Span(
            span_id=tail[:7] + bytes((number + 1,)),
            parent_span_id=b"" if root else tail[:7] + bytes((SPANS_PER_TRACE,)),
            name=f"operation {number}",
            kind=2,  # type: ignore[arg-type]  # SPAN_KIND_SERVER
            start_time_unix_nano=start,
            end_time_unix_nano=start + rng.randrange(10**9),
            flags=0x101,
            attributes=[_attribute(f"http.request.attribute{n}", f"value {rng.randrange(10**6)}") for n in range(9)]
            + [_attribute("http.response.status_code", 200), _attribute("thread.id", rng.randrange(10**6))],
        )
        if number % 5 == 0:
            span.events.add(time_unix_nano=start, name="cache.miss")
        return span.SerializeToString()
