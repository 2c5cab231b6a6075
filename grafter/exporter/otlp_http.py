"""OTLP over HTTP, out: protobuf or JSON."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
import zstandard
from isal import igzip, isal_zlib

from grafter import __version__
from grafter.config.units import is_loopback
from grafter.consumer import Signal
from grafter.errors import RejectedError
from grafter.exporter.answer import (
    TRACES,
    ExportAnswer,
    Kind,
    Later,
    Refused,
    accepted,
    accepted_json,
    advised,
    status_message,
    status_message_json,
    words,
)
from grafter.exporter.tls import Advice, ClientTls, advice, ssl_context
from grafter.otlp.to_json import trace_request_to_json
from grafter.tasks import in_thread_if

Compression = Literal["gzip", "zstd", "deflate", "none"]
Encoding = Literal["proto", "json"]

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

# Source: OTLP specification, "Failures", of OTLP/HTTP.
_RETRYABLE = frozenset({429, 502, 503, 504})
# A proxy says these when it has sent the request on and knows nothing of what became of it.
_UNKNOWN = frozenset({502, 504})
# The address, the key or the proxy is wrong, or the peer does not read this encoding: no word about the spans.
# Burying every trace until somebody has mended it would be the loss that the peer has not asked for.
_FAULTS = frozenset({401, 403, 404, 405, 406, 407, 415})

# An answer is a few bytes; OTLP lets a client stop reading at 4 MiB, and nothing here needs so much.
_MAX_RESPONSE_BYTES = 1 << 20
# Below this, compressing takes less time than handing the work to a thread.
_THREAD_BYTES = 64 << 10
_PIECEMEAL_BYTES = 1 << 20


@asynccontextmanager
async def opened(
    *,
    endpoint: str | None = None,
    traces_endpoint: str | None = None,
    encoding: Encoding = "proto",
    tls: ClientTls | None = None,
    headers: Mapping[str, str] | None = None,
    compression: str = "none",
    timeout_seconds: float = 30.0,
    connections: int = 4,
) -> AsyncIterator["HttpAttempt"]:
    """Attempts at one OTLP/HTTP endpoint, over so many connections at most; it need not be up yet.

    ``endpoint`` is completed by ``/v1/traces``, ``traces_endpoint`` is used as it stands.
    Raises ValueError for settings that cannot be kept.
    """
    tls = tls or ClientTls()
    urls = _urls(endpoint, traces_endpoint)
    host = urlsplit(urls[TRACES]).hostname or ""
    compress = _compressor(compression)
    sent_headers = {
        **_checked(headers or {}),
        "Content-Type": JSON if encoding == "json" else PROTOBUF,
        "Accept-Encoding": "identity",
        "User-Agent": f"grafter/{__version__}",
    }
    if compression not in ("", "none"):
        sent_headers["Content-Encoding"] = compression
    secure = any(url.startswith("https:") for url in urls.values())
    connector = aiohttp.TCPConnector(limit=connections, ssl=ssl_context(tls) if secure else True)
    session = aiohttp.ClientSession(
        connector=connector,
        headers=sent_headers,
        # Half of the time for the connection: one that has not come by then leaves none for the answer, and ends in an
        # outcome that is known.
        timeout=aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=timeout_seconds / 2),
        cookie_jar=aiohttp.DummyCookieJar(),
        # A proxy is never asked for this very machine, whatever the environment says of all others.
        trust_env=not is_loopback(host),
    )
    async with session:
        yield HttpAttempt(session, urls, encoding, compress, tls.server_name_override)


@dataclass(slots=True, eq=False, repr=False)
class HttpAttempt:
    """One POST; see Attempt."""

    session: aiohttp.ClientSession
    urls: Mapping[Kind, str]
    encoding: Encoding
    compress: Callable[[bytes], bytes] | None
    server_name: str | None
    _met: bool = False
    """The peer has answered before."""

    async def send(self, kind: Kind, body: bytes) -> ExportAnswer:
        if kind not in self.urls:
            return Refused(f"no endpoint for {kind}: only traces_endpoint is configured", own=True)
        headers: dict[str, str] = {}
        if self.encoding == "json":
            if kind == TRACES:
                try:
                    body = trace_request_to_json(body)
                except RejectedError as error:
                    return Refused(str(error), own=True)
            else:
                # Passed through unread, so it cannot be said in JSON; every OTLP/HTTP server reads both encodings.
                headers["Content-Type"] = PROTOBUF
        if self.compress is not None:
            body = await in_thread_if(len(body) >= _THREAD_BYTES, self.compress, body)
        try:
            async with self.session.post(
                self.urls[kind],
                # A large body that is written at once would hold up the loop; aiohttp sends a stream piece by piece.
                data=body if len(body) <= _PIECEMEAL_BYTES else BytesIO(body),
                headers=headers,
                allow_redirects=False,
                server_hostname=self.server_name,
            ) as response:
                self._met = True
                text = await _read(response)
                answer = answer_to(response.status, response.headers, text)
                return advised(answer, self._advice(kind, text.decode("latin-1")) if response.status == 400 else None)
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.ClientProxyConnectionError,
        ) as error:
            return advised(Later(f"cannot connect: {words(error)}"), self._advice(kind, str(error)))
        except TimeoutError:
            return Later("no answer in time", unknown=True)
        except (aiohttp.ClientError, OSError) as error:
            if "Bad status line" in str(error):
                # The library quotes what came.
                return Later("the peer speaks no HTTP/1 there; for gRPC use otlp_grpc", unknown=True)
            lost = Later(f"connection lost: {words(str(error) or type(error).__name__)}", unknown=True)
            return advised(lost, self._advice(kind, str(error)))

    def _advice(self, kind: Kind, reason: str) -> Advice | None:
        return advice(
            reason,
            secure=self.urls[kind].startswith("https:"),
            met=self._met,
            plaintext="write http:// in the endpoint",
            encrypted="write https:// in the endpoint",
        )


def answer_to(status: int, headers: Mapping[str, str], body: bytes) -> ExportAnswer:
    """What an HTTP answer means. ``headers`` are looked up by their usual names."""
    json = headers.get("Content-Type", "").partition(";")[0].strip().lower() == JSON
    if 200 <= status < 300:
        return accepted_json(body) if json else accepted(body)
    message = status_message_json(body) if json else _message(headers, body)
    reason = f"HTTP {status}: {message}" if message else f"HTTP {status}"
    if status in _RETRYABLE:
        return Later(reason, retry_after(headers), unknown=status in _UNKNOWN)
    if status in _FAULTS or 300 <= status < 400:
        return Later(reason, fault=True)
    return Refused(reason, too_large=status == 413)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header, which has them as a number or as a date; None without one.

    A date counts from the peer's own Date header, so that its clock need not be ours. Source: RFC 9110, 10.2.3.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        # Longer than any wait that is granted; int() has a limit of its own on digits.
        return float(text[:9]) if len(text) < 10 else 1e9
    moment = _date(text)
    if moment is None:
        return None
    now = _date(headers.get("Date", "")) or datetime.now(UTC)
    return max((moment - now) / timedelta(seconds=1), 0.0)


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _message(headers: Mapping[str, str], body: bytes) -> str:
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == PROTOBUF:
        return status_message(body)
    # A proxy's page says little more than its status; a line of plain text often says what is wrong.
    return words(body[:300].decode("utf-8", "replace")) if kind == "text/plain" else ""


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, up to a limit; the status has come already, so that a body that breaks off changes nothing."""
    body = b""
    try:
        while len(body) < _MAX_RESPONSE_BYTES and (chunk := await response.content.read(_MAX_RESPONSE_BYTES)):
            body += chunk
    except (aiohttp.ClientError, OSError):
        return b""
    return body


