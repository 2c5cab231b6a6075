"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

FLAGS = ("slow", "errors", "interrupted", "unjoined", "live")


def upgrade() -> None:
    op.create_table(
        "grafter_calls",
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("caller", sa.String(32)),
        sa.Column("callee", sa.String(32)),
        *[sa.Column(flag, sa.Boolean, nullable=False) for flag in FLAGS],
        sa.Column("ambiguous", sa.Boolean, nullable=False),
    )
    op.create_index("grafter_calls_start", "grafter_calls", ["start", "key"])
    op.create_index("grafter_calls_caller", "grafter_calls", ["caller", "start"])
    op.create_index("grafter_calls_callee", "grafter_calls", ["callee", "start"])
    for flag in FLAGS:
        where = sa.text(flag)
        op.create_index(
            f"grafter_calls_{flag}", "grafter_calls", ["start", "key"], sqlite_where=where, postgresql_where=where
        )
    op.create_table(
        "grafter_call_records",
        sa.Column("name", sa.String(300), primary_key=True),
        sa.Column("call", sa.String(32), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("grafter_call_records_call", "grafter_call_records", ["call"])
    op.create_table(
        "grafter_call_ids",
        sa.Column("value", sa.String(300), primary_key=True),
        sa.Column("kind", sa.String(40), primary_key=True),
        sa.Column("call", sa.String(32), nullable=False),
    )
    op.create_index("grafter_call_ids_call", "grafter_call_ids", ["call"])
    op.create_table(
        "grafter_call_documents",
        sa.Column("name", sa.String(300), primary_key=True),
        sa.Column("piece", sa.Integer, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("grafter_call_documents_at", "grafter_call_documents", ["at"])
    op.create_table(
        "grafter_forgotten_numbers",
        sa.Column("hash", sa.String(32), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in (
        "grafter_forgotten_numbers",
        "grafter_call_documents",
        "grafter_call_ids",
        "grafter_call_records",
        "grafter_calls",
    ):
        op.drop_table(table)
