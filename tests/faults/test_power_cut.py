"""A power cut: what was not synced is gone. What was promised is in what was."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.store_child import number_of, opened

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that copies what is synced; skipped, and said so, where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("a power cut is simulated with a C compiler, on Linux")
    library = tmp_path_factory.mktemp("preloaded") / "power_cut.so"
    source = ROOT / "tests/faults/power_cut.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def cut_after(directory: Path, preloaded: Path, fsync: str, lines: int) -> tuple[list[list[str]], Path]:
    """What a child had said when the power went, and the directory as it is then."""
    leaves = directory / "left"
    leaves.mkdir()
    environment = {**os.environ, "LD_PRELOAD": str(preloaded), "POWER_CUT_LEAVES": str(leaves)}
    command = [sys.executable, "-m", "tests.faults.store_child", str(directory / "store"), f"bury-{fsync}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().decode().split() for _ in range(lines)]
        # Before anything else is synced.
        process.send_signal(signal.SIGSTOP)
        shutil.copytree(leaves, directory / "after", ignore=shutil.ignore_patterns("*.partial"))
        process.kill()
    assert all(said), "the child ended by itself"
    return said, directory / "after"


@pytest.mark.parametrize("fsync", ["interval", "always"])
def test_a_dead_letter_outlives_a_power_cut(tmp_path: Path, preloaded: Path, fsync: str) -> None:
    """Whatever was said to be in the box is in it, or its trace is held still; with ``always`` every part too."""
    said, after = cut_after(tmp_path, preloaded, fsync, 300)

    async def found() -> tuple[set[int], set[int]]:
        async with opened(after) as store:
            await store.recovered()
            claims = await store.claim((1 << 62), 1 << 30)  # type: ignore[arg-type]
            held = {number_of(part.payload) for parts in await store.read(claims) for part in parts}
            return {number_of(letter.payload) for letter in await store.dead_letters(1 << 30)}, held

    letters, held = asyncio.run(found())
    buried = {int(number) for word, _, number in said if word == "buried"}
    stored = {int(number) for word, _, number in said if word == "stored"}
    assert len(buried) > 50
    assert buried <= letters
    if fsync == "always":
        assert stored <= letters | held
