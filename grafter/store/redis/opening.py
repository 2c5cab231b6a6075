"""Start, checks and stop of the store on Redis."""

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from grafter.core.model import UnixNano
from grafter.core.policy import SECOND, Waits
from grafter.errors import UnavailableError
from grafter.store.model import StoreError
from grafter.store.redis import address as addresses
from grafter.store.redis.connection import Command
from grafter.store.redis.dead_letters import BUCKET, KEPT_MS, DeadLetters
from grafter.store.redis.engine import Engine
from grafter.store.redis.errors import RefusedError
from grafter.store.redis.layout import BUCKETS, FIXED, FORMAT, MOMENT, Layout
from grafter.store.redis.replicas import LEAST_LEASE_SECONDS, Replicas
from grafter.store.redis.scripts import Scripts
from grafter.store.redis.server import Server
from grafter.store.redis.store import RedisStore
from grafter.store.redis.topology import topology
from grafter.store.redis.upkeep import Upkeep
from grafter.tasks import task_group

_LOG = logging.getLogger(__name__)
_OLDEST = (6, 2)
_PAUSE = 0.2
_SAY_SECONDS = 60.0
LETTER_BYTES = 64 << 20


@asynccontextmanager
async def opened(
    url: str,
    *,
    waits: Waits,
    max_bytes: int,
    max_trace_bytes: int,
    lease_ns: int,
    guests_apart: bool,
    prefix: str = "grafter",
    pool_size: int = 8,
    timeout: float = 5.0,
    wait_replicas: int = 0,
    letter_bytes: int = LETTER_BYTES,
    drop_oldest_letters: bool = False,
    start_seconds: float = 30.0,
    waiting: Callable[[str], None] | None = None,
    goodbye_seconds: float = 2.0,
    version: str = "",
    replica: bytes = b"",
    upkeep_seconds: float = 1.0,
    least_lease_seconds: float = LEAST_LEASE_SECONDS,
) -> AsyncIterator[RedisStore]:
    """Open the store of a prefix. On leaving, what this process owns is given back, if Redis takes it within
    ``goodbye_seconds``; else it is due again when its leases end. What is held stays.

    Redis may come up later than this process: it is waited for up to ``start_seconds``, or as long as it takes where
    somebody (``waiting``) is told each time why it cannot be used yet. Raises StoreError when it does not come, or must
    not be used as it is set up; the message says what to do. ``replica``: 8 bytes, the same for a process that goes on
    with the books of one that is dead; random ones otherwise. ``upkeep_seconds``: after how many it learns what others
    did. Past ``letter_bytes`` of dead letters the oldest go (``drop_oldest_letters``), or no more are taken.
    ``least_lease_seconds``: of silence before a process may be taken for dead.
    """
    try:
        address = addresses.parse(url)
    except addresses.AddressError as error:
        raise StoreError(str(error)) from error
    layout = Layout(prefix)
    scripts = Scripts(layout.prefix, waits, apart=guests_apart, max_trace_bytes=max_trace_bytes, version=version)
    try:
        servers = topology(address, layout, scripts, pool_size=pool_size, timeout=timeout)
    except OSError as error:
        raise StoreError(f"cannot read a file of TLS: {error}") from error
    engine = Engine(
        servers,
        layout,
        scripts,
        waits,
        max_bytes=max_bytes,
        lease_ns=lease_ns,
        guests_apart=guests_apart,
        wait_replicas=wait_replicas,
    )
    replicas = Replicas(engine, replica or os.urandom(8), least_lease_seconds)
    try:
        secret, moment = await _started(engine, replicas, address, start_seconds, waiting)
        letters = DeadLetters(engine, letter_bytes, drop_oldest=drop_oldest_letters)
        with suppress(UnavailableError):
            await letters.refresh()
        store = RedisStore(engine, replicas, letters, secret, moment)
        async with task_group() as tasks:
            fixed = (b"format", FORMAT, b"buckets", BUCKETS, b"secret", secret)
            keeping = Upkeep(engine, replicas, letters, upkeep_seconds, fixed=fixed, emptied=store.was_emptied)
            upkeep = tasks.create_task(keeping.run(), name="store.upkeep")
            try:
                yield store
            finally:
                store.stopping = True
                upkeep.cancel()
                with suppress(UnavailableError, TimeoutError):
                    async with asyncio.timeout(goodbye_seconds):
                        await store.abandon()
    finally:
        await servers.close()


