"""Followers of calls, keys of numbers, and indexes that answer in the order that is asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_SIDES = ("caller", "callee")


def upgrade() -> None:
    for side in _SIDES:
        # Without the key at its end a planner that knows one number to be in every row reads all rows in time's order.
        op.drop_index(f"grafter_calls_{side}", "grafter_calls")
        op.create_index(f"grafter_calls_{side}", "grafter_calls", [side, "start", "key"])
    op.add_column(
        "grafter_forgotten_numbers", sa.Column("number_key", sa.String(16), nullable=False, server_default="")
    )
    op.create_table(
        "grafter_call_outbox",
        sa.Column("follower", sa.String(64), primary_key=True),
        sa.Column("call", sa.String(32), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("change", sa.BigInteger, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
    )
    op.create_index("grafter_call_outbox_due", "grafter_call_outbox", ["follower", "due"])


def downgrade() -> None:
    op.drop_table("grafter_call_outbox")
    op.drop_column("grafter_forgotten_numbers", "number_key")
    for side in _SIDES:
        op.drop_index(f"grafter_calls_{side}", "grafter_calls")
        op.create_index(f"grafter_calls_{side}", "grafter_calls", [side, "start"])
