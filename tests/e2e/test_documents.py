"""What the documents, the examples and the Dockerfile tell a reader to type is what grafter takes."""

import asyncio
import re
import shutil
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from typer.main import get_command

from grafter.cli import app
from grafter.components import load
from grafter.config.expand import expand
from grafter.config.root import listening
from tests.e2e.conftest import Start
from tests.e2e.process import REPO
from tests.e2e.sink import Sink

DOCUMENTS = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
SECRET = "hcaik_0123456789"


@pytest.mark.parametrize(
    ("document", "block"),
    [
        pytest.param(document.name, block, id=f"{document.name}-{number}")
        for document in DOCUMENTS
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", document.read_text("utf-8"), re.DOTALL))
    ],
)
def test_every_config_in_the_documents_is_valid(document: str, block: str, tmp_path: Path) -> None:
    """A reader may copy any YAML block into a file as it stands."""
    file = tmp_path / "config.yaml"
    # Files and variables with secrets are on the reader's machine only.
    secrets = dict.fromkeys(re.findall(r"\$\{env:(\w+)", block), SECRET)
    file.write_text(re.sub(r"\$\{file:[^}]+\}", SECRET, block), encoding="utf-8")
    assert load([str(file)], env=secrets).active().exporters, document


def test_the_image_and_the_compose_file_start_with_valid_settings() -> None:
    """Their ``--set`` arguments name keys that exist, and bind every door to all addresses of the container."""
    image = re.findall(r'"--set", "([^"]+)"', (REPO / "Dockerfile").read_text("utf-8"))
    compose = yaml.safe_load((REPO / "examples" / "docker-compose.yaml").read_text("utf-8"))
    words = compose["services"]["grafter"]["command"]
    for settings in (image, [after for word, after in pairwise(words) if word == "--set"]):
        otlp = load([], settings, env={}).receivers["otlp"]
        assert otlp.protocols.grpc.endpoint == "0.0.0.0:4317"
        assert otlp.protocols.http.endpoint == "0.0.0.0:4318"


def test_a_collector_and_grafter_run_on_one_host_with_the_example_files() -> None:
    """Both files are what the document shows; the Collector sends to grafter, and no port is wanted twice."""
    # A Collector's file has the other name, so that it is not taken for one of grafter's.
    shown = re.findall(r"```ya?ml\n(.*?)```", (REPO / "docs" / "collector.md").read_text("utf-8"), re.DOTALL)[:2]
    files = [REPO / "examples" / "collector.yaml", REPO / "examples" / "grafter.yaml"]
    collector, own = (yaml.safe_load(file.read_text("utf-8")) for file in files)
    assert [yaml.safe_load(block) for block in shown] == [collector, own]

    config = load([str(files[1])], env={})
    assert config.warnings == ()
    sends_to = expand(collector["exporters"]["otlp_grpc/grafter"]["endpoint"], {})
    assert sends_to == config.receivers["otlp"].protocols.grpc.endpoint
    # Its own metrics, and its health check where somebody adds that.
    taken = {8888, 13133} | {int(one["endpoint"][-4:]) for one in collector["receivers"]["otlp"]["protocols"].values()}
    assert not taken & {endpoint.port for _, endpoint in listening(config)}


def test_every_link_between_the_documents_leads_somewhere() -> None:
    """Relative links name files that are there."""
    broken = [
        f"{document.name}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8"))
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_every_file_that_the_architecture_names_exists() -> None:
    """Whoever follows a span's or a guest's way from file to file finds each, and each name beside one in it."""
    text = (REPO / "docs" / "architecture.md").read_text("utf-8")
    files = re.findall(r"`((?:grafter|tests)/[^`]*)`(?: \(`(\w+)`)?", text)
    assert len(files) > 80
    assert [file for file, _ in files if not (REPO / file).exists()] == []
    assert [(file, name) for file, name in files if name and name not in (REPO / file).read_text("utf-8")] == []


def test_the_architecture_names_every_room() -> None:
    """Whoever meets a file of grafter finds on that page what it is for."""
    text = (REPO / "docs" / "architecture.md").read_text("utf-8")
    rooms = [file for ending in ("py", "c", "lua") for file in (REPO / "grafter").rglob(f"*.{ending}")]
    names = [str(file.relative_to(REPO)) for file in rooms if file.name != "__init__.py"]
    assert len(names) > 300
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_every_command_in_the_documents_exists() -> None:
    """``grafter WORD`` in backticks or at the start of a line is a command."""
    commands = set(getattr(get_command(app), "commands"))  # noqa: B009 - typer's return type does not say that it is a group
    named = {
        word
        for document in DOCUMENTS
        for word in re.findall(r"(?:`|^    )grafter ([a-z-]+)", document.read_text("utf-8"), re.MULTILINE)
    }
    assert named - commands == set()


async def test_the_quick_start_does_what_it_says(start: Start, sink: Sink) -> None:
    """Its shell lines, run as they stand against a grafter with other ports, give the tree that it promises."""
    if shutil.which("bash") is None or shutil.which("curl") is None:
        pytest.skip("bash and curl are needed to run the quick start's lines")
    text = (REPO / "docs" / "quickstart.md").read_text("utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[2:4]
    script = "\n".join(dedent("\n".join(re.findall(r"^(?:    .*)?$", section, re.MULTILINE))) for section in sections)
    grafter = await start()
    script = script.replace("http://localhost:4318", grafter.otlp_http)
    script = script.replace("http://localhost:4319/v1/traces/ingest", grafter.ingest)
    process = await asyncio.create_subprocess_exec("bash", "-euc", script, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0

    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    await sink.until_spans(trace_id, 3)
    tree = sink.tree(trace_id)
    (session,) = tree.children
    (agent,) = session.children
    assert [tree.name, session.name, agent.name] == ["call", "gen_ai.realtime.session", "invoke_agent Triage"]
