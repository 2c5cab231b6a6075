"""Queues and sockets that carry nothing beside the message: Redis lists and streams, job data, a WebSocket."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from grafter_propagation import (
    continue_call,
    first_message,
    inject,
    inject_job,
    read_first_message,
    seal,
    unseal,
)
from tests.e2e.tree import outline
from tests.propagation.spans import Spans
from tests.store.redis.servers import server

HOP = """
    call [internal]
      process [consumer]
        answer [internal]
"""


@pytest.fixture(scope="module")
def address() -> Iterator[int]:
    with server() as running:
        yield running.port


@pytest.fixture
def db(address: int) -> Iterator[Any]:
    """An empty Redis."""
    with redis.Redis(port=address) as db:
        db.flushall()
        yield db


def work(spans: Spans, carrier: Any, **settings: Any) -> None:
    with continue_call(carrier, "process", tracer=spans.tracer, **settings), spans.span("answer"):
        pass


def test_a_list_of_jobs(db: Any, spans: Spans) -> None:
    """A job that is JSON: its carrier is a member of it, which readers that know nothing of it pass over."""
    with spans.span("call"):
        db.rpush("jobs", json.dumps(inject_job({"order": 7})))
    _, raw = db.blpop("jobs", timeout=60)
    job = json.loads(raw)
    work(spans, job)
    assert job.pop("_otel")
    assert job == {"order": 7}
    assert spans.text() == outline(HOP)


@pytest.mark.parametrize("body", ["7", b"\x00\xff", "", "{}", '{"grafter.envelope'])
def test_a_list_of_anything(db: Any, spans: Spans, body: str | bytes) -> None:
    """A message of any kind in an envelope; it comes out as it went in."""
    with spans.span("call"):
        db.rpush("jobs", seal(body))
    _, raw = db.blpop("jobs", timeout=60)
    opened, carrier = unseal(raw)
    work(spans, carrier)
    assert opened == body
    assert spans.text() == outline(HOP)


@given(st.binary(max_size=80) | st.text(max_size=80))
def test_a_message_without_an_envelope_is_its_own_body(message: str | bytes) -> None:
    """Readers may be changed before writers."""
    assert unseal(message) == (message, {})


def test_a_stream_entry_and_its_second_reader(db: Any, spans: Spans) -> None:
    """The carrier is two fields of the entry; who claims an entry that another left begins a trace with a link."""
    with spans.span("call"):
        db.xadd("jobs", inject({"order": "7"}))
    db.xgroup_create("jobs", "workers", id="0")
    ((entry, fields),) = entries(db)
    work(spans, fields)
    ((again, same),) = db.xautoclaim("jobs", "workers", "two", min_idle_time=0)[1]
    (waiting,) = db.xpending_range("jobs", "workers", entry, entry, 1)
    with continue_call(same, "process", attempt=waiting["times_delivered"], tracer=spans.tracer):
        db.xack("jobs", "workers", again)
    assert fields[b"order"] == b"7"
    assert spans.text() == outline(HOP) + "\nprocess [consumer] > call"


def entries(db: Any) -> Any:
    """What the first worker reads: redis-py gives a list of streams, or from protocol 3 a dict of lists."""
    read = db.xreadgroup("workers", "one", {"jobs": ">"})
    return read[b"jobs"][0] if isinstance(read, dict) else read[0][1]


@pytest.mark.parametrize("place", ["meta", "_otel"])
def test_a_jobs_metadata(spans: Spans, place: str) -> None:
    """What RQ, arq, Dramatiq, TaskIQ and SAQ keep for a job is a mapping, pickled or JSON: the same two lines."""
    with spans.span("call"):
        job = {"meta": inject()} if place == "meta" else inject_job({"order": 7})
    stored = json.loads(json.dumps(job))
    work(spans, stored["meta"] if place == "meta" else stored)
    assert spans.text() == outline(HOP)


async def test_the_first_message_of_a_websocket(spans: Spans) -> None:
    """A client that can set no headers says first where it stands; whoever does not is served as before."""

    async def socket(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        first = await answer.receive_str()
        sender = read_first_message(first)
        text = first if sender is None else await answer.receive_str()
        with continue_call(sender, "process", tracer=spans.tracer), spans.span("answer"):
            await answer.send_str(text)
        await answer.close()
        return answer

    app = web.Application()
    app.router.add_get("/", socket)
    async with TestServer(app) as running, ClientSession() as session:
        for says_where in (True, False):
            async with session.ws_connect(running.make_url("/")) as client:
                if says_where:
                    with spans.span("call"):
                        await client.send_str(first_message())
                await client.send_str("7")
                assert await client.receive_str() == "7"
    assert spans.text() == outline(HOP) + "\nprocess [consumer]\n  answer [internal]"


@pytest.mark.parametrize("message", ["7", b"\xff", "{}", '{"type": "trace_context"}', '["trace_context"]', None, 7])
def test_any_other_first_message_is_the_apps_own(message: object) -> None:
    """It is only looked at."""
    assert read_first_message(message) is None
