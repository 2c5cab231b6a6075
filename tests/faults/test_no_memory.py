"""A process that is told that there is no memory (``ulimit -v``): what cannot be taken is refused with a hint, so that
its sender keeps it, and all is taken again when there is some.

Not through gRPC with messages that are larger than the memory that there is: core ends the process for them.
"""

import gzip
import io
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import zstandard

from tests.e2e.process import Grafter
from tests.faults.test_small_container import EXPORT, OPTIONS, template

ROOM = 24 << 20
LARGE, MANY = template(400, 120_000), template(10_000, 5)
"""46 MiB in few spans, and half a megabyte that takes twenty times as much while it is stored."""
SMALL = template(1, 1)
TRACE, SPAN = "000102030405060708090a0b0c0d0e0f", "0001020304050607"
JSON = json.dumps(
    {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": TRACE, "spanId": SPAN, "name": "x" * 3000}] * 15_000}]}]}
).encode()
UNLIMITED = 1 << 40
SPANS = {
    "as it is": 400,
    "gzip": 400,
    "zstd": 400,
    "JSON": 15_000,
    "many over HTTP": 10_000,
    "many over gRPC": 10_000,
    "small": 1,
    "small over gRPC": 1,
}
"""Of each way to send."""
TAKEN = dict.fromkeys(SPANS, "taken")


@dataclass
class Doors:
    """Both of them."""

    grafter: Grafter
    session: aiohttp.ClientSession
    call: "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
    sent: int = 0

    def numbered(self, body: bytes) -> bytes:
        """With trace ids of its own."""
        self.sent += 1
        return body.replace(b"NUMBERED", self.sent.to_bytes(8))

    async def grpc(self, body: bytes) -> str:
        """What gRPC answers."""
        try:
            await self.call(self.numbered(body), timeout=60.0)
        except grpc.aio.AioRpcError as error:
            hint = "google.rpc.retryinfo-bin" in str(error.trailing_metadata())
            return "refused" if error.code() is grpc.StatusCode.UNAVAILABLE and hint else repr(error)
        return "taken"

    async def http(self, body: bytes, encoding: str = "identity", content: str = "x-protobuf") -> str:
        """What HTTP answers."""
        headers = {"Content-Type": f"application/{content}", "Content-Encoding": encoding}
        url = f"{self.grafter.otlp_http}/v1/traces"
        async with self.session.post(url, data=io.BytesIO(body), headers=headers) as answer:
            if answer.status == 503 and "Retry-After" in answer.headers:
                # Where it was the memory of the process that failed, nothing else is to be sent on this connection.
                out_of_memory = b"out of memory" in await answer.read()
                return "refused" if (answer.headers.get("Connection") == "close") is out_of_memory else "kept"
            return "taken" if answer.status == 200 else f"{answer.status} {await answer.text()}"

    async def all(self) -> dict[str, str]:
        """What each way to take much says, and those that take little."""
        large = self.numbered(LARGE)
        return {
            "as it is": await self.http(large),
            "gzip": await self.http(gzip.compress(large, 1), "gzip"),
            "zstd": await self.http(zstandard.compress(large, 1), "zstd"),
            "JSON": await self.http(JSON, content="json"),
            "many over HTTP": await self.http(self.numbered(MANY)),
            "many over gRPC": await self.grpc(MANY),
            "small": await self.http(self.numbered(SMALL)),
            "small over gRPC": await self.grpc(SMALL),
        }

    def limit(self, room: int | None) -> None:
        """From now on it has so many bytes beyond those that it has; None: as many as it likes."""
        status = Path(f"/proc/{self.grafter.pid}/status").read_text().splitlines()
        size = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmSize"))
        most = UNLIMITED if room is None else size + room
        resource.prlimit(self.grafter.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


@asynccontextmanager
async def doors(home: Path) -> AsyncIterator[Doors]:
    """Those of a grafter that holds what it takes."""
    grafter = Grafter(home, {"otlp_http": {"endpoint": "http://127.0.0.1:1"}}, wait={"after_root": "10m"})
    try:
        await grafter.start("tests.faults.short_of_memory")
        async with (
            aiohttp.ClientSession() as session,
            grpc.aio.insecure_channel(grafter.otlp_grpc, options=OPTIONS) as channel,
        ):
            yield Doors(grafter, session, channel.unary_unary(EXPORT))  # type: ignore[call-arg]  # bytes in and out
    finally:
        await grafter.close()


async def test_what_there_is_no_memory_for_is_refused_with_a_hint(tmp_path: Path) -> None:
    """While it comes, is unpacked, read or stored: 503 and UNAVAILABLE, which senders try again, and never a status
    after which they throw it away. What is small is taken beside it. With memory everything is taken, and the books
    have what was acknowledged and nothing else."""
    async with doors(tmp_path) as some:
        assert await some.all() == TAKEN
        some.limit(ROOM)
        answers = [await some.all() for _ in range(2)]
        assert {answer for each in answers for answer in each.values()} == {"taken", "refused"}
        assert {each["small"] for each in answers} == {each["small over gRPC"] for each in answers} == {"taken"}
        some.limit(None)
        assert await some.all() == TAKEN
        counters = await some.grafter.counters(some.session)
        assert (
            counters["grafter_receiver_accepted_spans_total"]
            == counters["grafter_held_spans"]
            == sum(SPANS[way] for each in (*answers, TAKEN, TAKEN) for way, answer in each.items() if answer == "taken")
        )
