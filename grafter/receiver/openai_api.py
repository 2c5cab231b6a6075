"""OpenAI's HTTP API, as far as grafter asks it for something: addresses, one attempt, and what an answer means.

The rules it keeps: a key goes to the address that the config names for it and nowhere else, whatever an id, an event or
an answer says (ids are quoted whole, no redirect is followed); an answer takes no more memory than its limit,
compressed or not; and neither a key nor the peer's own words reach a log or an exception.

Source of the addresses: openai-python 3.54.0, ``resources/beta/agents/sessions`` and ``resources/live/sideband.py``;
OpenAI's guide on server-side controls for the sideband of a Realtime call.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from io import BytesIO
from math import isfinite
from time import time_ns
from urllib.parse import quote, urlencode, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from grafter.errors import RejectedError, TooLargeError
from grafter.guests.json_values import plain_id
from grafter.guests.realtime.records import LIVE_IDS
from grafter.receiver.compression import content_encoding, unpack

Socket = aiohttp.ClientWebSocketResponse

# OpenAI limits the JSON of one answer to 16 MiB (openai-python, traces.list); the rest is for what it wraps around it.
MAX_ANSWER_BYTES = 17 << 20
_MAX_COMPLAINT_BYTES = 64 << 10
# OpenAI takes 15 MiB of audio in one client event, so no event that it shows should be longer (openai-python,
# InputAudioBufferAppendEvent); a frame past this ends the connection, not the recorder.
_MAX_FRAME_BYTES = 16 << 20
_HANDSHAKE_SECONDS = 20.0
_CLOSE_SECONDS = 2.0
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,256}")
# After these the same request may pass; after another failure it is the request that cannot be sent.
_NETWORK = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Account:
    """In whose name OpenAI is asked, and where."""

    api_key: str = field(repr=False)
    base_url: str = "https://api.openai.com/v1"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}


class Reply(StrEnum):
    """What an answer means. The value is a metric label."""

    OK = "ok"
    CONNECTED = "connected"
    """A WebSocket is open."""
    NOT_FOUND = "not_found"
    """404 or 410; of a sideband 409 too: the call is not accepted yet, or is over."""
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
    """Not what it should be, as far as whoever reads it can say."""


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """What one attempt came to."""

    reply: Reply
    status: int = 0
    """HTTP; 0: there was none."""
    body: bytes = b""
    """OK, and a POST's 400; decompressed."""
    socket: Socket | None = None
    """CONNECTED only; whoever gets it closes it."""
    retry_after: float = 0.0
    """Seconds that the peer asks to wait."""
    final: bool = False
    """The same request will not do better, whatever the status is."""
    reason: str = ""
    """For a log, in grafter's words."""


_HANDSHAKE_REPLIES = {200: Reply.REFUSED, 409: Reply.NOT_FOUND, 413: Reply.REFUSED}
"""What means something else to whoever asked for a WebSocket."""


def is_session_id(session_id: str) -> bool:
    """Whether this may be a hosted session's id: 1 to 256 of letters, digits, ``_`` and ``-``."""
    return _SESSION_ID.fullmatch(session_id) is not None


def is_call_id(call_id: str) -> bool:
    """Whether this may be a call's id."""
    return plain_id(call_id) is not None


def session_url(base_url: str, session_id: str, below: str = "", query: Mapping[str, str | int] | None = None) -> URL:
    """Where a hosted session is, or what is below it."""
    path = f"/agents/sessions/{quote(session_id, safe='')}" + (f"/{below}" if below else "")
    return _url(base_url, path, urlencode(query or {}))


def sideband_url(base_url: str, call_id: str) -> URL:
    """Where a second listener is shown a call's events. A Live session's id is known by its beginning; any other is
    the Realtime API's."""
    name = quote(call_id, safe="")
    url = (
        _url(base_url, f"/live/sessions/{name}/attach")
        if call_id.startswith(LIVE_IDS)
        else _url(base_url, "/realtime", f"call_id={name}")
    )
    return url.with_scheme("ws" if url.scheme == "http" else "wss")


def _url(base_url: str, path: str, query: str = "") -> URL:
    """Always under ``base_url``, with what its own query says."""
    parts = urlsplit(base_url)
    joined = "&".join(filter(None, [parts.query, query]))
    return URL(urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + path, joined, "")), encoded=True)


