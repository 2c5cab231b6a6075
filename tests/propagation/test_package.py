"""The distributions: what an app gets by installing the helpers, and what the server asks of whoever installs it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.e2e.process import REPO
from tests.e2e.sink import Sink, listening
from tests.propagation.apps import HELPERS, JAVASCRIPT, run

PIP = ["-m", "pip", "--disable-pip-version-check"]
OLD_APP = ["opentelemetry-sdk==1.38.0", "opentelemetry-exporter-otlp==1.38.0"]
"""An app of a year ago, whose exporters know nothing newer than protobuf 6."""

EXPORTS = """
import sys
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from importlib.metadata import entry_points
from opentelemetry.sdk.trace.id_generator import IdGenerator
from grafter_propagation import RealtimeTap, call_context, end_call

(ids,) = entry_points(group="opentelemetry_id_generator", name="grafter_call")
assert issubclass(ids.load(), IdGenerator)
provider = TracerProvider(id_generator=ids.load()())
provider.add_span_processor(SimpleSpanProcessor(Grpc(endpoint=sys.argv[1], insecure=True)))
provider.add_span_processor(SimpleSpanProcessor(Http(endpoint=f"{sys.argv[2]}/v1/traces")))
with provider.get_tracer("app").start_as_current_span("call"):
    tap = RealtimeTap("http://localhost:9", "call_1")
    assert set(tap._metadata) == {"trace_id", "span_id", "traceparent"}
assert end_call("CA" + "7" * 32, start=1, end=2, tracer=provider.get_tracer("app"))
provider.shutdown()
"""


def done(*command: str) -> str:
    """What a command printed; fails with its errors."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@cache
def why_no_registry() -> str:
    """Empty where pip finds packages, else how it failed."""
    asked = ["install", "-q", "--dry-run", "--ignore-installed", "--no-deps", "opentelemetry-api==1.38.0"]
    ended = subprocess.run([sys.executable, *PIP, *asked], capture_output=True, text=True, check=False)
    return f"no package registry: {ended.stderr.strip()[-200:]}" if ended.returncode else ""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The helpers as an app downloads them."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    shutil.copytree(HELPERS, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    build = ["wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory)]
    done(sys.executable, *PIP, *build, str(source))
    (built,) = directory.glob("*.whl")
    return built


@dataclass(frozen=True)
class Environment:
    """A fresh one of an app's."""

    python: str

    def pip(self, *command: str) -> str:
        """What pip said. It is this environment's pip: to put one into each would take longer than all else here."""
        return done(sys.executable, *PIP, "--python", self.python, *command)


def environment(directory: Path) -> Environment:
    """With nothing installed."""
    venv.create(directory)
    return Environment(str(directory / ("Scripts" if sys.platform == "win32" else "bin") / "python"))


