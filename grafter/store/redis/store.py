"""The contract over Redis, made of its rooms; see grafter.store.base for the promises.

What Redis answers is what counts: an append returns when the server has answered that it is done, and its own
``appendfsync`` says what that is worth. Whether a claim is still its owner's, only the server knows.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import overload

from grafter.core.calls import CallNote
from grafter.core.model import DedupeKey, Key, Part, UnixNano
from grafter.core.state import TraceState
from grafter.errors import UnavailableError
from grafter.store.model import (
    Claim,
    Claims,
    DeadLetter,
    DeadLettersAdded,
    Memory,
    Outcome,
    Plain,
    PlainBatch,
    PlainLimits,
    PlainSettlement,
    Settlement,
    Stats,
    StoredPart,
    Task,
    TaskThen,
)
from grafter.store.records import RecordError
from grafter.store.redis.calls import Calls
from grafter.store.redis.claims import ClaimTable
from grafter.store.redis.dead_letters import BUCKET, DeadLetters
from grafter.store.redis.dedupe_keys import DedupeKeys
from grafter.store.redis.engine import Engine
from grafter.store.redis.layout import FIXED, MOMENT, Head, bucket_of, guest_states, link_host
from grafter.store.redis.memories import Memories
from grafter.store.redis.part_reader import PartReader
from grafter.store.redis.placement import Placement
from grafter.store.redis.replicas import Replicas
from grafter.store.redis.settling import Settling
from grafter.store.redis.tasks import Tasks

# A Redis that takes no writes may well answer everything else, so that the answer to an append counts for longer.
_REMEMBERED_SECONDS = 10.0
# Long enough that somebody sees it.
_SAID_SECONDS = 3600.0


class RedisStore:
    """Made by ``opening.opened``."""

    def __init__(
        self, engine: Engine, replicas: Replicas, dead_letters: DeadLetters, secret: bytes, moment: UnixNano
    ) -> None:
        self.engine = engine
        self.moment = moment
        """See ``MomentStore``: by Redis' clock, so that all replicas go by one."""
        self.replicas = replicas
        self.stopping = False
        self._refused: tuple[float, str] | None = None
        """When an append failed last, and why, unless one has worked since."""
        self._emptied_at: float | None = None
        self._secret = secret
        self._placement = Placement(engine)
        self._parts = PartReader(engine)
        self._claims = ClaimTable(engine, self._parts)
        self._memories = Memories(engine)
        self._settling = Settling(engine, self._claims, self._memories)
        self._dead_letters = dead_letters
        self._dedupe_keys = DedupeKeys(engine)
        self._tasks = Tasks(engine)
        self._calls = Calls(engine)

    @property
    def up(self) -> bool:
        """False from a failure until Redis answers."""
        return not self.error

    @property
    def error(self) -> str:
        """What is wrong with Redis, for people; empty when nothing is."""
        if self._refused is not None and asyncio.get_running_loop().time() - self._refused[0] < _REMEMBERED_SECONDS:
            return self._refused[1]
        return next((server.last_error for server in self.engine.topology.servers() if server.last_error), "")

    @property
    def warning(self) -> str:
        """What has happened, though it is up; empty when nothing has for an hour."""
        at, now = self._emptied_at, asyncio.get_running_loop().time()
        if at is None or now - at > _SAID_SECONDS:
            return ""
        return f"Redis was emptied {now - at:.0f} s ago: what was held then is lost; input is taken"

    def was_emptied(self) -> None:
        """Redis has nothing more of this prefix."""
        self._emptied_at = asyncio.get_running_loop().time()

    @property
    def full(self) -> bool:
        """Held bytes are close to the limit."""
        totals = self.engine.totals
        return totals.held + totals.pending > totals.max_bytes * 99 // 100

    @property
    def memory_bytes(self) -> int:
        """Nothing of what is held is in this process; what is on its way to Redis is."""
        return self.engine.totals.pending

    @property
    def forgotten(self) -> Mapping[str, int]:
        """Memories that this process forgot since its start, by why (FORGOTTEN_BY)."""
        return self.engine.totals.forgotten

    @property
    def lost_records(self) -> int:
        """It has no records of its own."""
        return 0

    @property
    def forgotten_marks(self) -> int:
        """Dedupe keys that the limit on their number ended, by this process."""
        return self._dedupe_keys.forgotten

    @property
    def unreadable(self) -> int:
        """Held keys that wait for a newer version of grafter, as far as this process has met them."""
        return self._claims.unreadable

    async def recovered(self) -> None:
        """Nothing is rebuilt at a start."""

    def hmac_secret(self) -> bytes:
        """32 random bytes, the same for all replicas of a prefix."""
        return self._secret

    # The contract.

    async def append(self, parts: Sequence[Part], now: UnixNano, dedupe_keys: Sequence[DedupeKey] = ()) -> None:
        if self.stopping:
            raise UnavailableError("the store is stopping", reason="stopping")
        try:
            if parts or not dedupe_keys:
                await self._placement.append(parts, now)
            if dedupe_keys:
                # Only now: a key without its parts would make a repeat lose them.
                await self._dedupe_keys.add(dedupe_keys, now)
        except UnavailableError as error:
            self._refused = asyncio.get_running_loop().time(), str(error)
            raise
        self._refused = None

    async def keep_moment(self, now: UnixNano) -> None:
        await self.engine.commands([(BUCKET, ("HSET", self.engine.layout.tags[BUCKET] + FIXED, MOMENT, now))])

    async def seen(self, ids: Sequence[str], now: UnixNano) -> Sequence[bool]:
        return await self._dedupe_keys.seen(ids, now)

    async def put_calls(self, calls: Sequence[CallNote], now: UnixNano) -> None:
        await self._calls.put(calls, now)

    async def find_calls(self, call_ids: Sequence[str], now: UnixNano) -> Sequence[CallNote | None]:
        return await self._calls.find(call_ids, now)

    async def first_link(self, call_id: str, link: str, now: UnixNano) -> str:
        return await self._calls.first_link(call_id, link, now)

    async def claim(self, now: UnixNano, limit: int, plain: PlainLimits | None = None) -> Sequence[Claim | PlainBatch]:
        return await self._claims.claim(now, limit, plain)

    @overload
    async def read(self, claims: PlainBatch) -> Sequence[Plain]: ...
    @overload
    async def read(self, claims: Sequence[Claim]) -> Sequence[Sequence[StoredPart]]: ...
    async def read(self, claims: Claims) -> Sequence[Plain] | Sequence[Sequence[StoredPart]]:
        return await (self._parts.read_plain(claims) if isinstance(claims, PlainBatch) else self._claims.read(claims))

    async def record(self, claims: Claims, exporter: str, outcome: Outcome) -> Sequence[bool]:
        return await self._settling.record(claims, exporter, outcome)

    async def settle(self, settlements: Sequence[Settlement] | PlainSettlement, now: UnixNano) -> Sequence[bool]:
        return await self._settling.settle(settlements, now)

    async def split(self, batch: PlainBatch) -> Sequence[Claim]:
        return await self._claims.split(batch)

    async def renew(self, claims: Claims, now: UnixNano) -> None:
        await self._settling.renew(claims, now)

    async def postpone(self, claims: Sequence[tuple[Claim, UnixNano]], *, untouched: bool = False) -> None:
        await self._settling.postpone(claims, untouched=untouched)

    async def move(self, claim: Claim, host: Key, *, if_held: bool = False) -> bool:
        if if_held:
            (raw,) = await self.engine.commands([(bucket_of(host), ("GET", self.engine.layout.name(b"m", host)))])
            if raw is None or not Head(raw).host_spans:
                return False
        return await self._placement.move(claim.key, claim.token, host)

    async def defer(self, exporter: str, parts: Sequence[Part], now: UnixNano) -> None:
        await self._placement.defer(exporter, parts, now)

    async def claim_deferred(
        self, exporter: str, now: UnixNano, limit: int, *, postponed: bool = False
    ) -> Sequence[Claim]:
        return await self._claims.claim_deferred(exporter, now, limit, postponed=postponed)

    async def recall(self, keys: Sequence[Key], now: UnixNano) -> Sequence[Memory | None]:
        return await self._memories.recall(keys, now)

    async def peek(self, key: Key) -> TraceState | None:
        name, bucket = self.engine.layout.name, bucket_of(key)
        raw, elements = await self.engine.commands(
            [(bucket, ("GET", name(b"m", key))), (bucket, ("LRANGE", name(b"g", key), 0, -1))]
        )
        if raw is None:
            return None
        try:
            state = Head(raw).state(guest_states(elements))
        except RecordError as error:
            raise UnavailableError(f"only a newer version of grafter can read it: {error}") from error
        return state if state.host_spans or state.guests else None

    async def host_of(self, guest: Key) -> Key | None:
        (raw,) = await self.engine.commands([(bucket_of(guest), ("GET", self.engine.layout.name(b"l", guest)))])
        host = link_host(raw)
        return None if host is None else Key(host)

    async def add_dead_letters(self, letters: Sequence[DeadLetter], *, together: bool = False) -> DeadLettersAdded:
        return await self._dead_letters.add(letters, together=together)

    async def dead_letters(self, limit: int, *, skip: int = 0, oldest: bool = False) -> Sequence[DeadLetter]:
        return await self._dead_letters.page(limit, skip, oldest=oldest)

    async def remove_dead_letters(self, letters: Sequence[DeadLetter]) -> Sequence[bool]:
        return await self._dead_letters.remove(letters)

    async def record_retry(self, letters: Sequence[DeadLetter], *, begun: bool) -> None:
        await self._dead_letters.record_retry(letters, begun=begun)

    async def put_tasks(self, tasks: Sequence[Task], now: UnixNano, *, leaving: bool = False) -> None:
        await self._tasks.put(tasks, now, leaving=leaving)

    async def claim_tasks(self, kind: str, now: UnixNano, limit: int) -> Sequence[Task]:
        return await self._tasks.claim(kind, now, limit)

    async def find_task(self, kind: str, name: str) -> Task | None:
        return await self._tasks.find(kind, name)

    async def update_task(self, task: Task, then: TaskThen) -> bool:
        return await self._tasks.update(task, then)

    async def renew_tasks(self, tasks: Sequence[Task], now: UnixNano) -> None:
        await self._tasks.renew(tasks, now)

    def stats(self) -> Stats:
        return replace(self.replicas.stats(), unreadable=self.unreadable, dead_letters=self._dead_letters.held)

    async def abandon(self) -> None:
        """Give back what this process owns: others need not wait until its leases end."""
        await self._settling.abandon()
        await self._tasks.abandon()
        await self.replicas.leave()