async def _started(
    engine: Engine,
    replicas: Replicas,
    address: addresses.Address,
    patience: float,
    waiting: Callable[[str], None] | None,
) -> tuple[bytes, UnixNano]:
    """Wait for Redis, see that it may be used, find what is fixed for the prefix and enter there; the secret, and the
    moment that it is: Redis' own, or a later one that was kept."""
    loop = asyncio.get_running_loop()
    began = say_at = loop.time()
    while True:
        try:
            await engine.topology.start()
            for server in engine.topology.servers():
                await check(server, address)
            secret, moment = await _fixed(engine)
            await replicas.start()
            return secret, moment
        except UnavailableError as error:
            seconds = loop.time() - began
            if isinstance(error, RefusedError) or (waiting is None and seconds >= patience):
                raise StoreError(f"{error}; check extensions.store.redis.url") from error
            if waiting is not None:
                waiting(str(error))
            if loop.time() >= say_at:
                say_at += _SAY_SECONDS
                _LOG.warning("waiting for Redis, since %.0f s; no door is open until it is there: %s", seconds, error)
            await asyncio.sleep(_PAUSE)


async def check(server: Server, address: addresses.Address) -> None:
    """Raises StoreError when what is held would not be safe there."""
    replies = await server.answers([("INFO", "server"), ("INFO", "memory"), ("INFO", "cluster")])
    lines = b"".join(replies).decode("utf-8", "replace").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    version = facts.get("redis_version", "")
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < _OLDEST:
        raise StoreError(f"Redis at {server.where} is {version}, expected 6.2 or later (or Valkey)")
    if facts.get("cluster_enabled") == "1" and address.kind is not addresses.Kind.CLUSTER:
        raise StoreError(f"Redis at {server.where} is a cluster; use redis+cluster:// in extensions.store.redis.url")
    if facts.get("cluster_enabled") != "1" and address.kind is addresses.Kind.CLUSTER:
        raise StoreError(f"Redis at {server.where} is no cluster; use redis:// in extensions.store.redis.url")
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StoreError(
            f"Redis at {server.where} evicts keys when its memory is full (maxmemory-policy {policy}), held traces"
            " among them; run `redis-cli CONFIG SET maxmemory-policy noeviction` and set the same in its configuration"
        )


async def _fixed(engine: Engine) -> tuple[bytes, UnixNano]:
    name = engine.layout.tags[BUCKET] + FIXED
    commands: list[Command] = [
        ("HSETNX", name, "format", FORMAT),
        ("HSETNX", name, "buckets", BUCKETS),
        ("HSETNX", name, "secret", os.urandom(32)),
        ("PEXPIRE", name, KEPT_MS),
        ("HMGET", name, "format", "buckets", "secret", MOMENT),
        ("TIME",),
    ]
    *_, found, time = await engine.commands([(BUCKET, command) for command in commands])
    form, buckets, secret, kept = found
    if int(form) != FORMAT or int(buckets) != BUCKETS:
        raise StoreError(
            f"what is held under this prefix has format {int(form)} with {int(buckets)} buckets, this version knows"
            f" {FORMAT} with {BUCKETS}; set another extensions.store.redis.prefix"
        )
    seconds, microseconds = map(int, time)
    return bytes(secret), UnixNano(max(seconds * SECOND + microseconds * 1000, int(kept or 0)))
