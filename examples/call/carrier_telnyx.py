"""Telnyx, as a gateway sees it: JSON webhooks that come more than once and in any order, and commands that it takes.

Every webhook carries the ``client_state`` that the app last gave. A call that the app transfers to a SIP address is
sent there.
"""

from datetime import UTC, datetime
from uuid import uuid4

import aiohttp
from aiohttp import web


class Telnyx:
    """One call, and the door for what the app commands. ``url``: addresses by name."""

    def __init__(self, session: aiohttp.ClientSession, url: dict[str, str], caller: str, callee: str) -> None:
        self.session, self.url, self.session_id = session, url, str(uuid4())
        self.payload = {"call_session_id": self.session_id, "call_control_id": "v3:1", "from": caller, "to": callee}
        self.begun = datetime.now(UTC)
        self.leg = ""

    async def play(self) -> None:
        """The call from its first webhook to its last: one comes twice, two in the wrong order, one too late."""
        app = web.Application()
        app.router.add_post("/v2/calls/{call}/actions/{command}", self.command)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", int(self.url["TELNYX"].rpartition(":")[2])).start()
            for kind in ("call.initiated", "call.bridged", "call.initiated", "call.answered"):
                await self.webhook(kind)
            await self.over()
        finally:
            await runner.cleanup()

    async def command(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.payload["client_state"] = asked["client_state"]
        if request.match_info["command"] == "transfer":
            invite = {
                "uri": asked["to"],
                "from": self.payload["from"],
                "to": self.payload["to"],
                "sip_call_id": f"{uuid4()}",
            }
            async with self.session.post(f"{self.url['OPENAI']}/sip", json=invite, raise_for_status=True) as answer:
                self.leg = (await answer.json())["call_id"]
        return web.json_response({"data": {"result": "ok"}})

    async def webhook(self, kind: str, **more: str) -> None:
        """One event; its id is the kind's, so that a second one of the kind is a repeat."""
        event = {"id": f"{self.session_id} {kind}", "event_type": kind, "payload": self.payload | more}
        async with self.session.post(f"{self.url['GATEWAY']}/telnyx", json={"data": event}, raise_for_status=True):
            pass

    async def over(self) -> None:
        """It ends; that it was answered is told once more, too late."""
        async with self.session.post(f"{self.url['OPENAI']}/sip/{self.leg}/bye", raise_for_status=True):
            pass
        ended = datetime.now(UTC)
        times = {"start_time": self.begun.isoformat(), "end_time": ended.isoformat()}
        await self.webhook("call.hangup", hangup_cause="normal_clearing", **times)
        await self.webhook("call.answered")
