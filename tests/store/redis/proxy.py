"""A door in front of Redis that is slow, or speaks TLS."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator


class Proxy:
    """Passes bytes on, each run of them ``delay`` seconds late."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self.port = 0
        self._behind = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        behind_reader, behind = await asyncio.open_connection("127.0.0.1", self._behind)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, behind))
                both.create_task(self._pass(behind_reader, writer))
        except* OSError:
            pass
        finally:
            behind.close()
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                at, data = await late.get()
                await asyncio.sleep(max(0.0, at - loop.time()))
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            writer.close()

        async with asyncio.TaskGroup() as both:
            both.create_task(write())
            while data := await reader.read(1 << 16):
                late.put_nowait((loop.time() + self.delay, data))
            late.put_nowait((loop.time(), b""))

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
