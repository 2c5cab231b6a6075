"""``grafter demo``: start everything, play two calls through every receiver, print the joined traces.

Nothing in here is staged: a whole grafter on free ports takes both halves of each call over real sockets, holds them
on disk, joins them, and sends the result to a small OTLP backend that this command runs beside it.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import aiohttp
import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter import __version__
from grafter.commands.demo.agents_call import GUEST_SPANS, LENGTH_MS, AgentsCall
from grafter.commands.demo.host_call import HostCall
from grafter.commands.demo.many_calls import BOOKING_MS, BOOKING_SPANS, all_calls, booking
from grafter.commands.demo.script import PlayedCall
from grafter.components import Config
from grafter.core import semconv
from grafter.core.call_latency import Side
from grafter.core.joined_steps import nanoseconds, word
from grafter.core.policy import MILLISECOND
from grafter.core.turn_words import totals
from grafter.exporter.tree import GUEST_MARK, render
from grafter.otlp.reading import read_spans
from grafter.service import running

_SENTENCES = [wait.sentence for wait in (semconv.GREETING, semconv.CALLER_WAIT)]
_SIDES = (Side.APP, Side.OPENAI, Side.UNKNOWN)

# Sixty times what it takes on a slow machine.
_DEADLINE_SECONDS = 60.0
# A person is looking at the terminal: the waits of a real call would only look like a hang.
_WAIT = {"after_root": "1s", "guest_quiet": "500ms"}

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

_NEXT = """\
Next
  run it        grafter run                     takes OTLP on 4317 and 4318, OpenAI's side on 4319, prints every trace
  look          grafter demo --keep             adds calls of every kind, and a page on which to look them up by number
  your app      send its OTLP to grafter and put its trace id into OpenAI's metadata: README.md shows both in ten lines
  your backend  exporters in config.yaml: honeycomb, or any OTLP endpoint; `grafter validate` checks the file
"""


async def demo(keep: bool, stream: TextIO) -> int:
    """Play the call and print it to ``stream``; with ``keep``, stay until SIGINT or SIGTERM and print what else comes.

    0: both halves came out as one tree. 1: what is printed kept them from it.
    """
    try:
        with TemporaryDirectory(prefix="grafter-demo-") as directory:
            async with (
                _backend() as (endpoint, arrived),
                running(Config.model_validate(_settings(directory, endpoint))) as service,
            ):
                await _play_calls(service.ports, arrived, stream)
                if keep:
                    await _stay(service.ports, arrived, await _fill_page(service.ports, arrived), stream)
    except TimeoutError:
        print(f"the call did not come out within {_DEADLINE_SECONDS:.0f} s", file=stream)
        return 1
    except grpc.aio.AioRpcError as error:
        print(f"the OTLP door did not take the call: {error.code().name}: {error.details()}", file=stream)
        return 1
    except (aiohttp.ClientError, OSError, ValueError) as error:
        print(f"the demo could not run: {error}", file=stream)
        return 1
    return 0


async def _play_calls(ports: dict[str, int], arrived: asyncio.Queue[bytes], stream: TextIO) -> None:
    print(f"grafter {__version__}: two phone calls, each traced by two sides, each one tree", file=stream)
    async with asyncio.timeout(_DEADLINE_SECONDS), _sending(ports) as sender:
        agents = AgentsCall(start=datetime.now(UTC) - timedelta(milliseconds=LENGTH_MS))
        begun, ended = agents.guest()
        await sender.post("traces/ingest", begun)
        sent = await sender.app(agents.host)
        await sender.post("traces/ingest", ended)
        print("\n1. A call whose answers come from agents.\n", file=stream)
        _print_sent(agents.host, sent, stream)
        print(f"          {GUEST_SPANS} spans of OpenAI's Agents SDK, {agents.guest_id}", file=stream)
        print("            by POST /v1/traces/ingest; its metadata names the app's trace", file=stream)
        await _print_received(agents.host, GUEST_SPANS, arrived, stream)
        print(
            f"\n{len(agents.host)} spans came from the app. The {GUEST_SPANS} marked {GUEST_MARK} came from OpenAI and "
            "hang under the session\nthat they belong to; a tool or a model call that both traced is one step.",
            file=stream,
        )

        call = booking(datetime.now(UTC) - timedelta(milliseconds=BOOKING_MS))
        posts = list(call.posts())
        for post in posts[:-1]:
            await sender.post("realtime/events", post)
        sent = await sender.app(call.host)
        await sender.post("realtime/events", posts[-1])
        print("\n2. A Realtime call. OpenAI keeps no trace of it to fetch; its events make one.\n", file=stream)
        _print_sent(call.host, sent, stream)
        events = sum(len(post.get("events", ())) for post in posts)
        print(f"          {events} events of the Realtime session, {call.call}", file=stream)
        print("            by POST /v1/realtime/events, as an app's tap posts them", file=stream)
        await _print_received(call.host, BOOKING_SPANS, arrived, stream)
        print(
            "\nThe answer that took 2.93 s is one that the caller interrupted, having heard 1,440 ms of it.\n",
            file=stream,
        )
    print(_NEXT, file=stream, end="")


def _print_sent(host: HostCall, sent: dict[str, list[str]], stream: TextIO) -> None:
    print(f"sent      {len(host)} spans of the app, trace {host.trace_id.hex()}", file=stream)
    for protocol, services in sent.items():
        print(f"            by OTLP/{protocol}: {', '.join(services)}", file=stream)


async def _print_received(host: HostCall, guest_spans: int, arrived: asyncio.Queue[bytes], stream: TextIO) -> None:
    whole = await _whole(arrived, host.trace_id, len(host) + guest_spans)
    print("received  one trace\n", file=stream)
    print(render(whole, "normal").rstrip("\n"), file=stream)
    print("\nwhose time it was", file=stream)
    for line in _waits(whole):
        print(f"  {line}", file=stream)


def _waits(whole: bytes) -> Iterator[str]:
    """What the spans that arrived say of the call's waits."""
    steps = sorted((read.step for read in read_spans([whole])), key=lambda step: step.start)
    for step in steps:
        yield from (word(step, key) for key in _SENTENCES if key in step.attributes)
    for step in steps:
        sums = [nanoseconds(step, semconv.LATENCY_MS.format(side=side), MILLISECOND) for side in _SIDES]
        if words := totals(*sums):
            yield f"in all: {words}"


async def _whole(arrived: asyncio.Queue[bytes], trace_id: bytes, count: int) -> bytes:
    """All spans of the call as one request: serialised messages of one type add up by concatenation."""
    whole = b""
    while True:
        whole += await arrived.get()
        spans = [
            span
            for each in ExportTraceServiceRequest.FromString(whole).resource_spans
            for scope in each.scope_spans
            for span in scope.spans
        ]
        if sum(span.trace_id == trace_id for span in spans) >= count:
            return whole


async def _fill_page(ports: dict[str, int], arrived: asyncio.Queue[bytes]) -> list[PlayedCall]:
    """Play calls of every kind for the lookup page, and wait until they have come out."""
    calls = all_calls(datetime.now(UTC) - timedelta(minutes=2))
    async with asyncio.timeout(_DEADLINE_SECONDS), _sending(ports) as sender:
        await sender.calls(calls)
        # Those of which a side is missing come later, when it has been waited for; they are printed then. A guest that
        # names no host leaves as a trace of its own.
        scripts = [(call, call.script) for call in calls if call.script.ended and call.script.hosted]
        traces = {call.host.trace_id for call, script in scripts if script.guest and script.linked}
        traces |= {call.call.encode() for call, script in scripts if script.guest and not script.linked}
        while traces:
            request = await arrived.get()
            traces = {each for each in traces if each not in request}
    return calls


