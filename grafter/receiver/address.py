"""Addresses to listen at: bound alone, so that nobody else gets the port, or shared with the other workers.

By itself SO_REUSEPORT lets any two processes of one user share a port, two grafters started by mistake too. So a port
is first bound alone, which fails as it should when somebody has it, and then handed over without a moment in between
to a socket that lets others share it but never listens. While that one lives, only workers get in.
"""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

LISTEN_BACKLOG = 1024


def host_and_port(endpoint: str) -> tuple[str, int]:
    """An endpoint ``host:port`` in its two parts; an IPv6 host stands in brackets, an empty one means every address.

    Raises ValueError.
    """
    host, colon, port = endpoint.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and not bracketed):
        raise ValueError(f"endpoint {endpoint}: expected host:port")
    return host[1:-1] if bracketed else host, int(port)


async def check_endpoint(endpoint: str) -> None:
    """For servers that listen by themselves and do not say why they cannot: raises what ``serving`` would raise."""
    for listener in await listening_sockets(endpoint):
        listener.close()


async def check_all(endpoints: Iterable[tuple[str, str]]) -> None:
    """Raises OSError that names every endpoint that cannot be listened at, each with its key; the first alone would be
    mended alone, and the next start would name the next.

    ``endpoints``: keys and endpoints.
    """
    wrong: list[str] = []
    number: int | None = None
    for key, endpoint in endpoints:
        try:
            await check_endpoint(endpoint)
        except OSError as error:
            wrong.append(f"{key}: {(error.strerror or str(error)).removeprefix('endpoint ')}")
            number = error.errno
    if wrong:
        raise OSError(number, "; ".join(wrong))


@asynccontextmanager
async def holding(endpoint: str) -> AsyncIterator[int]:
    """Hold the port of ``endpoint`` for processes that listen there with a shared port; yields it (0 picks a free one).

    Nothing is taken here: connections are refused until one of them listens. Raises as ``listening_sockets`` does, and
    OSError where the system cannot share ports.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise OSError(errno.ENOTSUP, f"endpoint {endpoint}: this system cannot share a port between processes")
    alone = await listening_sockets(endpoint)
    held: list[socket.socket] = []
    try:
        for listener in alone:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder = socket.socket(listener.family, listener.type, listener.proto)
            held.append(holder)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if listener.family == socket.AF_INET6:
                holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Without SO_REUSEADDR, which would let a second grafter in: it holds beside anything that does not listen.
            holder.bind(listener.getsockname())
        port: int = alone[0].getsockname()[1]
        for listener in alone:
            listener.close()
        yield port
    finally:
        for one in (*alone, *held):
            one.close()


async def listening_sockets(endpoint: str, *, share_port: bool = False) -> list[socket.socket]:
    """One listening socket for each address of the endpoint's host, all with the same port, 0 being any free one.

    Raises ValueError for an endpoint that is none and OSError, naming it, when it cannot be listened at.
    """
    host, port = host_and_port(endpoint)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, f"endpoint {endpoint}: host not found") from error
    # Asked for a free port, only the first address can choose; the others take the same.
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            chosen = bound[0].getsockname()[1] if bound and not port else port
            try:
                bound.append(_bound(family, kind, protocol, (address[0], chosen, *address[2:]), share_port))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    if bound and not port:
                        continue
                    raise
                # A host without IPv6 (a container, often) still resolves localhost to ::1.
                missing = error
        if not bound and missing is not None:
            raise missing
    except OSError as error:
        for listener in bound:
            listener.close()
        raise OSError(error.errno, f"endpoint {endpoint}: {(error.strerror or str(error)).lower()}") from error
    return bound


def _bound(family: int, kind: int, protocol: int, address: tuple[str | int, ...], share_port: bool) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        # A restart must not wait for the last connections of the process before it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(LISTEN_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
