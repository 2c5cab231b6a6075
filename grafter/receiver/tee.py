"""A copy of what the Agents SDK endpoint stored, sent on to OpenAI's own ingest so that its dashboard stays alive.

The rule it keeps: whatever becomes of the copy, the sender of the original does not notice. ``Tee.offer`` takes items
or drops them at once; cleaning runs in a thread, sending in tasks of its own, and every item is counted once by what
became of it.

Items travel under the key that they came with (or the one that is configured), and one request never mixes keys. Each
key has its own lane, in order, so that a key that is refused or limited holds up nobody else.
"""

import asyncio
import json
import logging
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
import orjson

from grafter.core.retry import RetryPolicy
from grafter.guests.agents.sanitise import sanitise
from grafter.logs import Throttle
from grafter.receiver.openai_api import ApiAnswer, OpenAIApi, openai_api
from grafter.tasks import task_group
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

SENT = "sent"
DROPPED_FULL = "dropped_full"
DROPPED_REFUSED = "dropped_refused"
DROPPED_FAILED = "dropped_failed"

# What the Python SDK sends at most in one request (max_batch_size of its BatchTraceProcessor).
_BATCH_ITEMS = 128
# The SDK has no such bound; here several small requests may be joined, and a retry should stay cheap.
_BATCH_BYTES = 4 << 20
# An ingest that names this many items of one batch is refusing a field that all of them have.
_MAX_NAMED_ITEMS = 10
_CLEAN_BYTES = 1 << 20
_MAX_CALLERS = 256
_MAX_REQUESTS_AT_ONCE = 8
# Both as in the SDK's own exporter.
_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5)
_RETRIED_STATUSES = frozenset({408, 409, 429})
_ASSUMED_ITEM_BYTES = 1024

_NAMED_ITEM = re.compile(r"\bdata\[(\d{1,6})\]")


# The SDK tries three times, because an app must not pile up memory. The queue here is bounded in bytes, so the copy may
# outlast a short outage.
ATTEMPTS = 5
# As long as the SDK waits, and no longer than the queue can bear whatever the peer asks for.
RETRY = RetryPolicy(initial_interval=1.05, max_interval=30.0, multiplier=2.0, randomization_factor=0.05, max_hint=30.0)


@dataclass(frozen=True, slots=True)
class _Caller:
    """In whose name items are sent on. Never shown: the fields are secrets."""

    authorization: str = field(repr=False)
    organization: str = field(default="", repr=False)
    project: str = field(default="", repr=False)

    def headers(self) -> dict[str, str]:
        headers = {
            "Authorization": self.authorization,
            "OpenAI-Beta": "traces=v1",
        }
        if self.organization:
            headers["OpenAI-Organization"] = self.organization
        if self.project:
            headers["OpenAI-Project"] = self.project
        return headers


@dataclass(frozen=True, slots=True)
class _Offer:
    caller: _Caller
    items: Sequence[object]
    size: int


