"""What every HTTP door needs: a bounded body, bearer tokens, TLS, and a server that stops in order.

Nothing here knows what a body means. The rule it keeps: a sender decides neither how much memory a request takes nor
how long it blocks the event loop, compressed or not.
"""

import asyncio
import hmac
import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import zstandard
from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError
from isal import isal_zlib

from grafter.errors import RejectedError, TooLargeError
from grafter.receiver.address import LISTEN_BACKLOG, host_and_port, listening_sockets

_log = logging.getLogger(__name__)

# The largest window that a sender of Content-Encoding zstd may ask for. Source: RFC 9659, section 3.
_ZSTD_WINDOW = 8 << 20
# zstandard's push interface has no bound on what one call gives back, so the bound is on what goes in: a block of
# 128 KiB takes at least four bytes, so a slice of 1 KiB gives at most 32 MiB more than the limit. Also the fastest
# slice measured, since its output stays in the cache.
_ZSTD_SLICE = 1 << 10
_INFLATE_SLICE = 16 << 10
_OUTPUT_SLICE = 1 << 20
# Both formats may be concatenated. Some writers use that for blocks of 64 KiB; a body of millions of empty members
# would only burn time.
_MAX_MEMBERS = 10_000
# Decompressing more than this would hold the event loop for some milliseconds; the libraries release the GIL.
_THREAD_BYTES = 64 << 10

_GZIP_WBITS = 31
_ZLIB_WBITS = 15
_RAW_WBITS = -15

# Above the 60 s at which most load balancers drop an idle connection, so that they close first and no request of
# theirs meets a closing socket.
_KEEPALIVE_SECONDS = 75.0


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of a TLS server, PEM each; with ``client_ca_file`` clients must show a certificate of that CA."""

    cert_file: str
    key_file: str
    client_ca_file: str | None = None


async def read_body(request: web.Request, limit: int) -> bytes:
    """The request's body, decompressed, at most ``limit`` bytes long before and after.

    The application must be served without aiohttp's own decompression (``serving`` does). Raises TooLargeError,
    and RejectedError for broken compression, an encoding that is not known (reason ``unsupported_encoding``) or a
    body that ended early (reason ``truncated``).
    """
    encoding = content_encoding(request.headers.getall("Content-Encoding", ()))
    if request.content_length is not None and request.content_length > limit:
        raise TooLargeError(f"request body has {request.content_length} bytes, the limit is {limit}")
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.content.iter_any():
            size += len(chunk)
            if size > limit:
                raise TooLargeError(f"request body has more than {limit} bytes")
            chunks.append(chunk)
    except (ConnectionError, ClientPayloadError, RequestPayloadError) as error:
        raise RejectedError("request body ended early", reason="truncated") from error
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if encoding == "identity" or not body:
        return body
    if len(body) > _THREAD_BYTES:
        return await asyncio.to_thread(decompress, encoding, body, limit)
    return decompress(encoding, body, limit)


def content_encoding(values: Sequence[str]) -> str:
    """``identity``, ``gzip``, ``deflate`` or ``zstd``, from the values of the Content-Encoding headers.

    Raises RejectedError (reason ``unsupported_encoding``) for anything else, several encodings on top of each other
    included.
    """
    names = [name.strip().lower() for value in values for name in value.split(",") if name.strip()]
    if not names:
        return "identity"
    name = {"x-gzip": "gzip"}.get(names[0], names[0])
    if len(names) > 1 or name not in ("identity", "gzip", "deflate", "zstd"):
        raise RejectedError(
            "content encoding is not supported; known are gzip, deflate, zstd and identity, one at a time",
            reason="unsupported_encoding",
        )
    return name


def decompress(encoding: str, data: bytes, limit: int) -> bytes:
    """What ``data`` stands for. Stops soon after ``limit`` bytes of output, whatever the input claims to be.

    Raises TooLargeError past the limit, RejectedError for input that is broken, cut off or followed by something.
    """
    match encoding:
        case "gzip":
            return _inflate(data, limit, _GZIP_WBITS)
        case "deflate":
            return _inflate(data, limit, _ZLIB_WBITS if _is_zlib(data) else _RAW_WBITS)
        case "zstd":
            return _unzstd(data, limit)
        case _:
            raise ValueError(f"no decompressor for {encoding}")


def _is_zlib(data: bytes) -> bool:
    # Deflate is the zlib format by RFC 9110, but raw by habit of some senders. A raw stream cannot begin like this:
    # its first byte would announce a stored block and carry padding that no encoder writes.
    return len(data) >= 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0


def _inflate(data: bytes, limit: int, wbits: int) -> bytes:
    out: list[bytes] = []
    size = at = members = 0
    rest = b""
    try:
        while rest or at < len(data):
            decoder = isal_zlib.decompressobj(wbits=wbits)
            members += 1
            while not decoder.eof:
                if not rest:
                    rest = data[at : at + _INFLATE_SLICE]
                    at += len(rest)
                piece = decoder.decompress(rest, min(_OUTPUT_SLICE, limit - size + 1))
                rest = decoder.unconsumed_tail
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
                if piece:
                    out.append(piece)
                elif not decoder.eof and not rest and at == len(data):
                    raise _broken()
            rest = decoder.unused_data
            if (rest or at < len(data)) and (wbits != _GZIP_WBITS or members == _MAX_MEMBERS):
                raise _broken()
    except isal_zlib.error as error:  # type: ignore[misc]  # isal types the class as an instance
        raise _broken() from error
    return out[0] if len(out) == 1 else b"".join(out)


def _unzstd(data: bytes, limit: int) -> bytes:
    out: list[bytes] = []
    size = 0
    view = memoryview(data)
    factory = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    decoder = factory.decompressobj()
    at = 0
    frames = 1
    try:
        while at < len(view):
            if decoder.eof:
                decoder = factory.decompressobj()
                frames += 1
                if frames > _MAX_MEMBERS:
                    raise _broken()
            piece = decoder.decompress(view[at : at + _ZSTD_SLICE])
            at = min(at + _ZSTD_SLICE, len(view)) - len(decoder.unused_data)
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            out.append(piece)
    except zstandard.ZstdError as error:
        raise _broken() from error
    if not decoder.eof:
        raise _broken()
    return b"".join(out)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"request body has more than {limit} bytes after decompression")


def _broken() -> RejectedError:
    return RejectedError("request body is not what its content encoding says, or is cut off", reason="compression")


def http_status(error: RejectedError) -> int:
    """The HTTP status of a refusal that a repeat does not cure."""
    if isinstance(error, TooLargeError):
        return 413
    return 415 if error.reason == "unsupported_encoding" else 400


def _is_fit_to_log(record: logging.LogRecord) -> bool:
    """Whether aiohttp may say it: of what is no HTTP it would quote the line, which may be a header with a key in it.

    That, which any stranger can send, is said without it and only to whoever debugs.
    """
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    _log.debug("a request is no HTTP", extra={"error": type(error).__name__})
    return False


_http_log = logging.getLogger("grafter.receiver.http")
_http_log.addFilter(_is_fit_to_log)


class Tokens:
    """The bearer tokens that open a door; none at all leaves it open to everybody."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tuple(token.encode() for token in tokens)

    def allows(self, authorization: str | None) -> bool:
        """Whether an Authorization header carries one of the tokens.

        How long it takes does not tell which token, or how much of one, was right.
        """
        if not self._tokens:
            return True
        scheme, _, credentials = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer":
            return False
        given = credentials.strip().encode("utf-8", "surrogateescape")
        return max([hmac.compare_digest(given, token) for token in self._tokens])


