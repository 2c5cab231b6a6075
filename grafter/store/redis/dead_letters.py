"""The dead letters: one list, the newest first, bounded in bytes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from struct import Struct

from grafter.core.model import Key, UnixNano
from grafter.store.model import DeadLetter, DeadLetterCounts, DeadLettersAdded
from grafter.store.redis.connection import Reply
from grafter.store.redis.engine import Engine
from grafter.store.redis.scripts import Argument

BUCKET = 0
KEPT_MS = 90 * 24 * 3600 * 1000
"""What nobody has touched for this long goes: the letters, and what is fixed for a prefix."""
_LETTER = Struct("<BIqHHH")
"""Version, spans, moment; lengths of key, exporter, reason."""


NAMES = (b"letters", b"letters:bytes", b"letters:sums", b"letters:retried")
"""The box, its bytes, what of it is whose, and the ids of letters that are being sent again."""


class DeadLetters:
    """Over an engine."""

    def __init__(self, engine: Engine, max_bytes: int, *, drop_oldest: bool) -> None:
        self.held: dict[str, DeadLetterCounts] = {}
        """What the box has, by exporter, as it was known last."""
        self._engine = engine
        self._max_bytes = max_bytes
        self._drop_oldest = drop_oldest
        self._box, _, self._sums, self._retried = (engine.layout.tags[BUCKET] + name for name in NAMES)

    async def add(self, letters: Sequence[DeadLetter], *, together: bool) -> DeadLettersAdded:
        """See Store.add_dead_letters."""
        if not letters:
            return DeadLettersAdded(0)
        full = b"drop" if self._drop_oldest else b"all" if together else b"some"
        arguments: list[Argument] = [BUCKET, self._max_bytes, KEPT_MS, full, *map(_encoded, letters)]
        ((_, (kept, pushed_out)),) = await self._engine.run("add_dead_letters", [(BUCKET, arguments)])
        await self.refresh()
        return DeadLettersAdded(kept, pushed_out)

    async def page(self, limit: int, skip: int, *, oldest: bool) -> Sequence[DeadLetter]:
        """See Store.dead_letters; those of a newer version are left out."""
        first, last = (-skip - limit, -skip - 1) if oldest else (skip, skip + limit - 1)
        (found,) = await self._engine.commands([(BUCKET, ("LRANGE", self._box, first, last))])
        if oldest:
            found.reverse()
        letters = [_decoded(raw) for raw in found if raw[0] == 1]
        if not letters:
            return letters
        (retried,) = await self._engine.commands([(BUCKET, ("SMISMEMBER", self._retried, *(x.id for x in letters)))])
        return [replace(letter, retried=bool(one)) for letter, one in zip(letters, retried, strict=True)]

    async def remove(self, letters: Sequence[DeadLetter]) -> Sequence[bool]:
        """See Store.remove_dead_letters."""
        if not letters:
            return []
        arguments: list[Argument] = [BUCKET, KEPT_MS]
        for letter in letters:
            arguments += [letter.id.encode(), _encoded(letter)]
        ((_, removed),) = await self._engine.run("remove_dead_letters", [(BUCKET, arguments)])
        await self.refresh()
        return [one == 1 for one in removed]

    async def record_retry(self, letters: Sequence[DeadLetter], *, begun: bool) -> None:
        """See Store.record_retry."""
        if letters:
            command = "SADD" if begun else "SREM"
            await self._engine.commands(
                [
                    (BUCKET, (command, self._retried, *(letter.id for letter in letters))),
                    (BUCKET, ("PEXPIRE", self._retried, KEPT_MS)),
                ]
            )

    async def refresh(self) -> None:
        """Learn what the box has: other replicas put letters there and take them out."""
        (found,) = await self._engine.commands([(BUCKET, ("HGETALL", self._sums))])
        sums = {bytes(name): int(value) for name, value in _pairs(found)}
        self.held = {
            name[2:].decode(): DeadLetterCounts(count, sums.get(b"s:" + name[2:], 0), sums.get(b"b:" + name[2:], 0))
            for name, count in sums.items()
            if name[:2] == b"n:"
        }


def _pairs(found: Reply) -> Iterable[tuple[bytes, bytes]]:
    """The answer to HGETALL, which comes as a mapping or as one flat list."""
    return found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)


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
        sha256(raw).hexdigest()[:16],
    )
