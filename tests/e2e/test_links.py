"""Links that the guest does not bring, end to end: real SDKs on both sides, both stores, and kills in between."""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.e2e.commands import command
from tests.e2e.conftest import to_grpc
from tests.e2e.process import Grafter
from tests.e2e.sink import DEADLINE, Sink
from tests.processor.test_named_links import items
from tests.rig import recorded_call
from tests.store.redis.servers import Server, server

GUEST = "trace_" + "e" * 32
_PAIRS = {
    ("embedded", "backward", "host first"),
    ("embedded", "api", "guest first"),
    ("redis", "backward", "guest first"),
    ("redis", "api", "host first"),
}
# A guest without its trace object is not whole, however long a restart takes.
WAITS = {"after_root": "300ms", "guest_quiet": "300ms", "for_guest": "60s", "idle": "60s"}


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server("--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


@pytest.fixture(params=["embedded", "redis"])
def grafter(request: pytest.FixtureRequest, tmp_path: Path, sink: Sink) -> Grafter:
    store: dict[str, Any] | None = None
    if request.param == "redis":
        url = request.getfixturevalue("redis").url
        store = {"redis": {"url": url, "prefix": tmp_path.name}, "lease": "5s"}
    return Grafter(tmp_path, {"otlp_grpc/sink": to_grpc(sink)}, WAITS, store=store)


def app(grafter: Grafter, meanwhile: Callable[[str], object] = lambda _trace_id: None, **named: str) -> str:
    """One trace of the app's with these attributes on a span inside; its trace id, also before its root has ended."""
    provider = TracerProvider(resource=Resource({"service.name": "clerk"}))
    exporter = OTLPSpanExporter(endpoint=grafter.otlp_grpc, insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("app")
    with tracer.start_as_current_span("call") as root:
        trace_id = f"{root.get_span_context().trace_id:032x}"
        with tracer.start_as_current_span("agent") as inside:
            for key, value in named.items():
                inside.set_attribute(key.replace("__", "."), value)
        meanwhile(trace_id)
    provider.shutdown()
    return trace_id


async def guest(grafter: Grafter, some: list[object]) -> None:
    async with aiohttp.ClientSession() as client, client.post(grafter.ingest, json={"data": some}) as answer:
        assert answer.status == 204


async def link(grafter: Grafter, host: str, span: str = "1" * 16) -> int:
    url = grafter.ingest.replace("/v1/traces/ingest", "/api/links")
    body = {"guest": GUEST, "traceparent": f"00-{host}-{span}-01"}
    async with aiohttp.ClientSession() as client, client.post(url, json=body) as answer:
        return answer.status


# Each two of store, way and order together once; all eight are of the slow.
@pytest.mark.parametrize(
    ("grafter", "how", "order"),
    [
        pytest.param(*one, marks=[] if one in _PAIRS else pytest.mark.slow)
        for one in itertools.product(("embedded", "redis"), ("backward", "api"), ("host first", "guest first"))
    ],
    indirect=["grafter"],
)
async def test_a_link_outlives_a_kill(grafter: Grafter, sink: Sink, how: str, order: str) -> None:
    """Whichever half came before it; and it can be asked why."""
    head, run, answer = items(GUEST)
    named = {"openai__trace_id": GUEST} if how == "backward" else {}
    loop = asyncio.get_running_loop()

    def tell(host: str) -> None:
        # Before the root ends: a host that has left already might be killed while it is sent, and be sent again.
        if how == "api":
            assert asyncio.run_coroutine_threadsafe(link(grafter, host), loop).result(DEADLINE) == 204

    try:
        await grafter.start()
        if order == "host first":
            host = await asyncio.to_thread(lambda: app(grafter, tell, **named))
        else:
            await guest(grafter, [run])
        await grafter.kill()
        await grafter.start()
        if order == "host first":
            await guest(grafter, [run])
        else:
            host = await asyncio.to_thread(lambda: app(grafter, tell, **named))
        await guest(grafter, [head, answer])
        assert await link(grafter, "b" * 32) == 409
        await sink.until_spans(host, 4)
        found = {each.span.name: each for each in sink.spans(host)}
        assert found["invoke_agent clerk"].attributes["grafter.link"] == how
        assert sink.trace_ids() == {host}
        assert sink.repeats() == {}
        code, said, _ = await command(grafter, "explain", GUEST, "--json")
        assert code == 0
        told = json.loads(said)
        assert told["named"] == {"by": how, "host": host, "span": None if how == "backward" else "1" * 16}
    finally:
        await grafter.close()


async def test_a_trace_of_another_system_moves_over_a_kill(grafter: Grafter, sink: Sink) -> None:
    """By a rule: LiveKit's own spans, as they were recorded, come before the kill, and the call's trace after it."""
    config = yaml.safe_load(grafter.config.read_text("utf-8"))
    rule = {"match": {"attribute": "lk.sip.callID"}, "join": "call", "host": "sip.call_id"}
    config["processors"]["graft"]["rules"] = [rule]
    grafter.config.write_text(yaml.safe_dump(config), "utf-8")
    recorded = recorded_call("livekit_agents_1.8.9")
    sent = ExportTraceServiceRequest.FromString(recorded)
    count = sum(len(scope.spans) for each in sent.resource_spans for scope in each.scope_spans)
    try:
        await grafter.start()
        headers = {"Content-Type": "application/x-protobuf"}
        url = f"{grafter.otlp_http}/v1/traces"
        async with aiohttp.ClientSession() as client, client.post(url, data=recorded, headers=headers) as answer:
            assert answer.status == 200
        await grafter.kill()
        await grafter.start()
        host = await asyncio.to_thread(lambda: app(grafter, sip__call_id="SCL_Vx7c2k9QmT4d"))
        await sink.until_spans(host, 2 + count)
        found = {each.span.name: each for each in sink.spans(host)}
        assert found["agent_session"].attributes["grafter.link"] == "rule"
        assert found["agent_session"].span.parent_span_id == found["call"].span.span_id
        assert sink.trace_ids() == {host}
        assert sink.repeats() == {}
    finally:
        await grafter.close()
