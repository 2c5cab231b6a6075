"""From files, ``--set`` and the environment to a Config, or to every problem at once.

The way: read each file, merge, expand, validate, check. A value that is refused is reported, taken out and its default
assumed, so that one mistake does not hide the next; problems that follow from one already reported are not added.
"""

import os
import re
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from grafter.config.check import check
from grafter.config.expand import Expanded
from grafter.config.model import Components, Model, component_type, is_component_id, unwrap
from grafter.config.problems import ConfigError, Finding, Loc, Problem, nearest, path_of
from grafter.config.root import RootConfig
from grafter.config.tree import SET, Node, cut, expand_all, locate, merge, plain, read_file, setting
from grafter.config.units import Duration, Endpoint, MemoryLimit, Size, Target, Url

C = TypeVar("C", bound=RootConfig)

# Values of these are worth showing in a problem and are never secrets.
_TELLING = (Enum, Duration, Size, MemoryLimit, Endpoint, Url, Target, bool, int, float)


def load(kind: type[C], paths: Sequence[str], sets: Sequence[str] = (), env: Mapping[str, str] = os.environ) -> C:
    """The effective config of these files, later ones winning, and of ``path.of.key=value`` settings over them.

    ``kind`` says which components there are. Without a path it is what runs by default.
    Raises ConfigError with all problems, sorted by file and line.
    """
    loading = _Loading(kind, paths, env)
    root = loading.read(sets)
    config = loading.config(root)
    if loading.problems:
        raise loading.error()
    return config.with_warnings(loading.warnings)


class _Loading(Generic[C]):
    def __init__(self, kind: type[C], paths: Sequence[str], env: Mapping[str, str]) -> None:
        self.kind = kind
        self.sections = kind.sections()
        self.paths = paths
        self.env = env
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.refused: list[Loc] = []
        """Places whose values are reported already."""

    def read(self, sets: Sequence[str]) -> Node:
        root = Node({}, "", 0) if self.paths else self._defaults()
        usable = True
        for node, problems in [*map(read_file, self.paths), *map(setting, sets)]:
            self.problems += problems
            if node is None:
                usable = False
            elif node.value is not None:
                for section in self.sections:
                    self._rename(section, node)
                root = merge(root, node)
        if not usable:
            # Half a config would be full of problems that the whole one has not.
            raise self.error()
        return root

    def _defaults(self) -> Node:
        """What stands in for the file where there is none."""
        named: dict[str, tuple[str, ...]] = {
            section: components.default for section, components in self.sections.items()
        }
        named["extensions"] = self.kind.default_extensions
        return _unwritten({section: {name: {} for name in names} for section, names in named.items()})

    def error(self) -> ConfigError:
        order = {file: at for at, file in enumerate(["", *self.paths, SET])}
        return ConfigError(sorted(set(self.problems), key=lambda it: (order[it.file], it.line, it.path, it.message)))

    def config(self, root: Node) -> C:
        def failed(loc: Loc, node: Node, message: str) -> None:
            self.problems.append(Problem(node.file, node.line, path_of(loc), message))
            self.refused.append(loc)

        expand_all(root, self.env, failed)
        data = plain(root)
        if not isinstance(data, dict):
            self.problems.append(
                Problem(root.file, root.line, "", "is not a map of receivers, processors, exporters …")
            )
            raise self.error()
        # A file that names none has none of them.
        data.setdefault("extensions", {})
        for loc in self.refused:
            cut(data, loc)
        self._rename_references(data)
        self._take_collectors_own(data, root)
        defined = {section: _ids(data.get(section)) for section in self.sections}
        config = self._validate(data, root)
        for finding in check(config, defined):
            if finding.warning:
                self.warnings.append(str(_place(finding, root)))
            elif not any(_touches(loc, finding) for loc in self.refused):
                self.problems.append(_place(finding, root))
        return config

    def _validate(self, data: dict[str, Any], root: Node) -> C:
        while True:
            try:
                return self.kind.model_validate(data, context=self.env)
            except ValidationError as error:
                taken = False
                for detail in error.errors(include_url=False):
                    loc = self._loc(detail["loc"])
                    node, exact = locate(root, loc)
                    if not any(loc[: len(refused)] == refused for refused in self.refused):
                        message = _message(detail, loc, node if exact else None, self.kind)
                        self.problems.append(Problem(node.file, node.line, path_of(loc), message))
                    self.refused.append(loc)
                    taken |= cut(data, loc[:-1] if detail["type"] == "missing" else loc)
                if not taken:
                    raise self.error() from error

    def _loc(self, raw: tuple[str | int, ...]) -> Loc:
        """pydantic's place without the component type that it puts behind a component's id, and without key marks."""
        loc = list(raw)
        if len(loc) > 2 and loc[0] in self.sections and loc[2] == component_type(str(loc[1])):
            del loc[2]
        return tuple(loc[:-1] if loc and loc[-1] == "[key]" else loc)

    def _rename(self, section: str, root: Node) -> None:
        """Give the components that a file has under an old type name the new one."""
        components = root.value.get(section) if isinstance(root.value, dict) else None
        if components is None or not isinstance(components.value, dict):
            return
        renamed: dict[str, Node] = {}
        for name, node in components.value.items():
            new = self.sections[section].renamed(name)
            place = Problem(node.file, node.line, f"{section}.{name}", f"is an old name of {new}")
            if new in renamed:
                self.problems.append(Problem(place.file, place.line, place.path, f"is there twice, as {new} too"))
                continue
            if new != name:
                self.warnings.append(str(place))
            renamed[new] = node
        components.value = renamed

    def _rename_references(self, data: Mapping[str, Any]) -> None:
        service = data.get("service")
        pipelines = service.get("pipelines") if isinstance(service, dict) else None
        for pipeline in pipelines.values() if isinstance(pipelines, dict) else ():
            for section, components in self.sections.items():
                names = pipeline.get(section) if isinstance(pipeline, dict) else None
                if isinstance(names, list):
                    names[:] = [components.renamed(name) if isinstance(name, str) else name for name in names]

    def _take_collectors_own(self, value: Any, root: Node, loc: Loc = ()) -> None:
        """Take out what the Collector's files set and nothing here reads, with a word about each."""
        if isinstance(value, dict):
            kind = _kind(loc, self.kind)
            for key in [key for key in value if _is_model(kind) and key in kind.collectors_own]:
                node, _ = locate(root, (*loc, key))
                self.warnings.append(str(Problem(node.file, node.line, path_of((*loc, key)), kind.collectors_own[key])))
                del value[key]
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(inner, (dict, list)):
                self._take_collectors_own(inner, root, (*loc, key))


