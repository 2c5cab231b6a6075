"""A process that works on a store until it is killed, or its disk is full.

Run as ``python -m tests.faults.store_child DIRECTORY (FIRST_NUMBER | fill | bury-FSYNC)``; what it was promised it
says on stdout.
"""

import asyncio
import itertools
import os
import random
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from grafter.core.model import Envelope, Facts, GuestFacts, Key, Part, Source, TraceId, UnixNano, guest_key
from grafter.core.policy import SECOND, Waits
from grafter.errors import UnavailableError
from grafter.store.embedded import opening as embedded
from grafter.store.embedded.store import EmbeddedStore
from grafter.store.model import DeadLetter, Memory, Outcome, Settlement
from tests.store.contract import LEASE, START

ENVELOPE = Envelope(b"resource" * 20, b"scope")
LATER = UnixNano(START + 1000 * SECOND)


@asynccontextmanager
async def opened(directory: Path, fsync: str = "interval") -> AsyncIterator[EmbeddedStore]:
    async with embedded.opened(
        directory,
        waits=Waits(),
        max_bytes=1 << 32,
        max_trace_bytes=1 << 30,
        lease_ns=LEASE,
        guests_apart=False,
        fsync=fsync,
        fsync_interval=0.05,
        clock=lambda: START,
        segment_bytes=128 << 10,
    ) as store:
        yield store


def say(word: str, key: Key, numbers: list[int]) -> None:
    """One line to the parent; a pipe keeps what was written when the writer dies."""
    os.write(1, f"{word} {key.hex()} {' '.join(map(str, numbers))}\n".encode())


def number_of(payload: bytes) -> int:
    return int(payload.split(b".")[0])


def payload(number: int, chance: random.Random) -> bytes:
    return f"{number}.".encode() + b"x" * chance.choice([10, 300, 3000])


async def work(directory: Path, first: int) -> None:
    """Append from several tasks, settle some, and say what was acknowledged; until killed."""
    chance = random.Random(first)
    numbers = itertools.count(first)

    async with opened(directory) as store:

        async def send() -> None:
            while True:
                host = Key(chance.randbytes(16))
                guest = f"trace_{next(numbers)}"
                for step in range(4):
                    parts, sent = [], []
                    for _ in range(chance.randint(1, 4)):
                        number = next(numbers)
                        sent.append(number)
                        facts = Facts.ROOT if step == 3 else Facts.NONE
                        if chance.random() < 0.3:
                            link = TraceId(host) if step == 2 else None
                            known = GuestFacts(guest, Source.SDK, link)
                            parts.append(Part(guest_key(guest), payload(number, chance), 1, guest=known))
                        else:
                            parts.append(Part(host, payload(number, chance), 1, ENVELOPE, facts, b"i" * 8))
                    await store.append(parts, START)
                    say("stored", host, sent)

        async def settle() -> None:
            await store.recovered()
            while True:
                claims = await store.claim(UnixNano(START + 15 * SECOND), 20)
                read = await store.read(claims)
                held = [[number_of(part.payload) for part in parts] for parts in read]
                await store.record(claims, "peer", Outcome.INTENDED)
                for claim, covered in zip(claims, held, strict=True):
                    say("settling", claim.key, covered)
                done = await store.settle([Settlement(claim, (Memory(claim.key, b"m"),)) for claim in claims], START)
                for claim, covered, settled in zip(claims, held, done, strict=True):
                    if settled:
                        say("settled", claim.key, covered)
                await asyncio.sleep(0.005)

        await asyncio.gather(*(send() for _ in range(5)), settle())


async def fill(directory: Path, limit: int) -> None:
    """Run into the limit with several requests at once, then have it lifted; say what was acknowledged."""
    chance = random.Random(1)
    numbers = itertools.count(1)
    refused: list[UnavailableError] = []
    async with opened(directory) as store:

        async def send() -> None:
            for _ in range(20):
                number = next(numbers)
                key = Key(chance.randbytes(16))
                try:
                    await store.append([Part(key, payload(number, chance), 1, ENVELOPE, span_ids=b"i" * 8)], START)
                except UnavailableError as error:
                    refused.append(error)
                else:
                    say("stored", key, [number])

        await send()
        assert store.up
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        await asyncio.gather(*(send() for _ in range(10)))
        assert refused
        assert all("could not write" in str(error) and error.retry_after > 0 for error in refused)
        assert not store.up
        claims = await store.claim(LATER, 1 << 30)
        for claim, parts in zip(claims, await store.read(claims), strict=True):
            say("held", claim.key, [number_of(part.payload) for part in parts])
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        refused.clear()
        await send()
        assert store.up
        assert not refused


async def bury(directory: Path, fsync: str) -> None:
    """Store traces, put them into the dead-letter box and settle them, and say what was promised; until killed."""
    chance = random.Random(1)
    async with opened(directory, fsync) as store:
        await store.recovered()
        for number in itertools.count(1):
            key = Key(chance.randbytes(16))
            content = payload(number, chance)
            await store.append([Part(key, content, 1, ENVELOPE, Facts.ROOT, b"i" * 8)], START)
            say("stored", key, [number])
            claims = await store.claim(LATER, 10)
            letters = [DeadLetter(claim.key, "otlp", "refused", LATER, 1, content) for claim in claims]
            await store.add_dead_letters(letters)
            await store.settle([Settlement(claim, (Memory(claim.key, b"m"),)) for claim in claims], LATER)
            say("buried", key, [number])
            await asyncio.sleep(0.001)


if __name__ == "__main__":
    target, what = Path(sys.argv[1]), sys.argv[2]
    if what.startswith("bury-"):
        asyncio.run(bury(target, what.removeprefix("bury-")))
    else:
        asyncio.run(fill(target, 60_000) if what == "fill" else work(target, int(what)))
