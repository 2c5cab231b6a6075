"""What the rooms of the store share: the way to the server, the names, the numbers that this process gives."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from grafter.core.model import Key
from grafter.core.policy import Waits
from grafter.store.redis.connection import Command, Reply
from grafter.store.redis.errors import TakenOverError
from grafter.store.redis.framing import Words, words
from grafter.store.redis.layout import BUCKETS, Layout, Reader, relative
from grafter.store.redis.scripts import Argument, Item, Scripts
from grafter.store.redis.topology import Topology
from grafter.store.redis.totals import Totals

_LEFT = 3

Run = tuple[Sequence[int], Any]
"""Which of the items one run of a script had, and what it answered."""


class _Runs:
    """Those on their way that count in the books of one set of numbers."""

    __slots__ = ("count", "over")

    def __init__(self) -> None:
        self.count = 0
        self.over: asyncio.Event | None = None
        """Somebody waits for the last one."""


class Engine:
    """See the module's docstring."""

    def __init__(
        self,
        topology: Topology,
        layout: Layout,
        scripts: Scripts,
        waits: Waits,
        *,
        max_bytes: int,
        lease_ns: int,
        guests_apart: bool,
        wait_replicas: int,
    ) -> None:
        self.topology = topology
        self.layout = layout
        self.waits = waits
        self.lease_ns = lease_ns
        self.guests_apart = guests_apart
        self.wait_replicas = wait_replicas
        self.totals = Totals(max_bytes)
        self.reader = Reader()
        self.leases: dict[int, set[Key]] = {}
        """What this process owns, by token; for giving it back at a stop."""
        self.numbers = b""
        """The numbers of this process, a byte each; it stores under the first."""
        self.owner = bytes(8)
        """By what this process is known among those that take keys, and those that take numbers."""
        self.living = b"?"
        """The same of all that live, joined; as it stands while that is not known."""
        self.sure_until = 0.0
        """Of the loop's time: until then nobody else can have taken the numbers."""
        self.taken_over = False
        """Redis has said that somebody did."""
        self.confirm: Callable[[], Awaitable[None]]
        """Makes sure of the numbers, and raises UnavailableError where it cannot (replicas.py)."""
        self._booked = _Runs()
        self._scripts = scripts
        self._left = 0
        self._order = 0
        # Two processes never give the same token to one key: they start anywhere, and each claim takes a new one.
        self._token = int.from_bytes(os.urandom(8), "little") >> 12

    def order(self, now: int | None = None, count: int = 1) -> int:
        """The first of ``count`` numbers that rise with time and with each call, over all replicas as far as their
        clocks agree: microseconds, or one more than the last."""
        first = self._order + 1
        if now is not None:
            first = max(first, relative(now) // 1000)
        self._order = first + count - 1
        return first

    def given_back(self, token: int, key: Key) -> None:
        """This process owns the key no longer."""
        keys = self.leases.get(token)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self.leases[token]

    def tokens(self, count: int = 1) -> int:
        """The first of ``count`` tokens."""
        first = self._token
        self._token += count
        return first

    async def run(
        self,
        name: str,
        items: Sequence[Item],
        head: Sequence[Argument] = (),
        *,
        writing: bool = False,
        wait_replicas: int = 0,
    ) -> list[Run]:
        """Run a script over items, in one round trip: once on a single server, once a bucket in a cluster."""
        commands: list[tuple[int, Command]] = []
        splits = self.topology.split(items)
        totals = self.layout.totals
        first = words(head)
        for indices in splits:
            own = items if len(splits) == 1 else [items[i] for i in indices]
            keys = [totals[bucket] for bucket in dict.fromkeys([item[0] for item in own])]
            arguments = [item if isinstance(item, Words) else words(item) for _, item in own]
            commands.append((own[0][0], self._scripts.command(name, keys, [first, *arguments])))
        return list(
            zip(splits, await self.topology.ask(commands, writing=writing, wait_replicas=wait_replicas), strict=True)
        )

    async def run_booked(
        self,
        name: str,
        items: Sequence[Item],
        head: Sequence[Argument] = (),
        *,
        writing: bool = False,
        wait_replicas: int = 0,
    ) -> list[Run]:
        """As ``run``, of what stands in the books: this process, its token and its numbers, is the last of ``head``.
        Where those may be another's by now, it is asked first; where they are all the same, it is the next time."""
        if asyncio.get_running_loop().time() >= self.sure_until:
            await self.confirm()
        booked = self._booked
        booked.count += 1
        try:
            return await self.run(
                name, items, (*head, self.owner + self.numbers), writing=writing, wait_replicas=wait_replicas
            )
        except TakenOverError:
            self.taken_over, self.sure_until = True, 0.0
            raise
        finally:
            booked.count -= 1
            if booked.over is not None and not booked.count:
                booked.over.set()

    async def under_way(self) -> None:
        """Return when all is answered that was sent by ``run_booked`` until now."""
        before, self._booked = self._booked, _Runs()
        if before.count:
            before.over = asyncio.Event()
            await before.over.wait()

    async def commands(self, commands: Sequence[tuple[int, Command]]) -> list[Reply]:
        """The answers to commands, each with the bucket of its keys."""
        return await self.topology.ask(commands) if commands else []

    async def refresh_totals(self) -> bool:
        """Learn what is held everywhere. What this process stores at the same time would count twice: then it is left
        for the next time, unless it was left a few times. Whether nothing did."""
        changes, busy = self.totals.changes, self.totals.in_flight
        found = await self._totals_of(range(BUCKETS))
        self._left += 1
        still = not busy and not self.totals.in_flight and self.totals.changes == changes
        if not still and self._left < _LEFT:
            return False
        self._left = 0
        self._set_totals(found)
        return still

    async def read_totals(self, buckets: Sequence[int], *, writing: bool = False, begun: Sequence[int] = ()) -> None:
        """Learn what is held in these buckets. ``writing``: on the writers' connection, behind what they have sent;
        ``begun``: numbers that are this process's from there on, and no longer those of who had them before."""
        self._set_totals(await self._totals_of(buckets, writing=writing, begun=begun))

    async def _totals_of(
        self, buckets: Sequence[int], *, writing: bool = False, begun: Sequence[int] = ()
    ) -> dict[int, Reply]:
        items: list[Item] = [(bucket, (bucket,)) for bucket in dict.fromkeys(buckets)]
        runs = await self.run("read_totals", items, (self.owner + bytes(begun) if begun else b"",), writing=writing)
        return {items[i][0]: totals for indices, reply in runs for i, totals in zip(indices, reply, strict=True)}

    def _set_totals(self, found: dict[int, Reply]) -> None:
        for bucket, totals in found.items():
            self.totals.read(bucket, totals)
