"""What every HTTP door relies on: bounded bodies, tokens, TLS, a server that stops in order."""

import asyncio
import gzip
import io
import logging
import random
import socket
import ssl
import threading
import zlib
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
import zstandard
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from grafter.errors import RejectedError, TooLargeError
from grafter.receiver.compression import content_encoding, unpack
from grafter.receiver.http_body import read_body
from grafter.receiver.http_server import Tokens, serving, tls_context
from grafter.receiver.outcomes import refusal_of

MIB = 1 << 20


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


COMPRESSORS = {
    "gzip": [gzip.compress, lambda data: gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])],
    "deflate": [zlib.compress, raw_deflate, lambda data: zlib.compress(data, 0)],
    "zstd": [
        zstandard.ZstdCompressor().compress,
        zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compress,
        lambda data: (
            zstandard.ZstdCompressor().compress(data[: len(data) // 2])
            + zstandard.ZstdCompressor().compress(data[len(data) // 2 :])
        ),
    ],
}
WAYS = [(encoding, compress) for encoding, ways in COMPRESSORS.items() for compress in ways]


def decompress(encoding: str, data: bytes, limit: int) -> bytes:
    return asyncio.run(unpack(encoding, data, limit))


def refused(encoding: str, data: bytes, limit: int = MIB) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        decompress(encoding, data, limit)
    return caught.value


@pytest.mark.parametrize(("encoding", "compress"), WAYS)
@given(data=st.binary(max_size=5000), repeat=st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_decompress_is_the_inverse_of_compress(encoding, compress, data, repeat):
    """Whatever a compressor of the encoding wrote comes out as it was, up to the limit exactly."""
    whole = data * repeat
    assert decompress(encoding, compress(whole), len(whole)) == whole
    if whole:
        assert isinstance(refused(encoding, compress(whole), len(whole) - 1), TooLargeError)


@pytest.mark.parametrize(("encoding", "compress"), WAYS)
@pytest.mark.parametrize(
    ("data", "most_here"),
    [(b"small", 5), (bytes(64 * MIB), 32 * MIB), (random.Random(1).randbytes(MIB), 0)],
    ids=["small", "zeros", "large"],
)
async def test_what_is_much_is_unpacked_beside_the_loop(encoding, compress, data, most_here):
    """However small it came: no more than the first piece of it is unpacked on the loop, which of zstd may be long."""
    here, aside = [], []

    def take(size: int) -> None:
        (here if threading.current_thread() is threading.main_thread() else aside).append(size)

    assert await unpack(encoding, compress(data), len(data), take) == data
    assert sum(here) + sum(aside) == len(data)
    assert sum(here) <= most_here
    assert aside or data == b"small"


@pytest.mark.parametrize(("encoding", "compress"), WAYS)
@given(data=st.binary(min_size=1, max_size=300), cut=st.integers(0, 400))
@settings(max_examples=25, deadline=None)
def test_cut_off_input_is_refused(encoding, compress, data, cut):
    """A compressed body that ends early never passes for a shorter whole one."""
    packed = compress(data)
    head = packed[: cut % len(packed)]
    if not head:
        return
    try:
        found = decompress(encoding, head, MIB)
    except RejectedError:
        return
    # Two members or frames, cut exactly between: that is a whole body.
    assert head + compress(b"") != packed
    assert found == data[: len(data) // 2]


@pytest.mark.parametrize("encoding", list(COMPRESSORS))
@given(data=st.binary(min_size=1, max_size=3000))
@settings(max_examples=50, deadline=None)
def test_garbage_is_refused_or_read_but_never_fails_otherwise(encoding, data):
    """Random bytes either read or are refused; no other exception leaves."""
    with suppress(RejectedError):
        decompress(encoding, data, MIB)


@pytest.mark.parametrize(("encoding", "compress"), [(e, c[0]) for e, c in COMPRESSORS.items()])
def test_what_follows_the_end_is_refused(encoding, compress):
    """Bytes behind a compressed body are not silently dropped."""
    assert refused(encoding, compress(b"body") + b"more").reason == "compression"


@pytest.mark.parametrize(("encoding", "compress"), WAYS[:1] + WAYS[3:4] + WAYS[5:6])
def test_a_bomb_stops_at_the_limit(encoding, compress):
    """A small body that stands for 256 MiB is refused as too large."""
    error = refused(encoding, compress(bytes(256 * MIB)), MIB)
    assert isinstance(error, TooLargeError)
    assert refusal_of(error).http == 413


@pytest.mark.parametrize(("encoding", "compress"), [(e, c[0]) for e, c in COMPRESSORS.items() if e != "deflate"])
def test_millions_of_empty_members_are_refused(encoding, compress):
    """Concatenated formats take no more members than an honest writer makes."""
    assert refused(encoding, compress(b"") * 20_000).reason == "compression"


def test_a_zstd_window_of_128_mib_is_refused():
    """A frame that asks for more window memory than RFC 9659 allows is refused."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert refused("zstd", packer.compress(bytes(MIB)) + packer.flush(), 2 * MIB).reason == "compression"


@pytest.mark.parametrize(
    ("values", "name"),
    [([], "identity"), (["identity"], "identity"), (["GZIP"], "gzip"), (["x-gzip"], "gzip"), ([" zstd "], "zstd")],
)
def test_known_encodings(values, name):
    """Encodings are read whatever their case; none at all is identity."""
    assert content_encoding(values) == name


@pytest.mark.parametrize("values", [["br"], ["gzip, zstd"], ["gzip", "gzip"], ["snappy"], ["gzip;q=1"]])
def test_unknown_and_chained_encodings_are_415(values):
    """An unknown encoding, or one on top of another, is refused with a reason that maps to 415."""
    with pytest.raises(RejectedError) as caught:
        content_encoding(values)
    assert caught.value.reason == "unsupported_encoding"
    assert refusal_of(caught.value).http == 415


def test_no_tokens_allow_everybody():
    """A door without tokens asks for none."""
    assert Tokens([]).allows(None)
    assert Tokens([]).allows("Bearer whatever")


def test_only_a_listed_bearer_token_opens():
    """The scheme's case is forgiven, nothing else."""
    tokens = Tokens(["first-token", "zweites-tökén"])
    for good in ("Bearer first-token", "bearer first-token", "BEARER  first-token ", "Bearer zweites-tökén"):
        assert tokens.allows(good)
    for bad in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "first-token",
        "Basic first-token",
        "Bearer first",
        "Bearer FIRST-TOKEN",
    ):
        assert not tokens.allows(bad)
    assert not tokens.allows("Bearer \udce4")


def test_tls_errors_name_the_file(certificates, tmp_path):
    """A missing, empty, foreign or locked file is named by the error."""
    good = certificates.server
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    cases = [
        (str(tmp_path / "no.pem"), good.key_file, None, "no.pem"),
        (good.cert_file, str(tmp_path / "no.key"), None, "no.key"),
        (good.cert_file, good.key_file, str(tmp_path / "no-ca.pem"), "no-ca.pem"),
        (str(empty), good.key_file, None, "empty.pem"),
        (good.cert_file, str(empty), None, "empty.pem"),
        (good.cert_file, good.key_file, str(empty), "empty.pem"),
        (good.cert_file, str(certificates.client_key), None, "client.key"),
        (good.cert_file, str(tmp_path), None, tmp_path.name),
    ]
    for cert, key, ca, named in cases:
        with pytest.raises(ValueError, match=r": ") as caught:
            tls_context(cert, key, ca)
        assert named in str(caught.value).split(": ")[0]


async def echo(request: web.Request) -> web.Response:
    try:
        return web.Response(body=await read_body(request, MIB))
    except RejectedError as error:
        return web.Response(status=refusal_of(error).http, text=error.reason)


@asynccontextmanager
async def echoing(endpoint: str = "localhost:0", tls: ssl.SSLContext | None = None):
    app = web.Application()
    app.router.add_post("/", echo)
    async with serving(app, endpoint, tls, 1.0) as (host, port):
        yield f"{'https' if tls else 'http'}://{host}:{port}/"


async def chunked(body: bytes):
    for at in range(0, len(body), 50_000):
        yield body[at : at + 50_000]


@pytest.mark.parametrize(("encoding", "compress"), WAYS)
async def test_a_compressed_body_arrives(encoding, compress):
    """A body arrives as it was before compression, small or large, with a length or chunked."""
    async with echoing() as url, aiohttp.ClientSession() as session:
        for body in (b"", b"small", bytes(range(256)) * 4000):
            for data in (io.BytesIO(compress(body)), chunked(compress(body))):
                async with session.post(url, data=data, headers={"Content-Encoding": encoding}) as answer:
                    assert (answer.status, await answer.read()) == (200, body)


async def test_limits_hold_before_and_after_decompression():
    """Too large as sent, by its length or chunked, and too large once decompressed are 413 all three."""
    async with echoing() as url, aiohttp.ClientSession() as session:
        for data, headers in (
            (io.BytesIO(bytes(MIB + 1)), {}),
            (chunked(bytes(MIB + 1)), {}),
            (gzip.compress(bytes(MIB + 1)), {"Content-Encoding": "gzip"}),
        ):
            async with session.post(url, data=data, headers=headers) as answer:
                assert (answer.status, await answer.text()) == (413, "too_large")
        async with session.post(url, data=io.BytesIO(bytes(MIB))) as answer:
            assert answer.status == 200


async def test_a_huge_length_is_refused_before_the_body():
    """A request that announces too much gets its answer while the body is still missing."""
    async with echoing() as url:
        port = int(url.rsplit(":", 1)[1].rstrip("/"))
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
        assert b" 413 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("tail", ["\0", "x" * 9000], ids=["a bad character", "too long"])
async def test_a_request_that_is_no_http_puts_no_header_into_the_log(tail, caplog):
    """A key with a stray byte behind it is one such request; at no level does the log quote it."""
    caplog.set_level(logging.DEBUG)
    async with echoing("127.0.0.1:0") as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
        writer.write(f"POST / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-secret{tail}\r\n\r\n".encode())
        assert b" 400 " in await reader.readline()
        writer.close()
    assert "sk-secret" not in caplog.text
    assert [record.levelname for record in caplog.records if record.name.startswith("grafter")] == ["DEBUG"]


async def test_a_body_that_ends_early_is_no_body():
    """A connection that is cut in the middle of a body hands nothing on."""
    seen: list[str] = []
    read = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        try:
            await read_body(request, MIB)
        except RejectedError as error:
            seen.append(error.reason)
        read.set()
        return web.Response()

    app = web.Application()
    app.router.add_post("/", handle)
    async with serving(app, "localhost:0", None, 1.0) as (host, port):
        for head, part in (("Content-Length: 100", "abc"), ("Transfer-Encoding: chunked", "64\r\nabc")):
            read.clear()
            _, writer = await asyncio.open_connection(host, port)
            writer.write(f"POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{part}".encode())
            await writer.drain()
            writer.close()
            await asyncio.wait_for(read.wait(), 5)
    assert seen == ["truncated", "truncated"]


async def test_port_in_use_is_said_with_the_endpoint():
    """A second server at the same endpoint fails at once and names it."""
    async with echoing() as url:
        endpoint = url.removeprefix("http://").rstrip("/")
        with pytest.raises(OSError, match=f"endpoint {endpoint}: address already in use"):
            async with echoing(endpoint):
                pass


async def test_an_unknown_host_is_said_with_the_endpoint():
    """A host that does not resolve is named with its endpoint."""
    with pytest.raises(OSError, match=r"endpoint no-such-host\.invalid:1: host not found"):
        async with echoing("no-such-host.invalid:1"):
            pass


async def test_stopping_answers_what_is_in_flight_and_takes_nothing_new():
    """While a request is in flight, leaving refuses new connections at once, answers it, and closes idle ones."""
    entered, gate = asyncio.Event(), asyncio.Event()
    leaving = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        if request.query_string:
            entered.set()
            await gate.wait()
        return web.Response(text="done")

    async def serve(ready: "asyncio.Future[tuple[str, int]]") -> None:
        app = web.Application()
        app.router.add_get("/", handle)
        async with serving(app, "localhost:0", None, 20.0) as address:
            ready.set_result(address)
            await leaving.wait()

    async with asyncio.TaskGroup() as tasks, aiohttp.ClientSession() as session:
        ready = asyncio.get_running_loop().create_future()
        server = tasks.create_task(serve(ready))
        host, port = await ready
        idle_reader, idle_writer = await asyncio.open_connection(host, port)
        idle_writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 200 " in await idle_reader.readline()
        answer = tasks.create_task(session.get(f"http://{host}:{port}/?wait"))
        await entered.wait()
        leaving.set()
        await asyncio.wait_for(idle_reader.read(), 5)
        assert idle_reader.at_eof()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(host, port)
        assert not server.done()
        gate.set()
        assert await (await answer).text() == "done"
        idle_writer.close()


async def test_a_request_that_never_ends_is_cancelled_after_the_grace():
    """A handler that hangs holds a stop no longer than the grace."""
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", hang)
    async with serving(app, "localhost:0", None, 0.2) as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await entered.wait()
    assert cancelled.is_set()
    assert await reader.read() == b""
    writer.close()


async def test_tls_and_client_certificates(certificates):
    """TLS answers a client that trusts the CA; with a client CA, only one that shows a certificate."""
    trusting = ssl.create_default_context(cafile=str(certificates.ca))
    known = ssl.create_default_context(cafile=str(certificates.ca))
    known.load_cert_chain(certificates.client_cert, certificates.client_key)
    plain, mutual = certificates.server, certificates.server_mutual
    async with (
        echoing(tls=tls_context(plain.cert_file, plain.key_file)) as url,
        aiohttp.ClientSession() as session,
        session.post(url, data=b"x", ssl=trusting) as answer,
    ):
        assert await answer.read() == b"x"
    tls = tls_context(mutual.cert_file, mutual.key_file, mutual.client_ca_file)
    async with echoing(tls=tls) as url, aiohttp.ClientSession() as session:
        async with session.post(url, data=b"x", ssl=known) as answer:
            assert await answer.read() == b"x"
        with pytest.raises(aiohttp.ClientError):
            await session.post(url, data=b"x", ssl=trusting)


async def test_localhost_listens_on_every_family_with_one_port():
    """Asked for a free port on localhost, IPv4 and IPv6 (where there is one) get the same."""
    async with echoing() as url:
        port = int(url.rsplit(":", 1)[1].rstrip("/"))
        for _, _, _, _, address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM):
            _, writer = await asyncio.open_connection(address[0], port)
            writer.close()
            await writer.wait_closed()


async def test_connections_past_the_bound_are_answered_and_closed(caplog):
    """Idle connections take no more descriptors than the server may have: the next is told to come again, and gets in
    when one of them has gone."""
    app = web.Application()

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="in")

    app.router.add_get("/", answer)

    async def ask(port: int, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found = b""
        with suppress(ConnectionError):
            writer.write(request)
            found = await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return found

    async with serving(app, "127.0.0.1:0", None, 1.0, max_connections=3) as (_, port), asyncio.timeout(60):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in idle:
            # Known to the server once it has answered.
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for reader, _ in idle:
            await reader.readuntil(b"in")
        for _ in range(5):
            # Without a request: one that crosses the close on its way would reset the connection.
            assert b"503" in await ask(port, b"")
        assert caplog.text.count("too many connections") == 1
        idle[0][1].close()
        await idle[0][1].wait_closed()
        while b" 200 " not in await ask(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
            pass
        for _, writer in idle[1:]:
            writer.close()
