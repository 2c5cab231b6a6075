"""One poll of a hosted session: the session, then its traces page by page, each stored before the next is asked for;
and what that came to, for whoever asked for it, in this process or another one.

The order is what makes a repeat harmless and a loss impossible: first the parts, then the cursor. Killed between the
two, the same page is read and stored again, and equal parts are kept once.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp

from grafter.consumer import Consumer
from grafter.core.model import Source
from grafter.core.policy import GraftPolicy
from grafter.guests.json_values import list_of, mapping_of, parse_json, usable_id
from grafter.guests.sessions.intake import Page, SessionInfo, closing, opening, read_page, read_session
from grafter.guests.sessions.poll_state import Progress
from grafter.receiver.openai_api import Account, ApiAnswer, OpenAIApi, Reply, openai_api, session_url
from grafter.receiver.outcomes import OPENAI, UpstreamError, UpstreamMissingError
from grafter.store.model import Task
from grafter.tasks import in_thread_if
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

TRANSPORT = "sessions"

PAGE = 100
"""Traces in one answer; OpenAI gives no more."""
_MOST_PAGES = 10_000
# Reading an answer of this size takes some milliseconds, all of which the event loop would stand still.
_THREAD_BYTES = 128 << 10
_TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=10, sock_read=60)
_CONNECTIONS = 8

_ADVICE: Mapping[Reply, str] = {
    Reply.UNAUTHORIZED: "the project's api_key may not read agents' traces: it needs api.traces.read or"
    " api.agents.read, and trace export enabled for the organization",
    Reply.FAILED: "reading it failed, and is tried again; the log of the grafter that read it says why",
    Reply.NOT_FOUND: "OpenAI knows no such session in this project",
}

Save = Callable[[Progress], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a command that waited gets to know."""

    session: str
    project: str
    traces: int
    """That are new since it was asked for."""
    skipped: int
    """Traces that could not be read."""
    linked: bool
    """Its metadata names a host trace."""


def message_of(reply: Reply) -> str:
    return _ADVICE.get(reply, "OpenAI's answer is not the one that is documented")


def answer_to(task: Task, requested_at: int) -> Pulled | None:
    """What is stored of the event that was put at this moment, or of a later one; None while there is no answer.

    Raises UpstreamError when OpenAI did not let it be read.
    """
    answered = Progress.decode(task.blob).answered
    if answered is None or answered.event < requested_at:
        return None
    if answered.outcome != Reply.OK:
        try:
            reply = Reply(answered.outcome)
        except ValueError:
            # A newer version's.
            reply = Reply.FAILED
        kind = UpstreamMissingError if reply is Reply.NOT_FOUND else UpstreamError
        raise kind(message_of(reply), reason=reply.value)
    project, _, session_id = task.name.rpartition("/")
    return Pulled(session_id, project, answered.traces, answered.skipped, answered.linked)


@dataclass(frozen=True, slots=True)
class Poll:
    answer: ApiAnswer
    """OK: the list was read to its end. Else what stopped it."""
    progress: Progress
    pages: int = 0
    traces: int = 0
    """New ones."""
    skipped: int = 0
    """Traces that cannot be read."""
    linked: bool = False
    malformed: bool = False
    """The metadata seems to name a host, in a form that cannot be read."""