def test_an_app_without_opentelemetry_gets_one_package(wheel: Path, tmp_path: Path) -> None:
    """Installed without a registry, for it asks for nothing; it loads the standard library and itself."""
    assert re.fullmatch(r"grafter_propagation-[\d.]+-py3-none-any\.whl", wheel.name)
    app = environment(tmp_path)
    app.pip("install", "-q", "--no-index", str(wheel))
    assert "No broken requirements" in app.pip("check")
    code = (
        "import sys; before = set(sys.modules); import grafter_propagation;"
        "print({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    assert done(app.python, "-I", "-c", code).strip() == "{'grafter_propagation'}"


async def test_an_app_on_an_older_opentelemetry_keeps_its_exporters(wheel: Path, tmp_path: Path) -> None:
    """OpenTelemetry 1.38 holds protobuf below 7: after the helpers are installed its exporters send as before."""
    if reason := why_no_registry():
        pytest.skip(reason)
    app = environment(tmp_path)
    app.pip("install", "-q", "--no-compile", *OLD_APP)
    before = app.pip("freeze")
    app.pip("install", "-q", "--no-index", str(wheel))
    assert "No broken requirements" in app.pip("check")
    after = [line for line in app.pip("freeze").splitlines() if "grafter" not in line]
    assert after == before.splitlines()
    program = tmp_path / "app.py"
    program.write_text(EXPORTS, encoding="utf-8")
    async with listening() as sink:
        await run(app.python, "-I", str(program), sink.grpc_endpoint, sink.http_endpoint)
        await sink.until(twice, "two spans by each exporter")


def twice(sink: Sink) -> bool:
    return sorted(each.span.name for each in sink.spans()) == ["call", "call", "callsphere.call", "callsphere.call"]


@pytest.mark.parametrize("version", ["3.9", "3.10"])
def test_the_oldest_pythons_load_it(version: str) -> None:
    """Declared is what runs."""
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    python = str(found[-1]) if found else shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-V"], capture_output=True, check=False).returncode:
        pytest.skip(f"no python{version} here")
    modules = [path.stem for path in (HELPERS / "grafter_propagation").glob("*.py") if path.stem != "__init__"]
    code = "import sys; sys.path.insert(0, sys.argv[1]);"
    code += ";".join(f"import grafter_propagation.{module}" for module in modules)
    done(python, "-I", "-B", "-W", "error", "-c", code, str(HELPERS))


def test_it_imports_nothing_that_it_does_not_bring() -> None:
    """The standard library, itself, and inside functions opentelemetry-api and the frameworks that an app has."""
    guests = {"opentelemetry", "agents"}
    broken = []
    for path in sorted((HELPERS / "grafter_propagation").glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        typing = {
            id(inner)
            for node in tree.body
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in typing or not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            tops = {name.split(".")[0] for name in names} - {"grafter_propagation"} - sys.stdlib_module_names
            broken += [f"{path.name}:{node.lineno}: {top}" for top in tops if top not in guests or node in tree.body]
    assert broken == []


def server() -> tuple[str, list[str]]:
    """The lowest Python that the server declares, and what it depends on."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]
    return project["requires-python"].removeprefix(">="), project["dependencies"]


def resolved(requirements: Sequence[str], python: str) -> set[str]:
    """The names that pip's resolver would install, on a fresh machine with that Python."""
    chosen = ["--python-version", python, "--only-binary", ":all:"]
    report = done(
        *(sys.executable, *PIP, "install", "-qq", "--dry-run", "--ignore-installed", "--report", "-"),
        *(*chosen, *requirements),
    )
    return {re.sub(r"[-_.]+", "-", each["metadata"]["name"]).lower() for each in json.loads(report)["install"]}


# Floors change with the file that declares them; the newest change by themselves, and are asked for each time.
@pytest.mark.parametrize("end", [pytest.param("lowest", marks=pytest.mark.slow), "newest"])
def test_the_server_can_be_installed_at_both_ends_of_what_it_declares(end: str) -> None:
    """pip resolves all dependencies at their floors, and at the newest releases there are."""
    if reason := why_no_registry():
        pytest.skip(reason)
    python, dependencies = server()
    asked = [re.sub(r">=([^,;]+)[^;]*", r"==\1", each) if end == "lowest" else each for each in dependencies]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=;]", each)[0]).lower().strip() for each in dependencies}
    assert names <= resolved(asked, python)


def test_the_servers_distribution_is_no_strangers() -> None:
    """`grafter` is somebody else's on PyPI: no document tells a reader to install it from there."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]
    assert (project["name"], list(project["scripts"])) == ("otel-grafter", ["grafter"])
    places = [REPO / "README.md", REPO / "CHANGELOG.md", REPO / "Dockerfile"]
    places += [*REPO.glob("docs/*.md"), *REPO.glob("examples/*"), *REPO.glob("propagation/*/README.md")]
    wrong = re.compile(r"(?:pip|npm|uv|pipx)3? (?:install|add)[^`\n]*\s['\"]?grafter(?:\[|['\"`\s]|$)", re.MULTILINE)
    assert [path.name for path in places if path.is_file() and wrong.search(path.read_text("utf-8"))] == []


def test_the_types_name_what_the_javascript_package_exports() -> None:
    """Each value that a type is there for can be imported from the package itself, and none is without a type."""
    value = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.MULTILINE)
    typed = {name for path in JAVASCRIPT.glob("*.d.mts") for name in value.findall(path.read_text("utf-8"))}
    index = re.findall(r"^export \{(.*?)\}", (JAVASCRIPT / "index.mjs").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert {name for names in index for name in re.findall(r"\w+", names)} == typed


def test_the_javascript_package_brings_all_that_it_exports(tmp_path: Path) -> None:
    """What npm packs holds every file that its exports name, types included, and asks for nothing."""
    package = json.loads((JAVASCRIPT / "package.json").read_text("utf-8"))
    assert not {"dependencies", "peerDependencies", "optionalDependencies"} & package.keys()
    exported = {file for entry in package["exports"].values() for file in entry.values()}
    assert all((JAVASCRIPT / file).is_file() for file in exported)
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    env = os.environ | {"npm_config_cache": str(tmp_path)}
    packed = subprocess.run(
        ["npm", "pack", "--dry-run", "--json"], cwd=JAVASCRIPT, env=env, capture_output=True, text=True, check=True
    )
    answer = json.loads(packed.stdout)
    (pack,) = answer if isinstance(answer, list) else answer.values()
    assert {f"./{each['path']}" for each in pack["files"]} >= exported