class OpenAIApi:
    """One attempt at a time; none raises for what the peer or the network does. Made by ``openai_api``."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, url: URL) -> ApiAnswer:
        """The JSON at this address."""
        # A redirect would carry the key to an address that nobody configured.
        request = self._session.get(url, headers={"Accept-Encoding": "gzip"}, allow_redirects=False)
        return await _attempt(request, readable=200, limit=MAX_ANSWER_BYTES)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> ApiAnswer:
        """The answer to this JSON."""
        # BytesIO: aiohttp writes it in pieces between which others get their turn.
        request = self._session.post(
            url,
            data=BytesIO(body),
            headers={"Content-Type": "application/json", "Accept-Encoding": "gzip", **headers},
            allow_redirects=False,
        )
        return await _attempt(request, readable=400, limit=_MAX_COMPLAINT_BYTES)

    async def connect(self, url: URL) -> ApiAnswer:
        """A WebSocket at this address. OpenAI's take no subprotocol."""
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                socket = await self._session.ws_connect(
                    url,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
                    max_msg_size=_MAX_FRAME_BYTES,
                    # Pings are answered by the reader, which so learns that the peer lives; aiohttp's heartbeat would
                    # cost a callback an event.
                    autoping=False,
                    compress=0,
                )
        except aiohttp.WSServerHandshakeError as error:
            answer = _answer(error.status, error.headers or {})
            return replace(answer, reply=_HANDSHAKE_REPLIES.get(error.status, answer.reply))
        except _RedirectedError as error:
            return _answer(error.status, {})
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return _no_answer(error)
        return ApiAnswer(Reply.CONNECTED, 101, socket=socket)


@asynccontextmanager
async def openai_api(
    base_url: str, headers: Mapping[str, str], *, timeout: aiohttp.ClientTimeout, connections: int
) -> AsyncIterator[OpenAIApi]:
    """A client of the API at ``base_url`` while the context is open; leaving closes every connection.

    ``headers`` go with every request. ``connections``: at once; 0 is no limit.
    """
    watch = aiohttp.TraceConfig()
    watch.on_request_redirect.append(_refuse_redirect)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ttl_dns_cache=60),
        # Cookies of an answer to one key must not travel with another.
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "grafter", **headers},
        proxy=proxy_of(base_url),
        timeout=timeout,
        trace_configs=[watch],
        auto_decompress=False,
    ) as session:
        yield OpenAIApi(session)


def proxy_of(endpoint: str) -> str | None:
    """The proxy that the environment names for the endpoint; OpenAI's own clients would use it as well.

    Not left to aiohttp (``trust_env``), which would take credentials from a .netrc file too and then refuse to send,
    because the request has an Authorization already.
    """
    parts = urlsplit(endpoint)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the peer asks to wait, 0 when it does not say."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / scale
        except ValueError:
            seconds = _seconds_until(value) if name == "retry-after" else -1.0
        if seconds >= 0 and isfinite(seconds):
            return seconds
    return 0.0


def _seconds_until(http_date: str) -> float:
    try:
        return max(parsedate_to_datetime(http_date).timestamp() - time_ns() / 1e9, 0.0)
    except (ValueError, OverflowError):
        return -1.0


class _RedirectedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def _refuse_redirect(_session: object, _context: object, found: aiohttp.TraceRequestRedirectParams) -> None:
    # ws_connect would follow it, and has no parameter against that.
    found.response.close()
    raise _RedirectedError(found.response.status)


async def _attempt(
    request: AbstractAsyncContextManager[aiohttp.ClientResponse], *, readable: int, limit: int
) -> ApiAnswer:
    """Send a request; the body is read where the status is ``readable``, and up to ``limit`` bytes."""
    try:
        async with request as response:
            answer = _answer(response.status, response.headers)
            if response.status != readable:
                return answer
            try:
                return replace(answer, body=await _body(response, limit))
            except TooLargeError:
                response.close()
                return replace(answer, reply=Reply.TOO_LARGE, reason=f"more than {limit} bytes")
            except RejectedError:
                return replace(answer, reply=Reply.MALFORMED, reason="broken compression")
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return _no_answer(error)


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, decompressed. Raises TooLargeError and RejectedError."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise TooLargeError("answer is too large")
        chunks.append(chunk)
    body = b"".join(chunks)
    encoding = content_encoding(response.headers.getall("Content-Encoding", ()))
    return body if encoding == "identity" else await unpack(encoding, body, limit)


def _answer(status: int, headers: Mapping[str, str]) -> ApiAnswer:
    return ApiAnswer(
        _reply(status),
        status,
        retry_after=retry_after(headers),
        final=headers.get("x-should-retry", "").strip().lower() == "false",
        reason=f"HTTP {status}",
    )


def _no_answer(error: Exception) -> ApiAnswer:
    return ApiAnswer(Reply.FAILED, final=not isinstance(error, _NETWORK), reason=f"no answer: {type(error).__name__}")


def _reply(status: int) -> Reply:
    match status:
        case 200:
            return Reply.OK
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
