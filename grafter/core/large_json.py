"""JSON that is large in values, whatever its bytes: counted before it is read, and read without holding up the rest.

A JSON value of two bytes takes up to two hundred once it is read, and the fast parsers let nothing else run meanwhile.
Pure: bytes in, values out.
"""

import json
from collections.abc import Callable
from json.decoder import JSONArray, JSONObject  # type: ignore[attr-defined]  # typeshed leaves both out
from typing import Any

import orjson

MANY_VALUES = 100_000
"""More than these a fast parser would read for some hundred milliseconds at a stretch."""

_SLICE = 1 << 20

_WINDOW = 1 << 17
"""Characters that the compiled scanner gets to see: it reads them in some ten milliseconds, whatever they are."""
_LEVELS = 8
"""Of nesting at which it is tried. What is wider than the window at each of them is read twice over at each."""

_BETWEEN = ("},{", "}, {")
"""Two objects of a list, as the writers of JSON put one behind the other."""


def values_in(body: bytes) -> int:
    """How many values a JSON text has at most: its commas and brackets, those in strings too."""
    count = 1
    for at in range(0, len(body), _SLICE):
        piece = body[at : at + _SLICE]
        count += piece.count(b",") + piece.count(b"[") + piece.count(b"{")
    return count


def read_in_turns(
    text: str,
    parse_constant: Callable[[str], Any],
    parse_int: Callable[[str], Any] = int,
    parse_float: Callable[[str], Any] = float,
    window: int = _WINDOW,
) -> Any:
    """A JSON text as a value, read so that other threads have their turns meanwhile.

    Objects in a list are read as orjson reads them, where it does; all else, and all of its oddities, as ``json.loads``
    with these hooks. ``window``: the characters that a parser may read at a stretch. Raises json.JSONDecodeError,
    ValueError and RecursionError as ``json.loads`` does.
    """
    decoder: Any = json.JSONDecoder(parse_constant=parse_constant, parse_int=parse_int, parse_float=parse_float)
    # The decoder's own, compiled, reads a whole document in one step.
    decoder.scan_once = _Turns(text, decoder.scan_once, window).scan
    return decoder.decode(text)


class _Turns:
    """The compiled parsers, which read a value in one step, for what ends within a window of the text; objects and
    lists that do not are read member by member in Python, where others may have their turn."""

    def __init__(self, text: str, scan_once: Callable[[str, int], tuple[Any, int]], width: int) -> None:
        self._scan_once = scan_once
        self._width = width
        self._start, self._window = 0, text[:width]
        self._level = 0
        self._keys: dict[str, str] = {}

    def scan(self, text: str, at: int) -> tuple[Any, int]:
        """The value that begins at a place, and where it ends. Raises StopIteration where none begins."""
        if self._level < _LEVELS:
            found = self._within(at)
            if found is None and at != self._start:
                self._start, self._window = at, text[at : at + self._width]
                found = self._within(at)
            if found is not None:
                return found
        first = text[at : at + 1]
        self._level += 1
        try:
            if first == "[":
                return self._list(text, at + 1)
            if first == "{":
                return JSONObject((text, at + 1), True, self.scan, None, None, self._keys)  # type: ignore[no-any-return]
            return self._scan_once(text, at)
        finally:
            self._level -= 1

    def _list(self, text: str, at: int) -> tuple[list[Any], int]:
        """The list whose first member begins at a place, and where it ends."""
        found: list[Any] = []
        while self._level <= _LEVELS:
            cut = max(text.rfind(between, at, at + self._width) for between in _BETWEEN)
            run = _whole(text[at : cut + 1]) if cut >= at else None
            if run is None:
                break
            found += run
            at = cut + 2
        rest, end = JSONArray((text, at), self.scan)
        return found + rest, end

    def _within(self, at: int) -> tuple[Any, int] | None:
        """A value that ends within the window; None for another, and for what is broken in it."""
        try:
            value, end = self._scan_once(self._window, at - self._start)
        except (StopIteration, ValueError, RecursionError):
            return None
        # A number that seems to end close to the window's end may go on: "1", and behind it "e+7".
        return (value, self._start + end) if end < len(self._window) - 2 else None


def _whole(members: str) -> list[Any] | None:
    """The members of a list; None where the text does not hold whole ones, or what strict JSON has not."""
    try:
        found: list[Any] = orjson.loads(f"[{members}]")
    except ValueError:
        return None
    return found
