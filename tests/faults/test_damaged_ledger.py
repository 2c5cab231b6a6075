"""The metadata file is damaged, at a start or while it is in use: what is held leaves, and it is said what is lost."""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from grafter.consumer import Result, Verdict
from grafter.core.model import UnixNano
from grafter.store.model import Task
from tests.processor.test_processor import host_request
from tests.rig import Peer, Rig, rig

PAGE = 4096
HELD, LEFT = 40, 300


def header_overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(100))


def pages_overwritten(path: Path) -> None:
    """Each third page behind the first."""
    with path.open("r+b") as file:
        for at in range(2 * PAGE, path.stat().st_size, 3 * PAGE):
            file.seek(at)
            file.write(os.urandom(PAGE))


def cut_to_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)


DAMAGES = pytest.mark.parametrize("damage", [header_overwritten, pages_overwritten, cut_to_half])


async def traces(r: Rig, first: int, count: int) -> None:
    for n in range(first, first + count):
        await r.host(host_request(n.to_bytes(16), (1, 0, "root" * 200)))


async def all_out(r: Rig) -> None:
    async with asyncio.timeout(30):
        while r.store.stats().traces:
            await r.pass_time(15)


async def fill(directory: Path) -> None:
    """Some traces that left, a task, and some traces that are held; all of it on the disk, and the process is gone."""
    peer = Peer()
    async with rig(peer, directory=directory) as r:
        await traces(r, 1, LEFT)
        await all_out(r)
        await r.store.put_tasks([Task("session", "s", UnixNano(1), b"x" * 9000)], UnixNano(1))
        peer.answer = lambda _batch: Result(Verdict.LATER, "down", 1.0)
        await traces(r, 1000, HELD)


@DAMAGES
async def test_a_damaged_file_does_not_keep_it_from_starting(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Everything that is held leaves; the old file stands beside the new one, and the log says what was in it."""
    directory = tmp_path / "store"
    await fill(directory)
    damage(directory / "ledger.sqlite")
    peer = Peer()
    with caplog.at_level(logging.ERROR):
        async with rig(peer, directory=directory) as r:
            await r.store.recovered()
            await all_out(r)
            await traces(r, 2000, 5)
            await all_out(r)
    assert len(set(peer.ids)) == HELD + 5
    (said,) = [record.message for record in caplog.records if "is damaged" in record.message]
    assert "dead letters" in said
    assert (directory / "ledger.sqlite.damaged-1").exists()
    with sqlite3.connect(directory / "ledger.sqlite") as file:
        assert file.execute("PRAGMA quick_check").fetchone() == ("ok",)


@DAMAGES
async def test_a_file_that_is_damaged_while_it_is_used_stops_nothing(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Traces go on leaving, each once, and tasks are taken again."""
    directory = tmp_path / "store"
    await fill(directory)
    peer = Peer()
    with caplog.at_level(logging.ERROR):
        async with rig(peer, directory=directory) as r:
            await r.store.recovered()
            damage(directory / "ledger.sqlite")
            # SQLite reads a page again only when it needs it.
            for first in range(2000, 2600, 100):
                await traces(r, first, 100)
                await all_out(r)
            assert r.store.up
            await r.store.put_tasks([Task("session", "later", UnixNano(1), b"")], UnixNano(1))
            assert await r.store.find_task("session", "later") is not None
    assert len(peer.ids) == len(set(peer.ids)) == HELD + 600


async def test_what_is_readable_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A page of one table is bad: the key of the hashes, and what the other tables hold, is as before."""
    directory = tmp_path / "store"
    await fill(directory)
    ledger = directory / "ledger.sqlite"
    async with rig(Peer(), directory=directory) as r:
        secret = r.store.hmac_secret()
    with sqlite3.connect(ledger) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'memory'").fetchone()
    with ledger.open("r+b") as raw:
        raw.seek((root - 1) * PAGE)
        raw.write(os.urandom(PAGE))
    async with rig(Peer(), directory=directory) as r:
        assert r.store.hmac_secret() == secret
        assert await r.store.find_task("session", "s") is not None
    assert "1 of task" in caplog.text
