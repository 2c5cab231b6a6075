"""The hops of docs/hops as programs, over the real thing: each in the form that fails, and with the line that mends it.

``broken`` is the form without the line. Every service says whose call it works on, as an app does that wants to find
it.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import nats
import redis
import uvicorn
from bullmq import Job, Queue, Worker
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.trace import SpanKind
from otel_instrumentation_nats import NatsInstrumentor
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from twilio.request_validator import RequestValidator
from websockets.asyncio.client import connect

from grafter_propagation import (
    bullmq_job,
    bullmq_options,
    call_context,
    continue_call,
    end_call,
    first_message,
    inject,
    inject_job,
    read_first_message,
)
from grafter_propagation.nats import received
from grafter_propagation.telephony import client_state, read_client_state, sip_uri, twilio_ended, twilio_webhook
from tests.doctor.services import SID, Services
from tests.propagation.nats_server import serving
from tests.store.redis.servers import server

IDS = {"call.id": SID}
TOKEN = "12345"


async def over_nats(app: Services, directory: Path, *, broken: bool) -> None:
    """An iterator, beside the instrumentation."""
    instrumentor = NatsInstrumentor()
    instrumentor.instrument(tracer_provider=app.provider("gateway"))
    try:
        async with serving(directory) as url:
            client = await nats.connect(url)
            orders = await client.subscribe("desk.orders")
            with app.tracer("gateway").start_as_current_span("callsphere.call", attributes=IDS):
                await client.publish("desk.orders", b"7")
            message = await orders.next_msg(timeout=60)
            desk = app.tracer("desk")
            carried = nullcontext() if broken else received(message, tracer=desk)
            with carried, desk.start_as_current_span("look up 7", attributes=IDS):
                pass
            await client.close()
    finally:
        instrumentor.uninstrument()


async def over_redis(app: Services, directory: Path, *, broken: bool) -> None:
    """A list, with a worker whose span is as the conventions have it."""
    with server() as running, redis.Redis(port=running.port) as db:
        with app.tracer("gateway").start_as_current_span("callsphere.call", attributes=IDS):
            job = {"order": 7}
            db.rpush("jobs", json.dumps(job if broken else inject_job(job)))
        popped: Any = db.blpop(["jobs"], timeout=60)
        job = json.loads(popped[1])
        desk = app.tracer("desk")
        attributes = {**IDS, "messaging.system": "redis", "messaging.destination.name": "jobs"}
        if broken:
            with desk.start_as_current_span("process jobs", kind=SpanKind.CONSUMER, attributes=attributes):
                pass
        else:
            with continue_call(job, "process jobs", attributes=attributes, tracer=desk):
                pass


async def over_bullmq(app: Services, directory: Path, *, broken: bool) -> None:
    """Queue and worker in Python."""
    with server() as running:
        connection = {"connection": f"redis://127.0.0.1:{running.port}"}
        queue = Queue("orders", connection)
        with app.tracer("gateway").start_as_current_span("callsphere.call", attributes=IDS):
            await queue.add("look_up", {"order": 7}, {} if broken else bullmq_options())
        await queue.close()
        done, desk = asyncio.Event(), app.tracer("desk")

        async def look_up(job: Job, _token: str) -> None:
            if broken:
                attributes = {**IDS, "messaging.system": "bullmq", "bullmq.job.id": str(job.id)}
                with desk.start_as_current_span("process orders", kind=SpanKind.CONSUMER, attributes=attributes):
                    done.set()
            else:
                with bullmq_job(job, tracer=desk) as span:
                    assert span is not None
                    span.set_attributes(IDS)
                    done.set()

        worker = Worker("orders", look_up, connection)
        await asyncio.wait_for(done.wait(), 30)
        await worker.close()


@asynccontextmanager
async def served(app: Services, service: str, *routes: Route | WebSocketRoute) -> AsyncIterator[str]:
    """An ASGI app behind its instrumentation, ``host:port``."""
    asgi = OpenTelemetryMiddleware(
        Starlette(routes=list(routes)), tracer_provider=app.provider(service), exclude_spans=["send", "receive"]
    )
    running = uvicorn.Server(uvicorn.Config(asgi, log_level="error", ws="websockets-sansio"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(running.serve(sockets=[listening]))
            yield f"{host}:{port}"
            running.should_exit = True


def say_whose() -> None:
    """On the span of the request, as handlers do."""
    trace.get_current_span().set_attributes(IDS)


async def over_websocket(app: Services, directory: Path, *, broken: bool) -> None:
    """A browser's, whose upgrade carries nothing: the page's first message does."""
    desk = app.tracer("desk")

    async def media(client: WebSocket) -> None:
        await client.accept()
        first = await client.receive_text()
        if broken:
            say_whose()
        else:
            with continue_call(read_first_message(first), "media", kind="server", attributes=IDS, tracer=desk):
                pass
        await client.close()

    async with served(app, "desk", WebSocketRoute("/media", media)) as address:
        with app.tracer("page").start_as_current_span("callsphere.call", attributes=IDS):
            async with connect(f"ws://{address}/media") as client:
                await client.send("hello" if broken else first_message())
                await client.wait_closed()


async def over_http(app: Services, directory: Path, *, broken: bool) -> None:
    """A client that is traced and hands nothing on."""

    async def tool(_request: Request) -> Response:
        say_whose()
        return Response("7")

    async with served(app, "calendar", Route("/book", tool, methods=["POST"])) as address, httpx.AsyncClient() as http:
        gateway, url = app.tracer("gateway"), f"http://{address}/book"
        attributes = {"http.request.method": "POST", "url.full": url}
        with (
            gateway.start_as_current_span("callsphere.call", attributes=IDS),
            gateway.start_as_current_span("POST", kind=SpanKind.CLIENT, attributes=attributes),
        ):
            await http.post(url, headers={} if broken else inject())


async def over_twilio(app: Services, directory: Path, *, broken: bool) -> None:
    """Voice webhook and status callback, signed as Twilio signs."""
    gateway, validator = app.tracer("gateway"), RequestValidator(TOKEN)

    async def webhook(request: Request) -> Response:
        form = {key: str(value) for key, value in (await request.form()).items()}
        if not validator.validate(str(request.url), form, request.headers["x-twilio-signature"]):
            return Response(status_code=403)
        if broken:
            say_whose()
        elif form["CallStatus"] == "ringing":
            with twilio_webhook(form, tracer=gateway):
                pass
        else:
            twilio_ended(form, tracer=gateway)
        return Response("<Response/>")

    routes = [Route("/voice", webhook, methods=["POST"]), Route("/status", webhook, methods=["POST"])]
    async with served(app, "gateway", *routes) as address, httpx.AsyncClient() as http:
        for path, status in (("voice", "ringing"), ("status", "completed")):
            form = {"CallSid": SID, "CallStatus": status, "CallDuration": "1"}
            url = f"http://{address}/{path}"
            headers = {
                "User-Agent": "TwilioProxy/1.1",
                "X-Twilio-Signature": validator.compute_signature(url, form),
            }
            assert (await http.post(url, data=form, headers=headers)).status_code == 200


async def over_telnyx(app: Services, directory: Path, *, broken: bool) -> None:
    """Three of its webhooks: the answer to each sets the state that the next one brings, the last writes the root."""
    gateway, given, begun = app.tracer("gateway"), "", time.time_ns()

    async def webhook(request: Request) -> Response:
        nonlocal given
        payload = (await request.json())["data"]["payload"]
        if broken:
            say_whose()
        else:
            place, _ = read_client_state(payload["client_state"])
            source = place or call_context(payload["call_session_id"])
            with continue_call(source, "webhook", kind="server", attributes=IDS, tracer=gateway):
                given = client_state()
        return Response()

    async with (
        served(app, "gateway", Route("/telnyx", webhook, methods=["POST"])) as address,
        httpx.AsyncClient() as http,
    ):
        for event in ("call.initiated", "call.answered", "call.hangup"):
            payload = {"call_session_id": SID, "client_state": given}
            body = {"data": {"event_type": event, "payload": payload}}
            await http.post(f"http://{address}/telnyx", json=body, headers={"User-Agent": "telnyx-webhooks"})
    if not broken:
        assert end_call(SID, start=begun, end=time.time_ns(), tracer=gateway)


async def over_sip(app: Services, directory: Path, *, broken: bool) -> None:
    """An INVITE to OpenAI, and OpenAI's webhook of it."""
    voice = app.tracer("voice")

    async def webhook(request: Request) -> Response:
        headers = (await request.json())["data"]["sip_headers"]
        if broken:
            say_whose()
        else:
            with continue_call(headers, "accept", kind="server", attributes=IDS, tracer=voice):
                pass
        return Response()

    async with (
        served(app, "voice", Route("/openai", webhook, methods=["POST"])) as address,
        httpx.AsyncClient() as http,
    ):
        with app.tracer("gateway").start_as_current_span("callsphere.call", attributes=IDS):
            uri = "sip:proj_1@sip.api.openai.com;transport=tls"
            uri = uri if broken else sip_uri(uri)
        sent: list[Mapping[str, str]] = [{"name": "From", "value": "<sip:+15005550006@pstn.twilio.com>"}]
        if "?" in uri:
            name, value = uri.partition("?")[2].split("=")
            sent.append({"name": name, "value": value})
        body = {"type": "realtime.call.incoming", "data": {"call_id": "rtc_1", "sip_headers": sent}}
        agent = "OpenAI/1.0 (+https://platform.openai.com/docs/webhooks)"
        await http.post(f"http://{address}/openai", json=body, headers={"User-Agent": agent})
