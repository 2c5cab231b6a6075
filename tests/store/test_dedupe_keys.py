"""Marks in the ledger's file: limited in number, and no stranger to a version that knows none of them."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest

from grafter.core.model import DedupeKey, UnixNano
from grafter.store.embedded.metadata_db import MetadataBatch, MetadataDB

NOW = UnixNano(1000)


def ledger_at(path: Path | None, limit: int = 3) -> MetadataDB:
    return MetadataDB(
        path,
        remember=100,
        remember_limit=100,
        remember_bytes=1 << 20,
        letter_bytes=1000,
        task_lease=1,
        dedupe_key_limit=limit,
    )


def add(ledger: MetadataDB, ids: Iterable[str], now: int = NOW, ttl: int = 100) -> None:
    ledger.commit(MetadataBatch(dedupe_keys=[(DedupeKey(one, ttl), UnixNano(now)) for one in ids]))


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "ledger.sqlite" if request.param == "file" else None


def test_past_their_number_the_oldest_go_first(path: Path | None) -> None:
    """They are counted; one that is marked again is not counted twice."""
    ledger = ledger_at(path)
    add(ledger, "ab")
    add(ledger, "bbc")
    assert (len(ledger.dedupe_keys), ledger.dedupe_keys.forgotten) == (3, 0)
    add(ledger, "de")
    assert ledger.dedupe_keys.seen("abcde", NOW) == [False, False, True, True, True]
    assert (len(ledger.dedupe_keys), ledger.dedupe_keys.forgotten) == (3, 2)
    ledger.close()


def test_keys_whose_time_is_over_make_room(path: Path | None) -> None:
    """They are gone from the file, and the limit has ended none of them."""
    ledger = ledger_at(path)
    add(ledger, "abc")
    add(ledger, "de", NOW + 100)
    assert ledger.dedupe_keys.seen("abcde", UnixNano(NOW + 100)) == [False, False, False, True, True]
    assert (len(ledger.dedupe_keys), ledger.dedupe_keys.forgotten) == (2, 0)
    ledger.close()


def test_a_restart_keeps_them(tmp_path: Path) -> None:
    """And their number; the format stays the one that a version without keys opens."""
    path = tmp_path / "ledger.sqlite"
    ledger = ledger_at(path)
    add(ledger, "abc")
    ledger.close()
    ledger = ledger_at(path)
    assert ledger.dedupe_keys.seen("abcd", NOW) == [True, True, True, False]
    add(ledger, "d")
    assert (len(ledger.dedupe_keys), ledger.dedupe_keys.forgotten) == (3, 1)
    ledger.close()
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (1,)
    file.close()


def test_a_commit_that_fails_counts_nothing(tmp_path: Path) -> None:
    """All or nothing, the number in the process included."""
    path = tmp_path / "ledger.sqlite"
    ledger = ledger_at(path)
    add(ledger, "a")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError):
        add(ledger, "bcde")
    other.execute("ROLLBACK")
    other.close()
    assert (len(ledger.dedupe_keys), ledger.dedupe_keys.forgotten) == (1, 0)
    add(ledger, "b")
    assert ledger.dedupe_keys.seen("abc", NOW) == [True, True, False]
    ledger.close()
