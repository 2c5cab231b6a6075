"""Memory past which the receivers refuse, so that the kernel never has to choose what dies.

The limit is a share of what the cgroup (v2, then v1) or the machine allows. Linux only; elsewhere nothing is limited.

What a process occupies does not fall with what it holds: the allocator keeps pages between those that are still used,
and fills them again. So what is occupied refuses nothing by itself. It refuses together with what is known to be held:
then taking more would make it grow. Where little is held, the allocator is asked to give back what it can, and input is
taken.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from grafter.consumer import Consumer
from grafter.core.model import DedupeKey, NamedLink, Part
from grafter.errors import UnavailableError
from grafter.logs import Throttle
from grafter.tasks import beside

logger = logging.getLogger(__name__)

_CHECK_SECONDS = 0.5
# How often the allocator is asked, and how often that is said.
_GIVE_BACK_SECONDS, _SAID_SECONDS = 1.0, 10.0
# By how much more than is known to be held the process may have grown: what is on its way out, and objects around it.
_SPREAD = 1.5
CGROUP_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a cgroup says its limit in bytes: v2, then v1."""
_STATM = Path("/proc/self/statm")


def total_memory(limit_files: Sequence[Path] = CGROUP_FILES, processes: int = 1) -> int | None:
    """Bytes that this process may use at most, one of so many: its share of the cgroup's limit, else of the machine's
    memory; less where that of its address space (``ulimit -v``), which each has for itself, leaves less. None if
    unknown.

    The first of the files that can be read decides; ``max`` in it, or more than the machine has, is no limit.
    """
    total = _given_memory(limit_files)
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if total is None:
        return None
    if space == resource.RLIM_INFINITY:
        return total // processes
    return max(0, min(total // processes, space - _unoccupied_bytes()))


def _given_memory(limit_files: Sequence[Path]) -> int | None:
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    for path in limit_files:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        return min(int(text), machine) if text.isdecimal() else machine
    return machine


def _unoccupied_bytes() -> int:
    """Of its address space what this process occupies no memory for."""
    size, resident = _STATM.read_bytes().split()[:2]
    return (int(size) - int(resident)) * os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """What this process occupies now."""
    return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Have the allocator (glibc's) give free pages back to the kernel."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class MemoryGuard(Consumer):
    """A Consumer in front of another: refuses while memory is short."""

    def __init__(
        self,
        consumer: Consumer,
        limit: int,
        held: Callable[[], int],
        resident: Callable[[], int] = resident_bytes,
        give_back: Callable[[], None] = give_back,
    ) -> None:
        """``held``: the bytes that are known to be in use, beside what the process needs to run; ``resident``: all that
        it occupies."""
        self._consumer = consumer
        self._limit = limit
        self._held = held
        self._resident = resident
        self._give_back = give_back
        self._idle: int | None = None
        """What was occupied before anything was held."""
        self._short = False
        self._unreadable = Throttle()
        self._giving_back, self._said = Throttle(_GIVE_BACK_SECONDS), Throttle(_SAID_SECONDS)

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        """As the consumer behind it, but for UnavailableError while more than the limit is in use."""
        if self._short:
            raise UnavailableError("memory limit reached", retry_after=2.0, reason="memory_limit")
        await self._consumer.consume(parts, dedupe_keys, links)

    def check(self) -> None:
        """Compare the memory in use now with the limit. What cannot be read changes nothing: it ends no process."""
        try:
            used = self._resident()
        except OSError as error:
            # Such as a process without a file descriptor left.
            if self._unreadable.due():
                logger.error("memory in use cannot be read: %s", error.strerror)
            return
        held = self._held()
        if self._idle is None:
            self._idle = max(0, used - held)
        over = used > self._limit
        short = over and self._idle + int(_SPREAD * held) > self._limit
        if short != self._short:
            self._short = short
            if short:
                logger.error(
                    "memory limit reached: %d of %d bytes, %d of them held; refusing input", used, self._limit, held
                )
            else:
                logger.info("memory is below its limit again: %d of %d bytes, %d of them held", used, self._limit, held)
        if not over or short or not self._giving_back.due():
            return
        self._give_back()
        if self._said.due():
            logger.warning(
                "%d bytes are occupied, the limit is %d, and only %d are held: the rest is the allocator's, which was "
                "asked to give it back; input is taken",
                used,
                self._limit,
                held,
            )


@asynccontextmanager
async def guarding(
    consumer: Consumer,
    limit: int,
    held: Callable[[], int],
    resident: Callable[[], int] = resident_bytes,
    check_seconds: float = _CHECK_SECONDS,
) -> AsyncIterator[MemoryGuard]:
    """A guard that checks by itself every ``check_seconds``; ``limit`` in bytes, the rest as it has them."""
    guard = MemoryGuard(consumer, limit, held, resident)

    async def watch() -> None:
        while True:
            guard.check()
            await asyncio.sleep(check_seconds)

    async with beside(watch(), "memory.guard"):
        yield guard
