"""What came back from the writer's thread, applied in its order, a slice at a time.

A group of large requests takes some hundredths of a second to apply. In between the loop takes in what has come to the
doors meanwhile, of which a library needs several rounds for each request.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable

_SLICE_SECONDS = 0.004

Step = Callable[[], None]


class Slices:
    """Steps that are taken on one loop, one after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._steps: deque[Step] = deque()
        self._is_due = False

    def add(self, steps: Iterable[Step]) -> None:
        """Take these after all that were added before: at once, as far as a slice goes, the rest soon."""
        self._steps.extend(steps)
        if not self._is_due:
            self._take()

    def finish(self) -> None:
        """Take all that is left, now."""
        while self._steps:
            self._take()

    def _take(self) -> None:
        self._is_due = True
        until = time.perf_counter() + _SLICE_SECONDS
        try:
            while self._steps:
                self._steps.popleft()()
                if time.perf_counter() >= until:
                    break
        finally:
            # A step that fails holds up none behind it.
            self._is_due = bool(self._steps)
            if self._steps:
                self._loop.call_soon(self._take)
