"""Whether the machine ended while a process was at work: by it the next start knows that what was not synced is gone.

A process that is killed leaves what it has written to the kernel, and that is all there at the next start. A power cut
takes what was not brought to the disk yet: also what says of a trace that it has left. So the file names the boot in
which a process works, and is told when one ends in order.

Linux only: elsewhere no boot has a name, and nothing is known.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

_LOG = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ENDED = "ended"


def boot_id() -> str:
    """The name of this boot of the machine; empty where it has none."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


class BootMark:
    """The file of one directory."""

    def __init__(self, directory: Path | None, boot: str | None = None) -> None:
        """``boot``: the name of this boot; None: the machine's own."""
        self._directory = directory
        self._boot = boot_id() if boot is None else boot
        self.cut_off = False
        """The machine ended while a process was at work here, and since then nobody has seen to what follows."""
        if directory is None:
            return
        with suppress(OSError, ValueError):
            last = (directory / "boot").read_text("ascii").strip()
            self.cut_off = bool(self._boot) and last not in ("", _ENDED, self._boot)

    def begin(self, *, lasting: bool) -> None:
        """What there was to see to is done. Unless ``lasting``, something may be written that is not on the disk."""
        if self._boot and (self.cut_off or not lasting):
            self._write(_ENDED if lasting else self._boot)
        self.cut_off = False

    def end(self) -> None:
        """All of it is on the disk, and nothing more is written. What is not seen to by then is left for the next."""
        if not self.cut_off:
            self._write(_ENDED)

    def _write(self, text: str) -> None:
        if self._directory is None:
            return
        path = self._directory / "boot"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                # In place: on a full disk there is no room for another file, and what is cut off is no name of a boot.
                os.pwrite(fd, f"{text:<40}\n".encode("ascii"), 0)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            _LOG.warning("after a power cut it will not be known that there was one: %s: %s", path, error.strerror)
