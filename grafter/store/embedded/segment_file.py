"""One segment file: its header, the frame of a record, and how both are found in a file that is damaged."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from isal import isal_zlib

from grafter.store.model import StoreError

_LOG = logging.getLogger(__name__)

FORMAT = 1
# No version will ever write so high a one: it is damage.
_NO_FORMAT = 1000
MAGIC = b"graftlog"
# Above all arrival numbers that a store of which no other segment can be read may have given.
_UNKNOWN = 1 << 61

SEGMENT = Struct("<8sHHIQQQ")
"""magic, format, 0, number, arrival, salt, where the segment before it ends (OPEN: not known)."""
CRC = Struct("<I")
START = SEGMENT.size + CRC.size
OPEN = 2**64 - 1
MARK = b"\xf7rec"
RECORD = Struct("<4sBBHII")
"""mark, type, version, 0, length and checksum of the body."""
HEADER_BYTES = RECORD.size + CRC.size
# IOV_MAX is 1024 on Linux.
_VECTORS = 1000
# A read that runs over a gap this wide costs no more than a second system call.
_WINDOW = 1 << 20
# How many places are tried for the first record of a segment whose header is lost.
_MOST_MARKS = 64

# What the library's CRC does with one byte, without what it does before and after all of them.
_CRC_TABLE = [isal_zlib.crc32(bytes([byte]), 0xFFFFFFFF) ^ 0xFFFFFFFF for byte in range(256)]
_BY_TOP = {value >> 24: byte for byte, value in enumerate(_CRC_TABLE)}
"""Which entry has which highest byte: each has another."""


class Record(NamedTuple):
    """A record that a scan found: where its body starts, and the body (valid until the next step of the scan)."""

    offset: int
    type: int
    version: int
    body: memoryview


@dataclass(slots=True)
class Segment:
    """One file."""

    number: int
    path: Path
    fd: int
    salt: int
    size: int
    """Bytes up to the end of the last good record."""
    arrival: int
    """An arrival number from which, and within 2**40 of which, all of its records are numbered."""
    ended: bool = False
    """Its writer said where it ends, so that whatever is unreadable before that was once good."""
    damaged: bool = False
    """Its header is; the file is kept when the segment is given up."""
    readers: int = 0
    gone: bool = False


@dataclass(slots=True)
class Damage:
    """What a scan could not read."""

    records: int = 0
    """Runs of bytes that once were records and are lost."""
    bytes: int = 0
    torn: int = 0
    """Bytes of the last, unfinished write; they were never acknowledged."""


class Window:
    """Reads a file forwards in large steps."""

    def __init__(self, fd: int, end: int) -> None:
        self._fd = fd
        self._end = end
        self._start = 0
        self._data = memoryview(b"")

    def view(self, offset: int, length: int) -> memoryview:
        at = offset - self._start
        if at < 0 or at + length > len(self._data):
            self._data = memoryview(os.pread(self._fd, min(max(length, _WINDOW), self._end - offset), offset))
            self._start, at = offset, 0
        return self._data[at : at + length]


def parse(window: Window, at: int, end: int, salt: int) -> tuple[int, int, int, int] | None:
    """Type, version, length and checksum of the record at ``at``; None when no whole record can start there."""
    if end - at < HEADER_BYTES:
        return None
    head = window.view(at, HEADER_BYTES)
    if len(head) < HEADER_BYTES or head[:4] != MARK:
        return None
    if CRC.unpack_from(head, RECORD.size)[0] != isal_zlib.crc32(head[: RECORD.size], salt):
        return None
    _, kind, version, _, length, crc = RECORD.unpack_from(head)
    return (kind, version, length, crc) if at + HEADER_BYTES + length <= end else None


def next_record(window: Window, at: int, end: int, salt: int) -> int:
    """Where the next record starts, or the end."""
    return next((found for found in _marks(window, at, end) if parse(window, found, end, salt) is not None), end)


def _marks(window: Window, at: int, end: int) -> Iterator[int]:
    """Where from there on a record may start."""
    while at < end:
        block = bytes(window.view(at, min(_WINDOW, end - at)))
        found = block.find(MARK)
        while found >= 0:
            yield at + found
            found = block.find(MARK, found + 1)
        # A mark may lie across two blocks.
        at = at + len(block) - len(MARK) + 1 if at + len(block) < end else end


def salt_of(fd: int, size: int) -> int | None:
    """The salt of a segment whose header is lost; None where its records do not tell it.

    A record's own header says which salt it was written with. The first one stands where it stands; anything further
    on may be inside of what somebody sent, and is believed only where records follow from there to the very end.
    """
    window = Window(fd, size)
    ended: dict[int, int] = {}
    """Up to where records of a salt followed. One further on in such a row follows no further, and whoever sends a row
    of tens of thousands must not have it read from each of them."""
    for at in islice(_marks(window, START, size), _MOST_MARKS):
        if at + HEADER_BYTES > size:
            break
        head = bytes(window.view(at, HEADER_BYTES))
        salt = _started_from(CRC.unpack_from(head, RECORD.size)[0], head[: RECORD.size])
        if at >= ended.get(salt, 0):
            ended[salt] = _followed(window, at, size, salt)
            if ended[salt] == size or (at == START < ended[salt]):
                return salt
    return None


def _followed(window: Window, at: int, end: int, salt: int) -> int:
    """Up to where good records follow from there; of the first of all it is enough that it is good."""
    first = at == START
    while at < end:
        head = parse(window, at, end, salt)
        if head is None:
            break
        _, _, length, crc = head
        if isal_zlib.crc32(window.view(at + HEADER_BYTES, length)) != crc:
            break
        at += HEADER_BYTES + length
        if first:
            break
    return at


def _started_from(crc: int, data: bytes) -> int:
    """The value that ``crc32(data, value)`` began with to come to ``crc``: the same steps, backwards."""
    state = crc ^ 0xFFFFFFFF
    for byte in reversed(data):
        entry = _BY_TOP[state >> 24]
        state = (((state ^ _CRC_TABLE[entry]) << 8) & 0xFFFFFFFF) | (entry ^ byte)
    return state ^ 0xFFFFFFFF


def open_segment(number: int, path: Path, before: Segment | None) -> Segment | None:
    """A segment of an earlier process, or None when its header says nothing."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        raw = os.pread(fd, START, 0)
        size = os.fstat(fd).st_size
        # The magic and the format are read first: another format may have another header.
        if len(raw) >= 10 and raw[:8] == MAGIC and FORMAT < (found := int.from_bytes(raw[8:10], "little")) < _NO_FORMAT:
            raise StoreError(
                f"the store in {path.parent} was written by a newer grafter (log format {found}, this one reads "
                f"{FORMAT}): run that version, or give this one another directory"
            )
        if len(raw) < START or CRC.unpack_from(raw, SEGMENT.size)[0] != isal_zlib.crc32(raw[: SEGMENT.size]):
            if size <= START:
                # A process died while it began the segment: nothing in it was ever acknowledged.
                path.unlink()
            elif (salt := salt_of(fd, size)) is not None:
                _LOG.error("%s has a damaged header; its records are read all the same", path.name)
                # It may be the first of the process after the one that wrote the segment before.
                arrival = _UNKNOWN if before is None else ((before.arrival >> 40) + 2) << 40
                return Segment(number, path, fd, salt, size, arrival, damaged=True)
            else:
                _LOG.error("%s has a damaged header; its %d bytes are left where they are, unread", path.name, size)
            os.close(fd)
            return None
    except BaseException:
        os.close(fd)
        raise
    _, _, _, _, arrival, salt, previous_end = SEGMENT.unpack_from(raw)
    if before is not None and previous_end != OPEN:
        before.ended = True
        before.size = min(before.size, previous_end)
    return Segment(number, path, fd, salt, size, arrival)


def write_all(fd: int, buffers: list[bytes], offset: int) -> None:
    for start in range(0, len(buffers), _VECTORS):
        some = buffers[start : start + _VECTORS]
        length = sum(map(len, some))
        written = os.pwritev(fd, some, offset)
        if written < length:
            # A signal or a full disk ended it early; the rest goes by hand so that the reason shows.
            rest = memoryview(b"".join(some))
            while written < length:
                written += os.pwrite(fd, rest[written:], offset + written)
        offset += length
