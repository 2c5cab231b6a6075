"""The store's directory is removed under a process that runs: it is seen at once, and what is held still leaves."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from grafter.consumer import Result, Verdict
from grafter.errors import UnavailableError
from tests.processor.test_processor import host_request
from tests.rig import ACCEPTED, Peer, Rig, rig

SEEN_SECONDS = 3.0
"""It is looked for each second."""


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SEEN_SECONDS):
        # It is the writer's own thread that is waited for.
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def removed(directory: Path) -> None:
    shutil.rmtree(directory)


def replaced(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))
    directory.mkdir()


def emptied(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


async def held(r: Rig, count: int) -> None:
    for n in range(1, count + 1):
        await r.host(host_request(n.to_bytes(16), (1, 0, "root")))


@pytest.mark.parametrize("trouble", [removed, replaced, emptied])
async def test_a_directory_that_is_gone_takes_no_more_and_gives_up_what_it_has(
    tmp_path: Path, trouble: Callable[[Path], None]
) -> None:
    """Parts are refused within moments, with the reason; every span that was acknowledged before is sent."""
    directory = tmp_path / "store"
    peer = Peer()
    peer.answer = lambda _batch: Result(Verdict.LATER, "down", 1.0)
    async with rig(peer, directory=directory) as r:
        await held(r, 50)
        await r.pass_time(5)
        trouble(directory)
        await until(lambda: not r.store.up)
        with pytest.raises(UnavailableError, match="removed or replaced"):
            await r.host(host_request(bytes(15) + b"z", (1, 0, "late")))
        assert "removed or replaced" in r.store.error
        peer.answer = lambda _batch: ACCEPTED
        async with asyncio.timeout(30):
            while r.store.stats().traces:
                await r.pass_time(5)
    assert len(set(peer.ids)) == 50


async def test_a_directory_that_comes_back_is_gone_on_with(tmp_path: Path) -> None:
    """Moved away and back: nothing of it was lost, and parts are taken again."""
    directory = tmp_path / "store"
    peer = Peer()
    async with rig(peer, directory=directory) as r:
        await held(r, 5)
        away = directory.rename(tmp_path / "away")
        await until(lambda: not r.store.up)
        away.rename(directory)
        await until(lambda: r.store.up)
        await r.host(host_request((6).to_bytes(16), (1, 0, "root")))
        async with asyncio.timeout(30):
            while r.store.stats().traces:
                await r.pass_time(5)
    assert len(set(peer.ids)) == 6


async def test_what_stands_in_a_replaced_directory_is_let_be(tmp_path: Path) -> None:
    """Another process has begun there, with files of the same names: none of them is given up for one's own."""
    directory = tmp_path / "store"
    peer = Peer()
    peer.answer = lambda _batch: Result(Verdict.LATER, "down", 1.0)
    async with rig(peer, directory=directory) as r:
        await held(r, 5)
    async with rig(peer, directory=directory) as r:
        await r.store.recovered()
        await held(r, 10)
        replaced(directory)
        async with rig(Peer(), directory=directory) as other:
            await held(other, 3)
            theirs = {path.name for path in directory.iterdir()}
            await until(lambda: not r.store.up)
            peer.answer = lambda _batch: ACCEPTED
            async with asyncio.timeout(30):
                while r.store.stats().traces:
                    await r.pass_time(5)
                while not r.store.counts.given_up_segments:
                    await r.pass_time(5)
            assert {path.name for path in directory.iterdir()} >= theirs
