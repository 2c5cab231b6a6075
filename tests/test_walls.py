"""Who may import whom: the plan of the house, on one page, read from the syntax trees."""

import ast
import graphlib
import sys
from collections.abc import Container, Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "grafter"

KEYS = {"config.collector", "config.model", "config.problems", "config.units"}
"""What a component's own config is written with."""

EDGE = {"consumer", "otlp", "core", "errors", "logs", "telemetry", "store.base", "store.model", "tasks"} | KEYS
"""What receivers, exporters and the processor between them are built from."""

CALLS = {
    "calls.answers",
    "calls.base",
    "calls.call_link",
    "calls.following",
    "calls.ids",
    "calls.model",
    "calls.report",
}
"""What is said of calls, and to whom: no database."""

ROOMS: dict[str, set[str]] = {
    # Pure: decisions, and nothing else.
    "core": set(),
    # Contracts and words.
    "errors": set(),
    "telemetry": set(),
    "tasks": set(),
    "logs": set(),
    "process": {"tasks"},
    "consumer": {"core", "errors"},
    # Knows no component: each has its own keys, and components.py lists them.
    "config": set(),
    # Bytes.
    "otlp": {"core", "consumer", "errors"},
    "store": {"core", "errors", "tasks", "telemetry"} | KEYS,
    # What OpenAI's traces say; pure, as the core is.
    "guests": {"core"},
    # What is known of calls waits in the store until its own database takes it.
    "calls": {"core", "errors", "store.base", "store.model", "tasks", "telemetry"} | KEYS,
    # What went wrong, by what arrived; pure.
    "doctor": {"core"} | CALLS,
    "processor": EDGE | {"guests"} | CALLS,
    "receiver": EDGE | {"doctor", "guests"} | CALLS,
    "exporter": EDGE,
    # The page reads calls and stored traces; of the receivers it has the HTTP server.
    "web": {
        "calls.base",
        "calls.call_link",
        "calls.model",
        "calls.report",
        "core",
        "errors",
        "otlp",
        "receiver.http_server",
    }
    | KEYS,
    # In front of the processor, for what memory allows.
    "memory_limit": {"consumer", "core", "errors", "logs", "tasks"},
    # What waits run on; kept in the store.
    "arrival_clock": {"core", "errors", "store.base", "store.model", "tasks", "telemetry"},
    "health": {"telemetry"},
    "announcing": {"components", "config", "consumer", "logs", "tasks", "telemetry"},
    # Which components there are, and then what runs them.
    "components": KEYS | {"calls", "config", "core", "exporter", "processor", "receiver", "store", "web"},
    "service": EDGE
    | {
        "announcing",
        "arrival_clock",
        "calls",
        "components",
        "config.root",
        "exporter.backlogs",
        "exporter.dead_letters",
        "health",
        "memory_limit",
        "process",
        "processor",
        "receiver",
        "store.config",
    },
    # Several processes: the parent, and the service in each child.
    "workers": {
        "announcing",
        "components",
        "config",
        "core",
        "health",
        "logs",
        "memory_limit",
        "process",
        "receiver",
        "service",
        "tasks",
        "telemetry",
    },
    # The terminal.
    "commands": EDGE
    | {
        "calls",
        "components",
        "config",
        "doctor",
        "exporter",
        "guests",
        "memory_limit",
        "processor",
        "receiver",
        "service",
        "store",
    },
    "cli": {"commands", "components", "config", "process", "service", "telemetry", "workers"},
}
"""Each room and the rooms that it may import, beside itself and the package's own name and version."""

ONLY_IN: dict[str, set[str]] = {
    "google.protobuf": {"otlp", "commands"},
    "google.rpc": {"otlp"},
    # Receivers build the protocol's own answers; what is inside a request only otlp knows.
    "opentelemetry.proto": {"otlp", "commands", "receiver"},
    "sqlalchemy": {"calls"},
    "alembic": {"calls"},
    "pydantic": {"calls", "components", "config", "exporter", "processor", "receiver", "store", "web"},
    "sqlite3": {"store"},
    "hiredis": {"store"},
    "redis": {"store"},
    "jinja2": {"web"},
    "phonenumbers": {"calls", "core"},
    "typer": {"cli"},
    "prometheus_client": {"telemetry", "health", "workers"},
}
"""Libraries that change the way a room is written, and the rooms that chose them."""

CORE_MAY_NOT = {"asyncio", "time", "random", "secrets", "uuid", "logging", "os", "socket", "threading", "pathlib", "io"}
"""What a pure room has no use for: waiting, a clock, chance, a log, an environment."""

