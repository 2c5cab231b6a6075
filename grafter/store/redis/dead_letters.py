"""The dead letters: one list, the newest first, bounded in bytes."""

from collections.abc import Sequence
from struct import Struct

from grafter.core.model import Key, UnixNano
from grafter.store.base import DeadLetter
from grafter.store.redis.engine import Engine
from grafter.store.redis.scripts import Argument, Item

BUCKET = 0
KEPT_MS = 90 * 24 * 3600 * 1000
"""What nobody has touched for this long goes: the letters, and what is fixed for a prefix."""
_LETTER = Struct("<BIqHHH")
"""Version, spans, moment; lengths of key, exporter, reason."""


class DeadLetters:
    """Over an engine."""

    def __init__(self, engine: Engine, max_bytes: int) -> None:
        self._engine = engine
        self._max_bytes = max_bytes

    async def add(self, letters: Sequence[DeadLetter]) -> int:
        """See Store.add_dead_letters."""
        if not letters:
            return 0
        arguments: list[Argument] = [BUCKET, self._max_bytes, KEPT_MS, *map(_encoded, letters)]
        item: Item = (BUCKET, arguments)
        runs = await self._engine.run("add_dead_letters", [item])
        return int(runs[0][1])

    async def newest(self, limit: int) -> Sequence[DeadLetter]:
        """See Store.dead_letters; those of a newer version are left out."""
        name = self._engine.layout.tags[BUCKET] + b"letters"
        (found,) = await self._engine.commands([(BUCKET, ("LRANGE", name, 0, limit - 1))])
        return [_decoded(raw) for raw in found if raw[0] == 1]


def _encoded(letter: DeadLetter) -> bytes:
    exporter, reason = letter.exporter.encode(), letter.reason.encode("utf-8", "replace")[:65535]
    head = _LETTER.pack(1, letter.spans, letter.at, len(letter.key), len(exporter), len(reason))
    return b"".join((head, letter.key, exporter, reason, letter.payload))


def _decoded(raw: bytes) -> DeadLetter:
    _, spans, at, key, exporter, reason = _LETTER.unpack_from(raw)
    ends = [_LETTER.size]
    for length in (key, exporter, reason):
        ends.append(ends[-1] + length)
    return DeadLetter(
        Key(raw[ends[0] : ends[1]]),
        raw[ends[1] : ends[2]].decode(),
        raw[ends[2] : ends[3]].decode("utf-8", "replace"),
        UnixNano(at),
        spans,
        raw[ends[3] :],
    )
