"""A cluster: which node has a bucket's slot, and what to do when it has moved."""

import asyncio
from binascii import crc_hqx
from collections.abc import Awaitable, Callable, Sequence

from hiredis import ReplyError

from grafter.errors import UnavailableError
from grafter.store.redis.address import Address, Peer
from grafter.store.redis.connection import Command, Reply
from grafter.store.redis.layout import BUCKETS, Layout
from grafter.store.redis.scripts import Item
from grafter.store.redis.server import Server, replicated
from grafter.store.redis.trouble import Answer, answer_of

_SLOTS = 16384
_ATTEMPTS = 5
_PAUSE = 0.1


def slot_of(tag: bytes) -> int:
    """The slot of keys with this hash tag. Source: Redis cluster specification, CRC16 (XMODEM) modulo 16384."""
    return crc_hqx(tag, 0) % _SLOTS


class Cluster:
    """All buckets, each on the node that has its slot."""

    def __init__(
        self,
        address: Address,
        layout: Layout,
        server: Callable[[Callable[[], Awaitable[Peer]], str], Server],
        timeout: float,
    ) -> None:
        self._address = address
        self._server = server
        self._timeout = timeout
        self._slots = [slot_of(tag[tag.index(b"{") + 1 : tag.index(b"}")]) for tag in layout.tags]
        self._nodes: dict[Peer, Server] = {}
        self._of: list[Server | None] = [None] * BUCKETS
        self._finding = asyncio.Lock()
        self._found = 0

    def servers(self) -> Sequence[Server]:
        return list(self._nodes.values())

    async def start(self) -> None:
        await self._find(self._found)

    def split(self, items: Sequence[Item]) -> list[Sequence[int]]:
        split: dict[int, list[int]] = {}
        for i, (bucket, _) in enumerate(items):
            split.setdefault(bucket, []).append(i)
        return list(split.values())

    async def ask(
        self, commands: Sequence[tuple[int, Command]], lane: int | None = None, wait_replicas: int = 0
    ) -> list[Reply]:
        replies: list[Reply] = [None] * len(commands)
        left = list(range(len(commands)))
        for attempt in range(_ATTEMPTS):
            if attempt > 1:
                await asyncio.sleep(_PAUSE)
            found = self._found
            by_node: dict[Server, list[int]] = {}
            for i in left:
                node = self._of[commands[i][0]]
                if node is None:
                    raise UnavailableError("no node of the cluster has this slot", reason="store_down")
                by_node.setdefault(node, []).append(i)
            answers = await asyncio.gather(
                *(
                    self._ask(node, [commands[i][1] for i in some], lane, wait_replicas)
                    for node, some in by_node.items()
                ),
                return_exceptions=True,
            )
            failure: BaseException | None = None
            again: list[int] = []
            moved = False
            for (node, some), answer in zip(by_node.items(), answers, strict=True):
                if isinstance(answer, BaseException):
                    # It may be gone for good, and another one have its slots by now.
                    failure, moved = answer, True
                    continue
                for i, reply in zip(some, answer, strict=True):
                    replies[i] = reply
                    if not isinstance(reply, ReplyError):
                        continue
                    what = answer_of(reply)
                    if what is Answer.MOVED:
                        moved = True
                        again.append(i)
                    elif what is Answer.ASK:
                        replies[i] = await self._asking(str(reply), commands[i][1])
                        if isinstance(replies[i], ReplyError):
                            again.append(i)
                    elif what is Answer.TRYAGAIN:
                        again.append(i)
                    else:
                        moved = moved or what in (Answer.CLUSTERDOWN, Answer.READONLY)
                        failure = failure or node.failed(reply)
            if moved:
                await self._find(found)
            if failure is not None:
                raise failure
            if not again:
                return replies
            left = again
        raise UnavailableError("a slot of the cluster is being moved", reason="store_down")

    async def _ask(
        self, node: Server, commands: Sequence[Command], lane: int | None, wait_replicas: int
    ) -> list[Reply]:
        if wait_replicas:
            return await replicated(node, commands, lane, wait_replicas, self._timeout)
        return await node.ask(commands, lane)

    async def _asking(self, error: str, command: Command) -> Reply:
        """Ask the node that is taking the slot over."""
        node = self._node(_peer(error))
        _, reply = await node.ask([("ASKING",), command])
        return reply

    def _node(self, peer: Peer) -> Server:
        node = self._nodes.get(peer)
        if node is None:

            async def there() -> Peer:
                return peer

            node = self._nodes[peer] = self._server(there, f"{peer[0]}:{peer[1]}")
        return node

    async def _find(self, found: int) -> None:
        """Ask any node which has which slots; once for all who noticed at the same time."""
        async with self._finding:
            if self._found != found:
                return
            known = [(server.where, server) for server in self._nodes.values()]
            known += [(f"{host}:{port}", self._node((host, port))) for host, port in self._address.peers]
            trouble: UnavailableError | None = None
            for where, server in known:
                try:
                    (reply,) = await server.ask([("CLUSTER", "SLOTS")])
                except UnavailableError as error:
                    trouble = error
                    continue
                if isinstance(reply, ReplyError):
                    trouble = server.failed(reply)
                    continue
                self._read(reply, where)
                self._found += 1
                return
            raise trouble or UnavailableError("no node of the cluster answers", reason="store_down")

    def _read(self, ranges: Sequence[Sequence[Reply]], where: str) -> None:
        owners: list[Server | None] = [None] * BUCKETS
        masters: set[Peer] = set()
        for first, last, master, *_ in ranges:
            # A node that knows no name for itself leaves it out: then it is where it was asked.
            peer = (master[0].decode() if master[0] else where.rpartition(":")[0], int(master[1]))
            masters.add(peer)
            node = self._node(peer)
            for bucket, slot in enumerate(self._slots):
                if first <= slot <= last:
                    owners[bucket] = node
        self._of = owners
        for peer in set(self._nodes) - masters:
            self._nodes.pop(peer).close()


def _peer(error: str) -> Peer:
    """``ASK 3999 127.0.0.1:6381``"""
    host, _, port = error.split()[-1].rpartition(":")
    return host, int(port)
