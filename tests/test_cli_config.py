"""The command line around a config: what is printed where, and with which exit code the process ends."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from typer.testing import CliRunner, Result

from grafter import __version__
from grafter.cli import app
from grafter.components import Config
from grafter.config.show import as_schema
from grafter.exporter.honeycomb import HoneycombExporter

ROOT = Path(__file__).resolve().parents[1]


def grafter(*arguments: str, env: dict[str, str | None] | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), env=env)


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A three-line file whose key comes from the environment."""
    file = tmp_path / "config.yaml"
    file.write_text("exporters:\n  honeycomb:\n    api_key: ${env:GRAFTER_TEST_KEY}\n")
    return str(file)


def test_validate_says_what_would_run(config: str) -> None:
    """Exit 0, ``valid``, and a line a component with its address; nothing on stderr."""
    result = grafter("validate", "--config", config, env={"GRAFTER_TEST_KEY": "hcaik_1"})
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "valid",
        "receiver otlp: grpc localhost:4317, http localhost:4318",
        "receiver openai: http localhost:4319",
        "processor graft: mode hold, content none",
        "processor tail_sampling: error, first_token, always (keeps everything)",
        "exporter honeycomb: http https://api.honeycomb.io/v1/traces",
        "extension store: embedded, ./grafter-data, up to 4GiB",
        "extension health_check: http localhost:13133",
    ]


def test_validate_says_all_that_is_wrong(config: str) -> None:
    """Exit 1 and one line a problem, on stderr only."""
    result = grafter("validate", "--config", config, "--set", "service.memory_limit=0%", env={"GRAFTER_TEST_KEY": None})
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        f"{config}:3: exporters.honeycomb.api_key: environment variable GRAFTER_TEST_KEY is not set; "
        "${env:GRAFTER_TEST_KEY:-default} would do without it",
        "--set: service.memory_limit: '0%' is not a percentage over 0% and up to 100%",
    ]


def test_workers_of_an_embedded_store_are_refused(config: str) -> None:
    """Said in the option or in the file, it is one line with the reason; none at all is a wrong use of the option."""
    reason = (
        "service.workers: 3 processes need a store that they share, extensions.store.redis; "
        "the embedded store belongs to one"
    )
    env: dict[str, str | None] = {"GRAFTER_TEST_KEY": "hcaik_1"}
    by_option = grafter("run", "--config", config, "--workers", "3", env=env)
    assert (by_option.exit_code, by_option.stderr.splitlines()) == (1, [f"--workers: {reason}"])
    by_setting = grafter("run", "--config", config, "--set", "service.workers=3", env=env)
    assert (by_setting.exit_code, by_setting.stderr.splitlines()) == (1, [f"--set: {reason}"])
    assert grafter("run", "--config", config, "--workers", "0", env=env).exit_code == 2


def test_several_files_and_settings(config: str, tmp_path: Path) -> None:
    """--config and --set may each be given again; old names are warned of on stderr and do no harm."""
    second = tmp_path / "second.yaml"
    second.write_text("exporters: {otlp/b: {endpoint: 'b:1'}}")
    result = grafter(
        *("validate", "-c", config, "-c", str(second)),
        *("--set", "exporters.honeycomb.api_key=a", "--set", "exporters.honeycomb.region=eu"),
    )
    assert result.exit_code == 0
    assert "exporter honeycomb: http https://api.eu1.honeycomb.io/v1/traces" in result.stdout
    assert "exporter otlp_grpc/b: grpc b:1 (TLS)" in result.stdout
    assert result.stderr == f"warning: {second}:1: exporters.otlp/b: is an old name of otlp_grpc/b\n"


def test_print_config_prints_every_key_and_no_secret(config: str) -> None:
    """YAML, or JSON when asked for; the same content, with the key redacted."""
    env: dict[str, str | None] = {"GRAFTER_TEST_KEY": "hcaik_1"}
    as_yaml = grafter("print-config", "-c", config, env=env)
    as_json = grafter("print-config", "-c", config, "--json", env=env)
    assert (as_yaml.exit_code, as_json.exit_code) == (0, 0)
    assert yaml.safe_load(as_yaml.stdout) == json.loads(as_json.stdout)
    assert json.loads(as_json.stdout)["exporters"]["honeycomb"]["api_key"] == "[REDACTED]"
    assert json.loads(as_json.stdout)["processors"]["graft"]["wait"]["max"] == "2h"
    assert "hcaik" not in as_yaml.stdout + as_json.stdout


def test_schema_prints_the_json_schema() -> None:
    """What an editor is pointed at."""
    result = grafter("schema")
    assert (result.exit_code, json.loads(result.stdout)) == (0, as_schema(Config))


@pytest.mark.parametrize("arguments", [(), ("validate", "--nope"), ("nope",), ("validate", "--config")])
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    """No command, an unknown command, an unknown option, a missing value."""
    assert grafter(*arguments).exit_code == 2


def test_version() -> None:
    """--version prints it and exits 0."""
    assert grafter("--version").stdout == f"grafter {__version__}\n"
    assert grafter("--version").exit_code == 0


@pytest.mark.parametrize("code", [0, 1])
def test_run_hands_the_config_to_the_service(config: str, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The service gets the loaded config, and what it returns is the exit code."""
    got: list[Config] = []

    def run(settings: Config, files: Sequence[str]) -> int:
        assert list(files) == [config]
        got.append(settings)
        return code

    service = ModuleType("grafter.service")
    service.__dict__["run"] = run
    monkeypatch.setitem(sys.modules, "grafter.service", service)
    monkeypatch.setattr("grafter.service", service, raising=False)
    # The real one ends the process, which is that of the tests here.
    monkeypatch.setattr("grafter.process.leave", sys.exit)
    assert grafter("run", "-c", config, env={"GRAFTER_TEST_KEY": "hcaik_1"}).exit_code == code
    exporter = got[0].active().exporters["honeycomb"]
    assert isinstance(exporter, HoneycombExporter)
    assert exporter.api_key.get_secret_value() == "hcaik_1"


def test_run_starts_nothing_with_a_bad_config(tmp_path: Path) -> None:
    """As a process: exit 1, the problem as the only line, and no trace back."""
    done = subprocess.run(
        [sys.executable, "-m", "grafter", "run", "--config", str(tmp_path / "missing.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{tmp_path / 'missing.yaml'}: cannot be read: No such file or directory\n"
