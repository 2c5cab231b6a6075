"""Where the limit comes from, and what happens past it."""

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from grafter.core.model import DedupeKey, Key, NamedLink, Part
from grafter.errors import UnavailableError
from grafter.memory_limit import MemoryGuard, guarding, resident_bytes, total_memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
PARTS = [Part(Key(b"k" * 16), b"", 1)]


@dataclass
class Store:
    """Keeps what gets through."""

    parts: list[Part] = field(default_factory=list)

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        self.parts += parts


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"v2": "268435456\n"}, 268435456),
        ({"v2": "max\n"}, MACHINE),
        ({"v1": "134217728\n"}, 134217728),
        ({"v1": "9223372036854771712\n"}, MACHINE),
        ({"v2": "268435456\n", "v1": "1\n"}, 268435456),
        ({"v2": "max\n", "v1": "1\n"}, MACHINE),
        ({}, MACHINE),
    ],
    ids=["v2", "v2 unlimited", "v1", "v1 unlimited", "v2 before v1", "unlimited v2 before v1", "no cgroup"],
)
def test_the_cgroup_limits_before_the_machine(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    """The first file that is there decides, and no limit is above what the machine has."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert total_memory((tmp_path / "v2", tmp_path / "v1")) == expected


@pytest.mark.parametrize("limited", [False, True])
def test_a_limit_of_the_address_space_counts(limited: bool) -> None:
    """Under ``ulimit -v`` there is what it leaves beside what is only reserved, for each of several processes, and
    memory may be refused."""
    space = 512 << 20
    code = """
from grafter.memory_limit import total_memory
from grafter.receiver.in_flight import memory_may_be_refused
print(total_memory((), processes=2), memory_may_be_refused())
"""
    shell = f"ulimit -v {space >> 10}; exec" if limited else "exec"
    command = ["sh", "-c", f'{shell} "$0" -c "$1"', sys.executable, code]
    total, refused = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if limited:
        assert space // 4 < int(total) < space
        assert refused == "True"
    else:
        assert int(total) == MACHINE // 2
        assert refused == str(Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2")


def test_resident_memory_is_what_the_process_occupies() -> None:
    """It counts bytes: touching 64 MiB shows."""
    before = resident_bytes()
    block = bytearray(b"x") * (64 << 20)
    assert resident_bytes() - before > 48 << 20
    del block


async def test_the_guard_refuses_past_the_limit_and_recovers() -> None:
    """Past the limit the sender is told to come back; below it parts get through again, and none was lost between."""
    used, store = 100, Store()
    guard = MemoryGuard(store, 100, lambda: used, lambda: used)
    guard.check()
    await guard.consume(PARTS)
    used = 101
    guard.check()
    with pytest.raises(UnavailableError) as refused:
        await guard.consume(PARTS)
    assert refused.value.reason == "memory_limit"
    assert refused.value.retry_after > 0
    assert len(store.parts) == 1
    used = 99
    guard.check()
    await guard.consume(PARTS)
    assert len(store.parts) == 2


async def test_pages_that_the_allocator_keeps_refuse_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """All was released, and as much is occupied as before: input is taken, and the allocator is asked to give back."""
    used, held, given_back = 40, 0, 0

    def give_back() -> None:
        nonlocal given_back
        given_back += 1

    guard = MemoryGuard(Store(), 100, lambda: held, lambda: used, give_back)
    guard.check()
    used, held = 120, 60
    guard.check()
    with pytest.raises(UnavailableError):
        await guard.consume(PARTS)
    assert given_back == 0
    held = 0
    for _ in range(5):
        guard.check()
        await guard.consume(PARTS)
    assert given_back == 1
    assert caplog.text.count("input is taken") == 1


async def test_each_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not a line for each look, and not one for each request."""
    used = 200
    guard = MemoryGuard(Store(), 100, lambda: used, lambda: used)
    with caplog.at_level("INFO"):
        guard.check()
        guard.check()
        used = 50
        guard.check()
        guard.check()
    assert [(record.levelname, record.getMessage().split(":")[0]) for record in caplog.records] == [
        ("ERROR", "memory limit reached"),
        ("INFO", "memory is below its limit again"),
    ]


async def test_memory_that_cannot_be_read_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A process without a file descriptor left goes on, refuses or takes as before, and says so once a minute."""
    answers: list[int | OSError] = [
        101,
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EMFILE, "again"),
        1,
    ]

    def resident() -> int:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    guard = MemoryGuard(Store(), 100, lambda: 101, resident)
    for _ in range(3):
        guard.check()
        with pytest.raises(UnavailableError):
            await guard.consume(PARTS)
    guard.check()
    await guard.consume(PARTS)
    assert caplog.text.count("cannot be read") == 1


async def test_a_guard_looks_by_itself() -> None:
    """Within a limit of one byte, the first look refuses; the next comes without a request."""
    looked, used, store = asyncio.Event(), 2, Store()

    def resident() -> int:
        looked.set()
        return used

    async with asyncio.timeout(30), guarding(store, 1, lambda: 2, resident, 0.01) as guard:
        await looked.wait()
        with pytest.raises(UnavailableError):
            await guard.consume(PARTS)
        used = 0
        for _ in range(2):
            # The first of these may have begun before the change.
            looked.clear()
            await looked.wait()
        await guard.consume(PARTS)
    assert len(store.parts) == 1
