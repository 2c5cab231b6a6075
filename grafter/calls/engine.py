"""The connection: SQLite or Postgres by URL, one transaction at a time for whoever writes, and errors that say when to
come again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from grafter.errors import UnavailableError

_LOCK = 0x67726166746572
"""Any number, the same in every grafter."""
_STATEMENT_MS = 15_000
_IDLE_MS = 30_000
"""How long a transaction may do nothing: of a process that stands still it ends, and with it the locks on which all
others wait."""
_RETRY_SECONDS = 5.0
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "secure_delete=ON",
    "foreign_keys=ON",
    # KiB, for each connection: the inner pages of the indexes of a million calls, which every lookup reads.
    "cache_size=-8000",
)
_OWN_STATES = ("22", "23", "44", "P0")
"""Classes of SQLSTATE that are about what was written: its values, a constraint, a view's check, a trigger's word."""


class CallsUrlError(ValueError):
    """The URL is of no database that the call map knows."""


def read_url(url: str) -> URL:
    """The URL of a database that the call map knows. Raises CallsUrlError, which does not quote it."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise CallsUrlError("is no URL of a database") from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise CallsUrlError("names no file; sqlite:///./calls.db does")
    elif parsed.drivername != "postgresql+psycopg":
        raise CallsUrlError(f"is of {parsed.drivername}; the call map knows sqlite and postgresql")
    return parsed


def open_engine(url: str, *, own: bool = True) -> Engine:
    """An engine; nothing is connected yet. ``own``: False for a database of somebody else's, which is taken as it is.

    What fails says its statement and none of its values: they may be numbers. Raises CallsUrlError, and OSError for a
    file that cannot be made.
    """
    parsed = read_url(url)
    if parsed.drivername == "sqlite":
        return _sqlite(parsed, own=own)
    arguments = {
        "connect_timeout": 5,
        # A peer that vanished is noticed, instead of waited for.
        "tcp_user_timeout": 10_000,
        "keepalives_idle": 10,
        # A statement that is prepared on one connection of a pooler is unknown on the next.
        "prepare_threshold": None,
    }
    engine = create_engine(
        parsed, pool_pre_ping=True, pool_timeout=5, pool_size=3, connect_args=arguments, hide_parameters=True
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(
            f"SET LOCAL statement_timeout = {_STATEMENT_MS}; SET LOCAL idle_in_transaction_session_timeout = {_IDLE_MS}"
        )

    return engine


def _sqlite(parsed: URL, *, own: bool) -> Engine:
    path = Path(parsed.database or "")
    if own:
        path.parent.mkdir(parents=True, exist_ok=True)
        # It holds what callers' traces hold: nobody else's to read. SQLite gives its other files the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    else:
        # It is not made where it is not.
        parsed = parsed.set(database=f"file:{quote(str(path.absolute()))}", query={"mode": "rw", "uri": "true"})
    engine = create_engine(parsed, connect_args={"timeout": 10.0}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        # The driver's own transactions begin too late to lock what is read first.
        connection.isolation_level = None
        cursor = connection.cursor()
        # Bytes that are forgotten are overwritten.
        for pragma in _PRAGMAS if own else ():
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that reads. Raises UnavailableError where the database is away."""
    with away(), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def begun(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes. Raises what SQLAlchemy does."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that alone writes, over all processes. Raises UnavailableError where the database is away."""
    with away(), begun(engine) as connection:
        if connection.dialect.name == "postgresql":
            # SQLite locks by itself.
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield connection


@contextmanager
def away(what: str = "the calls' database is away") -> Iterator[None]:
    """Raises UnavailableError for all that is not about what was written."""
    try:
        yield
    except (DataError, IntegrityError):
        # It is about what was written, and will not get better.
        raise
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        if str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")[:2] in _OWN_STATES:
            raise
        # Also a file that is damaged, a right that was taken away, a table that is gone: none of it is the record's.
        message = f"{what}: {first_line(error)}"
        raise UnavailableError(message, retry_after=_RETRY_SECONDS, reason="calls_away") from None


def first_line(error: Exception) -> str:
    """The driver's own first line: SQLAlchemy adds statements, and what was bound to them."""
    original = getattr(error, "orig", None) or error
    return (str(original).strip().splitlines() or [type(original).__name__])[0][:200]
