"""What docstrings and comments name is there: files, modules, functions, keys."""

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "grafter"
PROTO = SOURCE.parent / "proto"

FOREIGN_FILES = {
    # OpenTelemetry's protocol.
    "trace.proto",
    # The Agents SDK for Python, and openai-python.
    "_exceptions.py",
    "agents/tracing/processors.py",
    "resources/live/sideband.py",
    "types/beta/agent_session.py",
    "types/beta/agents/sessions/session_trace.py",
}
"""Files of others that are named as the source of a fact."""

FOREIGN_NAMES = {
    # A setting of Redis, a key of OpenAI's client secrets, a file of openai-python.
    "appendfsync",
    "client_secret",
    "_exceptions",
}
"""Names of others that no code of grafter has to spell."""

FILE = re.compile(r"[\w/]+\.(?:py|lua|proto)\b")
NAME = re.compile(r"``([a-z_][a-z_0-9]*(?:\.[a-z_][a-z_0-9]*)*)``")


def test_every_file_that_is_named_exists() -> None:
    """A reader who is sent to another file finds it."""
    there = [f"/{path.relative_to(SOURCE.parent)}" for path in (*SOURCE.rglob("*"), *PROTO.rglob("*"))]
    missing = [
        f"{where} names {name}"
        for where, text in prose()
        for name in FILE.findall(text)
        if name not in FOREIGN_FILES and not any(path.endswith(f"/{name}") for path in there)
    ]
    assert missing == []


def test_every_name_in_backticks_is_one_of_the_code() -> None:
    """What was renamed or moved is renamed in prose too: each part of a dotted name is written in some code or string
    of the package, or is a module of it."""
    known = names() | FOREIGN_NAMES
    missing = [
        f"{where} names {name}"
        for where, text in prose()
        for name in NAME.findall(text)
        if not known.issuperset(name.split("."))
    ]
    assert missing == []


def prose() -> Iterator[tuple[str, str]]:
    """Every docstring and comment with its place."""
    for path in sources():
        where = path.relative_to(SOURCE)
        if path.suffix != ".py":
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                yield f"{where}:{number}", line.partition("--")[2]
            continue
        for node in docstrings(path):
            yield f"{where}:{node.lineno}", str(node.value)
        for token in tokens(path):
            if token.type == tokenize.COMMENT:
                yield f"{where}:{token.start[0]}", token.string


@cache
def names() -> frozenset[str]:
    """Every word of the code: of names, of strings that are no docstrings, of the scripts, and the modules."""
    found: set[str] = set()
    for path in sources():
        found.update(path.relative_to(SOURCE).with_suffix("").parts)
        if path.suffix != ".py":
            found.update(re.findall(r"\w+", path.read_text(encoding="utf-8")))
            continue
        described = {(node.lineno, node.col_offset) for node in docstrings(path)}
        for token in tokens(path):
            if token.type != tokenize.COMMENT and token.start not in described:
                found.update(re.findall(r"\w+", token.string))
    return frozenset(found)


@cache
def docstrings(path: Path) -> list[ast.Constant]:
    """The strings that stand alone: docstrings, and the lines under a field or a constant."""
    alone = [node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Expr)]
    return [node for node in alone if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@cache
def tokens(path: Path) -> list[tokenize.TokenInfo]:
    with path.open("rb") as file:
        return list(tokenize.tokenize(file.readline))


def sources() -> list[Path]:
    """Everything that people wrote and others read."""
    return [
        path
        for path in sorted(SOURCE.rglob("*"))
        if path.suffix in {".py", ".lua"} and not path.name.endswith("_pb2.py")
    ]
