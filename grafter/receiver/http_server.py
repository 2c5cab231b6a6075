"""What every HTTP server needs: bearer tokens, TLS, a bound on connections, and an end in order."""

import asyncio
import hmac
import logging
import resource
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from grafter.logs import Throttle
from grafter.receiver.address import LISTEN_BACKLOG, host_and_port, listening_sockets
from grafter.receiver.in_flight import Held, InFlight

_log = logging.getLogger(__name__)

# Above the 60 s at which most load balancers drop an idle connection, so that they close first and no request of
# theirs meets a closing socket.
_KEEPALIVE_SECONDS = 75.0
LOCAL = "localhost"
"""The Host that a command asks for, whatever the address is called."""

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
# However few descriptors there are: an operator and a sender still get in.
_FEWEST_CONNECTIONS = 16


HELD = web.RequestKey("held", Held)
"""What a request holds of the budget of bytes in flight; each that came by ``serving`` has it."""


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
    """The bearer tokens that open a receiver; none at all leaves it open to everybody."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tuple(token.encode() for token in tokens)

    def __bool__(self) -> bool:
        return bool(self._tokens)

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


def is_local(request: web.Request) -> bool:
    """Whether a process of this machine asks, and not a page or a proxy for somebody else."""
    return _is_from_here(request) and _names_this_machine(request)


def comes_from_a_page(request: web.Request) -> bool:
    """Whether a web page sent it, as far as a request tells: browsers say the page's Origin with each post, and a name
    that somebody made point to this machine is the Host that was asked for. Of others, who could say anything, no more
    is asked."""
    if "Origin" in request.headers:
        return True
    return _is_from_here(request) and not _names_this_machine(request)


def _is_from_here(request: web.Request) -> bool:
    """The other end is this machine, and no proxy that says so."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not isinstance(peer, tuple) or any(name in request.headers for name in _FORWARDED):
        return False
    try:
        address = ip_address(str(peer[0]).partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _names_this_machine(request: web.Request) -> bool:
    name = request.headers.get("Host", LOCAL).strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0].removesuffix(".")
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == LOCAL


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


def connections_limit() -> int:
    """Connections that a server keeps at a time: an eighth of the file descriptors that this process may have, so that
    five servers leave some to the store and the backends, however many only connect."""
    return max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8, _FEWEST_CONNECTIONS)


@dataclass(slots=True)
class _Accept:
    """What becomes of a new connection. Idle ones must not take the descriptors that everything else lives from."""

    server: web.Server
    endpoint: str
    limit: int
    throttle: Throttle = field(default_factory=Throttle)

    def __call__(self) -> asyncio.Protocol:
        if len(self.server.connections) < self.limit:
            return self.server()
        if refused := self.throttle.due():
            _log.warning("too many connections", extra={"endpoint": self.endpoint, "refused": refused})
        return _Full()


class _Full(asyncio.Protocol):
    """An answer to a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: uvloop's transports are asyncio's by shape only.
        stream = cast(asyncio.WriteTransport, transport)
        stream.write(_FULL)
        stream.close()


def _holding(in_flight: InFlight) -> Middleware:
    @web.middleware
    async def hold(request: web.Request, handler: Handler) -> web.StreamResponse:
        with in_flight.request(request.protocol) as held:
            request[HELD] = held
            return await handler(request)

    return hold


@asynccontextmanager
async def serving(
    app: web.Application,
    endpoint: str,
    tls: ssl.SSLContext | None,
    grace_seconds: float,
    *,
    share_port: bool = False,
    max_connections: int | None = None,
    in_flight: InFlight | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """Serve ``app`` at ``endpoint`` while the context is open; yields the host and the real port (0 picks a free one).

    With ``share_port`` other processes of grafter may listen at the same port; whoever starts them holds it.
    Past ``max_connections`` a new connection is answered 503 and closed; None: ``connections_limit``.
    ``in_flight``: what the bodies of requests count in; None: a budget of this server's own.

    On leaving, nothing new is accepted from that moment on, idle connections are closed, and requests in flight are
    waited for up to ``grace_seconds``, then cancelled. Raises ValueError for an endpoint that is none and OSError,
    naming it, when it cannot be listened at.
    """
    host, _ = host_and_port(endpoint)
    app.middlewares.append(_holding(in_flight or InFlight()))
    sockets = await listening_sockets(endpoint, share_port=share_port)
    # aiohttp waits this long twice: for the handlers, then for those to which it signalled that no more input comes.
    runner = web.AppRunner(
        app,
        auto_decompress=False,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=_KEEPALIVE_SECONDS,
        shutdown_timeout=grace_seconds / 2,
        logger=_http_log,
    )
    limit = max_connections or connections_limit()
    stack = ExitStack()
    try:
        await runner.setup()
        assert runner.server is not None
        accept = _Accept(runner.server, endpoint, limit)
        loop = asyncio.get_running_loop()
        for listener in sockets:
            server = await loop.create_server(accept, sock=listener, ssl=tls, backlog=LISTEN_BACKLOG)
            stack.callback(server.close)
        yield host or "localhost", sockets[0].getsockname()[1]
    finally:
        stack.close()
        await runner.cleanup()
        for listener in sockets:
            listener.close()
