"""Whose a number is, and in whose books its spans are, where an answer gets lost or a process is killed just then."""

import asyncio
import signal
import struct
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf

import pytest

from grafter.errors import UnavailableError
from grafter.store.model import Stats
from tests.e2e.process import REPO
from tests.store.contract import HOST, OTHER, Settings, guest_part, host_part
from tests.store.redis.books import BY_HAND, Process, be_silent, flows, new_prefix, processes, take_over
from tests.store.redis.places import store
from tests.store.redis.proxy import Proxy, proxy
from tests.store.redis.servers import Server, server


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server() as running:
        yield running


def texts(one: Process, step: str, wanted: bytes, noted: bytes) -> Sequence[bytes]:
    """By what the request of a step is known on the wire: the numbers that are wanted in it, or noted."""
    hashes = one.store.engine._scripts.hashes
    if step == "take":
        return hashes["register_replica"], words(wanted, b"", b"")
    if step == "begin":
        return hashes["read_totals"], b"\r\n$9\r\n"
    if step == "part":
        return (words(b"SET"),)
    return hashes["register_replica"], words(b"", b"", noted)


def words(*these: bytes) -> bytes:
    return b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in these)


async def records(one: Process) -> dict[int, bytes]:
    """What Redis knows of each number."""
    engine = one.store.engine
    (flat,) = await engine.commands([(0, ("HGETALL", engine.layout.tags[0] + b"replicas"))])
    return {int(number): raw for number, raw in zip(flat[::2], flat[1::2], strict=True)}


async def numbered(one: Process, number: int) -> None:
    """Return when somebody has that number."""
    while True:
        if number in await records(one):
            return
        await asyncio.sleep(0.02)


async def ended(one: Process, number: int) -> None:
    """Return when nobody lives under it."""
    while True:
        ((seconds, micros),) = await one.store.engine.commands([(0, ("TIME",))])
        (ends,) = struct.unpack_from("<d", (await records(one))[number], 9)
        if ends <= int(seconds) * 1000 + int(micros) // 1000:
            return
        await asyncio.sleep(0.02)


async def reached(one: Process) -> Stats:
    """What it shows once it has its way to Redis again."""
    while True:
        with suppress(UnavailableError):
            return await one.look()
        await asyncio.sleep(0.02)


@asynccontextmanager
async def behind(door: Proxy, prefix: str) -> AsyncIterator[Process]:
    """A process for which each way to Redis leads through the door."""
    async with store(f"redis://127.0.0.1:{door.port}/0", prefix, Settings(), **BY_HAND) as running:
        yield Process(running)


async def taken_over(one: Process) -> None:
    """Return when all that it knows of is its own; each look is one of those of a second."""
    while True:
        stats = await one.look()
        if stats.own is not None and stats.own.spans == stats.spans:
            return
        await asyncio.sleep(0.02)


STEPS = [(step, done) for step in ("take", "begin", "part", "note") for done in (False, True)]
"""What it takes until a number has come into the books of who takes it, and whether Redis has done it."""


@pytest.mark.parametrize(("step", "done"), STEPS)
async def test_a_takeover_without_an_answer_parts_the_books_where_they_began(
    redis: Server, step: str, done: bool
) -> None:
    """The frozen one comes back when what it held has been settled; it had handed over what the new owner found."""
    prefix = new_prefix()
    async with (
        processes(redis.url, 1, prefix, **BY_HAND) as (frozen,),
        proxy(redis.port) as door,
        behind(door, prefix) as other,
    ):
        await frozen.take(host_part("before", spans=3))
        door.cut_off(*texts(frozen, step, b"\1", b"\2\1"), done=done)
        with pytest.raises(UnavailableError):
            await take_over(other, frozen)
        assert door.sprung.is_set()
        await taken_over(other)
        await other.let_go()
        assert flows(await other.look(), await frozen.look()) == [(0, 3, 0), (0, 0, 3)]
        await frozen.take(host_part("after", OTHER, spans=5))
        assert flows(await frozen.look(), await other.look()) == [(5, 0, 3), (0, 3, 0)]
        assert [one.store.stats().recovered_spans for one in (frozen, other)] == [0, 0]


AT_START = [("take", True), ("part", False)]


@pytest.mark.parametrize(
    ("when", "step", "done"), [*(("look", *step) for step in STEPS), *(("start", *step) for step in AT_START)]
)
async def test_a_kill_in_the_middle_of_a_takeover_leaves_its_two_ends(
    redis: Server, when: str, step: str, done: bool
) -> None:
    """A process that is taking a number is killed; another one takes it, settles what is there, and then the one that
    had it first comes back: these two share its spans."""
    prefix = new_prefix()
    async with proxy(redis.port) as door, processes(redis.url, 2, prefix, **BY_HAND) as (frozen, last):
        await frozen.take(host_part("before", spans=3))
        process: asyncio.subprocess.Process | None = None

        def kill() -> None:
            assert process is not None
            process.send_signal(signal.SIGKILL)

        at_start = when == "start"
        trap = texts(frozen, step, b"" if at_start else b"\1", b"\1" if at_start else b"\3\1")
        if at_start:
            await be_silent(frozen)
            door.cut_off(*trap, done=done, then=kill)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.store.redis.child", f"redis://127.0.0.1:{door.port}/0", prefix), cwd=REPO
        )
        try:
            async with asyncio.timeout(60):
                if not at_start:
                    await numbered(last, 3)
                    await be_silent(frozen)
                    door.cut_off(*trap, done=done, then=kill)
                await door.sprung.wait()
                await process.wait()
                await ended(last, 1)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        frozen.store.engine.sure_until = 0.0
        last.store.replicas._alone[1] = inf
        await last.look()
        assert last.store.engine.numbers == b"\2\1"
        await last.let_go()
        assert flows(await last.look(), await frozen.look()) == [(0, 3, 0), (0, 0, 3)]
        assert [one.store.stats().recovered_spans for one in (frozen, last)] == [0, 0]


@pytest.mark.parametrize("done", [True, False])
async def test_a_move_without_an_answer_is_counted_as_it_is_held(redis: Server, done: bool) -> None:
    """A guest's part is under its host, and under its own key as well where Redis did not come to that."""
    prefix = new_prefix()
    async with proxy(redis.port) as door, behind(door, prefix) as one:
        await one.take(host_part("h", spans=2), guest_part("early"))
        await one.look()
        door.cut_off(one.store.engine._scripts.hashes["guest"], b"drop_moved", done=done)
        with pytest.raises(UnavailableError):
            await one.take(guest_part("linked", host=HOST))
        assert door.sprung.is_set()
        twice = 0 if done else 1
        async with asyncio.timeout(20):
            assert flows(await reached(one)) == [(3 + twice, 0, 0)]
        await one.take(guest_part("linked", host=HOST))
        assert flows(await one.look()) == [(4 + twice, 0, 0)]
        assert one.store.stats().recovered_spans == twice
