"""The records that were written last, still in memory: most traces are released from here and never read back.

What is kept is bounded in bytes and in time, so that a long call costs no memory however much is held. While nobody
asks for bundles, because there are several exporters or the only one is down, nothing is kept.
"""

from collections import deque

from grafter.core.model import Envelope, UnixNano
from grafter.store import records
from grafter.store.base import Plain
from grafter.store.records import CHUNK

RECENT_BYTES = 64 << 20
# The rest of a small container is for everything else.
_SHARE = 16


def affordable(total: int | None) -> int:
    """How many bytes may be kept where there is so much memory; None: not known."""
    return RECENT_BYTES if total is None else min(RECENT_BYTES, total // _SHARE)


class Recent:
    """Bodies of PARTS records by their place."""

    def __init__(self, limit: int, keep: int) -> None:
        """``limit``: bytes; ``keep``: nanoseconds after which a body is dropped."""
        self._limit = limit
        self._keep = keep
        self._bodies: dict[tuple[int, int], tuple[bytes, dict[int, Envelope]]] = {}
        self._order: deque[tuple[int, tuple[int, int], int]] = deque()
        self._bytes = 0
        self._asked: int | None = None
        # Equal envelopes are one object: grouping by them is what an exporter does first.
        self._envelopes: dict[bytes, Envelope] = {}

    def add(self, now: int, place: tuple[int, int], body: bytes) -> None:
        """Keep a body that was just written, if anybody is going to ask for it."""
        if self._asked is None or now > self._asked + self._keep:
            self._forget(None)
            return
        self._bodies[place] = (body, {})
        self._order.append((now, place, len(body)))
        self._bytes += len(body)
        while self._bytes > self._limit:
            self._drop()

    def ask(self, now: UnixNano) -> None:
        """Somebody asks for bundles; what is too old is dropped."""
        self._asked = now
        self._forget(now)

    def _forget(self, now: int | None) -> None:
        while self._order and (now is None or self._order[0][0] + self._keep <= now):
            self._drop()

    def _drop(self) -> None:
        _, place, size = self._order.popleft()
        del self._bodies[place]
        self._bytes -= size

    def plain(self, chunks: bytes | bytearray, root: int) -> Plain | None:
        """The host parts of these chunks; None when one of them is no longer here."""
        payloads: list[bytes] = []
        envelopes: list[Envelope] = []
        ids: list[bytes] = []
        bodies = self._bodies
        for segment, body, _, _, _, _, at, length, head, head_length, size in CHUNK.iter_unpack(chunks):
            found = bodies.get((segment, body))
            if found is None:
                return None
            data, known = found
            envelope = known.get(at)
            if envelope is None:
                envelope = known[at] = self._shared(data[at : at + length])
            middle = head + head_length
            ids.append(data[head:middle])
            payloads.append(data[middle : middle + size])
            envelopes.append(envelope)
        return payloads, envelopes, ids, root

    def _shared(self, blob: bytes) -> Envelope:
        envelope = self._envelopes.get(blob)
        if envelope is None:
            if len(self._envelopes) >= 1024:
                self._envelopes.clear()
            envelope = self._envelopes[blob] = records.decode_envelope(blob)
        return envelope
