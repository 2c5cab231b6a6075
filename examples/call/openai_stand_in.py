"""A stand-in of OpenAI's Realtime API on this machine: the events' real names and shapes, and nobody's key.

A call comes to it in one of three ways: by a WebSocket of the app's own, by an offer of WebRTC that the gateway passes
on, or by SIP, of which it tells the app and grafter by a signed webhook. To the last two grafter's recorder listens
from beside, on the sideband. ``python openai_stand_in.py PORT WEBHOOK…``
"""

import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import web
from openai_conversation import Conversation, Json, event, numbers
from standardwebhooks import Webhook

PHONE = (400, ("find_patient", "check_insurance"), 3000, ("book_slot",), 500, 300)
"""The greeting; two tools at once; their answer, which the caller interrupts; a slow tool; its answer; good-bye."""
GREETING = (600,)


@dataclass
class Call:
    """One by WebRTC or SIP."""

    asked: Json
    """The session's settings, as the app gave them."""
    greeted: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


keys: dict[str, Json] = {}
"""The settings of a session by the short-lived key that was minted for it."""
calls: dict[str, Call] = {}
offers: asyncio.Queue[Json] = asyncio.Queue()
answers: dict[str, asyncio.Future[str]] = {}


async def realtime(request: web.Request) -> web.WebSocketResponse:
    """``?model=…``: a client that talks. ``?call_id=…``: one that listens to a call."""
    socket = web.WebSocketResponse()
    call = calls.get(request.query.get("call_id", ""))
    if "call_id" in request.query and call is None:
        raise web.HTTPNotFound
    await socket.prepare(request)
    async with asyncio.TaskGroup() as group:
        talk = Conversation(socket.send_json, group, iter(GREETING if call else PHONE))
        if call is not None:
            talk.plays = True
            talk.session |= {"tracing": call.asked.get("tracing")}
        await socket.send_json(event("session.created", session=talk.session))
        if call is not None:
            # OpenAI would not wait for a listener; here every run shows the same.
            await talk.respond()
            call.greeted.set()
            await call.over.wait()
        else:
            async for message in socket:
                await talk.hear(json.loads(message.data))
    return socket


async def secret(request: web.Request) -> web.Response:
    """A key for one session, whose settings are fixed by who mints it."""
    key = f"ek_{next(numbers)}"
    keys[key] = (await request.json())["session"]
    return web.json_response({"value": key, "session": keys[key]})


async def offer(request: web.Request) -> web.Response:
    """An offer of WebRTC. The ``Location`` is the only place where the call's id is told."""
    call = f"rtc_{next(numbers)}{os.urandom(8).hex()}"
    answers[call] = asyncio.get_running_loop().create_future()
    offers.put_nowait({"call": call, "sdp": await request.text()})
    answer = await answers[call]
    calls[call] = Call(keys[request.headers["Authorization"].removeprefix("Bearer ")])
    return web.Response(status=201, text=answer, headers={"Location": f"/v1/realtime/calls/{call}"})


async def accept(request: web.Request) -> web.Response:
    """The app takes a call that came by SIP."""
    calls[request.match_info["call"]] = Call(await request.json())
    return web.Response()


async def hang_up(request: web.Request) -> web.Response:
    """The app, or a SIP carrier's BYE, ends a call; here after the greeting, so that every run shows the same."""
    call = calls[request.match_info["call"]]
    await call.greeted.wait()
    call.over.set()
    return web.Response()


async def invite(request: web.Request) -> web.Response:
    """An INVITE, as a SIP carrier would send it: the address' headers become the INVITE's."""
    asked = await request.json()
    headers = {"From": asked["from"], "To": asked["to"], "Call-ID": asked["sip_call_id"]}
    headers |= dict(parse_qsl(asked["uri"].partition("?")[2]))
    call = f"rtc_{next(numbers)}{os.urandom(8).hex()}"
    data = {"call_id": call, "sip_headers": [{"name": name, "value": value} for name, value in headers.items()]}
    now = datetime.now(UTC)
    told = {"object": "event", "id": f"evt_{call}", "type": "realtime.call.incoming", "data": data}
    body = json.dumps(told | {"created_at": int(now.timestamp())})
    signed = {"webhook-id": f"wh_{call}", "webhook-timestamp": str(int(now.timestamp()))}
    signed["webhook-signature"] = Webhook(os.environ["OPENAI_WEBHOOK_SECRET"]).sign(signed["webhook-id"], now, body)
    async with aiohttp.ClientSession(headers=signed) as session:
        for url in sys.argv[2:]:
            async with session.post(url, data=body, raise_for_status=True):
                pass
    return web.json_response({"call_id": call})


async def peer(_: web.Request) -> web.FileResponse:
    """Its end of a WebRTC call is a page in a browser too,"""
    return web.FileResponse(Path(__file__).with_name("openai_peer.html"))


async def next_offer(_: web.Request) -> web.Response:
    """which asks here for offers"""
    return web.json_response({**await offers.get(), "ice": json.loads(os.environ.get("ICE_SERVERS", "[]"))})


async def answered(request: web.Request) -> web.Response:
    """and answers them here."""
    answers.pop(request.match_info["call"]).set_result(await request.text())
    return web.Response()


app = web.Application()
app.add_routes(
    [
        web.get("/v1/realtime", realtime),
        web.post("/v1/realtime/client_secrets", secret),
        web.post("/v1/realtime/calls", offer),
        web.post("/v1/realtime/calls/{call}/accept", accept),
        web.post("/v1/realtime/calls/{call}/hangup", hang_up),
        web.post("/sip", invite),
        web.post("/sip/{call}/bye", hang_up),
        web.get("/peer", peer),
        web.get("/peer/offer", next_offer),
        web.post("/peer/{call}", answered),
    ]
)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, shutdown_timeout=0.2)
