"""A damaged metadata file that is not mended at the first try: it is tried again, and nothing hangs or is given up."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from grafter.core.calls import CallNote
from grafter.core.model import Key, UnixNano
from grafter.errors import UnavailableError
from grafter.store.embedded.directory import put_aside_if_damaged
from grafter.store.model import DeadLetter, StoreError
from tests.processor.test_processor import host_request
from tests.rig import Peer, rig
from tests.store.test_metadata_db import ledger_at

PAGE = 4096


def letters(ledger: sqlite3.Connection) -> int:
    (count,) = ledger.execute("SELECT count(*) FROM letter").fetchone()
    assert isinstance(count, int)
    return count


def fill(path: Path, count: int, size: int) -> None:
    """Dead letters of ``size`` bytes each, in a file without a -wal."""
    with ledger_at(path):
        pass
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA journal_mode = DELETE")
        rows = [(bytes(16), "otlp", "refused", 1, 1, bytes(size))] * count
        file.executemany(
            "INSERT INTO letter (key, exporter, reason, at, spans, payload) VALUES (?, ?, ?, ?, ?, ?)", rows
        )
        file.commit()


def overwrite_leaf(path: Path, letter: int) -> None:
    """The page on which that letter's row lies."""
    offset = -1
    data = path.read_bytes()
    for _ in range(letter):
        offset = data.index(b"otlprefused", offset + 1)
    with path.open("r+b") as raw:
        raw.seek(offset // PAGE * PAGE)
        raw.write(os.urandom(PAGE))


def emptied_beside_its_index(path: Path) -> None:
    """Calls that only the index of the calls has: no page is bad, and a quick check finds nothing."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("INSERT INTO call (id, at, until) VALUES ('a', 1, 1), ('b', 1, 1), ('c', 1, 1 << 62)")
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'call_until'").fetchone()
        (sql,) = file.execute("SELECT sql FROM sqlite_master WHERE name = 'call_until'").fetchone()
        file.execute("PRAGMA writable_schema = ON")
        file.execute("DELETE FROM sqlite_master WHERE name = 'call_until'")
        file.execute("PRAGMA writable_schema = RESET")
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("DELETE FROM call WHERE id <> 'c'")
        file.execute("PRAGMA writable_schema = ON")
        file.execute("INSERT INTO sqlite_master VALUES ('index', 'call_until', 'call', ?, ?)", (root, sql))
        file.execute("PRAGMA writable_schema = RESET")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0755", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


async def test_damage_that_a_quick_check_does_not_see_is_mended_once(tmp_path: Path) -> None:
    """The write is not repeated for ever: the store's one writing thread would never come back."""
    directory = tmp_path / "store"
    async with rig(Peer(), directory=directory):
        pass
    emptied_beside_its_index(directory / "ledger.sqlite")
    async with rig(Peer(), directory=directory) as r:
        note = CallNote("d", UnixNano(5), None, None, None)
        async with asyncio.timeout(60):
            await r.store.put_calls([note], UnixNano(5))
            assert await r.store.find_calls(["d"], UnixNano(5)) == [note]
            await r.host(host_request((1).to_bytes(16), (1, 0, "root")))
    assert (directory / "ledger.sqlite.damaged-1").exists()


async def test_a_mend_that_failed_is_tried_again(small_disk: Path) -> None:
    """While there is no room for a new file, what needs it is refused; afterwards it goes on."""
    directory = small_disk / "store"
    letter = DeadLetter(Key(bytes(16)), "otlp", "refused", UnixNano(1), 1, b"payload")
    async with rig(Peer(), directory=directory) as r:
        await r.store.add_dead_letters([letter])
        ledger = directory / "ledger.sqlite"
        # A connection believes its copy of a page for as long as its log holds it.
        with closing(sqlite3.connect(ledger)) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ledger.write_bytes(os.urandom(ledger.stat().st_size))
        balloon = small_disk / "balloon"
        with balloon.open("wb", buffering=0) as air, contextlib.suppress(OSError):
            while air.write(bytes(PAGE)):
                pass
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await r.store.add_dead_letters([letter])
        balloon.unlink()
        async with asyncio.timeout(60):
            while True:
                try:
                    await r.store.add_dead_letters([letter])
                    break
                except UnavailableError:
                    await asyncio.sleep(0.1)
        assert len(await r.store.dead_letters(10)) == 1
        assert await r.store.find_task("session", "none") is None


def test_a_copy_that_finds_no_room_leaves_the_damaged_file_in_its_place(small_disk: Path) -> None:
    """So that the next start tries again, and does not begin with an empty one without a word."""
    ledger = small_disk / "ledger.sqlite"
    fill(ledger, 50, 100_000)
    overwrite_leaf(ledger, 25)
    for _ in range(2):
        with pytest.raises(StoreError, match="full"):
            put_aside_if_damaged(ledger)
    assert sorted(path.name for path in small_disk.iterdir()) == ["ledger.sqlite"]
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    put_aside_if_damaged(ledger)
    with closing(sqlite3.connect(ledger)) as file:
        assert letters(file) > 40


def test_every_letter_beside_a_bad_page_is_kept(tmp_path: Path) -> None:
    """All rows of other pages, whichever way they are read."""
    ledger = tmp_path / "ledger.sqlite"
    fill(ledger, 300, 1500)
    overwrite_leaf(ledger, 150)
    put_aside_if_damaged(ledger)
    with closing(sqlite3.connect(ledger)) as file:
        assert letters(file) >= 290
