"""An older grafter beside this one on one Redis, both as they are: an upgrade one by one under load, and the way back.

The older ones are revisions of this repository; without its history there are none to try.
"""

import asyncio
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.process import REPO, Grafter
from tests.e2e.sink import listening
from tests.faults.replica_books import balanced
from tests.faults.test_replicas import Load, prove, replicas
from tests.store.redis.servers import Server, server

OLDER = {"3f51454": "before numbers were begun by a token", "07c6937": "before kills were noticed"}
CALLS = 100


@pytest.fixture(scope="module", params=OLDER)
def older(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tree."""
    archive = subprocess.run(["git", "archive", request.param], cwd=REPO, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"no revision {request.param} is here")
    path = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(path, filter="data")
    what = subprocess.run(
        [sys.executable, "-c", "import grafter; print(grafter.__file__)"], cwd=path, stdout=subprocess.PIPE
    )
    assert what.stdout.startswith(bytes(path))
    return path


@pytest.fixture
def redis() -> Iterator[Server]:
    with server("--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


async def replace(one: Grafter, tree: Path, *, kill: bool) -> None:
    """End it, in order or not, and start it from another tree."""
    if kill:
        await one.kill()
    else:
        assert await one.terminate() == 0
    one.tree = tree
    await one.start()


@pytest.mark.slow
async def test_an_upgrade_one_by_one_and_back_loses_nothing(older: Path, redis: Server, tmp_path: Path) -> None:
    """Stops and kills under load, with older ones beside newer ones after each: what is acknowledged comes out, joined,
    and whenever the load pauses the books of all balance."""
    steps = [(0, REPO, False), (1, REPO, True), (2, REPO, False), (0, older, True), (1, older, False), (2, older, True)]
    async with listening() as sink, replicas(tmp_path, redis, sink, tree=older) as running:
        load = Load(running, 0)
        for at, (number, tree, kill) in enumerate(steps):
            load.go_on(CALLS)
            async with asyncio.timeout(180), asyncio.TaskGroup() as group:
                group.create_task(load.run())
                await load.acknowledged(at * CALLS + CALLS // 2)
                await replace(running[number], tree, kill=kill)
            await balanced(running)
        await prove(load, sink, len(steps) * CALLS)
