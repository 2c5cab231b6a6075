"""A metadata file that SQLite can no longer read: put aside under another name, and what is readable of it kept.

What is held is in the segments, and needs none of it. So a damaged file stops nothing: a new one takes its place, and
the log says what was lost with the old one, which stays beside it for whoever wants to look.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from grafter.store.base import StoreError

_LOG = logging.getLogger(__name__)

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FILES = ("", "-wal", "-shm")


def is_damage(error: BaseException | None) -> bool:
    """Whether SQLite says that the file is none, or not whole; also where a mend of it failed, which left it closed."""
    if isinstance(error, sqlite3.ProgrammingError):
        return "closed" in str(error)
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the kind, the rest says more of it.
    return code is not None and code & 0xFF in _DAMAGE


def put_aside_if_damaged(path: Path, *, thorough: bool = False) -> None:
    """Rename a damaged file, and copy what is readable of it into a new one at its place; a file that is whole, or not
    there, stays. Where there is no room for the copy, the damaged one stays too, for the next try. ``thorough``: its
    indexes are compared with its tables too. Raises OSError."""
    why = _damage_of(path, "integrity_check" if thorough else "quick_check") if path.exists() else ""
    if not why:
        return
    aside = _free_name(path)
    try:
        _rename(path, aside)
        kept = _copied(aside, path)
    except (OSError, sqlite3.Error) as error:
        _rename(aside, path)
        raise StoreError(f"{path.name} is damaged ({why}), and a new one cannot be made: {error}") from error
    _say(path, why, aside, kept)


def _damage_of(path: Path, check: str) -> str:
    """What is wrong with the file, in SQLite's words; empty also where it cannot be opened, which is no damage."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=0.5)) as file:
            found = str(file.execute(f"PRAGMA {check}(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error) if is_damage(error) else ""
    return "" if found == "ok" else found


def _rename(path: Path, to: Path) -> None:
    """A database with all of its files; what has their names is replaced. The file itself is the last, for where it is
    missing a log beside it is thrown away."""
    for suffix in reversed(_FILES):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{to}{suffix}")


def _say(path: Path, why: str, aside: Path, kept: dict[str, int]) -> None:
    rows = ", ".join(f"{count} of {table}" for table, count in kept.items() if count) or "none"
    _LOG.error(
        "%s is damaged (%s) and was put aside as %s; what is held is not in it. Rows that could be read and are kept: "
        "%s. The rest is lost with it: memories of traces that have left (what comes late of them is a trace of its "
        "own), dead letters, which webhooks came before, what is still to be fetched, who called whom, and the key of "
        "the hashes of phone numbers",
        path.name,
        why,
        aside.name,
        rows,
    )


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return aside


def _copied(damaged: Path, path: Path) -> dict[str, int]:
    """How many rows of each table could be read and were copied; the tables are made as they were there."""
    kept: dict[str, int] = {}
    with contextlib.closing(sqlite3.connect(damaged, timeout=0.5)) as old:
        try:
            (version,) = old.execute("PRAGMA user_version").fetchone()
            tables = old.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        except sqlite3.Error:
            return kept
        path.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(path)) as new:
            for name, sql in tables:
                try:
                    new.execute(sql)
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                        raise
                    # What makes the table is damaged itself.
                    continue
                kept[name] = _copy_rows(old, new, name)
            new.execute(f"PRAGMA user_version = {int(version)}")
            new.commit()
    return kept


def _copy_rows(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> int:
    """From both ends, since one bad page hides what lies behind it."""
    quoted = '"' + table.replace('"', '""') + '"'  # a name that SQLite itself gave
    columns = len(new.execute(f"SELECT * FROM {quoted}").description)
    insert = f"INSERT OR IGNORE INTO {quoted} VALUES ({', '.join('?' * columns)})"
    before = new.total_changes
    for order in ("", " ORDER BY rowid DESC"):
        new.executemany(insert, _readable(old, f"SELECT * FROM {quoted}{order}"))
    return new.total_changes - before


def _readable(old: sqlite3.Connection, query: str) -> Iterator[tuple[object, ...]]:
    """The rows before the first that cannot be read."""
    with contextlib.suppress(sqlite3.Error):
        yield from old.execute(query)
