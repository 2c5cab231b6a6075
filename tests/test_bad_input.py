"""Hostile input at the doors of a whole service: a clear answer each time, and nothing else lost.

One service runs for the whole module. Each row of the table is sent to it, and right after it a good call, host and
guest, which must come out whole. In the end the books of all of it balance.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import orjson
import pytest
import pytest_asyncio
import zstandard
from aiohttp import web
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.components import load
from grafter.core.model import FLAG_HAS_IS_REMOTE, FLAG_IS_REMOTE
from grafter.service import Running, running
from tests.exporter.doubles import TRACES_METHOD
from tests.rig import CALL, recorded_call

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = 60.0
"""Seconds; for a machine that is busy with other tests."""
_LOOK_SECONDS = 0.02
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
POISON = "poison"
"""The name of a span that the backend refuses."""


class Backend:
    """OTLP over HTTP; refuses what is no OTLP, and what has a poisoned span in it, as backends do."""

    def __init__(self) -> None:
        self.url = ""
        self.ids: dict[bytes, list[bytes]] = {}
        """Trace id to the ids of the spans that came."""
        self._news = asyncio.Condition()

    async def answer(self, request: web.Request) -> web.Response:
        try:
            message = ExportTraceServiceRequest.FromString(await request.read())
        except DecodeError:
            return web.Response(status=400)
        spans = [s for r in message.resource_spans for c in r.scope_spans for s in c.spans]
        if any(span.name == POISON for span in spans):
            return web.Response(status=400)
        async with self._news:
            for span in spans:
                self.ids.setdefault(span.trace_id, []).append(span.span_id)
            self._news.notify_all()
        return web.Response()

    async def whole(self, trace_id: bytes, spans: int) -> None:
        """Wait for that many spans of a trace; each must come once."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: len(self.ids.get(trace_id, ())) >= spans)
        assert len(self.ids[trace_id]) == len(set(self.ids[trace_id])) == spans


