"""What is printed of a config: nothing secret, nothing missing, and what is printed can be loaded."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from grafter.components import Config, load
from grafter.config.show import as_json, as_schema, as_yaml, lines

ROOT = Path(__file__).resolve().parents[2]
FULL = """
receivers:
  otlp:
    protocols:
      grpc: {tokens: ["SECRET-1"], tls: {cert_file: a, key_file: b}}
  openai:
    projects: {default: {webhook_secrets: ["SECRET-6"]}}
    ingest: {tokens: ["SECRET-2"], tee: {api_key: "SECRET-3"}}
exporters:
  honeycomb: {api_key: "SECRET-4"}
  otlp_http/a: {endpoint: "http://a/$$b", headers: {x-key: "SECRET-5", x-empty: ""}}
service: {pipelines: {metrics: {}}}
"""


def test_secrets_are_never_printed(read: Callable[..., Config]) -> None:
    """Tokens, keys and header values show as [REDACTED], in YAML, in JSON, and in a config's own repr."""
    config = read(FULL)
    for text in (as_yaml(config), as_json(config), repr(config), str(config.active()), *lines(config)):
        assert "SECRET" not in text
    assert as_yaml(config).count("[REDACTED]") == 6
    assert json.loads(as_json(config))["exporters"]["otlp_http/a"]["headers"] == {"x-key": "[REDACTED]", "x-empty": ""}


def test_what_is_printed_loads_to_the_same_config(read: Callable[..., Config], tmp_path: Path) -> None:
    """The printed YAML is a config file: secrets apart it means the same, dollar signs and pipelines included."""
    for config in (Config(), read(""), read(FULL.replace("SECRET", "[REDACTED]"))):
        file = tmp_path / "printed.yaml"
        file.write_text(as_yaml(config))
        assert as_yaml(load([str(file)], env={})) == as_yaml(config)
        assert load([str(file)], env={}).active().pipelines == config.active().pipelines


def test_a_line_for_each_component_that_runs(read: Callable[..., Config]) -> None:
    """Kind, id, and where it listens or sends."""
    assert lines(read(FULL)) == [
        "receiver otlp: grpc localhost:4317 (TLS), http localhost:4318",
        "receiver openai: http localhost:4319, tee to https://api.openai.com/v1/traces/ingest, webhooks of default",
        "processor graft: mode hold, content none",
        "processor tail_sampling: error, first_token, always (keeps everything)",
        "exporter honeycomb: http https://api.honeycomb.io/v1/traces",
        "exporter otlp_http/a: http http://a/$b/v1/traces",
        "extension store: embedded, ./grafter-data, up to 4GiB",
        "extension health_check: http localhost:13133",
    ]


@pytest.mark.parametrize(
    ("keys", "opened"),
    [
        ("endpoint: 0.0.0.0:4320", "http 0.0.0.0:4320, opened by browsers of this machine alone"),
        (
            "tokens: [{token: SECRET}], proxy: {}",
            "http localhost:4320, opened by 1 token or a proxy's X-Forwarded-User",
        ),
    ],
)
def test_the_lines_say_who_gets_into_the_page_and_what_moves(
    read: Callable[..., Config], keys: str, opened: str
) -> None:
    """An address for a whole network lets nobody else in: that is seen before it is tried."""
    rules = "processors: {graft: {rules: [{match: {attribute: lk.room_sid}, join: call, host: room}]}}"
    said = lines(read(f"{rules}\nextensions: {{calls: {{}}, lookup: {{{keys}}}}}\n"))
    assert f"extension lookup: {opened}" in said
    assert "processor graft: mode hold, content none, rules that match lk.room_sid" in said


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(as_schema(Config))
    return jsonschema.Draft202012Validator(as_schema(Config))


@pytest.mark.parametrize(
    "text",
    [
        (ROOT / "config.yaml").read_text(),
        FULL,
        "exporters: {debug: , otlp_grpc/x: {endpoint: '${env:E}', timeout: '${env:T:-5s}'}}",
        "receivers: \nextensions: {store: {embedded: {memory: '${env:M:-}'}, max_bytes: 5}}",
    ],
)
def test_the_schema_takes_what_the_loader_takes(validator: jsonschema.Draft202012Validator, text: str) -> None:
    """The shipped file, nulls and expansions are valid by the JSON Schema."""
    validator.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "recievers: {}",
        "receivers: {otlp: {protocols: {grpc: {endpont: a}}}}",
        "exporters: {honycomb: {}}",
        "exporters: {honeycomb: {region: us}}",
        "processors: {graft: {mode: holdd}}",
        "processors: {graft: {wait: {idle: 10}}}",
        "exporters: {debug/x: {verbosity: 5}}",
        "service: {memory_limit: []}",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(validator: jsonschema.Draft202012Validator, text: str) -> None:
    """Unknown keys and types, missing keys and wrong values, so that an editor shows them."""
    assert not validator.is_valid(yaml.safe_load(text))


def test_the_schema_has_the_reference_text() -> None:
    """Each key of a model has its description, for editors to show."""
    schema = as_schema(Config)
    assert schema["properties"]["service"]["description"] == "What runs, and how."
    exporters = schema["properties"]["exporters"]["anyOf"][0]["patternProperties"]
    queue = exporters["^otlp_grpc(/.+)?$"]["anyOf"][0]["properties"]["sending_queue"]
    assert queue["description"] == "How much is on its way at a time."
    wait = schema["$defs"]["Wait"]["properties"]
    assert wait["idle"]["description"] == "Quiet time after which any trace is released."
    assert wait["idle"]["default"] == "10m"


def test_reading_a_config_needs_no_server_library() -> None:
    """The config and the command line start without gRPC, aiohttp or protobuf."""
    code = "import sys, grafter.components, grafter.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"grpc", "aiohttp", "google", "uvloop"} & set(loaded.split())
