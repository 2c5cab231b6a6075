"""One look at a hosted session: the session, then its traces page by page, each stored before the next is asked for.

The order is what makes a repeat harmless and a loss impossible: first the parts, then the cursor. Killed between the
two, the same page is read and stored again, and equal parts are kept once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Concatenate, ParamSpec, TypeVar

from grafter.consumer import Consumer
from grafter.core.model import Source
from grafter.core.policy import GraftPolicy
from grafter.guests.json_values import list_of, mapping_of, parse_json, usable_id
from grafter.guests.sessions.intake import Page, SessionInfo, closing, opening, read_page, read_session
from grafter.guests.sessions.poll_state import Progress
from grafter.receiver.agents_api import AgentsApi, Answer, Reply
from grafter.receiver.answering import RECEIVER
from grafter.telemetry import Metrics

_log = logging.getLogger(__name__)

TRANSPORT = "sessions"

PAGE = 100
"""Traces in one answer; OpenAI gives no more."""
_MOST_PAGES = 10_000
# Reading an answer of this size takes some milliseconds, all of which the event loop would stand still.
_THREAD_BYTES = 128 << 10

Save = Callable[[Progress], Awaitable[None]]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """What one look came to."""

    answer: Answer
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


class Looker:
    """Looks at sessions in the name of one account."""

    def __init__(
        self, api: AgentsApi, consumer: Consumer, metrics: Metrics, policy: GraftPolicy, clock: Callable[[], int]
    ) -> None:
        self._api = api
        self._consumer = consumer
        self._metrics = metrics
        self._policy = policy
        self._clock = clock

    async def look(self, session_id: str, progress: Progress, save: Save) -> Look:
        """Read what is new, from where ``progress`` stands; ``save`` is called whenever something is stored.

        Raises what ``save`` raises, and UnavailableError when the store does not take a part; what was saved by then
        stays saved.
        """
        answer = await self._api.session(session_id)
        if answer.reply is not Reply.OK:
            return Look(answer, progress)
        try:
            told = await _beside(read_session, answer.body, session_id, self._policy)
        except ValueError:
            return Look(Answer(Reply.MALFORMED, reason="the session is no JSON object"), progress)
        look = Look(Answer(Reply.OK), progress.begun(self._clock()), linked=told.link is not None)
        look = replace(look, malformed=told.malformed)
        if not look.progress.opened:
            await self._consumer.consume([opening(told, look.progress.run)])
            look = replace(look, progress=replace(look.progress, opened=True))
        await save(look.progress)
        limit = PAGE
        passed = {look.progress.after}
        while look.progress.reading and look.answer.reply is Reply.OK and look.pages < _MOST_PAGES:
            page, answer = await self._page(told, look.progress, limit)
            if page is not None:
                look = await self._keep(told, look, page, passed)
                limit = min(limit * 2, PAGE)
            elif answer.reply in (Reply.TOO_LARGE, Reply.MALFORMED, Reply.REFUSED) and limit > 1:
                # One trace of the page may be the reason; the others must not be lost for it.
                limit = max(limit // 4, 1)
                continue
            elif answer.reply in (Reply.TOO_LARGE, Reply.MALFORMED):
                look = await self._skip(session_id, look, answer)
            elif answer.reply in (Reply.REFUSED, Reply.NOT_FOUND):
                # The session is there, so it may be the cursor that OpenAI does not know any more.
                reason = f"{answer.reason} for its traces"
                return replace(look, answer=Answer(Reply.REFUSED, reason=reason), progress=look.progress.afresh())
            else:
                return replace(look, answer=answer)
            await save(look.progress)
        return look

    async def _page(self, told: SessionInfo, progress: Progress, limit: int) -> tuple[Page | None, Answer]:
        answer = await self._api.traces(told.session_id, after=progress.after, limit=limit)
        if answer.reply is not Reply.OK:
            return None, answer
        seen = progress.known
        try:
            return await _beside(read_page, answer.body, told, seen, self._policy), answer
        except ValueError:
            return None, Answer(Reply.MALFORMED, reason="the page has no list of traces")

    async def _keep(self, told: SessionInfo, look: Look, page: Page, passed: set[str]) -> Look:
        """Store a page; ``passed`` are the cursors of this look, to which the page's is added."""
        # A list that comes back to where it was would be asked for for ever.
        after = page.after or look.progress.after
        ends = not page.more or after in passed
        passed.add(after)
        traces = look.traces + len(page.parts)
        parts = list(page.parts)
        if ends and (traces or (look.progress.found and not look.progress.closed)):
            parts.append(closing(told, look.progress.run, look.progress.since))
        if parts:
            await self._consumer.consume(parts)
        for kind, count in page.kinds.items():
            self._metrics.guest_items.labels(Source.SESSIONS.value, kind).inc(count)
        self._metrics.guest_items.labels(Source.SESSIONS.value, "span").inc(page.spans)
        self._metrics.accepted_spans.labels(RECEIVER, TRANSPORT).inc(page.spans)
        progress = look.progress.read(after, page.digests)
        return replace(
            look,
            progress=progress.ended() if ends else progress,
            pages=look.pages + 1,
            traces=traces,
            skipped=look.skipped + page.kinds["odd"],
        )

    async def _skip(self, session_id: str, look: Look, why: Answer) -> Look:
        """Go on behind a trace that cannot be read alone; only the list of turns knows its id."""
        answer = await self._api.turns(session_id, after=look.progress.after, limit=1)
        if answer.reply in (Reply.NOT_FOUND, Reply.REFUSED):
            # The session is there. An API without a list of turns is no reason to forget it.
            return replace(look, answer=Answer(Reply.REFUSED, reason=f"{answer.reason} for its turns"))
        if answer.reply is not Reply.OK:
            return replace(look, answer=answer)
        try:
            turns = list_of(mapping_of(await _beside(parse_json, answer.body)).get("data"))
        except ValueError:
            turns = []
        identity = usable_id(mapping_of(turns[0]).get("id")) if turns else None
        self._metrics.guest_items.labels(Source.SESSIONS.value, why.reply.value).inc()
        _log.warning("a trace of a session was skipped", extra={"session": session_id, "reason": why.reason})
        if identity is None or identity == look.progress.after:
            progress = look.progress.ended()
        else:
            progress = look.progress.read(identity, ())
        return replace(look, progress=progress, pages=look.pages + 1, skipped=look.skipped + 1)


async def _beside(read: Callable[Concatenate[bytes, P], T], body: bytes, *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``read`` makes of a body; of a large one beside the event loop."""
    if len(body) > _THREAD_BYTES:
        return await asyncio.to_thread(read, body, *args, **kwargs)
    return read(body, *args, **kwargs)
