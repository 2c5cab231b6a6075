"""Telephone carriers: Twilio's webhooks as its own library signs them, its TwiML, SIP headers, Telnyx."""

import base64
from typing import Any
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from openai.types.webhooks import RealtimeCallIncomingWebhookEvent
from opentelemetry.trace import StatusCode
from twilio.request_validator import RequestValidator
from twilio.twiml.voice_response import Connect, Dial, VoiceResponse

from grafter_propagation import TraceContext, call_context, continue_call, extract
from grafter_propagation.telephony import (
    client_state,
    read_client_state,
    sip_headers,
    sip_uri,
    twilio_call,
    twilio_ended,
    twilio_webhook,
    twiml_parameters,
)
from tests.e2e.tree import outline
from tests.propagation.spans import Spans

SID = "CA5c1d9f0e7b3a4c2d8e6f1a0b9c8d7e6f"
CONTEXT = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
HERE = CONTEXT.traceparent
TOKEN = "12345678901234567890123456789012"
VOICE = {"CallSid": SID, "AccountSid": "AC1", "From": "+15005550006", "To": "+15005550001", "CallStatus": "ringing"}
OVER = VOICE | {"CallStatus": "completed", "CallDuration": "42", "Timestamp": "Sat, 28 Nov 2026 21:00:42 +0000"}


async def test_a_call_from_its_webhook_to_its_end(spans: Spans) -> None:
    """Signed as Twilio signs: the webhook answers with TwiML, the media socket and the status callback know the call's
    id alone or the stream's parameter; one tree, its root written last."""
    validator = RequestValidator(TOKEN)

    async def signed(request: web.Request) -> dict[str, str]:
        form = {name: str(value) for name, value in (await request.post()).items()}
        if not validator.validate(str(request.url), form, request.headers.get("X-Twilio-Signature", "")):
            raise web.HTTPForbidden
        return form

    async def voice(request: web.Request) -> web.Response:
        with twilio_webhook(await signed(request), tracer=spans.tracer):
            response = VoiceResponse()
            connect = Connect()
            stream = connect.stream(url="wss://gateway.example/media")
            for name, value in twiml_parameters().items():
                stream.parameter(name=name, value=value)
            response.append(connect)
            return web.Response(text=str(response), content_type="text/xml")

    async def status(request: web.Request) -> web.Response:
        twilio_ended(await signed(request), attributes={"outcome": "booked"}, tracer=spans.tracer)
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/voice", voice)
    app.router.add_post("/status", status)
    async with TestServer(app) as running, ClientSession() as session:

        async def post(path: str, form: dict[str, str], token: str = TOKEN) -> tuple[int, str]:
            url = str(running.make_url(path))
            signature = RequestValidator(token).compute_signature(url, form)
            async with session.post(url, data=form, headers={"X-Twilio-Signature": signature}) as answer:
                return answer.status, await answer.text()

        assert (await post("/voice", VOICE, token="another"))[0] == 403
        _, twiml = await post("/voice", VOICE)
        parameters = ElementTree.fromstring(twiml).iter("Parameter")
        custom = {parameter.attrib["name"]: parameter.attrib["value"] for parameter in parameters}
        with continue_call(custom, "media", kind="server", tracer=spans.tracer):
            pass
        with continue_call(call_context(SID), "gen_ai.realtime.session", kind="client", tracer=spans.tracer):
            pass
        assert (await post("/status", VOICE | {"CallStatus": "in-progress"}))[0] == 204
        assert (await post("/status", OVER))[0] == 204

    root = spans.named("callsphere.call")
    assert root.attributes == {"call.id": SID, "call.status": "completed", "outcome": "booked"}
    assert (root.end_time or 0) - (root.start_time or 0) == 42_000_000_000
    assert root.end_time == 1_795_899_642_000_000_000
    assert spans.named("sip.invite").attributes == {"call.id": SID}
    assert spans.text() == outline("""
        callsphere.call [server]
          sip.invite [server]
            media [server]
          gen_ai.realtime.session [client]
    """)


