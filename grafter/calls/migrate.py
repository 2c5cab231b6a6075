"""Brings the tables to the form that this version uses; safe to run from several processes at a time."""

import logging
from pathlib import Path

from sqlalchemy import Connection, text

from grafter.errors import UnavailableError

INI = Path(__file__).with_name("migrations") / "alembic.ini"


def migrate(connection: Connection) -> None:
    """Inside a transaction that alone writes (``engine.writing``). Raises UnavailableError for tables of a newer
    grafter, which this one leaves as they are."""
    if connection.dialect.name == "postgresql":
        # An index over millions of calls takes longer than any statement of a door may.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
    # It says on every start what it has, and that there is nothing to do.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command
    from alembic.config import Config
    from alembic.script.revision import ResolutionError
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(INI.parent))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        if not isinstance(error.__cause__, ResolutionError):
            raise
        raise UnavailableError("the calls' tables are of a newer grafter", reason="calls_newer") from None
