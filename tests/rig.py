"""The server's own rooms between two small doubles: a clock that the test turns and a peer that answers by script."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.consumer import Batch, Exporter, Result, Signal, Verdict
from grafter.core.model import Source, UnixNano
from grafter.core.policy import SECOND, GraftPolicy, Mode
from grafter.core.sampling.policies import SamplingPolicy
from grafter.guests.agents.intake import read_items
from grafter.guests.realtime.intake import read_posts
from grafter.otlp import build
from grafter.otlp.split import Splitter
from grafter.processor.assembling import Assembler
from grafter.processor.lanes import Limits
from grafter.processor.processor import Processor
from grafter.store.embedded import opening as embedded
from grafter.store.embedded.store import EmbeddedStore
from grafter.store.redis import opening
from grafter.store.redis.store import RedisStore
from grafter.telemetry import Metrics

START = 1_800_000_000 * SECOND
ACCEPTED = Result(Verdict.ACCEPTED)


class Peer:
    """An exporter that keeps what it takes; ``answers`` decides for each batch."""

    def __init__(self, name: str = "peer") -> None:
        self.name = name
        self.requests: list[bytes] = []
        self.answer: Callable[[Batch], Result] = lambda _batch: ACCEPTED
        self.down_seconds = 0.0

    async def export(self, batch: Batch) -> Sequence[Result]:
        result = self.answer(batch)
        if result.verdict is Verdict.ACCEPTED or result.unknown:
            self.requests.append(build.request(batch.traces))
        return [result] * len(batch.traces)

    def retry_in(self) -> float:
        return self.down_seconds

    async def forward(self, signal: Signal, request: bytes) -> None:
        self.requests.append(request)

    @property
    def spans(self) -> list[tuple[Span, str]]:
        """Every span that came, with its service's name."""
        found = []
        for request in self.requests:
            for resource_spans in ExportTraceServiceRequest.FromString(request).resource_spans:
                service = {a.key: a.value.string_value for a in resource_spans.resource.attributes}.get(
                    "service.name", ""
                )
                found += [(span, service) for scope in resource_spans.scope_spans for span in scope.spans]
        return found

    @property
    def ids(self) -> list[tuple[bytes, bytes]]:
        return sorted((span.trace_id, span.span_id) for span, _ in self.spans)

    def tree(self, trace_id: bytes) -> str:
        """One trace as text: name and service, two blanks a level, siblings by name and start."""
        children: dict[bytes, list[tuple[Span, str]]] = defaultdict(list)
        own = {span.span_id for span, _ in self.spans if span.trace_id == trace_id}
        for span, service in self.spans:
            if span.trace_id == trace_id:
                children[span.parent_span_id if span.parent_span_id in own else b""].append((span, service))
        lines: list[str] = []

        def walk(parent: bytes, depth: int) -> None:
            for span, service in sorted(children[parent], key=lambda s: (s[0].start_time_unix_nano, s[0].name)):
                lines.append(f"{'  ' * depth}{span.name} [{service}]")
                walk(span.span_id, depth + 1)

        walk(b"", 0)
        return "\n".join(lines)


