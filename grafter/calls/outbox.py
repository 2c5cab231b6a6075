"""Calls that somebody follows and has not taken up yet: one row a follower and call, written in the transaction that
changes the call. So none is missed, however long a follower is away and whenever the process ends.

Whoever works for a follower claims what is due for a lease, as tasks of the store are. A call that changes meanwhile
is due again as soon as that is done. Whoever stalls past its lease and goes on may send an older state after somebody
else has sent the newer one; so what is done under a lease that has passed on is sent again, as it is then.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, Connection, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from grafter.calls import schema
from grafter.calls.following import Due
from grafter.calls.queries import in_chunks

_TABLE = schema.outbox


def put(connection: Connection, follower: str, calls: Iterable[Sequence[str]], now: int) -> None:
    """These calls have changed; of each all of its keys, its own first.

    What waits under any of them, or is being sent, goes on to stand for the call: it is not sent beside it.
    """
    changed = {"at": now, "change": _TABLE.c.change + 1}
    rows = []
    for keys in calls:
        waits = False
        for chunk in in_chunks(keys) if len(keys) > 1 else ():
            theirs = (_TABLE.c.follower == follower, _TABLE.c.call.in_(chunk))
            waits |= connection.execute(update(_TABLE).where(*theirs).values(**changed)).rowcount > 0
        if not waits:
            rows.append({"follower": follower, "call": keys[0], "at": now, "change": 1, "due": now, "failures": 0})
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        made = dialect.insert(_TABLE)
        connection.execute(made.on_conflict_do_update(index_elements=["follower", "call"], set_=changed), rows)


def waiting(connection: Connection, follower: str, now: int) -> bool:
    """Whether something is due."""
    query = select(_TABLE.c.call).where(_TABLE.c.follower == follower, _TABLE.c.due <= now).limit(1)
    return connection.execute(query).first() is not None


def backlog(connection: Connection, followers: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How many calls wait for each of these followers, and when the first of them changed; none for whom none does."""
    query = select(_TABLE.c.follower, func.count(), func.min(_TABLE.c.at)).where(_TABLE.c.follower.in_(followers))
    rows = connection.execute(query.group_by(_TABLE.c.follower))
    return {follower: (count, oldest) for follower, count, oldest in rows}


def claim(connection: Connection, follower: str, now: int, lease: int, limit: int) -> list[Due]:
    """What is due, the oldest first; nobody else gets it until the lease ends."""
    query = select(_TABLE.c.call, _TABLE.c.at, _TABLE.c.change, _TABLE.c.failures)
    query = query.where(_TABLE.c.follower == follower, _TABLE.c.due <= now).order_by(_TABLE.c.due).limit(limit)
    until = now + lease
    found = [Due(*each, until) for each in connection.execute(query)]
    mine = _TABLE.c.call.in_([one.call for one in found])
    connection.execute(update(_TABLE).where(_TABLE.c.follower == follower, mine).values(due=until))
    return found


def done(connection: Connection, follower: str, some: Iterable[Due], now: int) -> None:
    """They know of it; what has changed since is due."""
    for one in some:
        mine = _claimed(follower, one)
        if connection.execute(delete(_TABLE).where(*mine, _TABLE.c.change == one.change)).rowcount:
            continue
        if not connection.execute(update(_TABLE).where(*mine).values(due=now, failures=0)).rowcount:
            put(connection, follower, [[one.call]], now)


def later(connection: Connection, follower: str, some: Iterable[tuple[Due, int]], now: int) -> None:
    """They could not be sent; each is due again at its time."""
    for one, due in some:
        again = {"due": due, "failures": one.failures + 1}
        if not connection.execute(update(_TABLE).where(*_claimed(follower, one)).values(**again)).rowcount:
            # It may have been taken all the same, and only the answer was lost.
            put(connection, follower, [[one.call]], now)


def _claimed(follower: str, one: Due) -> tuple[ColumnElement[bool], ...]:
    """Its row, as long as nobody has claimed it since: whoever does moves the time at which it is due. One that is
    claimed by somebody else then finds it changed."""
    return (_TABLE.c.follower == follower, _TABLE.c.call == one.call, _TABLE.c.due == one.until)
