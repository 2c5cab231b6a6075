"""Brings the tables to the form that this version uses; safe to run from several processes at a time."""

import logging
from pathlib import Path

from sqlalchemy import Connection, text

INI = Path(__file__).with_name("migrations") / "alembic.ini"
_LOCK = 0x67726166746572
"""Any number, the same in every grafter."""


def lock(connection: Connection) -> None:
    """One writer at a time, over all processes, until the transaction ends; SQLite locks by itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def migrate(connection: Connection) -> None:
    """Inside the caller's transaction."""
    lock(connection)
    # It says on every start what it has, and that there is nothing to do.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(INI.parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
