"""The config as text: the effective one for ``print-config``, the JSON Schema for editors."""

import json
from typing import Any

import yaml

from grafter.config.root import RootConfig


def as_json(config: RootConfig) -> str:
    return json.dumps(_data(config), indent=2, ensure_ascii=False)


def as_yaml(config: RootConfig) -> str:
    """The same as YAML that loads to the same config, secrets apart."""
    text: str = yaml.safe_dump(_escaped(_data(config)), sort_keys=False, allow_unicode=True, width=120)
    return text


def as_schema(kind: type[RootConfig]) -> dict[str, Any]:
    """The JSON Schema of a config file (draft 2020-12), with null and ``${…}`` wherever the loader takes them."""
    schema: dict[str, Any] = _lenient(kind.model_json_schema(mode="validation"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def lines(config: RootConfig) -> list[str]:
    """One line for each component that runs, with its address."""
    running = {section.removesuffix("s"): config.running(section) for section in config.sections()}
    running["extension"] = config.running_extensions()
    return [f"{kind} {name}: {model.describe()}" for kind, models in running.items() for name, model in models.items()]


def _data(config: RootConfig) -> dict[str, Any]:
    data = config.model_dump(mode="json")
    # An extension that is named runs, with a null too.
    data["extensions"] = {name: extension for name, extension in data["extensions"].items() if extension is not None}
    return data


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_escaped(below) for below in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


def _lenient(schema: Any) -> Any:
    """The same schema, in which every key of every map takes null and an expansion too."""
    if isinstance(schema, list):
        return [_lenient(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    lenient = {}
    for word, part in schema.items():
        if word in ("properties", "patternProperties"):
            lenient[word] = {key: _optional(_lenient(value)) for key, value in part.items()}
        else:
            lenient[word] = part if word in ("default", "examples") else _lenient(part)
    return lenient


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    # The words stay outside, where editors look for them.
    words: dict[str, Any] = {key: schema.pop(key) for key in ("title", "description", "default") if key in schema}
    options = schema["anyOf"] if set(schema) == {"anyOf"} else [schema]
    options = [option for option in options if option != {"type": "null"}]
    return {**words, "anyOf": [*options, {"type": "null"}, {"type": "string", "pattern": r"\$\{.+\}"}]}
