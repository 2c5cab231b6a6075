"""A request's body, bounded: a sender decides neither how much memory it takes nor how long it blocks the event loop,
compressed or not.

Nothing here knows what a body means.
"""

import asyncio
import mmap

from aiohttp import ClientPayloadError, web
from aiohttp.web_protocol import RequestPayloadError

from grafter.core.large_json import values_in
from grafter.errors import RejectedError, TooLargeError, UnavailableError
from grafter.guests.json_values import parse_json
from grafter.receiver.compression import Take, content_encoding, unpack
from grafter.receiver.http_server import HELD
from grafter.tasks import in_thread_if

# To count the values of more would hold the event loop for some milliseconds.
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


async def read_body(request: web.Request, limit: int, *, in_turn: bool = True) -> bytes:
    """The request's body, decompressed, at most ``limit`` bytes long before and after.

    The application must be served by ``serving``, without aiohttp's own decompression; the body counts in the budget of
    bytes in flight, declared bytes before one of them is read, and is read when it is its turn, which lasts
    until the answer. ``in_turn`` False: it has none; its answer may take long by its nature.
    Raises TooLargeError, UnsupportedError for an encoding that is not known, RejectedError for broken compression or a
    body that ended early (reason ``truncated``), and UnavailableError where the budget is spent, the turn does not
    come in time, or nothing came of the body for BODY_SECONDS.
    """
    encoding = content_encoding(request.headers.getall("Content-Encoding", ()))
    if request.content_length is not None and request.content_length > limit:
        raise TooLargeError(f"request body has {request.content_length} bytes, the limit is {limit}")
    held = request[HELD]
    if in_turn:
        await held.turn()
        with held.reading():
            body = await _received(request, limit, held.take)
        await held.read(len(body))
    else:
        body = await _received(request, limit, held.take)
    if encoding == "identity" or not body:
        return body
    return await unpack(encoding, body, limit, held.take, held.unpacking)


async def read_json_body(request: web.Request, limit: int, *, in_turn: bool = True) -> bytes:
    """A body that is to be read as JSON, one document or lines: as ``read_body``, and bounded in values.

    What its values will take once they are read counts in the budget too. Raises TooLargeError past MAX_VALUES, and
    where they alone would take more than the budget: waiting would not help. Raises OSError (ENOMEM) where there is no
    memory for them.
    """
    body = await read_body(request, limit, in_turn=in_turn)
    values = await in_thread_if(len(body) > _THREAD_BYTES, values_in, body)
    most = min(MAX_VALUES, FEW_VALUES + len(body) // VALUE_LEAST)
    if values > most:
        raise TooLargeError(f"request body of {len(body)} bytes has {values:,} JSON values; {_SPLIT} {most:,}")
    held, size = request[HELD], values * _VALUE_BYTES
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


async def _received(request: web.Request, limit: int, take: Take) -> bytes:
    declared = request.content_length or 0
    take(declared)
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            async with asyncio.timeout(BODY_SECONDS):
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
        raise UnavailableError(f"nothing came of the body for {BODY_SECONDS:g} s", reason="slow_body") from None
    except (ConnectionError, ClientPayloadError, RequestPayloadError) as error:
        raise RejectedError("request body ended early", reason="truncated") from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


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
