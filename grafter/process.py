"""The edges of a process: the signals that stop it, the last moment of a stop, the one line of a start that failed."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


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


def end_by(seconds: float) -> None:
    """End the process in this time whatever still keeps it, such as a terminal that nobody reads."""

    def end() -> None:
        logger.error("the stop took longer than shutdown_timeout; ending, what is held stays in the store")
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def failure_line(error: OSError | ValueError) -> str:
    """One line for people, without the number that str() puts before an OSError."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror
    return " ".join(text.split())
