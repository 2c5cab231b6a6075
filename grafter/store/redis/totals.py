"""What is held, by bucket and by replica, as this process knows it: its own doings at once, others' within a second."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct

from grafter.core.model import UnixNano
from grafter.store.model import FORGOTTEN_BY, Backlog, Share
from grafter.store.redis.connection import Reply
from grafter.store.redis.layout import BUCKETS, absolute, exporter_of

_TALLY = Struct("<8d8xd")
"""As lua/common.lua has it, without the token; what a newer version may have put after it is its own."""
_OLDER_TALLY = Struct("<8d")


@dataclass(slots=True)
class Tally:
    """What became of the spans of one replica, which are those under the keys that it began; totals since ever."""

    came: float = 0
    left: float = 0
    bytes: float = 0
    """Held now."""
    traces: float = 0
    """Keys held now."""
    brought: float = 0
    """Of what came: by others."""
    placed: float = 0
    """What it put under keys of others."""
    fetched: float = 0
    """What it settled of others' keys."""
    lost: float = 0
    """Of what left: settled by others."""
    moved: float = 0
    """Of what it stored: taken from under a guest's key, having been stored under the host's."""
    oldest: float | None = None
    """When the first part of its oldest key came."""

    @property
    def held(self) -> int:
        """Spans."""
        return int(self.came - self.left)

    @property
    def put(self) -> int:
        """Spans that it stored, wherever, those that moved once."""
        return int(self.came - self.brought + self.placed - self.moved)

    @property
    def taken_over(self) -> int:
        return int(self.brought + self.fetched)

    @property
    def handed_over(self) -> int:
        return int(self.placed + self.lost)

    def add(self, other: "Tally") -> None:
        self.came += other.came
        self.left += other.left
        self.bytes += other.bytes
        self.traces += other.traces
        self.brought += other.brought
        self.placed += other.placed
        self.fetched += other.fetched
        self.lost += other.lost
        self.moved += other.moved
        if other.oldest is not None and (self.oldest is None or other.oldest < self.oldest):
            self.oldest = other.oldest

    def share(self) -> Share:
        """What of it is held."""
        return Share(
            int(self.traces), self.held, int(self.bytes), None if self.oldest is None else absolute(self.oldest)
        )


class BucketTotals:
    """One bucket."""

    __slots__ = (
        *("backlogs", "bytes", "head", "head_at", "older", "oldest", "remembered", "remembered_bytes"),
        *("spans", "tallies", "traces", "unseen"),
    )

    def __init__(self) -> None:
        self.traces = 0
        self.spans = 0
        self.bytes = 0
        self.oldest: int | None = None
        self.remembered = 0
        self.remembered_bytes = 0
        self.older = 0
        """Memories that an older version left."""
        self.head: int | None = None
        """Order of its oldest memory."""
        self.head_at: int | None = None
        """The moment from which that is kept; None where it is gone already."""
        self.tallies: dict[int, tuple[tuple[float, ...], bytes]] = {}
        """By number, as they come: the fields of a Tally."""
        self.unseen = (0, 0, 0)
        """Traces, spans and bytes that this process has stored since the tallies were read."""
        self.backlogs: dict[str, Backlog] = {}
        """What of it waits for one exporter alone, by its name."""

    def read(self, reply: Sequence[Reply]) -> None:
        """What the server says of it (lua/totals.lua)."""
        self.remembered, head, at, self.remembered_bytes, self.older = reply[:5]
        self.head = int(float(head)) if head else None
        self.head_at = absolute(float(at)) if at and at != b"gone" else None
        self.tallies = {}
        traces = spans = size = 0.0
        first: float | None = None
        self.backlogs = {}
        replicas = int(reply[5])
        for number, i in enumerate(range(7, len(reply), 3)):
            fields, oldest = _fields(reply[i + 1]), reply[i + 2]
            if number >= replicas:
                since = absolute(float(oldest)) if oldest else None
                waiting = Backlog(int(fields[3]), int(fields[0]), int(fields[2]), since)
                self.backlogs[exporter_of(reply[i])] = waiting
                size += fields[2]
                continue
            self.tallies[int(reply[i])] = fields, oldest
            spans += fields[0] - fields[1]
            size += fields[2]
            traces += fields[3]
            if oldest and (first is None or float(oldest) < first):
                first = float(oldest)
        self.traces, self.spans, self.bytes = int(traces), int(spans), int(size)
        self.oldest = None if first is None else absolute(first)
        self.unseen = (0, 0, 0)


def _fields(tally: bytes) -> tuple[float, ...]:
    """One that an older version wrote may end before the last of them."""
    return _TALLY.unpack_from(tally) if len(tally) >= _TALLY.size else _OLDER_TALLY.unpack_from(tally)


