"""Commands as the server reads them, put together by hand.

A request is some hundreds of words, most of them short and alike, and a few payloads; what a client library does for
each word costs several times as much as the word. Source: Redis serialization protocol (RESP2), arrays of bulk strings.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

END = b"\r\n"


class _Lengths(dict[int, bytes]):
    """``$N`` and its end, made once for each of the lengths that words mostly have."""

    def __missing__(self, length: int) -> bytes:
        word = b"$%d\r\n" % length
        if length < 1 << 16:
            self[length] = word
        return word


LENGTH = _Lengths()
"""What stands before a word, by its length in bytes."""


class Words(NamedTuple):
    """Arguments of a command, framed: ``pieces`` joined are ``number`` words."""

    number: int
    pieces: Sequence[bytes]


def word(value: bytes | int) -> bytes:
    """One argument, framed."""
    raw = value if isinstance(value, bytes) else b"%d" % value
    return b"%b%b\r\n" % (LENGTH[len(raw)], raw)


def words(values: Iterable[bytes | int]) -> Words:
    """Arguments, framed."""
    pieces = [word(value) for value in values]
    return Words(len(pieces), pieces)


def command(start: Words, arguments: Iterable[Words]) -> bytes:
    """A whole command: its first words, then the arguments. Each byte is copied once."""
    count = start.number
    pieces = [b"", *start.pieces]
    for own, some in arguments:
        count += own
        pieces += some
    pieces[0] = b"*%d\r\n" % count
    return b"".join(pieces)
