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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from time import perf_counter
from typing import Any, NoReturn, TypeVar

import uvloop

from grafter.tasks import beside

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

# grpc.aio makes reference cycles at each call: young collections must run, full ones over all that is held need not.
# Every so many of the middle ones is a full one: what is in flight at a middle one outlives it, and would stay garbage.
_YOUNG_SECONDS, _MIDDLE_EVERY, _FULL_EVERY = 1.0, 10, 90
# A flood makes some 200,000 objects a second that stay, and a collection walks all that are new since the last one,
# while nothing else runs: 0.7 s after ten seconds of that. So many are walked in some hundredths of a second.
_YOUNG_OBJECTS, _MIDDLE_OBJECTS = 50_000, 200_000
_COUNT_SECONDS = 0.05
# Large bodies are read, and large traces joined, beside the loop. While such a thread computes, the loop waits this
# long each time that it wakes, and an answer takes some ten wakes: of Python's own 5 ms each, that would be most of the
# answer to a webhook of 1,000 spans.
_SWITCH_SECONDS = 0.0005

# Source: malloc.h of glibc.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_MIB = 1 << 20
# What may lie idle at most, as a share of the memory that there is: a small container should get its pages back.
_IDLE_SHARE = 16


_STOPS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def nothing_to_stop() -> Iterator[None]:
    """SIGTERM and SIGINT end the process with 0, except inside ``stop_signals``: nothing has begun yet, or all is done.

    Without it the first process of a container, which it may be, would not hear of a SIGTERM.
    """
    before = [signal.signal(number, lambda *_: os._exit(0)) for number in _STOPS]
    try:
        yield
    finally:
        for number, handler in zip(_STOPS, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def stop_signals(at_once: Callable[[], None] = lambda: None, within: float | None = None) -> Iterator[asyncio.Event]:
    """The first SIGTERM or SIGINT sets the event; a second one ends the process at once, after ``at_once``. So does the
    first one when it has not ended ``within`` so many seconds."""
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
        if within is not None:
            end_by(within)
        stop.set()

    before = [signal.getsignal(number) for number in _STOPS]
    for number in _STOPS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield stop
    finally:
        for number, handler in zip(_STOPS, before, strict=True):
            loop.remove_signal_handler(number)
            # The loop would leave the defaults behind, and a signal that comes now make an orderly stop a death by it.
            signal.signal(number, handler)


@asynccontextmanager
async def started(context: AbstractAsyncContextManager[_T], stop: asyncio.Event) -> AsyncIterator[_T | None]:
    """Enter the context, which may have to wait long for somebody else; None where the event was set first."""
    async with AsyncExitStack() as stack:
        entered: _T | None = None
        try:
            async with asyncio.timeout(None) as patience:

                async def give_up() -> None:
                    await stop.wait()
                    patience.reschedule(asyncio.get_running_loop().time())

                async with beside(give_up(), "stop"):
                    entered = await stack.enter_async_context(context)
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


def run_to_end(main: Coroutine[Any, Any, int]) -> int:
    """Run it on a loop of its own; its exit code, or 1 and a line on stderr where it could not start."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    except (OSError, ValueError) as error:
        print(f"grafter: {failure_line(error)}", file=sys.stderr)
        return 1


@contextmanager
def taking_turns() -> Iterator[None]:
    """Let threads that compute give way to the loop often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Collections:
    """When to collect, and what."""

    def __init__(self, now: float) -> None:
        """``now``: seconds, of any clock that goes on steadily."""
        self._due_at = now + _YOUNG_SECONDS
        self._rounds = self._middle = 0
        self._grown = 0
        """Objects that went through a young collection since the last of another."""

    def due(self, now: float, new: int) -> int | None:
        """The generation to collect, which is done at once, with ``new`` objects since the last; None: nothing yet."""
        is_time = now >= self._due_at
        if not is_time and new < _YOUNG_OBJECTS:
            return None
        self._grown += new
        if is_time:
            self._due_at = now + _YOUNG_SECONDS
            self._rounds += 1
        generation = 1 if self._grown >= _MIDDLE_OBJECTS else 0
        if is_time and self._rounds % _MIDDLE_EVERY == 0:
            generation = 1
        if generation:
            self._grown = 0
            self._middle += 1
            generation = 1 if self._middle % _FULL_EVERY else 2
        return generation


@asynccontextmanager
async def collecting_garbage() -> AsyncIterator[None]:
    """Young collections on a timer, sooner where much is new, instead of by allocation count alone, which would walk
    all that is held at bad moments."""

    async def collect() -> None:
        rounds = Collections(perf_counter())
        while True:
            await asyncio.sleep(_COUNT_SECONDS)
            generation = rounds.due(perf_counter(), gc.get_count()[0])
            if generation is not None:
                gc.collect(generation)

    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        async with beside(collect(), "garbage"):
            yield
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
