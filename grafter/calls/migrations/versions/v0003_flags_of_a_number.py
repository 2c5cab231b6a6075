"""Indexes for a number with a filter: all calls of a number were read to find that none of them was interrupted."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_SIDES = ("caller", "callee")
_FLAGS = ("slow", "errors", "interrupted", "unjoined", "live")


def upgrade() -> None:
    for side in _SIDES:
        for flag in _FLAGS:
            where = sa.text(flag)
            op.create_index(
                f"grafter_calls_{side}_{flag}",
                "grafter_calls",
                [side, "start", "key"],
                sqlite_where=where,
                postgresql_where=where,
            )


def downgrade() -> None:
    for side in _SIDES:
        for flag in _FLAGS:
            op.drop_index(f"grafter_calls_{side}_{flag}", "grafter_calls")
