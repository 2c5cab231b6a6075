"""``grafter graft``: join files without a server, by the server's own rooms.

The files go through the same split, store (in memory), lifecycle, join and exporter contract as requests do; only
the clock is not the wall's: it is turned until nothing is held any more. So a file joins here as it would have there.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grafter import __version__
from grafter.commands.send import Receiver, Request, read
from grafter.consumer import Batch, Exporter, OutTrace, Result, Signal, Verdict
from grafter.core.model import NamedLink, Part, Source, UnixNano
from grafter.core.policy import MINUTE, SECOND, GraftPolicy, Mode
from grafter.core.sampling.policies import SamplingPolicy
from grafter.errors import RejectedError
from grafter.exporter.tree import render
from grafter.guests.agents.intake import read_items
from grafter.guests.json_values import parse_json
from grafter.guests.realtime.intake import read_posts
from grafter.otlp import build
from grafter.otlp.from_json import Oddities, trace_request_from_json
from grafter.otlp.split import Split, Splitter
from grafter.otlp.to_json import trace_request_to_json
from grafter.processor.assembling import Assembler
from grafter.processor.lanes import Limits
from grafter.processor.processor import Processor
from grafter.store.embedded import opening as embedded
from grafter.telemetry import Metrics

# Any moment will do; a fixed one makes the output the same each time.
_START = 1_800_000_000 * SECOND


class _Collecting(Exporter):
    name = "graft"

    def __init__(self) -> None:
        self.traces: list[OutTrace] = []

    async def export(self, batch: Batch) -> Sequence[Result]:
        self.traces += batch.traces
        return [Result(Verdict.ACCEPTED)] * len(batch.traces)

    def retry_in(self) -> float:
        return 0.0

    async def forward(self, signal: Signal, request: bytes) -> None:
        raise RejectedError(f"{signal} cannot be grafted")


async def graft(
    hosts: Sequence[Path], guests: Sequence[Path], policy: GraftPolicy, metrics: Metrics, *, tree: bool = False
) -> bytes:
    """One OTLP JSON document of the joined traces, and a line break; ``tree``: their trees, as lines.

    ``hosts``: OTLP requests as protobuf, JSON or JSON lines. ``guests``: OpenAI items or posted Realtime events in any
    shape that ``grafter send`` takes. Raises ValueError, naming the file, for one that is not what it is given as.
    """
    parts: list[Part] = []
    links: list[NamedLink] = []
    for file in hosts:
        for request in read(file):
            split = host_parts(file, request, policy)
            parts += split.parts
            links += split.links
    parts += [part for file in guests for request in read(file) for part in guest_parts(file, request, policy)]
    traces = await released(parts, policy, metrics, links=links)
    traces.sort(key=lambda trace: trace.key)
    joined = build.request(traces)
    return render(joined).encode() if tree else trace_request_to_json(joined) + b"\n"


async def released(
    parts: Sequence[Part],
    policy: GraftPolicy,
    metrics: Metrics,
    sampling: SamplingPolicy | None = None,
    links: Sequence[NamedLink] = (),
) -> list[OutTrace]:
    """Everything that leaves of these parts, until nothing is held any more."""
    # All files are there from the beginning: nothing that leaves early can be followed by something late.
    policy = replace(policy, mode=Mode.HOLD)
    collecting = _Collecting()
    now = _START
    async with embedded.opened(
        None,
        waits=policy.waits,
        max_bytes=1 << 62,
        max_trace_bytes=1 << 62,
        lease_ns=policy.waits.max,
        fsync="interval",
        fsync_interval=1.0,
        guests_apart=False,
    ) as store:
        policy = replace(policy, max_trace_bytes=1 << 62, redact=replace(policy.redact, secret=store.hmac_secret()))
        processor = Processor(
            store, [collecting], policy, Assembler(policy, __version__, sampling), metrics, lambda: now, Limits()
        )
        await processor.consume(sorted(parts, key=lambda part: part.guest is not None), links=links)
        # Small steps at first, so that a guest meets its host as it would have; nothing is held for ever.
        while store.stats().traces:
            now += SECOND if now < _START + MINUTE else MINUTE
            await processor.drain()
    return collecting.traces


def host_parts(file: Path, request: Request, policy: GraftPolicy) -> Split:
    """One OTLP request of a file, as its receiver would have read it. Raises ValueError for what is none."""
    if request.receiver is not Receiver.OTLP:
        found = "Realtime events" if request.receiver is Receiver.REALTIME else "OpenAI items"
        raise ValueError(f"{file}: expected OTLP traces, found {found}")
    try:
        odd = Oddities()
        body = trace_request_from_json(request.body, odd) if request.content_type.endswith("json") else request.body
        split = Splitter(policy.anchors, policy.guest_id_keys, policy.rules).split(body)
    except RejectedError as error:
        raise ValueError(f"{file}: {error}") from error
    if odd.rejected and not split.parts:
        raise ValueError(f"{file}: OTLP JSON: {odd.first}")
    return split


def guest_parts(file: Path, request: Request, policy: GraftPolicy) -> Sequence[Part]:
    """OpenAI items or Realtime events of a file. Raises ValueError for what is neither."""
    if request.receiver is Receiver.REALTIME:
        # A recording is read as if it had arrived when it ended, for no time in it may be later than its arrival.
        arrived = max(_START, int((request.at or 0) * SECOND))
        try:
            return read_posts(request.body, False, policy, UnixNano(arrived)).parts
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    if request.receiver is not Receiver.OPENAI:
        raise ValueError(f"{file}: expected OpenAI items, found OTLP traces")
    body = parse_json(request.body)
    items = body.get("data") if isinstance(body, dict) else None
    if not isinstance(items, list):
        raise ValueError(f"{file}: expected a list of items under data")
    return read_items(items, Source.SDK, policy).parts
