"""What compressed bytes stand for, bounded: a sender decides neither how much memory that takes nor how long it blocks
the event loop.

Nothing here knows how the bytes came, or what they mean.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import zstandard
from isal import isal_zlib

from grafter.errors import RejectedError, TooLargeError
from grafter.receiver.outcomes import UnsupportedError
from grafter.tasks import in_thread

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
# To unpack more than this, or into more than that, would hold the event loop for some milliseconds; the libraries
# release the GIL.
_THREAD_BYTES, _THREAD_OUTPUT = 64 << 10, 1 << 20

_GZIP_WBITS = 31
_ZLIB_WBITS = 15
_RAW_WBITS = -15
_GZIP_MAGIC = b"\x1f\x8b"

Take = Callable[[int], None]


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


def encoding_of(message: bytes) -> str:
    """``gzip``, ``deflate`` or ``identity``, by how a message of gRPC begins.

    An OTLP request is not mistaken for either: all that it has is in fields that begin with a length, while to protobuf
    gzip begins with what is no field, and zlib, with a window of any size, with a number.
    """
    if message.startswith(_GZIP_MAGIC):
        return "gzip"
    return "deflate" if _is_zlib(message) else "identity"


def nothing(_size: int) -> None:
    """Where nothing is bounded."""


async def unpack(
    encoding: str,
    data: bytes,
    limit: int,
    take: Take = nothing,
    unpacking: AbstractAsyncContextManager[object] | None = None,
) -> bytes:
    """What ``data`` stands for. Stops soon after ``limit`` bytes of output, whatever the input claims to be.

    ``take`` is asked for each piece of it, and may raise. In a thread as soon as it is much, within ``unpacking``.
    Raises TooLargeError past the limit, RejectedError for input that is broken, cut off or followed by something.
    """
    pieces = _pieces(encoding, data, limit, take)
    begun: list[bytes] = []
    if len(data) <= _THREAD_BYTES:
        size = 0
        for piece in pieces:
            begun.append(piece)
            size += len(piece)
            if size >= _THREAD_OUTPUT:
                break
        else:
            return _joined(begun, ())
    async with unpacking or nullcontext():
        return await in_thread(_joined, begun, pieces)


def _joined(begun: list[bytes], pieces: Iterator[bytes] | tuple[()]) -> bytes:
    begun.extend(pieces)
    return begun[0] if len(begun) == 1 else b"".join(begun)


def _pieces(encoding: str, data: bytes, limit: int, take: Take) -> Iterator[bytes]:
    match encoding:
        case "gzip":
            return _inflated(data, limit, _GZIP_WBITS, take)
        case "deflate":
            return _inflated(data, limit, _ZLIB_WBITS if _is_zlib(data) else _RAW_WBITS, take)
        case "zstd":
            return _unzstd(data, limit, take)
        case _:
            raise ValueError(f"no decompressor for {encoding}")


def _is_zlib(data: bytes) -> bool:
    # Deflate is the zlib format by RFC 9110, but raw by habit of some senders. A raw stream cannot begin like this:
    # its first byte would announce a stored block and carry padding that no encoder writes.
    return len(data) >= 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0


def _inflated(data: bytes, limit: int, wbits: int, take: Take) -> Iterator[bytes]:
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
                    yield piece
                elif not decoder.eof and not rest and at == len(data):
                    raise _broken()
            rest = decoder.unused_data
            if (rest or at < len(data)) and (wbits != _GZIP_WBITS or members == _MAX_MEMBERS):
                raise _broken()
    except isal_zlib.error as error:  # type: ignore[misc]  # isal types the class as an instance
        raise _broken() from error


def _unzstd(data: bytes, limit: int, take: Take) -> Iterator[bytes]:
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
            yield piece
    except zstandard.ZstdError as error:
        if _NO_MEMORY in str(error):
            raise MemoryError from error
        raise _broken() from error
    if not decoder.eof:
        raise _broken()


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"request body has more than {limit} bytes after decompression")


def _broken() -> RejectedError:
    return RejectedError("request body is not what its content encoding says, or is cut off", reason="compression")
