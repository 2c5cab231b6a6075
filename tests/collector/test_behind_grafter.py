"""A real Collector with tail_sampling behind grafter: what one counts the other counts, and Honeycomb with them."""

import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from grafter.core.sampling.weights import decode, randomness, threshold, weight
from tests.e2e.process import Grafter
from tests.e2e.sink import Sink, listening

pytestmark = pytest.mark.slow

START = 1_790_000_000_000_000_000
TRACES = 400
ERROR = {"name": "error", "type": "status_code", "status_code": {"status_codes": ["ERROR"]}}
ALL = {"name": "all", "type": "always_sample"}


def share(percent: float) -> dict[str, Any]:
    return {"name": "share", "type": "probabilistic", "probabilistic": {"sampling_percentage": percent}}


def sampling(sink: Sink, policies: Sequence[Mapping[str, Any]], wait: str) -> dict[str, Any]:
    """What a Collector with tail_sampling in front of that backend is configured to do."""
    return {
        "processors": {"tail_sampling": {"decision_wait": wait, "num_traces": 10_000, "policies": list(policies)}},
        "exporters": {"otlp_http": {"endpoint": sink.http_endpoint}},
    }


@contextlib.asynccontextmanager
async def grafter(home: Path, endpoint: str, processors: Mapping[str, Any]) -> AsyncIterator[Grafter]:
    """A grafter in front of the Collector, with these processors beside its own waits."""
    exporters = {"otlp_grpc": {"endpoint": endpoint, "tls": {"insecure": True}}}
    running = Grafter(home, exporters)
    config = yaml.safe_load(running.config.read_text(encoding="utf-8"))
    config["processors"]["graft"] |= processors.get("graft", {})
    if "tail_sampling" in processors:
        config["processors"]["tail_sampling"] = processors["tail_sampling"]
        config["service"]["pipelines"]["traces"]["processors"].append("tail_sampling")
    running.config.write_text(yaml.safe_dump(config), encoding="utf-8")
    await running.start()
    try:
        yield running
    finally:
        await running.close()


def host(trace_id: bytes, *, error: bool = False, state: str = "") -> bytes:
    """A session under its call, the call an error or not."""
    times = {"start_time_unix_nano": START, "end_time_unix_nano": START + 10**9}
    status = Status(code=Status.STATUS_CODE_ERROR) if error else None
    spans = [
        Span(trace_id=trace_id, span_id=b"c" * 8, name="call", status=status, trace_state=state, **times),
        Span(
            trace_id=trace_id,
            span_id=b"s" * 8,
            parent_span_id=b"c" * 8,
            name="gen_ai.realtime.session",
            trace_state=state,
            **times,
        ),
    ]
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])]
    ).SerializeToString()


def guest(trace_id: bytes, *, error: bool) -> dict[str, object]:
    """A run of one agent's tool that failed or did not, for that call."""
    name = f"trace_{trace_id.hex()}"
    times = {"started_at": "2026-11-22T21:27:56.032785+00:00", "ended_at": "2026-11-22T21:27:56.196109+00:00"}
    span: dict[str, object] = {
        "object": "trace.span",
        "id": f"span_{trace_id.hex()[:24]}",
        "trace_id": name,
        "parent_id": None,
        **times,
        "span_data": {"type": "function", "name": "find", "input": "{}", "output": None if error else "done"},
        "error": {"message": "no", "data": None} if error else None,
    }
    trace = {"object": "trace", "id": name, "workflow_name": "w", "metadata": {"trace_id": trace_id.hex()}}
    return {"data": [trace, span]}


async def post(session: aiohttp.ClientSession, url: str, **body: Any) -> None:
    async with session.post(url, **body) as answer:
        assert answer.status < 300, await answer.text()


async def post_host(session: aiohttp.ClientSession, to: Grafter, body: bytes) -> None:
    await post(session, f"{to.otlp_http}/v1/traces", data=body, headers={"Content-Type": "application/x-protobuf"})


def thresholds(sink: Sink) -> dict[bytes, int]:
    """The one threshold of each trace that came."""
    found: dict[bytes, set[int | None]] = {}
    for each in sink.spans():
        (said,) = (part for part in each.span.trace_state.split(",") if part.startswith("ot=th:"))
        found.setdefault(each.span.trace_id, set()).add(decode(said.removeprefix("ot=th:").encode()))
    assert all(len(some) == 1 and None not in some for some in found.values())
    return {trace_id: t for trace_id, some in found.items() for t in some if t is not None}


def rates(sink: Sink) -> dict[bytes, int]:
    """What Honeycomb reads of each trace that came: ``SampleRate``, one and the same on its spans."""
    found: dict[bytes, set[int]] = {}
    for each in sink.spans():
        own = [one.value.int_value for one in each.span.attributes if one.key == "SampleRate"]
        assert len(own) == 1
        found.setdefault(each.span.trace_id, set()).update(own)
    assert all(len(some) == 1 for some in found.values())
    return {trace_id: some.pop() for trace_id, some in found.items()}


def ids(seed: int) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(16) for _ in range(TRACES)]


