"""The bodies of the log's records: parts (with the moves that came with them), outcomes, settlements.

Everything is little-endian. A PARTS body is laid out so that a *row* of it (38 bytes and 4 of the envelope's length)
is at the same time the index's entry for the part: what append packs once is kept in memory as it stands, and a
recovery cuts it out of the record.

    PARTS    parts, moves, offset of the moves | key of each part (17) | row of each part | blobs | moves
    OUTCOME  exporter, outcome | (key, up_to) ...
    SETTLE   (key, up_to) ...

Blobs: an envelope stands before the first part that uses it; a part is its head (host: span ids; guest: its facts)
and then its payload. Offsets in a row count from the start of the body.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from grafter.core.model import Envelope, Facts, GuestFacts, Key, Source, SpanId, TraceId, guest_key
from grafter.store.model import Outcome

VERSION = 1
"""Written into every record; a reader leaves newer records alone."""


class RecordType(IntEnum):
    PARTS = 1
    OUTCOME = 2
    SETTLE = 3


class RecordError(ValueError):
    """A record whose checksum holds but whose body this version cannot read."""


KEY_BYTES = 17
"""A host's key is padded with a zero byte; HOST_KEY in the row says so."""

ROW = Struct("<QQIHIIIII")
"""arrival, now, spans, flags, envelope offset (0: none), envelope length, head offset, head length, payload length."""

LOCATION = Struct("<II")
"""Segment number and offset of the record's body in it; before a row it makes a chunk."""
Place = tuple[int, int]
"""A segment's number, and an offset in it."""

CHUNK = Struct("<IIQQIHIIIII")
"""LOCATION and ROW in one: what the index keeps of a part."""
CHUNK_BYTES = CHUNK.size


class Chunk(NamedTuple):
    """A packed CHUNK, by name."""

    segment: int
    body: int
    """Where the body of the part's record begins in the segment; the offsets below count from there."""
    arrival: int
    now: int
    """The moment of the append, in Unix nanoseconds."""
    spans: int
    flags: int
    envelope: int
    envelope_size: int
    head: int
    head_size: int
    size: int
    """Of the payload, which follows the head."""


GUEST = 0x8000
HOST_KEY = 0x4000
FACTS = 0x3FFF
"""Flags of a row: the part is a guest's; it is placed under a 16-byte key; the bits of core.model.Facts."""
DEFERRED = 0x2000
"""Among those bits: the part is one of a batch of a backlog, whose exporter the key's outcomes name."""

# Where these stand in a chunk: read by slices, since unpacking all of it costs more than what is done with them.
_SEGMENT = Struct(f"<I{CHUNK_BYTES - 4}x")
_ROW_FLAGS_HIGH = 21
_ROOT, _LOCAL_ROOT = int(Facts.ROOT), int(Facts.LOCAL_ROOT)
_FACTS_LOW = slice(LOCATION.size + 20, None, CHUNK_BYTES)

# Calling an enum costs more than everything else that is done for a part.
_FACTS = tuple(Facts(value) for value in range(8))

PARTS_HEAD = Struct("<III")
_ENVELOPE = Struct("<I")
_MOVE = Struct("<17s17sBQI")
_KEY = Struct("<B17sQ")
_OUTCOME = Struct("<HB")
_GUEST = Struct("<BBIII")
_NO_SPAN = bytes(8)


class Move(NamedTuple):
    """Parts of a guest that change from the guest's key to a host's, and their new arrival numbers.

    They are numbered anew (``base`` and up, in the order of ``arrivals``), so that a claim of the host that was
    handed out before does not cover parts which it never saw. Each is named, not counted: a log whose oldest
    segments are gone still gives every part the same number.
    """

    guest: Key
    host: Key
    base: int
    arrivals: tuple[int, ...]


class Parts(NamedTuple):
    """A PARTS body, read."""

    keys: list[Key]
    rows: list[bytes]
    moves: list[Move]


def padded(key: bytes) -> bytes:
    return key if len(key) == KEY_BYTES else key + b"\0"


def facts_of(flags: int) -> Facts:
    bits = flags & FACTS
    return _FACTS[bits] if bits < len(_FACTS) else Facts(bits)


