"""Names of keys and the bytes of what is in them, as the scripts know them too (lua/common.lua).

Everything is little-endian. Times in Redis are nanoseconds since EPOCH in a double: exact for three months on either
side, to 64 ns for the next ten years.

Versions of grafter share what is held, the one after this and the one before it. A record begins with its version.
What a later version adds goes where this one passes over it and keeps it: behind a head, a tally or a guest's facts,
before a part's envelope (ELEMENT), in fields of a hash. What this one could not read at all has a higher version, and
the head of its key too; such a key is left alone. So that a step back to this version finds nothing like that, a later
one writes only what this one reads, and the one after it the rest.
"""

import os
from binascii import crc32
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from struct import Struct

from grafter.core.model import (
    GUEST_KEY_BYTES,
    HOST_KEY_BYTES,
    Envelope,
    EnvelopeCache,
    GuestFacts,
    Key,
    Part,
    TraceId,
    UnixNano,
)
from grafter.core.state import GuestState, TraceState, guest_state
from grafter.store import records
from grafter.store.model import Memory, Outcome, StoredPart
from grafter.store.records import facts_of
from grafter.store.redis.framing import END, LENGTH, word

FORMAT = 2
"""Of the whole: the number of buckets, the hash of a key, the names. A store of another one is not opened."""
VERSION = 1
"""Of each record."""
SHARED_VERSION = 2
"""Of a part whose envelope is stored apart: one that does not know of that leaves it alone."""
_VERSIONS = bytes((VERSION,)), bytes((VERSION + 1,))
"""Of heads: those of a backlog's batches have the second, by which a version that knows no backlogs leaves them."""
BUCKETS = 64
EPOCH = 1_798_761_600 * 1_000_000_000
"""2027-01-01T00:00:00Z."""

HEAD = Struct("<9B6I9dB8s")
"""A held key: version, facts, remembered, fresh, leased, given, batch, outcomes, queue; parts, host spans, guest
spans, guest parts, parts that the claim covers, parts that are pinned; bytes, first, last, seen, last arrival, moment
that was given, token, last arrival that the claim covers, last arrival that is pinned; the replica that began it; the
process that has the lease, or had it last. What an older version began ends before that."""
_OLDER_HEAD = HEAD.size - 8
_PLAIN_HEAD = Struct("<9xII16xd")
ITEM = Struct("<BBBIId")
"""A part on its way: bucket, kind, facts, spans, size, now; then its key."""
ELEMENT = Struct("<BBHIIIqq")
"""Before a part: version, facts or GUEST, length of what a later version says before the envelope, spans, length of its
envelope and of its head, arrival, now."""
GUEST_ELEMENT = Struct("<17sqq")
"""Before a guest part's facts: its guest's key, arrival, now."""
LINK = Struct("<BBdI")
"""A guest: version, whether its host is known, since which order (-1: by a memory), its parts that are held."""
MEMORY = Struct("<BBdH")
"""Before a memory: version, whether it names a host, since when, a number by which it is told from another of the same
moment; then the host and the blob."""
OLDER_MEMORY = Struct("<BBd")
"""As an older version began it, in a key of its own."""
MEMORIES = b"y"
"""The name of a bucket's memories (lua/memories.lua)."""

GUEST, SHARED = 0x80, 0x40
"""Among a part's facts, and the second among a key's: with SHARED the part's envelope is a reference, REFERENCE_BYTES
long, to a large one that is stored once."""
_CORE_FACTS = 0x1F
"""The facts of a key that are core.model.Facts."""
REFERENCE_BYTES = 17
"""The bucket of a large envelope, in a byte, and its digest."""
FIXED = b"fixed"
"""A hash, in the bucket of the dead letters: what was fixed at the first start of a prefix, and ``MOMENT``."""
MOMENT = "moment"
"""How late it was when a process last looked, in Unix nanoseconds."""

_LRANGE = b"*4\r\n$6\r\nLRANGE\r\n"
_FROM_FIRST = b"\r\n$1\r\n0\r\n"
WORDS = [word(bucket) for bucket in range(BUCKETS)]
"""The number of each bucket, as a word of a command."""


