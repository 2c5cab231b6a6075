"""Room on the disk that only what leaves may use.

To release a trace something is written first (an intent, a memory, a settlement), and room comes back only when a whole
segment is settled; of small traces what is written is more than what they held. On a disk that is entirely full nothing
could ever leave again. So room is set aside: for each trace that is held, for one segment that has to be copied before
it can be given up, and for what SQLite needs. No part is taken for which it cannot be had. It is one file of that size,
given up piece by piece while the disk is full, and what of it was given up before a kill is not asked for again by a
start.
"""

import contextlib
import errno
import logging
import os
from pathlib import Path

_LOG = logging.getLogger(__name__)

# What SQLite and the records on their way may need at a time.
_LEAST_BYTES = 16 << 20
# Of a small disk, that much of it is enough: it must not be what fills it.
_LEAST_SHARE = 6
# A key in an intent, in an outcome and in a settlement, and its memory: 25 bytes each, and up to 170.
_TRACE_BYTES = 256
_STEP_BYTES = 1 << 20
_SEGMENTS = 32
"""Segments that a small disk should have room for; they are given up one by one."""
_LEAST_SEGMENT = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
# A link of this name would have another file truncated in its place.
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def fitting(segment_bytes: int, directory: Path) -> int:
    """The size of a segment, smaller where the disk is small."""
    found = os.statvfs(directory)
    return min(segment_bytes, max(_LEAST_SEGMENT, found.f_blocks * found.f_frsize // _SEGMENTS))


class Reserve:
    """See the module's docstring. Methods never raise for a full disk."""

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        self._path = directory / "reserve"
        found = os.statvfs(directory)
        self._least = segment_bytes + min(_LEAST_BYTES, found.f_blocks * found.f_frsize // _LEAST_SHARE)
        self.last = (segment_bytes + self._least) // 2
        """Of it, what the copying of a segment needs, and what is written meanwhile: without that no room would come
        back from a log full of records of attempts."""
        self._works = True
        self.bytes = 0
        """What is set aside."""
        with contextlib.suppress(OSError):
            self.bytes = os.stat(self._path, follow_symlinks=False).st_size

    def covers(self, traces: int) -> bool:
        """Set aside what so many held traces need; False where the disk does not have it."""
        wanted = self._wanted(traces)
        if self.bytes >= wanted or not self._works:
            return True
        self._resize(wanted + _STEP_BYTES)
        return self.bytes >= wanted or not self._works

    def is_made_again(self, traces: int) -> bool:
        """The same, with as much to spare as nobody's trace needs: so that parts are not taken for a moment only."""
        wanted = self._wanted(traces)
        if self.room < wanted + self._least:
            return False
        # It may be more than that, of traces that have left since.
        self._resize(wanted)
        return self.bytes >= wanted or not self._works

    def give_up(self) -> bool:
        """Free a piece of it; False when there is none left."""
        if not self.bytes:
            return False
        self._resize(max(0, self.bytes - max(_STEP_BYTES, self.bytes // 8)))
        return True

    def gives_way(self) -> bool:
        """The same where the disk is full; False where it is not, or nothing is left."""
        return self._free() < _STEP_BYTES and self.give_up()

    def refill(self) -> None:
        """Have the last of it again, or as much of that as the disk has."""
        size = min(self.last, self.bytes + self._free())
        if size > self.bytes and self._works:
            self._resize(size)

    @property
    def room(self) -> int:
        """Bytes that what leaves may still use, set aside or not."""
        return self.bytes + self._free()

    def trim(self, traces: int) -> None:
        """Give back what is twice too much."""
        wanted = self._wanted(traces)
        if self.bytes > 2 * wanted:
            self._resize(wanted)

    def _wanted(self, traces: int) -> int:
        return self._least + _TRACE_BYTES * traces

    def _resize(self, size: int) -> None:
        try:
            file = os.open(self._path, _OPEN, 0o600)
        except OSError as error:
            self._failed(error)
            return
        try:
            if size <= self.bytes:
                os.ftruncate(file, size)
            else:
                os.posix_fallocate(file, self.bytes, size - self.bytes)
            self.bytes = size
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(file, self.bytes)
            self._failed(error)
        finally:
            os.close(file)

    def _failed(self, error: OSError) -> None:
        """A disk that is not full and cannot set room aside: then there is none, and parts are taken without it."""
        if error.errno not in _FULL and self._works:
            self._works = False
            _LOG.warning("no room can be set aside for what leaves when the disk is full: %s", error.strerror)

    def _free(self) -> int:
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize
