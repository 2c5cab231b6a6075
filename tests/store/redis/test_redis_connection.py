"""A connection to a server that nobody waits for any more, and what the errors on it are."""

import asyncio

import pytest
from redis.exceptions import AskError, MovedError, OutOfMemoryError, ResponseError

from grafter.store.redis.address import parse
from grafter.store.redis.connection import connected
from grafter.store.redis.errors import NewerVersionError, error_reply


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

    async with asyncio.timeout(60), await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        address = parse(f"redis://{login}{host}:{port}")
        connecting = asyncio.ensure_future(connected((host, port), address.login, None, 60.0))
        await heard.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await ended.wait()


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("MOVED 3999 127.0.0.1:6381", MovedError, "MOVED"),
        ("ASK 3999 127.0.0.1:6381", AskError, "ASK"),
        ("OOM command not allowed when used memory > 'maxmemory'.", OutOfMemoryError, "OOM"),
        ("ERR Error running script (call to f_0): @user_script:1: -OOM command not allowed", OutOfMemoryError, "OOM"),
        ("NEWER a held key script: f_0, on @user_script:1.", NewerVersionError, "NEWER"),
        ("ERR wrong word for 'ASK' command", ResponseError, None),
        ("WRONGTYPE Operation against a key", ResponseError, "WRONGTYPE"),
        ("ERR unknown", ResponseError, None),
    ],
)
def test_an_error_is_a_type(text: str, kind: type[Exception], code: str | None) -> None:
    """By its code, which before Redis 7 may stand inside the error of the script."""
    error = error_reply(text)
    assert type(error) is kind
    assert error.status_code == code