def _urls(endpoint: str | None, traces_endpoint: str | None) -> dict[Kind, str]:
    if not endpoint and not traces_endpoint:
        raise ValueError("endpoint: is required where traces_endpoint is not given")
    base = (endpoint or "").rstrip("/")
    urls: dict[Kind, str] = {}
    if base:
        urls = {TRACES: f"{base}/v1/traces", Signal.METRICS: f"{base}/v1/metrics", Signal.LOGS: f"{base}/v1/logs"}
    if traces_endpoint:
        urls[TRACES] = traces_endpoint
    for url in urls.values():
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"endpoint: expected http:// or https:// and a host, found {url!r}")
    return urls


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers. Raises ValueError, without the value: it is a secret."""
    for key, value in headers.items():
        if not key or any(c in key or c in value for c in "\r\n\0"):
            raise ValueError(f"headers: {key!r} or its value has a line break in it")
    return dict(headers)


def _compressor(compression: str) -> Callable[[bytes], bytes] | None:
    match compression:
        case "" | "none":
            return None
        case "gzip":
            # Level 1 of ISA-L: about as small as zlib's, at a fraction of its time.
            return lambda body: igzip.compress(body, 1)
        case "deflate":
            return lambda body: bytes(isal_zlib.compress(body, 1))
        case "zstd":
            # A compressor may not be used by two threads at once.
            return lambda body: zstandard.ZstdCompressor(level=1).compress(body)
    raise ValueError(f"compression: expected gzip, zstd, deflate or none, found {compression!r}")
