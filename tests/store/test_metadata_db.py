"""Memories and dead letters: kept, found, limited, and shared with no older version by mistake."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import TraceMemory
from grafter.core.memory_blobs import decode_trace, encode_trace
from grafter.core.model import Envelope, Key, SpanId, UnixNano
from grafter.store.embedded.metadata_db import MetadataBatch, MetadataDB
from grafter.store.embedded.metadata_tables import DeadLetterChange
from grafter.store.model import DeadLetter, DeadLetterCounts, DeadLettersAdded, Memory, StoreError

NOW = UnixNano(1000)


@contextmanager
def ledger_at(
    path: Path | None,
    *,
    remember: int = 100,
    limit: int = 1000,
    limit_bytes: int = 1 << 30,
    letter_bytes: int = 1000,
    drop_oldest_letters: bool = False,
) -> Iterator[MetadataDB]:
    ledger = MetadataDB(
        path,
        remember=remember,
        remember_limit=limit,
        remember_bytes=limit_bytes,
        letter_bytes=letter_bytes,
        task_lease=1,
        drop_oldest_letters=drop_oldest_letters,
    )
    try:
        yield ledger
    finally:
        ledger.close()


def key(i: int) -> Key:
    return Key(i.to_bytes(16, "big"))


def memories(*numbers: int, at: int = NOW) -> list[tuple[Memory, UnixNano]]:
    return [(Memory(key(i), b"%d" % i, key(i + 1000)), UnixNano(at)) for i in numbers]


def letter(i: int, size: int = 100) -> DeadLetter:
    return DeadLetter(key(i), "otlp", "refused", NOW, i, b"x" * size)


def known(ledger: MetadataDB, count: int) -> list[int]:
    return [i for i in range(count) if ledger.recall(key(i), NOW) is not None]


def traced(i: int, resource: bytes) -> tuple[Memory, UnixNano]:
    root = Envelope(resource, b"")
    memory = TraceMemory(ReleaseReason.COMPLETE, NOW, SpanId(b"12345678"), root_envelope=root, span_ids=b"abcdefgh")
    return Memory(key(i), encode_trace(memory)), NOW


def test_a_resource_is_stored_once_and_goes_with_the_last_memory_of_it(tmp_path: Path) -> None:
    """Of a thousand memories it takes its bytes once; over a restart it is found, and no longer kept than they are."""
    path = tmp_path / "ledger.sqlite"
    large = b"r" * 10_000
    with ledger_at(path, limit=2000) as ledger:
        for i in range(1000):
            ledger.commit(MetadataBatch([traced(i, large)]))
        assert ledger.resources.bytes == len(large)
    with ledger_at(path, limit=2000) as ledger:
        assert ledger.resources.bytes == len(large)
        ledger.commit(MetadataBatch([traced(1000, b"o" * 500)]))
        for i in (0, 999):
            found = ledger.recall(key(i), NOW)
            assert found is not None
            assert found.blob == traced(i, large)[0].blob
    with ledger_at(path, limit=10) as ledger:
        for i in range(2000, 2400):
            ledger.commit(MetadataBatch([traced(i, b"n" * 700)]))
        assert ledger.resources.bytes == 700
        (stored,) = sqlite3.connect(path).execute("SELECT sum(length(bytes)) FROM resource").fetchone()
        assert stored == 700


def test_a_resource_that_was_lost_costs_itself(tmp_path: Path) -> None:
    """The memory is as that of a trace without one."""
    path = tmp_path / "ledger.sqlite"
    with ledger_at(path) as ledger:
        ledger.commit(MetadataBatch([traced(1, b"r" * 100)]))
        with sqlite3.connect(path) as other:
            other.execute("DELETE FROM resource")
        found = ledger.recall(key(1), NOW)
        assert found is not None
        memory = decode_trace(found.blob)
        assert memory is not None
        assert (memory.root, memory.root_envelope, memory.span_ids) == (b"12345678", None, b"abcdefgh")


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "ledger.sqlite" if request.param == "file" else None


def test_a_memory_is_found_until_its_time_is_over(path: Path | None) -> None:
    """Blob and host come back up to ``remember`` after it was stored; a newer one takes its place and its age."""
    with ledger_at(path) as ledger:
        ledger.commit(MetadataBatch(memories(1)))
        assert ledger.recall(key(1), UnixNano(NOW + 99)) == Memory(key(1), b"1", key(1001))
        assert ledger.recall(key(1), UnixNano(NOW + 100)) is None
        assert ledger.recall(key(2), NOW) is None
        assert ledger.host(key(1), NOW) == (True, key(1001))
        assert ledger.host(key(2), NOW) == (False, None)
        ledger.commit(MetadataBatch([(Memory(key(1), b"new"), UnixNano(NOW + 50))]))
        assert ledger.recall(key(1), UnixNano(NOW + 149)) == Memory(key(1), b"new")
        assert len(ledger) == 1


def test_past_the_limit_the_oldest_memory_goes(path: Path | None) -> None:
    """Exactly as many stay as may, whatever a commit brings; what went is counted."""
    with ledger_at(path, limit=5) as ledger:
        ledger.commit(MetadataBatch(memories(0, 1, 2)))
        ledger.commit(MetadataBatch(memories(3, 4, 5, 0)))
        assert known(ledger, 10) == [0, 2, 3, 4, 5]
        ledger.commit(MetadataBatch(memories(*range(6, 20))))
        assert known(ledger, 30) == [15, 16, 17, 18, 19]
        assert (len(ledger), ledger.forgotten) == (5, {"time": 0, "number": 15, "bytes": 0})


def test_what_is_too_old_goes_with_the_next_commit(path: Path | None) -> None:
    """Rows do not stay on the disk because nobody asks for them."""
    with ledger_at(path) as ledger:
        ledger.commit(MetadataBatch(memories(*range(10))))
        ledger.commit(MetadataBatch(memories(10, at=NOW + 100)))
        assert (len(ledger), ledger.forgotten) == (1, {"time": 10, "number": 0, "bytes": 0})


def test_memories_outlive_the_process(tmp_path: Path) -> None:
    """A key is remembered from the first moment, and a lowered limit holds from then."""
    path = tmp_path / "ledger.sqlite"
    with ledger_at(path) as ledger:
        ledger.commit(MetadataBatch(memories(*range(10))))
    with ledger_at(path, limit=4) as ledger:
        assert ledger.host(key(7), NOW) == (True, key(1007))
        assert ledger.host(key(77), NOW) == (False, None)
        assert not ledger.knows(key(77))
        assert known(ledger, 20) == [6, 7, 8, 9]
        ledger.commit(MetadataBatch(memories(10)))
        assert known(ledger, 20) == [7, 8, 9, 10]


def added(ledger: MetadataDB, *letters: DeadLetter, together: bool = False) -> DeadLettersAdded:
    """What became of letters that were brought."""
    change = DeadLetterChange(letters, together)
    ledger.commit(MetadataBatch(letters=[change]))
    return change.added


def test_old_letters_make_room_for_new_ones_where_that_is_wanted(path: Path | None) -> None:
    """The box has a limit in bytes; the spans that were pushed out are counted, and a restart knows the size."""
    with ledger_at(path, drop_oldest_letters=True) as ledger:
        assert added(ledger, *(letter(i) for i in range(1, 11))) == DeadLettersAdded(10)
        assert added(ledger, letter(11), letter(12)) == DeadLettersAdded(2, 1 + 2)
        assert [found.spans for found in ledger.letters.page(3, 0, oldest=False)] == [12, 11, 10]
        assert ledger.letters.page(100, 0, oldest=False)[-1] == letter(3)
    if path is not None:
        with ledger_at(path, drop_oldest_letters=True) as ledger:
            assert added(ledger, letter(13, size=900)) == DeadLettersAdded(1, sum(range(3, 12)))
            assert [found.spans for found in ledger.letters.page(100, 0, oldest=False)] == [13, 12]
            assert added(ledger, letter(14, size=9000)) == DeadLettersAdded(1, 25)
            assert ledger.letters.held == {"otlp": DeadLetterCounts(1, 14, 9000)}


def test_a_full_box_takes_no_more(path: Path | None) -> None:
    """Those that fit are kept, the others are their owner's; what has to go together goes together."""
    with ledger_at(path) as ledger:
        assert added(ledger, *(letter(i) for i in range(1, 9))) == DeadLettersAdded(8)
        assert added(ledger, *(letter(i) for i in range(9, 12)), together=True) == DeadLettersAdded(0)
        assert added(ledger, *(letter(i) for i in range(9, 12))) == DeadLettersAdded(2)
        assert ledger.letters.held == {"otlp": DeadLetterCounts(10, sum(range(1, 11)), 1000)}
        change = DeadLetterChange(remove=[int(one.id) for one in ledger.letters.page(100, 0, oldest=True)])
        ledger.commit(MetadataBatch(letters=[change]))
        assert change.removed == [True] * 10
        assert added(ledger, letter(1, size=9000), letter(2)) == DeadLettersAdded(1)