@dataclass(slots=True, eq=False, repr=False)
class Tee:
    """Where the receiver puts stored items. Made by ``teeing``."""

    api: OpenAIApi
    tasks: asyncio.TaskGroup
    endpoint: str
    own: _Caller | None
    """In whose name all is sent; None: in the name of whoever brought it."""
    metrics: Metrics
    max_bytes: int
    max_items: int
    retry: RetryPolicy
    attempts: int
    _offers: deque[_Offer] = field(default_factory=deque)
    _offered: asyncio.Event = field(default_factory=asyncio.Event)
    _lanes: dict[_Caller, deque[bytes]] = field(default_factory=dict)
    _requests: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MAX_REQUESTS_AT_ONCE))
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _throttle: Throttle = field(default_factory=Throttle)
    _closed: bool = False
    _items: int = 0
    """Offered and not settled yet, wherever they are; so are the bytes."""
    _bytes: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._idle.set()
        self._start(self._clean_offers(), "tee: clean")

    def offer(self, items: Sequence[object], headers: Mapping[str, str], *, size: int | None = None) -> None:
        """Send a copy of these items on, some time, or count them as dropped. Never waits, never raises.

        ``items`` are the members of the body's ``data`` and must not be changed afterwards; ``headers`` are those of
        the request that brought them, from which the caller's key is taken where none is configured. ``size`` is the
        JSON's bytes, where known.
        """
        count = len(items)
        if not count:
            return
        if size is None:
            size = count * _ASSUMED_ITEM_BYTES
        caller = self.own or _caller(headers)
        if caller is None:
            self._count(DROPPED_REFUSED, count, "the request had no Authorization to send it on with")
        elif self._closed:
            self._count(DROPPED_FAILED, count, "stopping")
        elif self._bytes + size > self.max_bytes or self._items + count > self.max_items:
            self._count(DROPPED_FULL, count, "the queue is full")
        else:
            self._items += count
            self._bytes += size
            self._idle.clear()
            self._offers.append(_Offer(caller, items, size))
            self._offered.set()

    async def close(self, grace_seconds: float) -> None:
        """Take no more, wait for what is queued up to ``grace_seconds``, count the rest as dropped."""
        self._closed = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._idle.wait()
        finally:
            for task in self._running:
                task.cancel()
            self._settle(DROPPED_FAILED, self._items, self._bytes, "stopping")
            self._warn(self._throttle.rest(), "stopping")

    async def _clean_offers(self) -> None:
        """Turn offers into JSON texts in the lanes, in a thread."""
        while True:
            await self._offered.wait()
            while self._offers:
                await self._clean(_some(self._offers))
            self._offered.clear()

    async def _clean(self, offers: list[_Offer]) -> None:
        try:
            cleaned = await asyncio.to_thread(lambda: [_texts(offer.items) for offer in offers])
        except Exception as error:  # noqa: BLE001  # no item may end the task that serves all others
            for offer in offers:
                self._settle(DROPPED_FAILED, len(offer.items), offer.size, type(error).__name__)
            return
        for offer, texts in zip(offers, cleaned, strict=True):
            size = sum(map(len, texts))
            self._settle(DROPPED_REFUSED, len(offer.items) - len(texts), offer.size - size, "no JSON object to send")
            self._file(offer.caller, texts, size)

    def _file(self, caller: _Caller, texts: list[bytes], size: int) -> None:
        lane = self._lanes.get(caller)
        if lane is not None:
            lane.extend(texts)
        elif len(self._lanes) >= _MAX_CALLERS:
            self._settle(DROPPED_FULL, len(texts), size, "too many callers' keys at once")
        elif texts:
            self._lanes[caller] = deque(texts)
            self._start(self._send_lane(caller), "tee: send")

    async def _send_lane(self, caller: _Caller) -> None:
        """Send all that one caller has, in order, then end."""
        lane = self._lanes[caller]
        while lane:
            batch = _batch(lane)
            try:
                await self._send(caller, batch)
            except Exception as error:  # noqa: BLE001  # a bug met by one batch must not end the lane
                self._settle(DROPPED_FAILED, len(batch), sum(map(len, batch)), type(error).__name__)
        del self._lanes[caller]

    async def _send(self, caller: _Caller, batch: list[bytes]) -> None:
        """Settle every item of the batch; what is settled is taken out of it."""
        failures = named = 0
        while batch:
            body = b'{"data":[' + b",".join(batch) + b"]}"
            async with self._requests:
                answer = await self.api.post(self.endpoint, body, caller.headers())
            outcome = _outcome(answer)
            if outcome is None:
                failures += 1
                if failures < self.attempts:
                    await asyncio.sleep(self.retry.wait(failures, random.random(), answer.retry_after))
                    continue
                outcome = DROPPED_FAILED
            item = _named_item(answer.body) if outcome == DROPPED_REFUSED else None
            if item is not None and item < len(batch) and named < _MAX_NAMED_ITEMS:
                named += 1
                text = batch.pop(item)
                self._settle(outcome, 1, len(text), answer.reason)
                continue
            count, size = len(batch), sum(map(len, batch))
            batch.clear()
            self._settle(outcome, count, size, answer.reason)

    def _settle(self, outcome: str, items: int, size: int, reason: str) -> None:
        """Give back the queue's room for these items and count what became of them."""
        self._items -= items
        self._bytes -= size
        if items:
            self._count(outcome, items, reason)
        if not self._items:
            self._idle.set()

    def _count(self, outcome: str, items: int, reason: str) -> None:
        self.metrics.tee_items.labels(outcome).inc(items)
        if outcome != SENT:
            self._warn(self._throttle.due(count=items), reason)

    def _warn(self, items: int, reason: str) -> None:
        if items:
            _log.warning("tee dropped items", extra={"items": items, "reason": reason})

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self.tasks.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


