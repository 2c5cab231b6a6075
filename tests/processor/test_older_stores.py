"""What an earlier version left in a store comes out of this one: what it held, what it remembered, what was refused."""

import base64
import gzip
import json
import zipfile
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter.core.policy import SECOND
from tests.rig import CALL, SESSION, START, Peer, Rig, rig
from tests.store.redis.servers import Server, server

DATA = Path(__file__).parents[1] / "store" / "data" / "older"
PLAIN, REFUSED, HELD, AWAITED = (bytes([n]) * 16 for n in (0x21, 0x22, 0x23, 0x24))
LEFT, ALONE, LATE = (f"trace_{digit * 32}" for digit in "578")
AFTER = START + 125 * SECOND


@pytest.fixture(params=["embedded", "redis"])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Opens a rig over the store that was left."""
    if request.param == "embedded":
        directory = tmp_path / "store"
        directory.mkdir(mode=0o700)
        with zipfile.ZipFile(DATA / "embedded.zip") as packed:
            packed.extractall(directory)
        yield lambda peer: rig(peer, directory=directory, now=[AFTER])
        return
    with server() as redis:
        fill(redis)
        yield lambda peer: rig(peer, redis={"url": redis.url, "prefix": "old"}, now=[AFTER])


def fill(redis: Server) -> None:
    commands = json.loads(gzip.decompress((DATA / "redis.json.gz").read_bytes()))
    redis.ask([tuple(base64.b64decode(word) for word in command) for command in commands])


def host(trace: bytes, own: int, parent: int, name: str) -> bytes:
    """One span of an app, under a resource that is small."""
    made = ExportTraceServiceRequest()
    resource = made.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "app"
    span = resource.scope_spans.add().spans.add(trace_id=trace, span_id=bytes([own]) * 8, name=name)
    span.parent_span_id = bytes([parent]) * 8 if parent else b""
    span.start_time_unix_nano, span.end_time_unix_nano = START + own, START + SECOND - own
    return made.SerializeToString()


def items(name: str, metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """An agent and its tool, as they were posted then."""

    def span(own: str, parent: str | None, data: Mapping[str, str]) -> dict[str, Any]:
        return {
            "object": "trace.span",
            "id": f"span_{own}_{name[-4:]}",
            "trace_id": name,
            "parent_id": parent,
            "started_at": "2027-01-15T08:00:00.100000+00:00",
            "ended_at": "2027-01-15T08:00:00.900000+00:00",
            "span_data": data,
            "error": None,
        }

    run = span("run", None, {"type": "agent", "name": "clerk"})
    tool = span("tool", run["id"], {"type": "function", "name": "look", "input": "{}", "output": "{}"})
    return [{"object": "trace", "id": name, "workflow_name": "w", "metadata": metadata}, run, tool]


def resources(peer: Peer, trace: bytes) -> set[int]:
    """Bytes of the resources under which spans of a trace came."""
    return {
        each.resource.ByteSize()
        for request in peer.requests
        for each in ExportTraceServiceRequest.FromString(request).resource_spans
        for scope in each.scope_spans
        if any(span.trace_id == trace for span in scope.spans)
    }


async def test_all_that_an_earlier_version_left_comes_out(older: Any) -> None:
    """Held spans and guests join what comes now; a trace that had left takes a late guest under its span, with its
    resource, and no span of a guest a second time; a late span leaves at once; the dead letter is there."""
    peer = Peer()
    opened: AbstractAsyncContextManager[Rig] = older(peer)
    async with opened as r:
        (letter,) = await r.store.dead_letters(5)
        assert (letter.key, letter.reason, letter.spans) == (REFUSED, "bad span", 1)
        assert ExportTraceServiceRequest.FromString(letter.payload).resource_spans[0].scope_spans[0].spans[0].name
        assert (r.store.stats().remembered, r.store.stats().unreadable) == (4, 0)
        await r.host(host(PLAIN, 9, 1, "late span"))
        await r.pass_time(1)
        assert peer.tree(PLAIN) == "late span [app]"
        await r.host(host(HELD, 1, 0, "root"))
        await r.host(host(AWAITED, 1, 0, "awaited"))
        await r.guest(items(LATE, {"trace_id": CALL.hex(), "span_id": SESSION.hex()}))
        await r.guest(items(LEFT, {"trace_id": CALL.hex()}))
        await r.pass_time(120)
        assert r.store.stats().traces == 0
        assert r.count("grafter_merged_spans_total", reason="repeat") == 2
    assert peer.tree(HELD) == "root [app]\n  held child [app]"
    assert peer.tree(AWAITED) == "awaited [app]\n  invoke_agent clerk [app]\n    execute_tool look [app]"
    assert peer.tree(bytes.fromhex(ALONE.removeprefix("trace_"))).startswith("invoke_agent clerk [openai]")
    late = [span for span, _ in peer.spans if span.trace_id == CALL]
    assert {span.name: span.parent_span_id for span in late}["invoke_agent clerk"] == SESSION
    assert min(resources(peer, CALL)) > 40_000
    assert max(resources(peer, HELD)) > 40_000