def test_a_commit_is_whole_or_nothing(path: Path | None) -> None:
    """When something in it cannot be stored, nothing of it is, and the next one works."""
    bad = DeadLetter(key(1), "otlp", "refused", NOW, 2**70, b"x")
    with ledger_at(path) as ledger:
        with pytest.raises(OverflowError):
            ledger.commit(MetadataBatch(memories(1), [DeadLetterChange([bad])]))
        assert known(ledger, 5) == []
        assert not ledger.knows(key(1))
        assert ledger.letters.held == {}
        ledger.commit(MetadataBatch(memories(2), [DeadLetterChange([letter(1)])]))
        assert known(ledger, 5) == [2]


def test_the_secret_stays_the_same(path: Path | None, tmp_path: Path) -> None:
    """32 random bytes a directory, made once; another directory has others."""
    with ledger_at(path) as ledger:
        secret = ledger.secret("hmac")
        assert len(secret) == 32
        assert ledger.secret("hmac") == secret
    with ledger_at(tmp_path / "other.sqlite") as other:
        assert other.secret("hmac") != secret
    if path is not None:
        with ledger_at(path) as again:
            assert again.secret("hmac") == secret


def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    """Dead letters hold what users said."""
    path = tmp_path / "ledger.sqlite"
    with ledger_at(path) as ledger:
        ledger.commit(MetadataBatch(letters=[DeadLetterChange([letter(1)])]))
        assert {oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()} == {"0o600"}
        assert ledger.disk_bytes >= path.stat().st_size > 0


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """The message names both versions and says what to do."""
    path = tmp_path / "ledger.sqlite"
    with ledger_at(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StoreError, match=r"format 7, this one reads 1\): run that version"):
        MetadataDB(path, remember=1, remember_limit=1, remember_bytes=1, letter_bytes=1, task_lease=1)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """Rubbish in its place is a clear error, not an empty ledger."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(os.urandom(5000))
    with pytest.raises(StoreError, match=r"cannot use .*ledger\.sqlite"):
        MetadataDB(path, remember=1, remember_limit=1, remember_bytes=1, letter_bytes=1, task_lease=1)