@asynccontextmanager
async def serving(directory: Path, **store: Any) -> AsyncIterator[tuple[Running, Backend]]:
    """A service with short waits in front of a backend."""
    backend = Backend()
    app = web.Application(client_max_size=256 << 20)
    app.router.add_post("/v1/traces", backend.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    backend.url = f"http://{host}:{port}"
    wait = {"after_root": "50ms", "guest_quiet": "50ms", "for_guest": "500ms", "local_root": "500ms", "idle": "5s"}
    free = "127.0.0.1:0"
    file = directory / "config.json"
    file.write_bytes(
        orjson.dumps(
            {
                "receivers": {
                    "otlp": {"protocols": {"grpc": {"endpoint": free}, "http": {"endpoint": free}}},
                    "openai": {"endpoint": free},
                },
                "processors": {"graft": {"wait": wait}},
                "exporters": {"otlp_http": {"endpoint": backend.url}},
                "extensions": {
                    "store": {"embedded": {"directory": str(directory / "store")}, **store},
                    "health_check": None,
                },
                "service": {"telemetry": {"metrics": {"endpoint": free}}},
            }
        )
    )
    try:
        async with running(load([str(file)], env={})) as served:
            yield served, backend
    finally:
        await runner.cleanup()


@dataclass
class World:
    """The service and what was sent to it."""

    served: Running
    backend: Backend
    session: aiohttp.ClientSession
    good: int = 0
    looks: int = 0

    async def post(
        self, door: str, path: str, body: bytes, headers: Mapping[str, str], method: str = "POST"
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of the answer."""
        url = f"http://127.0.0.1:{self.served.ports[door]}{path}"
        async with self.session.request(method, url, data=BytesIO(body), headers=headers) as answer:
            return answer.status, await answer.read(), answer.headers

    async def export(
        self, body: bytes, compression: grpc.Compression = grpc.Compression.NoCompression
    ) -> tuple[grpc.StatusCode, bytes]:
        """Status and response of one Export."""
        address = f"127.0.0.1:{self.served.ports['otlp_grpc']}"
        async with grpc.aio.insecure_channel(address, compression=compression) as channel:
            try:
                answer: bytes = await channel.unary_unary(TRACES_METHOD)(body, timeout=PATIENCE)
            except grpc.aio.AioRpcError as error:
                return error.code(), b""
        return grpc.StatusCode.OK, answer

    async def counters(self) -> dict[str, float]:
        """The sum of each metric over its labels, from /metrics."""
        _, page, _ = await self.post("metrics", "/metrics", b"", {}, "GET")
        sums: dict[str, float] = {}
        for line in page.decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.partition("{")[0]
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    async def a_moment(self) -> None:
        """Between two looks at what the service does by itself; fails when there were too many."""
        self.looks += 1
        assert self.looks < PATIENCE / _LOOK_SECONDS
        await asyncio.sleep(_LOOK_SECONDS)

    async def good_call(self) -> None:
        """Send a call of both halves, and wait until all of it has come out under one trace id."""
        self.good += 1
        number = self.good.to_bytes(16, "big")
        request = recorded_call().replace(CALL, number)
        items: list[dict[str, Any]] = [
            {"object": "trace", "id": f"trace_good{self.good}", "metadata": {"trace_id": number.hex()}},
            span_item(f"trace_good{self.good}", "span_top"),
            span_item(f"trace_good{self.good}", "span_below", parent_id="span_top"),
        ]
        assert (await self.post("openai", "/v1/traces/ingest", data(*items), JSON))[0] == 204
        # Both OTLP doors must have come through what was sent before.
        if self.good % 2:
            assert await self.export(request) == (grpc.StatusCode.OK, b"")
        else:
            assert (await self.post("otlp_http", "/v1/traces", request, PROTOBUF))[0] == 200
        await self.backend.whole(number, len(spans_of(request)) + 2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One for the whole table."""
    async with (
        serving(tmp_path_factory.mktemp("service")) as (served, backend),
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        yield World(served, backend, session)


def spans_of(request: bytes) -> list[Span]:
    message = ExportTraceServiceRequest.FromString(request)
    return [s for r in message.resource_spans for c in r.scope_spans for s in c.spans]


def field_of(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, length = len(payload), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes(length) + bytes([size]) + payload


def otlp(*spans: bytes | Span) -> bytes:
    """A request with these spans, which need not be any."""
    run = b"".join(field_of(2, s if isinstance(s, bytes) else s.SerializeToString()) for s in spans)
    return field_of(1, field_of(2, run))


def span(trace_id: bytes = b"T" * 16, span_id: bytes = b"S" * 8, **fields: Any) -> Span:
    return Span(**{"trace_id": trace_id, "span_id": span_id, "name": "work"} | fields)


def otlp_json(**fields: Any) -> bytes:
    """One span as OTLP JSON."""
    one = {"traceId": "ab" * 16, "spanId": "cd" * 8, "name": "work", **fields}
    return orjson.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [one]}]}]})


def span_item(trace: str, span_id: str, **fields: Any) -> dict[str, Any]:
    """A span as the Agents SDK posts it."""
    item: dict[str, Any] = {
        "object": "trace.span",
        "id": span_id,
        "trace_id": trace,
        "parent_id": None,
        "started_at": "2026-11-23T10:00:00+00:00",
        "ended_at": "2026-11-23T10:00:01+00:00",
        "span_data": {"type": "custom", "name": "step", "data": {}},
        "error": None,
    }
    return item | fields


def data(*items: object) -> bytes:
    return orjson.dumps({"data": items})


