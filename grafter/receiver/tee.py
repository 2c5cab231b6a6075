"""A copy of what the Agents SDK door stored, sent on to OpenAI's own ingest so that its dashboard stays alive.

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
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO

import aiohttp
import orjson

from grafter.guests.agents.sanitise import sanitise
from grafter.receiver.peer import proxy_of, retry_after
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
_MAX_ANSWER_BYTES = 64 << 10
# Both as in the SDK's own exporter.
_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5)
_RETRIED_STATUSES = frozenset({408, 409, 429})
_SECONDS_BETWEEN_WARNINGS = 60.0
_ASSUMED_ITEM_BYTES = 1024

_NAMED_ITEM = re.compile(r"\bdata\[(\d{1,6})\]")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often one batch is tried, and the waits between: doubling, with up to a tenth more by chance."""

    # The SDK tries three times, because an app must not pile up memory. The queue here is bounded in bytes, so the
    # copy may outlast a short outage.
    attempts: int = 5
    base_seconds: float = 1.0
    max_seconds: float = 30.0
    """Also the longest that a peer's Retry-After is obeyed."""


@dataclass(frozen=True, slots=True)
class _Caller:
    """In whose name items are sent on. Never shown: the fields are secrets."""

    authorization: str = field(repr=False)
    organization: str = field(default="", repr=False)
    project: str = field(default="", repr=False)

    def headers(self) -> dict[str, str]:
        headers = {
            "Authorization": self.authorization,
            "Content-Type": "application/json",
            "OpenAI-Beta": "traces=v1",
            "User-Agent": "grafter",
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


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one attempt came to."""

    outcome: str | None
    """SENT, DROPPED_REFUSED, or None: worth another attempt."""
    reason: str = ""
    retry_after: float = 0.0
    named_item: int | None = None
    """DROPPED_REFUSED: the index of the one item that the peer objects to."""


class Tee:
    """Where the door puts stored items. Made by ``teeing``."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        tasks: asyncio.TaskGroup,
        endpoint: str,
        api_key: str | None,
        metrics: Metrics,
        max_queued_bytes: int,
        max_queued_items: int,
        retry: Retry,
    ) -> None:
        self._session = session
        self._tasks = tasks
        self._endpoint = endpoint
        self._own = _Caller(f"Bearer {api_key}") if api_key else None
        self._metrics = metrics
        self._max_bytes = max_queued_bytes
        self._max_items = max_queued_items
        self._retry = retry
        self._offers: deque[_Offer] = deque()
        self._offered = asyncio.Event()
        self._lanes: dict[_Caller, deque[bytes]] = {}
        self._requests = asyncio.Semaphore(_MAX_REQUESTS_AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False
        # Offered and not settled yet, wherever they are.
        self._items = 0
        self._bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._unsaid = 0
        self._say_after = 0.0
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
        caller = self._own or _caller(headers)
        if caller is None:
            self._count(DROPPED_REFUSED, count, "the request had no Authorization to send it on with")
        elif self._closed:
            self._count(DROPPED_FAILED, count, "stopping")
        elif self._bytes + size > self._max_bytes or self._items + count > self._max_items:
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
            async with asyncio.timeout(grace_seconds):
                await self._idle.wait()
        except TimeoutError:
            pass
        finally:
            for task in self._running:
                task.cancel()
            self._settle(DROPPED_FAILED, self._items, self._bytes, "stopping")
            self._say_after = 0.0
            self._warn("stopping")

    async def _clean_offers(self) -> None:
        """Turn offers into JSON texts in the lanes, in a thread."""
        while True:
            await self._offered.wait()
            while self._offers:
                await self._clean(_some(self._offers))
            self._offered.clear()

    async def _clean(self, offers: list[_Offer]) -> None:
        try:
            cleaned = await asyncio.to_thread(_all_texts, offers)
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
            except Exception as error:  # noqa: BLE001  # such as a header that HTTP cannot say
                self._settle(DROPPED_FAILED, len(batch), sum(map(len, batch)), type(error).__name__)
        del self._lanes[caller]

    async def _send(self, caller: _Caller, batch: list[bytes]) -> None:
        """Settle every item of the batch; what is settled is taken out of it."""
        attempts = named = 0
        while batch:
            async with self._requests:
                answer = await self._post(caller, batch)
            outcome = answer.outcome
            if outcome is None:
                attempts += 1
                if attempts < self._retry.attempts:
                    await asyncio.sleep(self._wait(attempts, answer.retry_after))
                    continue
                outcome = DROPPED_FAILED
            if answer.named_item is not None and answer.named_item < len(batch) and named < _MAX_NAMED_ITEMS:
                named += 1
                text = batch.pop(answer.named_item)
                self._settle(outcome, 1, len(text), answer.reason)
                continue
            count, size = len(batch), sum(map(len, batch))
            batch.clear()
            self._settle(outcome, count, size, answer.reason)

    async def _post(self, caller: _Caller, batch: list[bytes]) -> _Answer:
        body = b'{"data":[' + b",".join(batch) + b"]}"
        try:
            # A redirect would carry a key to an address that nobody configured.
            # BytesIO: aiohttp writes it in pieces between which others get their turn.
            async with self._session.post(
                self._endpoint, data=BytesIO(body), headers=caller.headers(), allow_redirects=False
            ) as response:
                text = await _start_of(response.content) if response.status == 400 else b""
                return _answer(response.status, response.headers, text)
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, OSError) as error:
            return _Answer(None, f"no answer: {type(error).__name__}")

    def _wait(self, attempts: int, retry_after: float) -> float:
        seconds = min(self._retry.base_seconds * 2.0 ** (attempts - 1), self._retry.max_seconds)
        return min(max(seconds * random.uniform(1.0, 1.1), retry_after), self._retry.max_seconds)

    def _settle(self, outcome: str, items: int, size: int, reason: str) -> None:
        """Give back the queue's room for these items and count what became of them."""
        self._items -= items
        self._bytes -= size
        if items:
            self._count(outcome, items, reason)
        if not self._items:
            self._idle.set()

    def _count(self, outcome: str, items: int, reason: str) -> None:
        self._metrics.tee_items.labels(outcome).inc(items)
        if outcome != SENT:
            self._unsaid += items
            self._warn(reason)

    def _warn(self, reason: str) -> None:
        # At most one line a minute: a dead peer must not fill the log as well.
        now = asyncio.get_running_loop().time()
        if self._unsaid and now >= self._say_after:
            _log.warning("tee dropped items", extra={"items": self._unsaid, "reason": reason})
            self._unsaid = 0
            self._say_after = now + _SECONDS_BETWEEN_WARNINGS

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self._tasks.create_task(work, name=name)
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
    retry: Retry | None = None,
) -> AsyncIterator[Tee]:
    """A tee to ``endpoint`` while the context is open.

    With ``api_key`` everything is sent under that key, else under the caller's own Authorization, OpenAI-Organization
    and OpenAI-Project. On leaving, what is queued is sent for up to ``grace_seconds``, the rest is dropped and
    counted; so leave the doors first.
    """
    failure: Exception | None = None
    async with (
        # Cookies of an answer to one key must not travel with another.
        aiohttp.ClientSession(
            timeout=_TIMEOUT, proxy=proxy_of(endpoint), cookie_jar=aiohttp.DummyCookieJar()
        ) as session,
        asyncio.TaskGroup() as tasks,
    ):
        tee = Tee(session, tasks, endpoint, api_key, metrics, max_queued_bytes, max_queued_items, retry or Retry())
        try:
            yield tee
        except Exception as error:  # noqa: BLE001  # raised below: a task group would wrap it
            failure = error
        finally:
            await tee.close(grace_seconds)
    if failure is not None:
        raise failure


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


def _all_texts(offers: list[_Offer]) -> list[list[bytes]]:
    return [_texts(offer.items) for offer in offers]


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


async def _start_of(content: aiohttp.StreamReader) -> bytes:
    text = b""
    async for chunk in content.iter_any():
        text += chunk
        if len(text) > _MAX_ANSWER_BYTES:
            break
    return text


def _answer(status: int, headers: Mapping[str, str], text: bytes) -> _Answer:
    """What the SDK would make of this answer: sent, refused, or worth another attempt."""
    reason = f"HTTP {status}"
    if 200 <= status < 300:
        return _Answer(SENT)
    if (400 <= status < 500 and status not in _RETRIED_STATUSES) or _forbids_retry(headers):
        return _Answer(DROPPED_REFUSED, reason, named_item=_named_item(text))
    return _Answer(None, reason, retry_after=retry_after(headers))


def _forbids_retry(headers: Mapping[str, str]) -> bool:
    return headers.get("x-should-retry", "").strip().lower() == "false"


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
