"""An hour of troubles drawn at random, and after each minute of them a look at the books.

    python -m tests.faults.random_troubles [--minutes 60] [--seed N] [--store embedded|redis]

A round is troubles one after the other, some at the same time, while senders send; then all of it ends, and without
anybody's help everything acknowledged has to come out, once or marked, nothing stays held, the books balance and the
doors take again. One line a round says how long that took. Without a seed one is drawn; it is said first. Linux.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.process import Grafter
from tests.faults.replica_books import CAME, WENT, sides
from tests.faults.test_damaged_ledger import cut_to_half, header_overwritten, pages_overwritten
from tests.faults.troubles_oracle import MODES, Backend, Oracle, backend
from tests.store.redis.servers import Server

ROUND_SECONDS = 40.0
STUCK_SECONDS = 180.0
"""Without anything new coming out after the last trouble: the longest backoff is a minute, and machines are busy. How
long it takes until all is out is the machine's."""
READY_SECONDS = 15.0
LOADED_SECONDS = 900.0
"""What Redis may take to read its file again: how long that is, is Redis' and the machine's."""
SENDERS, FLOODERS = 4, 12
HEADERS = {"Content-Type": "application/x-protobuf"}
DISK_MIB = 192
LETTERS = "dead letters"
WAITS = {"after_root": "500ms", "idle": "10s", "local_root": "5s"}


@dataclass
class World:
    """What there is to trouble."""

    chance: random.Random
    oracle: Oracle
    backend: Backend
    grafters: list[Grafter]
    offset: Path
    """The wall clock's, as the processes see it."""
    disk: Path | None = None
    """A small one, where the store lies on one."""
    redis: Server | None = None
    down: set[int] = field(default_factory=set)
    """Grafters that are being ended or started."""
    number: int = 0
    over: bool = False
    hurry: bool = False
    """A flood goes on."""

    def one(self) -> Grafter:
        return self.chance.choice(self.grafters)

    async def pause(self, least: float, most: float) -> None:
        await asyncio.sleep(self.chance.uniform(least, most))

    def request(self, traces: int) -> tuple[bytes, set[bytes]]:
        """Whole traces that were never sent before; and their spans."""
        made, keys = ExportTraceServiceRequest(), set()
        spans = made.resource_spans.add().scope_spans.add().spans
        for _ in range(traces):
            self.number += 1
            trace_id = b"soak" + self.number.to_bytes(12)
            for span in (1, 2, 3):
                parent = b"" if span == 1 else (1).to_bytes(8)
                spans.add(trace_id=trace_id, span_id=span.to_bytes(8), parent_span_id=parent, name="x" * 60)
                keys.add(trace_id + span.to_bytes(8))
        return made.SerializeToString(), keys

    async def send(self, http: aiohttp.ClientSession, traces: int, to: Grafter | None = None) -> bool:
        """One request, to this one or any of them; whether it was acknowledged."""
        body, keys = self.request(traces)
        self.oracle.unknown |= keys
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with http.post(f"{(to or self.one()).otlp_http}/v1/traces", data=body, headers=HEADERS) as answer:
                assert answer.status in (200, 503), (answer.status, await answer.text())
                if answer.status == 200:
                    self.oracle.taken(keys)
                    return True
        return False

    async def keep_sending(self, http: aiohttp.ClientSession) -> None:
        while not self.over:
            taken = await self.send(http, self.chance.randint(1, 30))
            await asyncio.sleep(0.1 if taken else 0.3)

    async def keep_flooding(self, http: aiohttp.ClientSession) -> None:
        while not self.over:
            if self.hurry:
                await self.send(http, 300)
            await asyncio.sleep(0.02 if self.hurry else 0.2)

    def set_wall_clock(self, seconds: float) -> None:
        # In place: processes have the file mapped, and one that looks while it is empty dies of SIGBUS.
        with self.offset.open("r+b") as file:
            file.write(struct.pack("=q", int(seconds * 1e9)))


def still_there(one: Grafter) -> None:
    """Fails with what it said last where it ended by itself."""
    assert one.is_alive(), f"a grafter ended by itself, with {one.exit_code}:\n{one.log()}"


