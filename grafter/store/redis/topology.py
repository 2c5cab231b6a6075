"""Which server has a bucket: the one there is, the one that Sentinel names, or the one that has the bucket's slot."""

from collections.abc import Sequence
from typing import Any, Protocol

from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import RedisError
from redis.utils import str_if_bytes

from grafter.store.redis.address import Address, Kind, Peer
from grafter.store.redis.cluster import Cluster
from grafter.store.redis.connection import Command, Connection, Reply, connected, library_arguments
from grafter.store.redis.errors import REFUSED, ConnectionLost, meaning
from grafter.store.redis.layout import Layout
from grafter.store.redis.scripts import Item, Scripts
from grafter.store.redis.server import Server


class Topology(Protocol):
    """Where commands go. All raise UnavailableError when an answer is missing or an error."""

    def servers(self) -> Sequence[Server]:
        """Those that are known."""
        ...

    async def start(self) -> None:
        """Find them. Raises UnavailableError."""
        ...

    async def close(self) -> None:
        """End all connections."""
        ...

    def split(self, items: Sequence[Item]) -> list[Sequence[int]]:
        """The items that one script may have together."""
        ...

    async def ask(
        self, commands: Sequence[tuple[int, Command]], *, writing: bool = False, wait_replicas: int = 0
    ) -> list[Reply]:
        """The answers to commands, each with the bucket of its keys: one round trip, one pipeline a server.

        ``writing``: as for Server.ask. ``wait_replicas``: only when so many replicas of each server have it.
        """
        ...


class One:
    """All buckets on one server."""

    def __init__(self, address: Address, scripts: Scripts, *, pool_size: int, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._tls = address.tls_context()
        self._server = Server(address.shown, self._connect, scripts, pool_size=pool_size, timeout=timeout)

    def servers(self) -> Sequence[Server]:
        return (self._server,)

    async def start(self) -> None:
        await self._server.answers([("PING",)])

    async def close(self) -> None:
        self._server.close()

    def split(self, items: Sequence[Item]) -> list[Sequence[int]]:
        return [range(len(items))] if items else []

    async def ask(
        self, commands: Sequence[tuple[int, Command]], *, writing: bool = False, wait_replicas: int = 0
    ) -> list[Reply]:
        plain = [command for _, command in commands]
        return await self._server.answers(plain, writing=writing, wait_replicas=wait_replicas)

    async def _connect(self) -> Connection:
        return await connected(self._address.peers[0], self._address.login, self._tls, self._timeout)


class NamedBySentinel(One):
    """All buckets on the server that the sentinels hold for the primary.

    The library's own discovery wants a primary that no sentinel holds for down, and says of those that do not answer
    only that: here the server itself is asked for its role, and a wrong password is told from a sentinel that is away.
    """

    def __init__(self, address: Address, scripts: Scripts, *, pool_size: int, timeout: float) -> None:
        super().__init__(address, scripts, pool_size=pool_size, timeout=timeout)
        arguments = library_arguments(address.sentinel_login, self._tls, timeout)
        self._sentinels = [
            Redis(connection_pool=ConnectionPool(host=host, port=port, **arguments)) for host, port in address.peers
        ]

    async def close(self) -> None:
        await super().close()
        for sentinel in self._sentinels:
            await sentinel.connection_pool.disconnect()

    async def _connect(self) -> Connection:
        host, port = await self._primary()
        connection = await connected((host, port), self._address.login, self._tls, self._timeout)
        # A sentinel may name the old primary until it knows better.
        (role,) = await connection.begin([("ROLE",)])
        if role[0] != b"master":
            connection.close()
            raise ConnectionLost(f"{host}:{port} is no master yet")
        return connection

    async def _primary(self) -> Peer:
        """Where the first sentinel that knows has it. Raises RedisError."""
        reasons = []
        for (host, port), sentinel in zip(self._address.peers, self._sentinels, strict=True):
            try:
                found: Any = await sentinel.sentinel_get_master_addr_by_name(self._address.master)
            except REFUSED:
                raise
            except RedisError as error:
                reasons.append(f"{host}:{port}: {meaning(error)}")
                continue
            if found is not None:
                return str_if_bytes(found[0]), int(found[1])
            reasons.append(f"{host}:{port}: knows no master {self._address.master!r}")
        raise ConnectionLost(f"no sentinel names the master: {'; '.join(reasons)}")


def topology(address: Address, layout: Layout, scripts: Scripts, *, pool_size: int, timeout: float) -> Topology:
    """What the address calls for. Raises OSError when a file of TLS cannot be read."""
    if address.kind is Kind.CLUSTER:
        return Cluster(address, layout, scripts, pool_size=pool_size, timeout=timeout)
    kind = NamedBySentinel if address.kind is Kind.SENTINEL else One
    return kind(address, scripts, pool_size=pool_size, timeout=timeout)
