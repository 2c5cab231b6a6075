"""What a process sets for itself, and its edges: the signals that stop it, the last moment of a stop, the one line of
a start that failed.
"""

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import NoReturn, TypeVar

from grafter.tasks import task_group

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# grpc.aio makes reference cycles at each call: young collections must run, full ones over all that is held need not.
_YOUNG_SECONDS, _MIDDLE_EVERY, _FULL_EVERY = 1.0, 10, 900
# Large bodies are read, and large traces joined, beside the loop. While such a thread computes, the loop waits this
# long each time that it wakes, and an answer takes some ten wakes: of Python's own 5 ms each, that would be most of the
# answer to a webhook of 1,000 spans.
_SWITCH_SECONDS = 0.0005

# Source: malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_MIB = 1 << 20
# What may lie idle at most, as a share of the memory that there is: a small container should get its pages back.
_IDLE_SHARE = 16


@contextmanager
def stop_signals(at_once: Callable[[], None] = lambda: None) -> Iterator[asyncio.Event]:
    """The first SIGTERM or SIGINT sets the event; a second one ends the process at once, after ``at_once``."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            logger.warning("%s again: ending at once; what is held stays in the store", number.name)
            at_once()
            logging.shutdown()
            # Nothing is lost by this: whatever was acknowledged is in the store, as after a kill -9.
            os._exit(1)
        logger.info("%s: stopping", number.name)
        stop.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def started(context: AbstractAsyncContextManager[_T], stop: asyncio.Event) -> AsyncIterator[_T | None]:
    """Enter the context, which may have to wait long for somebody else; None where the event was set first."""
    async with AsyncExitStack() as stack:
        entered: _T | None = None
        try:
            async with asyncio.timeout(None) as patience, task_group() as tasks:

                async def give_up() -> None:
                    await stop.wait()
                    patience.reschedule(asyncio.get_running_loop().time())

                waiting = tasks.create_task(give_up(), name="stop")
                try:
                    entered = await stack.enter_async_context(context)
                finally:
                    waiting.cancel()
        except TimeoutError:
            if not stop.is_set():
                raise
        yield entered


def end_by(seconds: float) -> None:
    """End the process in this time whatever still keeps it, such as a terminal that nobody reads."""

    def end() -> None:
        logger.error("the stop took longer than shutdown_timeout; ending, what is held stays in the store")
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def leave(code: int) -> NoReturn:
    """End the process after all of it was closed: the interpreter would walk through all memory first, which takes
    seconds on a busy machine, and nobody could end it in time any more, for no thread runs then."""
    with suppress(OSError, ValueError):
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def failure_line(error: OSError | ValueError) -> str:
    """One line for people, without the number that str() puts before an OSError."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror
    return " ".join(text.split())


@contextmanager
def taking_turns() -> Iterator[None]:
    """Let threads that compute give way to the loop often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@asynccontextmanager
async def collecting_garbage() -> AsyncIterator[None]:
    """Young collections on a timer instead of by allocation count, which would walk all that is held at bad moments."""

    async def collect() -> None:
        rounds = 0
        while True:
            await asyncio.sleep(_YOUNG_SECONDS)
            rounds += 1
            gc.collect(2 if rounds % _FULL_EVERY == 0 else 1 if rounds % _MIDDLE_EVERY == 0 else 0)

    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        async with task_group() as tasks:
            collecting = tasks.create_task(collect(), name="garbage")
            try:
                yield
            finally:
                collecting.cancel()
    finally:
        gc.enable()
        gc.unfreeze()


def tune_allocator(total: int | None) -> None:
    """Keep some free pages instead of giving them back at once; ``total``: bytes of memory that there are, if known.

    Requests of a megabyte come and go thousands of times a second, and each page that the kernel has to hand out again
    costs about a microsecond. Measured at 8192 spans a request: 176 page faults a thousand spans without this, 104 with
    it, and a fifth less CPU time. glibc only; elsewhere nothing is done.

    Whoever set the allocator's own environment variables knows better, and is left alone.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    idle = min(64 * _MIB, (total or 1 << 40) // _IDLE_SHARE)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_TRIM_THRESHOLD, idle)
    mallopt(_TOP_PAD, idle // 4)
    mallopt(_MMAP_THRESHOLD, idle // 2)
    # One thread does nearly all of the allocating; memory that another arena holds is lost to it.
    mallopt(_ARENA_MAX, 1)
