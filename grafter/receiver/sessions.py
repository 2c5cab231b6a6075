"""Hosted Agents sessions: whoever hears of one asks for it here, and its traces are fetched until they have all come.

A request is a task in the store: it is answered when the store has it, and it is done some time, by this process or
another one, whatever ends meanwhile. The rules it keeps: no answer of OpenAI's ends a session but that it does not
know it; every wait is bounded; and a session is polled until grafter forgets the trace that it belongs to.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from time import time_ns

from grafter.consumer import Consumer
from grafter.core.model import UnixNano
from grafter.core.policy import SECOND, GraftPolicy
from grafter.core.retry import RetryPolicy
from grafter.errors import RejectedError, UnavailableError
from grafter.guests.sessions.poll_state import Progress
from grafter.logs import Throttle, log_bug
from grafter.receiver.openai_api import Account, ApiAnswer, Reply, is_session_id
from grafter.receiver.session_poll import Poll, Pulled, SessionPoller, answer_to, message_of, session_poller
from grafter.store.base import TaskStore
from grafter.store.model import Task, TaskThen
from grafter.tasks import task_group
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

# Of all projects together: each may hold an answer of 16 MiB.
_AT_ONCE = 4
# A key without the permission is met by every session, and mended by a person.
_SECONDS_BETWEEN_WARNINGS = 600.0
_SECONDS_AFTER_A_REFUSAL = 900.0
"""After an answer that only a person can change."""
RETRY = RetryPolicy(initial_interval=1.05, max_interval=300.0, multiplier=2.0, randomization_factor=0.05)
"""After an answer that may pass, and while the store is away."""
_MOST_SECONDS_SILENT = 30.0
# Other processes ask for an answer every second.
_ANSWER_KEPT_NS = 10 * SECOND
_LATER = frozenset({Reply.LIMITED, Reply.UNAVAILABLE, Reply.FAILED})
"""Answers after which another attempt is made soon."""


class _LostError(Exception):
    """The task is somebody else's by now."""


