"""A request's body, bounded: a sender decides neither how much memory it takes nor how long it blocks the event loop,
compressed or not.

Nothing here knows what a body means.
"""

import asyncio
import mmap
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import zstandard
from aiohttp import ClientPayloadError, web
from aiohttp.web_protocol import RequestPayloadError
from isal import isal_zlib

from grafter.core.large_json import values_in
from grafter.errors import RejectedError, TooLargeError, UnavailableError
from grafter.guests.json_values import parse_json
from grafter.receiver.http_server import HELD
from grafter.receiver.outcomes import UnsupportedError

# The largest window that a sender of Content-Encoding zstd may ask for. Source: RFC 9659, section 3.
_ZSTD_WINDOW = 8 << 20
# zstandard's push interface has no bound on what one call gives back, so the bound is on what goes in: a block of
# 128 KiB takes at least four bytes, so a slice of 1 KiB gives at most 32 MiB more than the limit. Also the fastest
# slice measured, since its output stays in the cache.
_ZSTD_SLICE = 1 << 10
# In what it says where its window cannot be allocated: not a word about the body.
_NO_MEMORY = "not enough memory"
_INFLATE_SLICE = 16 << 10
_OUTPUT_SLICE = 1 << 20
# Both formats may be concatenated. Some writers use that for blocks of 64 KiB; a body of millions of empty members
# would only burn time.
_MAX_MEMBERS = 10_000
# Decompressing more than this would hold the event loop for some milliseconds; the libraries release the GIL.
_THREAD_BYTES = 64 << 10

BODY_SECONDS = 30.0
"""Of silence within a body: a sender that is gone, or that only holds what it has taken."""

MAX_VALUES = 1_000_000
"""JSON values of one body: some 20 MB as SDKs write OTLP, and what they take once they are read fits into the budget of
all requests."""
FEW_VALUES, VALUE_LEAST = 200_000, 6
"""Past so many a body has at least so many bytes a value, unless it is made of nothing but values: those of an SDK have
ten to thirty, with their keys."""
# What a value takes at most while it is read and made a request of, with its share of what it stands in: 60 (empty
# lists) to 233 (objects of one new key each) were measured.
_VALUE_BYTES = 240
_SPLIT = "send less at a time, the most is"

_GZIP_WBITS = 31
_ZLIB_WBITS = 15
_RAW_WBITS = -15


_Take = Callable[[int], None]


async def read_body(request: web.Request, limit: int, *, seconds: float = BODY_SECONDS, in_turn: bool = True) -> bytes:
    """The request's body, decompressed, at most ``limit`` bytes long before and after.

    The application must be served without aiohttp's own decompression (``serving`` does); the body then counts in the
    budget of bytes in flight, declared bytes before one of them is read, and is read when it is its turn, which lasts
    until the answer. ``in_turn`` False: it has none; its answer may take long by its nature.
    Raises TooLargeError, UnsupportedError for an encoding that is not known, RejectedError for broken compression or a
    body that ended early (reason ``truncated``), and UnavailableError where the budget is spent, the turn does not
    come in time, or nothing came of the body for ``seconds``.
    """
    encoding = content_encoding(request.headers.getall("Content-Encoding", ()))
    if request.content_length is not None and request.content_length > limit:
        raise TooLargeError(f"request body has {request.content_length} bytes, the limit is {limit}")
    held = request.get(HELD)
    take = _nothing if held is None else held.take
    if held is None or not in_turn:
        body = await _received(request, limit, take, seconds)
    else:
        await held.turn()
        with held.reading():
            body = await _received(request, limit, take, seconds)
        await held.read(len(body))
    if encoding == "identity" or not body:
        return body
    if len(body) > _THREAD_BYTES:
        async with nullcontext() if held is None else held.unpacking:
            return await asyncio.to_thread(decompress, encoding, body, limit, take)
    return decompress(encoding, body, limit, take)