def gzipped(body: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


def zstandarded(body: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(body)


TOO_MUCH = 65 << 20
"""Bytes; one MiB more than any door takes."""

CODES = grpc.StatusCode


@dataclass(frozen=True)
class Row:
    """Something hostile, the door that it is sent to, and the answer that is promised."""

    name: str
    door: str
    """grpc, http or ingest."""
    body: Callable[[], bytes]
    answer: int | grpc.StatusCode
    headers: Mapping[str, str] = field(default_factory=lambda: PROTOBUF)
    spans: int = 0
    """Spans that are taken all the same."""
    rejected: int = 0
    """Spans that a partial success says were not."""
    method: str = "POST"
    path: str = ""

    def __str__(self) -> str:
        return f"{self.door}: {self.name}"


def both(name: str, body: Callable[[], bytes], good: bool, **more: Any) -> tuple[Row, Row]:
    """The same bytes at both OTLP doors."""
    return (
        Row(name, "grpc", body, CODES.OK if good else CODES.INVALID_ARGUMENT, **more),
        Row(name, "http", body, 200 if good else 400, **more),
    )


def packed(encoding: str) -> dict[str, str]:
    return {"Content-Encoding": encoding}


def many_attributes() -> bytes:
    """A root span with a million empty attributes."""
    return otlp(span(b"M" * 16).SerializeToString() + b"\x4a\x00" * 1_000_000)


def cycle() -> bytes:
    """Two spans, each the other's parent, and one that is its own."""
    first, second, third = b"1" * 8, b"2" * 8, b"3" * 8
    pairs = ((first, second), (second, first), (third, third))
    return otlp(*(span(b"C" * 16, own, parent_span_id=parent) for own, parent in pairs))


def guest_cycle() -> bytes:
    items = (span_item("trace_cycle", own, parent_id=parent) for own, parent in ("ab", "ba", "cc"))
    return data({"object": "trace", "id": "trace_cycle", "metadata": {"trace_id": "c1" * 16}}, *items)


def in_item(text: bytes) -> bytes:
    """A span item with a value that only a hand can write."""
    return data(span_item("trace_odd", "span_" + text.hex()[:20], odd="HERE")).replace(b'"HERE"', text)


YEAR_9999 = 253_402_300_799 * 10**9
"""Past the 64 bits that OTLP has for a time, which end in the year 2554."""
LAST_NANO = 2**64 - 1
ZERO = bytes(16)

HTTP: tuple[Row, ...] = (
    Row("a gzip bomb", "http", lambda: gzipped(bytes(TOO_MUCH)), 413, PROTOBUF | packed("gzip")),
    Row("a zstd bomb", "http", lambda: zstandarded(bytes(TOO_MUCH)), 413, PROTOBUF | packed("zstd")),
    Row("a JSON bomb", "http", lambda: gzipped(b" " * TOO_MUCH), 413, JSON | packed("gzip")),
    Row("a body past the limit", "http", lambda: bytes(TOO_MUCH), 413),
    Row("half a gzip", "http", lambda: gzipped(recorded_call())[:-20], 400, PROTOBUF | packed("gzip")),
    Row("half a zstd", "http", lambda: zstandarded(recorded_call())[:-9], 400, PROTOBUF | packed("zstd")),
    Row("no gzip at all", "http", recorded_call, 400, PROTOBUF | packed("gzip")),
    Row("an unknown encoding", "http", recorded_call, 415, PROTOBUF | packed("br")),
    Row("an unknown content type", "http", recorded_call, 415, {"Content-Type": "text/plain"}),
    Row("a GET", "http", lambda: b"", 405, method="GET"),
    Row("another path", "http", recorded_call, 404, path="/v1/spans"),
    Row("protobuf as JSON", "http", recorded_call, 400, JSON),
    Row("JSON as protobuf", "http", lambda: otlp_json(), 400),
    Row("JSON that is cut off", "http", lambda: otlp_json()[:-5], 400, JSON),
    Row("JSON that is a list", "http", lambda: b"[]", 400, JSON),
    Row("JSON nested deeply", "http", lambda: b'{"resourceSpans":' + b"[" * 100_000, 400, JSON),
    Row("JSON with NaN", "http", lambda: otlp_json(name="N").replace(b'"N"', b"NaN"), 400, JSON),
    Row("a name that is a number", "http", lambda: otlp_json(traceId="5b" * 16, name=7), 200, JSON, spans=1),
    Row(
        "an enum by its name",
        "http",
        lambda: otlp_json(traceId="5c" * 16, kind="SPAN_KIND_SERVER"),
        200,
        JSON,
        spans=1,
    ),
    Row(
        "the year 9999",
        "http",
        lambda: otlp_json(traceId="5d" * 16, startTimeUnixNano=str(YEAR_9999)),
        200,
        JSON,
        spans=1,
    ),
    Row("a negative time", "http", lambda: otlp_json(traceId="5e" * 16, startTimeUnixNano="-1"), 200, JSON, spans=1),
    Row("snake_case", "http", lambda: otlp_json().replace(b"resourceSpans", b"resource_spans"), 400, JSON),
    Row("an id in base64", "http", lambda: otlp_json(spanId="q83vEjRWeJA="), 200, JSON, rejected=1),
    Row("an id that is too short", "http", lambda: otlp_json(traceId="abcd"), 200, JSON, rejected=1),
    Row(
        "a lone surrogate",
        "http",
        lambda: otlp_json(traceId="5a" * 16, name="SUR").replace(b"SUR", rb"\ud800"),
        200,
        JSON,
        spans=1,
    ),
)
GRPC: tuple[Row, ...] = (
    Row("a message past the limit", "grpc", lambda: bytes(TOO_MUCH), CODES.RESOURCE_EXHAUSTED),
    Row("a gzip bomb", "grpc", lambda: bytes(TOO_MUCH), CODES.RESOURCE_EXHAUSTED, packed("gzip")),
)
OTLP: tuple[Row, ...] = (
    *both("a request that is cut off", lambda: recorded_call()[:-7], good=False),
    *both("garbage", lambda: b"\xff\xfe\x00garbage", good=False),
    *both("a length past the end", lambda: b"\x0a\xff\xff\xff\xff\x0f", good=False),
    *both("a length past 64 bits", lambda: b"\x0a" + b"\xff" * 11, good=False),
    *both("a span that is garbage", lambda: otlp(b"\xff\xff"), good=False),
    *both("no ids", lambda: otlp(Span(name="x")), good=True, rejected=1),
    *both("ids of zeros", lambda: otlp(span(ZERO), span(span_id=bytes(8))), good=True, rejected=2),
    *both("ids of wrong lengths", lambda: otlp(span(b"x" * 15), span(span_id=b"y" * 9)), good=True, rejected=2),
    *both("one bad span among good ones", lambda: otlp(span(b"G" * 16), span(ZERO)), good=True, spans=1, rejected=1),
    *both("a million attributes", many_attributes, good=True, spans=1),
    *both("parents in a cycle", cycle, good=True, spans=3),
    *both(
        "a name that is no UTF-8",
        lambda: otlp(span(b"U" * 16).SerializeToString() + b"\x2a\x02\xff\xfe"),
        good=True,
        spans=1,
    ),
    *both(
        "the end of time, times past a signed integer, an end before its start",
        lambda: otlp(
            span(b"Y" * 16, b"a" * 8, start_time_unix_nano=2**63, end_time_unix_nano=LAST_NANO),
            span(b"Y" * 16, b"b" * 8, start_time_unix_nano=LAST_NANO, end_time_unix_nano=1),
        ),
        good=True,
        spans=2,
    ),
    *both("a span that the backend refuses", lambda: otlp(span(b"P" * 16, name=POISON)), good=True, spans=1),
)
INGEST: tuple[Row, ...] = (
    Row("nothing", "ingest", lambda: b"", 400, JSON),
    Row("no JSON", "ingest", lambda: b"{data: []}", 400, JSON),
    Row("JSON that is cut off", "ingest", lambda: data(span_item("trace_x", "s"))[:-3], 400, JSON),
    Row("a list", "ingest", lambda: orjson.dumps([span_item("trace_x", "s")]), 400, JSON),
    Row("no data", "ingest", lambda: b"{}", 400, JSON),
    Row("data that is no list", "ingest", lambda: b'{"data": {"object": "trace"}}', 400, JSON),
    Row("another port's traces", "ingest", lambda: b'{"traces": []}', 400, JSON),
    Row("JSON nested deeply", "ingest", lambda: b'{"data":' + b"[" * 100_000, 400, JSON),
    Row("a gzip bomb", "ingest", lambda: gzipped(bytes(TOO_MUCH)), 413, JSON | packed("gzip")),
    Row("half a gzip", "ingest", lambda: gzipped(data())[:-9], 400, JSON | packed("gzip")),
    Row("an unknown encoding", "ingest", lambda: data(), 415, JSON | packed("compress")),
    Row("a body past the limit", "ingest", lambda: b" " * TOO_MUCH, 413, JSON),
    Row("a GET", "ingest", lambda: b"", 405, method="GET"),
    Row("another path", "ingest", lambda: data(), 404, JSON, path="/v1/traces"),
    Row(
        "odd items among good ones",
        "ingest",
        lambda: data(None, 1, "x", [], {}, {"object": "trace"}, {"object": "trace.span"}, span_item("trace_1", "s")),
        204,
        JSON,
        spans=1,
    ),
    Row("NaN", "ingest", lambda: in_item(b"NaN"), 204, JSON, spans=1),
    Row("a number past a double", "ingest", lambda: in_item(b"1e999"), 204, JSON, spans=1),
    Row("an integer past 64 bits", "ingest", lambda: in_item(b"9" * 400), 204, JSON, spans=1),
    Row("a lone surrogate", "ingest", lambda: in_item(rb'"\ud800"'), 204, JSON, spans=1),
    Row("bytes that are no UTF-8", "ingest", lambda: in_item(b'"\xff\xfe"'), 204, JSON, spans=1),
    Row("a value nested deeply", "ingest", lambda: in_item(b"[" * 500 + b"]" * 500), 204, JSON, spans=1),
    Row(
        "ids of another kind",
        "ingest",
        lambda: data(span_item("", "s"), span_item("trace_2", "x" * 2000), span_item("trace_2", "", id=7)),
        # Nothing of it could be kept, and its sender should hear of that.
        400,
        JSON,
    ),
    Row(
        "a link that is malformed",
        "ingest",
        lambda: data({"object": "trace", "id": "trace_3", "metadata": {"trace_id": "xyz"}}, span_item("trace_3", "s")),
        204,
        JSON,
        spans=1,
    ),
    Row("parents in a cycle", "ingest", guest_cycle, 204, JSON, spans=3),
    Row(
        "times of every kind",
        "ingest",
        lambda: data(
            span_item("trace_4", "a", started_at="9999-12-31T23:59:59.999999Z", ended_at="10000-01-01T00:00:00Z"),
            span_item("trace_4", "b", started_at="0001-01-01T00:00:00Z", ended_at="-1"),
            span_item("trace_4", "c", started_at=-5, ended_at=1e300),
            span_item("trace_4", "d", started_at=None, ended_at={}),
            span_item("trace_4", "e", started_at="2026-11-23T10:00:01Z", ended_at="2026-11-23T10:00:00Z"),
        ),
        204,
        JSON,
        spans=5,
    ),
    Row(
        "a span with 900,000 keys",
        "ingest",
        lambda: data(span_item("trace_5", "s", span_data={"type": "new", **dict.fromkeys(map(str, range(900_000)))})),
        204,
        JSON,
        spans=1,
    ),
)

ACCEPTED = "grafter_receiver_accepted_spans_total"


@pytest.mark.parametrize("row", [*HTTP, *GRPC, *OTLP, *INGEST], ids=str)
async def test_bad_input_is_answered_and_costs_nobody_else(world: World, row: Row) -> None:
    """The promised answer, the spans that could be taken, and the next call whole."""
    before = (await world.counters()).get(ACCEPTED, 0)
    said = b""
    if row.door == "grpc":
        compressed = row.headers.get("Content-Encoding") == "gzip"
        compression = grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression
        answer: int | grpc.StatusCode
        answer, said = await world.export(row.body(), compression)
    else:
        door, path = {"http": ("otlp_http", "/v1/traces"), "ingest": ("openai", "/v1/traces/ingest")}[row.door]
        answer, said, headers = await world.post(door, row.path or path, row.body(), row.headers, row.method)
        if answer not in (200, 204):
            assert said, "a refusal says why"
            assert "internal" not in str(said)
        assert "Location" not in headers
    assert answer == row.answer
    if answer in (200, CODES.OK):
        assert rejected(said, row.headers) == row.rejected
    assert (await world.counters()).get(ACCEPTED, 0) - before == row.spans
    await world.good_call()


def rejected(said: bytes, headers: Mapping[str, str]) -> int:
    """What a partial success says."""
    if headers.get("Content-Type") == "application/json":
        return int(orjson.loads(said).get("partialSuccess", {}).get("rejectedSpans", 0))
    return ExportTraceServiceResponse.FromString(said).partial_success.rejected_spans


async def test_a_sender_that_leaves_half_way_costs_nobody(world: World) -> None:
    """A body that ends early is no request, whatever door it came to."""
    for door, path in (("otlp_http", "/v1/traces"), ("openai", "/v1/traces/ingest")):
        _, writer = await asyncio.open_connection("127.0.0.1", world.served.ports[door])
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        writer.write(head.encode() + b'{"data": [')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    await world.good_call()


async def test_one_trace_that_the_backend_refuses_takes_no_other_with_it(world: World) -> None:
    """Twenty traces at once, one of them refused for good: that one goes to the dead-letter box, the others arrive."""
    dead = (await world.counters()).get("grafter_dead_spans_total", 0)
    numbers = [bytes([0xA0, at]) * 8 for at in range(20)]
    names = [POISON if at == 7 else "fine" for at in range(20)]
    request = otlp(*(span(number, name=name) for number, name in zip(numbers, names, strict=True)))
    assert await world.export(request) == (CODES.OK, b"")
    for number, name in zip(numbers, names, strict=True):
        if name != POISON:
            await world.backend.whole(number, 1)
    while (await world.counters()).get("grafter_dead_spans_total", 0) == dead:
        await world.a_moment()
    assert (await world.counters())["grafter_dead_spans_total"] == dead + 1
    assert numbers[7] not in world.backend.ids


async def test_the_books_balance(world: World) -> None:
    """After all of the above nothing is held for ever, and every span that was taken is accounted for."""
    while (await world.counters())["grafter_held_spans"]:
        await world.a_moment()
    found = await world.counters()

    def total(*names: str) -> float:
        return sum(found.get(f"grafter_{name}_spans_total", 0.0) for name in names)

    assert total("receiver_accepted") >= 8 * world.good
    assert (
        total("receiver_accepted", "recovered", "synthetic")
        == total("exporter_sent", "dead", "dropped", "merged") + found["grafter_held_spans"]
    )
    assert total("exporter_sent") == sum(map(len, world.backend.ids.values()))
    assert total("resent") == 0


async def test_a_full_store_says_when_to_come_again(tmp_path: Path) -> None:
    """Past ``max_bytes`` every door refuses with a hint, what was taken comes out, and then the doors take again."""
    async with (
        serving(tmp_path, max_bytes="8KiB", max_trace_bytes="8KiB") as (served, backend),
        aiohttp.ClientSession() as session,
    ):
        world = World(served, backend, session)
        # Its root is in another process, so that it is held for a while.
        held = span(b"H" * 16, parent_span_id=b"p" * 8, flags=FLAG_HAS_IS_REMOTE | FLAG_IS_REMOTE, name="x" * 7000)
        assert await world.export(otlp(held)) == (CODES.OK, b"")
        more = otlp(span(b"I" * 16, name="y" * 2000))
        status, _, headers = await world.post("otlp_http", "/v1/traces", more, PROTOBUF)
        assert (status, int(headers["Retry-After"]) >= 1) == (503, True)
        item = data(span_item("trace_full", "s", span_data={"type": "custom", "name": "x" * 2000}))
        status, _, headers = await world.post("openai", "/v1/traces/ingest", item, JSON)
        assert (status, int(headers["Retry-After"]) >= 1) == (503, True)
        assert (await world.export(more))[0] is CODES.UNAVAILABLE
        await backend.whole(b"H" * 16, 1)
        while (await world.export(more))[0] is CODES.UNAVAILABLE:
            await world.a_moment()
        await backend.whole(b"I" * 16, 1)
