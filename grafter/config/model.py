"""What every model of the config has in common: the base classes, the plain field types, and maps of components.

Types are strict, as in the Collector: a number is no text and text is no number. Only what came from ``${…}`` is read
by the type that asks for it.
"""

import ast
import inspect
import itertools
import re
import textwrap
import types
import typing
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, ClassVar, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    SecretStr,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from grafter.config.expand import Expanded
from grafter.config.problems import Finding, Loc
from grafter.config.tree import yaml_value
from grafter.config.units import Duration, Size, Target, Url

REDACTED = "[REDACTED]"

_TYPE = re.compile(r"[A-Za-z][0-9A-Za-z_]{0,62}")


class Model(BaseModel):
    """A map of known keys. A null stands for the key's default, and so does an expansion that came out empty."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=False)

    null_is_none: ClassVar[frozenset[str]] = frozenset()
    """Keys whose null takes away what is there by default."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: object) -> object:
        """Read expansions as YAML where the key takes no text, and leave nulls to the defaults."""
        if isinstance(data, Expanded) and data.whole:
            data = yaml_value(data)
        if data is None:
            return {}
        if not isinstance(data, Mapping):
            return data
        plain = {}
        for key, value in data.items():
            if isinstance(value, Expanded) and value.whole and key in cls.model_fields and not _takes_text(cls, key):
                value = yaml_value(value)
            if value is not None or key in cls.null_is_none:
                plain[key] = value
        return plain

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return _described(cls, handler(core_schema), handler)

    collectors_own: ClassVar[Mapping[str, str]] = {}
    """Keys that the Collector has here and that set nothing: taken from a file, with a word."""
    instead: ClassVar[Mapping[str, str]] = {}
    """Keys that the Collector has here and that are written otherwise: refused, with how."""

    def findings(self) -> Iterator[Finding]:
        """What no single key can tell: keys that need each other, keys that do no good together."""
        yield from ()


class Component(Model, ABC):
    """What stands in a section under an id, ``type`` or ``type/name``."""

    traces_only: ClassVar[str] = ""
    """Why it takes neither metrics nor logs, with ``{signal}`` for either; empty: it takes them."""

    @abstractmethod
    def describe(self) -> str:
        """Where it listens, or sends, or what it does, in a few words."""

    def refuses(self, signal: str) -> str:
        """Why it takes no ``metrics`` or ``logs``; empty where it takes them."""
        return self.traces_only.format(signal=signal)

    @property
    def target(self) -> Url | Target | None:
        """Where it sends traces to, over a network."""
        return None


