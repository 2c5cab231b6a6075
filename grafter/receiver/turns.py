"""Whose request is worked on next, of all receivers together: before it is read, in a fair order, or a refusal at once.

One process computes one request at a time. What is begun beyond that makes every answer wait for all of it, and what
waits unseen, in sockets and in libraries, waits without a bound. So a request begins in its *turn*: so many have theirs
at once as are answered within ``TARGET_SECONDS``, which is found out by watching them. The others wait unread, for
``WAIT_SECONDS``, and a little longer where their turn is near; of a connection of which more wait already than would be
served by then, one more is refused without waiting.

Order: by what a connection has had with its next request, in bytes, as in self-clocked fair queueing. Who sends little
goes before who floods, however many connections a flood has; connections that are new or were idle begin where the
others stand. Source: S. J. Golestani, "A Self-Clocked Fair Queueing Scheme for Broadband Applications", 1994.
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
WAIT_SECONDS = 0.3
"""How long one waits for its turn before it is refused."""
_AGAIN_SECONDS = 0.05

# Fewer never have their turn at once: a store that is slow by its nature takes more in one write, not less. Unless the
# loop is what is slow, by requests of which each computes for long: then its timers are late.
_FEWEST, _FEWEST_LATE, _MOST = 16, 2, 1024
_BEAT_SECONDS, _LATE_BEAT_SECONDS = 0.02, 0.01
# By how much their number falls when an answer took too long, once in TARGET_SECONDS.
_CUT = 0.7
# A large request is as much work as several.
_UNIT_BYTES = 1 << 20
# Of those that have their turn a small one is computed before large ones that were there before it, so much earlier a
# byte; spans of a few bytes, of traces of their own, take a tenth of this.
_BYTE_SECONDS = 1e-6
# What a request costs beside its bytes; and what one is taken for whose connection was never heard of.
_REQUEST_BYTES, _UNKNOWN_BYTES = 16 << 10, 64 << 10
_MOST_CONNECTIONS = 4096
# A library hands requests over one by one, each over some seven rounds of the loop and through a thread of its own:
# while the loop computes they gather unseen. So after some work the loop is left alone, by requests that have their
# turn too, until nothing came for _QUIET_SECONDS (twice that after a look that found many, for the library's threads
# may be short of processors), and what has come is refused or put into the order. Where that finds few, the next look
# comes after twice as much work: while nothing is amiss it costs a fiftieth, and that only while requests come faster
# than they are answered. What the loop computes meanwhile (what was written is applied) is no quiet; a look ends after
# _LOOK_SECONDS without that, or _MOST_LOOK_SECONDS in all.
_WORK_SECONDS, _MOST_WORK_SECONDS = 0.02, 0.16
_QUIET_SECONDS, _LATE_SECONDS = 0.002, 0.005
_LOOK_SECONDS, _MOST_LOOK_SECONDS = 0.02, 0.1
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
        self._beating = False
        self._beat_at = self._late = 0.0
        """When the next beat is due, and how late they were lately, in seconds."""
        self._waiting: dict[Hashable, deque[_Waiter]] = {}
        self.waiting = 0
        """How many wait now."""
        self._heads: list[tuple[float, int, Hashable]] = []
        """The tag of each connection that waits; ties in order of coming. Some are of connections that do no more."""
        self._entered: dict[Hashable, int] = {}
        """By which number each is among them."""
        self._number = 0
        self._virtual = 0.0
        """Where the connections stand, in bytes: the tag of the request that had its turn last."""
        self._had: dict[Hashable, tuple[float, int]] = {}
        """Where a connection stands with its last request, and how large that was."""
        self._gap = 0.0
        """Seconds from turn to turn, while requests wait."""
        self._given_at = 0.0
        self._handing_out = False
        self._work = _WORK_SECONDS
        self._look_at = math.inf
        """After how much work to look next; set by the first turn after a look."""
        self._no_look_until = math.inf
        """By the clock; no sooner so much work can be done."""
        self._looking = False
        self._look_began = self._asked_at = self._idle = 0.0
        self._quiet = 0
        """How often in this look nothing came, one after the other."""
        self._gate: list[tuple[float, int, asyncio.Future[None]]] = []
        """Requests that have their turn, are read, and wait until they may be computed, in this order."""
        self._refused = self._new = 0

    def is_free(self, more: int = 0) -> bool:
        """A request that came now, after ``more`` others, would not wait."""
        return not self._waiting and self._busy + more < self._limit and not self._is_to_look()

    def arrived(self) -> None:
        """A request has come, whatever becomes of it."""
        self._new += 1

    def begin(self, connection: Hashable) -> "Turn":
        """A turn at once, of a request that is read already."""
        self._charge(connection, self._tag(connection))
        return self._given(connection)

    async def wait(self, connection: Hashable) -> "Turn":
        """A turn, as soon as it is there. Raises UnavailableError when it will not be in time."""
        self.arrived()
        if self.is_free():
            return self.begin(connection)
        queue = self._waiting.get(connection)
        if queue is not None and len(queue) >= self._most_of_one():
            self._refused += 1
            raise _overload()
        waiter = _Waiter(asyncio.get_running_loop().create_future())
        if queue is None:
            self._waiting[connection] = deque((waiter,))
            self._enter(connection)
        else:
            queue.append(waiter)
        self.waiting += 1
        self._hand_out()
        self._await(connection, waiter, WAIT_SECONDS)
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                waiter.turn.result().end()
            self._drop(connection, waiter)
            raise
        finally:
            if waiter.timer is not None:
                waiter.timer.cancel()

    # What a turn says of itself.

    async def compute(self, size: int) -> None:
        """Return when a request of so many bytes may be computed: when what has come meanwhile was seen."""
        if not self._gate and not self._is_to_look():
            self._count_work()
            return
        passed = asyncio.get_running_loop().create_future()
        self._number += 1
        place = self._clock() + min(size * _BYTE_SECONDS, TARGET_SECONDS)
        heappush(self._gate, (place, self._number, passed))
        self._hand_out()
        await passed

    def enter(self, units: float) -> None:
        """So much is worked on, or with a negative number no longer."""
        self._busy += units
        if units < 0:
            self._hand_out()
        elif not self._beating:
            self._beating = True
            self._beat()

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
                fewest = _FEWEST if self._late < _LATE_BEAT_SECONDS else _FEWEST_LATE
                self._limit = max(fewest, self._limit * _CUT)
        elif self._busy > self._limit / 2:
            # As long as answers come quickly it may double with each of them; near the target it feels its way.
            self._limit = min(_MOST, self._limit + (1 if seconds < TARGET_SECONDS / 4 else 1 / self._limit))

    def _beat(self) -> None:
        """While anything is worked on: how late the loop comes to what is due."""
        now = self._clock()
        if self._beat_at:
            self._late += (max(0.0, now - self._beat_at) - self._late) / 8
        self._beating = self._busy > 0
        self._beat_at = now + _BEAT_SECONDS if self._beating else 0.0
        if self._beating:
            asyncio.get_running_loop().call_later(_BEAT_SECONDS, self._beat)

    # The order.

    def _tag(self, connection: Hashable) -> float:
        """Where a connection will stand with its next request, which is taken for as large as the last one was."""
        at, size = self._had.get(connection, (0.0, _UNKNOWN_BYTES))
        return max(self._virtual, at) + _REQUEST_BYTES + size

    def _charge(self, connection: Hashable, tag: float) -> None:
        """A request of this connection has its turn."""
        self._virtual = tag
        _, size = self._had.get(connection, (0.0, _UNKNOWN_BYTES))
        self._had[connection] = (tag, size)
        if len(self._had) > _MOST_CONNECTIONS:
            # They stand where a new one does.
            self._had = {name: had for name, had in self._had.items() if had[0] >= tag}

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
        if (self._waiting or self._gate) and not self._handing_out and not self._looking:
            self._handing_out = True
            asyncio.get_running_loop().call_soon(self._round)

    def _round(self) -> None:
        """One more turn, and one more that is computed, when those that have come by now were all looked at."""
        self._handing_out = False
        may_begin = self._waiting and self._busy < self._limit
        if not self._gate and not may_begin:
            return
        if self._is_to_look():
            self._look()
            return
        if may_begin:
            self._begin_one()
        self._pass_one()
        self._hand_out()

    def _pass_one(self) -> None:
        """Whoever is first at the gate, those left out that have gone."""
        while self._gate:
            _, _, passed = heappop(self._gate)
            if not passed.done():
                passed.set_result(None)
                self._count_work()
                return

    def _begin_one(self) -> None:
        now = self._clock()
        while self._heads:
            tag, number, connection = heappop(self._heads)
            if self._entered.get(connection) != number:
                continue
            waiter = self._waiting[connection].popleft()
            self.waiting -= 1
            if waiter.turn.done():
                # Its sender has gone this moment.
                self._next_of(connection)
                continue
            self._charge(connection, tag)
            self._next_of(connection)
            if self._given_at:
                self._gap += (min(now - self._given_at, WAIT_SECONDS) - self._gap) / 8
            self._given_at = now if self._waiting else 0.0
            waiter.turn.set_result(self._given(connection))
            return

    def _given(self, connection: Hashable) -> "Turn":
        self._count_work()
        return Turn(self, connection)

    def _count_work(self) -> None:
        """From the first that is begun after a look."""
        if self._look_at == math.inf:
            self._look_at = self._worked() + self._work
            self._no_look_until = self._clock() + self._work

    def _is_to_look(self) -> bool:
        if self._looking:
            return True
        now = self._clock()
        if now < self._no_look_until:
            return False
        # So much work takes at least as long; the system's own count of it is the dearer clock by far.
        left = self._look_at - self._worked()
        self._no_look_until = now + left
        return left <= 0

    def _look(self) -> None:
        """Leave the loop alone until everything that has come was seen, and hand out after that."""
        self._asked_at = self._clock()
        if not self._looking:
            self._looking = True
            self._look_began = self._asked_at
            self._refused = self._new = 0
            self._idle, self._quiet = 0.0, 0
        asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._looked)

    def _looked(self) -> None:
        new, self._new = self._new, 0
        now = self._clock()
        took = now - self._asked_at
        self._idle += min(took, _LATE_SECONDS)
        self._quiet = self._quiet + 1 if not new and took < _LATE_SECONDS else 0
        enough = 2 if self._work == _WORK_SECONDS else 1
        if self._quiet < enough and self._idle < _LOOK_SECONDS and now - self._look_began < _MOST_LOOK_SECONDS:
            self._look()
            return
        few = self._refused + self.waiting <= _FEW
        self._work = min(self._work * 2, _MOST_WORK_SECONDS) if few else _WORK_SECONDS
        self._look_at = self._no_look_until = math.inf
        self._looking = False
        self._hand_out()

    def _await(self, connection: Hashable, waiter: "_Waiter", seconds: float) -> None:
        waiter.timer = asyncio.get_running_loop().call_later(seconds, self._expire, connection, waiter)

    def _expire(self, connection: Hashable, waiter: "_Waiter") -> None:
        if self.waiting <= self._limit - self._busy:
            # It has its turn in a moment: the process stood still, or a look is not over.
            self._await(connection, waiter, _AGAIN_SECONDS)
        elif self._drop(connection, waiter):
            waiter.turn.set_exception(_overload())

    def _drop(self, connection: Hashable, waiter: "_Waiter") -> bool:
        """It waits no longer. False: it did not wait any more."""
        queue = self._waiting.get(connection)
        if queue is None or waiter not in queue:
            return False
        queue.remove(waiter)
        self.waiting -= 1
        if not queue:
            del self._waiting[connection], self._entered[connection]
        return True


class _Waiter:
    """A request that waits for its turn."""

    __slots__ = ("timer", "turn")

    def __init__(self, turn: "asyncio.Future[Turn]") -> None:
        self.turn = turn
        self.timer: asyncio.TimerHandle | None = None


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

    async def compute(self, size: int) -> None:
        """Return when its ``size`` bytes may be computed."""
        await self._turns.compute(size)

    def end(self, *, answered: bool = False) -> None:
        """Somebody else may have it; said more than once it counts once. ``answered``: how long it took counts."""
        if self._units:
            if answered:
                self._turns.took(self._turns._clock() - self._began)
            self._turns.enter(-self._units)
            self._units = 0.0


def _overload() -> UnavailableError:
    return UnavailableError("more comes than can be taken; this was not read", reason="overload")
