"""config.yaml and docs/configuration.md say of the config what its models say."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_keys import flow, keys, tables

from grafter.components import Config, load
from grafter.config.expand import expand

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (ROOT / "config.yaml").read_text()
DOCS = (ROOT / "docs" / "configuration.md").read_text()
HONEYCOMB = {"HONEYCOMB_API_KEY": "hcaik_0123"}


def uncommented(text: str) -> str:
    """config.yaml with the blocks that are commented out as a whole (they begin with ``# #``)."""
    blocks = []
    for block in text.split("\n\n"):
        if block.startswith("  # # "):
            block = re.sub(r"^  # ", "  ", block, flags=re.MULTILINE)
        blocks.append(block)
    return "\n\n".join(blocks)


def filled(text: str) -> str:
    """The same with what a comment offers beside a null or an empty list (``# or {…}``, ``# or [{…}]``)."""
    return re.sub(r"(?:null|\[\])  # or (\{.*\}|\[\{.*\}\])$", r"\1", text, flags=re.MULTILINE)


def look_up(data: Any, path: tuple[str, ...], depth: int = 0, section: bool = False) -> Iterator[Any]:
    """What stands at a path of the models, in every component of the type and every item of a list; nothing where the
    path does not reach. ``section``: ``data`` has components by id."""
    if depth == len(path):
        yield data
        return
    key = path[depth]
    if key == "[]":
        found = list(data)
    elif not isinstance(data, dict):
        return
    elif section:
        found = [value for name, value in data.items() if name.partition("/")[0] == key]
    else:
        found = [data[key]] if key in data else []
    for value in found:
        yield from look_up(value, path, depth + 1, depth == 0 and key in Config.sections())


def expanded(value: Any) -> Any:
    """A value as it is in an empty environment."""
    if isinstance(value, dict):
        return {key: expanded(below) for key, below in value.items()}
    if isinstance(value, list):
        # An empty secret is dropped.
        return [below for below in map(expanded, value) if below != ""]
    return expand(value, {}) if isinstance(value, str) else value


# Each key is a test, and to parse the file takes as long as forty of them.
PLAIN = yaml.safe_load(uncommented(SHIPPED))
FULL = yaml.safe_load(filled(uncommented(SHIPPED)))


def test_the_shipped_file_is_the_defaults() -> None:
    """config.yaml loads in an empty environment and says nothing but defaults."""
    config = load([str(ROOT / "config.yaml")], env={})
    assert config == Config()
    assert config.warnings == ()


@pytest.mark.parametrize("key", list(keys()), ids=lambda key: ".".join(key.path))
def test_every_key_stands_in_the_shipped_file(key: Any) -> None:
    """Each key of the models stands in config.yaml with its default, in a comment where it is optional."""
    found = [*look_up(PLAIN, key.path), *look_up(FULL, key.path)]
    assert found, "is not there"
    # An item of a list says more than its defaults, and OTLP over HTTP needs one of its two addresses.
    if key.default is not None and "[]" not in key.path and key.path[1:] != ("otlp_http", "endpoint"):
        assert flow(expanded(found[0])) == key.default


def test_every_key_of_the_shipped_file_has_a_comment() -> None:
    """Each line with a key has a comment above it or behind it, unless the same key was explained further up."""
    lines = uncommented(SHIPPED).splitlines()
    explained: set[str] = set()
    bare = []
    for above, line in pairwise(lines):
        key = re.match(r"\s*(?:- )?([a-z_]+)(?:/[a-z]+)?:", line)
        if key is None:
            continue
        if above.lstrip().startswith("#") or "# " in line:
            explained.add(key[1])
        elif key[1] not in explained:
            bare.append(line)
    assert bare == []


def test_the_commented_exporters_are_defaults_too(tmp_path: Path) -> None:
    """With every comment that offers something taken off, config.yaml loads, and each exporter has its defaults."""
    file = tmp_path / "config.yaml"
    file.write_text(filled(uncommented(SHIPPED)))
    config = load([str(file)], env=HONEYCOMB)
    assert {name.partition("/")[0] for name in config.exporters} == set(Config.sections()["exporters"].types)
    for exporter in config.exporters.values():
        required = {name: getattr(exporter, name) for name, field in type(exporter).model_fields.items()}
        named = {name for name, field in type(exporter).model_fields.items() if field.is_required()} | {"endpoint"}
        bare = type(exporter)(**{name: value for name, value in required.items() if name in named})
        assert exporter == bare
    assert config.service.pipelines.metrics is not None
    assert config.receivers["openai"].ingest.tee is not None


def test_the_tables_of_the_docs_are_complete() -> None:
    """Each heading of the reference is followed by exactly the rows that the models give."""
    for heading, rows in tables().items():
        section = DOCS.split(f"\n### {heading}\n", 1)[1].split("\n### ", 1)[0]
        assert [line for line in section.splitlines() if line.startswith("| `")] == rows, heading
    assert DOCS.count("\n| `") == sum(map(len, tables().values()))


def test_the_examples_of_the_docs_are_valid(tmp_path: Path) -> None:
    """Every YAML example in the docs loads, and two grafters started from the first two share no address."""
    secret = tmp_path / "honeycomb"
    secret.write_text("hcaik_0123\n")
    examples = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    assert len(examples) == 3
    env = {**HONEYCOMB, "INGEST_TOKEN": "a", "OPENAI_API_KEY": "b", "BACKEND_TOKEN": "c"}
    configs = []
    for at, example in enumerate(examples):
        file = tmp_path / f"{at}.yaml"
        file.write_text(example.replace("/run/secrets/honeycomb", str(secret)))
        configs.append(load([str(file)], env=env))
    first, second, behind = (config.active() for config in configs)
    assert list(first.exporters) == ["honeycomb"]
    ports = [set(re.findall(r"localhost:(\d+)", " ".join(map(str, used)))) for used in (first.receivers.values(),)]
    assert not ports[0] & set(re.findall(r"localhost:(\d+)", examples[1]))
    assert second.exporters["honeycomb"].target == "https://api.eu1.honeycomb.io/v1/traces"
    assert second.extensions["store"].embedded.directory == "./grafter-data-2"
    assert list(behind.pipelines) == ["traces", "metrics", "logs"]
    assert behind.pipelines["metrics"].exporters == ("otlp_grpc/backend",)
