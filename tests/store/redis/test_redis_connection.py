"""A connection to a server that nobody waits for any more."""

import asyncio

import pytest

from grafter.store.redis.address import parse
from grafter.store.redis.connection import connected


@pytest.mark.parametrize(("login", "last"), [("", b"PING\r\n"), (":sesame@", b"sesame\r\n")])
async def test_a_connection_that_was_given_up_is_closed(login: str, last: bytes) -> None:
    """A stop while a server has taken the connection and says nothing, be it to a login: nobody else could close it."""
    heard, ended = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(last)
        heard.set()
        await reader.read()
        ended.set()
        writer.close()

    async with asyncio.timeout(10), await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        address = parse(f"redis://{login}{host}:{port}")
        connecting = asyncio.ensure_future(connected((host, port), address.login, None, 60.0))
        await heard.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await ended.wait()
