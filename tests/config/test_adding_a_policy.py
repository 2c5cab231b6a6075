"""A new sampling policy is a room and a line: with these a config can choose it, and it decides."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from grafter.core.sampling.kinds import KINDS

ROOMS = Path(__file__).parents[2] / "grafter"
SHARED = {"__init__", "policy", "policies", "kinds", "weights"}

ROOM = '''"""``short``: few spans."""

from dataclasses import dataclass

from grafter.core.sampling.policy import Keeps, Kind, TraceView


@dataclass(frozen=True, slots=True)
class Short(Keeps):
    max_spans: int = 1

    def matches(self, view: TraceView) -> bool:
        return view.spans <= self.max_spans


KIND = Kind("short", Short, ("max_spans",), needs=("max_spans",))
'''
TOO_LONG, KEPT = "ab" * 16, "cd" * 16


def spans_of(trace: str, count: int) -> list[dict[str, str]]:
    """So many spans of a trace, one under the other."""
    times = {"startTimeUnixNano": "1795000000000000000", "endTimeUnixNano": "1795000001000000000"}
    parents = [{}, *({"parentSpanId": f"{at:016x}"} for at in range(1, count))]
    return [
        {"traceId": trace, "spanId": f"{at:016x}", "name": "step", **parent, **times}
        for at, parent in enumerate(parents, 1)
    ]


def test_every_room_of_a_policy_is_listed() -> None:
    """A room that is no line in ``kinds.py`` could be chosen by nobody."""
    folder = ROOMS / "core" / "sampling"
    listed = (folder / "kinds.py").read_text("utf-8")
    rooms = {path.stem for path in folder.glob("*.py")} - SHARED
    assert all(f"        {room}." in listed for room in rooms)
    assert len(KINDS) == len(rooms) + 1, "always and drop share a room"


def test_a_new_policy_is_a_room_and_a_line(tmp_path: Path) -> None:
    """In a copy of grafter: a file, its name in the list, and nothing else."""
    copy = tmp_path / "grafter"
    shutil.copytree(ROOMS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    folder = copy / "core" / "sampling"
    (folder / "short.py").write_text(ROOM, "utf-8")
    kinds = (folder / "kinds.py").read_text("utf-8")
    imported = kinds.replace("    span_count,\n)", "    short,\n    span_count,\n)")
    listed = imported.replace("span_count.KIND,", "span_count.KIND,\n        short.KIND,")
    (folder / "kinds.py").write_text(listed, "utf-8")
    traces = tmp_path / "traces.json"
    spans = [*spans_of(TOO_LONG, 5), *spans_of(KEPT, 2)]
    traces.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}), "utf-8")

    kept = sampled(tmp_path, "{type: short, max_spans: 3}")
    assert "1 of 2 traces kept, 2 of 7 spans" in kept.stdout, kept.stderr

    refused = sampled(tmp_path, "{type: short, values: [a]}")
    assert "is no key of short, but of attribute" in refused.stderr
    assert "short needs max_spans" in refused.stderr


def sampled(folder: Path, policy: str) -> subprocess.CompletedProcess[str]:
    """What the grafter in this folder would do with the traces beside it."""
    config = folder / "config.yaml"
    config.write_text(f"processors: {{tail_sampling: {{policies: [{policy}, {{type: drop}}]}}}}", "utf-8")
    command = [sys.executable, "-m", "grafter", "sample", "--config", str(config), str(folder / "traces.json")]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)
