"""One Redis server: a few connections, made again after a loss, and the scripts that it has to know."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence

from hiredis import ReplyError

from grafter.errors import UnavailableError
from grafter.store.redis.address import Address, Peer
from grafter.store.redis.connection import Command, Connection, Lost, Reply, connected
from grafter.store.redis.scripts import Scripts
from grafter.store.redis.trouble import RECONNECT, Answer, answer_of, unavailable

WRITING = 0
"""The lane of what senders wait for; nothing large is read on it."""

# Doubling from the first to the last; a blip is over before anybody notices, and a server that is down is left alone.
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 0.5
# How long is waited for replicas of a server that had none.
_LOOK_MS = 200
_FAILURES = (UnavailableError, Lost, OSError)


class Lane:
    """A connection that is made when it is wanted."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()

    @property
    def open(self) -> Connection | None:
        """The connection, if there is one."""
        connection = self._connection
        return connection if connection is not None and not connection.lost else None

    async def get(self) -> Connection:
        """The connection, made when there is none."""
        connection = self.open
        if connection is None:
            async with self._lock:
                connection = self.open
                if connection is None:
                    connection = self._connection = await self._connect()
        return connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class Server:
    """Commands go in, answers come out; every failure is an UnavailableError."""

    def __init__(
        self,
        address: Address,
        tls: ssl.SSLContext | None,
        scripts: Scripts,
        *,
        find: Callable[[], Awaitable[Peer]],
        lanes: int,
        timeout: float,
        where: str,
    ) -> None:
        """``find`` says where it is each time a connection has to be made."""
        self.where = where
        self.last_error = ""
        """What was wrong when it was last asked in vain; empty from the next answer on."""
        self.alone = ""
        """Why what was written last did not reach its replicas; empty when it did."""
        self.waiting = 0
        """Writes that wait for its replicas."""
        self._address = address
        self._tls = tls
        self._scripts = scripts
        self._find = find
        self._timeout = timeout
        self._lanes = [Lane(self._connect) for _ in range(max(1, lanes))]
        self._next = 0
        self._pause = _FIRST_PAUSE
        self._retry_at = 0.0
        self._closed = False

    async def ask(self, commands: Sequence[Command], lane: int | None = None) -> list[Reply]:
        """The answers, in order; errors that Redis gave stand among them. A script that it lost is given again.

        Raises UnavailableError when it cannot be asked or does not answer; what was sent may have been done.
        """
        if lane is None:
            # All but the first, in turn; with one lane there is no choice.
            others = len(self._lanes) - 1
            self._next = self._next % others + 1 if others else 0
            lane = self._next
        connection = self._lanes[lane].open
        if connection is None:
            connection = await self._reconnected(lane)
        try:
            replies = await connection.send(commands)
        except Lost as error:
            raise self.unavailable(str(error)) from error
        for reply in replies:
            if isinstance(reply, ReplyError):
                replies = await self._mended(connection, commands, replies)
                break
        else:
            self.last_error = ""
        return replies

    async def _mended(self, connection: Connection, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
        """Do again what was not done for want of a script; make a new connection next time where that may help."""
        answers = {answer_of(reply) for reply in replies if isinstance(reply, ReplyError)}
        if Answer.NOSCRIPT in answers:
            again = [
                i
                for i, reply in enumerate(replies)
                if isinstance(reply, ReplyError) and answer_of(reply) is Answer.NOSCRIPT
            ]
            if again[-1] < len(commands) - 1 and _waits(commands[-1]):
                # It counted the replicas that have what was written before.
                again.append(len(commands) - 1)
            try:
                await connection.send(self._loading())
                for i, reply in zip(again, await connection.send([commands[i] for i in again]), strict=True):
                    replies[i] = reply
            except Lost as error:
                raise self.unavailable(str(error)) from error
        if answers & RECONNECT:
            self.forget()
        return replies

    def unavailable(self, what: str) -> UnavailableError:
        """It could not be asked, or did not do what was asked for."""
        self.last_error = f"Redis at {self.where}: {what}"
        return UnavailableError(self.last_error, reason="store_down")

    def failed(self, error: ReplyError) -> UnavailableError:
        """What an error among the answers means for whoever asked."""
        failure = unavailable(self.where, error)
        self.last_error = str(failure)
        return failure

    def forget(self) -> None:
        """Make new connections for what comes next: the server that was meant is elsewhere by now."""
        for lane in self._lanes:
            lane.close()

    def close(self) -> None:
        self._closed = True
        self.forget()

    def _loading(self) -> list[Command]:
        return [("SCRIPT", "LOAD", text) for text in self._scripts.texts.values()]

    async def _reconnected(self, lane: int) -> Connection:
        loop = asyncio.get_running_loop()
        wait = self._retry_at - loop.time()
        if self._closed or wait > 0:
            raise UnavailableError(
                self.last_error or f"Redis at {self.where}: closed", retry_after=max(1.0, wait), reason="store_down"
            )
        try:
            connection = await self._lanes[lane].get()
        except ReplyError as error:
            self._failed(loop.time())
            raise self.failed(error) from error
        except _FAILURES as error:
            self._failed(loop.time())
            raise self.unavailable(str(error)) from error
        self._pause = _FIRST_PAUSE
        return connection

    def _failed(self, now: float) -> None:
        self._retry_at = now + self._pause
        self._pause = min(self._pause * 2, _LAST_PAUSE)

    async def _connect(self) -> Connection:
        peer = await self._find()
        connection = await connected(peer, self._address, self._tls, self._timeout)
        try:
            for reply in await connection.send(self._loading()):
                if isinstance(reply, ReplyError):
                    raise reply
        except BaseException:
            connection.close()
            raise
        return connection


def _waits(command: Command) -> bool:
    return not isinstance(command, bytes) and command[0] == "WAIT"


def checked(server: Server, replies: list[Reply]) -> list[Reply]:
    """The answers, if none is an error."""
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise server.failed(reply)
    return replies


async def replicated(
    server: Server, commands: Sequence[Command], lane: int | None, replicas: int, timeout: float
) -> list[Reply]:
    """Ask, and wait until so many replicas have what was written.

    Answers come in order, so that each write waits for the one before: of a server without its replicas one at a time
    finds out whether they are back, and the others are refused at once.
    """
    if server.alone and server.waiting:
        raise UnavailableError(server.alone, reason="store_down")
    # A little less than the connection waits for any answer. A replica that comes meanwhile is not noticed by a wait.
    wait: Command = ("WAIT", replicas, max(1, int(timeout * 900)) if not server.alone else _LOOK_MS)
    server.waiting += 1
    try:
        *replies, have = checked(server, await server.ask([*commands, wait], lane))
        if have < replicas:
            raise server.unavailable(f"{have} replicas have what was written, {replicas} are asked for (wait_replicas)")
    except UnavailableError as error:
        server.alone = str(error)
        raise
    finally:
        server.waiting -= 1
    server.alone = ""
    return replies
