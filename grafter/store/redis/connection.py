"""One socket to one server: requests that come together leave together, and answers come in their order.

The client library's pipeline costs several times what everything else on this path does, so commands are framed here
and hiredis reads the answers.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

from hiredis import ProtocolError, Reader, ReplyError, pack_command

from grafter.store.redis.address import Address, Peer

Command = Sequence[bytes | str | int] | bytes
"""Its words; or as bytes what they are on the wire."""
# More than this is cheaper to write piece by piece than to copy.
_JOINED_BYTES = 1 << 16
_FED_BYTES = 1 << 14

Reply = Any
"""bytes, int, None, a list of these, or a ReplyError that the server gave in its place."""


class Lost(ConnectionError):
    """The connection is gone, and with it the answers to what was sent: whether it was done is not known."""


class _Batch:
    __slots__ = ("deadline", "future", "left", "replies")

    def __init__(self, future: "asyncio.Future[list[Reply]]", left: int, deadline: float) -> None:
        self.future = future
        self.left = left
        self.replies: list[Reply] = []
        self.deadline = deadline


class Connection(asyncio.Protocol):
    """Made by ``connected``; useless once ``lost`` says why."""

    def __init__(self, timeout: float) -> None:
        self.lost: str = ""
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[_Batch] = deque()
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def send(self, commands: Sequence[Command]) -> "asyncio.Future[list[Reply]]":
        """The answers, in order. Raises Lost, at once or in the future, where the connection ends before them."""
        if self.lost:
            raise Lost(self.lost)
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
            self._timer = self._loop.call_at(batch.deadline, self._look)
        return future

    def close(self, why: str = "closed") -> None:
        """End it; what was sent and not answered fails with Lost."""
        if not self.lost:
            self.lost = why
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for batch in waiting:
            if not batch.future.done():
                batch.future.set_exception(Lost(self.lost))
                # Whoever waited may have been cancelled meanwhile.
                batch.future.exception()

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is None or self.lost:
            return
        if len(unsent) == 1:
            self._transport.write(unsent[0])
        elif sum(map(len, unsent)) < _JOINED_BYTES:
            self._transport.write(b"".join(unsent))
        else:
            self._transport.writelines(unsent)

    def _look(self) -> None:
        """Give up when the oldest batch had no answer in time."""
        self._timer = None
        if not self._waiting:
            return
        deadline = self._waiting[0].deadline
        if self._loop.time() >= deadline:
            self.close(f"no answer within {self._timeout:g} s")
        else:
            self._timer = self._loop.call_at(deadline, self._look)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclass.
        self._transport = cast(asyncio.Transport, transport)
        found = transport.get_extra_info("socket")
        if found is not None and found.family != socket.AF_UNIX:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

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


def tls_context(address: Address) -> ssl.SSLContext | None:
    """What the address says of TLS; None without. Raises OSError when a file cannot be read."""
    if not address.tls:
        return None
    context = ssl.create_default_context(cafile=address.ca_file or None)
    if address.cert_file:
        context.load_cert_chain(address.cert_file, address.key_file or None)
    return context


async def connected(
    peer: Peer, address: Address, tls: ssl.SSLContext | None, timeout: float, *, credentials: bool = True
) -> Connection:
    """A connection that is authenticated and on its database.

    Raises Lost when there is none within the timeout, and ReplyError when the server refuses who this is.
    """
    host, port = peer
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            if port:
                _, connection = await loop.create_connection(
                    lambda: Connection(timeout), host, port, ssl=tls, server_hostname=host if tls else None
                )
            else:
                _, connection = await loop.create_unix_connection(lambda: Connection(timeout), host)
    except TimeoutError as error:
        raise Lost(f"no connection within {timeout:g} s") from error
    except (OSError, ssl.SSLError) as error:
        raise Lost(f"cannot connect: {getattr(error, 'strerror', None) or error}") from error
    commands: list[Command] = []
    if credentials and address.password:
        commands.append(
            ("AUTH", address.username, address.password) if address.username else ("AUTH", address.password)
        )
    if credentials and address.database:
        commands.append(("SELECT", address.database))
    commands.append(("PING",))
    try:
        for reply in await connection.send(commands):
            if isinstance(reply, ReplyError):
                raise reply
    except BaseException:
        # Whoever gave up waiting does not know it and cannot close it.
        connection.close()
        raise
    return connection
