"""Addresses to listen at: bound alone, or shared by those for whom somebody holds them."""

import asyncio
import socket
from contextlib import closing

import pytest

from grafter.receiver.address import check_endpoint, holding, host_and_port, listening_sockets


@pytest.mark.parametrize(
    ("endpoint", "parts"),
    [
        ("localhost:4318", ("localhost", 4318)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:4318", ("::1", 4318)),
        (":4318", ("", 4318)),
    ],
)
def test_endpoints_are_host_and_port(endpoint, parts):
    """An endpoint reads as the Collector reads it."""
    assert host_and_port(endpoint) == parts


@pytest.mark.parametrize(
    "endpoint", ["localhost", "localhost:", "localhost:http", "::1:4318", "a:65536", "a:-1", "a:²"]
)
def test_what_is_no_endpoint_is_named(endpoint):
    """A wrong endpoint raises ValueError with its text."""
    with pytest.raises(ValueError, match=r"expected host:port") as caught:
        host_and_port(endpoint)
    assert endpoint in str(caught.value)


async def test_a_held_port_is_shared_by_those_who_ask_for_it():
    """Two listeners share it, and what connects reaches one of them; without a listener it is refused."""
    async with holding("127.0.0.1:0") as port:
        endpoint = f"127.0.0.1:{port}"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        (first,) = await listening_sockets(endpoint, share_port=True)
        (second,) = await listening_sockets(endpoint, share_port=True)
        with closing(first), closing(second):
            asked = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
            taken = [accepted(listener) for listener in (first, second)]
            for one in asked:
                one.close()
    assert sum(taken) == 64
    # One chance in 2 ** 63 that all go to one.
    assert all(taken)


def accepted(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.mark.parametrize("listeners", [0, 2])
async def test_a_held_port_is_nobody_elses(listeners):
    """Whether its workers listen or not, a second holder and a process alone are refused, and the endpoint is named."""
    async with holding("localhost:0") as port:
        endpoint = f"localhost:{port}"
        shared = [await listening_sockets(endpoint, share_port=True) for _ in range(listeners)]
        with pytest.raises(OSError, match=f"endpoint {endpoint}: address already in use"):
            async with holding(endpoint):
                pass
        with pytest.raises(OSError, match=f"endpoint {endpoint}: address already in use"):
            await check_endpoint(endpoint)
        for listener in (one for listening in shared for one in listening):
            listener.close()
    async with holding(endpoint) as again:
        assert again == port


async def test_a_port_of_another_program_is_not_held():
    """A program that listens there, sharing or not, makes it an error of today's words."""
    for shares in (0, 1):
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
            other.bind(("127.0.0.1", 0))
            other.listen()
            endpoint = f"127.0.0.1:{other.getsockname()[1]}"
            with pytest.raises(OSError, match=f"endpoint {endpoint}: address already in use"):
                async with holding(endpoint):
                    pass
