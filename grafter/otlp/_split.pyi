# What _split.c offers; see there.

from collections.abc import Callable

VERSION: int
"""Of this interface and what is behind it."""

NAMED: int
"""The bit of a trace's facts that says: a span has one of the names."""

BACKWARDS: int
"""The one that says: a span ends before it starts."""

def split(
    request: bytes, names: tuple[bytes, ...], give_way: Callable[[], object] | None, /
) -> list[tuple[bytes, bytes, list[bytes], list[bytes], list[int], list[int], list[bytes]]] | None: ...
def mentions(data: bytes, keys: tuple[bytes, ...], beginnings: tuple[bytes, ...], /) -> bool: ...
def attributes(span: bytes, keys: tuple[bytes, ...], /) -> list[bytes] | None: ...