def _unwritten(data: Any) -> Node:
    return Node({key: _unwritten(value) for key, value in data.items()}, "", 0)


def _ids(section: Any) -> list[str]:
    return list(section) if isinstance(section, dict) else []


def _touches(refused: Loc, finding: Finding) -> bool:
    return any(loc[: len(refused)] == refused or refused[: len(loc)] == loc for loc in (finding.loc, *finding.also))


def _place(finding: Finding, root: Node) -> Problem:
    """Where a finding stands: at its own key, or at another one that has a share in it and was written."""
    node, exact = locate(root, finding.loc)
    if not exact:
        others = [locate(root, loc) for loc in finding.also]
        node = next((other for other, found in others if found), node)
    return Problem(node.file, node.line, path_of(finding.loc), finding.message)


def _message(detail: ErrorDetails, loc: Loc, node: Node | None, root: type[RootConfig]) -> str:
    context = detail.get("ctx", {})
    found = _found(detail["input"], _kind(loc, root), node)
    match detail["type"]:
        case "extra_forbidden":
            kind, key = _kind(loc[:-1], root), str(loc[-1])
            if not _is_model(kind):
                return "unknown key"
            return f"unknown key; {kind.instead[key]}" if key in kind.instead else _unknown(key, kind)
        case "union_tag_invalid" | "union_tag_not_found":
            name = str(loc[-1])
            if not is_component_id(name):
                return "is not a component id: type, or type/name without spaces"
            return f"unknown component type{nearest(component_type(name), root.sections()[str(loc[0])].types)}"
        case "missing":
            return "is required"
        case "literal_error" | "enum":
            choices = re.findall(r"'([^']*)'", str(context.get("expected")))
            near = nearest(found.strip("'"), choices, otherwise=False)
            return f"{found} is not one of {', '.join(choices)}{near}"
        case "greater_than_equal":
            return f"{found} is less than {_number(context['ge'])}"
        case "less_than_equal":
            return f"{found} is more than {_number(context['le'])}"
        case "value_error":
            return f"{found} {context['error']}"
        case "string_pattern_mismatch":
            return "is not a name that a header can have"
        case "tuple_type" | "list_type":
            return f"must be a list; {found} is none"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"must be a map of keys; {found} is none"
        case "int_type":
            return f"{found} is not a whole number"
        case _:
            return f"{found} is wrong: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _unknown(key: str, kind: type[Model]) -> str:
    return f"unknown key{nearest(key, kind.model_fields)}"


def _found(value: object, kind: Any, node: Node | None) -> str:
    """What stands there: its text where no secret can stand, else what kind of thing it is."""
    if node is not None and isinstance(node.value, Expanded):
        return f"what {node.value.source} brings"
    match value:
        case dict():
            return "a map"
        case list():
            return "a list"
        case bool():
            return "true" if value else "false"
    telling = typing.get_origin(kind) is typing.Literal or (isinstance(kind, type) and issubclass(kind, _TELLING))
    if node is not None and telling and "@" not in str(value):
        return repr(value)
    return "text" if isinstance(value, str) else "a number"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kind(loc: Loc, root: type[RootConfig]) -> Any:
    """The type that stands at a place: a model, a plain type, or None."""
    kind: Any = root
    for depth, key in enumerate(loc):
        if depth == 0 and key in root.sections():
            kind = root.sections()[str(key)]
        elif isinstance(kind, Components):
            kind = kind.types.get(component_type(str(key)))
        elif _is_model(kind):
            field = kind.model_fields.get(key)
            kind = unwrap(field.annotation) if field else None
        else:
            # A list's items, or a map's values.
            kind = unwrap(next(iter(typing.get_args(kind)[:2][-1 if isinstance(key, str) else 0 :]), None))
    return kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Model)
