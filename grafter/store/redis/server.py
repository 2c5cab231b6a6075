"""One Redis server: a few connections, made again after a loss, and the scripts that it has to know."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from redis.exceptions import NoScriptError, RedisError

from grafter.errors import UnavailableError
from grafter.store.redis.connection import Command, Connection, Reply
from grafter.store.redis.errors import RECONNECT, ConnectionLost, unavailable
from grafter.store.redis.scripts import Scripts

# Doubling from the first to the last; a blip is over before anybody notices, and a server that is down is left alone.
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 0.5
# How long is waited for replicas of a server that had none.
_RECHECK_MS = 200


class Server:
    """Commands go in, answers come out; every failure is an UnavailableError."""

    def __init__(
        self, where: str, connect: Callable[[], Awaitable[Connection]], scripts: Scripts, connections: int
    ) -> None:
        """``connect`` finds it each time a connection has to be made; raises RedisError."""
        self.where = where
        self.last_error = ""
        """What was wrong when it was last asked in vain; empty from the next answer on."""
        self.alone = ""
        """Why what was written last did not reach its replicas; empty when it did."""
        self.waiting = 0
        """Writes that wait for its replicas."""
        self._connect = connect
        self._scripts = scripts
        self._connections: list[Connection | None] = [None] * max(1, connections)
        self._connecting = [asyncio.Lock() for _ in self._connections]
        self._next = 0
        self._pause = _FIRST_PAUSE
        self._retry_at = 0.0
        self._closed = False

    async def ask(self, commands: Sequence[Command], writing: bool = False) -> list[Reply]:
        """The answers, in order; errors that Redis gave stand among them. A script that it lost is given again.

        ``writing``: on the connection of what senders wait for, on which nothing large is read. Raises
        UnavailableError when it cannot be asked or does not answer; what was sent may have been done.
        """
        number = 0 if writing else self._others()
        connection = self._connections[number]
        if connection is None or connection.lost:
            connection = await self._reconnected(number)
        try:
            replies = await connection.send(commands)
            for reply in replies:
                if isinstance(reply, RedisError):
                    return await self._mended(connection, commands, replies)
        except ConnectionLost as error:
            raise self.unavailable(str(error)) from error
        self.last_error = ""
        return replies

    def _others(self) -> int:
        """All connections but the first, in turn; with one there is no choice."""
        others = len(self._connections) - 1
        self._next = self._next % others + 1 if others else 0
        return self._next

    async def _mended(self, connection: Connection, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
        """Do again what was not done for want of a script; make a new connection next time where that may help."""
        again = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        reconnect = any(isinstance(reply, RECONNECT) for reply in replies)
        if again:
            if again[-1] < len(commands) - 1 and _waits(commands[-1]):
                # It counted the replicas that have what was written before.
                again.append(len(commands) - 1)
            await connection.send(self._scripts.loading)
            for i, reply in zip(again, await connection.send([commands[i] for i in again]), strict=True):
                replies[i] = reply
        if reconnect:
            self.forget()
        return replies

    def unavailable(self, what: str) -> UnavailableError:
        """It could not be asked, or did not do what was asked for."""
        self.last_error = f"Redis at {self.where}: {what}"
        return UnavailableError(self.last_error, reason="store_down")

    def failed(self, error: RedisError) -> UnavailableError:
        """What an error among the answers means for whoever asked."""
        failure = unavailable(self.where, error)
        self.last_error = str(failure)
        return failure

    def forget(self) -> None:
        """Make new connections for what comes next: the server that was meant is elsewhere by now."""
        for connection in self._connections:
            if connection is not None:
                connection.close()

    def close(self) -> None:
        self._closed = True
        self.forget()

    async def _reconnected(self, number: int) -> Connection:
        loop = asyncio.get_running_loop()
        wait = self._retry_at - loop.time()
        if self._closed or wait > 0:
            raise UnavailableError(
                self.last_error or f"Redis at {self.where}: closed", retry_after=max(1.0, wait), reason="store_down"
            )
        async with self._connecting[number]:
            connection = self._connections[number]
            if connection is None or connection.lost:
                try:
                    connection = self._connections[number] = await self._with_scripts()
                except RedisError as error:
                    self._retry_at = loop.time() + self._pause
                    self._pause = min(self._pause * 2, _LAST_PAUSE)
                    raise self.failed(error) from error
        self._pause = _FIRST_PAUSE
        return connection

    async def _with_scripts(self) -> Connection:
        connection = await self._connect()
        try:
            for reply in await connection.send(self._scripts.loading):
                if isinstance(reply, RedisError):
                    raise reply
        except BaseException:
            # Whoever gave up waiting does not know it and cannot close it.
            connection.close()
            raise
        return connection


def _waits(command: Command) -> bool:
    return not isinstance(command, bytes) and command[0] == "WAIT"


def checked(server: Server, replies: list[Reply]) -> list[Reply]:
    """The answers, if none is an error."""
    for reply in replies:
        if isinstance(reply, RedisError):
            raise server.failed(reply)
    return replies


async def replicated(
    server: Server, commands: Sequence[Command], writing: bool, replicas: int, timeout: float
) -> list[Reply]:
    """Ask, and wait until so many replicas have what was written.

    Answers come in order, so that each write waits for the one before: of a server without its replicas one at a time
    finds out whether they are back, and the others are refused at once.
    """
    if server.alone and server.waiting:
        raise UnavailableError(server.alone, reason="store_down")
    # A little less than the connection waits for any answer. A replica that comes meanwhile is not noticed by a wait.
    wait: Command = ("WAIT", replicas, max(1, int(timeout * 900)) if not server.alone else _RECHECK_MS)
    server.waiting += 1
    try:
        *replies, have = checked(server, await server.ask([*commands, wait], writing))
        if have < replicas:
            raise server.unavailable(f"{have} replicas have what was written, {replicas} are asked for (wait_replicas)")
    except UnavailableError as error:
        server.alone = str(error)
        raise
    finally:
        server.waiting -= 1
    server.alone = ""
    return replies
