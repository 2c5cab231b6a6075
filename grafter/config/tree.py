"""YAML as a tree in which every value knows its file and line, so that a problem can say where it stands.

Scalars are read as YAML 1.2 does, with ``on``/``off``/``yes``/``no`` as booleans besides: no octal ``0123``, no
base-60 ``1:30`` and no dates, which a config of addresses and durations would run into.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from grafter.config.expand import expand
from grafter.config.problems import Loc, Problem, path_of

Scalar = str | int | float | bool | None

SET = "--set"
# Far beyond any config, and far below where Python's own stack ends.
_DEEPEST = 50


@dataclass(slots=True)
class Node:
    """A value, where it was written, and what is below it."""

    value: "Scalar | dict[str, Node] | list[Node]"
    file: str
    """As it was named on the command line, or ``--set``; empty when nobody wrote it."""
    line: int
    """Of the key, where there is one; from 1, or 0."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own interface


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"(?i:true|false|yes|no|on|off)", list("tTfFyYnNoO")),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)


def read_file(path: str) -> tuple[Node | None, list[Problem]]:
    """The tree of one file, and what is wrong with its YAML. None when it cannot be used at all."""
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return None, [Problem(path, 0, "", f"cannot be read: {why}")]
    return read_yaml(data, path)


def read_yaml(data: bytes | str, file: str) -> tuple[Node | None, list[Problem]]:
    """The same for text at hand; ``file`` stands in the nodes and the problems. No YAML at all is an empty map."""
    lined = file != SET
    try:
        loader = _Loader(data)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = ", ".join(filter(None, (error.context, error.problem))).replace("\n", " ")
        return None, [Problem(file, mark.line + 1 if mark and lined else 0, "", f"not YAML: {why}")]
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        return None, [Problem(file, 1 if lined else 0, "", f"not YAML: {why}")]
    if root is None:
        return Node({}, file, 0), []
    reader = _Reader(file, lined)
    node = reader.node(root, reader.line(root), ())
    return (node if reader.usable else None), reader.problems


class _Reader:
    """Turns PyYAML's nodes into ours."""

    def __init__(self, file: str, lined: bool) -> None:
        self.file = file
        self.lined = lined
        self.problems: list[Problem] = []
        self.usable = True
        self._above: list[yaml.Node] = []
        self._constructor = yaml.constructor.SafeConstructor()

    def line(self, node: yaml.Node) -> int:
        return int(node.start_mark.line) + 1 if self.lined else 0

    def problem(self, node: yaml.Node, loc: Loc, message: str, *, usable: bool = False) -> None:
        self.usable &= usable
        self.problems.append(Problem(self.file, self.line(node), path_of(loc), message))

    def node(self, node: yaml.Node, line: int, loc: Loc) -> Node:
        if node in self._above:
            self.problem(node, loc, "an alias that contains itself")
            return Node(None, self.file, line)
        if len(self._above) > _DEEPEST:
            self.problem(node, (), "is nested too deeply")
            return Node(None, self.file, line)
        self._above.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return Node(self._map(node, loc), self.file, line)
            if isinstance(node, yaml.SequenceNode):
                items = [self.node(item, self.line(item), (*loc, at)) for at, item in enumerate(node.value)]
                return Node(items, self.file, line)
            assert isinstance(node, yaml.ScalarNode)
            return Node(self._scalar(node, loc), self.file, line)
        finally:
            self._above.pop()

    def _map(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    found = self.node(source, self.line(source), loc).value
                    if isinstance(found, dict):
                        merged = found | merged
                    else:
                        self.problem(key, loc, "<< takes a map, or a list of maps")
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.problem(key, loc, "a key that is not plain text")
                continue
            name, line = str(key.value), self.line(key)
            if name in own:
                first = f" (first in line {own[name].line})" if self.lined else ""
                self.problem(key, (*loc, name), f"is there twice{first}", usable=True)
                continue
            own[name] = self.node(value, line, (*loc, name))
        return merged | own

    def _scalar(self, node: yaml.ScalarNode, loc: Loc) -> Scalar:
        if node.tag.removeprefix("tag:yaml.org,2002:") not in ("str", "null", "bool", "int", "float"):
            self.problem(node, loc, f"the tag {node.tag} means nothing here")
            return None
        try:
            value: Scalar = self._constructor.construct_object(node)
        except (ValueError, LookupError):
            self.problem(node, loc, f"is not what its tag {node.tag} says")
            return None
        return value


def yaml_value(text: str) -> Any:
    """What the text means as YAML, by the rules above; the text itself where it is none."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return str(text)


def merge(base: Node, over: Node) -> Node:
    """Maps merge key by key; anything else, null included, takes the place of what was there."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, over.file, over.line)


def setting(text: str) -> tuple[Node | None, list[Problem]]:
    """The tree of one ``--set a.b.c=value``; the value is YAML, and nothing is null."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        return None, [Problem(SET, 0, path, "is not of the form path.of.key=value")]
    node, problems = read_yaml(value or "null", SET)
    for key in reversed(keys):
        node = node and Node({key: node}, SET, 0)
    return node, [Problem(SET, 0, path, problem.message) for problem in problems]


def expand_all(node: Node, env: Any, failed: Callable[[Loc, Node, str], None], loc: Loc = ()) -> None:
    """Expand every text below the node in place; what cannot be expanded is reported, with its place."""
    if isinstance(node.value, dict):
        for key, below in node.value.items():
            expand_all(below, env, failed, (*loc, key))
    elif isinstance(node.value, list):
        for at, below in enumerate(node.value):
            expand_all(below, env, failed, (*loc, at))
    elif isinstance(node.value, str):
        try:
            node.value = expand(node.value, env)
        except ValueError as error:
            failed(loc, node, str(error))


def plain(node: Node) -> Any:
    """The tree as maps, lists and scalars; expanded text stays marked as such."""
    if isinstance(node.value, dict):
        return {key: plain(below) for key, below in node.value.items()}
    if isinstance(node.value, list):
        return [plain(below) for below in node.value]
    return node.value


def locate(root: Node, loc: Loc) -> tuple[Node, bool]:
    """The node at a place, or the nearest one above it; whether it is the place itself."""
    node = root
    for key in loc:
        below: Node | None = None
        if isinstance(node.value, dict):
            below = node.value.get(str(key))
        elif isinstance(node.value, list) and isinstance(key, int) and key < len(node.value):
            below = node.value[key]
        if below is None:
            return node, False
        node = below
    return node, True


def cut(data: Any, loc: Sequence[str | int]) -> bool:
    """Take the value at a place out of maps and lists, or as much around it as it takes; False if it is not there."""
    holder: Any = None
    last: str | int = ""
    here = data
    for key in loc:
        if isinstance(here, dict):
            if key not in here:
                return False
            holder, last = here, key
            here = here[key]
        elif isinstance(here, list) and isinstance(key, int) and key < len(here):
            # A list loses its sense with an item; the key that holds the list goes.
            here = here[key]
        else:
            break
    if holder is None:
        return False
    del holder[last]
    return True