def bucket_of(key: bytes) -> int:
    """Where a key lies; the same for ever."""
    return crc32(key) % BUCKETS


def deferred_key(exporter: str) -> Key:
    """A new key for a batch of an exporter's backlog: of a length that no other key has, and with the name in it."""
    key = b"w" + os.urandom(8) + exporter.encode()
    return Key(key if len(key) not in (HOST_KEY_BYTES, GUEST_KEY_BYTES) else key + bytes(2))


def waits_for(key: bytes) -> str:
    """The exporter for which it waits, if it is such a key."""
    return "" if len(key) in (HOST_KEY_BYTES, GUEST_KEY_BYTES) else exporter_of(key[9:])


def lane(exporter: str) -> bytes:
    """The exporter as it stands in such keys."""
    return bytes(deferred_key(exporter)[9:])


def exporter_of(lane: bytes) -> str:
    """Its name again."""
    return lane.rstrip(b"\0").decode("utf-8", "replace")


def relative(at: int) -> int:
    """A time as Redis has it."""
    return at - EPOCH


def absolute(at: float) -> UnixNano:
    """A time of Redis as the contract has it."""
    return UnixNano(int(at) + EPOCH)


class Layout:
    """The names of one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = f"{prefix}:".encode()
        self.tags = [b"%s{g:%d}:" % (self.prefix, bucket) for bucket in range(BUCKETS)]
        """What the names of a bucket begin with."""
        self.totals = [word(tag + b"s") for tag in self.tags]
        """The totals of a bucket, as a word of a command."""
        self._name_of_parts = [tag + b"p:" for tag in self.tags]

    def name(self, kind: bytes, key: bytes) -> bytes:
        """The name of a record of a key."""
        return self.tags[bucket_of(key)] + kind + b":" + key

    def name_of(self, kind: bytes, key: bytes, what: bytes) -> bytes:
        """The name of something that keys of a bucket have in common."""
        return self.tags[bucket_of(key)] + kind + b":" + what

    def parts(self, bucket: int, key: bytes, count: int) -> bytes:
        """The command that reads the first parts of a key; ``count`` below 1 means all of them."""
        last = b"%d" % (count - 1 if count > 0 else -1)
        name = self._name_of_parts[bucket]
        return b"".join((_LRANGE, LENGTH[len(name) + len(key)], name, key, _FROM_FIRST, LENGTH[len(last)], last, END))


def digest(envelope: bytes) -> bytes:
    """By what a large envelope is known."""
    return blake2b(envelope, digest_size=REFERENCE_BYTES - 1).digest()


def reference_in(data: bytes) -> bytes:
    """Of a part as it is held: the reference to its large envelope; empty where its envelope is in it."""
    if not data[1] & SHARED or data[1] & GUEST:
        return b""
    begin = ELEMENT.size + ELEMENT.unpack_from(data)[2]
    return data[begin : begin + REFERENCE_BYTES]


def element(part: Part, arrival: int, now: int, head: bytes) -> bytes:
    """A guest's part as it is held."""
    return ELEMENT.pack(VERSION, GUEST, 0, part.spans, 0, len(head), arrival, now) + head + part.payload


class Reader:
    """Makes parts of elements; equal envelopes become one object, which makes grouping cheap."""

    def __init__(self) -> None:
        self._envelopes = EnvelopeCache()

    def part(self, data: bytes, large: Mapping[bytes, Envelope]) -> StoredPart:
        """``large``: the envelopes that are stored apart, by reference. Raises RecordError for what this version cannot
        read."""
        version, flags, more, spans, envelope, head, arrival, _ = ELEMENT.unpack_from(data)
        if version not in (VERSION, SHARED_VERSION):
            raise records.RecordError(f"a part has version {version}, expected {VERSION} or {SHARED_VERSION}")
        begin = ELEMENT.size + more
        middle = begin + envelope
        end = middle + head
        if flags & GUEST:
            guest = records.decode_guest(data[middle:end])
            return StoredPart(arrival, data[end:], spans, None, b"", guest)
        shared = large[data[begin:middle]] if flags & SHARED else self.envelope(data[begin:middle])
        facts = facts_of(flags & _CORE_FACTS)
        return StoredPart(arrival, data[end:], spans, shared, data[middle:end], None, facts)

    def envelope(self, blob: bytes) -> Envelope:
        """The envelope that these bytes are."""
        known = self._envelopes.get(blob)
        return self._envelopes.put(blob, records.decode_envelope(blob)) if known is None else known


