"""The gateway's part for calls that come by Telnyx and go to OpenAI by SIP: Telnyx' webhooks, and OpenAI's."""

import os
from datetime import datetime
from typing import Any

import aiohttp
import tracing
from aiohttp import web
from standardwebhooks import Webhook

from grafter_propagation import call_context, continue_call, end_call, realtime_tracing
from grafter_propagation.telephony import client_state, read_client_state, sip_uri

OPENAI, TELNYX = os.environ["OPENAI"], os.environ["TELNYX"]
KEY = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
OPENAI_SIP = "sip:proj_1@sip.api.openai.com;transport=tls"
seen: set[str] = set()
"""Telnyx' events that were worked on. With more than one gateway: in Redis."""


async def telnyx(request: web.Request) -> web.Response:
    """Telnyx' webhooks, repeated and in any order. (Its signature, ``telnyx-signature-ed25519``, is left out here.)"""
    event: dict[str, Any] = (await request.json())["data"]
    if event["id"] not in seen:
        seen.add(event["id"])
        try:
            await happened(request.app["http"], event["event_type"], event["payload"])
        except BaseException:
            # Telnyx will send it again.
            seen.discard(event["id"])
            raise
    return web.Response()


async def happened(http: aiohttp.ClientSession, kind: str, payload: dict[str, Any]) -> None:
    """One event. Until the app has given a ``client_state`` the session's id says where the call's root is; then the
    state names a span."""
    session = payload["call_session_id"]
    if kind == "call.hangup":
        start, end = (round(datetime.fromisoformat(payload[f"{at}_time"]).timestamp() * 1e9) for at in ("start", "end"))
        end_call(session, start=start, end=end, attributes={"call.status": payload["hangup_cause"]})
        return
    place, _ = read_client_state(payload.get("client_state"))
    name = "sip.invite" if kind == "call.initiated" else kind
    with continue_call(place or call_context(session), name, kind="server", attributes={"call.id": session}):
        if kind == "call.initiated":
            call = {"ids": {"telnyx": session}, "trace_id": call_context(session).trace_id}
            await tracing.tell(http, "/api/calls", call | {key: payload[key] for key in ("from", "to")})
            actions = f"{TELNYX}/v2/calls/{payload['call_control_id']}/actions"
            await http.post(f"{actions}/answer", json={"client_state": client_state()})
            await http.post(f"{actions}/transfer", json={"client_state": client_state(), "to": sip_uri(OPENAI_SIP)})


async def openai(request: web.Request) -> web.Response:
    """OpenAI tells of a call that came by SIP: the INVITE's header says where it stands. It is taken."""
    event = Webhook(os.environ["OPENAI_WEBHOOK_SECRET"]).verify(await request.read(), dict(request.headers))
    call = event["data"]["call_id"]
    attributes = {"openai.call_id": call}
    with continue_call(event["data"]["sip_headers"], "gen_ai.realtime.session", kind="client", attributes=attributes):
        session = {"type": "realtime", "model": "gpt-realtime", "tracing": realtime_tracing("Clinic line", call=call)}
        await request.app["http"].post(f"{OPENAI}/v1/realtime/calls/{call}/accept", json=session, headers=KEY)
    return web.Response()


routes = [web.post("/telnyx", telnyx), web.post("/openai", openai)]