WAITING = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)

ENTRANCES = {"__init__", "__main__"}


def test_every_module_stands_in_a_room() -> None:
    """A new module names its room here before it imports anything."""
    strangers = [str(path) for path in modules() if room_of(path) is None and path.stem not in ENTRANCES]
    assert strangers == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    """No import, inside functions included, leaves a room through a wall."""
    allowed = ROOMS[room] | {room}
    broken = [
        f"{path}:{line} imports grafter.{name}"
        for path in modules()
        if room_of(path) == room
        for name, line in own_imports(path)
        if not any(name == door or name.startswith(f"{door}.") for door in allowed)
    ]
    assert broken == []


def test_no_import_goes_round() -> None:
    """The modules can be read from the bottom up; imports for types alone and inside functions count too."""
    named = {name_of(path): path for path in modules()}
    graph = {
        name: {found for one, _ in own_imports(path) if (found := module_in(one, named)) not in {None, name}}
        for name, path in named.items()
    }
    # Raises CycleError, which names the circle.
    assert {*graphlib.TopologicalSorter(graph).static_order()} >= named.keys()


@pytest.mark.parametrize(("one", "other"), [("redis", "embedded"), ("embedded", "redis")])
def test_a_store_knows_nothing_of_another(one: str, other: str) -> None:
    """What both need stands in ``store`` itself: the contract and the records."""
    broken = [
        f"{path}:{line} imports grafter.{name}"
        for path in modules()
        if path.parts[:2] == ("store", one)
        for name, line in own_imports(path)
        if name.startswith(f"store.{other}")
    ]
    assert broken == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_in_its_rooms(library: str) -> None:
    """What only one room should know (protobuf, pydantic, SQLite…) is imported nowhere else."""
    broken = [
        f"{path}:{line} imports {name}"
        for path in modules()
        if room_of(path) not in ONLY_IN[library]
        for name, line in imports(path)
        if name == library or name.startswith(f"{library}.")
    ]
    assert broken == []


def test_the_core_is_pure() -> None:
    """The core knows itself, the quiet part of the standard library, and two libraries that only compute; it never
    awaits."""
    broken = []
    for path in modules():
        if room_of(path) not in {"core", "doctor", "guests"}:
            continue
        for name, line in imports(path):
            top = name.split(".")[0]
            outside = top not in sys.stdlib_module_names and top not in {"grafter", "orjson", "phonenumbers"}
            if outside or top in CORE_MAY_NOT:
                broken.append(f"{path}:{line} imports {name}")
        broken += [f"{path}:{node.lineno} waits" for node in ast.walk(tree_of(path)) if isinstance(node, WAITING)]
    assert broken == []


def test_only_the_entrances_print_and_exit() -> None:
    """A room that served a thousand calls must not end the process or write into its output."""
    enders = {"print", "exit", "quit", "sys.exit", "os._exit"}
    broken = [
        f"{path}:{node.lineno} calls {ast.unparse(node.func)}"
        for path in modules()
        if room_of(path) not in {"cli", "commands", "process", "service", "workers"} and path.stem != "__main__"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in enders
    ]
    assert broken == []


# Each wall is a test that reads all modules; parsed and walked for each, they took a minute of a core.
@cache
def modules() -> tuple[Path, ...]:
    """Every module of the package, by its path below it, generated ones left out."""
    paths = sorted(SOURCE.rglob("*.py"))
    return tuple(path.relative_to(SOURCE) for path in paths if not path.name.endswith("_pb2.py"))


def room_of(path: Path) -> str | None:
    """``store/base.py`` is in ``store``, ``config.py`` in ``config``."""
    name = path.with_suffix("").parts[0]
    return name if name in ROOMS else None


def name_of(path: Path) -> str:
    """``store/base.py`` is ``store.base``, ``guests/__init__.py`` is ``guests``."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def module_in(name: str, named: Container[str]) -> str | None:
    """The module that an imported name is or is of; None for what is generated."""
    if name in named:
        return name
    above = name.rpartition(".")[0]
    return above if above in named else None


def own_imports(path: Path) -> Iterator[tuple[str, int]]:
    """The modules of grafter that a module imports, without the leading ``grafter.``."""
    for name, line in imports(path):
        if name.startswith("grafter.") and name != "grafter.__version__":
            yield name.removeprefix("grafter."), line


@cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Everything that a module imports, by full name (``from a import b`` gives ``a.b``), and where."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return tuple(found)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse((SOURCE / path).read_text(encoding="utf-8"))
