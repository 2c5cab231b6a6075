"""Small damage to bytes, and to JSON values where they are JSON."""

import json
from contextlib import suppress
from copy import deepcopy
from random import Random
from typing import Any

_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 1e308, 5e-324, 0.1, float("inf"), float("nan")),
    *(
        "",
        " ",
        "0",
        "-1",
        "a" * 32,
        "\ud800",
        "\x00",
        "{",
        "'\\\\" * 50,
        "2026-11-29T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
    ),
    *([], {}, [[]], [None], {"": None}, {"type": None}, {"id": []}, "x" * 70_000),
)


def mutated(rng: Random, body: bytes, others: list[bytes]) -> bytes:
    """The body with one to four things changed."""
    if rng.random() < 0.7:
        # What is no JSON, or is nested too deeply to be written again, is damaged as bytes.
        with suppress(ValueError, RecursionError):
            value = json.loads(body)
            for _ in range(rng.randint(1, 4)):
                value = _odd_value(rng, value)
            return json.dumps(value).encode("utf-8", "surrogatepass")
        if body.count(b"\n") > 2 and body[:1] == b"{":
            return _odd_line(rng, body)
    changed = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        _odd_bytes(rng, changed, others)
    return bytes(changed)


def _odd_line(rng: Random, body: bytes) -> bytes:
    lines = body.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(rng.randrange(len(lines)), lines[at])
        case _:
            try:
                lines[at] = json.dumps(_odd_value(rng, json.loads(lines[at]))).encode("utf-8", "surrogatepass")
            except (ValueError, RecursionError):
                lines[at] = b"["
    return b"\n".join(lines)


def _odd_value(rng: Random, root: Any) -> Any:
    """One place of a JSON value is another value, or gone, or there twice."""
    places: list[tuple[Any, Any]] = []
    todo = [root]
    while todo:
        node = todo.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            places.append((node, key))
            todo.append(node[key])
    if not places:
        return _odd(rng)
    node, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del node[key]
        case 1 if isinstance(node, list):
            node += [deepcopy(node[key]) for _ in range(rng.choice((1, 2, 5)))]
        case 1:
            node[rng.choice(("", key + "x", key.upper(), "type", "id"))] = node.pop(key)
        case 2:
            other, other_key = rng.choice(places)
            node[key] = json.loads(json.dumps(other[other_key])) if other_key in _keys(other) else None
        case 3:
            deep: Any = node[key]
            for _ in range(rng.choice((3, 40, 150))):
                deep = [deep] if rng.random() < 0.5 else {"a": deep}
            node[key] = deep
        case _:
            node[key] = _odd(rng)
    return root


def _odd(rng: Random) -> Any:
    # Of its own: one that is there twice, or stands in itself once it was changed further, has no end.
    return deepcopy(rng.choice(_ODD))


def _keys(node: Any) -> Any:
    return node if isinstance(node, dict) else range(len(node))


def _odd_bytes(rng: Random, body: bytearray, others: list[bytes]) -> None:
    at = rng.randrange(len(body) + 1)
    length = rng.choice((1, 1, 2, 8, 64))
    match rng.randrange(6):
        case 0:
            body[at : at + length] = b""
        case 1:
            body[at : at + length] = rng.randbytes(length)
        case 2:
            body[at:at] = body[rng.randrange(len(body) + 1) :][: length * 8]
        case 3:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            body[at:at] = other[start : start + length * 8]
        case 4:
            del body[at:]
        case _:
            body[at:at] = rng.choice(
                (b"\x00", b"\xff" * 10, b'"', b"{", b"[", b"]", b"\n", b"\xed\xa0\x80", b"1e999", b": ")
            )
