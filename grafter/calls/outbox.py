"""Calls that somebody follows and has not taken up yet: one row a follower and call, written in the transaction that
changes the call. So none is missed, however long a follower is away and whenever the process ends.

Whoever works for a follower claims what is due for a lease, as tasks of the store are. A call that changes meanwhile
is due again as soon as that is done.
"""

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from grafter.calls import schema
from grafter.calls.following import Due

_TABLE = schema.outbox


def put(connection: Connection, followers: Iterable[str], keys: Collection[str], now: int) -> None:
    """These calls have changed."""
    rows = [
        {"follower": name, "call": key, "at": now, "change": 1, "due": now, "failures": 0}
        for name in followers
        for key in keys
    ]
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        made = dialect.insert(_TABLE)
        changed = {"at": made.excluded.at, "change": _TABLE.c.change + 1}
        connection.execute(made.on_conflict_do_update(index_elements=["follower", "call"], set_=changed), rows)


def waiting(connection: Connection, follower: str, now: int) -> bool:
    """Whether something is due."""
    query = select(_TABLE.c.call).where(_TABLE.c.follower == follower, _TABLE.c.due <= now).limit(1)
    return connection.execute(query).first() is not None


def claim(connection: Connection, follower: str, now: int, lease: int, limit: int) -> list[Due]:
    """What is due, the oldest first; nobody else gets it until the lease ends."""
    query = select(_TABLE.c.call, _TABLE.c.at, _TABLE.c.change, _TABLE.c.failures)
    query = query.where(_TABLE.c.follower == follower, _TABLE.c.due <= now).order_by(_TABLE.c.due).limit(limit)
    found = [Due(*each) for each in connection.execute(query)]
    mine = _TABLE.c.call.in_([one.call for one in found])
    connection.execute(update(_TABLE).where(_TABLE.c.follower == follower, mine).values(due=now + lease))
    return found


def done(connection: Connection, follower: str, some: Sequence[Due], now: int) -> None:
    """They know of it; what has changed since is due."""
    for one in some:
        mine = (_TABLE.c.follower == follower, _TABLE.c.call == one.call)
        if not connection.execute(delete(_TABLE).where(*mine, _TABLE.c.change == one.change)).rowcount:
            connection.execute(update(_TABLE).where(*mine).values(due=now, failures=0))


def later(connection: Connection, follower: str, some: Iterable[tuple[Due, int]]) -> None:
    """They could not be told; each is due again at its time."""
    for one, due in some:
        mine = (_TABLE.c.follower == follower, _TABLE.c.call == one.call)
        connection.execute(update(_TABLE).where(*mine).values(due=due, failures=one.failures + 1))
