"""Sends what the OpenAI Agents SDK traces to grafter, and lets no restart of grafter cost any of it.

    grafter_propagation.instrument("http://localhost:4319")

The SDK's own exporter tries a batch three times in about three seconds and then forgets it. This one keeps what it has
in a bounded queue until grafter has stored it. It never holds up the app: each call puts an object into the queue, and
a thread does the rest. It also gives every trace that names none the ids of the app's current OpenTelemetry span.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from grafter_propagation.context import trace_metadata
from grafter_propagation.post import Door, bearer

logger = logging.getLogger("grafter_propagation")

PATH: Final = "/v1/traces/ingest"
LINKS: Final = ("traceparent", "trace_id")
"""Where one of these is in a trace's metadata, the app has said itself where the trace belongs."""
BATCH_ITEMS: Final = 100
BATCH_BYTES: Final = 1024 * 1024
LARGEST_ITEM: Final = 16 * 1024 * 1024
IDLE: Final = 30.0
"""Seconds without an item after which the thread ends; the next item starts another."""
FIRST_WAIT: Final = 0.25
LONGEST_WAIT: Final = 10.0
FULL: Final = "the queue of traces for grafter is full: the oldest are dropped"
AT_EXIT: Final = 5.0
"""Seconds that the queue may hold up the end of the process, as long as the SDK's own shutdown."""


def instrument(
    endpoint: str,
    *,
    replace: bool = False,
    token: str | None = None,
    link: Callable[[], Mapping[str, object]] | None = trace_metadata,
    **settings: Any,
) -> AgentsProcessor:
    """Let the Agents SDK of this process send its traces to the grafter at ``endpoint``; once, at the app's start.

    ``replace=False`` adds to the processors that are there: the SDK goes on sending to OpenAI, and this is a copy.
    ``replace=True`` takes their place: nothing goes to OpenAI from here. ``link`` gives the ids for a trace whose
    metadata has none; None adds nothing. The other arguments are those of ``AgentsProcessor``.

    Called again, the earlier processor stops and the new one goes on. Raises ImportError without openai-agents, and
    ValueError for an endpoint or a token that is none.
    """
    from agents.tracing import add_trace_processor, set_trace_processors

    processor = AgentsProcessor(endpoint, token=token, link=link, **settings)
    for earlier in _instrumented:
        earlier.shutdown()
    _instrumented[:] = [processor]
    if replace:
        set_trace_processors([processor])  # type: ignore[list-item]
    else:
        add_trace_processor(processor)  # type: ignore[arg-type]
    # After the SDK's own, so that it runs before it: an OpenAI that does not answer may use up the SDK's time.
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)
    return processor


@dataclass(frozen=True)
class _Row:
    """An item as it stands in a post."""

    body: bytes
    key: str | None
    """The key of the item's own trace, which then opens the door in place of the token."""