def plain_head(raw: bytes) -> tuple[int, int, int]:
    """Of a held key without guests: its parts, its spans, their bytes."""
    parts, spans, size = _PLAIN_HEAD.unpack_from(raw)
    return parts, spans, int(size)


class Head:
    """What is known of a held key."""

    __slots__ = ("arrival", "covers", "facts", "fields", "guest_parts", "parts", "token", "up_to")

    def __init__(self, raw: bytes) -> None:
        """Raises RecordError for a newer version's."""
        # The version first; a later one that this one can read may have put more behind.
        if raw[:1] not in _VERSIONS or len(raw) < _OLDER_HEAD:
            raise records.RecordError(f"a held key has version {raw[0] if raw else None}, expected {VERSION}")
        self.fields = HEAD.unpack_from(raw.ljust(HEAD.size, b"\0"))
        self.facts = self.fields[1]
        self.parts, self.guest_parts, self.covers = self.fields[9], self.fields[12], self.fields[13]
        self.arrival = int(self.fields[19])
        self.token = int(self.fields[21])
        self.up_to = int(self.fields[22])

    @property
    def host_spans(self) -> int:
        return int(self.fields[10])

    @property
    def size(self) -> int:
        return int(self.fields[15])

    @property
    def pinned(self) -> int:
        """The parts of which an export was begun."""
        return int(self.fields[14])

    @property
    def plain(self) -> bool:
        """It stands among those about which nothing is left to decide."""
        return bool(self.fields[8] == 1)

    def state(self, guests: Mapping[str, GuestState]) -> TraceState:
        fields = self.fields
        return TraceState(
            absolute(fields[16]),
            absolute(fields[17]),
            fields[10],
            fields[11],
            int(fields[15]),
            facts_of(fields[1] & _CORE_FACTS),
            dict(guests),
            fields[2] == 1,
        )


def guest_states(elements: Sequence[bytes]) -> dict[str, GuestState]:
    """The totals of guest parts' facts, without what only the store knows of their links."""
    return guest_state((facts, now) for _, _, facts, now in map(decode_guest_element, elements))


def guest_element(own: Key, arrival: int, now: int, facts: bytes) -> bytes:
    return GUEST_ELEMENT.pack(own, arrival, now) + facts


def decode_guest_element(data: bytes) -> tuple[Key, int, GuestFacts, UnixNano]:
    """Guest's key, arrival, facts, now."""
    own, arrival, now = GUEST_ELEMENT.unpack_from(data)
    return Key(own), arrival, records.decode_guest(data[GUEST_ELEMENT.size :]), UnixNano(now + EPOCH)


def outcomes(flat: Sequence[bytes]) -> dict[str, Outcome]:
    """What a hash of outcomes says. Raises RecordError for an outcome that this version does not know."""
    try:
        return {flat[i].decode(): Outcome(flat[i + 1].decode()) for i in range(0, len(flat), 2)}
    except ValueError as error:
        raise records.RecordError(f"outcomes: {error}") from error


def link_host(raw: bytes | None) -> TraceId | None:
    """The host that a guest's link names."""
    if raw is None or raw[0] != VERSION or not raw[1]:
        return None
    return TraceId(raw[LINK.size : LINK.size + HOST_KEY_BYTES])


def decode_memory(key: Key, raw: bytes | None, now: int, remember: int, head: Struct = MEMORY) -> Memory | None:
    """The memory of a key, unless its time is over or a newer version wrote it."""
    if raw is None or raw[0] != VERSION:
        return None
    named, at = head.unpack_from(raw)[1:3]
    if int(at) + remember <= relative(now):
        return None
    begin = head.size + (HOST_KEY_BYTES if named else 0)
    return Memory(key, raw[begin:], Key(raw[head.size : begin]) if named else None)
