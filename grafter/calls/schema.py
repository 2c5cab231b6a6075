"""The tables of the call map. What a call is stands in its records; the rest is there to find it fast.

A change here is a new file in ``migrations/versions`` too; a test proves that both come to the same tables.
"""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, text

metadata = MetaData()

calls = Table(
    "grafter_calls",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("start", BigInteger, nullable=False),
    Column("caller", String(32)),
    Column("callee", String(32)),
    Column("slow", Boolean, nullable=False),
    Column("errors", Boolean, nullable=False),
    Column("interrupted", Boolean, nullable=False),
    Column("unjoined", Boolean, nullable=False),
    Column("live", Boolean, nullable=False),
    Column("ambiguous", Boolean, nullable=False),
    Index("grafter_calls_start", "start", "key"),
    Index("grafter_calls_caller", "caller", "start", "key"),
    Index("grafter_calls_callee", "callee", "start", "key"),
)
"""One row a call, for searching; numbers as ``number_keys`` writes them."""

FLAGS = ("slow", "errors", "interrupted", "unjoined", "live")
for flag in FLAGS:
    # Those that have it, in the order in which they are shown: all, and those of a number.
    for side in (None, calls.c.caller, calls.c.callee):
        Index(
            f"grafter_calls_{flag}" if side is None else f"grafter_calls_{side.name}_{flag}",
            *([] if side is None else [side]),
            calls.c.start,
            calls.c.key,
            sqlite_where=text(flag),
            postgresql_where=text(flag),
        )

records = Table(
    "grafter_call_records",
    metadata,
    Column("name", String(300), primary_key=True),
    Column("call", String(32), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("grafter_call_records_call", "call"),
)
"""What each source said, as ``encoding`` writes it."""

ids = Table(
    "grafter_call_ids",
    metadata,
    Column("value", String(300), primary_key=True),
    Column("kind", String(40), primary_key=True),
    Column("call", String(32), nullable=False),
    Index("grafter_call_ids_call", "call"),
)
"""Every id, host trace (kind ``trace``, hex), key (kind ``key``) and recording by which a call is found."""

documents = Table(
    "grafter_call_documents",
    metadata,
    Column("name", String(300), primary_key=True),
    Column("piece", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("grafter_call_documents_at", "at"),
)
"""The joined traces, compressed and cut, by the record that they came with."""

forgotten = Table(
    "grafter_forgotten_numbers",
    metadata,
    Column("hash", String(32), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("number_key", String(16), nullable=False, server_default=""),
)
"""Numbers of which nothing is taken that began before a time."""

outbox = Table(
    "grafter_call_outbox",
    metadata,
    Column("follower", String(64), primary_key=True),
    Column("call", String(32), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("change", BigInteger, nullable=False),
    Column("due", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    Index("grafter_call_outbox_due", "follower", "due"),
)
"""What followers have not taken up yet."""
