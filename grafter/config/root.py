"""The whole config: its five sections, what a file may leave to the rules, and what runs.

Which components there are is the subclass's to say, by the ``Components`` that mark its sections.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

from pydantic import PrivateAttr, model_validator

from grafter.config.model import Component, Components, Model, below, component_type
from grafter.config.problems import Loc
from grafter.config.service import Service
from grafter.config.units import Endpoint

C = TypeVar("C", bound="RootConfig")


class RootConfig(Model):
    """Everything. Built without arguments it is what runs without a config file."""

    receivers: Mapping[str, Component]
    """The doors in."""
    processors: Mapping[str, Component]
    """What happens between the doors."""
    exporters: Mapping[str, Component]
    """The doors out."""
    extensions: Model
    """What is no part of a pipeline."""
    service: Service = Service()
    """What runs, and how."""

    default_extensions: ClassVar[tuple[str, ...]] = ()
    """Extensions that run where there is no file at all; with a file, those that it names."""

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def sections(cls) -> dict[str, Components]:
        """The sections whose components pipelines name, and the types that each has."""
        marks = {name: field.metadata for name, field in cls.model_fields.items()}
        return {name: mark for name, all_ in marks.items() for mark in all_ if isinstance(mark, Components)}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know though nothing is wrong; lines like those of a Problem."""
        return self._warnings

    def with_warnings(self, warnings: Sequence[str]) -> Self:
        """The same config; only the file loader knows where a warning stands."""
        self._warnings = tuple(warnings)
        return self

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: object) -> object:
        return complete(data, cls.sections()) if isinstance(data, Mapping) else data

    def running(self, section: str) -> dict[str, Component]:
        """The components of a section that pipelines name, by id.

        The checks that a loaded config has passed make every id in a pipeline a configured one.
        """
        components: Mapping[str, Component] = getattr(self, section)
        lists = [getattr(pipeline, section) for pipeline in self.service.pipelines.by_signal().values()]
        return {name: components[name] for names in lists for name in names if name in components}

    def running_extensions(self) -> dict[str, Component]:
        """The extensions that do something by themselves, by name."""
        every = {name: getattr(self.extensions, name) for name in type(self.extensions).model_fields}
        return {name: extension for name, extension in every.items() if isinstance(extension, Component)}


def complete(data: Mapping[str, Any], sections: Mapping[str, Components]) -> dict[str, Any]:
    """Write out what pipelines leave to the rules, and the components that they name without configuring them.

    Takes the config as maps and lists, of any shape: what is malformed is left as it is, for the models to refuse.
    """
    whole = dict(data)
    service = _given(whole.get("service"))
    pipelines = _given(service.get("pipelines")) if isinstance(service, Mapping) else None
    if not isinstance(service, Mapping) or not isinstance(pipelines, Mapping):
        return whole
    for section, components in sections.items():
        if components.null_is_none and isinstance(own := whole.get(section), Mapping):
            whole[section] = _without_nulls(own, pipelines, section)
    configured = {section: _configured(data.get(section), components) for section, components in sections.items()}
    traces = _fill(pipelines.get("traces"), configured)
    filled: dict[str, Any] = {**pipelines, "traces": traces}
    passing = [kind for kind, model in sections["receivers"].types.items() if not model.traces_only]
    shared = {
        "receivers": [name for name in _names(traces, "receivers") if component_type(name) in passing],
        "exporters": _names(traces, "exporters"),
    }
    for signal in ("metrics", "logs"):
        if pipelines.get(signal) is not None:
            filled[signal] = _fill(pipelines[signal], shared)
    for section, components in sections.items():
        if isinstance(own := whole.get(section) or {}, Mapping):
            named = {name for lists in filled.values() for name in _names(lists, section)}
            missing: dict[str, Any] = {name: {} for name in components.default if name in named and name not in own}
            whole[section] = {**own, **missing}
    whole["service"] = {**service, "pipelines": filled}
    return whole


def _configured(own: Any, components: Components) -> list[str]:
    """Ids of a section in the order of its types, or what runs without any."""
    order = list(components.types)
    own = own if isinstance(own, Mapping) else {}
    known = [name for name in own if component_type(name) in order]
    if not known:
        return list(components.default)
    kinds = {component_type(name) for name in known}
    known += [name for name in components.always if name not in kinds]
    if components.null_is_none:
        known = [name for name in known if own.get(name, ...) is not None]
    return sorted(known, key=lambda name: order.index(component_type(name)))


def _without_nulls(own: Mapping[str, Any], pipelines: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The components of a section in which null takes one away; a pipeline that names it has it with its defaults."""
    named = {name for pipeline in pipelines.values() for name in _names(_given(pipeline), section)}
    return {name: value for name, value in own.items() if value is not None or name in named}


def _given(value: Any) -> Any:
    """A map of what was given: nothing for null, and what a model was built with."""
    if isinstance(value, Model):
        return {key: getattr(value, key) for key in value.model_fields_set}
    return {} if value is None else value


def _fill(pipeline: Any, lists: Mapping[str, list[str]]) -> Any:
    given = _given(pipeline)
    if not isinstance(given, Mapping):
        return given
    return {**lists, **{key: value for key, value in given.items() if value is not None}}


def _names(pipeline: Any, section: str) -> list[str]:
    names = pipeline.get(section) if isinstance(pipeline, Mapping) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, (list, tuple)) else []


def listening(config: RootConfig) -> Iterator[tuple[Loc, Endpoint]]:
    """Every address that this config listens on, with its key; only of what runs."""
    running = config.running("receivers")
    for loc, value in below(config):
        if isinstance(value, Endpoint) and (loc[0] != "receivers" or loc[1] in running):
            yield loc, value


def with_ports(config: C, ports: Mapping[Loc, int]) -> C:
    """The same config with these ports in the endpoints at these places."""

    def put(node: Any, loc: Loc, port: int) -> Any:
        if not loc:
            return Endpoint(f"{node.rpartition(':')[0]}:{port}")
        key, inner = loc[0], loc[1:]
        if isinstance(node, Mapping):
            return {**node, key: put(node[key], inner, port)}
        return node.model_copy(update={key: put(getattr(node, str(key)), inner, port)})

    for loc, port in ports.items():
        config = put(config, loc, port)
    return config
