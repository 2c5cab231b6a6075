"""Space on the disk that only draining may use.

Releasing a trace writes a few bytes itself (an intent, a memory, a settlement), and only settled traces give space
back. On a disk that is entirely full nothing could ever leave again, so a file keeps some space for this: it is given
up when the disk is full, the doors stay shut, and they open when it can be had again with as much to spare.
"""

import contextlib
import os
from pathlib import Path

_SIZE = 16 << 20
# On a small disk the reserve must not be what fills it.
_SHARE = 20


class Reserve:
    """One file of a fixed size, there or not. Methods never raise for a full disk."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "reserve"
        self._size = min(_SIZE, self._free() // _SHARE)
        self.held = False
        """The space is kept; False: it was given up, or could not be had."""
        self.take(spare=0)

    def take(self, spare: int | None = None) -> bool:
        """Keep the space, if that leaves ``spare`` bytes (None: as much again) on the disk."""
        if self.held:
            return True
        if self._free() < self._size + (self._size if spare is None else spare):
            return False
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            if self._size:
                os.posix_fallocate(file, 0, self._size)
            self.held = True
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)
        finally:
            os.close(file)
        return self.held

    def give_up(self) -> bool:
        """Free the space; False when there was none."""
        if not self.held:
            return False
        self.held = False
        with contextlib.suppress(OSError):
            os.truncate(self._path, 0)
        return True

    def _free(self) -> int:
        try:
            found = os.statvfs(self._path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize
