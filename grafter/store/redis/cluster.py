"""A cluster: which node has a bucket's slot, and what to do when it has moved.

The library asks the nodes for their slots and keeps the map; this asks the nodes by it.
"""

import asyncio
from collections.abc import Sequence

from redis.asyncio.cluster import ClusterNode, NodesManager
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)

from grafter.errors import UnavailableError
from grafter.store.redis.address import Address, Peer
from grafter.store.redis.connection import Command, Connection, Reply, connected, library_arguments
from grafter.store.redis.errors import RefusedError, unavailable
from grafter.store.redis.layout import Layout
from grafter.store.redis.scripts import Item, Scripts
from grafter.store.redis.server import Server

_ATTEMPTS = 5
_PAUSE = 0.1


class Cluster:
    """All buckets, each on the node that has its slot."""

    def __init__(self, address: Address, layout: Layout, scripts: Scripts, *, pool_size: int, timeout: float) -> None:
        self._address = address
        self._tls = address.tls_context()
        self._scripts = scripts
        self._pool_size = pool_size
        self._timeout = timeout
        self._slots = [key_slot(tag) for tag in layout.tags]
        arguments = library_arguments(address.login, self._tls, timeout)
        self._first = {node.name: node for node in (ClusterNode(*peer, **arguments) for peer in address.peers)}
        self._nodes = NodesManager(list(self._first.values()), False, arguments)
        self._servers: dict[Peer, Server] = {}
        self._owners: list[Server | None] = [None] * len(self._slots)
        self._finding = asyncio.Lock()
        self._found = 0

    def servers(self) -> Sequence[Server]:
        return list(self._servers.values())

    async def start(self) -> None:
        await self._find(self._found)

    async def close(self) -> None:
        for server in self._servers.values():
            server.close()
        for node in {*self._first.values(), *self._nodes.startup_nodes.values(), *self._nodes.nodes_cache.values()}:
            await node.disconnect()

    def split(self, items: Sequence[Item]) -> list[Sequence[int]]:
        split: dict[int, list[int]] = {}
        for i, (bucket, _) in enumerate(items):
            split.setdefault(bucket, []).append(i)
        return list(split.values())

    async def ask(
        self, commands: Sequence[tuple[int, Command]], *, writing: bool = False, wait_replicas: int = 0
    ) -> list[Reply]:
        replies: list[Reply] = [None] * len(commands)
        left = list(range(len(commands)))
        for attempt in range(_ATTEMPTS):
            if attempt > 1:
                await asyncio.sleep(_PAUSE)
            found = self._found
            by_server: dict[Server, list[int]] = {}
            for i in left:
                server = self._owners[commands[i][0]]
                if server is None:
                    raise UnavailableError("no node of the cluster has this slot", reason="store_down")
                by_server.setdefault(server, []).append(i)
            answers = await asyncio.gather(
                *(
                    server.ask([commands[i][1] for i in some], writing=writing, wait_replicas=wait_replicas)
                    for server, some in by_server.items()
                ),
                return_exceptions=True,
            )
            failure: BaseException | None = None
            again: list[int] = []
            moved, failed = False, None
            for (server, some), answer in zip(by_server.items(), answers, strict=True):
                if isinstance(answer, BaseException):
                    # It may be gone for good, and another one have its slots by now.
                    failure, moved, failed = answer, True, server.where
                    continue
                for i, reply in zip(some, answer, strict=True):
                    replies[i] = reply
                    if not isinstance(reply, RedisError):
                        continue
                    # A MovedError is an AskError to the library.
                    if isinstance(reply, MovedError):
                        moved = True
                        again.append(i)
                    elif isinstance(reply, AskError):
                        replies[i] = await self._asking(reply, commands[i][1])
                        if isinstance(replies[i], RedisError):
                            again.append(i)
                    elif isinstance(reply, TryAgainError):
                        again.append(i)
                    else:
                        moved = moved or isinstance(reply, ClusterDownError | ReadOnlyError)
                        failure = failure or server.failed(reply)
            if moved:
                await self._find(found, failed)
            if failure is not None:
                raise failure
            if not again:
                return replies
            left = again
        raise UnavailableError("a slot of the cluster is being moved", reason="store_down")

    async def _asking(self, error: AskError, command: Command) -> Reply:
        """Ask the node that is taking the slot over."""
        _, reply = await self._server((error.host, error.port)).ask([("ASKING",), command])
        return reply

    def _server(self, peer: Peer) -> Server:
        server = self._servers.get(peer)
        if server is None:

            async def connect() -> Connection:
                return await connected(peer, self._address.login, self._tls, self._timeout)

            where = f"{peer[0]}:{peer[1]}"
            server = Server(where, connect, self._scripts, pool_size=self._pool_size, timeout=self._timeout)
            self._servers[peer] = server
        return server

    async def _find(self, found: int, failed: str | None = None) -> None:
        """Let the library ask which node has which slots, that which failed the last; once for all who noticed at the
        same time."""
        async with self._finding:
            if self._found != found:
                return
            # The library forgets those that are no longer in the cluster; their names may lead to others by now.
            self._nodes.startup_nodes = {**self._first, **self._nodes.startup_nodes}
            try:
                await self._nodes.initialize(last_failed_node_name=failed)
            except RedisClusterException as error:
                raise self._not_found(error) from error
            self._owners = [self._owner(slot) for slot in self._slots]
            self._found += 1
            for peer in [peer for peer, server in self._servers.items() if server not in self._owners]:
                self._servers.pop(peer).close()

    def _not_found(self, error: BaseException) -> UnavailableError:
        """What it means that no node named its slots; the library wraps what the last one answered."""
        while isinstance(error, RedisClusterException) and (inner := error.__cause__ or error.__context__) is not None:
            error = inner
        where = self._address.shown
        if type(error) is ResponseError:
            return RefusedError(f"Redis at {where}: it is no cluster ({error}); use redis://", reason="store_down")
        return unavailable(where, error if isinstance(error, Exception) else RedisError(str(error)))

    def _owner(self, slot: int) -> Server | None:
        try:
            node = self._nodes.get_node_from_slot(slot)
        except (SlotNotCoveredError, KeyError):
            return None
        return self._server((node.host, int(node.port)))
