"""The door of posted Realtime events: stored before 204, plain about everything else."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest

from grafter.core.model import called
from grafter.core.policy import SECOND, GraftPolicy
from grafter.errors import RejectedError, UnavailableError
from grafter.guests.realtime.stored_event import decode
from grafter.receiver.http_server import serving
from grafter.receiver.openai_http import application, ingest_routes
from grafter.receiver.realtime_http import event_routes
from grafter.telemetry import Metrics

PATH = "/v1/realtime/events"
NOW = 1_800_000_000 * SECOND
EVENT = {"at": 1_799_999_990, "from": "server", "event": {"type": "response.done", "response": {"id": "resp_1"}}}
POST = {"call": "rtc_1", "events": [EVENT]}
LINES = {"Content-Type": "application/x-ndjson"}


class Door:
    """A client of a running door."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base

    async def post(self, body: Any, path: str = PATH, method: str = "POST", **headers: str) -> SimpleNamespace:
        data = BytesIO(body if isinstance(body, bytes) else orjson.dumps(body))
        async with self._session.request(
            method, self._base + path, data=data, headers=headers, allow_redirects=False
        ) as answer:
            return SimpleNamespace(status=answer.status, headers=answer.headers, body=await answer.read())


@asynccontextmanager
async def opened(
    consumer: Any, metrics: Metrics, *, tokens: tuple[str, ...] = (), max_bytes: int = 64 << 20
) -> AsyncIterator[Door]:
    """The door at the address that it shares with the Agents SDK's."""
    policy = GraftPolicy()
    routes = [
        *ingest_routes(consumer, metrics, policy),
        *event_routes(consumer, metrics, policy, lambda: NOW, tokens=tokens, max_bytes=max_bytes),
    ]
    async with (
        serving(application(routes), "127.0.0.1:0", None, 1.0) as (_, port),
        aiohttp.ClientSession(skip_auto_headers=("Content-Type",), trust_env=False) as session,
    ):
        yield Door(session, f"http://127.0.0.1:{port}")


def count(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"grafter_{name}_total", labels) or 0


def items(metrics: Metrics, kind: str) -> float:
    return count(metrics, "guest_items", source="realtime", kind=kind)


def outcome(metrics: Metrics, name: str) -> float:
    return count(metrics, "receiver_requests", receiver="openai", transport="realtime", outcome=name)


def error_of(answer: SimpleNamespace) -> dict[str, Any]:
    assert answer.headers["Content-Type"].startswith("application/json")
    error: dict[str, Any] = json.loads(answer.body)["error"]
    assert error["message"]
    return error


async def test_204_means_stored(consumer: Any, metrics: Metrics) -> None:
    """The answer comes when the consumer has the events, and not before."""
    consumer.gate = asyncio.Event()
    async with opened(consumer, metrics) as door, asyncio.TaskGroup() as tasks:
        posting = tasks.create_task(door.post(POST))
        await consumer.entered.wait()
        assert not posting.done()
        consumer.gate.set()
        answer = await posting
    assert (answer.status, answer.body) == (204, b"")
    (part,) = consumer.parts
    assert [note.event["type"] for note in decode(part.payload)] == ["response.done"]
    assert (items(metrics, "event"), outcome(metrics, "accepted")) == (1, 1)
    # They count as spans once they are read.
    assert count(metrics, "receiver_accepted_spans", receiver="openai", transport="realtime") == 0


@pytest.mark.parametrize(
    "kind", ["application/x-ndjson", "application/ndjson; charset=utf-8", "application/jsonl", "application/JSONL"]
)
async def test_lines(kind: str, consumer: Any, metrics: Metrics) -> None:
    """Lines are told by their Content-Type; a broken one is counted."""
    body = b"\n".join([orjson.dumps({"call": "rtc_1", **EVENT}), b"{", orjson.dumps({"call": "rtc_2", **EVENT})])
    async with opened(consumer, metrics) as door:
        assert (await door.post(body, **{"Content-Type": kind})).status == 204
    assert [called(part.guest.guest) for part in consumer.parts] == ["rtc_1", "rtc_2"]
    assert (items(metrics, "event"), items(metrics, "odd")) == (2, 1)


async def test_a_compressed_body(consumer: Any, metrics: Metrics) -> None:
    """Events compress well, and a sender far away will do it."""
    async with opened(consumer, metrics) as door:
        body = gzip.compress(orjson.dumps(POST))
        assert (await door.post(body, **{"Content-Encoding": "gzip"})).status == 204
    assert len(consumer.parts) == 1


async def test_nothing_to_store_is_stored(consumer: Any, metrics: Metrics) -> None:
    """An envelope of which nothing is of use is a good one."""
    async with opened(consumer, metrics) as door:
        assert (await door.post({"call": "rtc_1", "events": []})).status == 204
        append = {**EVENT, "from": "client", "event": {"type": "session.input_audio.append", "audio": "AAAA"}}
        assert (await door.post({"call": "rtc_1", "events": [append]})).status == 204
    assert consumer.parts == []
    assert items(metrics, "audio") == 1


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", {}, 400, "json"),
        (b"{", {}, 400, "json"),
        (b"\xff\x00", {}, 400, "json"),
        (b"[" * 100_000, {}, 400, "json"),
        (b"null", {}, 400, "shape"),
        (b"[]", {}, 400, "shape"),
        (b"{}", {}, 400, "shape"),
        (b'{"data": []}', {}, 400, "shape"),
        (b'{"call": 7, "events": []}', {}, 400, "shape"),
        (b'{"call": ""}', {}, 400, "shape"),
        (b'{"call": "secret"', LINES, 400, "json"),
        (b"\n\n", LINES, 400, "shape"),
        (b"x", {"Content-Encoding": "br"}, 415, "unsupported_encoding"),
        (b"x", {"Content-Encoding": "gzip"}, 400, None),
        (b" " * 2000, {}, 413, None),
    ],
)
async def test_bad_input(
    body: bytes, headers: dict[str, str], status: int, code: str | None, consumer: Any, metrics: Metrics
) -> None:
    """A clear 4xx in OpenAI's form, without a word of what was posted."""
    async with opened(consumer, metrics, max_bytes=1000 if status == 413 else 64 << 20) as door:
        answer = await door.post(body, **headers)
    assert answer.status == status
    error = error_of(answer)
    assert code in (None, error["code"])
    assert b"secret" not in answer.body
    assert consumer.requests == []
    assert outcome(metrics, "too_large" if status == 413 else "rejected") == 1


async def test_a_busy_store_is_said_with_a_hint(consumer: Any, metrics: Metrics) -> None:
    """503 and whole seconds; the same post again is taken. What was refused is not counted as read."""
    consumer.errors = [UnavailableError("full", reason="full", retry_after=2.5), RejectedError("no", reason="no")]
    async with opened(consumer, metrics) as door:
        busy = await door.post(POST)
        assert (busy.status, busy.headers["Retry-After"], error_of(busy)["type"]) == (503, "3", "server_error")
        assert (await door.post(POST)).status == 400
        assert items(metrics, "event") == 0
        assert (await door.post(POST)).status == 204
    assert items(metrics, "event") == 1


async def test_tokens_of_its_own(consumer: Any, metrics: Metrics) -> None:
    """Its tokens open it, and say nothing of the door beside it."""
    async with opened(consumer, metrics, tokens=("one", "two")) as door:
        for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "one"}):
            answer = await door.post(POST, **headers)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert consumer.requests == []
        assert (await door.post(POST, **{"Authorization": "Bearer two"})).status == 204
        assert (await door.post({"data": []}, "/v1/traces/ingest")).status == 204


@pytest.mark.parametrize("path", [PATH, PATH + "/", "/v1//realtime/events", "//v1/realtime/events"])
async def test_sloppy_paths(path: str, consumer: Any, metrics: Metrics) -> None:
    """A base and a path are joined with one slash, or two; nothing is ever redirected."""
    async with opened(consumer, metrics) as door:
        assert (await door.post(POST, path)).status == 204


async def test_other_methods_and_paths(consumer: Any, metrics: Metrics) -> None:
    """405 with what is allowed; 404 for what is not here."""
    async with opened(consumer, metrics) as door:
        assert (await door.post(b"", method="GET")).status == 405
        assert (await door.post(POST, "/v1/realtime/event")).status == 404


async def test_a_large_body_does_not_hold_up_the_others(consumer: Any, metrics: Metrics) -> None:
    """While a hundred thousand events are read, small posts get their answers."""
    body = orjson.dumps({"call": "rtc_1", "events": [EVENT] * 100_000})
    async with opened(consumer, metrics) as door, asyncio.TaskGroup() as tasks:
        posting = tasks.create_task(door.post(body))
        clock = asyncio.get_running_loop().time
        start, longest = clock(), 0.0
        while not posting.done():
            began = clock()
            assert (await door.post({"call": "rtc_2", "ended": True})).status == 204
            longest = max(longest, clock() - began)
        assert (await posting).status == 204
    assert items(metrics, "event") == 100_000
    assert longest < (clock() - start) / 2


async def test_events_that_are_text_are_refused_with_what_was_expected(
    consumer: Any, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A message of the socket that nobody has parsed: 204 would say that it is stored."""
    text = '{"type": "response.done"}'
    async with opened(consumer, metrics) as door:
        for events in ([{"at": 1_790_000_000, "from": "server", "event": text}], [text]):
            answer = await door.post({"call": "c", "events": events})
            assert (answer.status, error_of(answer)["code"]) == (400, "shape")
            assert error_of(answer)["message"] == (
                'no event can be read; expected events as {"at": …, "from": "server" | "client", '
                '"event": {"type": …}}, each an object and no JSON text'
            )
        told = [one for one in caplog.records if one.message == "requests were refused"]
        assert [one.transport for one in told] == ["realtime"]
        both = [{"at": 1_790_000_000, "event": text}, {"at": 1_790_000_001, "event": orjson.loads(text)}]
        assert (await door.post({"call": "c", "events": both})).status == 204
        assert (await door.post({"call": "c", "events": both[:1], "ended": True})).status == 204
    (skipped,) = [one for one in caplog.records if one.message == "odd items were skipped"]
    assert (skipped.transport, skipped.items) == ("realtime", 1)
    assert items(metrics, "odd") == 4
