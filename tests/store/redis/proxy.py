"""A door in front of Redis that holds requests back, or speaks TLS."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Coroutine
from typing import Any


class Proxy:
    """Passes bytes on; while it holds, what clients send waits here."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._behind = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._holds = False
        self._held: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._came = asyncio.Event()

    async def once(self, work: Coroutine[Any, Any, object], *texts: str) -> None:
        """Do the work in one way to Redis and back: when its request is here, with these texts in it, that much passes,
        and what it would ask after an answer never does.

        Fails when it asks for nothing, or for more.
        """
        self._holds = True
        task = asyncio.ensure_future(work)
        try:
            async with asyncio.timeout(20):
                while not all(text.encode() in b"".join(data for _, data in self._held) for text in texts):
                    await self._came.wait()
                    self._came.clear()
                assert not task.done()
                self._pass_held()
                await task
        finally:
            task.cancel()
            self._holds = False
            self._pass_held()

    def _pass_held(self) -> None:
        for writer, data in self._held:
            writer.write(data)
        self._held.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        behind_reader, behind = await asyncio.open_connection("127.0.0.1", self._behind)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, behind, asks=True))
                both.create_task(self._pass(behind_reader, writer, asks=False))
        except* OSError:
            pass
        finally:
            behind.close()
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asks: bool) -> None:
        while data := await reader.read(1 << 16):
            if asks and self._holds:
                self._held.append((writer, data))
                self._came.set()
                continue
            writer.write(data)
            await writer.drain()
        writer.close()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def proxy(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """A proxy in front of a port of this host."""
    one = Proxy(port)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, ssl=tls)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        await one.close()
