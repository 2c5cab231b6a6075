"""Tasks in the ledger's file: no stranger to a version that knows none of them, and no hindrance to the ledger."""

import sqlite3
import threading
from pathlib import Path

from grafter.core.model import Key, UnixNano
from grafter.store.embedded.metadata_db import FORMAT, MetadataBatch, MetadataDB
from grafter.store.embedded.metadata_tables import TaskTable
from grafter.store.model import Memory, Task

LEASE = 10


def ledger_at(path: Path) -> MetadataDB:
    return MetadataDB(
        path, remember=100, remember_limit=100, remember_bytes=1 << 20, letter_bytes=1000, task_lease=LEASE
    )


def test_tasks_leave_the_format_of_the_file_alone(tmp_path: Path) -> None:
    """A version that knows none of them goes by the number; and the tasks are there again afterwards."""
    path = tmp_path / "ledger.sqlite"
    ledger_at(path).close()
    book = TaskTable(path, LEASE, threading.Lock())
    book.put([Task("k", "a", UnixNano(1), b"blob")], 1)
    book.close()
    with sqlite3.connect(path) as reader:
        assert reader.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    ledger_at(path).close()
    book = TaskTable(path, LEASE, threading.Lock())
    assert [(task.name, task.blob) for task in book.claim("k", 1, 9)] == [("a", b"blob")]
    book.close()


def test_tasks_and_memories_are_written_side_by_side(tmp_path: Path) -> None:
    """Two threads on one file: neither fails for the other's sake."""
    path = tmp_path / "ledger.sqlite"
    ledger = ledger_at(path)
    book = TaskTable(path, LEASE, ledger.writing)

    def remember() -> None:
        for number in range(300):
            ledger.commit(MetadataBatch([(Memory(Key(number.to_bytes(16)), b"m"), UnixNano(1))]))

    thread = threading.Thread(target=remember)
    thread.start()
    for number in range(300):
        book.put([Task("k", f"{number}", UnixNano(1))], 1)
    thread.join()
    assert len(book.claim("k", 1, 1000)) == 300
    assert len(ledger) == 100
    book.close()
    ledger.close()
