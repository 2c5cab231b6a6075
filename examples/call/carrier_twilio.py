"""Twilio and a caller's phone, as a gateway sees them: signed webhooks, a Media Stream, a status callback at the end.

Audio is mu-law at 8 kHz in frames of 20 ms, in both directions, all the time.
"""

import asyncio
import base64
import json
import os
import time
from collections.abc import Callable
from email.utils import formatdate
from xml.etree import ElementTree

import aiohttp
from phone import FRAME, SILENCE, SPEECH, Phone, Tick
from twilio.request_validator import RequestValidator


class Twilio:
    """One call. ``sid`` names it; ``token`` signs what is sent."""

    def __init__(self, session: aiohttp.ClientSession, gateway: str, sid: str, caller: str, callee: str) -> None:
        self.session, self.gateway, self.begun = session, gateway, time.time_ns()
        self.form = {"CallSid": sid, "AccountSid": "AC1", "From": caller, "To": callee, "CallStatus": "ringing"}

    async def post(self, path: str, **more: str) -> str:
        """A signed webhook; the answer."""
        url, form = self.gateway + path, self.form | more
        signature = RequestValidator(os.environ["TWILIO_AUTH_TOKEN"]).compute_signature(url, form)
        headers = {"X-Twilio-Signature": signature}
        async with self.session.post(url, data=form, headers=headers, raise_for_status=True) as answer:
            return await answer.text()

    async def talk(self, caller: Callable[[Phone], Tick]) -> None:
        """Ring, then connect the stream that the TwiML names until the caller hangs up. Where the stream breaks off,
        the TwiML's next verb sends the call round again."""
        while True:
            stream = ElementTree.fromstring(await self.post("/voice")).find("Connect/Stream")
            assert stream is not None
            parameters = {one.attrib["name"]: one.attrib["value"] for one in stream.iter("Parameter")}
            async with self.session.ws_connect(stream.attrib["url"]) as socket:
                start = {"streamSid": "MZ1", "callSid": self.form["CallSid"], "customParameters": parameters}
                await socket.send_json({"event": "start", "start": start})
                if await self.stream(socket, caller):
                    return

    async def stream(self, socket: aiohttp.ClientWebSocketResponse, caller: Callable[[Phone], Tick]) -> bool:
        """Whether the caller hung up; False where the stream broke off."""
        phone = Phone()
        reading = asyncio.ensure_future(self.listen(socket, phone))
        try:
            for _ in caller(phone):
                if reading.done():
                    return False
                payload = base64.b64encode(SPEECH if phone.speaks else SILENCE).decode()
                await socket.send_json({"event": "media", "media": {"payload": payload}})
                for mark in phone.play():
                    await socket.send_json({"event": "mark", "mark": {"name": mark}})
                await asyncio.sleep(0.02)
            return True
        except ConnectionError:
            return False
        finally:
            reading.cancel()

    @staticmethod
    async def listen(socket: aiohttp.ClientWebSocketResponse, phone: Phone) -> None:
        async for message in socket:
            sent = json.loads(message.data)
            match sent["event"]:
                case "media":
                    audio = base64.b64decode(sent["media"]["payload"])
                    phone.buffer += [audio[at : at + FRAME] for at in range(0, len(audio), FRAME)]
                case "mark":
                    phone.buffer.append(sent["mark"]["name"])
                case "clear":
                    for mark in phone.clear():
                        await socket.send_json({"event": "mark", "mark": {"name": mark}})

    async def over(self) -> None:
        """The status callback, with whole seconds, as Twilio counts them."""
        seconds = -((self.begun - time.time_ns()) // 10**9)
        await self.post(
            "/status",
            CallStatus="completed",
            CallDuration=str(seconds),
            Timestamp=formatdate(self.begun // 10**9 + seconds),
        )
