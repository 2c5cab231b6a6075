"""The bytes of a segment file: the header, the frame of a record, and how both are found in a file that is damaged."""

import os
from struct import Struct

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
# A read that runs over a gap this wide costs no more than a second system call.
_WINDOW = 1 << 20
# How many places are tried for the first record of a segment whose header is lost.
_MOST_MARKS = 64


def _crc_step(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0xEDB88320 if byte & 1 else 0)
    return byte


_CRC_TABLE = [_crc_step(byte) for byte in range(256)]
_BY_TOP = {value >> 24: byte for byte, value in enumerate(_CRC_TABLE)}
"""Which entry has which highest byte: each has another."""


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


def next_mark(window: Window, at: int, end: int, salt: int) -> int:
    """Where the next record starts, or the end."""
    while at < end:
        block = bytes(window.view(at, min(_WINDOW, end - at)))
        found = block.find(MARK)
        while found >= 0:
            if parse(window, at + found, end, salt) is not None:
                return at + found
            found = block.find(MARK, found + 1)
        # A mark may lie across two blocks.
        at = at + len(block) - len(MARK) + 1 if at + len(block) < end else end
    return end


def salt_of(fd: int, size: int) -> int | None:
    """The salt of a segment whose header is lost; None where its records do not tell it.

    A record's own header says which salt it was written with. The first one stands where it stands; anything further
    on may be inside of what somebody sent, and is believed only where records follow from there to the very end.
    """
    window = Window(fd, size)
    at = START
    ended: dict[int, int] = {}
    """Up to where records of a salt followed. One further on in such a row follows no further, and whoever sends a row
    of tens of thousands must not have it read from each of them."""
    for _ in range(_MOST_MARKS):
        if at + HEADER_BYTES > size:
            return None
        head = bytes(window.view(at, HEADER_BYTES))
        if head[:4] == MARK:
            salt = _started_from(CRC.unpack_from(head, RECORD.size)[0], head[: RECORD.size])
            if at >= ended.get(salt, 0):
                ended[salt] = _followed(window, at, size, salt)
                if ended[salt] == size or (at == START < ended[salt]):
                    return salt
        found = -1
        while found < 0:
            at += 1
            if at + HEADER_BYTES > size:
                return None
            block = bytes(window.view(at, min(_WINDOW, size - at)))
            found = block.find(MARK)
            at += found if found >= 0 else max(0, len(block) - len(MARK))
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
