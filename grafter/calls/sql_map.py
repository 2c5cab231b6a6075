"""The call map over a database: what blocks runs on threads of its own, so that neither a door nor a release waits."""

import asyncio
import logging
import re
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TypeVar

from grafter.calls.backlog import Backlog
from grafter.calls.database import CallDatabase
from grafter.calls.following import Due, Follower, Following
from grafter.calls.model import CallId, CallRecord, CallRow, Forgotten, Origin, Page, Reindexed, Search
from grafter.calls.user_table import UserTable
from grafter.calls.writing import Entry
from grafter.core.calls import Phone, certain_hashes, number_hashes, phone_in, whole_number
from grafter.core.policy import SECOND
from grafter.errors import RejectedError, UnavailableError
from grafter.store.base import TaskStore
from grafter.tasks import task_group
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_READERS = 2
_READ_SECONDS = 20.0
_LONG_SECONDS = 120.0
_UPKEEP_SECONDS = 600.0
_MEASURE_SECONDS = 15.0
_LONGEST_TEXT = 300
_WINDOW_NS = 60 * SECOND
_MOST_WHO = 10_000
_NOT_HEX = re.compile(r"[^0-9a-f]")


@dataclass(frozen=True, slots=True)
class Numbers:
    """How phone numbers are read and kept."""

    secret: bytes
    """The key of their hashes; the same in all grafters that share a store."""
    region: str = ""
    """The country whose numbers may come without theirs."""
    plain: bool = False
    """The whole numbers are kept too."""

    def read(self, text: str) -> tuple[Phone | None, str | None]:
        """A number as it is kept, and in clear where that is kept too."""
        phone = phone_in(text, self.secret, self.region)
        return phone, whole_number(text, self.region) if phone is not None and self.plain else None

    def hashes(self, text: str) -> tuple[str, ...]:
        """What it may be kept as."""
        return number_hashes(text, self.secret, self.region)

    def certain_hashes(self, text: str) -> tuple[str, ...]:
        """What it alone may be kept as: of what may be two numbers, neither's."""
        return certain_hashes(text, self.secret, self.region)


@dataclass(frozen=True, slots=True)
class Keep:
    """For how long; nanoseconds."""

    calls: int
    traces: int


