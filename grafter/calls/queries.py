"""What reading and writing both ask of the tables, and take out of them."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Select, delete, select

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
    query = select(table.c.value, table.c.kind, table.c.call)
    for value, kind, call in rows_of_any(connection, query, table.c.value, sorted({value for value, _ in wanted})):
        if (value, kind) in wanted:
            found[value, kind] = call
    return found


def keyed_records(connection: Connection, keys: Sequence[str]) -> Iterator[tuple[str, CallRecord]]:
    """The records of calls as they stand there, each with the key of its call."""
    table = schema.records
    for key, body in rows_of_any(connection, select(table.c.call, table.c.body), table.c.call, keys):
        yield key, encoding.decode(body)


def records_of(connection: Connection, keys: Sequence[str]) -> list[CallRecord]:
    return [record for _, record in keyed_records(connection, keys)]


def remove_calls(connection: Connection, keys: Sequence[str]) -> None:
    """What stands of calls, but for their traces and what followers have not taken up."""
    for chunk in in_chunks(keys):
        connection.execute(delete(schema.calls).where(schema.calls.c.key.in_(chunk)))
        connection.execute(delete(schema.ids).where(schema.ids.c.call.in_(chunk)))
        connection.execute(delete(schema.records).where(schema.records.c.call.in_(chunk)))


def rows_of_any(
    connection: Connection, query: Select[Any], column: Column[Any], values: Sequence[Any]
) -> Iterator[Any]:
    """The rows of a query whose column has one of these values, however many they are."""
    for chunk in in_chunks(values):
        yield from connection.execute(query.where(column.in_(chunk)))


def in_chunks(some: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """A statement takes so many values at a time."""
    for at in range(0, len(some), CHUNK):
        yield some[at : at + CHUNK]