Trouble = Callable[[World], Coroutine[Any, Any, None]]


async def bad_backend(world: World) -> None:
    world.backend.mode = world.chance.choice(MODES)
    await world.pause(2, 12)
    world.backend.mode = ""


async def kill(world: World) -> None:
    await _end(world, Grafter.kill)


async def stop(world: World) -> None:
    async def terminate(one: Grafter) -> None:
        # The other where it had only just been started, and Python did not listen to signals yet.
        code = await one.terminate()
        assert code in (0, -signal.SIGTERM), f"a stop ended with {code}:\n{one.log()}"

    await _end(world, terminate)


async def kill_twice(world: World) -> None:
    await kill(world)
    await kill(world)


async def freeze(world: World) -> None:
    one = world.one()
    if id(one) in world.down:
        return
    still_there(one)
    world.down.add(id(one))
    one.freeze()
    try:
        await world.pause(0.5, 8)
    finally:
        one.thaw()
        world.down.discard(id(one))


async def flood(world: World) -> None:
    world.hurry = True
    await world.pause(2, 6)
    world.hurry = False


async def clock_jump(world: World) -> None:
    world.set_wall_clock(world.chance.choice([-86400, -3600, -60, 60, 3600, 86400]))
    await world.pause(2, 10)
    if world.chance.random() < 0.5:
        world.set_wall_clock(0)


async def full_disk(world: World) -> None:
    assert world.disk is not None
    ballast = world.disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    await world.pause(2, 10)
    ballast.unlink(missing_ok=True)


async def damaged_ledger(world: World) -> None:
    """While it is used, or before a start."""
    damage = world.chance.choice([header_overwritten, pages_overwritten, cut_to_half])
    (one,) = world.grafters
    path = (world.disk or one.home) / "store" / "ledger.sqlite"
    if world.chance.random() < 0.5 or id(one) in world.down:
        with suppress(OSError):
            damage(path)
        return

    async def kill_and_damage(one: Grafter) -> None:
        await one.kill()
        with suppress(OSError):
            damage(path)

    await _end(world, kill_and_damage)


async def redis_killed(world: World) -> None:
    assert world.redis is not None
    redis = world.redis
    redis.kill()
    await world.pause(0.1, 6)
    with unloaded():
        await asyncio.to_thread(redis.start)


async def redis_frozen(world: World) -> None:
    assert world.redis is not None
    world.redis.pause()
    try:
        await world.pause(0.5, 8)
    finally:
        world.redis.resume()


async def _end(world: World, how: Callable[[Grafter], Awaitable[Any]]) -> None:
    one = world.one()
    if id(one) in world.down:
        return
    world.down.add(id(one))
    try:
        await how(one)
        await world.pause(0, 3)
        await one.start(ready=False)
        # Otherwise the next one would mostly meet a process that is not there yet; without room it may take longer.
        deadline = time.monotonic() + READY_SECONDS
        async with aiohttp.ClientSession() as http:
            while time.monotonic() < deadline and one.is_alive() and not await one.is_ready(http):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    finally:
        world.down.discard(id(one))


EMBEDDED: Sequence[Trouble] = (
    bad_backend,
    bad_backend,
    kill,
    stop,
    kill_twice,
    freeze,
    flood,
    clock_jump,
    damaged_ledger,
)
REDIS: Sequence[Trouble] = (bad_backend, bad_backend, kill, stop, freeze, flood, clock_jump, redis_killed, redis_frozen)
_ALONE = (redis_killed, redis_frozen)
"""Both end and start the same server."""


async def troubles(world: World, seconds: float) -> list[str]:
    """Draw them for so long; the names of those that were."""
    drawn: list[str] = []
    kinds: list[Trouble] = list(REDIS if world.redis is not None else EMBEDDED)
    if world.disk is not None:
        kinds.append(full_disk)
    running: dict[Trouble, asyncio.Task[None]] = {}
    end = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < end:
            trouble = world.chance.choice(kinds)
            busy = {kind for kind, task in running.items() if not task.done()}
            if len(busy) < 2 and trouble not in busy and not (trouble in _ALONE and busy & set(_ALONE)):
                running[trouble] = group.create_task(trouble(world))
                drawn.append(trouble.__name__)
            await world.pause(0.5, 4)
    return drawn


