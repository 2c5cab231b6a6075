"""Walks the models of the config: every key with its default and its reference text.

Run as a script it prints the tables that docs/configuration.md holds.
"""

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic.fields import FieldInfo

from grafter.components import Config
from grafter.config.model import Components, Model, key_texts, unwrap


@dataclass(frozen=True)
class Key:
    """One key that holds a value of its own, or one that may hold a map and is null by default."""

    path: tuple[str, ...]
    """Component types stand for their ids, ``[]`` for each item of a list."""
    default: str | None
    """As YAML in one line; None where the key is required."""
    text: str
    """The reference text, in one line."""


def keys() -> Iterator[Key]:
    """Every key of the config, in the models' order."""
    for section, field in Config.model_fields.items():
        components = next((mark for mark in field.metadata if isinstance(mark, Components)), None)
        if components is None:
            yield from _below(unwrap(field.annotation), (section,))
        else:
            for name, model in components.types.items():
                yield from _below(model, (section, name))


def _below(model: type[Model], path: tuple[str, ...]) -> Iterator[Key]:
    texts = key_texts(model)
    for name, field in model.model_fields.items():
        here = (*path, name)
        kind = unwrap(field.annotation)
        inner = _model(kind)
        optional = field.default is None
        if inner is None or (optional and path != ("extensions",)):
            yield Key(here, None if field.is_required() else flow(_default(field)), " ".join(texts[name].split()))
        if inner is not None:
            yield from _below(inner, here)
        items = _model(unwrap(next(iter(typing.get_args(kind)), None)))
        if items is not None and typing.get_origin(kind) is tuple:
            yield from _below(items, (*here, "[]"))


def _model(kind: Any) -> type[Model] | None:
    return kind if isinstance(kind, type) and issubclass(kind, Model) else None


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def flow(value: Any) -> str:
    """A value as YAML in one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Model):
        # A policy has the keys of its kind only.
        value = {key: getattr(value, key) for key in value.model_dump()}
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(below)}" for key, below in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    return str(value) or '""'


_NETWORK = ("otlp_grpc", "otlp_http", "honeycomb")


def tables() -> dict[str, list[str]]:
    """The rows of the reference, by heading. What all exporters over the network share stands once."""
    rows: dict[str, list[str]] = {}
    found = list(keys())
    shared = {
        (key.path[2:], key.default, key.text)
        for key in found
        if all(
            Key(("exporters", kind, *key.path[2:]), key.default, key.text) in found
            for kind in _NETWORK
            if key.path[0] == "exporters"
        )
        and key.path[0] == "exporters"
    }
    for key in found:
        if key.path[0] == "service":
            heading, path = "service", key.path[1:]
        elif (key.path[2:], key.default, key.text) in shared and key.path[1] in _NETWORK:
            heading, path = "exporters over the network", key.path[2:]
        else:
            heading, path = f"{key.path[0]}: {key.path[1]}", key.path[2:]
        name = ".".join(path).replace(".[]", "[]")
        default = "required" if key.default is None else f"`{key.default}`"
        row = f"| `{name}` | {default} | {key.text.replace('|', chr(92) + '|')} |"
        if row not in rows.setdefault(heading, []):
            rows[heading].append(row)
    return rows


if __name__ == "__main__":
    for heading, rows in tables().items():
        print(f"\n### {heading}\n\n| key | default | |\n|---|---|---|")
        print("\n".join(rows))