async def test_behind_grafters_sampling_it_changes_nothing(collector, tmp_path: Path) -> None:
    """It keeps what grafter kept, with grafter's thresholds; what they count is what Honeycomb counts by the rates,
    and the truth within three standard deviations. A share that is larger than grafter's changes nothing either."""
    traces = ids(1)
    errors, chance = set(traces[:40]), {one for one in traces if randomness(one) >= threshold(4)}
    own = {"policies": [{"type": "error"}, {"type": "probabilistic", "one_of": 4}]}
    async with (
        listening() as sink,
        collector(tmp_path, sampling(sink, [share(50)], "1s")) as endpoint,
        grafter(tmp_path, endpoint, {"tail_sampling": own}) as running,
        aiohttp.ClientSession() as session,
    ):
        for one in traces:
            await post_host(session, running, host(one, error=one in errors))
        for one in traces:
            await post(session, running.ingest, json=guest(one, error=False))
        # Of the errors, which weigh 1, half are above the Collector's own threshold.
        kept = {one for one in errors | chance if one not in errors or randomness(one) >= threshold(2)}
        await sink.until(lambda sink: len(sink.trace_ids()) >= len(kept), "what was kept", 60)
    assert {bytes.fromhex(one) for one in sink.trace_ids()} == kept
    found, read = thresholds(sink), rates(sink)
    assert found == {one: threshold(2) if one in errors else threshold(4) for one in kept}
    by_rate = sum(rate for one, rate in read.items() if one not in errors)
    assert sum(weight(t) for one, t in found.items() if one not in errors) == pytest.approx(by_rate)
    assert abs(by_rate - (TRACES - len(errors))) < 3 * ((TRACES - len(errors)) * 3) ** 0.5
    assert {rate for one, rate in read.items() if one not in errors} == {4}


async def test_it_decides_about_whole_calls_behind_stream_mode(collector, tmp_path: Path) -> None:
    """grafter joins and holds nothing; the Collector sees OpenAI's errors as the call's own and keeps those calls, and
    one of four of the others by the randomness that grafter's spans take over from the app's. Nothing of a call that it
    kept is missing, whichever half came first."""
    traces = ids(2)
    failed = set(traces[:60])
    async with (
        listening() as sink,
        collector(tmp_path, sampling(sink, [ERROR, share(25)], "15s")) as endpoint,
        grafter(tmp_path, endpoint, {"graft": {"mode": "stream"}}) as running,
        aiohttp.ClientSession() as session,
    ):
        for at, one in enumerate(traces):
            app, openai = host(one, state="ot=th:0,other=1"), guest(one, error=one in failed)
            if at % 2:
                await post(session, running.ingest, json=openai)
            await post_host(session, running, app)
            if not at % 2:
                await post(session, running.ingest, json=openai)
        kept = failed | {one for one in traces if randomness(one) >= threshold(4)}
        await sink.until(lambda sink: len(sink.spans()) >= 3 * len(kept), "what was kept", 90)
    assert {bytes.fromhex(one) for one in sink.trace_ids()} == kept
    names = Counter(each.span.name for each in sink.spans())
    assert names == {"call": len(kept), "gen_ai.realtime.session": len(kept), "execute_tool find": len(kept)}
    assert thresholds(sink) == {one: 0 if one in failed else threshold(4) for one in kept}
    assert all("other=1" in each.span.trace_state for each in sink.spans())
    total = sum(weight(t) for t in thresholds(sink).values())
    assert abs(total - TRACES) < 3 * ((TRACES - len(failed)) * 3) ** 0.5


async def test_a_policy_that_keeps_all_leaves_every_weight(collector, tmp_path: Path) -> None:
    """An error's weight of 1 and a share's of 4 leave the Collector as they came, guests' spans too, and ``grafter
    .policy`` says why."""
    traces = ids(3)
    errors, chance = set(traces[:40]), {one for one in traces if randomness(one) >= threshold(4)}
    own = {"policies": [{"type": "error"}, {"type": "probabilistic", "one_of": 4}]}
    async with (
        listening() as sink,
        collector(tmp_path, sampling(sink, [ALL], "1s")) as endpoint,
        grafter(tmp_path, endpoint, {"tail_sampling": own}) as running,
        aiohttp.ClientSession() as session,
    ):
        for one in traces:
            await post_host(session, running, host(one, error=one in errors))
            await post(session, running.ingest, json=guest(one, error=False))
        kept = errors | chance
        await sink.until(lambda sink: len(sink.spans()) >= 3 * len(kept), "what was kept", 60)
    assert {bytes.fromhex(one) for one in sink.trace_ids()} == kept
    found, read = thresholds(sink), rates(sink)
    assert found == {one: 0 if one in errors else threshold(4) for one in kept}
    assert read == {one: 1 if one in errors else 4 for one in kept}
    assert sum(map(weight, found.values())) == pytest.approx(sum(read.values()))
    assert KeyValue(key="grafter.policy", value=AnyValue(string_value="error")) in [
        attribute for each in sink.spans() for attribute in each.span.attributes
    ]
