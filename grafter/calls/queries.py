"""Small questions that reading and writing both ask of the tables."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, select

from grafter.calls import encoding, schema
from grafter.calls.model import CallRecord

_T = TypeVar("_T")

TRACE, KEY, RECORDING = "trace", "key", "recording"
"""Kinds of ids that are no ``CallId``."""
CHUNK = 400
"""Values that one statement takes."""


def called(connection: Connection, values: Sequence[Any], kind: str = "") -> list[str]:
    """The calls that have any of these ids; ``kind``: of all of them, else each is a pair with its own."""
    pairs = [(value, kind) for value in values] if kind else values
    return sorted(set(owners_of(connection, pairs).values()))


def owners_of(connection: Connection, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The key of the call that has an id, by value and kind."""
    table = schema.ids
    found: dict[tuple[str, str], str] = {}
    wanted = set(pairs)
    for chunk in in_chunks(sorted({value for value, _ in wanted})):
        query = select(table.c.value, table.c.kind, table.c.call).where(table.c.value.in_(chunk))
        found |= {(value, kind): call for value, kind, call in connection.execute(query) if (value, kind) in wanted}
    return found


def keyed_records(connection: Connection, keys: Sequence[str]) -> Iterator[tuple[str, CallRecord]]:
    """The records of calls as they stand there, each with the key of its call."""
    table = schema.records
    for chunk in in_chunks(keys):
        query = select(table.c.call, table.c.body).where(table.c.call.in_(chunk))
        for key, body in connection.execute(query):
            yield key, encoding.decode(body)


def records_of(connection: Connection, keys: Sequence[str]) -> list[CallRecord]:
    return [record for _, record in keyed_records(connection, keys)]


def in_chunks(some: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """A statement takes so many values at a time."""
    for at in range(0, len(some), CHUNK):
        yield some[at : at + CHUNK]