class Totals:
    """All buckets."""

    def __init__(self, max_bytes: int) -> None:
        self.buckets = [BucketTotals() for _ in range(BUCKETS)]
        self.max_bytes = max_bytes
        self.pending = 0
        """Bytes that are on their way to the server."""
        self.in_flight = 0
        """What is on its way and changes what is held: appends and moves."""
        self.changes = 0
        """Counts what this process did."""
        self.stored = 0
        """Spans of parts that were acknowledged to this process."""
        self.forgotten = dict.fromkeys(FORGOTTEN_BY, 0)
        # Both are asked of every request, and summing up all buckets for each would show.
        self.held = 0
        """Bytes."""
        self._older: set[int] = set()

    def read(self, number: int, reply: Sequence[Reply]) -> None:
        """What the server says of a bucket."""
        bucket = self.buckets[number]
        before = bucket.bytes
        bucket.read(reply)
        self.held += bucket.bytes - before
        if bucket.older:
            self._older.add(number)
        else:
            self._older.discard(number)

    @property
    def traces(self) -> int:
        """Keys held."""
        return sum([bucket.traces for bucket in self.buckets])

    @property
    def spans(self) -> int:
        """Spans held."""
        return sum([bucket.spans for bucket in self.buckets])

    @property
    def remembered(self) -> int:
        return sum([bucket.remembered for bucket in self.buckets])

    @property
    def older(self) -> bool:
        """Whether an older version's memories are left anywhere."""
        return bool(self._older)

    @property
    def remembered_bytes(self) -> int:
        return sum([bucket.remembered_bytes for bucket in self.buckets])

    def add_parts(self, now: int, parts: Iterable[tuple[int, int, int, bool]]) -> None:
        """Parts were stored: of each its bucket, spans and bytes, and whether its key began with it."""
        buckets = self.buckets
        for number, spans, size, begun in parts:
            self.changes += 1
            self.stored += spans
            self.held += size
            bucket = buckets[number]
            bucket.spans += spans
            bucket.bytes += size
            bucket.traces += begun
            before = bucket.unseen
            bucket.unseen = before[0] + begun, before[1] + spans, before[2] + size
            if bucket.oldest is None or now < bucket.oldest:
                bucket.oldest = now

    def add_envelope(self, bucket: int, size: int) -> None:
        """A large envelope was stored."""
        self.changes += 1
        totals = self.buckets[bucket]
        self.held += size
        totals.bytes += size
        traces, spans, bytes_ = totals.unseen
        totals.unseen = traces, spans, bytes_ + size

    def tally(self, numbers: Iterable[int]) -> Tally:
        """Of these replicas together."""
        found = Tally()
        for number in numbers:
            for bucket in self.buckets:
                if number in bucket.tallies:
                    fields, oldest = bucket.tallies[number]
                    one = Tally(*fields)
                    one.oldest = float(oldest) if oldest else None
                    found.add(one)
        return found

    def numbers(self) -> set[int]:
        """All that have a tally."""
        return {number for bucket in self.buckets for number in bucket.tallies}

    def unseen(self) -> Iterator[tuple[int, int, int]]:
        """Traces, spans and bytes that no tally knows yet."""
        return (bucket.unseen for bucket in self.buckets)

    def add_batch(self, bucket: int, exporter: str, now: UnixNano, spans: int, size: int) -> None:
        """A batch of a backlog was stored."""
        self.changes += 1
        totals = self.buckets[bucket]
        self.held += size
        totals.bytes += size
        one = totals.backlogs.get(exporter, Backlog(0, 0, 0, None))
        oldest = now if one.oldest is None else one.oldest
        totals.backlogs[exporter] = Backlog(one.batches + 1, one.spans + spans, one.bytes + size, oldest)

    def backlogs(self) -> dict[str, Backlog]:
        """What waits for one exporter alone, by its name."""
        found: dict[str, Backlog] = {}
        for bucket in self.buckets:
            for exporter, one in bucket.backlogs.items():
                before = found.get(exporter, Backlog(0, 0, 0, None))
                oldest = min((at for at in (before.oldest, one.oldest) if at is not None), default=None)
                found[exporter] = Backlog(
                    before.batches + one.batches, before.spans + one.spans, before.bytes + one.bytes, oldest
                )
        return found

    @property
    def oldest(self) -> UnixNano | None:
        """Arrival of the oldest part that is held."""
        found = min((bucket.oldest for bucket in self.buckets if bucket.oldest is not None), default=None)
        return None if found is None else UnixNano(found)