@pytest.mark.parametrize(
    ("status", "error"), [("busy", "busy"), ("no-answer", "no answer"), ("failed", "failed"), ("canceled", None)]
)
def test_a_call_that_came_to_nothing(spans: Spans, status: str, error: str | None) -> None:
    """Its root says why; a caller who hung up is no error."""
    assert twilio_ended(OVER | {"CallStatus": status, "CallDuration": "0"}, tracer=spans.tracer)
    root = spans.named("callsphere.call")
    assert root.status.status_code is (StatusCode.ERROR if error else StatusCode.UNSET)
    assert root.status.description == error


def test_a_leg_belongs_to_the_call_that_dialled_it(spans: Spans) -> None:
    """Its webhooks are spans of the parent's trace, and its end is not the call's."""
    leg = OVER | {"CallSid": "CA" + "1" * 32, "ParentCallSid": SID}
    assert twilio_call(leg) == call_context(SID)
    assert not twilio_ended(leg, tracer=spans.tracer)
    with pytest.raises(ValueError, match="without an id"):
        twilio_call({})


def test_a_callback_without_a_time_ends_the_call_now(spans: Spans) -> None:
    """A date that is none costs the times, not the root."""
    assert twilio_ended(OVER | {"Timestamp": "soon", "CallDuration": "long"}, tracer=spans.tracer)
    assert spans.named("callsphere.call").end_time


def test_a_dialled_sip_leg_carries_it_to_openai(spans: Spans) -> None:
    """As TwiML writes it, as OpenAI's webhook hands it on in its own type, and as Twilio's own webhook does."""
    dial = Dial()
    dial.sip(sip_uri("sip:proj_1@sip.api.openai.com;transport=tls", CONTEXT))
    response = VoiceResponse()
    response.append(dial)
    uri = ElementTree.fromstring(str(response)).findtext("Dial/Sip") or ""
    sent = dict(parse_qsl(uri.partition("?")[2]))
    assert sent == {"X-Traceparent": HERE}
    event = RealtimeCallIncomingWebhookEvent.model_validate(
        {
            "id": "evt_1",
            "created_at": 1,
            "type": "realtime.call.incoming",
            "data": {"call_id": "rtc_1", "sip_headers": [{"name": name, "value": sent[name]} for name in sent]},
        }
    )
    assert extract([header.model_dump() for header in event.data.sip_headers]) == CONTEXT
    assert extract(VOICE | {f"SipHeader_{name}": value for name, value in sent.items()}) == CONTEXT


@pytest.mark.parametrize(
    ("uri", "whole"),
    [
        ("sip:a@b", f"sip:a@b?X-Traceparent={HERE}"),
        ("sip:a@b?X-Order=7", f"sip:a@b?X-Order=7&X-Traceparent={HERE}"),
        ("sip:a@b?x-traceparent=old&X-Order=7", f"sip:a@b?X-Order=7&X-Traceparent={HERE}"),
        (f"sip:a@b?X-Order={'7' * 960}", f"sip:a@b?X-Order={'7' * 960}"),
    ],
)
def test_a_sip_uri_keeps_what_it_had(uri: str, whole: str) -> None:
    """One place, and no call refused for the length of its headers."""
    assert sip_uri(uri, CONTEXT) == whole


def test_without_a_span_a_carrier_gets_nothing() -> None:
    """And is as it was."""
    assert (twiml_parameters(), sip_headers(), sip_uri("sip:a@b")) == ({}, {}, "sip:a@b")
    assert sip_headers(CONTEXT) == {"X-Traceparent": HERE}


@pytest.mark.parametrize("state", ["", "order 7", '{"order": 7}'])
def test_telnyx_sends_back_the_place_and_the_apps_own_state(spans: Spans, state: str) -> None:
    """In every webhook of the call, in any order, as often as it likes."""
    with spans.span("call"):
        sent = client_state(state)
    context, own = read_client_state(sent)
    assert own == state
    with continue_call(context, "call.answered", kind="server", tracer=spans.tracer):
        pass
    assert spans.text() == "call [internal]\n  call.answered [server]"


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (None, ""),
        ("", ""),
        ("no base64!", ""),
        (base64.b64encode(b"\xff").decode(), ""),
        (base64.b64encode(b"order 7").decode(), "order 7"),
        (base64.b64encode(b'{"order": 7}').decode(), '{"order": 7}'),
    ],
)
def test_a_client_state_of_the_apps_own_stays_its_own(text: Any, own: str) -> None:
    """An app that wrote it before."""
    assert read_client_state(text) == (None, own)