async def redis_loaded(redis: Server) -> None:
    """Return when it has read its file; grafter can do nothing before."""
    async with asyncio.timeout(LOADED_SECONDS):
        while True:
            with suppress(OSError):
                (answer,) = await asyncio.to_thread(redis.ask, [("PING",)])
                if not isinstance(answer, Exception):
                    return
            await asyncio.sleep(0.2)


async def doors_open(world: World, http: aiohttp.ClientSession) -> None:
    """Return when each of them has taken a request."""
    for one in world.grafters:
        while not await world.send(http, 1, one):
            still_there(one)
            await asyncio.sleep(0.2)


async def unsettled(world: World, http: aiohttp.ClientSession) -> list[str]:
    """What is not yet as it has to be in the end; empty when all is."""
    wrong = []
    for at, one in enumerate(world.grafters):
        still_there(one)
        try:
            page = await one.counters(http)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            wrong.append(f"{at}: no metrics ({error!r})")
            continue
        came, went = sides(page)
        came += page["grafter_revived_spans_total"]
        if page["grafter_held_spans"] or page["grafter_held_traces"]:
            wrong.append(f"{at}: holds {page['grafter_held_spans']:.0f} spans")
        if page["grafter_dead_letters"]:
            wrong.append(f"{at}: {page['grafter_dead_letters']:.0f} {LETTERS}")
        if came != went:
            terms = {name: page[f"grafter_{name}_spans_total"] for name in CAME + WENT}
            wrong.append(f"{at}: the books are off by {came - went:.0f}: {terms}")
    if world.oracle.unread:
        wrong.append(f"{world.oracle.unread} requests came and are not counted yet")
    elif missing := world.oracle.missing():
        wrong.append(f"{missing} acknowledged spans have not come")
    return wrong


async def calm(world: World, http: aiohttp.ClientSession) -> tuple[float, float]:
    """Wait until all is well again, without doing anything but sending dead letters again; the seconds until the doors
    took, and until everything was out. Fails when nothing comes out for too long, and when something is wrong by then.
    """
    if world.redis is not None:
        await redis_loaded(world.redis)
    began = time.monotonic()
    wrong: list[str] = ["the doors do not take"]
    opened = retried = 0.0
    out, oracle = 0, world.oracle
    try:
        async with asyncio.timeout(STUCK_SECONDS) as patience:
            await doors_open(world, http)
            opened = time.monotonic() - began
            while wrong := await unsettled(world, http):
                if len(oracle.copies) > out:
                    out = len(oracle.copies)
                    patience.reschedule(asyncio.get_running_loop().time() + STUCK_SECONDS)
                if any(LETTERS in line for line in wrong) and time.monotonic() - retried > 10:
                    retried = time.monotonic()
                    await world.grafters[0].command("dead", "retry", "--all")
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise AssertionError(f"stuck {STUCK_SECONDS:g} s after the last that came: {wrong}") from None
    if faults := world.oracle.faults():
        raise AssertionError(f"{faults}")
    return opened, time.monotonic() - began


