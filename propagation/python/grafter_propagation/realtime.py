"""Shows a Realtime call's events to grafter from inside the app, without ever being in the app's way.

    tap = RealtimeTap("http://localhost:4319", call="CA…")
    tap.server(event)        # each event that came from OpenAI
    tap.client(event)        # each event that the app sent
    tap.close()              # no more will come

A call of ``server`` or ``client`` takes microseconds: it notes the time, leaves the audio out and puts the rest into a
bounded queue. A thread of the tap's own posts what waits. When grafter is away the tap tries again and holds up to
``max_events`` and ``max_bytes``; then the oldest goes, audio first, and ``dropped`` says how much.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from grafter_propagation.context import trace_metadata
from grafter_propagation.post import Door
from grafter_propagation.realtime_events import Seen, plain, row, seconds, seen
from grafter_propagation.realtime_sdk import attached

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("grafter_propagation")

PATH: Final = "/v1/realtime/events"
BATCH_EVENTS: Final = 500
BATCH_BYTES: Final = 1024 * 1024
FIRST_WAIT: Final = 0.25
LONGEST_WAIT: Final = 10.0
AT_EXIT: Final = 2.0
"""Seconds that all taps together may hold up the end of the process."""

Thing = TypeVar("Thing")


class RealtimeTap:
    """One call's events on their way to grafter. Every method may be called from any thread and in any event loop, and
    none raises into the app, apart from the constructor for an endpoint or a token that is none.
    """

    def __init__(
        self,
        endpoint: str,
        call: str,
        *,
        metadata: Mapping[str, object] | None = None,
        token: str | None = None,
        interval: float = 0.5,
        timeout: float = 5.0,
        idle: float = 30.0,
        max_events: int = 10_000,
        max_bytes: int = 8 * 1024 * 1024,
    ) -> None:
        """``call``: any string that names the call. ``metadata``: what links it to the app's trace; the ids of the
        current OpenTelemetry span where it is None. ``interval``: seconds that an event may wait for others before it
        is posted. ``timeout``: of one post. ``idle``: seconds without an event after which the tap's thread ends, so
        that a call on hold costs none; the next event starts another.
        """
        self.call = str(call)
        self.sent = 0
        """Events that grafter has stored."""
        self.dropped = 0
        """Events that it will never have: the queue was full, it refused them, or they were no events."""
        self._door = Door(endpoint, PATH, token)
        self._metadata = plain(metadata) if metadata is not None else dict(trace_metadata())
        self._interval, self._timeout, self._idle = interval, timeout, idle
        self._max_events, self._max_bytes = max_events, max_bytes
        # A step of the wall clock in the middle of a call would put its events out of order.
        self._epoch = time.time_ns() - time.perf_counter_ns()
        self._set_up()
        _taps.add(self)

    def _set_up(self) -> None:
        self._lock = threading.Lock()
        self._events: deque[tuple[int, Seen]] = deque()
        self._audio: deque[tuple[int, Seen]] = deque()
        self._bytes = 0
        self._number = 0
        self._unsent_metadata = bool(self._metadata)
        self._item: str | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._until = float("inf")
        self._not_before = 0.0
        self._warned: set[str] = set()

    def server(self, event: object) -> None:
        """An event that came from OpenAI: text or bytes as read from the socket, a dict, or an object of the openai
        package."""
        self._take(event, "server")

    def client(self, event: object) -> None:
        """An event that the app sent, in any of the same forms."""
        self._take(event, "client")

    def link(self, metadata: Mapping[str, object] | None = None) -> None:
        """Say, now that it is known, what the call belongs to: this, or the current OpenTelemetry span."""
        try:
            found = plain(metadata) if metadata is not None else dict(trace_metadata())
            with self._lock:
                self._metadata, self._unsent_metadata = found, bool(found)
                if self._number and self._thread is None and not self._closing.is_set():
                    self._start()
        except Exception:  # noqa: BLE001  # the app's call goes on without its link
            self._warn("the Realtime tap cannot be linked", with_traceback=True)

    async def on_event(self, event: Any) -> None:
        """What makes the tap a listener of openai-agents: ``session.model.add_listener(tap)``."""
        if getattr(event, "type", None) == "raw_server_event":
            self._take(event.data, "server")

    def attach(self, to: Thing) -> Thing:
        """Listen to a session of a framework, before it connects; gives it back.

        openai-agents: a ``RealtimeSession`` or its model. LiveKit Agents: the openai plugin's ``RealtimeModel`` (every
        session that it makes) or one ``RealtimeSession``. Anything else is only logged.
        """
        try:
            if not attached(self, to):
                logger.warning("the Realtime tap does not know how to listen to a %s", type(to).__name__)
        except Exception:  # noqa: BLE001  # the app's call goes on without its trace
            self._warn(f"the Realtime tap could not listen to a {type(to).__name__}", with_traceback=True)
        return to

    @property
    def pending(self) -> int:
        """Events that wait to be posted, those of a post under way left out."""
        return len(self._events) + len(self._audio)

    def close(self, timeout: float = 5.0) -> None:
        """Post what waits and say that the call has ended. Back within about ``timeout`` seconds, come what may."""
        thread = self._finish(timeout)
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, timeout))

    async def aclose(self, timeout: float = 5.0) -> None:
        """``close`` that lets the event loop go on."""
        await asyncio.to_thread(self.close, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # In the caller's thread: no waiting, no I/O.

    def _now(self) -> int:
        return self._epoch + time.perf_counter_ns()

    def _take(self, event: object, side: str) -> None:
        at = self._now()
        try:
            one = seen(event, side, at)
        except Exception:  # noqa: BLE001  # an event of any shape may be shown
            one = None
        try:
            with self._lock:
                if one is None or self._closing.is_set():
                    self.dropped += 1
                    return
                self._put(one)
                if self._thread is None:
                    self._start()
            if self.pending >= BATCH_EVENTS:
                self._wake.set()
        except Exception:  # noqa: BLE001  # a thread that cannot be started must not end the app's call
            self._warn("the Realtime tap cannot work", with_traceback=True)

    def _put(self, one: Seen) -> None:
        self._number += 1
        # An item's first audio is what the caller waited for; only what follows it is worth less than other events.
        if one.audio_of is None or (one.audio_of and one.audio_of != self._item):
            self._events.append((self._number, one))
        else:
            self._audio.append((self._number, one))
        if one.audio_of:
            self._item = one.audio_of
        self._bytes += one.size
        while self._bytes > self._max_bytes or self.pending > self._max_events:
            _, gone = (self._audio or self._events).popleft()
            self._bytes -= gone.size
            self.dropped += 1

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="grafter-realtime-tap", daemon=True)
        self._thread.start()

    def _finish(self, timeout: float) -> threading.Thread | None:
        """Let the thread end within ``timeout``; the thread, where there is something to wait for."""
        try:
            with self._lock:
                if not self._closing.is_set():
                    self._until = time.monotonic() + timeout
                    self._closing.set()
                    # Where nothing was seen there is no call to end.
                    if self._thread is None and self._number:
                        self._start()
                self._wake.set()
                return self._thread
        except RuntimeError:  # no thread starts any more when the interpreter ends
            return None

    # In the tap's own thread.

    def _run(self) -> None:
        last = time.monotonic()
        try:
            while True:
                self._wake.wait(self._interval)
                self._wake.clear()
                closing = self._closing.is_set()
                while batch := self._batch():
                    last = time.monotonic()
                    self._deliver(batch)
                if closing:
                    self._post([], ended=True)
                    return
                if self._unsent_metadata:
                    self._post([])
                if time.monotonic() - last > self._idle and self._rest():
                    return
        except Exception:  # noqa: BLE001  # nobody else would say it
            self._warn("the Realtime tap has stopped", with_traceback=True)
        finally:
            self._door.close()

    def _rest(self) -> bool:
        """Whether the thread may end: the next event will find none and start another."""
        with self._lock:
            if self.pending or self._closing.is_set():
                return False
            self._thread = None
            return True

    def _batch(self) -> list[Seen]:
        """The oldest that wait, in the order in which they were shown."""
        batch: list[Seen] = []
        size = 0
        with self._lock:
            while (self._events or self._audio) and len(batch) < BATCH_EVENTS and size < BATCH_BYTES:
                audio = not self._events or (self._audio and self._audio[0][0] < self._events[0][0])
                _, one = (self._audio if audio else self._events).popleft()
                self._bytes -= one.size
                size += one.size
                batch.append(one)
        return batch

    def _deliver(self, batch: list[Seen]) -> None:
        rows: list[bytes] = []
        for one in batch:
            try:
                line = row(one)
            except Exception:  # noqa: BLE001  # one event that is none must not lose the others
                line = None
            if line is not None:
                rows.append(line)
        self._lose(len(batch) - len(rows))
        if rows:
            self._post(rows)

    def _post(self, rows: list[bytes], *, ended: bool = False) -> None:
        """Try until grafter has it, refuses it, or ``close`` has no more time."""
        wait = FIRST_WAIT
        while self._pause(self._not_before) and (left := self._until - time.monotonic()) > 0:
            metadata = self._metadata if self._unsent_metadata else None
            answer = self._door.post(self._body(rows, metadata, ended), min(self._timeout, max(left, 0.05)))
            if answer.stored:
                with self._lock:
                    self.sent += len(rows)
                    # Another may have been given meanwhile.
                    if metadata is self._metadata:
                        self._unsent_metadata = False
                self._warned.clear()
                return
            if not answer.again:
                self._warn(f"grafter refuses the events of a Realtime call: {answer.text}")
                if not rows:
                    self._unsent_metadata = False
                break
            self._warn(f"the events of a Realtime call wait for grafter: {answer.text}")
            # Of the door, not of this post: what is posted next has to wait as well.
            self._not_before = time.monotonic() + max(answer.after, wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, LONGEST_WAIT)
        self._lose(len(rows))

    def _body(self, rows: list[bytes], metadata: Mapping[str, object] | None, ended: bool) -> bytes:
        head: dict[str, object] = {"call": self.call}
        if metadata:
            head["metadata"] = metadata
        if ended:
            head["ended"] = True
        text = json.dumps(head, ensure_ascii=False).encode("utf-8", "replace")
        # The clock of the events, so that grafter can tell how far it is from its own.
        parts = [text[:-1], b',"sent_at":', seconds(self._now()).encode()]
        if rows:
            parts += [b',"events":[', b",".join(rows), b"]"]
        return b"".join([*parts, b"}"])

    def _pause(self, due: float) -> bool:
        """Wait until then, or until ``close``; False where that leaves no time to try again."""
        while (left := due - time.monotonic()) > 0:
            if due > self._until:
                return False
            if self._closing.is_set():
                time.sleep(left)
            else:
                self._closing.wait(left)
        return True

    def _lose(self, count: int) -> None:
        with self._lock:
            self.dropped += count

    def _warn(self, what: str, *, with_traceback: bool = False) -> None:
        """Each thing once, until grafter has taken something again."""
        if what not in self._warned and len(self._warned) < 20:
            self._warned.add(what)
            logger.warning("%s (call %s)", what, self.call, exc_info=with_traceback)

    def _after_fork(self) -> None:
        """What waits is the parent's to post."""
        self._door.forget()
        self._set_up()


_taps: weakref.WeakSet[RealtimeTap] = weakref.WeakSet()


def _in_child() -> None:
    for tap in list(_taps):
        tap._after_fork()


@atexit.register
def _at_exit() -> None:
    until = time.monotonic() + AT_EXIT
    for thread in [tap._finish(AT_EXIT) for tap in list(_taps)]:
        if thread is not None:
            thread.join(max(0.0, until - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
