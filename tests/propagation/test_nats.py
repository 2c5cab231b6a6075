"""NATS by nats-py against a real server: every way in which a message is handed out goes on with its sender's trace."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from grafter_propagation import inject
from grafter_propagation.nats import publish, received, request
from tests.e2e.apps import why_no_javascript
from tests.e2e.tree import outline
from tests.propagation.apps import with_packages
from tests.propagation.nats_server import serving
from tests.propagation.spans import Spans


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a server of its own."""
    async with serving(tmp_path) as url:
        client = await nats.connect(url)
        yield client
        await client.close()


async def sent(client: Client, spans: Spans, count: int = 1) -> None:
    """Messages of as many calls."""
    for number in range(count):
        with spans.span(f"call {number}"):
            await publish(client, "desk.orders", b"7", tracer=spans.tracer)


HOP = """
    call 0 [internal]
      send desk.orders [producer]
        process desk.orders [consumer]
          answer [internal]
"""


def work(spans: Spans, message: Msg) -> None:
    """What the service at the other end does."""
    with received(message, tracer=spans.tracer), spans.span("answer"):
        assert message.data == b"7"


async def test_the_failing_form(client: Client, spans: Spans) -> None:
    """Without a line the service's span is a trace of its own: nothing tells it whose order it is."""
    subscription = await client.subscribe("desk.orders")
    with spans.span("call"):
        await client.publish("desk.orders", b"7")
    await subscription.next_msg(timeout=60)
    with spans.span("answer"):
        pass
    assert spans.text() == "call [internal]\nanswer [internal]"


async def test_an_iterator(client: Client, spans: Spans) -> None:
    """Each message under its own sender, none under the one before."""
    subscription = await client.subscribe("desk.orders")
    await sent(client, spans, 2)
    left = 2
    async for message in subscription.messages:
        work(spans, message)
        left -= 1
        if not left:
            break
    assert spans.text() == outline(HOP) + "\n" + outline(HOP).replace("call 0", "call 1")


async def test_next_msg(client: Client, spans: Spans) -> None:
    """One message at a time."""
    subscription = await client.subscribe("desk.orders")
    await sent(client, spans)
    work(spans, await subscription.next_msg(timeout=60))
    assert spans.text() == outline(HOP)
    process = spans.named("process desk.orders")
    assert process.attributes == {
        "messaging.system": "nats",
        "messaging.destination.name": "desk.orders",
        "messaging.operation.name": "process",
    }


async def test_a_callback(client: Client, spans: Spans) -> None:
    """Where no instrumentation is installed."""
    done = asyncio.Event()

    async def answer(message: Msg) -> None:
        work(spans, message)
        done.set()

    await client.subscribe("desk.orders", cb=answer)
    await sent(client, spans)
    await asyncio.wait_for(done.wait(), 10)
    assert spans.text() == outline(HOP)


async def test_fetch_and_a_message_that_is_delivered_again(client: Client, spans: Spans) -> None:
    """JetStream: the acknowledgement comes back from ``publish``; the first delivery is a child, the second a trace of
    its own with a link."""
    jetstream = client.jetstream()
    await jetstream.add_stream(name="desk", subjects=["desk.*"])
    with spans.span("call 0"):
        acknowledgement = await publish(jetstream, "desk.orders", b"7", tracer=spans.tracer)
    assert (acknowledgement.stream, acknowledgement.seq) == ("desk", 1)
    subscription = await jetstream.pull_subscribe("desk.orders", durable="workers")
    (message,) = await subscription.fetch(1, timeout=60)
    work(spans, message)
    await message.nak()
    (again,) = await subscription.fetch(1, timeout=60)
    with received(again, tracer=spans.tracer):
        await again.ack()
    assert spans.text() == outline(HOP) + "\nprocess desk.orders [consumer] > send desk.orders"


async def test_a_request_and_its_reply(client: Client, spans: Spans) -> None:
    """The asker's span lasts until the reply is there; the reply's own inbox makes no span."""

    async def answer(message: Msg) -> None:
        with received(message, tracer=spans.tracer):
            await publish(client, message.reply, b"shipped", tracer=spans.tracer)

    await client.subscribe("desk.orders", cb=answer)
    with spans.span("call"):
        reply = await request(client, "desk.orders", b"7", timeout=60, tracer=spans.tracer)
    assert reply.data == b"shipped"
    assert spans.text() == outline("""
        call [internal]
          send desk.orders [producer]
            process desk.orders [consumer]
    """)


@pytest.mark.parametrize("name", ["Traceparent", "TRACEPARENT", "traceparent"])
async def test_the_header_in_any_case(client: Client, spans: Spans, name: str) -> None:
    """Go's clients write it with a capital; nats-py hands names out as they came."""
    subscription = await client.subscribe("desk.orders")
    with spans.span("call"):
        await client.publish("desk.orders", b"7", headers={name: inject()["traceparent"], "Order": "7"})
    work(spans, await subscription.next_msg(timeout=60))
    assert spans.text().splitlines()[:2] == ["call [internal]", "  process desk.orders [consumer]"]


async def test_headers_of_the_apps_own_stay(client: Client, spans: Spans) -> None:
    """In a dict of its own; and a message without headers is one without a sender."""
    subscription = await client.subscribe("desk.orders")
    own = {"Order": "7"}
    with spans.span("call"):
        await publish(client, "desk.orders", b"7", headers=own, tracer=spans.tracer)
    await publish(client, "desk.orders", b"7", tracer=spans.tracer)
    await client.publish("desk.orders", b"7")
    messages = [await subscription.next_msg(timeout=60) for _ in range(3)]
    assert own == {"Order": "7"}
    assert (messages[0].headers or {})["Order"] == "7"
    assert messages[2].headers is None
    work(spans, messages[2])
    assert spans.text().splitlines()[-2:] == ["process desk.orders [consumer]", "  answer [internal]"]


@pytest.mark.parametrize("way", ["send", "receive"])
async def test_between_javascript_and_python(spans: Spans, tmp_path: Path, way: str) -> None:
    """``@nats-io/transport-node`` with the headers that ``inject`` writes and ``extract`` reads."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    with_packages(tmp_path)
    program = shutil.copy(Path(__file__).parent / "context.mjs", tmp_path)
    async with serving(tmp_path / "store") as url:
        client = await nats.connect(url)
        orders = await client.subscribe("desk.orders")
        await client.flush()
        node = await asyncio.create_subprocess_exec("node", program, way, url, stdout=asyncio.subprocess.PIPE)
        assert node.stdout is not None
        if way == "send":
            sender = json.loads(await node.stdout.readline())
            with received(await orders.next_msg(timeout=60), tracer=spans.tracer):
                pass
            process = spans.named("process desk.orders")
            assert process.parent is not None
            receiver = {"traceId": f"{process.parent.trace_id:032x}", "spanId": f"{process.parent.span_id:016x}"}
        else:
            await node.stdout.readline()
            with spans.span("call"):
                await publish(client, "desk.orders", b"7", tracer=spans.tracer)
            receiver = json.loads(await node.stdout.readline())
            context = spans.named("send desk.orders").context
            assert context is not None
            sender = {"traceId": f"{context.trace_id:032x}", "spanId": f"{context.span_id:016x}"}
        assert await asyncio.wait_for(node.wait(), 30) == 0
        await client.close()
    assert {key: receiver[key] for key in ("traceId", "spanId")} == {key: sender[key] for key in ("traceId", "spanId")}