@asynccontextmanager
async def small_disk(home: Path) -> AsyncIterator[Path | None]:
    """One of DISK_MIB, where this user may mount one."""
    path = home / "disk"
    path.mkdir()
    mounted = await asyncio.create_subprocess_exec(
        *("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(path)), stderr=subprocess.DEVNULL
    )
    if await mounted.wait() != 0:
        yield None
        return
    try:
        yield path
    finally:
        unmounted = await asyncio.create_subprocess_exec("umount", str(path))
        assert await unmounted.wait() == 0


def preload(home: Path) -> Path:
    """Have processes that are started from now on see a wall clock that is off; the file that says by how much."""
    library, offset = home / "wall_clock.so", home / "wall_clock"
    source = Path(__file__).parent / "wall_clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    offset.write_bytes(bytes(8))
    os.environ |= {"LD_PRELOAD": str(library), "WALL_CLOCK_OFF": str(offset)}
    return offset


@contextmanager
def unloaded() -> Iterator[None]:
    """Processes that are started meanwhile see the clock as it is: a Redis 6.2 that saw it go back by a day crashed
    when it read its file again, and nothing could be tried any more."""
    library = os.environ.pop("LD_PRELOAD")
    try:
        yield
    finally:
        os.environ["LD_PRELOAD"] = library


@asynccontextmanager
async def world_of(home: Path, store: str, chance: random.Random) -> AsyncIterator[World]:
    """Everything that runs."""
    oracle = Oracle()
    offset = preload(home)
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(backend(oracle))
        exporters = {
            "otlp_http": {
                "endpoint": peer.address,
                "timeout": "5s",
                "retry_on_failure": {"initial_interval": "1s", "max_interval": "5s"},
            }
        }
        world = World(chance, oracle, peer, [], offset)
        if store == "redis":
            with unloaded():
                world.redis = Server("--appendonly", "yes", "--appendfsync", "always")
            stack.callback(world.redis.close)
        else:
            world.disk = await stack.enter_async_context(small_disk(home))
        for number in range(2 if store == "redis" else 1):
            place = home / str(number)
            place.mkdir()
            settings: dict[str, Any] = {"embedded": {"directory": str((world.disk or place) / "store")}}
            if world.redis is not None:
                settings = {"redis": {"url": world.redis.url, "timeout": "2s"}, "lease": "3s"}
            one = Grafter(place, exporters, WAITS, store=settings)
            config = yaml.safe_load(one.config.read_text())
            config["service"]["shutdown_timeout"] = "10s"
            one.config.write_text(yaml.safe_dump(config))
            stack.push_async_callback(one.close)
            world.grafters.append(one)
            await one.start(ready=False)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as http:
            async with asyncio.timeout(STUCK_SECONDS):
                await doors_open(world, http)
        yield world


def _say_logs(home: Path, logs: list[Path]) -> Callable[..., None]:
    def say(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for path in [*sorted(home.glob("*/grafter.log")), *logs]:
                print(f"{path.parent.name}: {path.read_text(errors='replace')[-6000:]}", flush=True)

    return say


async def soak(minutes: float, seed: int, store: str) -> None:
    """Rounds for so long; one line each. Fails with what is wrong."""
    home = Path(tempfile.mkdtemp(prefix="grafter-troubles-"))
    print(f"{store}, seed {seed}, {minutes:g} minutes", flush=True)
    end = time.monotonic() + 60 * minutes
    round_number = 0
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        world = await stack.enter_async_context(world_of(home, store, random.Random(seed)))
        # As long as they are there.
        stack.push(_say_logs(home, [world.redis.directory / "log"] if world.redis is not None else []))
        if store == "embedded" and world.disk is None:
            print("left out: a full disk, for this user may not mount one", flush=True)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)))
        while time.monotonic() < end or not round_number:
            round_number += 1
            world.over = False
            async with asyncio.TaskGroup() as group:
                for _ in range(SENDERS):
                    group.create_task(world.keep_sending(http))
                for _ in range(FLOODERS):
                    group.create_task(world.keep_flooding(http))
                try:
                    drawn = await troubles(world, ROUND_SECONDS)
                finally:
                    world.over = True
            print(f"round {round_number}: {' '.join(drawn)}", flush=True)
            opened, out = await calm(world, http)
            if world.redis is not None:
                # By itself it would wait for its file to double since its start, and at each kill it starts.
                await asyncio.to_thread(world.redis.ask, [("BGREWRITEAOF",)])
            oracle = world.oracle
            print(
                f"round {round_number}: acknowledged {len(oracle.acknowledged)}, not acknowledged "
                f"{len(oracle.unknown)}, out {len(oracle.copies)}, repeated {oracle.repeated()}, all of them marked; "
                f"doors open after {opened:.1f} s, all out after {out:.1f} s",
                flush=True,
            )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="tests.faults.random_troubles")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--store", choices=["embedded", "redis"], action="append")
    args = parser.parse_args()
    stores = args.store or ["embedded", "redis"]
    for store in stores:
        asyncio.run(soak(args.minutes / len(stores), args.seed, store))


if __name__ == "__main__":
    main()
