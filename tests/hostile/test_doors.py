"""What small requests may cost: memory at most four times what they unpack to, inside one budget, and no standstill.

Each is an attempt that once cost a gigabyte or many seconds. ``GRAFTER_HOSTILE=1`` prints what each costs.
"""

import asyncio
import gzip
import os
import time
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter.receiver.in_flight import BUDGET_BYTES
from tests.hostile.watch import MIB, Cost, running, watched

JSON = {"Content-Type": "application/json"}
PACKED = {**JSON, "Content-Encoding": "gzip"}
PROTOBUF = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
SIZES = [pytest.param(3, id="small"), pytest.param(40, id="large", marks=pytest.mark.slow)]
"""MiB that a body unpacks to."""
STANDSTILL = 0.25
# What other threads compute meanwhile counts too, and other tests run beside this one; the promise is STANDSTILL.
BUSY = 2 * STANDSTILL

Send = Callable[[str, bytes, dict[str, str]], Awaitable[int]]


def shown(what: str, cost: Cost) -> Cost:
    if os.environ.get("GRAFTER_HOSTILE"):
        print(f"\n{what}: {cost}; answers {sorted(set(map(str, cost.answers)))}")
    return cost


async def attacked(home: Path, what: str, attack: Callable[[Any, Send], Awaitable[list[Any]]], **settings: Any) -> Cost:
    """Run one attack against a grafter of its own; afterwards it takes and answers as ever."""
    async with running(home, **settings) as (grafter, pid), aiohttp.ClientSession() as session:

        async def send(url: str, body: bytes, headers: dict[str, str]) -> int:
            async with session.post(url, data=BytesIO(body), headers=headers) as answer:
                await answer.read()
                return answer.status

        assert await send(f"{grafter.otlp_http}/v1/traces", b"{}", JSON) == 200
        with watched(pid, grafter.health) as cost:
            cost.answers = await attack(grafter, send)
        assert await send(f"{grafter.otlp_http}/v1/traces", b"{}", JSON) == 200
    return shown(what, cost)