def tls_context(cert_file: str, key_file: str, client_ca_file: str | None = None) -> ssl.SSLContext:
    """A server's TLS from PEM files: 1.2 and newer; with ``client_ca_file`` a client certificate is demanded.

    Raises ValueError that names the file which is wrong.
    """
    for path in (cert_file, key_file, client_ca_file):
        if path is not None:
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise ValueError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password of our own, OpenSSL would ask for one at the terminal and wait.
        context.load_cert_chain(cert_file, key_file, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{key_file}: the key does not belong to the certificate in {cert_file}") from error
        if not _holds_certificate(cert_file):
            raise ValueError(f"{cert_file}: no PEM certificate found") from error
        raise ValueError(f"{key_file}: no PEM private key without a password found") from error
    if client_ca_file is not None:
        if not _holds_certificate(client_ca_file):
            raise ValueError(f"{client_ca_file}: no PEM certificate found")
        context.load_verify_locations(cafile=client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _holds_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=path)
    except ssl.SSLError:
        return False
    return True


@asynccontextmanager
async def serving(
    app: web.Application,
    endpoint: str,
    tls: ssl.SSLContext | None,
    grace_seconds: float,
    *,
    share_port: bool = False,
) -> AsyncIterator[tuple[str, int]]:
    """Serve ``app`` at ``endpoint`` while the context is open; yields the host and the real port (0 picks a free one).

    With ``share_port`` other processes of grafter may listen at the same port; whoever starts them holds it.

    On leaving, nothing new is accepted from that moment on, idle connections are closed, and requests in flight are
    waited for up to ``grace_seconds``, then cancelled. Raises ValueError for an endpoint that is none and OSError,
    naming it, when it cannot be listened at.
    """
    host, _ = host_and_port(endpoint)
    sockets = await listening_sockets(endpoint, share_port=share_port)
    # aiohttp waits this long twice: for the handlers, then for those that it told that no more input comes.
    runner = web.AppRunner(
        app,
        auto_decompress=False,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=_KEEPALIVE_SECONDS,
        shutdown_timeout=grace_seconds / 2,
        logger=_http_log,
    )
    try:
        await runner.setup()
        for listener in sockets:
            await web.SockSite(runner, listener, ssl_context=tls, backlog=LISTEN_BACKLOG).start()
        yield host or "localhost", sockets[0].getsockname()[1]
    finally:
        await runner.cleanup()
        for listener in sockets:
            listener.close()
