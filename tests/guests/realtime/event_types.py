"""Events made from the openai package's own types, so that between them each variant of each field comes once."""

import types
import typing
from collections.abc import Iterator

import pydantic

SECRET = "SECRET"
STRUCTURE = {
    "approval_request_id", "call_id", "code", "connector_id", "conversation_id", "event_id", "format", "group_id",
    "input_audio_format", "output_audio_format",
    "id", "item_id", "language", "metadata", "model", "name", "param", "previous_item_id", "response_id",
    "server_label", "type", "version", "voice", "workflow_name",
    "client_event_id", "delegation_id", "previous_response_id", "trigger_id",
}  # fmt: skip
"""Fields of the types whose strings are ids, names and the API's own words; any other may hold what somebody said."""


def made(kind: object, name: str, depth: int = 0) -> Iterator[object]:
    """Values of a type: each member of a union once, else one; strings of content are marked."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        yield from made(arguments[0], name, depth)
    elif origin is typing.Literal:
        yield arguments[0]
    elif origin in (typing.Union, types.UnionType):
        for member in arguments:
            if member is not type(None):
                yield from made(member, name, depth)
    elif origin in (list, typing.List):  # noqa: UP006
        yield [value for member in made(arguments[0], name, depth + 1) for value in [member]][:6]
    elif origin in (dict, typing.Dict):  # noqa: UP006
        yield {"key": f"{SECRET} {name}" if name not in STRUCTURE else "value"}
    elif isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
        yield from instances(kind, depth)
    elif kind is bool:
        yield True
    elif kind is int:
        yield 7
    elif kind is float:
        yield 0.5
    elif name in STRUCTURE:
        yield {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"} if name == "metadata" else f"{name}_1"
    else:
        yield f"{SECRET} {name}"


def instances(model: type[pydantic.BaseModel], depth: int = 0) -> Iterator[dict[str, object]]:
    """Objects of a model that between them have each variant of each field; deep down one is enough."""
    choices = {
        field.alias or name: list(made(field.annotation, name, depth + 1)) for name, field in model.model_fields.items()
    }
    most = max((len(values) for values in choices.values()), default=1)
    for index in range(most if depth <= 3 else 1):
        yield {name: values[min(index, len(values) - 1)] for name, values in choices.items() if values}


def models(union: object) -> Iterator[type[pydantic.BaseModel]]:
    for member in typing.get_args(union):
        if isinstance(member, type):
            yield member
        else:
            yield from models(member)


def type_of(model: type[pydantic.BaseModel]) -> str:
    return str(typing.get_args(model.model_fields["type"].annotation)[0])
