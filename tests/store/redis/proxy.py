"""A door in front of Redis that holds requests back, cuts one off, or speaks TLS."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any


class _Connection:
    """A client's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.behind_reader = reader
        self.behind = writer
        self.ends = False
        """With the next answer, which it does not get."""


class Proxy:
    """Passes bytes on; while it holds, what clients send waits here."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._behind = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._holds = False
        self._held: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._came = asyncio.Event()
        self._trap: tuple[Sequence[bytes], bool, Callable[[], None]] | None = None
        self.sprung = asyncio.Event()
        """A request was cut off."""

    def cut_off(self, *texts: bytes, done: bool = True, then: Callable[[], None] = lambda: None) -> None:
        """The next request with these texts gets no answer: its connection ends when Redis has ``done`` it, or before
        Redis hears of it; then ``then`` is called."""
        self._trap = texts, done, then
        self.sprung.clear()

    async def once(self, work: Coroutine[Any, Any, object], *texts: str) -> None:
        """Do the work in one way to Redis and back: when its request is here, with these texts in it, that much passes,
        and what it would ask after an answer never does.

        Fails when it asks for nothing, or for more.
        """
        self._holds = True
        task = asyncio.ensure_future(work)
        try:
            async with asyncio.timeout(60):
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
        one = _Connection(reader, writer)
        one.behind_reader, one.behind = await asyncio.open_connection("127.0.0.1", self._behind)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_questions(one))
                both.create_task(self._pass_answers(one))
        except* OSError:
            pass
        finally:
            one.behind.close()
            writer.close()

    async def _pass_questions(self, one: _Connection) -> None:
        while data := await one.reader.read(1 << 16):
            if self._holds:
                self._held.append((one.behind, data))
                self._came.set()
                continue
            if self._trap is not None and all(text in data for text in self._trap[0]):
                if not self._trap[1]:
                    self._spring()
                    break
                one.ends = True
            one.behind.write(data)
            await one.behind.drain()
        one.behind.close()

    async def _pass_answers(self, one: _Connection) -> None:
        while data := await one.behind_reader.read(1 << 16):
            if one.ends:
                self._spring()
                break
            one.writer.write(data)
            await one.writer.drain()
        one.writer.close()

    def _spring(self) -> None:
        assert self._trap is not None
        (_, _, then), self._trap = self._trap, None
        then()
        self.sprung.set()

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
