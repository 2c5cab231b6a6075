"""One socket to one server: requests that come together leave together, and answers come in their order.

The library connects: addresses, TLS, login, database. Then the socket is taken over here, for what its own clients
spend on a command is several times what everything else on this path does: microseconds of CPU a command, eight in
flight, values of 500 bytes: its client 36, its connection with commands framed by hand 10, this one 5.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from hiredis import ProtocolError, Reader, pack_command
from redis.asyncio.connection import AbstractConnection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import Connection as PlainConnection
from redis.exceptions import RedisError

from grafter.store.redis.address import Peer
from grafter.store.redis.errors import ConnectionLost, error_reply

Command = Sequence[bytes | str | int] | bytes
"""Its words; or as bytes what they are on the wire."""
# More than this is cheaper to write piece by piece than to copy.
_JOINED_BYTES = 1 << 16
_FED_BYTES = 1 << 14

Reply = Any
"""bytes, int, None, a list of these, or the RedisError that the server gave in its place."""


class _Batch:
    __slots__ = ("deadline", "future", "left", "replies")

    def __init__(self, future: "asyncio.Future[list[Reply]]", left: int, deadline: float) -> None:
        self.future = future
        self.left = left
        self.replies: list[Reply] = []
        self.deadline = deadline


class Connection(asyncio.Protocol):
    """Made by ``connected``; useless once ``lost`` says why."""

    def __init__(self, stream: asyncio.StreamWriter, timeout: float) -> None:
        """Take over the socket of a stream whose answers have all been read."""
        self.lost: str = ""
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(replyError=error_reply)
        # A stream that is collected closes its transport.
        self._stream = stream
        self._transport = stream.transport
        self._waiting: deque[_Batch] = deque()
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self.close("the server closed the connection")

    def send(self, commands: Sequence[Command]) -> "asyncio.Future[list[Reply]]":
        """The answers, in order. Raises ConnectionLost, at once or in the future, where the connection ends before."""
        if self.lost:
            raise ConnectionLost(self.lost)
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if not commands:
            future.set_result([])
            return future
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += [
            command if isinstance(command, bytes) else pack_command(tuple(command))  # type: ignore[arg-type]
            for command in commands
        ]
        batch = _Batch(future, len(commands), self._loop.time() + self._timeout)
        self._waiting.append(batch)
        if self._timer is None:
            self._timer = self._loop.call_at(batch.deadline, self._check_deadline)
        return future

    async def begin(self, commands: Sequence[Command]) -> list[Reply]:
        """``send`` of what a new connection is asked first: raises the first error that is among the answers.

        Whatever is raised, the connection is closed: whoever gave up waiting does not know it and cannot close it.
        """
        try:
            replies = await self.send(commands)
            for reply in replies:
                if isinstance(reply, RedisError):
                    raise reply
        except BaseException:
            self.close()
            raise
        return replies

    def close(self, why: str = "closed") -> None:
        """End it; what was sent and not answered fails with ConnectionLost."""
        if not self.lost:
            self.lost = why
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for batch in waiting:
            if not batch.future.done():
                batch.future.set_exception(ConnectionLost(self.lost))
                # Whoever waited may have been cancelled meanwhile.
                batch.future.exception()

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self.lost:
            return
        if len(unsent) == 1:
            self._transport.write(unsent[0])
        elif sum(map(len, unsent)) < _JOINED_BYTES:
            self._transport.write(b"".join(unsent))
        else:
            self._transport.writelines(unsent)

    def _check_deadline(self) -> None:
        """Give up when the oldest batch had no answer in time."""
        self._timer = None
        if not self._waiting:
            return
        deadline = self._waiting[0].deadline
        if self._loop.time() >= deadline:
            self.close(f"no answer within {self._timeout:g} s")
        else:
            self._timer = self._loop.call_at(deadline, self._check_deadline)

    # asyncio.Protocol

    def connection_lost(self, error: Exception | None) -> None:
        self.close(f"the connection was lost: {error}" if error is not None else "the server closed the connection")

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        try:
            # The reader moves all that is left in it after every answer.
            for at in range(0, len(data), _FED_BYTES):
                reader.feed(data, at, min(_FED_BYTES, len(data) - at))
                while waiting:
                    batch = waiting[0]
                    while batch.left:
                        reply = reader.gets()
                        if reply is False:
                            break
                        batch.replies.append(reply)
                        batch.left -= 1
                    if batch.left:
                        break
                    waiting.popleft()
                    if not batch.future.done():
                        batch.future.set_result(batch.replies)
        except ProtocolError as error:
            self.close(f"the server's answer is not Redis' protocol: {error}")


class TlsConnection(SSLConnection):
    """The library's, with a context that is made once for all."""

    def __init__(self, *, context: ssl.SSLContext, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.ssl_context.context = context


def library_arguments(login: Mapping[str, Any], tls: ssl.SSLContext | None, timeout: float) -> dict[str, Any]:
    """What the library makes a connection of, beside its host and port: its class and the keywords of that.

    A connection is tried once, by RESP2, and says nothing of itself, which Redis 6.2 would not understand.
    """
    own: dict[str, Any] = (
        {"connection_class": PlainConnection}
        if tls is None
        else {
            "connection_class": TlsConnection,
            "context": tls,
        }
    )
    limits = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    return {**own, **login, **limits, "protocol": 2, "driver_info": None}


async def connected(peer: Peer, login: Mapping[str, Any], tls: ssl.SSLContext | None, timeout: float) -> Connection:
    """A connection that is authenticated and on its database.

    Raises ConnectionLost when there is none within the timeout, and another RedisError when the server refuses who
    this is.
    """
    host, port = peer
    arguments = library_arguments(login, tls, timeout)
    kind: type[PlainConnection] = arguments.pop("connection_class")
    made: AbstractConnection
    made = kind(host=host, port=port, **arguments) if port else UnixDomainSocketConnection(path=host, **arguments)
    try:
        async with asyncio.timeout(timeout):
            await made.connect()  # type: ignore[no-untyped-call]
    except TimeoutError as error:
        raise ConnectionLost(f"no connection within {timeout:g} s") from error
    except RedisError as error:
        if error.status_code:
            raise
        raise ConnectionLost(f"cannot connect: {error}") from error
    stream, made._writer, made._reader = made._writer, None, None
    if stream is None:
        raise ConnectionLost("the server closed the connection")
    connection = Connection(stream, timeout)
    # Before a login a server takes no more than a few words.
    await connection.begin([("PING",)])
    return connection