def key_texts(model: type[Model]) -> dict[str, str]:
    """The text under each key of a model, its bases' keys included.

    Read when it is asked for: left to pydantic, the source of every model is parsed at every start.
    """
    texts = {}
    for kind in reversed(model.__mro__):
        if issubclass(kind, Model):
            (made,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
            assert isinstance(made, ast.ClassDef)
            for statement, after in itertools.pairwise(made.body):
                match statement, after:
                    case (
                        ast.AnnAssign(target=ast.Name(id=key)),
                        ast.Expr(value=ast.Constant(value=str(words))),
                    ) if key in model.model_fields:
                        texts[key] = inspect.cleandoc(words)
    return texts


def _described(model: type[Model], schema: JsonSchemaValue, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    properties = handler.resolve_ref_schema(schema)["properties"]
    for key, words in key_texts(model).items():
        properties[key]["description"] = words
    return schema


def below(value: object, loc: Loc = ()) -> Iterator[tuple[Loc, object]]:
    """Every value of a model, a map or a list with its place, itself included, from the top."""
    yield loc, value
    if isinstance(value, Model):
        for name in type(value).model_fields:
            yield from below(getattr(value, name), (*loc, name))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from below(inner, (*loc, key))
    elif isinstance(value, tuple):
        for at, inner in enumerate(value):
            yield from below(inner, (*loc, at))


def unwrap(annotation: Any) -> Any:
    """The type behind ``Annotated`` and ``| None``."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            some = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
            if len(some) != 1:
                return annotation
            annotation = some[0]
        else:
            return annotation


def _takes_text(model: type[BaseModel], key: str) -> bool:
    kind = unwrap(model.model_fields[key].annotation)
    return isinstance(kind, type) and issubclass(kind, (str, SecretStr)) and not issubclass(kind, Enum)


def text(value: object) -> object:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (bool, int, float)):
        raise ValueError("is not text: put it in quotes")
    raise ValueError("is not text")


def _flag(value: object) -> object:
    if isinstance(value, bool):
        return value
    raise ValueError("is not true or false")


def _count(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("is not a whole number")


def _ratio(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and abs(value) < 1e300:
        return value
    raise ValueError("is not a number")


def _attribute(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else text(value)


def _secret(value: object) -> object:
    if isinstance(value, SecretStr):
        return value
    plain = text(value)
    # A header is what every secret ends up in; a line break there would begin another header.
    if isinstance(plain, str) and any(unicodedata.category(letter) == "Cc" for letter in plain):
        raise ValueError("holds a line break or another control character")
    return plain


def _filled(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().strip():
        raise ValueError("is empty")
    return value


def _more_than_nothing(value: Any) -> Any:
    if not value:
        raise ValueError("must be more than nothing")
    return value


def revealed(secrets: Iterable[SecretStr]) -> list[str]:
    return [secret.get_secret_value() for secret in secrets]


def _shown(secret: SecretStr) -> str:
    return REDACTED if secret.get_secret_value() else ""


Text = Annotated[str, BeforeValidator(text)]
Word = Annotated[str, BeforeValidator(text), AfterValidator(_more_than_nothing)]
"""Text that may not be empty."""
Flag = Annotated[bool, BeforeValidator(_flag)]
Count = Annotated[int, BeforeValidator(_count), Field(ge=1)]
Number = Annotated[int, BeforeValidator(_count), Field(ge=0)]
Ratio = Annotated[float, BeforeValidator(_ratio)]
AttributeText = Annotated[str, BeforeValidator(_attribute)]
"""An attribute's value to compare with; numbers and booleans as they are written in YAML."""
Secret = Annotated[SecretStr, BeforeValidator(_secret), PlainSerializer(_shown, return_type=str)]
FilledSecret = Annotated[
    SecretStr, BeforeValidator(_secret), AfterValidator(_filled), PlainSerializer(_shown, return_type=str)
]
PositiveDuration = Annotated[Duration, AfterValidator(_more_than_nothing)]
PositiveSize = Annotated[Size, AfterValidator(_more_than_nothing)]


def component_type(component_id: str) -> str:
    """``otlp_grpc`` of ``otlp_grpc/jaeger``."""
    return component_id.partition("/")[0]


def is_component_id(text: str) -> bool:
    """``type`` or ``type/name``. Source: opentelemetry-collector, component/identifiable.go."""
    kind, slash, name = text.partition("/")
    if not _TYPE.fullmatch(kind) or (slash and not name):
        return False
    return all(unicodedata.category(letter)[0] not in "ZCS" for letter in name)


@dataclass(frozen=True, slots=True)
class Components:
    """Marks a map from component ids to models: the type in the id picks the model."""

    types: Mapping[str, type[Component]]
    """In the order in which pipelines that nobody wrote name them."""
    default: tuple[str, ...]
    """What runs where the section configures nothing; these alone may be named without being configured."""
    always: tuple[str, ...] = ()
    """Types that stand in a pipeline that nobody wrote, whichever others are configured."""
    null_is_none: bool = False
    """A component that is null is not there, unless a pipeline names it; elsewhere it has its defaults."""
    old_names: Mapping[str, str] = field(default_factory=dict)
    """Type names that are still understood."""

    def renamed(self, component_id: str) -> str:
        """The id with the type's present name."""
        kind, slash, name = component_id.partition("/")
        return self.old_names.get(kind, kind) + slash + name

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices: dict[Any, CoreSchema] = {
            name: core_schema.no_info_before_validator_function(_value, handler.generate_schema(model))
            for name, model in self.types.items()
        }
        component = core_schema.tagged_union_schema(choices, discriminator=self._type_of)
        components = core_schema.dict_schema(core_schema.str_schema(), component)
        return core_schema.no_info_before_validator_function(_tagged, components)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "object",
            "patternProperties": {
                f"^{name}(/.+)?$": _described(model, handler(model.__pydantic_core_schema__), handler)
                for name, model in self.types.items()
            },
            "additionalProperties": False,
        }

    def _type_of(self, component: object) -> str | None:
        if isinstance(component, _Component):
            return component_type(component.id) if is_component_id(component.id) else None
        return next((name for name, model in self.types.items() if type(component) is model), None)


@dataclass(frozen=True, slots=True)
class _Component:
    """A component on its way to its model, with the id that says which."""

    id: str
    value: object


def _tagged(components: object) -> object:
    if isinstance(components, Expanded) and components.whole:
        components = yaml_value(components)
    if not isinstance(components, Mapping):
        return components
    return {name: _Component(str(name), value) for name, value in components.items()}


def _value(component: object) -> object:
    assert isinstance(component, _Component)
    # null is a component with its defaults
    return {} if component.value is None else component.value
