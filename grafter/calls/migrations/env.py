"""Runs the migrations: at start over a connection that is open, by hand (``alembic -x url=…``) over one of its own.

python -m alembic -c $(python -c 'import grafter.calls.migrate as m; print(m.INI)') -x url=URL current
"""

from alembic import context
from sqlalchemy import Connection, create_engine

from grafter.calls.schema import metadata


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, version_table="grafter_calls_version")
    with context.begin_transaction():
        context.run_migrations()


_open = context.config.attributes.get("connection")
if _open is not None:
    _run(_open)
else:
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).begin() as _own:
        _run(_own)
