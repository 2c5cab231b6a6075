"""A power cut: what was not synced is gone. What was promised is in what was."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.process import Grafter
from tests.e2e.sink import listening
from tests.faults.store_child import number_of, opened

ROOT = Path(__file__).parents[2]
HEADERS = {"Content-Type": "application/x-protobuf"}


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


@pytest.mark.parametrize("fsync", [pytest.param("interval", marks=pytest.mark.slow), "always"])
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


FSYNC_SECONDS = 1.0


def request(first: int, traces: int) -> bytes:
    """Whole traces of one span."""
    made = ExportTraceServiceRequest()
    spans = made.resource_spans.add().scope_spans.add().spans
    for number in range(first, first + traces):
        spans.add(trace_id=number.to_bytes(16), span_id=(1).to_bytes(8), name="call")
    return made.SerializeToString()


def store(directory: Path) -> dict[str, object]:
    return {"embedded": {"directory": str(directory), "fsync_interval": f"{FSYNC_SECONDS:g}s"}}


def last_sync(left: Path) -> float:
    return max((path.stat().st_mtime for path in left.glob("segment-*.log")), default=0.0)


async def test_what_left_in_the_last_second_goes_out_again_marked(
    tmp_path: Path, preloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word that it left was not on the disk: a start in another boot knows that it may have, and says so on it."""
    left, after = tmp_path / "left", tmp_path / "after"
    left.mkdir()
    async with listening() as sink, aiohttp.ClientSession() as http:
        exporters = {"otlp_http": {"endpoint": sink.http_endpoint}}
        # Long enough that the parts are on the disk when they leave.
        waits = {"after_root": f"{FSYNC_SECONDS + 0.5:g}s"}
        first = Grafter(tmp_path, exporters, waits, store=store(tmp_path / "store"))
        monkeypatch.setenv("LD_PRELOAD", str(preloaded))
        monkeypatch.setenv("POWER_CUT_LEAVES", str(left))
        try:
            await first.start()
            monkeypatch.undo()
            acknowledged = seen = 0
            synced_at = synced_then = 0.0
            async with asyncio.timeout(60):
                while True:
                    body = request(1 + acknowledged, 10)
                    async with http.post(f"{first.otlp_http}/v1/traces", data=body, headers=HEADERS) as answer:
                        assert answer.status == 200
                    acknowledged += 10
                    now = asyncio.get_running_loop().time()
                    synced = last_sync(left)
                    if synced != synced_then:
                        synced_then, synced_at, seen = synced, now, len(sink.spans())
                    # Nothing more of what left since then will be on the disk.
                    if seen and now - synced_at > FSYNC_SECONDS / 2 and len(sink.spans()) > seen:
                        first.freeze()
                        if last_sync(left) == synced_then:
                            break
                        first.thaw()
                    await asyncio.sleep(0.05)
            shutil.copytree(left, after, ignore=shutil.ignore_patterns("*.partial"))
        finally:
            await first.close()
        assert (after / "boot").read_text().strip() not in ("", "ended")
        (after / "boot").write_text("another-boot")
        came = len(sink.spans())
        before = {one.span.trace_id for one in sink.spans()}
        home = tmp_path / "again"
        home.mkdir()
        again = Grafter(home, exporters, waits, store=store(after))
        try:
            await again.start()

            async def is_empty(session: aiohttp.ClientSession) -> bool:
                counters = await again.counters(session)
                return counters["grafter_held_traces"] == 0 and "recovered" in again.log()

            await again.until(is_empty, "empty")
            repeated = {
                one.span.trace_id: any(a.key == "grafter.resend" for a in one.span.attributes)
                for one in sink.spans()[came:]
                if one.span.trace_id in before
            }
            assert repeated
            assert all(repeated.values())
            assert "the machine ended while grafter was at work" in again.log()
            assert await again.terminate() == 0
        finally:
            await again.close()
        assert (after / "boot").read_text().strip() == "ended"
