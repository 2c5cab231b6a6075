"""kill -9 at any moment, a disk that fills up, and a start with very much to read: nothing acknowledged is lost."""

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from grafter.core.model import Facts, Key, Part, UnixNano
from grafter.core.policy import Waits
from grafter.store.embedded import opening as embedded
from grafter.store.embedded.store import EmbeddedStore
from grafter.store.model import Settlement, StoredPart
from tests.faults.store_child import ENVELOPE, LATER, number_of, opened
from tests.store.contract import LEASE, START

ROOT = Path(__file__).parents[2]


def child(directory: Path, what: str) -> list[str]:
    return [sys.executable, "-m", "tests.faults.store_child", str(directory), what]


def run_and_kill(directory: Path, first: int, seconds: float) -> list[tuple[str, Key, list[int]]]:
    """What a child said before it was killed."""
    process = subprocess.Popen(child(directory, str(first)), stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    with process:
        said = process.stdout.readline()
        assert said, "the child ended by itself"
        os.set_blocking(process.stdout.fileno(), False)
        # The child needs the core that looking without a pause would take.
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            select.select([process.stdout], [], [], left)
            said += process.stdout.read(1 << 16) or b""
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.set_blocking(process.stdout.fileno(), True)
        said += process.stdout.read()
    lines = [line.split() for line in said[: said.rfind(b"\n")].decode().splitlines()]
    return [(word, Key(bytes.fromhex(key)), list(map(int, numbers))) for word, key, *numbers in lines]


async def found_in(directory: Path) -> list[int]:
    """The numbers of all parts that are held, each as often as it is held."""
    async with opened(directory) as store:
        await store.recovered()
        read: list[Sequence[StoredPart]] = []
        # What a process was at work on when it was killed comes first, a few at a time and apart from all else.
        while claims := await store.claim(LATER, 1 << 30):
            # Also what came after the parts that an export was begun of, and that its claim therefore does not cover.
            read += await store.read([replace(claim, up_to=1 << 63) for claim in claims])
            await store.postpone([(claim, UnixNano(LATER + 1000 * LEASE)) for claim in claims])
        assert store.stats().spans == sum(part.spans for parts in read for part in parts)
        assert store.counts.lost_records == 0
        return [number_of(part.payload) for parts in read for part in parts]


async def kill_rounds(directory: Path, rounds: int, seed: int) -> tuple[int, int]:
    """Kill a working child again and again, in one directory; how many parts were acknowledged and settled."""
    chance = random.Random(seed)
    stored: set[int] = set()
    settling: set[int] = set()
    settled: set[int] = set()
    for i in range(rounds):
        for word, _, numbers in run_and_kill(directory, (i + 1) * 10_000_000, chance.uniform(0.02, 0.6)):
            {"stored": stored, "settling": settling, "settled": settled}[word].update(numbers)
        found = await found_in(directory)
        held = set(found)
        where = f"round {i} of seed {seed}"
        assert len(found) == len(held), f"{where}: a part is held twice"
        assert stored - settling <= held, f"{where}: {len(stored - settling - held)} acknowledged parts are lost"
        assert not settled & held, f"{where}: {len(settled & held)} settled parts came back"
        # Of what was being settled either is right; from here on it counts as what it was found to be.
        settled |= settling - held
        settling = set(settled)
        stored |= held
    return len(stored), len(settled)


async def test_killed_while_it_works_it_loses_nothing(tmp_path: Path) -> None:
    """Every part whose append returned is there after SIGKILL, once; no part whose settlement returned is."""
    stored, settled = await kill_rounds(tmp_path, rounds=8, seed=random.SystemRandom().randrange(1 << 32))
    assert stored > 1000
    assert settled > 100


@pytest.mark.slow
async def test_killed_very_often_it_loses_nothing(tmp_path: Path) -> None:
    """The same for ten directories and ten rounds in each."""
    for i in range(10):
        await kill_rounds(tmp_path / str(i), rounds=10, seed=random.SystemRandom().randrange(1 << 32))


def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """Writes that fail half way are refused to the sender, leave nothing behind, and end when there is space again."""
    run = subprocess.run(child(tmp_path, "fill"), capture_output=True, cwd=ROOT, check=False, timeout=60)
    assert run.returncode == 0, run.stderr.decode()
    lines = [line.split() for line in run.stdout.decode().splitlines()]
    at_limit = next(i for i, line in enumerate(lines) if line[0] == "held")
    stored_then = {int(line[2]) for line in lines[:at_limit] if line[0] == "stored"}
    held_then = {int(line[2]) for line in lines if line[0] == "held"}
    stored = {int(line[2]) for line in lines if line[0] == "stored"}
    assert held_then == stored_then
    assert len(stored) > 40
    found = asyncio.run(found_in(tmp_path))
    assert sorted(found) == sorted(stored)


async def test_with_200_000_traces_held_the_doors_open_at_once(tmp_path: Path) -> None:
    """An append is answered within two seconds of the start, and in the end everything is there."""
    traces, parts, size = 200_000, 4, 60
    waits = Waits()

    def store() -> AbstractAsyncContextManager[EmbeddedStore]:
        return embedded.opened(
            tmp_path,
            waits=waits,
            max_bytes=1 << 40,
            max_trace_bytes=1 << 30,
            lease_ns=LEASE,
            guests_apart=False,
            clock=lambda: START,
        )

    async with store() as before:
        body = b"x" * size
        for start in range(0, traces, 2000):
            keys = [Key(i.to_bytes(16, "big")) for i in range(start, start + 2000)]
            for _ in range(parts):
                await before.append([Part(key, body, 5, ENVELOPE, Facts.NONE, b"") for key in keys], START)
    async with store() as after:
        await after.append([Part(Key(b"new" + bytes(13)), b"new", 1, ENVELOPE)], START)
        assert after.stats().recovering
        assert await after.claim(LATER, 1) == []
        await after.recovered()
        stats = after.stats()
        assert (stats.traces, stats.spans) == (traces + 1, traces * parts * 5 + 1)
        assert stats.recovered_spans == traces * parts * 5
        claims = await after.claim(LATER, 500)
        assert [len(found) for found in await after.read(claims)] == [parts] * 500
        assert all(await after.settle([Settlement(claim) for claim in claims], LATER))
