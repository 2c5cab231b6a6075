"""The databases that the call map promises the same over: SQLite, and a real Postgres."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.calls.postgres import new_database, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that nobody has used yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/calls.db"
    return new_database(request.getfixturevalue("postgres"))
