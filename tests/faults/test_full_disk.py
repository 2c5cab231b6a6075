"""A disk that is full to the last byte: nothing more comes in, what is held still leaves, and then the doors open."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from grafter.consumer import Result, Verdict
from grafter.errors import UnavailableError
from tests.processor.test_processor import host_request
from tests.rig import ACCEPTED, Peer, rig

PATIENCE_SECONDS = 30.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; skipped, and said so, where this user may not mount one."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0755", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


async def test_a_full_disk_drains_and_opens_again(small_disk: Path) -> None:
    """Every span that was acknowledged leaves once the backend is back, and then parts are taken again."""
    peer = Peer()
    peer.answer = lambda _batch: Result(Verdict.LATER, "down", 1.0)
    name = "x" * 20_000
    async with rig(peer, directory=small_disk) as r:
        sent = 0
        with pytest.raises(UnavailableError):  # noqa: PT012  # which of them is refused is the disk's to say
            for n in range(1, 5000):
                await r.host(host_request(n.to_bytes(16), (1, 0, name)))
                sent = n
        assert sent > 100
        assert r.store.full
        with pytest.raises(UnavailableError, match="disk is full"):
            await r.host(host_request(bytes(15) + b"z", (1, 0, "small")))
        peer.answer = lambda _batch: ACCEPTED
        async with asyncio.timeout(PATIENCE_SECONDS):
            while r.store.stats().traces:
                await r.pass_time(5)
        assert len(set(peer.ids)) == sent
        # Space comes back when segments are given up, and the writer looks for it each second.
        async with asyncio.timeout(PATIENCE_SECONDS):
            # It is the writer's own thread that is waited for.
            while r.store.full:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await r.host(host_request(bytes(15) + b"z", (1, 0, "small")))
