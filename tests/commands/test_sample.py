"""``grafter sample`` as a user calls it."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from typer.testing import CliRunner

from grafter.cli import app
from tests.rig import DATA

HOST = DATA / "otlp" / "otlp_call_from_sdk.pb"
GUEST = DATA / "openai" / "py_runner_responses.json"


def run(*arguments: object) -> Result:
    """The command, in this process."""
    return CliRunner().invoke(app, ["sample", *map(str, arguments)])


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """A hundred traces of one span, the first seven with an error."""
    spans = [
        Span(
            trace_id=(0xAB << 120 | n << 48).to_bytes(16),
            span_id=b"12345678",
            name="a",
            status=Status(code=Status.STATUS_CODE_ERROR) if n < 7 else None,
        )
        for n in range(100)
    ]
    request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])
    path = tmp_path / "traces.pb"
    path.write_bytes(request.SerializeToString())
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        "processors: {tail_sampling: {policies: [{type: guest, name: joined}, {type: error}, {type: drop}]}}\n"
    )
    return path


def test_what_a_config_would_keep(traces: Path, config: Path) -> None:
    """Hosts and guests in any order of files: how many are kept, and by which policy; nothing is written anywhere."""
    result = run("--config", config, GUEST, traces, HOST)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "policy       kept    dropped",
        "joined          1          0",
        "error           7          0",
        "drop            0         93",
        "8 of 101 traces kept, 29 of 122 spans",
    ]


def test_as_json_for_programs(traces: Path, config: Path) -> None:
    """The same numbers."""
    assert json.loads(run("--json", "--config", config, traces).stdout) == {
        "policies": {"error": {"kept": 7, "dropped": 0}, "drop": {"kept": 0, "dropped": 93}},
        "traces": {"kept": 7, "all": 100},
        "spans": {"kept": 7, "all": 100},
    }


def test_the_default_names_its_policies_too(traces: Path) -> None:
    """A set that keeps everything is asked all the same."""
    assert run(traces).stdout.splitlines()[1:] == [
        "error           7          0",
        "always         93          0",
        "100 of 100 traces kept, 100 of 100 spans",
    ]


def test_what_cannot_be_read_is_named(tmp_path: Path, config: Path, traces: Path) -> None:
    """A file that holds no traces, and a config without tail_sampling: exit 1."""
    odd = tmp_path / "odd.json"
    odd.write_text("{")
    assert (run("--config", config, odd).exit_code, "odd.json" in run("--config", config, odd).stderr) == (1, True)
    without = run("--set", "service.pipelines.traces.processors=[graft]", traces)
    assert (without.exit_code, without.stderr) == (1, "sample: the config runs no tail_sampling\n")