class AgentsProcessor:
    """A trace processor of the Agents SDK. Every method may be called from any thread, and none raises into the app,
    apart from the constructor for an endpoint or a token that is none.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        link: Callable[[], Mapping[str, object]] | None = trace_metadata,
        interval: float = 1.0,
        timeout: float = 10.0,
        max_items: int = 20_000,
        max_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        """``token``: one of ``receivers.openai.ingest.tokens``, or your OpenAI key where a tee sends each batch under
        its own. ``headers``: of every post. ``interval``: seconds that an item may wait for others. ``timeout``: of
        one post. ``max_items`` and ``max_bytes``: of the queue; then the oldest spans go, and traces last, for a
        trace's item holds the link.
        """
        self.sent = 0
        """Items that grafter has stored."""
        self.dropped = 0
        """Items that it will never have: the queue was full, it refused them, or the process ended."""
        self._door = Door(endpoint, PATH, token, {"OpenAI-Beta": "traces=v1", **(headers or {})})
        self._link = link
        self._interval, self._timeout = interval, timeout
        self._max_items, self._max_bytes = max_items, max_bytes
        self._set_up()
        _processors.add(self)

    def _set_up(self) -> None:
        self._lock = threading.Lock()
        self._fresh: deque[Any] = deque()
        self._traces: deque[_Row] = deque()
        self._spans: deque[_Row] = deque()
        self._bytes = 0
        self._flying = 0
        self._failures = 0
        self._quiet = threading.Condition(self._lock)
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._until = float("inf")
        self._not_before = 0.0
        self._delayed_until = 0.0
        self._wait = FIRST_WAIT
        self._warned: set[str] = set()

    # What the SDK calls, in the app's own threads: no waiting, no I/O.

    def on_trace_start(self, trace: Any) -> None:
        """Give the trace its link, where it has none, and send it."""
        try:
            metadata = trace.metadata
            if self._link is not None and not any(key in (metadata or ()) for key in LINKS):
                found = self._link()
                if found:
                    # A dict of its own: an app may give one and the same to every run.
                    trace.metadata = {**(metadata or {}), **found}
        except Exception:  # noqa: BLE001  # a trace without its link is still a trace
            self._warn("a trace could not be linked", with_traceback=True)
        self._take(trace)

    def on_trace_end(self, trace: Any) -> None:
        """Nothing: the trace went out at its start."""

    def on_span_start(self, span: Any) -> None:
        """Nothing: a span goes out at its end."""

    def on_span_end(self, span: Any) -> None:
        """Send the span."""
        self._take(span)

    def force_flush(self, timeout: float = AT_EXIT) -> None:
        """Post what waits. Back when grafter has it, when it could not be given now, or after ``timeout`` seconds; what
        then waits goes on waiting: a job that flushes at its end is not held up by a grafter that is away."""
        until = time.monotonic() + timeout
        with self._lock:
            failures = self._failures
            self._not_before = self._delayed_until
            self._wake.set()
            while self._waiting() and self._thread is not None and failures == self._failures:
                left = until - time.monotonic()
                if left <= 0:
                    return
                self._quiet.wait(left)

    def shutdown(self, timeout: float | None = AT_EXIT) -> None:
        """Post what waits and take nothing more. Back within about ``timeout`` seconds, come what may."""
        limit = AT_EXIT if timeout is None else max(0.0, timeout)
        try:
            with self._lock:
                if not self._closed:
                    self._closed = True
                    self._until = time.monotonic() + limit
                    # What grafter asks for is kept to; one's own patience ends here.
                    self._not_before = self._delayed_until
                    if self._thread is None and self._waiting():
                        self._start()
                self._wake.set()
                thread = self._thread
        except RuntimeError:  # no thread starts any more when the interpreter ends
            return
        if thread is not None and thread is not threading.current_thread():
            thread.join(limit)

    @property
    def pending(self) -> int:
        """Items that grafter has not stored yet."""
        return self._waiting()

    def _waiting(self) -> int:
        return len(self._fresh) + len(self._traces) + len(self._spans) + self._flying

    def _take(self, item: Any) -> None:
        try:
            with self._lock:
                if self._closed:
                    self.dropped += 1
                    return
                self._fresh.append(item)
                full = self._fit()
                if self._thread is None:
                    self._start()
                if len(self._fresh) >= BATCH_ITEMS:
                    self._wake.set()
            if full:
                self._warn(FULL)
        except Exception:  # noqa: BLE001  # a thread that cannot be started must not end the app's run
            self._warn("traces cannot be sent to grafter", with_traceback=True)

    def _fit(self) -> bool:
        """Let the oldest go until the queue is within its bounds; whether any had to."""
        before = self.dropped
        while self._bytes > self._max_bytes or self._waiting() - self._flying > self._max_items:
            if self._spans:
                self._bytes -= len(self._spans.popleft().body)
            elif self._fresh:
                self._fresh.popleft()
            else:
                self._bytes -= len(self._traces.popleft().body)
            self.dropped += 1
        return self.dropped > before

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="grafter-agents-sdk", daemon=True)
        self._thread.start()

    # In the processor's own thread.

    def _run(self) -> None:
        last = time.monotonic()
        try:
            while True:
                self._wake.wait(self._pause())
                self._wake.clear()
                self._write()
                while self._due() and (batch := self._batch()):
                    last = time.monotonic()
                    self._post(batch)
                with self._lock:
                    self._quiet.notify_all()
                if self._over():
                    return
                if time.monotonic() - last > IDLE and self._rest():
                    return
        except Exception:  # noqa: BLE001  # nobody else would say it
            self._warn("the sender of traces to grafter has stopped; the next starts another", with_traceback=True)
            self._thread = None
        finally:
            self._door.close()

    def _pause(self) -> float:
        """Seconds until there may be something to do."""
        if not (self._traces or self._spans):
            return 0.0 if self._closed else self._interval
        left = max(self._not_before - time.monotonic(), 0.0)
        return min(left, self._interval, max(self._until - time.monotonic(), 0.0))

    def _due(self) -> bool:
        now = time.monotonic()
        return now >= self._not_before and now < self._until

    def _over(self) -> bool:
        """Whether the queue is closed and there is nothing left to do, or no time to do it."""
        with self._lock:
            if not self._closed:
                return False
            left = self._waiting()
            if left and time.monotonic() < self._until and self._not_before < self._until:
                return False
            self.dropped += left
            for queue in (self._fresh, self._traces, self._spans):
                queue.clear()
            self._bytes = 0
            self._quiet.notify_all()
        if left:
            self._warn(f"{left} traces and spans were lost: grafter had not stored them when the process ended")
        return True

    def _rest(self) -> bool:
        """Whether the thread may end: the next item will find none and start another."""
        with self._lock:
            if self._waiting() or self._closed:
                return False
            self._thread = None
            return True

    def _write(self) -> None:
        """Turn what came since into what will be posted: from here on it is counted in bytes."""
        while True:
            with self._lock:
                if not self._fresh:
                    return
                item = self._fresh.popleft()
                self._flying += 1
            row = _row(item)
            with self._lock:
                self._flying -= 1
                if row is None:
                    self.dropped += 1
                    continue
                (self._traces if row.body.startswith(b'{"object":"trace",') else self._spans).append(row)
                self._bytes += len(row.body)
                full = self._fit()
            if full:
                self._warn(FULL)

    def _batch(self) -> list[_Row]:
        """The oldest that wait, traces before spans, all under one key."""
        batch: list[_Row] = []
        size = 0
        with self._lock:
            while len(batch) < BATCH_ITEMS and size < BATCH_BYTES:
                queue = self._traces or self._spans
                if not queue or (batch and queue[0].key != batch[0].key):
                    break
                row = queue.popleft()
                size += len(row.body)
                batch.append(row)
            self._bytes -= size
            self._flying = len(batch)
        return batch

    def _post(self, batch: list[_Row]) -> None:
        """Send it once; what is not taken and may be later goes back to where it was."""
        body = b'{"data":[' + b",".join(row.body for row in batch) + b"]}"
        key = batch[0].key
        try:
            own = {"Authorization": bearer(key)} if key else None
        except ValueError:
            own = None
        answer = self._door.post(body, min(self._timeout, max(self._until - time.monotonic(), 0.05)), own)
        with self._lock:
            self._flying = 0
            if answer.stored:
                self.sent += len(batch)
                self._wait, self._not_before = FIRST_WAIT, 0.0
                self._warned.clear()
                return
            if not answer.again:
                self.dropped += len(batch)
            else:
                for row in reversed(batch):
                    (self._traces if row.body.startswith(b'{"object":"trace",') else self._spans).appendleft(row)
                    self._bytes += len(row.body)
                now = time.monotonic()
                patience = min(self._wait, 0.5) if self._closed else self._wait * random.uniform(0.5, 1.0)
                self._delayed_until = now + answer.after
                self._not_before = max(self._delayed_until, now + patience)
                self._wait = min(self._wait * 2, LONGEST_WAIT)
                self._failures += 1
                self._quiet.notify_all()
                self._fit()
        if answer.again:
            self._warn(f"traces wait for grafter: {answer.text}")
        else:
            self._warn(f"grafter refuses traces: {answer.text}")

    def _warn(self, what: str, *, with_traceback: bool = False) -> None:
        """Each thing once, until grafter has taken something again."""
        if what not in self._warned and len(self._warned) < 20:
            self._warned.add(what)
            logger.warning("%s", what, exc_info=with_traceback)

    def _after_fork(self) -> None:
        """What waits is the parent's to post."""
        self._door.forget()
        self._set_up()


def _row(item: Any) -> _Row | None:
    """None for what cannot be sent."""
    try:
        exported = item.export()
        if not exported:
            return None
        kind = exported.pop("object", None)
        body = _json({"object": kind, **exported}).encode("utf-8", "replace")
        return _Row(body, getattr(item, "tracing_api_key", None)) if len(body) <= LARGEST_ITEM else None
    except Exception:  # noqa: BLE001  # an item of any shape may come
        return None


def _json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":"))
    except ValueError:
        # NaN and infinity, which JSON has not.
        plain = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


_instrumented: list[AgentsProcessor] = []
_processors: weakref.WeakSet[AgentsProcessor] = weakref.WeakSet()


def _at_exit() -> None:
    for processor in _instrumented:
        processor.shutdown(AT_EXIT)


def _in_child() -> None:
    for processor in list(_processors):
        processor._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
