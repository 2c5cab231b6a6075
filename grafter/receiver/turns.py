"""Whose request is worked on next, of all doors together: before it is read, in a fair order, or a refusal at once.

One process computes one request at a time. What is begun beyond that makes every answer wait for all of it, and what
waits unseen, in sockets and in libraries, waits without a bound. So a request begins in its *turn*: so many have theirs
at once as are answered within ``TARGET_SECONDS``, which is found out by watching them. The others wait unread, for at
most ``WAIT_SECONDS``; of a connection of which more wait already than would be served by then, one more is refused
without waiting.

Order: by what a connection had already, in bytes, as in start-time fair queueing. Who sends little goes before who
floods, however many connections a flood has; connections that are new or were idle begin where the others stand.
Source: P. Goyal, H. Vin, H. Cheng, "Start-time Fair Queueing", 1996.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable
from heapq import heappop, heappush

from grafter.errors import UnavailableError

TARGET_SECONDS = 0.25
"""How long a request may take from its turn to its answer, when as many have theirs as may."""
WAIT_SECONDS = 0.4
"""How long one waits for its turn before it is refused."""

# Fewer never have their turn at once: a store that is slow by its nature takes more in one write, not less.
_FEWEST, _MOST = 16, 1024
# By how much their number falls when an answer took too long, once in TARGET_SECONDS.
_CUT = 0.7
# A large request is as much work as several.
_UNIT_BYTES = 1 << 20
# What a request costs beside its bytes; and what one is taken for whose connection was never heard of.
_REQUEST_BYTES, _UNKNOWN_BYTES = 16 << 10, 64 << 10
_MOST_CONNECTIONS = 4096
# A library hands requests over one by one, each over a few rounds of the loop and through a thread of its own: while
# the loop computes they gather unseen. So after some work the loop is left alone until nothing came for _QUIET_SECONDS,
# and what has come is refused or put into the order. Where that finds few, the next look comes after twice as much
# work: while nothing is amiss it costs a fiftieth, and that only while requests come faster than they are answered.
_WORK_SECONDS, _MOST_WORK_SECONDS = 0.02, 0.16
_QUIET_SECONDS, _LOOK_SECONDS = 0.003, 0.03
_FEW = 16


class Turns:
    """Hands out turns on one event loop."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, worked: Callable[[], float] = time.thread_time
    ) -> None:
        """``clock``: steady, in seconds; ``worked``: what the loop has computed, in seconds."""
        self._clock = clock
        self._worked = worked
        self._busy = 0.0
        self._limit = float(_FEWEST)
        self._cut_at = 0.0
        self._waiting: dict[Hashable, deque[_Waiter]] = {}
        self._heads: list[tuple[float, int, Hashable]] = []
        """The tag of each connection that waits; ties in order of coming. Some are of connections that do no more."""
        self._entered: dict[Hashable, int] = {}
        """By which number each is among them."""
        self._number = 0
        self._virtual = 0.0
        """Where the connections stand, in bytes: the tag of the request that had its turn last."""
        self._had: dict[Hashable, tuple[float, int]] = {}
        """Where a connection will stand with its next request, and how large its last one was."""
        self._gap = 0.0
        """Seconds from turn to turn, while requests wait."""
        self._given_at = 0.0
        self._handing_out = False
        self._work = _WORK_SECONDS
        self._look_at = math.inf
        """After how much work to look next; set by the first turn after a look."""
        self._looking = False
        self._look_began = 0.0
        self._seen = self._new = 0

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return sum(map(len, self._waiting.values()))

    def is_free(self, more: int = 0) -> bool:
        """A request that came now, after ``more`` others, would not wait."""
        return not self._waiting and self._busy + more < self._limit and not self._is_to_look()

    def arrived(self) -> None:
        """A request has come, whatever becomes of it."""
        self._new += 1

    def begin(self, connection: Hashable) -> "Turn":
        """A turn at once, of a request that is read already."""
        start = self._tag(connection)
        self._charge(connection, start)
        return self._given(connection)

    async def wait(self, connection: Hashable) -> "Turn":
        """A turn, as soon as it is there. Raises UnavailableError when it will not be in time."""
        self.arrived()
        if self.is_free():
            return self.begin(connection)
        queue = self._waiting.get(connection)
        if queue is not None and len(queue) >= self._most_of_one():
            raise _overload()
        waiter = _Waiter(asyncio.get_running_loop().create_future())
        if queue is None:
            self._waiting[connection] = deque((waiter,))
            self._enter(connection)
        else:
            queue.append(waiter)
        self._hand_out()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(WAIT_SECONDS, self._expire, connection, waiter)
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                waiter.turn.result().end()
            self._drop(connection, waiter)
            raise
        finally:
            timer.cancel()

    # What a turn says of itself.

    def enter(self, units: float) -> None:
        """So much is worked on, or with a negative number no longer."""
        self._busy += units
        if units < 0:
            self._hand_out()

    def weigh(self, connection: Hashable, size: int) -> None:
        """A request turned out to be so large."""
        at, taken_for = self._had.get(connection, (self._virtual, size))
        self._had[connection] = (at + size - taken_for, size)

    def took(self, seconds: float) -> None:
        """A request was answered so long after its turn had begun."""
        if seconds > TARGET_SECONDS:
            now = self._clock()
            if now - self._cut_at > TARGET_SECONDS:
                self._cut_at = now
                self._limit = max(_FEWEST, self._limit * _CUT)
        elif self._busy > self._limit / 2:
            # As long as answers come quickly it may double with each of them; near the target it feels its way.
            self._limit = min(_MOST, self._limit + (1 if seconds < TARGET_SECONDS / 4 else 1 / self._limit))

    # The order.

    def _tag(self, connection: Hashable) -> float:
        had = self._had.get(connection)
        return self._virtual if had is None else max(self._virtual, had[0])

    def _charge(self, connection: Hashable, start: float) -> None:
        """A request of this connection has its turn; it is taken for as large as the last one until it is read."""
        self._virtual = start
        had = self._had.get(connection)
        size = _UNKNOWN_BYTES if had is None else had[1]
        self._had[connection] = (start + _REQUEST_BYTES + size, size)
        if len(self._had) > _MOST_CONNECTIONS:
            # They stand where a new one does.
            self._had = {name: had for name, had in self._had.items() if had[0] > start}

    def _enter(self, connection: Hashable) -> None:
        self._number += 1
        self._entered[connection] = self._number
        heappush(self._heads, (self._tag(connection), self._number, connection))

    def _next_of(self, connection: Hashable) -> None:
        """Its first is gone."""
        if self._waiting[connection]:
            self._enter(connection)
        else:
            del self._waiting[connection], self._entered[connection]

    def _most_of_one(self) -> int:
        """How many of one connection may wait: those that have their turn in time."""
        return max(1, int(WAIT_SECONDS / max(self._gap, 1e-6) / len(self._waiting)))

    def _hand_out(self) -> None:
        if self._waiting and not self._handing_out and not self._looking:
            self._handing_out = True
            asyncio.get_running_loop().call_soon(self._round)

    def _round(self) -> None:
        """One turn, when those that have come by now were all looked at."""
        self._handing_out = False
        if not self._waiting or self._busy >= self._limit:
            return
        if self._is_to_look():
            self._look()
            return
        now = self._clock()
        while self._heads:
            start, number, connection = heappop(self._heads)
            if self._entered.get(connection) != number:
                continue
            waiter = self._waiting[connection].popleft()
            if waiter.turn.done():
                # Its sender has gone this moment.
                self._next_of(connection)
                continue
            self._charge(connection, start)
            self._next_of(connection)
            if self._given_at:
                self._gap += (min(now - self._given_at, WAIT_SECONDS) - self._gap) / 8
            self._given_at = now if self._waiting else 0.0
            waiter.turn.set_result(self._given(connection))
            break
        self._hand_out()

    def _given(self, connection: Hashable) -> "Turn":
        if self._look_at == math.inf:
            self._look_at = self._worked() + self._work
        return Turn(self, connection)

    def _is_to_look(self) -> bool:
        return self._looking or self._worked() >= self._look_at

    def _look(self) -> None:
        """Leave the loop alone until everything that has come was seen, and hand out after that."""
        if not self._looking:
            self._looking = True
            self._look_began = self._clock()
            self._seen = self._new = 0
        asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._looked)

    def _looked(self) -> None:
        new, self._new = self._new, 0
        self._seen += new
        if new and self._clock() - self._look_began < _LOOK_SECONDS:
            self._look()
            return
        few = self._seen + self.waiting <= _FEW
        self._work = min(self._work * 2, _MOST_WORK_SECONDS) if few else _WORK_SECONDS
        self._look_at, self._looking = math.inf, False
        self._hand_out()

    def _expire(self, connection: Hashable, waiter: "_Waiter") -> None:
        if self._drop(connection, waiter):
            waiter.turn.set_exception(_overload())

    def _drop(self, connection: Hashable, waiter: "_Waiter") -> bool:
        """It waits no longer. False: it did not wait any more."""
        queue = self._waiting.get(connection)
        if queue is None or waiter not in queue:
            return False
        queue.remove(waiter)
        if not queue:
            del self._waiting[connection], self._entered[connection]
        return True


class _Waiter:
    """A request that waits for its turn."""

    __slots__ = ("turn",)

    def __init__(self, turn: "asyncio.Future[Turn]") -> None:
        self.turn = turn


class Turn:
    """What a request has while it is worked on."""

    __slots__ = ("_began", "_connection", "_turns", "_units")

    def __init__(self, turns: Turns, connection: Hashable) -> None:
        self._turns = turns
        self._connection = connection
        self._units = 1.0
        self._began = turns._clock()
        turns.enter(1.0)

    def weigh(self, size: int) -> None:
        """It has so many bytes."""
        self._turns.weigh(self._connection, size)
        units = 1.0 + size // _UNIT_BYTES
        if self._units and units != self._units:
            self._turns.enter(units - self._units)
            self._units = units

    def end(self, *, answered: bool = False) -> None:
        """Somebody else may have it; said more than once it counts once. ``answered``: how long it took counts."""
        if self._units:
            if answered:
                self._turns.took(self._turns._clock() - self._began)
            self._turns.enter(-self._units)
            self._units = 0.0


def _overload() -> UnavailableError:
    return UnavailableError("more comes than can be taken; this was not read", reason="overload")
