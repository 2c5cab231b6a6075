"""OpenAI's Agents API, as far as grafter reads it: one GET, and what its answer means.

The rules it keeps: a key goes to the address that the config names for its project and nowhere else, whatever an event
or an answer says (ids are checked and quoted, no redirect is followed); an answer takes no more memory than its limit,
compressed or not; and neither a key nor the peer's own words reach a log or an exception.

Source of the addresses: openai-python 3.54.0, resources/beta/agents/sessions.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import aiohttp
from yarl import URL

from grafter.errors import RejectedError, TooLargeError
from grafter.receiver.http_common import content_encoding, decompress
from grafter.receiver.peer import proxy_of, retry_after
from grafter.receiver.sideband import Account
from grafter.telemetry import Metrics

# OpenAI limits the JSON of one answer to 16 MiB (openai-python, traces.list); the rest is for what it wraps around it.
MAX_ANSWER_BYTES = 17 << 20
_SECONDS = aiohttp.ClientTimeout(total=120, sock_connect=10, sock_read=60)
_THREAD_BYTES = 64 << 10
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,256}")


class Reply(StrEnum):
    """What an answer means. The value is a metric label."""

    OK = "ok"
    NOT_FOUND = "not_found"
    """404 or 410."""
    UNAUTHORIZED = "unauthorized"
    """401 or 403: the key is wrong, or may not do this."""
    LIMITED = "limited"
    """429."""
    UNAVAILABLE = "unavailable"
    """5xx, and 408."""
    REFUSED = "refused"
    """Any other answer, a redirect included."""
    FAILED = "failed"
    """No answer, or one that broke off."""
    TOO_LARGE = "too_large"
    """413, or an answer past the limit."""
    MALFORMED = "malformed"
    """Not what it should be; said by whoever reads it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request came to."""

    reply: Reply
    body: bytes = b""
    """OK only; decompressed."""
    retry_after: float = 0.0
    """Seconds that the peer asks to wait."""
    reason: str = ""
    """For a log, in grafter's words."""


def is_session_id(session_id: str) -> bool:
    """Whether this may be a session's id: 1 to 256 of letters, digits, ``_`` and ``-``."""
    return _SESSION_ID.fullmatch(session_id) is not None


def address(base_url: str, session_id: str, below: str = "", query: Mapping[str, str | int] | None = None) -> URL:
    """Where a session is, or what is below it: always under ``base_url``, for the id is quoted whole."""
    parts = urlsplit(base_url)
    path = f"{parts.path.rstrip('/')}/agents/sessions/{quote(session_id, safe='')}"
    if below:
        path += f"/{below}"
    asked = "&".join(filter(None, [parts.query, urlencode(query or {})]))
    return URL(urlunsplit((parts.scheme, parts.netloc, path, asked, "")), encoded=True)


class AgentsApi:
    """Reads sessions in the name of one account. Made by ``agents_api``."""

    def __init__(self, session: aiohttp.ClientSession, account: Account, metrics: Metrics) -> None:
        self._session = session
        self._account = account
        self._metrics = metrics
        self._headers = {
            "Authorization": f"Bearer {account.api_key}",
            "OpenAI-Beta": "agents=v1",
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "User-Agent": "grafter",
        }

    async def session(self, session_id: str) -> Answer:
        """The session itself."""
        return await self._get(address(self._account.base_url, session_id))

    async def traces(self, session_id: str, *, after: str, limit: int) -> Answer:
        """A page of its traces, the oldest turn first, behind the turn ``after``."""
        return await self._get(address(self._account.base_url, session_id, "traces", _page(after, limit)))

    async def turns(self, session_id: str, *, after: str, limit: int) -> Answer:
        """A page of its turns, in the same order."""
        return await self._get(address(self._account.base_url, session_id, "turns", _page(after, limit)))

    async def _get(self, url: URL) -> Answer:
        """Never raises for what the peer or the network does."""
        try:
            # A redirect would carry the key to an address that nobody configured.
            async with self._session.get(url, headers=self._headers, allow_redirects=False) as response:
                answer = await _read(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            answer = Answer(Reply.FAILED, reason=f"no answer: {type(error).__name__}")
        self._metrics.session_requests.labels(answer.reply.value).inc()
        return answer


@asynccontextmanager
async def agents_api(account: Account, metrics: Metrics) -> AsyncIterator[AgentsApi]:
    """An AgentsApi of this account while the context is open."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=8, ttl_dns_cache=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=proxy_of(account.base_url),
        timeout=_SECONDS,
        auto_decompress=False,
    ) as session:
        yield AgentsApi(session, account, metrics)


def _page(after: str, limit: int) -> dict[str, str | int]:
    return {"limit": limit, "order": "asc", **({"after": after} if after else {})}


async def _read(response: aiohttp.ClientResponse) -> Answer:
    if response.status != 200:
        wait = retry_after(response.headers)
        return Answer(_reply(response.status), retry_after=wait, reason=f"HTTP {response.status}")
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            response.close()
            return Answer(Reply.TOO_LARGE, reason=f"more than {MAX_ANSWER_BYTES} bytes")
        chunks.append(chunk)
    body = b"".join(chunks)
    try:
        encoding = content_encoding(response.headers.getall("Content-Encoding", ()))
        if encoding == "identity":
            return Answer(Reply.OK, body)
        if size > _THREAD_BYTES:
            return Answer(Reply.OK, await asyncio.to_thread(decompress, encoding, body, MAX_ANSWER_BYTES))
        return Answer(Reply.OK, decompress(encoding, body, MAX_ANSWER_BYTES))
    except TooLargeError:
        return Answer(Reply.TOO_LARGE, reason=f"more than {MAX_ANSWER_BYTES} bytes")
    except RejectedError:
        return Answer(Reply.MALFORMED, reason="broken compression")


def _reply(status: int) -> Reply:
    match status:
        case 404 | 410:
            return Reply.NOT_FOUND
        case 401 | 403:
            return Reply.UNAUTHORIZED
        case 413:
            return Reply.TOO_LARGE
        case 429:
            return Reply.LIMITED
        case _ if status >= 500 or status == 408:
            return Reply.UNAVAILABLE
    return Reply.REFUSED
