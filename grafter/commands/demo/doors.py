"""Where an app sends to: the doors of a grafter that runs, over real sockets."""

from collections.abc import Iterable
from typing import Any

import aiohttp
import grpc.aio

from grafter.commands.demo.host_call import HostCall
from grafter.commands.demo.script import PlayedCall

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Doors:
    """Where an app sends to."""

    def __init__(self, session: aiohttp.ClientSession, channel: grpc.aio.Channel, ports: dict[str, int]) -> None:
        self._session = session
        self._export = channel.unary_unary(EXPORT, None, None)
        self.ports = ports

    async def app(self, host: HostCall) -> dict[str, list[str]]:
        """Send the app's half; the services by the protocol that they used."""
        used: dict[str, list[str]] = {"gRPC": [], "HTTP": []}
        for service, request in host.requests():
            # Not every team chose the same protocol.
            protocol = "gRPC" if service.startswith("callsphere") else "HTTP"
            used[protocol].append(service)
            if protocol == "gRPC":
                await self._export(request)
            else:
                url = f"http://127.0.0.1:{self.ports['otlp_http']}/v1/traces"
                headers = {"Content-Type": "application/x-protobuf"}
                async with self._session.post(url, data=request, headers=headers, raise_for_status=True):
                    pass
        return used

    async def post(self, path: str, body: dict[str, Any]) -> None:
        """Send to a door for what comes from OpenAI."""
        url = f"http://127.0.0.1:{self.ports['openai']}/v1/{path}"
        async with self._session.post(url, json=body, raise_for_status=True):
            pass

    async def call(self, call: PlayedCall) -> None:
        """Send both halves of a call: events while it lasts, spans and the session's end after it."""
        posts = list(call.posts())
        last = posts.pop() if posts and call.script.ended else None
        for post in posts:
            await self.post("realtime/events", post)
        if call.script.hosted and call.script.ended:
            await self.app(call.host)
        if last is not None:
            await self.post("realtime/events", last)

    async def calls(self, calls: Iterable[PlayedCall]) -> None:
        """Send them one after the other."""
        for call in calls:
            await self.call(call)
