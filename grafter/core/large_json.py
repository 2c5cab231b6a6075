"""JSON that is large in values, whatever its bytes: counted before it is read, and read without holding up the rest.

A JSON value of two bytes takes up to two hundred once it is read, and the fast parsers let nothing else run meanwhile.
Pure: bytes in, values out.
"""

import json
from collections.abc import Callable
from json.scanner import py_make_scanner  # type: ignore[attr-defined]  # typeshed has the compiled one alone
from typing import Any

MANY_VALUES = 100_000
"""More than these a fast parser would read for some hundred milliseconds at a stretch."""

_SLICE = 1 << 20


def values_in(body: bytes) -> int:
    """How many values a JSON text has at most: its commas and brackets, those in strings too."""
    count = 1
    for at in range(0, len(body), _SLICE):
        piece = body[at : at + _SLICE]
        count += piece.count(b",") + piece.count(b"[") + piece.count(b"{")
    return count


def read_in_turns(text: str, parse_constant: Callable[[str], Any], parse_int: Callable[[str], Any] = int) -> Any:
    """A JSON text as a value, read so that other threads have their turns meanwhile.

    Raises json.JSONDecodeError, ValueError and RecursionError as ``json.loads`` does.
    """
    decoder = json.JSONDecoder(parse_constant=parse_constant, parse_int=parse_int)
    # The compiled scanner reads a whole document in one step.
    decoder.scan_once = py_make_scanner(decoder)  # type: ignore[attr-defined]
    return decoder.decode(text)
