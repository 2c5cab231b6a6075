"""Which server has a bucket: the one there is, the one that Sentinel names, or the one that has the bucket's slot."""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from hiredis import ReplyError

from grafter.store.redis.address import Address, Kind, Peer
from grafter.store.redis.cluster import Cluster
from grafter.store.redis.connection import Command, Lost, Reply, connected, tls_context
from grafter.store.redis.layout import Layout
from grafter.store.redis.scripts import Item, Scripts
from grafter.store.redis.server import Server, checked, replicated


class Topology(Protocol):
    """Where commands go. All raise UnavailableError when an answer is missing or an error."""

    def servers(self) -> Sequence[Server]:
        """Those that are known."""
        ...

    async def start(self) -> None:
        """Find them. Raises UnavailableError."""
        ...

    def split(self, items: Sequence[Item]) -> list[Sequence[int]]:
        """The items that one script may have together."""
        ...

    async def ask(
        self, commands: Sequence[tuple[int, Command]], lane: int | None = None, wait_replicas: int = 0
    ) -> list[Reply]:
        """The answers to commands, each with the bucket of its keys: one round trip, one pipeline a server.

        ``wait_replicas``: only when so many replicas of each server have it.
        """
        ...


class One:
    """All buckets on one server."""

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._timeout = timeout

    def servers(self) -> Sequence[Server]:
        return (self._server,)

    async def start(self) -> None:
        checked(self._server, await self._server.ask([("PING",)]))

    def split(self, items: Sequence[Item]) -> list[Sequence[int]]:
        return [range(len(items))] if items else []

    async def ask(
        self, commands: Sequence[tuple[int, Command]], lane: int | None = None, wait_replicas: int = 0
    ) -> list[Reply]:
        plain = [command for _, command in commands]
        if not wait_replicas:
            return checked(self._server, await self._server.ask(plain, lane))
        return await replicated(self._server, plain, lane, wait_replicas, self._timeout)


async def named_by_sentinel(address: Address, tls: ssl.SSLContext | None, timeout: float) -> Peer:
    """Where the master is, by the first sentinel that knows. Raises Lost when none does."""
    troubles = []
    for peer in address.peers:
        try:
            connection = await connected(peer, address, tls, timeout, credentials=False)
        except (Lost, ReplyError) as error:
            troubles.append(f"{peer[0]}:{peer[1]}: {error}")
            continue
        try:
            (reply,) = await connection.send([("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.master)])
        except Lost as error:
            troubles.append(f"{peer[0]}:{peer[1]}: {error}")
            continue
        finally:
            connection.close()
        if isinstance(reply, list):
            return await _master(reply[0].decode(), int(reply[1]), address, tls, timeout)
        troubles.append(f"{peer[0]}:{peer[1]}: knows no master {address.master!r}")
    raise Lost(f"no sentinel names the master: {'; '.join(troubles)}")


async def _master(host: str, port: int, address: Address, tls: ssl.SSLContext | None, timeout: float) -> Peer:
    # A sentinel may name the old master until it knows better.
    connection = await connected((host, port), address, tls, timeout)
    try:
        (role,) = await connection.send([("ROLE",)])
    finally:
        connection.close()
    if isinstance(role, list) and role[0] != b"master":
        raise Lost(f"{host}:{port} is no master yet")
    return host, port


def topology(address: Address, layout: Layout, scripts: Scripts, *, pool_size: int, timeout: float) -> Topology:
    """What the address calls for. Raises OSError when a file of TLS cannot be read."""
    tls = tls_context(address)

    def server(find: Callable[[], Awaitable[Peer]], where: str) -> Server:
        return Server(address, tls, scripts, find=find, lanes=pool_size, timeout=timeout, where=where)

    if address.kind is Kind.CLUSTER:
        return Cluster(address, layout, server, timeout)
    if address.kind is Kind.SENTINEL:
        return One(server(lambda: named_by_sentinel(address, tls, timeout), address.shown), timeout)

    async def there() -> Peer:
        return address.peers[0]

    return One(server(there, address.shown), timeout)
