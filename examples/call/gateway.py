"""The clinic's gateway: Twilio's webhooks, and beside them the parts for SIP and for the page.

A carrier's call is known by an id that is in all of its webhooks, and the call's trace follows from that id. Its root
span is written by the carrier's last word, so that what crashes in between costs its own spans and nothing else.
"""

import json
import os
import sys
from collections.abc import AsyncIterator

import aiohttp
import gateway_page
import gateway_sip
import nats
import tracing
from aiohttp import web
from twilio.request_validator import RequestValidator
from twilio.twiml.voice_response import Connect, VoiceResponse

from grafter_propagation import call_context
from grafter_propagation.nats import request as ask
from grafter_propagation.telephony import twilio_ended, twilio_webhook, twiml_parameters


async def clients(app: web.Application) -> AsyncIterator[None]:
    app["nats"] = await nats.connect(os.environ["NATS"])
    async with aiohttp.ClientSession(raise_for_status=True) as app["http"]:
        yield
    await app["nats"].close()


async def signed(request: web.Request) -> dict[str, str]:
    """Twilio's form. Anybody may post one; only Twilio can sign it."""
    form = {name: str(value) for name, value in (await request.post()).items()}
    validator = RequestValidator(os.environ["TWILIO_AUTH_TOKEN"])
    if not validator.validate(str(request.url), form, request.headers.get("X-Twilio-Signature", "")):
        raise web.HTTPForbidden
    return form


async def voice(request: web.Request) -> web.Response:
    """Twilio rings. The desk says who answers; the media worker learns by a parameter under what its stream hangs."""
    form = await signed(request)
    with twilio_webhook(form):
        # Who calls whom is on no span: grafter keeps the numbers as keyed hashes, for the lookup page.
        call = {
            "ids": {"twilio": form["CallSid"]},
            "trace_id": call_context(form["CallSid"]).trace_id,
            "from": form["From"],
            "to": form["To"],
        }
        await tracing.tell(request.app["http"], "/api/calls", call)
        await ask(request.app["nats"], "desk.reception", json.dumps({"call": form["CallSid"]}).encode(), timeout=10)
        response, connect = VoiceResponse(), Connect()
        stream = connect.stream(url=os.environ["MEDIA"])
        for name, value in twiml_parameters().items():
            stream.parameter(name=name, value=value)
        response.append(connect)
        response.redirect("/voice")
        return web.Response(text=str(response), content_type="text/xml")


async def status(request: web.Request) -> web.Response:
    """The call is over: its root is written."""
    twilio_ended(await signed(request))
    return web.Response(status=204)


app = web.Application()
app.cleanup_ctx.append(clients)
app.add_routes([web.post("/voice", voice), web.post("/status", status), *gateway_sip.routes, *gateway_page.routes])

if __name__ == "__main__":
    tracing.start("gateway")
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, shutdown_timeout=0.2)
