"""A stand-in of one of grafter's doors that apps post to: it answers as told and remembers what it stored."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Json = dict[str, Any]


@dataclass
class Door:
    """What came, and what is answered."""

    url: str = ""
    path: str = "/v1/realtime/events"
    script: list[web.Response | asyncio.Event | None] = field(default_factory=list)
    """Answers for the next posts, in order; an event is 503 once it is set, None never answers. Then 204."""
    asked: list[tuple[float, Json]] = field(default_factory=list)
    """Every post, with the loop's time of its arrival."""
    stored: list[Json] = field(default_factory=list)
    """The posts that got a 204."""
    raw: bytes = b""
    """Everything that ever came, headers left out."""
    headers: list[dict[str, str]] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def rows(self) -> list[Json]:
        """The stored events with their times and sides."""
        return [row for post in self.stored for row in post.get("events", [])]

    @property
    def items(self) -> list[Json]:
        """The stored items of the Agents SDK's traces."""
        return [item for post in self.stored for item in post["data"]]

    @property
    def types(self) -> list[str]:
        return [row["event"]["type"] for row in self.rows]

    @property
    def ended(self) -> bool:
        return any(post.get("ended") for post in self.stored)

    async def until(self, true: Any) -> None:
        """Wait until ``true(door)`` holds, looking again after each post."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: true(self))

    async def take(self, request: web.Request) -> web.Response:
        assert request.path == self.path
        body = await request.read()
        post = json.loads(body)
        answer = self.script.pop(0) if self.script else web.Response(status=204)
        async with self._changed:
            self.raw += body
            self.headers.append(dict(request.headers))
            self.asked.append((asyncio.get_running_loop().time(), post))
            if isinstance(answer, web.Response) and answer.status == 204:
                self.stored.append(post)
            self._changed.notify_all()
        if isinstance(answer, web.Response):
            return answer
        await (answer or asyncio.Event()).wait()
        return busy("0")


@asynccontextmanager
async def opened(port: int = 0, path: str = "/v1/realtime/events") -> AsyncIterator[Door]:
    """A door on a free port, or on this one."""
    door = Door(path=path)
    app = web.Application()
    app.router.add_post("/{path:.*}", door.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        door.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield door
    finally:
        await runner.cleanup()


def busy(seconds: str = "1") -> web.Response:
    """What the door says when its store is full."""
    return web.Response(status=503, headers={"Retry-After": seconds})