class Lookups:
    """Lookups by phone number: each stands in the log, and nobody may ask for many of them. Whoever has the page or the
    commands could try all numbers: so each of them has a rate."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._recent: OrderedDict[str, deque[int]] = OrderedDict()

    def admit(self, who: str, hashes: Sequence[str], now: int) -> None:
        """Count a lookup by number. Raises UnavailableError (reason ``rate``) where they come too often."""
        recent = self._recent.setdefault(who, deque())
        self._recent.move_to_end(who)
        if len(self._recent) > _MOST_WHO:
            self._recent.popitem(last=False)
        while recent and recent[0] <= now - _WINDOW_NS:
            recent.popleft()
        if len(recent) >= self._per_minute:
            seconds = max(1.0, (recent[0] + _WINDOW_NS - now) / SECOND)
            logger.warning("too many lookups by number", extra={"who": who, "number_hash": hashes[0]})
            message = f"more than {self._per_minute} lookups by number in a minute; again in {seconds:.0f} s"
            raise UnavailableError(message, retry_after=seconds, reason="rate")
        recent.append(now)

    def log(self, who: str, hashes: Sequence[str], found: int, what: str = "looked up") -> None:
        """The line of the audit: who, and the keyed hash of the number, never the number."""
        logger.info("a number was %s", what, extra={"who": who, "number_hash": hashes[0], "calls": found})


class SqlCallMap:
    """See ``base.CallMap``."""

    def __init__(
        self, database: CallDatabase, tasks: TaskStore, numbers: Numbers, lookups: Lookups, metrics: Metrics,
        clock: Callable[[], int], followers: Sequence[Follower] = (),
    ) -> None:  # fmt: skip
        self.numbers = numbers
        self._database = database
        self._lookups = lookups
        self._metrics = metrics
        self._clock = clock
        # A reader that hangs must not hold up the writer, nor one of them anything else in this process.
        self._readers = ThreadPoolExecutor(_READERS, "calls.read")
        # Figures over a month of calls take minutes: no lookup waits for them.
        self._reporter = ThreadPoolExecutor(1, "calls.report")
        self._writer = ThreadPoolExecutor(1, "calls.write")
        self.backlog = Backlog(tasks, self._apply, metrics, clock)
        self.followings = [Following(one, self, metrics, clock) for one in followers]

    async def search(self, search: Search) -> Page:
        text = search.text.strip()
        hashes = self.numbers.hashes(text)
        if hashes:
            self._lookups.admit(search.who, hashes, self._clock())
        now = self._clock()
        page = await self._read(lambda: self._database.search(search, _values(text), hashes, now))
        if hashes:
            self._lookups.log(search.who, hashes, len(page.calls))
        return page

    async def by_id(self, text: str) -> CallRow | None:
        now, values = self._clock(), _values(text.strip())
        page = await self._read(lambda: self._database.search(Search(text=text, limit=1), values, (), now))
        return page.calls[0] if page.calls else None

    async def call(self, key: str) -> CallRow | None:
        now = self._clock()
        return await self._read(lambda: self._database.call(key, now)) if _is_key(key) else None

    async def spans(self, key: str) -> Sequence[bytes]:
        return await self._read(lambda: self._database.spans(key)) if _is_key(key) else ()

    async def recent_medians(self, limit: int = 100) -> Mapping[str, float]:
        now = self._clock()
        return await self._read(lambda: self._database.recent_medians(limit, now))

    async def over(self, since: int, until: int, work: Callable[[Iterable[CallRow]], _T]) -> _T:
        now = self._clock()
        return await self._read(lambda: work(self._database.rows(since, until, now)), self._reporter, _LONG_SECONDS)

    async def record(self, record: CallRecord, document: bytes = b"") -> None:
        await self.backlog.put([(record, document)], leaving=False)

    async def link(self, one: CallId, other: CallId, at: int) -> None:
        first, second = sorted((one, other))
        name = f"link:{sha256(repr((first, second)).encode()).hexdigest()[:32]}"
        await self.record(CallRecord(name, Origin.LINK, at, ids=(first, second)))

    def read_number(self, text: str) -> tuple[Phone | None, str | None]:
        return self.numbers.read(text)

    async def forget(self, number: str, who: str = "") -> Forgotten:
        hashes = self.numbers.certain_hashes(number)
        if not hashes:
            raise RejectedError("that is no phone number", reason="number")
        if self.backlog.error:
            raise UnavailableError(self.backlog.error, retry_after=5.0, reason="calls_away")
        # What waits may be of that number too.
        await self.backlog.drain_all()
        now = self._clock()
        forgotten = await self._run(self._writer, lambda: self._database.forget(hashes, now))
        self._lookups.log(who, hashes, forgotten.calls, "forgotten")
        return forgotten

    async def reindex(self, after: str) -> Reindexed:
        return await self._run(self._writer, lambda: self._database.reindex(after))

    async def claim(self, follower: str, lease: int, limit: int) -> Sequence[tuple[Due, CallRow | None]]:
        now = self._clock()
        return await self._run(self._writer, lambda: self._database.claim(follower, now, lease, limit))

    async def settle(self, follower: str, done: Sequence[Due], later: Sequence[tuple[Due, int]]) -> None:
        now = self._clock()
        await self._run(self._writer, lambda: self._database.settle(follower, done, later, now))

    def errors(self) -> dict[str, str]:
        """What is away, by name, and why."""
        found = {"calls": self.backlog.error} if self.backlog.error else {}
        return found | {one.follower.title: one.error for one in self.followings if one.error}

    def _apply(self, entries: Sequence[Entry]) -> "asyncio.Future[set[str]]":
        now = self._clock()
        applied = asyncio.ensure_future(self._run(self._writer, lambda: self._database.apply(entries, now)))
        for following in self.followings:
            applied.add_done_callback(lambda _, following=following: following.wake())  # type: ignore[misc]
        return applied

    async def _read(
        self, work: Callable[[], _T], threads: ThreadPoolExecutor | None = None, seconds: float = _READ_SECONDS
    ) -> _T:
        try:
            async with asyncio.timeout(seconds):
                return await self._run(threads or self._readers, work)
        except TimeoutError:
            message = f"the calls' database gave no answer within {seconds:g} s"
            raise UnavailableError(message, retry_after=5.0, reason="calls_slow") from None

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    async def migrate(self) -> None:
        await self._run(self._writer, self._database.migrate)

    async def upkeep(self, keep: Keep) -> None:
        """Remove what is kept no longer, now and then, until cancelled."""
        while True:
            try:
                now = self._clock()
                retain = partial(self._database.retain, now - keep.calls, now - keep.traces)
                gone = await self._run(self._writer, retain)
                if any(gone):
                    logger.info("%d calls and %d pieces of traces were kept long enough", *gone)
            except UnavailableError as error:
                logger.debug("%s", error)
            except Exception:
                logger.exception("old calls could not be removed; it is tried again")
            await asyncio.sleep(_UPKEEP_SECONDS)

    async def measure(self, followers: Sequence[Follower]) -> None:
        """Set the gauges of what these were not notified of, a kind of followers together. Raises UnavailableError."""
        found = await self._read(lambda: self._database.backlog([one.name for one in followers]))
        now = self._clock()
        for kind in {one.kind for one in followers}:
            mine = [found[one.name] for one in followers if one.kind == kind and one.name in found]
            self._metrics.calls_backlog.labels(kind).set(sum(count for count, _ in mine))
            ages = [max(0, now - oldest) / SECOND for _, oldest in mine]
            self._metrics.calls_backlog_oldest.labels(kind).set(max(ages, default=0.0))

    async def watch(self) -> None:
        """Measure now and then, until cancelled."""
        while True:
            try:
                await self.measure([one.follower for one in self.followings])
            except UnavailableError as error:
                logger.debug("what waits in the outbox cannot be counted: %s", error)
            except Exception:
                logger.exception("what waits in the outbox could not be counted; it is tried again")
            await asyncio.sleep(_MEASURE_SECONDS)

    def close(self) -> None:
        """End the threads; what they are at ends by itself."""
        for threads in (self._readers, self._reporter, self._writer):
            threads.shutdown(wait=False, cancel_futures=True)
        self._database.close()


@asynccontextmanager
async def serving(
    found: SqlCallMap, keep: Keep, table: UserTable | None = None, *, serve: bool = True
) -> AsyncIterator[SqlCallMap]:
    """The call map, until left; what waits then waits for the next start. ``table`` is closed with it.

    A database that is away does not keep it from starting: the tables are made when it is there. ``serve``: False
    writes nothing by itself.
    """
    try:
        if not serve:
            await found.migrate()
            yield found
            return
        async with task_group() as group:
            running = group.create_task(_serve(found, keep), name="calls")
            try:
                yield found
            finally:
                running.cancel()
    finally:
        found.close()
        if table is not None:
            table.close()


async def _serve(found: SqlCallMap, keep: Keep) -> None:
    wait = 0.5
    while True:
        try:
            await found.migrate()
            break
        except UnavailableError as error:
            if not found.backlog.error:
                logger.warning("%s; what is known of calls waits in the store", error)
            found.backlog.error = str(error)
        except Exception as error:
            logger.exception("the calls' tables cannot be brought to this version's form; it is tried again")
            found.backlog.error = f"the calls' tables cannot be made: {type(error).__name__}"
        await asyncio.sleep(wait)
        wait = min(2 * wait, 30.0)
    found.backlog.error = ""
    async with task_group() as group:
        group.create_task(found.backlog.run(), name="calls.backlog")
        group.create_task(found.upkeep(keep), name="calls.upkeep")
        if found.followings:
            group.create_task(found.watch(), name="calls.watch")
        for following in found.followings:
            group.create_task(following.run(), name=f"calls.{following.follower.kind}")


def _values(text: str) -> tuple[str, ...]:
    """Ids that a text may stand for: as it is, and a trace id in any of the forms in which people copy it."""
    if not 0 < len(text) <= _LONGEST_TEXT or "\0" in text:
        return ()
    digits = text.lower().removeprefix("trace_").replace("-", "")
    values = [text]
    if len(digits) == 32 and not _NOT_HEX.search(digits):
        values += [digits, f"trace_{digits}"]
    elif len(text) == 55 and text.count("-") == 3:
        # A whole traceparent.
        values.append(text.split("-")[1].lower())
    return tuple(dict.fromkeys(values))


def _is_key(key: str) -> bool:
    return 0 < len(key) <= 32 and key.isascii() and key.isalnum()
