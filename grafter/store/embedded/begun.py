"""Which keys the process is at work on, in a file that outlives it: by it the next start knows what an end came in.

A trace that ends the process while it is assembled or sent (memory, a bug in a library) would do so at each start.
So each claim is noted before its owner gets it, and struck off when it is given back. What is noted at a start was
begun and never finished: it is a *suspect*, with the number of ends that came while it was worked on. Suspects are
handed out apart from everything else, and ever fewer at a time, so that the one that does it is soon alone.

The notes are for a process that is killed, and are not forced to the disk: what a power cut takes of them is no loss.
"""

import os
import struct
from collections.abc import Collection
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from grafter.core.model import Key

_RUN = struct.Struct("<cBBI")
"""What is said, ends of the process, bytes of a key, and how many keys follow."""
_BEGIN, _END, _SUSPECT = b"+", b"-", b"="
_SHORTEST = 16
"""Bytes of a host's key; a guest's has more. Keys that have so many in the mean have so many each."""
_MOST_BYTES = 1 << 20
_TOGETHER = 64
"""Suspects of one end that are handed out at a time; those of more go alone."""


class Begun:
    """The notes of one directory; without one nothing outlives the process, and nothing is noted."""

    def __init__(self, directory: Path | None) -> None:
        """Raises OSError when the file cannot be opened."""
        self.open: set[Key] = set()
        """What was handed out and not given back."""
        self.suspects: dict[Key, int] = {}
        """What was open when a process ended, and how many did."""
        self._file = -1
        self._size = 0
        if directory is None:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(directory / "begun", flags, 0o600)
        self._read(os.pread(self._file, os.fstat(self._file).st_size, 0))
        for key in self.open:
            self.suspects[key] = self.suspects.get(key, 0) + 1
        self.open.clear()
        self._rewrite()

    def begin(self, keys: Collection[Key]) -> None:
        """These are handed out."""
        if self._file < 0:
            return
        self.open.update(keys)
        self._write(_BEGIN, 0, keys)

    def end(self, keys: Collection[Key]) -> None:
        """These were given back: whatever was done with them, the process lives."""
        if self._file < 0:
            return
        self.open.difference_update(keys)
        if self.suspects:
            for key in keys:
                self.suspects.pop(key, None)
        self._write(_END, 0, keys)

    def group(self, due: Collection[Key]) -> list[Key]:
        """Which of these suspects to hand out now, while nothing else is."""
        ends = min(self.suspects[key] for key in due)
        group = [key for key in due if self.suspects[key] == ends]
        return group[: _TOGETHER if ends == 1 else 1]

    def close(self) -> None:
        """At an end in order nothing that is open is to blame for it."""
        if self._file >= 0:
            self.open.clear()
            self._rewrite()
            os.close(self._file)
            self._file = -1

    def _rewrite(self) -> None:
        with suppress(OSError):
            os.ftruncate(self._file, 0)
        self._size = 0
        by_ends = sorted(self.suspects, key=lambda key: self.suspects[key])
        for ends, keys in groupby(by_ends, key=lambda key: self.suspects[key]):
            self._write(_SUSPECT, ends, list(keys))
        self._write(_BEGIN, 0, list(self.open))

    def _write(self, said: bytes, ends: int, keys: Collection[Key]) -> None:
        if not keys:
            return
        data = b"".join(keys)
        if len(data) == _SHORTEST * len(keys):
            data = _RUN.pack(said, min(ends, 255), _SHORTEST, len(keys)) + data
        else:
            data = b"".join([_RUN.pack(said, min(ends, 255), len(key), 1) + key for key in keys])
        # On a full disk a note is missing; nothing depends on it but whom the next start suspects.
        with suppress(OSError):
            self._size += os.pwrite(self._file, data, self._size)
        if self._size > _MOST_BYTES + (len(self.open) + len(self.suspects)) * 64:
            self._rewrite()

    def _read(self, data: bytes) -> None:
        """What was noted; what comes after something that is none is left out."""
        at = 0
        while at + _RUN.size <= len(data):
            said, ends, length, number = _RUN.unpack_from(data, at)
            at += _RUN.size
            if length == 0 or at + length * number > len(data):
                return
            keys = [Key(data[start : start + length]) for start in range(at, at + length * number, length)]
            at += length * number
            if said == _BEGIN:
                self.open.update(keys)
            elif said == _SUSPECT:
                self.suspects.update(dict.fromkeys(keys, ends))
            elif said == _END:
                self.open.difference_update(keys)
                for key in keys:
                    self.suspects.pop(key, None)
            else:
                return