@dataclass
class Rig:
    """A processor over a real store."""

    store: EmbeddedStore | RedisStore
    processor: Processor
    policy: GraftPolicy
    metrics: Metrics
    now: list[int]
    splitter: Splitter
    accepted: int = 0

    async def host(self, request: bytes) -> None:
        """One OTLP request arrives."""
        split = self.splitter.split(request)
        await self.processor.consume(split.parts, links=split.links)
        self.accepted += split.spans

    async def guest(self, items: Sequence[object]) -> None:
        """One ingest request arrives."""
        intake = read_items(items, Source.SDK, self.policy)
        await self.processor.consume(intake.parts)
        self.accepted += intake.spans

    async def realtime(self, *posts: object) -> None:
        """One request of posted Realtime events arrives; they count as spans when they leave."""
        intake = read_posts(orjson.dumps(posts), False, self.policy, UnixNano(self.now[0]))
        await self.processor.consume(intake.parts)

    async def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Turn the clock, releasing what falls due on the way.

        In strides of ``step``, and of a sixteenth of what has passed once that is more: most of a long wait is nothing
        but asking the store in vain.
        """
        begin = self.now[0]
        end = begin + int(seconds * SECOND)
        while self.now[0] < end:
            stride = max(int(step * SECOND), (self.now[0] - begin) // 16)
            self.now[0] = min(end, self.now[0] + stride)
            await self.processor.drain()

    def count(self, name: str, **labels: str) -> float:
        """The sum of a counter over all labels that are not given."""
        total = 0.0
        for metric in self.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total += sample.value
        return total

    def books(self, sent: int) -> tuple[float, float]:
        """The two sides of the books: what came in, and what became of it."""
        read = self.count("grafter_receiver_accepted_spans_total", transport="realtime")
        came = self.accepted + read + self.store.stats().recovered_spans + self.count("grafter_synthetic_spans_total")
        came += self.count("grafter_revived_spans_total")
        became = (
            sent
            + self.store.stats().spans
            + self.count("grafter_dead_spans_total")
            + self.count("grafter_dropped_spans_total")
            - self.count("grafter_dropped_spans_total", reason="dead_letters_full")
            - self.count("grafter_dropped_spans_total", reason="dead_letters_dropped")
            + self.count("grafter_merged_spans_total")
            + self.count("grafter_sampled_out_spans_total")
        )
        return came, became


@asynccontextmanager
async def rig(
    *peers: Exporter,
    policy: GraftPolicy | None = None,
    directory: Path | None = None,
    now: Iterable[int] = (START,),
    max_bytes: int = 1 << 30,
    assembler: type[Assembler] = Assembler,
    sampling: SamplingPolicy | None = None,
    metrics: Metrics | None = None,
    letter_bytes: int = 64 << 20,
    redis: Mapping[str, Any] | None = None,
    sending: Limits | None = None,
) -> AsyncIterator[Rig]:
    """A rig in memory, over a directory, or over a Redis, of which ``redis`` has the url and the prefix. ``now``: the
    clock, a list of one moment; a list is used as it is."""
    policy = policy or GraftPolicy()
    clock = now if isinstance(now, list) else list(now)
    metrics = metrics or Metrics()
    limits: dict[str, Any] = {
        "waits": policy.waits,
        "max_bytes": max_bytes,
        "max_trace_bytes": policy.max_trace_bytes,
        "lease_ns": 10 * SECOND,
        "guests_apart": policy.mode is Mode.STREAM,
        "letter_bytes": letter_bytes,
    }
    opened: AbstractAsyncContextManager[EmbeddedStore | RedisStore]
    if redis is None:
        opened = embedded.opened(directory, fsync="interval", fsync_interval=1.0, **limits)
    else:
        opened = opening.opened(pool_size=3, **redis, **limits)
    async with opened as store:
        if isinstance(store, EmbeddedStore):
            await store.recovered()
        assembling = assembler(policy, "test", sampling)
        processor = Processor(store, peers, policy, assembling, metrics, lambda: clock[0], sending or Limits())
        splitter = Splitter(policy.anchors, policy.guest_id_keys, policy.rules)
        yield Rig(store, processor, policy, metrics, clock, splitter=splitter)


DATA = Path(__file__).parent / "data"
CALL = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")
"""The trace id of the recorded reference call, and of the metadata in the recorded guests."""
SESSION = bytes.fromhex("00f067aa0ba902b7")


def recorded_call(name: str = "otlp_call_from_sdk") -> bytes:
    """The app's side of the reference call, as it stood on the wire."""
    return (DATA / "otlp" / f"{name}.pb").read_bytes()


def recorded_guest(name: str = "py_runner_responses") -> list[list[object]]:
    """The items of each request of a recorded run."""
    return [r["body"]["data"] for r in orjson.loads((DATA / "openai" / f"{name}.json").read_bytes())["requests"]]
