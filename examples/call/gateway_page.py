"""The gateway's part for the page by which a caller goes on in a browser: WebRTC to OpenAI, its offer passed on."""

import json
import os
from html import escape
from pathlib import Path

import tracing
from aiohttp import web
from opentelemetry import trace

from grafter_propagation import call_context, continue_call, observe_sdp_answer, realtime_tracing, trace_metadata

OPENAI = os.environ["OPENAI"]
KEY = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
tracer = trace.get_tracer("gateway")
open_calls: dict[str, str] = {}
"""OpenAI's id of each call's page."""


async def join(request: web.Request) -> web.Response:
    """The page by which a caller goes on in a browser. It says under what its media path hangs: the call's root."""
    call = request.match_info["call"]
    page = (Path(__file__).parent / "page.html").read_text("utf-8")
    given = {"call": call, "endpoint": os.environ["OTLP_HTTP"], "traceparent": call_context(call).traceparent}
    given["ice"] = json.loads(os.environ.get("ICE_SERVERS", "[]"))
    return web.Response(text=page.replace("{{given}}", escape(json.dumps(given))), content_type="text/html")


async def sdp(request: web.Request) -> web.Response:
    """The page's offer: a key is minted that says where the session belongs, the offer goes to OpenAI under it, and the
    answer's ``Location`` tells the call's id, which grafter needs to listen from beside."""
    call, http = request.match_info["call"], request.app["http"]
    with (
        continue_call(request.headers, "POST /sdp", kind="server"),
        tracer.start_as_current_span("gen_ai.realtime.session", kind=trace.SpanKind.CLIENT),
    ):
        session = {"type": "realtime", "model": "gpt-realtime", "tracing": realtime_tracing("Clinic page", call=call)}
        async with http.post(f"{OPENAI}/v1/realtime/client_secrets", json={"session": session}, headers=KEY) as minted:
            key = {"Authorization": f"Bearer {(await minted.json())['value']}", "Content-Type": "application/sdp"}
        async with http.post(f"{OPENAI}/v1/realtime/calls", data=await request.text(), headers=key) as answer:
            rtc = open_calls[call] = observe_sdp_answer(answer.headers) or ""
            recorder = {"call_id": rtc, "metadata": trace_metadata()}
            await tracing.tell(http, "/v1/realtime/calls", recorder)
            return web.Response(text=await answer.text(), content_type="application/sdp")


async def left(request: web.Request) -> web.Response:
    """The page was closed."""
    call = open_calls.pop(request.match_info["call"])
    await request.app["http"].post(f"{OPENAI}/v1/realtime/calls/{call}/hangup", headers=KEY)
    return web.Response(status=204)


routes = [web.get("/join/{call}", join), web.post("/sdp/{call}", sdp), web.post("/left/{call}", left)]