@asynccontextmanager
async def teeing(
    endpoint: str,
    api_key: str | None,
    metrics: Metrics,
    *,
    max_queued_bytes: int = 64 << 20,
    max_queued_items: int = 200_000,
    grace_seconds: float = 5.0,
    retry: RetryPolicy = RETRY,
    attempts: int = ATTEMPTS,
) -> AsyncIterator[Tee]:
    """A tee to ``endpoint`` while the context is open.

    With ``api_key`` everything is sent under that key, else under the caller's own Authorization, OpenAI-Organization
    and OpenAI-Project. On leaving, what is queued is sent for up to ``grace_seconds``, the rest is dropped and
    counted; so leave the receivers first.
    """
    async with (
        openai_api(endpoint, {}, timeout=_TIMEOUT, connections=_MAX_REQUESTS_AT_ONCE) as api,
        task_group() as tasks,
    ):
        own = _Caller(f"Bearer {api_key}") if api_key else None
        tee = Tee(api, tasks, endpoint, own, metrics, max_queued_bytes, max_queued_items, retry, attempts)
        try:
            yield tee
        finally:
            await tee.close(grace_seconds)


def _caller(headers: Mapping[str, str]) -> _Caller | None:
    known = {name.lower(): value for name, value in headers.items()}
    authorization = known.get("authorization")
    if not authorization:
        return None
    return _Caller(authorization, known.get("openai-organization", ""), known.get("openai-project", ""))


def _some(offers: deque[_Offer]) -> list[_Offer]:
    """The first offers, as many as are worth one turn in a thread."""
    some = [offers.popleft()]
    size = some[0].size
    while offers and size + offers[0].size <= _CLEAN_BYTES:
        size += offers[0].size
        some.append(offers.popleft())
    return some


def _texts(items: Sequence[object]) -> list[bytes]:
    """The items that can be sent, cleaned, each as JSON."""
    texts = []
    for item in items:
        cleaned = sanitise(item) if isinstance(item, Mapping) else None
        if cleaned is None:
            continue
        try:
            texts.append(orjson.dumps(cleaned))
        except TypeError:
            # More than 254 levels or integers of more than 64 bits: slower, but JSON all the same.
            texts.append(json.dumps(cleaned, ensure_ascii=False, separators=(",", ":")).encode())
    return texts


def _batch(lane: deque[bytes]) -> list[bytes]:
    batch = [lane.popleft()]
    size = len(batch[0])
    while lane and len(batch) < _BATCH_ITEMS and size + len(lane[0]) <= _BATCH_BYTES:
        size += len(lane[0])
        batch.append(lane.popleft())
    return batch


def _outcome(answer: ApiAnswer) -> str | None:
    """What the SDK would make of this answer: SENT, DROPPED_REFUSED, or None: worth another attempt.

    DROPPED_FAILED where it could not be sent at all, such as with a header that HTTP cannot say.
    """
    if 200 <= answer.status < 300:
        return SENT
    if 400 <= answer.status < 500 and answer.status not in _RETRIED_STATUSES:
        return DROPPED_REFUSED
    if answer.final:
        return DROPPED_REFUSED if answer.status else DROPPED_FAILED
    return None


def _named_item(text: bytes) -> int | None:
    """The index i of a complaint about ``data[i]``: its ``param``, or the first one in its message."""
    try:
        error = orjson.loads(text)["error"]
        places = [error.get("param"), error.get("message")]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    for place in places:
        found = _NAMED_ITEM.search(place) if isinstance(place, str) else None
        if found:
            return int(found[1])
    return None