def unpack_chunks(chunks: bytes | bytearray) -> Iterator[Chunk]:
    """The parts of a key, by arrival."""
    return map(Chunk._make, CHUNK.iter_unpack(chunks))


def unpack_chunk(chunk: bytes | bytearray) -> Chunk:
    return Chunk._make(CHUNK.unpack(chunk))


def chunk_arrival(chunks: bytes | bytearray, end: int = CHUNK_BYTES) -> int:
    """The arrival of the chunk that ends there; of the first one where nothing is said."""
    at = end - CHUNK_BYTES + LOCATION.size
    return int.from_bytes(chunks[at : at + 8], "little")


def count_segments(chunks: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """In which segments these parts lie, and how many in each."""
    for (segment,), parts in Counter(_SEGMENT.iter_unpack(chunks)).items():
        yield segment, parts


def first_root(chunks: bytes | bytearray) -> int:
    """Which of these host parts, of which none has an anchor, is the first with a root; -1 when none is."""
    facts = chunks[_FACTS_LOW]
    alone, with_local = facts.find(_ROOT), facts.find(_ROOT | _LOCAL_ROOT)
    return max(alone, with_local) if alone < 0 or with_local < 0 else min(alone, with_local)


def find_arrival(chunks: bytes | bytearray, arrival: int) -> int:
    """Offset of the first chunk whose arrival is not below ``arrival``."""
    low, high = 0, len(chunks) // CHUNK_BYTES
    while low < high:
        middle = (low + high) // 2
        if chunk_arrival(chunks, (middle + 1) * CHUNK_BYTES) < arrival:
            low = middle + 1
        else:
            high = middle
    return low * CHUNK_BYTES


def encode_envelope(envelope: Envelope) -> bytes:
    return _ENVELOPE.pack(len(envelope.resource)) + envelope.resource + envelope.scope


def envelope_length(envelope: Envelope) -> int:
    """Bytes of an envelope as it is stored."""
    return _ENVELOPE.size + envelope.size


def decode_envelope(blob: bytes) -> Envelope:
    (resource,) = _ENVELOPE.unpack_from(blob)
    middle = _ENVELOPE.size + resource
    return Envelope(blob[_ENVELOPE.size : middle], blob[middle:])


def parts_body(
    keys: Sequence[bytes], rows: Sequence[bytes], blobs: Sequence[bytes], length: int, moves: Sequence[Move]
) -> list[bytes]:
    """The buffers of a PARTS body; ``length`` is where the blobs end, counted from the start."""
    return [
        PARTS_HEAD.pack(len(rows), len(moves), length),
        *map(padded, keys),
        *rows,
        *blobs,
        *map(_encode_move, moves),
    ]


def move_body(move: Move) -> Sequence[bytes]:
    """A PARTS body of a move alone."""
    return parts_body((), (), (), PARTS_HEAD.size, (move,))


def decode_parts(body: memoryview) -> Parts:
    """Raises RecordError when the body is not what its header says."""
    try:
        count, moved, at = PARTS_HEAD.unpack_from(body)
        start = PARTS_HEAD.size + count * KEY_BYTES
        end = start + count * ROW.size
        if at > len(body) or end > at:
            raise RecordError(f"a table of {count} parts does not fit into {len(body)} bytes")
        table = bytes(body[:end])
        rows = [table[i : i + ROW.size] for i in range(start, end, ROW.size)]
        keys = []
        for i, row in enumerate(rows):
            position = PARTS_HEAD.size + i * KEY_BYTES
            is_host = row[_ROW_FLAGS_HIGH] & (HOST_KEY >> 8)
            keys.append(Key(table[position : position + (KEY_BYTES - 1 if is_host else KEY_BYTES)]))
        return Parts(keys, rows, list(_decode_moves(body, at, moved)))
    except StructError as error:
        raise RecordError(f"parts: {error}") from error


def guests_of(body: memoryview, parts: Parts) -> Iterator[tuple[Key | None, bytes | None]]:
    """Of each part of a PARTS body its guest's key and encoded facts; None for a host's part."""
    for row in parts.rows:
        if not row[_ROW_FLAGS_HIGH] & (GUEST >> 8):
            yield None, None
            continue
        _, _, _, _, _, _, at, length, _ = ROW.unpack(row)
        facts = bytes(body[at : at + length])
        yield guest_key(decode_guest(facts).guest), facts


def _encode_move(move: Move) -> bytes:
    head = _MOVE.pack(padded(move.guest), padded(move.host), len(move.host), move.base, len(move.arrivals))
    return head + Struct(f"<{len(move.arrivals)}Q").pack(*move.arrivals)


def _decode_moves(body: memoryview, at: int, count: int) -> Iterator[Move]:
    for _ in range(count):
        guest, host, length, base, number = _MOVE.unpack_from(body, at)
        at += _MOVE.size
        arrivals = Struct(f"<{number}Q")
        yield Move(Key(guest), Key(host[:length]), base, arrivals.unpack_from(body, at))
        at += arrivals.size


def encode_keys(keys: Iterable[tuple[Key, int]]) -> bytes:
    return b"".join([_KEY.pack(len(key), padded(key), up_to) for key, up_to in keys])


def decode_keys(body: memoryview) -> Iterator[tuple[Key, int]]:
    if len(body) % _KEY.size:
        raise RecordError(f"a list of keys has {len(body)} bytes, expected a multiple of {_KEY.size}")
    for length, key, up_to in _KEY.iter_unpack(body):
        yield Key(key[:length]), up_to


def encode_outcome(exporter: str, outcome: Outcome, keys: Iterable[tuple[Key, int]]) -> bytes:
    return outcome_head(exporter, outcome) + encode_keys(keys)


def outcome_head(exporter: str, outcome: Outcome) -> bytes:
    """An outcome's body up to its keys."""
    name, value = exporter.encode(), outcome.value.encode()
    return _OUTCOME.pack(len(name), len(value)) + name + value


def decode_outcome(body: memoryview) -> tuple[str, Outcome, list[tuple[Key, int]]]:
    """Exporter, outcome and the (key, up_to) that it is of. Raises RecordError for what this version cannot read."""
    try:
        name, value = _OUTCOME.unpack_from(body)
        at = _OUTCOME.size
        exporter = str(body[at : at + name], "utf-8")
        outcome = Outcome(str(body[at + name : at + name + value], "utf-8"))
    except (StructError, ValueError) as error:
        raise RecordError(f"outcome: {error}") from error
    return exporter, outcome, list(decode_keys(body[at + name + value :]))


def encode_guest(facts: GuestFacts) -> bytes:
    """A guest part's facts; also what the index keeps of them, being far smaller than the objects."""
    guest, source = facts.guest.encode("utf-8", "surrogatepass"), facts.source.value.encode()
    flags = facts.head | facts.top_level << 1 | facts.ended << 2
    if facts.host is not None:
        flags |= 8
    if facts.sampled is not None:
        flags |= 16 | facts.sampled << 5
    head = _GUEST.pack(flags, len(source), len(guest), len(facts.ids), len(facts.parents))
    # Behind everything else, where a version that does not know it does not look.
    named = (facts.anchor or _NO_SPAN) + facts.how.encode() if facts.how else b""
    return b"".join([head, source, facts.host or b"", *facts.ids, *facts.parents, guest, named])


def decode_guest(blob: bytes) -> GuestFacts:
    """Raises RecordError for what this version cannot read."""
    try:
        flags, source, guest, ids, parents = _GUEST.unpack_from(blob)
        at = _GUEST.size + source
        name = Source(blob[_GUEST.size : at].decode())
        host = None
        if flags & 8:
            host = TraceId(blob[at : at + 16])
            at += 16
        middle, end = at + ids * 8, at + (ids + parents) * 8
        named = blob[end + guest :]
        anchor = named[: len(_NO_SPAN)]
        return GuestFacts(
            guest=blob[end : end + guest].decode("utf-8", "surrogatepass"),
            source=name,
            host=host,
            sampled=bool(flags & 32) if flags & 16 else None,
            how=named[len(_NO_SPAN) :].decode(),
            anchor=SpanId(anchor) if any(anchor) else None,
            head=bool(flags & 1),
            top_level=bool(flags & 2),
            ids=tuple(SpanId(blob[i : i + 8]) for i in range(at, middle, 8)),
            parents=tuple(SpanId(blob[i : i + 8]) for i in range(middle, end, 8)),
            ended=bool(flags & 4),
        )
    except (StructError, ValueError) as error:
        raise RecordError(f"guest facts: {error}") from error
