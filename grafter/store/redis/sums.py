"""What is held, by bucket, as this process knows it: its own doings at once, other replicas' within a second."""

from collections.abc import Sequence

from grafter.core.model import UnixNano
from grafter.store.base import Stats
from grafter.store.redis.connection import Reply
from grafter.store.redis.layout import BUCKETS, absolute


class BucketSums:
    """One bucket."""

    __slots__ = ("bytes", "head", "head_at", "oldest", "remembered", "spans", "traces")

    def __init__(self) -> None:
        self.traces = 0
        self.spans = 0
        self.bytes = 0
        self.oldest: int | None = None
        self.remembered = 0
        self.head: int | None = None
        """Order of its oldest memory."""
        self.head_at: int | None = None
        """The moment from which that is kept; None where it is gone already."""

    def read(self, reply: Sequence[Reply]) -> None:
        """What the server says of it (lua/sums.lua)."""
        traces, oldest, spans, size, remembered, head, at = reply
        self.traces, self.spans, self.bytes, self.remembered = traces, int(spans), int(size), remembered
        self.oldest = absolute(float(oldest)) if oldest else None
        self.head = int(float(head)) if head else None
        self.head_at = absolute(float(at)) if at and at != b"gone" else None


class Sums:
    """All buckets."""

    def __init__(self, max_bytes: int) -> None:
        self.buckets = [BucketSums() for _ in range(BUCKETS)]
        self.max_bytes = max_bytes
        self.pending = 0
        """Bytes that are on their way to the server."""
        self.in_flight = 0
        """Appends on their way."""
        self.changes = 0
        """Counts what this process did."""
        self.recovered_spans = 0
        self.forgotten = 0

    @property
    def held(self) -> int:
        """Bytes."""
        return sum([bucket.bytes for bucket in self.buckets])

    @property
    def remembered(self) -> int:
        return sum([bucket.remembered for bucket in self.buckets])

    def took(self, bucket: int, now: int, spans: int, size: int, *, begun: bool) -> None:
        """A part was stored."""
        self.changes += 1
        sums = self.buckets[bucket]
        sums.spans += spans
        sums.bytes += size
        sums.traces += begun
        if sums.oldest is None or now < sums.oldest:
            sums.oldest = now

    def stats(self) -> Stats:
        traces = spans = size = remembered = 0
        oldest: int | None = None
        for bucket in self.buckets:
            traces += bucket.traces
            spans += bucket.spans
            size += bucket.bytes
            remembered += bucket.remembered
            if bucket.oldest is not None and (oldest is None or bucket.oldest < oldest):
                oldest = bucket.oldest
        return Stats(
            traces=traces,
            spans=spans,
            bytes=size,
            limit_bytes=self.max_bytes,
            oldest=None if oldest is None else UnixNano(oldest),
            remembered=remembered,
            recovering=False,
            recovered_spans=self.recovered_spans,
        )