async def read_json_body(
    request: web.Request, limit: int, *, seconds: float = BODY_SECONDS, in_turn: bool = True
) -> bytes:
    """A body that is to be read as JSON, one document or lines: as ``read_body``, and bounded in values.

    What its values will take once they are read counts in the budget too. Raises TooLargeError past MAX_VALUES, and
    where they alone would take more than the budget: waiting would not help. Raises OSError (ENOMEM) where there is no
    memory for them.
    """
    body = await read_body(request, limit, seconds=seconds, in_turn=in_turn)
    values = values_in(body) if len(body) <= _THREAD_BYTES else await asyncio.to_thread(values_in, body)
    most = min(MAX_VALUES, FEW_VALUES + len(body) // VALUE_LEAST)
    if values > most:
        raise TooLargeError(f"request body of {len(body)} bytes has {values:,} JSON values; {_SPLIT} {most:,}")
    held, size = request.get(HELD), values * _VALUE_BYTES
    if held is not None:
        if size > held.limit:
            most = held.limit // _VALUE_BYTES
            raise TooLargeError(
                f"request body of {len(body)} bytes has {values:,} JSON values, which take {size:,} bytes once they are"
                f" read; {_SPLIT} {most:,}"
            )
        held.take(size)
    if len(body) > _THREAD_BYTES:
        _try_for(2 * len(body) + size)
    return body


def _try_for(size: int) -> None:
    """Raises OSError (ENOMEM) where the process is not given so many bytes now, none of which is touched.

    What is refused here is not left to the reader: orjson 3.13 writes a string through a null pointer where there is no
    memory for it, and the process ends.
    """
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def _nothing(_size: int) -> None:
    """Where nothing is bounded."""


async def _received(request: web.Request, limit: int, take: _Take, seconds: float) -> bytes:
    declared = request.content_length or 0
    take(declared)
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            async with asyncio.timeout(seconds):
                chunk = await request.content.readany()
            if not chunk:
                break
            size += len(chunk)
            if size > limit:
                raise TooLargeError(f"request body has more than {limit} bytes")
            if size > declared:
                take(len(chunk))
            chunks.append(chunk)
    except TimeoutError:
        raise UnavailableError(f"nothing came of the body for {seconds:g} s", reason="slow_body") from None
    except (ConnectionError, ClientPayloadError, RequestPayloadError) as error:
        raise RejectedError("request body ended early", reason="truncated") from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def content_encoding(values: Sequence[str]) -> str:
    """``identity``, ``gzip``, ``deflate`` or ``zstd``, from the values of the Content-Encoding headers.

    Raises UnsupportedError for anything else, several encodings on top of each other included.
    """
    names = [name.strip().lower() for value in values for name in value.split(",") if name.strip()]
    if not names:
        return "identity"
    name = {"x-gzip": "gzip"}.get(names[0], names[0])
    if len(names) > 1 or name not in ("identity", "gzip", "deflate", "zstd"):
        raise UnsupportedError(
            "content encoding is not supported; known are gzip, deflate, zstd and identity, one at a time"
        )
    return name


def decompress(encoding: str, data: bytes, limit: int, take: _Take = _nothing) -> bytes:
    """What ``data`` stands for. Stops soon after ``limit`` bytes of output, whatever the input claims to be.

    ``take`` is asked for each piece of it, and may raise.

    Raises TooLargeError past the limit, RejectedError for input that is broken, cut off or followed by something.
    """
    match encoding:
        case "gzip":
            return _inflate(data, limit, _GZIP_WBITS, take)
        case "deflate":
            return _inflate(data, limit, _ZLIB_WBITS if _is_zlib(data) else _RAW_WBITS, take)
        case "zstd":
            return _unzstd(data, limit, take)
        case _:
            raise ValueError(f"no decompressor for {encoding}")


def _is_zlib(data: bytes) -> bool:
    # Deflate is the zlib format by RFC 9110, but raw by habit of some senders. A raw stream cannot begin like this:
    # its first byte would announce a stored block and carry padding that no encoder writes.
    return len(data) >= 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0


def _inflate(data: bytes, limit: int, wbits: int, take: _Take) -> bytes:
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
                    take(len(piece))
                    out.append(piece)
                elif not decoder.eof and not rest and at == len(data):
                    raise _broken()
            rest = decoder.unused_data
            if (rest or at < len(data)) and (wbits != _GZIP_WBITS or members == _MAX_MEMBERS):
                raise _broken()
    except isal_zlib.error as error:  # type: ignore[misc]  # isal types the class as an instance
        raise _broken() from error
    return out[0] if len(out) == 1 else b"".join(out)


def _unzstd(data: bytes, limit: int, take: _Take) -> bytes:
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
            take(len(piece))
            out.append(piece)
    except zstandard.ZstdError as error:
        if _NO_MEMORY in str(error):
            raise MemoryError from error
        raise _broken() from error
    if not decoder.eof:
        raise _broken()
    return b"".join(out)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"request body has more than {limit} bytes after decompression")


def _broken() -> RejectedError:
    return RejectedError("request body is not what its content encoding says, or is cut off", reason="compression")


def json_object(body: bytes, expected: str = "") -> dict[str, object]:
    """The JSON object that a body is; ``expected``: what it should hold, for whoever posted something else.

    Raises RejectedError, with a message that quotes nothing.
    """
    holding = f" with {expected}" if expected else ""
    try:
        posted = parse_json(body)
    except ValueError as error:
        raise RejectedError(f"{error}; expected a JSON object{holding}", reason="json") from error
    if not isinstance(posted, dict):
        raise RejectedError(f"body is no JSON object{holding and f'; expected one{holding}'}", reason="shape")
    return posted
