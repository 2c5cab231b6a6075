"""The sideband of a call: a WebSocket on which OpenAI shows a call's events to a second listener.

One attempt to open it, and what the answer means. The rules it keeps: the key goes to the address that the config
names and nowhere else, whatever the call id is and whatever the peer answers (no redirect is followed), and neither
the key nor the peer's own words reach a log or an exception.

Source of the addresses: OpenAI's guide on server-side controls, ``wss://api.openai.com/v1/realtime?call_id=rtc_…`` of
a Realtime call; openai-python 3.54.0, ``resources/live/sideband.py``, ``/live/sessions/live_…/attach`` of a Live one.
Neither takes a subprotocol, and both take the key as a bearer token.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp
from yarl import URL

from grafter.guests.json_values import plain_id
from grafter.guests.realtime.records import LIVE_IDS
from grafter.receiver.peer import proxy_of, retry_after

Socket = aiohttp.ClientWebSocketResponse

# OpenAI takes 15 MiB of audio in one client event, so no event that it shows should be longer (openai-python,
# InputAudioBufferAppendEvent); a frame past this ends the connection, not the recorder.
_MAX_FRAME_BYTES = 16 << 20
_HANDSHAKE_SECONDS = 20.0
_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Account:
    """In whose name calls are listened to, and where."""

    api_key: str = field(repr=False)
    base_url: str = "https://api.openai.com/v1"


class Attempt(StrEnum):
    """What became of one attempt to connect. The value is a metric label."""

    CONNECTED = "connected"
    NOT_FOUND = "not_found"
    """404, 409 or 410: the call is not accepted yet, or is over."""
    UNAUTHORIZED = "unauthorized"
    """401 or 403: the key is wrong, or may not do this."""
    LIMITED = "limited"
    """429."""
    UNAVAILABLE = "unavailable"
    """5xx, and 408."""
    REFUSED = "refused"
    """Any other answer, a redirect included."""
    FAILED = "failed"
    """No answer at all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one attempt to connect came to."""

    attempt: Attempt
    socket: Socket | None = None
    """CONNECTED only; whoever gets it closes it."""
    status: int = 0
    retry_after: float = 0.0
    """Seconds that the peer asks to wait."""
    reason: str = ""
    """For a log: what happened, in grafter's words."""


def is_call_id(call_id: str) -> bool:
    """Whether this may be a call's id."""
    return plain_id(call_id) is not None


def address(base_url: str, call_id: str) -> URL:
    """Where the sideband of a call is: always under ``base_url``, for the id is quoted whole.

    An id of the Live API is told by its beginning; any other is the Realtime API's.
    """
    parts = urlsplit(base_url)
    scheme = "ws" if parts.scheme == "http" else "wss"
    name = quote(call_id, safe="")
    if call_id.startswith(LIVE_IDS):
        path, query = f"/live/sessions/{name}/attach", parts.query
    else:
        path, query = "/realtime", "&".join(filter(None, [parts.query, f"call_id={name}"]))
    return URL(urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + path, query, "")), encoded=True)


class Sideband:
    """Opens sidebands in the name of one account. Made by ``sideband``."""

    def __init__(self, session: aiohttp.ClientSession, account: Account) -> None:
        self._session = session
        self._account = account
        self._headers = {"Authorization": f"Bearer {account.api_key}", "User-Agent": "grafter"}

    async def connect(self, call_id: str) -> Answer:
        """One attempt. Never raises for what the peer or the network does."""
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                socket = await self._session.ws_connect(
                    address(self._account.base_url, call_id),
                    headers=self._headers,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
                    max_msg_size=_MAX_FRAME_BYTES,
                    # Pings are answered by the reader, which so learns that the peer lives; aiohttp's heartbeat would
                    # cost a callback an event.
                    autoping=False,
                    compress=0,
                )
        except aiohttp.WSServerHandshakeError as error:
            return _refusal(error.status, retry_after(error.headers or {}))
        except _RedirectedError as error:
            return _refusal(error.status, 0.0)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Answer(Attempt.FAILED, reason=f"no answer: {type(error).__name__}")
        return Answer(Attempt.CONNECTED, socket=socket, status=101)


@asynccontextmanager
async def sideband(account: Account) -> AsyncIterator[Sideband]:
    """A Sideband of this account while the context is open; leaving closes every connection."""
    watch = aiohttp.TraceConfig()
    watch.on_request_redirect.append(_refuse_redirect)
    # As many connections as there are calls; cookies of one call are nothing to another.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=proxy_of(account.base_url),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        trace_configs=[watch],
    ) as session:
        yield Sideband(session, account)


class _RedirectedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def _refuse_redirect(_session: object, _context: object, found: aiohttp.TraceRequestRedirectParams) -> None:
    # ws_connect would follow it, and has no parameter against that.
    found.response.close()
    raise _RedirectedError(found.response.status)


def _refusal(status: int, wait: float) -> Answer:
    match status:
        case 404 | 409 | 410:
            attempt = Attempt.NOT_FOUND
        case 401 | 403:
            attempt = Attempt.UNAUTHORIZED
        case 429:
            attempt = Attempt.LIMITED
        case _ if status >= 500 or status == 408:
            attempt = Attempt.UNAVAILABLE
        case _:
            attempt = Attempt.REFUSED
    return Answer(attempt, status=status, retry_after=wait, reason=f"HTTP {status}")