@dataclass(slots=True, eq=False, repr=False)
class PullRequests:
    """Where pulls are asked for. Made by ``pulling``."""

    tasks: asyncio.TaskGroup
    store: TaskStore
    pollers: Mapping[str, SessionPoller]
    """By project, of those that have a key."""
    metrics: Metrics
    kind: str
    default: str
    remember: int
    """For how long after its event a session is read; nanoseconds."""
    clock: Callable[[], int]
    retry: RetryPolicy
    tick_seconds: float
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _running: dict[asyncio.Task[None], Task] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the next attempt has ended; then another takes its place."""
    _stopping: bool = False
    _paused: dict[str, int] = field(default_factory=dict)
    """Projects that OpenAI asked to wait for, or that give no answer, and until when."""
    _warnings: Throttle = field(default_factory=lambda: Throttle(_SECONDS_BETWEEN_WARNINGS))
    _store_away: Throttle = field(default_factory=Throttle)

    async def idle(self) -> None:
        """Return when no session is being read."""
        while self._running:
            await asyncio.wait(set(self._running))

    async def request(self, session_id: str, project: str | None = None) -> None:
        """Have a session's traces fetched, in the name of a project (None: the default one).

        Returns when the store has the request. For a project without a key nothing is stored, and that is logged.
        Raises RejectedError for what is no session id, UnavailableError when the store does not take it.
        """
        project = self._named(session_id, project)
        if project not in self.pollers:
            self.metrics.session_polls.labels("no_key").inc()
            self._warn(project, "no_key", "a session's traces are not fetched: the project has no api_key")
            return
        now = UnixNano(self.clock())
        name = f"{project}/{session_id}"
        await self.store.put_tasks([Task(self.kind, name, now)], now)
        self._wake.set()

    async def pull(self, session_id: str, project: str | None = None) -> Pulled:
        """The same, and wait until all pages have been read once, by this process or by another one.

        Raises as ``request`` does, UnavailableError also without a key, and UpstreamError when OpenAI does not let it
        be read. A caller that does not want to wait any longer may be cancelled; the pull goes on.
        """
        project = self._named(session_id, project)
        if project not in self.pollers:
            raise UnavailableError(
                f"no api_key under receivers.openai.projects.{project}", retry_after=60.0, reason="no_api_key"
            )
        await self.request(session_id, project)
        name = f"{project}/{session_id}"
        task = await self.store.find_task(self.kind, name)
        # What is read of an event that was put later answers this one too.
        requested_at = self.clock() if task is None else task.put_at
        while not self._stopping:
            news = self._news
            if pulled := await self._answered(name, requested_at):
                return pulled
            # Another process may be the one that reads it.
            with suppress(TimeoutError):
                async with asyncio.timeout(self.tick_seconds):
                    await news.wait()
        raise UnavailableError("stopping", reason="stopping")

    async def _answered(self, name: str, requested_at: int) -> Pulled | None:
        """What the store says of an event, wherever it was answered; None while it has no answer.

        Raises UpstreamError as ``pull`` does.
        """
        try:
            task = await self.store.find_task(self.kind, name)
            if task is None:
                # It came to its end elsewhere, so long ago that its answer is gone: it is asked for again.
                now = UnixNano(self.clock())
                await self.store.put_tasks([Task(self.kind, name, now)], now)
        except UnavailableError as error:
            _log.warning("the store is not available: %s", error)
            return None
        return None if task is None else answer_to(task, requested_at)

    def _named(self, session_id: str, project: str | None) -> str:
        if not is_session_id(session_id):
            raise RejectedError(
                "session id is not 1 to 256 letters, digits, underscores and hyphens", reason="session_id"
            )
        return project or self.default

    async def claim_forever(self) -> None:
        """Do what is due; a task of its own."""
        while True:
            self._wake.clear()
            free = _AT_ONCE - len(self._running)
            if free:
                try:
                    for task in await self.store.claim_tasks(self.kind, UnixNano(self.clock()), free):
                        work = self.tasks.create_task(self._work(task), name="sessions.poll")
                        self._running[work] = task
                        work.add_done_callback(self._done)
                except UnavailableError as error:
                    self._store_is_away(error)
                except Exception:  # noqa: BLE001  # a bug in one round must not end the reading for ever
                    _log.exception("claiming sessions that are due failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(self.tick_seconds):
                    await self._wake.wait()

    def _done(self, work: asyncio.Task[None]) -> None:
        self._running.pop(work, None)
        self._wake.set()
        self._tell()

    def _tell(self) -> None:
        """Have those that wait look whether the store has their answer."""
        self._news.set()
        self._news = asyncio.Event()

    async def renew_forever(self, seconds: float) -> None:
        """Keep the leases of what is being done; a task of its own."""
        while True:
            await asyncio.sleep(seconds)
            if self._running:
                try:
                    await self.store.renew_tasks(list(self._running.values()), UnixNano(self.clock()))
                except UnavailableError as error:
                    self._store_is_away(error)

    def stop(self) -> None:
        """Leave what is being done; it stays in the store."""
        for work in self._running:
            work.cancel()
        self._stopping = True
        self._tell()

    async def _work(self, task: Task) -> None:
        try:
            await self._attempt(task)
        except Exception as error:  # noqa: BLE001  # what is wrong with one session must not end all that runs beside it
            _log.error("a session is left until its lease ends", extra={"error": type(error).__name__})

    async def _attempt(self, task: Task) -> None:
        progress = Progress.decode(task.blob)
        if task.put_at != progress.event:
            progress = progress.promised(task.put_at)
        try:
            if progress.over:
                await self.store.update_task(task, TaskThen.END)
                return
            await self._poll(task, progress)
        except _LostError:
            # Whoever has it now stores what it comes to.
            pass
        except UnavailableError as error:
            await self._again(task, progress.failed(), error.retry_after)
        except Exception as error:  # noqa: BLE001  # a bug met by one session must not end the reading of the others
            log_bug(_log, "reading a session failed", error)
            await self._again(task, progress.answering(Reply.FAILED).failed(), _SECONDS_AFTER_A_REFUSAL)

    async def _poll(self, task: Task, progress: Progress) -> None:
        project, _, session_id = task.name.rpartition("/")
        poller = self.pollers.get(project)
        paused = self._paused.get(project, 0)
        if paused > self.clock():
            await self._give_back(task, progress, paused)
            return
        if poller is None:
            # Its key went with a restart, and may come back with another.
            await self._again(task, progress.answering(Reply.UNAUTHORIZED), _SECONDS_AFTER_A_REFUSAL)
            return
        saved = progress

        async def save(reached: Progress) -> None:
            nonlocal saved
            if not await self.store.update_task(replace(task, blob=reached.encode()), TaskThen.KEEP):
                raise _LostError
            saved = reached

        try:
            poll = await poller.poll(session_id, progress, save)
        except UnavailableError as error:
            await self._again(task, saved.failed(), error.retry_after)
            return
        await self._conclude(task, poll)

    async def _conclude(self, task: Task, poll: Poll) -> None:
        project = task.name.rpartition("/")[0]
        answer = poll.answer
        if answer.reply is Reply.OK:
            self.metrics.session_polls.labels("new" if poll.traces else "nothing").inc()
            if poll.malformed:
                self._warn(project, "malformed", "a session's metadata names its trace in a form that cannot be read")
            progress = poll.progress.answering(Reply.OK, poll.skipped, linked=poll.linked)
            next_poll = progress.next_poll(self.clock(), self.remember)
            if next_poll is None:
                await self._end(task, progress)
            else:
                await self._give_back(task, progress, next_poll)
            return
        self.metrics.session_polls.labels(answer.reply.value).inc()
        if answer.reply in _LATER:
            progress = poll.progress.failed()
            if answer.reply in (Reply.LIMITED, Reply.FAILED):
                wait = self._wait(progress, answer.retry_after)
                if answer.reply is Reply.FAILED:
                    # It takes long to hear nothing: one project's sessions must not take every place for that.
                    wait = min(wait, _MOST_SECONDS_SILENT)
                self._paused[project] = self.clock() + int(wait * SECOND)
            await self._again(task, progress, answer.retry_after)
            return
        message = message_of(answer.reply)
        progress = poll.progress.answering(answer.reply)
        self._warn(project, answer.reply.value, f"a session's traces cannot be read: {message}", answer)
        if answer.reply is Reply.NOT_FOUND:
            await self._end(task, progress)
        else:
            await self._again(task, progress.failed(), _SECONDS_AFTER_A_REFUSAL)

    async def _again(self, task: Task, progress: Progress, hint: float) -> None:
        """Give it back until another attempt makes sense, or end it when its time is over."""
        due = self.clock() + int(self._wait(progress, hint) * SECOND)
        try:
            if due > progress.event + self.remember:
                await self._end(task, progress)
            else:
                await self._give_back(task, progress, due)
        except UnavailableError as error:
            self._store_is_away(error)

    async def _give_back(self, task: Task, progress: Progress, due: int) -> None:
        await self.store.update_task(replace(task, due=UnixNano(due), blob=progress.encode()), TaskThen.GIVE_BACK)

    async def _end(self, task: Task, progress: Progress) -> None:
        """Nothing is left to do. What its last event came to, if anything, stays for as long as whoever asked may need
        to read it, unless it was there before."""
        answered, known = progress.answered, Progress.decode(task.blob).answered
        to_tell = answered is not None and answered.event == progress.event
        if not to_tell or (known is not None and known.event == progress.event):
            await self.store.update_task(task, TaskThen.END)
        else:
            await self._give_back(task, progress.done(), self.clock() + _ANSWER_KEPT_NS)

    def _wait(self, progress: Progress, hint: float) -> float:
        return self.retry.wait(progress.failures, random.random(), hint)

    def _store_is_away(self, error: UnavailableError) -> None:
        if self._store_away.due():
            _log.warning("the store is not available: %s", error)

    def _warn(self, project: str, what: str, message: str, answer: ApiAnswer | None = None) -> None:
        if self._warnings.due((project, what)):
            more = {} if answer is None else {"answer": answer.reason}
            _log.warning("%s", message, extra={"project": project, **more})


@asynccontextmanager
async def pulling(
    store: TaskStore,
    consumer: Consumer,
    accounts: Mapping[str, Account],
    metrics: Metrics,
    policy: GraftPolicy,
    *,
    kind: str = "session",
    default: str = "default",
    lease_seconds: float = 10.0,
    clock: Callable[[], int] = time_ns,
    retry: RetryPolicy = RETRY,
    tick_seconds: float = 1.0,
) -> AsyncIterator[PullRequests]:
    """Take pull requests and do them while the context is open.

    ``accounts``: by project, those that have a key. ``default``: the project of who names none. ``kind``: the name of
    these tasks in the store, under which every process that shares it finds them. ``tick_seconds``: how often what is
    due is claimed. Leaving ends what is being read; it goes on where it stood at the next start.
    """
    async with AsyncExitStack() as stack:
        pollers = {
            project: await stack.enter_async_context(session_poller(account, consumer, metrics, policy, clock))
            for project, account in accounts.items()
        }
        tasks = await stack.enter_async_context(task_group())
        requests = PullRequests(
            tasks,
            store,
            pollers,
            metrics,
            kind=kind,
            default=default,
            remember=policy.waits.remember,
            clock=clock,
            retry=retry,
            tick_seconds=tick_seconds,
        )
        loops = [
            tasks.create_task(requests.claim_forever(), name="sessions.claim"),
            tasks.create_task(requests.renew_forever(lease_seconds / 3), name="sessions.renew"),
        ]
        try:
            yield requests
        finally:
            for loop in loops:
                loop.cancel()
            requests.stop()
