"""Hops that a kept library carries: what docs/hops says of them holds, together with what grafter's helpers do."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import pytest
import uvicorn
from nats.aio.msg import Msg
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from otel_instrumentation_nats import NatsInstrumentor
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from grafter_propagation import inject
from grafter_propagation.nats import received
from tests.e2e.tree import outline
from tests.propagation.nats_server import serving
from tests.propagation.spans import Spans


@pytest.fixture
async def address(spans: Spans) -> AsyncIterator[str]:
    """An ASGI app behind the instrumentation, ``host:port``."""

    async def media(client: WebSocket) -> None:
        await client.accept()
        with spans.span("answer"):
            await client.send_text(await client.receive_text())
        await client.close()

    async def tool(request: Request) -> Response:
        with spans.span("answer"):
            return Response("7")

    app = Starlette(routes=[WebSocketRoute("/media", media), Route("/tool", tool)])
    traced = OpenTelemetryMiddleware(app, tracer_provider=spans.provider, exclude_spans=["send", "receive"])
    server = uvicorn.Server(uvicorn.Config(traced, log_level="error", ws="websockets-sansio"))
    # Listening before it serves, so that nobody has to wait for it.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        async with asyncio.TaskGroup() as running:
            running.create_task(server.serve(sockets=[listening]))
            yield f"{host}:{port}"
            server.should_exit = True


async def test_the_upgrade_of_a_websocket(address: str, spans: Spans) -> None:
    """ASGI: the span is the upgrade, and the handler's life is under it."""
    with spans.span("call"):
        async with connect(f"ws://{address}/media", additional_headers=inject()) as client:
            await client.send("7")
            assert await client.recv() == "7"
            await client.wait_closed()
    assert spans.text() == outline("""
        call [internal]
          HTTP /media [server]
            answer [internal]
    """)


async def test_a_request_over_http(address: str, spans: Spans) -> None:
    """ASGI: as any request."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with spans.span("call"):
        traceparent = inject()["traceparent"]
        head = f"GET /tool HTTP/1.1\r\nHost: {address}\r\nTraceparent: {traceparent}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        assert (await reader.read()).endswith(b"7")
    writer.close()
    assert spans.text() == outline("""
        call [internal]
          GET /tool [server]
            answer [internal]
    """)


@pytest.fixture
def traced_nats(spans: Spans) -> Iterator[None]:
    """nats-py with its instrumentation."""
    instrumentor = NatsInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider)
    yield
    instrumentor.uninstrument()


async def test_a_callback_of_nats(traced_nats: None, spans: Spans, tmp_path: Path) -> None:
    """Its instrumentation carries a callback's message by itself."""
    done = asyncio.Event()

    async def answer(message: Msg) -> None:
        with spans.span("answer"):
            done.set()

    async with serving(tmp_path) as url:
        client = await nats.connect(url)
        await client.subscribe("desk.orders", cb=answer)
        with spans.span("call"):
            await client.publish("desk.orders", b"7")
        await asyncio.wait_for(done.wait(), 10)
        await client.close()
    assert spans.text() == outline("""
        call [internal]
          desk.orders send [producer]
            desk.orders receive [consumer]
              answer [internal]
    """)


async def test_an_iterator_of_nats_beside_its_instrumentation(traced_nats: None, spans: Spans, tmp_path: Path) -> None:
    """It makes a span of handing the message out; the work is under ``received``, and both under the sender."""
    async with serving(tmp_path) as url:
        client = await nats.connect(url)
        orders = await client.subscribe("desk.orders")
        with spans.span("call"):
            await client.publish("desk.orders", b"7")
        with received(await orders.next_msg(timeout=60), tracer=spans.tracer), spans.span("answer"):
            pass
        await client.close()
    assert spans.text() == outline("""
        call [internal]
          desk.orders send [producer]
            desk.orders receive [consumer]
            process desk.orders [consumer]
              answer [internal]
    """)
