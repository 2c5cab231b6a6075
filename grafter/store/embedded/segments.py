"""An append-only log in a directory of segment files: framing, checksums, rotation, the scan after a crash.

One thread writes, any thread reads. A segment is a header and then records; a record is a header with its own
checksum, and a body with another, so that a damaged body costs one record and a damaged header the way to the next
one. The checksum of a record's header is seeded with the segment's own random salt: bytes inside a payload that look
like a record are not believed when the scan has to search for one.

What ``write`` returned for is in the file. What it raised for is not: the file is cut back, and where even that
fails the next segment's header says where this one ends.
"""

import contextlib
import errno
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isal import isal_zlib

from grafter.store.embedded.segment_file import (
    CRC,
    FORMAT,
    HEADER_BYTES,
    MAGIC,
    MARK,
    OPEN,
    RECORD,
    SEGMENT,
    START,
    Damage,
    Record,
    Segment,
    Window,
    next_record,
    open_segment,
    parse,
    write_all,
)
from grafter.store.records import Place

_LOG = logging.getLogger(__name__)

_NAME = re.compile(r"segment-(\d{8,})\.log")
_LARGE = 1024

# A segment is given up whole, and never the current one; on a full disk even this much is worth another.
_WORTH_ROTATING = 64 << 10


@dataclass(slots=True)
class SegmentLog:
    """The segments of one directory. ``write`` and ``sync`` raise OSError."""

    directory: Path
    segment_bytes: int
    segments: dict[int, Segment] = field(default_factory=dict)
    """Readable segments by number, ascending."""
    arrival: int = 0
    """Written into the header of the next segment."""
    newest: int = 0
    """The number of the segment that was begun last; what is not older may still be written to."""
    disk_bytes: int = 0
    """Bytes of all readable segments."""
    _current: Segment | None = None
    _previous_end: int = OPEN
    _dirty: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def opened(cls, directory: Path, segment_bytes: int) -> "SegmentLog":
        """Read the headers that are there; records are read by ``scan``. Nothing is written before ``write``.

        Raises StoreError for a newer format.
        """
        log = cls(directory, segment_bytes)
        try:
            named = [(_NAME.fullmatch(path.name), path) for path in directory.iterdir()]
            for number, path in sorted((int(name[1]), path) for name, path in named if name):
                log.newest = number
                segment = open_segment(number, path, log.segments.get(number - 1))
                if segment is not None:
                    log.segments[number] = segment
                    log.disk_bytes += segment.size
                    log.arrival = max(log.arrival, segment.arrival)
        except BaseException:
            log.close()
            raise
        # No segment holds 2**40 records, so this is above every number that was ever given.
        log.arrival = ((log.arrival >> 40) + 2) << 40
        return log

    def write(self, records: Sequence[tuple[int, int, Sequence[bytes]]]) -> list[Place]:
        """Append records (type, version, buffers of the body), all or none; the segment and offset of each body."""
        segment = self._current
        if segment is None or segment.size >= self.segment_bytes:
            segment = self._begin()
        buffers: list[bytes] = []
        places = []
        at = segment.size
        for kind, version, body in records:
            crc = 0
            length = sum(map(len, body))
            # One by one, large buffers need no copy; joined, small ones need no call each.
            if length < len(body) * _LARGE:
                body = [b"".join(body)]
            for buffer in body:
                crc = isal_zlib.crc32(buffer, crc)
            head = RECORD.pack(MARK, kind, version, 0, length, crc)
            buffers.append(head + CRC.pack(isal_zlib.crc32(head, segment.salt)))
            buffers += body
            places.append((segment.number, at + HEADER_BYTES))
            at += HEADER_BYTES + length
        try:
            write_all(segment.fd, buffers, segment.size)
        except (OSError, MemoryError):
            self._cut(segment)
            raise
        with self._lock:
            self._dirty.add(segment.number)
            self.disk_bytes += at - segment.size
        segment.size = at
        return places

    def rotate(self) -> int | None:
        """Begin another segment if the current one holds something worth giving up; its number. Raises OSError."""
        if self._current is None or self._current.size < _WORTH_ROTATING:
            return None
        return self._begin().number

    def sync(self) -> None:
        """Bring to the disk what was written; a segment whose sync failed is not written to again."""
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        for number in sorted(dirty):
            segment = self.segments.get(number)
            if segment is None or segment.gone:
                continue
            try:
                os.fdatasync(segment.fd)
            except OSError:
                if segment.gone:
                    continue
                if self._current is segment:
                    self._seal()
                raise

    def take_back(self, places: Sequence[Place]) -> None:
        """Cut the last write off again, because its sync failed."""
        number, offset = places[0]
        segment = self.segments[number]
        with self._lock:
            self.disk_bytes -= segment.size - (offset - HEADER_BYTES)
        segment.size = offset - HEADER_BYTES
        self._cut(segment)
        self._seal()

    @staticmethod
    def read(segment: Segment, offset: int, length: int) -> bytes:
        """Bytes of a segment; raises OSError when they are not there."""
        data = os.pread(segment.fd, length, offset)
        while len(data) < length:
            more = os.pread(segment.fd, length - len(data), offset + len(data))
            if not more:
                raise OSError(errno.EIO, f"segment {segment.number} ends before {offset + length}")
            data += more
        return data

    def scan(self, segment: Segment, damage: Damage) -> Iterator[Record]:
        """Every good record of a segment that this process does not write, in order; what is bad goes to ``damage``.

        A file that ends in an unfinished write is cut after its last good record. Raises OSError.
        """
        end = segment.size
        window = Window(segment.fd, end)
        at = good = START
        lost: list[int] = []
        while at < end:
            head = parse(window, at, end, segment.salt)
            if head is not None:
                kind, version, length, crc = head
                body = window.view(at + HEADER_BYTES, length)
                following = at + HEADER_BYTES + length
                if isal_zlib.crc32(body) == crc:
                    damage.records += len(lost)
                    damage.bytes += sum(lost)
                    lost.clear()
                    good = following
                    yield Record(at + HEADER_BYTES, kind, version, body)
                else:
                    lost.append(following - at)
            else:
                following = next_record(window, at + 1, end, segment.salt)
                lost.append(following - at)
            at = following
        if not lost or segment.ended:
            damage.records += len(lost)
            damage.bytes += sum(lost)
        else:
            damage.torn += end - good
            os.ftruncate(segment.fd, good)
            with self._lock:
                self.disk_bytes -= end - good
            segment.size = good
        segment.ended = True

    def discard(self, number: int) -> None:
        """Take a segment out of the log and its file out of the directory; reads that were begun still finish."""
        segment = self.segments.pop(number)
        segment.gone = True
        with self._lock:
            self.disk_bytes -= segment.size
        with contextlib.suppress(FileNotFoundError):
            # Where the directory was replaced, what has the file's name may be another process's.
            if os.path.samestat(os.stat(segment.path, follow_symlinks=False), os.fstat(segment.fd)):
                if segment.damaged:
                    with contextlib.suppress(OSError):
                        segment.path.rename(f"{segment.path}.damaged")
                segment.path.unlink()
        self.released(segment)

    def released(self, segment: Segment) -> None:
        """Close a discarded segment when nobody reads it any more."""
        with self._lock:
            if segment.gone and segment.readers == 0 and segment.fd >= 0:
                os.close(segment.fd)
                segment.fd = -1

    def close(self) -> None:
        for segment in self.segments.values():
            if segment.fd >= 0:
                os.close(segment.fd)
                segment.fd = -1

    def _begin(self) -> Segment:
        number = self.newest + 1
        path = self.directory / f"segment-{number:08d}.log"
        salt = int.from_bytes(os.urandom(4), "little")
        previous = self._previous_end
        if self._current is not None:
            previous = self._current.size
            self._current.ended = True
        head = SEGMENT.pack(MAGIC, FORMAT, 0, number, self.arrival, salt, previous)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, [head + CRC.pack(isal_zlib.crc32(head))], 0)
            _sync_directory(self.directory)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self.newest = number
        self._previous_end = OPEN
        self._current = self.segments[number] = Segment(number, path, fd, salt, START, self.arrival)
        with self._lock:
            self.disk_bytes += START
        return self._current

    def _cut(self, segment: Segment) -> None:
        try:
            os.ftruncate(segment.fd, segment.size)
        except OSError as error:
            _LOG.warning("a failed write could not be cut off, so a new segment is begun: %s", error.strerror)
            self._seal()

    def _seal(self) -> None:
        if self._current is not None:
            self._previous_end = self._current.size
            self._current = None


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