@dataclass(frozen=True, slots=True)
class SessionPoller:
    """Polls sessions in the name of one account. Made by ``session_poller``."""

    api: OpenAIApi
    base_url: str
    consumer: Consumer
    metrics: Metrics
    policy: GraftPolicy
    clock: Callable[[], int]

    async def poll(self, session_id: str, progress: Progress, save: Save) -> Poll:
        """Read what is new, from where ``progress`` stands; ``save`` is called whenever something is stored.

        Raises what ``save`` raises, and UnavailableError when the store does not take a part; what was saved by then
        stays saved.
        """
        answer = await self._get(session_id)
        if answer.reply is not Reply.OK:
            return Poll(answer, progress)
        try:
            session = await in_thread_if(_is_large(answer), read_session, answer.body, session_id, self.policy)
        except ValueError:
            return Poll(ApiAnswer(Reply.MALFORMED, reason="the session is no JSON object"), progress)
        progress = progress.begun(self.clock())
        if not progress.opened:
            await self.consumer.consume([opening(session, progress.run)])
            progress = replace(progress, opened=True)
        await save(progress)
        poll = Poll(ApiAnswer(Reply.OK), progress, linked=session.link is not None, malformed=session.malformed)
        limit = PAGE
        passed = {progress.after}
        while poll.progress.reading and poll.answer.reply is Reply.OK and poll.pages < _MOST_PAGES:
            page, answer = await self._page(session, poll.progress, limit)
            if page is not None:
                poll = await self._keep(session, poll, page, passed)
                limit = min(limit * 2, PAGE)
            elif answer.reply in (Reply.TOO_LARGE, Reply.MALFORMED, Reply.REFUSED) and limit > 1:
                # One trace of the page may be the reason; the others must not be lost for it.
                limit = max(limit // 4, 1)
                continue
            elif answer.reply in (Reply.TOO_LARGE, Reply.MALFORMED):
                poll = await self._skip(session_id, poll, answer)
            elif answer.reply in (Reply.REFUSED, Reply.NOT_FOUND):
                # The session is there, so it may be the cursor that OpenAI does not know any more.
                reason = f"{answer.reason} for its traces"
                return replace(poll, answer=ApiAnswer(Reply.REFUSED, reason=reason), progress=poll.progress.afresh())
            else:
                return replace(poll, answer=answer)
            await save(poll.progress)
        return poll

    async def _get(self, session_id: str, below: str = "", query: Mapping[str, str | int] | None = None) -> ApiAnswer:
        answer = await self.api.get(session_url(self.base_url, session_id, below, query))
        self.metrics.session_requests.labels(answer.reply.value).inc()
        return answer

    async def _list(self, session_id: str, name: str, after: str, limit: int) -> ApiAnswer:
        """A page of the session's list of this name, the oldest turn first, behind the turn ``after``."""
        return await self._get(
            session_id, name, {"limit": limit, "order": "asc", **({"after": after} if after else {})}
        )

    async def _page(self, session: SessionInfo, progress: Progress, limit: int) -> tuple[Page | None, ApiAnswer]:
        answer = await self._list(session.session_id, "traces", progress.after, limit)
        if answer.reply is not Reply.OK:
            return None, answer
        try:
            page = await in_thread_if(_is_large(answer), read_page, answer.body, session, progress.known, self.policy)
            return page, answer
        except ValueError:
            return None, ApiAnswer(Reply.MALFORMED, reason="the page has no list of traces")

    async def _keep(self, session: SessionInfo, poll: Poll, page: Page, passed: set[str]) -> Poll:
        """Store a page; ``passed`` are the cursors of this poll, to which the page's is added."""
        # A list that comes back to where it was would be asked for for ever.
        after = page.after or poll.progress.after
        ends = not page.more or after in passed
        passed.add(after)
        traces = poll.traces + len(page.parts)
        parts = list(page.parts)
        if ends and (traces or (poll.progress.found and not poll.progress.closed)):
            parts.append(closing(session, poll.progress.run, poll.progress.since))
        if parts:
            await self.consumer.consume(parts)
        for kind, count in page.kinds.items():
            self.metrics.guest_items.labels(Source.SESSIONS.value, kind).inc(count)
        self.metrics.guest_items.labels(Source.SESSIONS.value, "span").inc(page.spans)
        self.metrics.accepted_spans.labels(OPENAI, TRANSPORT).inc(page.spans)
        progress = poll.progress.read(after, page.digests)
        return replace(
            poll,
            progress=progress.ended() if ends else progress,
            pages=poll.pages + 1,
            traces=traces,
            skipped=poll.skipped + page.kinds["odd"],
        )

    async def _skip(self, session_id: str, poll: Poll, why: ApiAnswer) -> Poll:
        """Go on behind a trace that cannot be read alone; only the list of turns knows its id."""
        answer = await self._list(session_id, "turns", poll.progress.after, 1)
        if answer.reply in (Reply.NOT_FOUND, Reply.REFUSED):
            # The session is there. An API without a list of turns is no reason to forget it.
            return replace(poll, answer=ApiAnswer(Reply.REFUSED, reason=f"{answer.reason} for its turns"))
        if answer.reply is not Reply.OK:
            return replace(poll, answer=answer)
        try:
            document = await in_thread_if(_is_large(answer), parse_json, answer.body)
            turns = list_of(mapping_of(document).get("data"))
        except ValueError:
            turns = []
        identity = usable_id(mapping_of(turns[0]).get("id")) if turns else None
        self.metrics.guest_items.labels(Source.SESSIONS.value, why.reply.value).inc()
        _log.warning("a trace of a session was skipped", extra={"session": session_id, "reason": why.reason})
        if identity is None or identity == poll.progress.after:
            progress = poll.progress.ended()
        else:
            progress = poll.progress.read(identity, ())
        return replace(poll, progress=progress, pages=poll.pages + 1, skipped=poll.skipped + 1)


@asynccontextmanager
async def session_poller(
    account: Account, consumer: Consumer, metrics: Metrics, policy: GraftPolicy, clock: Callable[[], int]
) -> AsyncIterator[SessionPoller]:
    """A SessionPoller of this account while the context is open. ``clock`` gives Unix nanoseconds."""
    headers = {**account.headers, "OpenAI-Beta": "agents=v1", "Accept": "application/json"}
    async with openai_api(account.base_url, headers, timeout=_TIMEOUT, connections=_CONNECTIONS) as api:
        yield SessionPoller(api, account.base_url, consumer, metrics, policy, clock)


def _is_large(answer: ApiAnswer) -> bool:
    return len(answer.body) > _THREAD_BYTES