def of(size: int, item: bytes) -> bytes:
    return b",".join([item] * (size * MIB // (len(item) + 1)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "item", [b"[]", b"{}", b"[[[[[[]]]]]]", b'{"a":{"b":1}}'], ids=["lists", "maps", "nested", "items"]
)
@pytest.mark.parametrize("door", ["otlp", "ingest", "events"])
async def test_json_of_many_values(tmp_path: Path, door: str, item: bytes, size: int) -> None:
    """Some kilobytes of gzip that are millions of JSON values: bounded before they are read, and read in turns."""
    start = {"otlp": b'{"resourceSpans":[', "ingest": b'{"data":[', "events": b'{"call":"c","events":['}[door]
    body = gzip.compress(start + of(size, item) + b"]}", 1)

    async def attack(grafter: Any, send: Send) -> list[int]:
        base = grafter.ingest.removesuffix("/v1/traces/ingest")
        url = {
            "otlp": f"{grafter.otlp_http}/v1/traces",
            "ingest": grafter.ingest,
            "events": f"{base}/v1/realtime/events",
        }[door]
        return [await send(url, body, PACKED)]

    cost = await attacked(tmp_path, f"{door} {item.decode()} {size} MiB ({len(body) >> 10} KiB gzip)", attack)
    assert cost.memory < BUDGET_BYTES
    assert cost.standstill < BUSY


@pytest.mark.parametrize(
    ("item", "size"),
    [
        pytest.param('{"key":"a"}', 2, id="keys"),
        pytest.param('{"key":"a"}', 5, id="keys-large", marks=pytest.mark.slow),
        pytest.param('{"k%06d":1}', 5, id="new_keys", marks=pytest.mark.slow),
        pytest.param('{"spanId":""}', 5, id="ids", marks=pytest.mark.slow),
    ],
)
async def test_json_as_dense_as_is_taken(tmp_path: Path, item: str, size: int) -> None:
    """Six documents at once, each with as many values as its bytes may have: what they take counts before they are
    read, so that all of them together keep to the budget."""
    start = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":['
    many = size * MIB // len(item % 1 if "%" in item else item)
    items = b",".join([(item % at if "%" in item else item).encode() for at in range(many)])
    body = gzip.compress(start + items + b"]}]}]}]}", 1)

    async def attack(grafter: Any, send: Send) -> list[int]:
        return list(await asyncio.gather(*(send(f"{grafter.otlp_http}/v1/traces", body, PACKED) for _ in range(6))))

    cost = await attacked(tmp_path, f"6 documents of {size} MiB of {item} ({len(body) >> 10} KiB gzip)", attack)
    assert set(cost.answers) <= {200, 400, 413, 503}
    assert cost.memory < BUDGET_BYTES + 64 * MIB
    assert cost.standstill < BUSY


@pytest.mark.parametrize("size", SIZES)
async def test_many_bodies_at_once(tmp_path: Path, size: int) -> None:
    """Bodies that unpack to far more than they are: what is over the budget is refused with a hint, 503. One is
    unpacked at a time: put together at once they let nothing else run, and took twice the memory."""
    filler = ExportTraceServiceRequest()
    filler.resource_spans.add().schema_url = "x" * (size * MIB)
    body = gzip.compress(filler.SerializeToString(), 1)

    async def attack(grafter: Any, send: Send) -> list[int]:
        return list(await asyncio.gather(*(send(f"{grafter.otlp_http}/v1/traces", body, PROTOBUF) for _ in range(30))))

    cost = await attacked(tmp_path, f"30 bodies of {size} MiB ({len(body) >> 10} KiB gzip)", attack)
    assert set(cost.answers) <= {200, 503}
    assert cost.memory < BUDGET_BYTES + 64 * MIB
    assert cost.standstill < STANDSTILL


@pytest.mark.parametrize("size", SIZES)
async def test_a_wrong_token_is_refused_before_the_message_is_read(tmp_path: Path, size: int) -> None:
    """Twenty calls with a wrong token cost no memory, whatever their messages unpack to."""
    message = bytes(size * MIB)

    async def attack(grafter: Any, _send: Send) -> list[Any]:
        options = [("grpc.max_send_message_length", 64 * MIB), ("grpc.enable_http_proxy", 0)]
        channel = grpc.aio.insecure_channel(grafter.otlp_grpc, options=options, compression=grpc.Compression.Gzip)
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        calls = [export(message, metadata=(("authorization", "Bearer wrong"),)) for _ in range(20)]
        async with channel:
            return [await call.code() for call in calls]

    def with_tokens(path: Path) -> None:
        text = path.read_text()
        path.write_text(text.replace("      grpc:\n", "      grpc:\n        tokens: [right]\n", 1))

    async with running(tmp_path, with_tokens) as (grafter, pid):
        with watched(pid, grafter.health) as cost:
            cost.answers = await attack(grafter, None)  # type: ignore[arg-type]
    shown(f"20 calls of {size} MiB with a wrong token", cost)
    assert set(cost.answers) == {grpc.StatusCode.UNAUTHENTICATED}
    assert cost.memory < 32 * MIB
    assert cost.standstill < BUSY


async def test_bodies_that_never_end(tmp_path: Path) -> None:
    """Declared bytes count before they come: of sixteen large bodies that stop half way some are refused at once."""

    async def attack(grafter: Any, _send: Send) -> list[Any]:
        host, port = grafter.otlp_http.removeprefix("http://").split(":")
        head = "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n"
        head += f"Content-Length: {60 * MIB}\r\n\r\n"
        writers = []
        answers = []
        for _ in range(16):
            reader, writer = await asyncio.open_connection(host, int(port))
            writers.append(writer)
            writer.write(head.encode() + bytes(2 * MIB))
            try:
                answers.append((await asyncio.wait_for(reader.readline(), 0.5)).split()[1:2])
            except (TimeoutError, ConnectionError):
                answers.append("waits")
        for writer in writers:
            writer.close()
        return answers

    cost = await attacked(tmp_path, "16 unfinished bodies of 60 MiB", attack)
    assert cost.answers.count([b"503"]) >= 12
    assert cost.memory < 64 * MIB


@pytest.mark.parametrize("size", [3, 15])
async def test_an_unsigned_webhook(tmp_path: Path, size: int) -> None:
    """A body that nobody signed costs its bytes twice while it is put together, and no copies more."""
    body = ('{"type":"' + "ü" * (size * MIB // 2) + '"}').encode()
    headers = {**JSON, "webhook-id": "w", "webhook-signature": "v1,AAAA"}

    async def attack(grafter: Any, send: Send) -> list[int]:
        headers["webhook-timestamp"] = str(time.time_ns() // 10**9)
        return [await send(grafter.webhooks, body, headers) for _ in range(3)]

    projects = {"default": {"webhook_secrets": ["whsec_c2VjcmV0c2VjcmV0"]}}
    cost = await attacked(tmp_path, f"an unsigned webhook of {size} MiB", attack, openai={"projects": projects})
    assert set(cost.answers) == {400}
    assert cost.memory < 4 * size * MIB + 8 * MIB


async def test_a_tool_result_of_quotes(tmp_path: Path) -> None:
    """A tool result that only looks like a Python literal holds nobody up: 17 KB took 15 s."""
    output = "{" + "'\\" * 8000
    span = {"object": "trace.span", "id": "s", "trace_id": "t", "span_data": {"type": "function", "output": output}}
    calls = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": output}}]}
    chat = {**span, "id": "g", "span_data": {"type": "generation", "output": [calls]}}
    trace = {"object": "trace", "id": "t", "workflow_name": "w"}
    body = orjson.dumps({"data": [trace, span, chat]})

    def with_content(path: Path) -> None:
        path.write_text(path.read_text().replace("  graft:\n", "  graft:\n    content: full\n", 1))

    async def left(session: aiohttp.ClientSession) -> bool:
        return (await grafter.counters(session))["grafter_released_traces_total"] == 1

    async with running(tmp_path, with_content, wait={"for_guest": "500ms"}) as (grafter, pid):
        with watched(pid, grafter.health) as cost:
            async with aiohttp.request("POST", grafter.ingest, data=body, headers=JSON) as answer:
                cost.answers = [answer.status]
            await grafter.until(left, "its trace to have left")
    shown("a tool result of 16 KB of quotes", cost)
    assert cost.answers == [204]
    assert cost.standstill < BUSY


async def test_no_page_posts_to_the_openai_door(tmp_path: Path) -> None:
    """A page of any web site, or one whose name was rebound to this machine, starts no recorder and stores nothing."""
    plain = {"Content-Type": "text/plain"}
    foreign = [{"Origin": "https://page.example"}, {"Origin": "null"}, {"Host": "rebound.example:4319"}]
    async with running(tmp_path) as (grafter, _pid), aiohttp.ClientSession() as session:
        base = grafter.ingest.removesuffix("/v1/traces/ingest")
        for path, body in (
            ("/v1/traces/ingest", b'{"data":[]}'),
            ("/v1/realtime/calls", b'{"call_id":"rtc_1"}'),
            ("/v1/realtime/events", b'{"call":"c","events":[]}'),
        ):
            for headers in foreign:
                async with session.post(base + path, data=body, headers={**plain, **headers}) as answer:
                    assert (path, headers, answer.status) == (path, headers, 403)
            async with session.post(base + path, data=body, headers=JSON) as answer:
                assert answer.status != 403
