"""Calls in a table that somebody has already: for each id of a call, the row that has it is updated, or made.

Only the columns that the config names are written, and no row is ever removed. The table belongs to somebody else: it
may be in another database, may be changed or taken away at any time, and may refuse what is written.

Several grafters may write into it: one at a time, and a row only by whoever has the lease of its call. Both are seen in
the transaction that writes, so a grafter that stood still for long writes nothing older over what another wrote.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from sqlalchemy import JSON, Connection, DateTime, Engine, MetaData, Table, Uuid, insert, text, types, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DataError, IntegrityError, NoSuchTableError, StatementError

from grafter.calls.columns import FIELDS, TIMES, TRACE_ID, WORDS, Value
from grafter.calls.engine import away, begun, first_line
from grafter.calls.following import Due, Notified, NotifyOutcome
from grafter.calls.model import CallRow
from grafter.core.policy import SECOND
from grafter.errors import UnavailableError

_LOCK = 0x67726166746573
"""Another than that of the calls' own tables: whoever blocks this one must not block those."""
_LONGEST_WORDS = 2_000
# No row is begun later than this before its lease ends: a statement may take 15 s.
_LAST_BEGIN = 20 * SECOND
_TOO_SLOW = "the time for it ended; where id_column has no index, each call is looked for in the whole table"


@dataclass(frozen=True, slots=True)
class Place:
    name: str
    """With its schema before a dot, where it is not the database's own."""
    id_column: str
    id: str
    """One of ROW_IDS: what stands in ``id_column``."""
    columns: Mapping[str, str]
    """By the table's column, a name of FIELDS."""


class UserTable:
    """A follower of calls; see ``following``."""

    kind = "table"
    everything = True

    def __init__(self, engine: Engine, place: Place, clock: Callable[[], int]) -> None:
        """``clock``: that of the leases."""
        self._engine = engine
        self._place = place
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "calls.table")
        self._table: Table | None = None
        named = sha256(repr((engine.url.render_as_string(), place.name)).encode()).hexdigest()[:16]
        self.title = f"the table {place.name}"
        self.name = f"table {place.name[:32]} {named[:8]}"

    async def notify(self, some: Sequence[tuple[Due, CallRow]]) -> Sequence[Notified]:
        """Write them into their rows. Raises UnavailableError where the database, the table, a column or a right is
        missing: what is written waits for it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._write, some)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._engine.dispose()

    def _write(self, some: Sequence[tuple[Due, CallRow]], *, again: bool = True) -> list[Notified]:
        try:
            with self._transaction() as connection:
                put = self._put(connection, some)
        except (DataError, IntegrityError, StatementError, ValueError) as error:
            if len(some) > 1:
                # One by one it shows whose it is.
                return [answer for one in some for answer in self._write([one])]
            if again and isinstance(error, IntegrityError):
                # Its owner may have made the row after it was looked for: then it is there now.
                return self._write(some, again=False)
            return [Notified(NotifyOutcome.REFUSED, first_line(error))]
        except UnavailableError:
            # It may have been changed: it is read again.
            self._table = None
            raise
        return [Notified(NotifyOutcome.TAKEN)] * put + [Notified(NotifyOutcome.FAILED, _TOO_SLOW)] * (len(some) - put)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with away("it cannot be written"), begun(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                # Between an update that found no row and the insert another grafter may make it.
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            yield connection

    def _columns(self, connection: Connection) -> Table:
        if self._table is None:
            schema, _, name = self._place.name.rpartition(".")
            try:
                # What its foreign keys lead to is nobody's business here.
                table = Table(name, MetaData(), schema=schema or None, autoload_with=connection, resolve_fks=False)
            except NoSuchTableError:
                raise UnavailableError("there is no such table", reason="calls_table") from None
            missing = [one for one in (self._place.id_column, *self._place.columns) if one not in table.c]
            if missing:
                message = (
                    f"it has no column {', '.join(missing)}; it has {', '.join(column.name for column in table.c)}"
                )
                raise UnavailableError(message[:_LONGEST_WORDS], reason="calls_table")
            for column, what in self._place.columns.items():
                if (wrong := _misfit(what, table.c[column].type)) is not None:
                    raise UnavailableError(f"its column {column} cannot hold {what}: {wrong}", reason="calls_table")
            self._table = table
        return self._table

    def _put(self, connection: Connection, some: Sequence[tuple[Due, CallRow]]) -> int:
        """How many of them, the first ones: as far as their leases allow."""
        table = self._columns(connection)
        column = table.c[self._place.id_column]
        for at, (due, row) in enumerate(some):
            if self._clock() > due.until - _LAST_BEGIN:
                return at
            values = {name: _fit(FIELDS[field](row), table.c[name].type) for name, field in self._place.columns.items()}
            for identity in self._ids(row):
                of = _fit(identity, column.type)
                if not connection.execute(update(table).where(column == of).values(values)).rowcount:
                    # Without asking back for a key, which would need a right more.
                    connection.execute(insert(table).inline().values({**values, column.name: of}))
        return len(some)

    def _ids(self, row: CallRow) -> list[str]:
        """Each leg of a call may have a row of its own."""
        if self._place.id == TRACE_ID:
            return [trace.hex() for trace in row.traces]
        return [one.value for one in row.ids if one.kind == self._place.id]


def _misfit(what: str, kind: types.TypeEngine[object]) -> str | None:
    """Why no value of a field fits into such a column; None where some do."""
    if isinstance(kind, DateTime) and what not in TIMES:
        return "it is of times"
    if isinstance(kind, types.Integer | types.Numeric | types.Float | types.Boolean) and what in WORDS:
        return "it is of numbers"
    return None


def _fit(value: Value, kind: types.TypeEngine[object]) -> object:
    """A value as its column takes it. Raises ValueError for one that it cannot take."""
    if value is None:
        return None
    if isinstance(kind, ARRAY):
        return list(value) if isinstance(value, tuple) else [_words(value)]
    if isinstance(kind, JSON):
        return list(value) if isinstance(value, tuple) else value.isoformat() if isinstance(value, datetime) else value
    if isinstance(kind, DateTime):
        if not isinstance(value, datetime):
            raise ValueError("no time stands in a column of times")
        return value if kind.timezone else value.replace(tzinfo=None)
    if isinstance(kind, Uuid):
        return UUID(str(value))
    if isinstance(kind, types.Boolean):
        return bool(value)
    if isinstance(kind, types.Integer | types.Numeric | types.Float):
        if isinstance(value, str | tuple):
            # An app may count its calls.
            if isinstance(value, str) and value.isascii() and value.isdigit():
                return int(value)
            raise ValueError("no number stands in a column of numbers")
        number = value.timestamp() if isinstance(value, datetime) else value
        return round(number) if isinstance(kind, types.Integer) else float(number)
    return _words(value)


def _words(value: Value) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return ", ".join(value) if isinstance(value, tuple) else str(value)
