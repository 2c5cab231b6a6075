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
        self,
        where: str,
        connect: Callable[[], Awaitable[Connection]],
        scripts: Scripts,
        *,
        pool_size: int,
        timeout: float,
    ) -> None:
        """``connect`` finds it each time a connection has to be made; raises RedisError. ``timeout``: of an answer."""
        self.where = where
        self.last_error = ""
        """What was wrong when it was last asked in vain; empty from the next answer on."""
        self._connect = connect
        self._scripts = scripts
        self._timeout = timeout
        self._connections: list[Connection | None] = [None] * max(1, pool_size)
        self._connecting = [asyncio.Lock() for _ in self._connections]
        self._next = 0
        self._pause = _FIRST_PAUSE
        self._retry_at = 0.0
        self._closed = False
        self._without_replicas = ""
        """Why what was written last did not reach its replicas; empty when it did."""
        self._waiting = 0
        """Writes that wait for its replicas."""

    async def answers(
        self, commands: Sequence[Command], *, writing: bool = False, wait_replicas: int = 0
    ) -> list[Reply]:
        """As ``ask``, if none of them is an error. Raises UnavailableError otherwise."""
        for reply in (replies := await self.ask(commands, writing=writing, wait_replicas=wait_replicas)):
            if isinstance(reply, RedisError):
                raise self.failed(reply)
        return replies

    async def ask(self, commands: Sequence[Command], *, writing: bool = False, wait_replicas: int = 0) -> list[Reply]:
        """The answers, in order; errors that Redis gave stand among them. A script that it lost is given again.

        ``writing``: on the connection of what senders wait for, on which nothing large is read. ``wait_replicas``: only
        when so many replicas have what was written. Raises UnavailableError when it cannot be asked, does not answer,
        or has too few replicas; what was sent may have been done.
        """
        if wait_replicas:
            return await self._replicated(commands, writing, wait_replicas)
        number = 0 if writing else self._others()
        connection = self._connections[number]
        if connection is None or connection.lost:
            connection = await self._reconnected(number)
        try:
            replies = await connection.send(commands)
            for reply in replies:
                if isinstance(reply, RedisError):
                    return await self._retried(connection, commands, replies)
        except ConnectionLost as error:
            raise self.unavailable(str(error)) from error
        self.last_error = ""
        return replies

    async def _replicated(self, commands: Sequence[Command], writing: bool, replicas: int) -> list[Reply]:
        """Answers come in order, so that each write waits for the one before: of a server without its replicas one at a
        time finds out whether they are back, and the others are refused at once."""
        if self._without_replicas and self._waiting:
            raise UnavailableError(self._without_replicas, reason="store_down")
        # A little less than any answer is waited for. A replica that comes meanwhile is not noticed by a wait.
        wait = _RECHECK_MS if self._without_replicas else max(1, int(self._timeout * 900))
        self._waiting += 1
        try:
            *replies, have = await self.ask([*commands, ("WAIT", replicas, wait)], writing=writing)
            if isinstance(have, RedisError):
                raise self.failed(next(reply for reply in (*replies, have) if isinstance(reply, RedisError)))
            if have < replicas:
                raise self.unavailable(
                    f"{have} replicas have what was written, {replicas} are asked for (wait_replicas)"
                )
        except UnavailableError as error:
            self._without_replicas = str(error)
            raise
        finally:
            self._waiting -= 1
        self._without_replicas = ""
        return replies

    def _others(self) -> int:
        """All connections but the first, in turn; with one there is no choice."""
        others = len(self._connections) - 1
        self._next = self._next % others + 1 if others else 0
        return self._next

    async def _retried(self, connection: Connection, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
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
        async with self._connecting[number]:
            connection = self._connections[number]
            if connection is None or connection.lost:
                # Those that waited while another one tried in vain do not try again one by one.
                wait = self._retry_at - loop.time()
                if self._closed or wait > 0:
                    why = self.last_error or f"Redis at {self.where}: closed"
                    raise UnavailableError(why, retry_after=max(1.0, wait), reason="store_down")
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
        await connection.begin(self._scripts.loading)
        return connection


def _waits(command: Command) -> bool:
    return not isinstance(command, bytes) and command[0] == "WAIT"