async def _stay(
    ports: dict[str, int], arrived: asyncio.Queue[bytes], calls: Sequence[PlayedCall], stream: TextIO
) -> None:
    """Print addresses, of the page with one of ``calls``, then every trace that comes out, until a signal."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    print("\nStill running; Ctrl-C ends it. What comes out is printed here.", file=stream)
    slow = next(call for call in calls if call.name == "slow tool")
    print(f"  lookup page   http://localhost:{ports['lookup']}/", file=stream)
    print(f"                {len(calls)} more calls, one of each kind; paste {slow.script.caller}", file=stream)
    print(f"  OTLP/gRPC     127.0.0.1:{ports['otlp_grpc']}", file=stream)
    print(f"  OTLP/HTTP     http://127.0.0.1:{ports['otlp_http']}/v1/traces", file=stream)
    print(f"  Realtime      http://127.0.0.1:{ports['openai']}/v1/realtime/events", file=stream)
    print(f"  Agents SDK    http://127.0.0.1:{ports['openai']}/v1/traces/ingest", file=stream)
    print(f"  metrics       http://127.0.0.1:{ports['metrics']}/metrics", file=stream)
    print(f"  health        http://127.0.0.1:{ports['health']}/readyz", file=stream, flush=True)

    async def show() -> None:
        while True:
            print(render(await arrived.get(), "normal"), file=stream, flush=True)

    try:
        async with asyncio.TaskGroup() as group:
            shown = group.create_task(show(), name="demo.show")
            await stop.wait()
            shown.cancel()
    finally:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)


class Sender:
    """Sends both halves of calls to the receivers of a grafter that runs, over real sockets."""

    def __init__(self, session: aiohttp.ClientSession, channel: grpc.aio.Channel, ports: dict[str, int]) -> None:
        self._session = session
        self._export = channel.unary_unary(_EXPORT, None, None)
        self.ports = ports

    async def app(self, host: HostCall) -> dict[str, list[str]]:
        """Send the app's half; the services by the protocol that they used."""
        used: dict[str, list[str]] = {"gRPC": [], "HTTP": []}
        for service, request in host.requests():
            # Not every team chose the same protocol.
            protocol = "gRPC" if service.startswith("callsphere") else "HTTP"
            used[protocol].append(service)
            if protocol == "gRPC":
                await self._export(request)
            else:
                url = f"http://127.0.0.1:{self.ports['otlp_http']}/v1/traces"
                headers = {"Content-Type": "application/x-protobuf"}
                async with self._session.post(url, data=request, headers=headers, raise_for_status=True):
                    pass
        return used

    async def post(self, path: str, body: dict[str, Any]) -> None:
        url = f"http://127.0.0.1:{self.ports['openai']}/v1/{path}"
        async with self._session.post(url, json=body, raise_for_status=True):
            pass

    async def call(self, call: PlayedCall) -> None:
        """Send both halves of a call: events while it lasts, spans and the session's end after it."""
        posts = list(call.posts())
        last = posts.pop() if posts and call.script.ended else None
        for post in posts:
            await self.post("realtime/events", post)
        if call.script.hosted and call.script.ended:
            await self.app(call.host)
        if last is not None:
            await self.post("realtime/events", last)

    async def calls(self, calls: Iterable[PlayedCall]) -> None:
        for call in calls:
            await self.call(call)


@asynccontextmanager
async def _sending(ports: dict[str, int]) -> AsyncIterator[Sender]:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{ports['otlp_grpc']}")
    async with aiohttp.ClientSession() as session, channel:
        yield Sender(session, channel, ports)


@asynccontextmanager
async def _backend() -> AsyncIterator[tuple[str, asyncio.Queue[bytes]]]:
    """An OTLP backend over gRPC: its address, and the requests that it takes."""
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def export(request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        arrived.put_nowait(request)
        return b""

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    _, service, method = _EXPORT.split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(export)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    try:
        await server.start()
        yield f"127.0.0.1:{port}", arrived
    finally:
        await server.stop(None)


def _settings(directory: str, endpoint: str) -> dict[str, Any]:
    """The defaults, on free ports and in a directory of its own."""
    free = {"endpoint": "127.0.0.1:0"}
    return {
        "receivers": {"otlp": {"protocols": {"grpc": free, "http": free}}, "openai": free},
        "processors": {"graft": {"wait": _WAIT}},
        "exporters": {"otlp_grpc/demo": {"endpoint": endpoint, "tls": {"insecure": True}}},
        "extensions": {
            "store": {"embedded": {"directory": directory}},
            "calls": {"url": f"sqlite:///{directory}/calls.db"},
            "lookup": free,
            "health_check": free,
        },
        "service": {"telemetry": {"metrics": free}},
    }
