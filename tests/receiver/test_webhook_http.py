"""The webhook door: nothing unsigned is read, 200 means stored, and a repeat has no effect."""

import asyncio
import json
import logging
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import openai
import pytest

from grafter.core.calls import CallNote
from grafter.core.model import DedupeKey, NamedLink, Part, Source, UnixNano, called
from grafter.core.policy import SECOND, GraftPolicy
from grafter.errors import RejectedError, UnavailableError
from grafter.guests.realtime.stored_event import decode
from grafter.receiver.http_server import serving
from grafter.receiver.openai_http import application
from grafter.receiver.recorder import NotRecordedError, Started
from grafter.receiver.signatures import Signatures
from grafter.receiver.webhook_http import WebhookLimits, WebhookSinks, webhook_routes
from grafter.telemetry import Metrics
from tests.receiver.deliveries import ACCEPTED, EXPORT, LIMIT, ROWS, SECRETS, Row, table
from tests.rig import Peer, rig
from tests.webhooks import OTHER, ROTATED, SECRET, delivery, envelope, incoming, span, trace_object

ROOT = Path(__file__).parents[2]
PATH = "/webhooks/openai"
POLICY = GraftPolicy()
TOLERANCE = 300 * SECOND
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


LIMITS = WebhookLimits(body_bytes=LIMIT)


@dataclass
class Doubles:
    """Consumer, store, recorders and pulls in one, which remembers; raises the next of its errors, while it has one."""

    parts: list[Part] = field(default_factory=list)
    dedupe_keys: list[DedupeKey] = field(default_factory=list)
    notes: list[CallNote] = field(default_factory=list)
    started: list[tuple[str, list[tuple[str, str]], str]] = field(default_factory=list)
    pulled: list[tuple[str, str]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    start_errors: list[Exception] = field(default_factory=list)
    hang: bool = False

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        if self.hang:
            await asyncio.Event().wait()
        if self.errors:
            raise self.errors.pop(0)
        self.parts += parts
        self.dedupe_keys += dedupe_keys

    async def seen(self, ids: Sequence[str], now: UnixNano) -> Sequence[bool]:
        return [any(key.id == one for key in self.dedupe_keys) for one in ids]

    async def put_calls(self, calls: Sequence[CallNote], now: UnixNano) -> None:
        self.notes += calls

    async def start(self, call_id: str, *, sip_headers: list[tuple[str, str]], project: str) -> Started:
        if self.start_errors:
            raise self.start_errors.pop(0)
        self.started.append((call_id, sip_headers, project))
        return Started.STARTED

    async def request(self, session_id: str, project: str) -> None:
        if "/" in session_id:
            raise RejectedError("no session id", reason="session_id")
        self.pulled.append((session_id, project))

    @property
    def sinks(self) -> WebhookSinks:
        return WebhookSinks(self, self, self, self)  # type: ignore[arg-type]


class Door:
    """A client of a running door."""

    def __init__(self, session: aiohttp.ClientSession, port: int, metrics: Metrics) -> None:
        self._session = session
        self._base = f"http://127.0.0.1:{port}"
        self.port = port
        self.metrics = metrics

    async def post(self, body: bytes, headers: Any, path: str = PATH, method: str = "POST") -> SimpleNamespace:
        async with self._session.request(method, self._base + path, data=BytesIO(body), headers=headers) as answer:
            said = await answer.json()
            error = said.get("error") or {}
            return SimpleNamespace(
                status=answer.status, said=said.get("status") or error["code"], headers=answer.headers, error=error
            )

    async def deliver(self, body: Any, **signed: Any) -> SimpleNamespace:
        return await self.post(*delivery(body, **signed))

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"grafter_{name}_total", labels) or 0

    def outcome(self, name: str) -> float:
        return self.count("receiver_requests", receiver="openai", transport="webhook", outcome=name)


@pytest.fixture
def doubles() -> Doubles:
    return Doubles()


@asynccontextmanager
async def opened(
    sinks: WebhookSinks, secrets: dict[str, list[str]] = SECRETS, limits: WebhookLimits = LIMITS
) -> AsyncIterator[Door]:
    metrics = Metrics()
    signatures = Signatures(secrets, TOLERANCE)
    routes = webhook_routes(sinks, signatures, metrics, POLICY, time.time_ns, limits=limits)
    async with (
        serving(application(routes), "127.0.0.1:0", None, 1.0) as (_, port),
        aiohttp.ClientSession(skip_auto_headers=("Content-Type",), trust_env=False) as session,
    ):
        yield Door(session, port, metrics)


@pytest.fixture
async def door(doubles: Doubles) -> AsyncIterator[Door]:
    async with opened(doubles.sinks) as found:
        yield found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
async def test_each_delivery_has_its_answer(
    door: Door, doubles: Doubles, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    """Status and reason by the table; what is refused leaves nothing behind, and no answer or log has a secret."""
    body, headers = row.delivery(time.time_ns() / SECOND)
    with caplog.at_level(logging.DEBUG):
        answer = await door.post(body, headers)
    assert (answer.status, answer.said) == (row.status, row.said)
    assert door.outcome("error") == 0
    if row.status != 200:
        assert (doubles.parts, doubles.dedupe_keys, doubles.pulled, doubles.started) == ([], [], [], [])
        assert answer.error["message"]
    words = caplog.text + str(answer)
    assert not any(secret in words for some in SECRETS.values() for secret in some if secret)


def test_the_table_stands_in_the_documents() -> None:
    """docs/webhooks.md shows the table that is tested."""
    assert table() in (ROOT / "docs" / "webhooks.md").read_text()


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: row.what)
def test_the_python_client_accepts_what_the_door_accepts(row: Row) -> None:
    """The same bytes, by OpenAI's own verifier, with the secret that signed them."""
    body, headers = row.delivery(time.time_ns() / SECOND)
    client = openai.OpenAI(api_key="none")
    client.webhooks.verify_signature(body, dict(headers), secret=row.signed.get("secret", SECRET))
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body + b" ", dict(headers), secret=row.signed.get("secret", SECRET))


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
@pytest.mark.skipif(not (ROOT / "tests/e2e/js/node_modules/openai").exists(), reason="needs npm ci in tests/e2e/js")
def test_the_node_client_accepts_what_the_door_accepts() -> None:
    """All of the table at once: each row that the door accepts, and none that was changed on its way."""
    rows = []
    for row in ROWS:
        if row.status in (200, 400) and not row.more and row.body is not None:
            body, headers = row.delivery(time.time_ns() / SECOND)
            try:
                text = body.decode()
            except UnicodeDecodeError:
                continue
            rows.append(
                {"what": row.what, "body": text, "headers": dict(headers), "secret": row.signed.get("secret", SECRET)}
            )
    ran = subprocess.run(
        ["node", "verify.mjs"],
        cwd=ROOT / "tests/e2e/js",
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    verdicts = json.loads(ran.stdout)
    assert [row.what for row in ACCEPTED if verdicts[row.what] != "accepted"] == []
    for what in ("changed on its way", "under another id than was signed", "older than the tolerance"):
        assert verdicts[what] == "refused"


@pytest.mark.parametrize("path", ["/webhooks/openai/", "//webhooks//openai"])
async def test_slashes_are_forgiven(door: Door, path: str) -> None:
    body, headers = delivery(EXPORT)
    assert (await door.post(body, headers, path)).status == 200


async def test_only_post_is_taken(door: Door) -> None:
    answer = await door.post(*delivery(EXPORT), method="PUT")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("secrets", [{}, {"default": []}, {"default": ["", "  ", "whsec_"]}])
async def test_without_a_secret_nothing_is_taken(doubles: Doubles, secrets: dict[str, list[str]]) -> None:
    """Not even what an empty key signs, which anybody could."""
    async with opened(doubles.sinks, secrets) as door:
        body, headers = delivery(EXPORT)
        assert (await door.post(body, headers)).status == 404
        assert (await door.post(body, {})).status == 404
        assert door.outcome("not_found") == 2
    assert doubles.parts == []


async def test_during_a_rotation_either_signature_counts(door: Door, doubles: Doubles) -> None:
    """OpenAI then signs with the old and the new one, in one header."""
    _, unknown = delivery(EXPORT, secret="whsec_" + "A" * 32)
    _, known = delivery(EXPORT)
    both = f"{unknown['webhook-signature']} {known['webhook-signature']}"
    assert (await door.deliver(EXPORT, webhook_signature=both)).status == 200
    assert len(doubles.parts) == 1


async def test_a_secret_without_prefix_is_the_key_itself(doubles: Doubles) -> None:
    """As OpenAI's own client has it, which also verifies what the door takes."""
    key = "a secret that is plain text"
    body, headers = delivery(EXPORT, secret=key.encode())  # type: ignore[arg-type]
    openai.OpenAI(api_key="none").webhooks.verify_signature(body, headers, secret=key)
    async with opened(doubles.sinks, {"default": [key]}) as door:
        assert (await door.post(body, headers)).status == 200


async def test_an_export_becomes_a_guest(door: Door, doubles: Doubles) -> None:
    """Of source webhook, with what its metadata says of the host; counted by what its items were."""
    host = "4bf92f3577b34da6a3ce929d0e0e4736"
    trace = trace_object(metadata={"trace_id": host})
    second = trace_object("trace_" + "b" * 32)
    data = [
        {**trace, "spans": [span(1), span(2, 1), 7]},
        second,
        span(3, trace_id=second["id"], span_data={"type": "new"}),
    ]
    assert (await door.deliver(envelope("trace.exported", data))).said == "accepted"
    first, other = (part.guest for part in doubles.parts)
    assert first is not None
    assert other is not None
    assert (first.source, first.host, first.head, first.top_level, len(first.ids)) == (
        Source.WEBHOOK,
        bytes.fromhex(host),
        True,
        True,
        2,
    )
    assert (other.guest, other.host) == (second["id"], None)
    kinds = {
        kind: door.count("guest_items", source="webhook", kind=kind)
        for kind in ("trace", "span", "unknown_type", "odd")
    }
    assert kinds == {"trace": 2, "span": 2, "unknown_type": 1, "odd": 1}
    assert door.count("receiver_accepted_spans", receiver="openai", transport="webhook") == 3
    assert door.count("webhook_events", kind="export") == 1


async def test_a_repeat_has_no_effect(door: Door, doubles: Doubles) -> None:
    """Told by its id alone, within its project: signed anew, as each attempt is, and by another secret of it."""
    assert (await door.deliver(EXPORT)).said == "accepted"
    stored = list(doubles.parts)
    for secret in (SECRET, ROTATED):
        answer = await door.deliver(EXPORT, at=time.time_ns() // SECOND - 60, secret=secret)
        assert (answer.status, answer.said) == (200, "repeat")
    assert doubles.parts == stored
    assert (door.outcome("accepted"), door.outcome("repeat")) == (1, 2)
    assert door.count("webhook_events", kind="export") == 1
    assert (await door.deliver(EXPORT, secret=OTHER)).said == "accepted"
    assert (await door.deliver(EXPORT, id="wh_2")).said == "accepted"
    assert {key.ttl for key in doubles.dedupe_keys} == {96 * 3600 * SECOND}


async def test_a_delivery_is_known_for_as_long_as_its_signature_holds(doubles: Doubles) -> None:
    """A tolerance past the four days would else let a copied delivery in again."""
    tolerance = 100 * 3600 * SECOND
    routes = webhook_routes(doubles.sinks, Signatures(SECRETS, tolerance), Metrics(), POLICY, time.time_ns)
    async with serving(application(routes), "127.0.0.1:0", None, 1.0) as (_, port), aiohttp.ClientSession() as session:
        assert (await Door(session, port, Metrics()).deliver(EXPORT)).said == "accepted"
    assert {key.ttl for key in doubles.dedupe_keys} == {2 * tolerance}


async def test_what_is_not_stored_is_told_to_come_again(door: Door, doubles: Doubles) -> None:
    """503 with a whole number of seconds; the delivery then is no repeat."""
    doubles.errors = [UnavailableError("the store is full", retry_after=4.2, reason="store_full")]
    answer = await door.deliver(EXPORT)
    assert (answer.status, answer.said, answer.headers["Retry-After"]) == (503, "store_full", "5")
    assert (await door.deliver(EXPORT)).said == "accepted"
    doubles.errors = [RejectedError("one trace is too large", reason="trace_too_large")]
    assert (await door.deliver(EXPORT, id="wh_2")).status == 400


async def test_the_answer_does_not_wait_for_a_slow_store(door: Door, doubles: Doubles) -> None:
    """It is 503 while the store still hangs."""
    doubles.hang = True
    answer = await door.deliver(EXPORT)
    assert (answer.status, answer.said) == (503, "slow")
    doubles.hang = False
    assert (await door.deliver(EXPORT)).said == "accepted"


async def test_what_a_slow_store_takes_after_the_answer_is_counted() -> None:
    """The sender hears 503, the store takes it all the same, the repeat has no effect: the books still balance."""
    took = asyncio.Event()
    peer = Peer()
    async with rig(peer, now=[time.time_ns()]) as rooms:

        class Slow:
            async def consume(
                self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
            ) -> None:
                await rooms.processor.consume(parts, dedupe_keys)
                await took.wait()

        async with opened(WebhookSinks(Slow(), rooms.store), limits=replace(LIMITS, store_seconds=0.05)) as door:
            assert (await door.deliver(EXPORT)).said == "slow"
            took.set()
            assert (await door.deliver(EXPORT)).said == "repeat"
            await rooms.pass_time(60)
            rooms.accepted = int(door.count("receiver_accepted_spans", receiver="openai", transport="webhook"))
        came, became = rooms.books(len(peer.spans))
        assert came == became == 2


async def test_a_store_that_hangs_gathers_no_deliveries_without_end(doubles: Doubles) -> None:
    """Past a bound, what came too late is given up."""
    doubles.hang = True
    async with opened(doubles.sinks, limits=replace(LIMITS, store_seconds=0.01, late=2)) as door:
        for number in range(5):
            assert (await door.deliver(EXPORT, id=f"wh_{number}")).said == "slow"
        waiting = [task for task in asyncio.all_tasks() if "_hand_on" in repr(task.get_coro())]
        assert len(waiting) == 2
        for task in waiting:
            task.cancel()


async def test_what_asks_nothing_needs_no_store(door: Door, doubles: Doubles) -> None:
    """200 whatever state the store is in, and not remembered."""
    doubles.errors = [UnavailableError("down", reason="store_down")]
    for _ in range(2):
        assert (await door.deliver(envelope("batch.completed", {"id": "batch_1"}))).said == "accepted"
    assert (doubles.dedupe_keys, door.count("webhook_events", kind="other")) == ([], 2)


async def test_sessions_are_asked_for_in_their_own_project(door: Door, doubles: Doubles) -> None:
    """Each once a delivery; a repeat asks nothing."""
    events = [
        envelope(f"agent.session.{kind}", {"id": one}) for kind, one in [("idle", "a"), ("failed", "b"), ("idle", "a")]
    ]
    assert (await door.deliver(events, secret=OTHER)).said == "accepted"
    assert (await door.deliver(events, secret=OTHER)).said == "repeat"
    assert doubles.pulled == [("a", "eu"), ("b", "eu")]
    assert door.count("webhook_events", kind="session") == 3


async def test_a_session_that_cannot_be_asked_for_costs_nothing_else(door: Door, doubles: Doubles) -> None:
    """It is counted, and the rest of the delivery is taken."""
    events = [envelope("agent.session.idle", {"id": one}) for one in ("a/b", "c")]
    assert (await door.deliver([*events, EXPORT])).said == "accepted"
    assert (doubles.pulled, len(doubles.parts)) == ([("c", "default")], 1)
    assert [door.count("webhook_events", kind=kind) for kind in ("session", "odd", "export")] == [1, 1, 1]


async def test_nobody_who_pulls_is_no_error(doubles: Doubles) -> None:
    async with opened(WebhookSinks(doubles, doubles)) as door:  # type: ignore[arg-type]
        assert (await door.deliver(envelope("agent.session.idle", {"id": "a"}))).said == "accepted"


async def test_a_call_starts_a_recorder_once(door: Door, doubles: Doubles) -> None:
    """In the name of the project that signed; told of again, by another delivery, it has begun already."""
    call = incoming("rtc_1", ("X-Traceparent", TRACEPARENT))
    assert (await door.deliver(call, secret=OTHER)).said == "accepted"
    assert doubles.started == [("rtc_1", [("traceparent", TRACEPARENT)], "eu")]
    assert (await door.deliver(call, secret=OTHER, id="wh_2")).said == "accepted"
    assert (await door.deliver(call, secret=OTHER)).said == "repeat"
    assert len(doubles.started) == 1
    assert doubles.parts == []


def notes_of(parts: Sequence[Part]) -> list[tuple[str, dict[str, object]]]:
    return [
        (called(part.guest.guest), dict(note.event)) for part in parts if part.guest for note in decode(part.payload)
    ]


@pytest.mark.parametrize("kind", ["realtime.call.incoming", "live.call.incoming", "live.transport.incoming"])
async def test_without_a_recorder_a_call_is_remembered(doubles: Doubles, kind: str) -> None:
    """What its headers name, for whoever posts its events later; no number is kept."""
    async with opened(WebhookSinks(doubles, doubles)) as door:  # type: ignore[arg-type]
        assert (await door.deliver(incoming("x_1", ("TraceParent", TRACEPARENT), kind=kind))).said == "accepted"
        assert (
            await door.deliver(incoming("x_1", ("TraceParent", TRACEPARENT), kind=kind), id="wh_2")
        ).said == "accepted"
        assert (await door.deliver(incoming("x_2", kind=kind), id="wh_3")).said == "accepted"
    assert notes_of(doubles.parts) == [("x_1", {"type": "grafter.sip", "traceparent": TRACEPARENT})]
    assert b"1555" not in b"".join(part.payload for part in doubles.parts)


async def test_each_api_that_could_take_a_call_is_listened_to(door: Door, doubles: Doubles) -> None:
    """One call is told of under two ids, and nobody knows yet by which of them it will be accepted."""
    await door.deliver(incoming("live_1", ("traceparent", TRACEPARENT), kind="live.transport.incoming"))
    await door.deliver(incoming("rtc_1", ("traceparent", TRACEPARENT)), id="wh_2")
    assert [call for call, _, _ in doubles.started] == ["live_1", "rtc_1"]
    assert doubles.parts == []


@pytest.mark.parametrize("reason", ["no_api_key", "recorders"])
async def test_a_call_that_cannot_be_recorded_is_remembered(door: Door, doubles: Doubles, reason: str) -> None:
    """A repeat would come too late, so it is said, counted, and taken."""
    doubles.start_errors = [NotRecordedError("no", reason=reason)]
    assert (await door.deliver(incoming("rtc_1", ("traceparent", TRACEPARENT)))).said == "accepted"
    assert [call for call, _ in notes_of(doubles.parts)] == ["rtc_1"]
    assert door.count("webhook_events", kind="not_recorded") == 1


async def test_a_recorder_whose_head_is_not_stored_is_asked_for_again(door: Door, doubles: Doubles) -> None:
    """The store may take it the next time."""
    doubles.start_errors = [UnavailableError("full", reason="store_full")]
    assert (await door.deliver(incoming("rtc_1"))).status == 503
    assert (await door.deliver(incoming("rtc_1"))).said == "accepted"
    assert [call for call, _, _ in doubles.started] == ["rtc_1"]


async def test_a_large_delivery_is_read_beside_the_loop(doubles: Doubles) -> None:
    """And gives the same."""
    spans = [span(number) for number in range(1000)]
    async with opened(doubles.sinks, limits=WebhookLimits(body_bytes=1 << 20)) as door:
        assert (await door.deliver(envelope("trace.exported", {**trace_object(), "spans": spans}))).said == "accepted"
        _, headers = delivery(EXPORT, id="wh_2")
        assert (await door.post(b"x" * 500_000, headers)).said == "bad_signature"
    assert sum(part.spans for part in doubles.parts) == 1000


async def test_a_body_that_does_not_come_is_not_waited_for(doubles: Doubles) -> None:
    """400 after its time; nobody holds a connection for ever by sending slowly."""
    async with opened(doubles.sinks, limits=replace(LIMITS, body_seconds=0.2)) as door:
        _, headers = delivery(EXPORT)
        lines = [f"{name}: {value}" for name, value in {**headers, "host": "x", "content-length": "100"}.items()]
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write("\r\n".join([f"POST {PATH} HTTP/1.1", *lines, "", "{"]).encode())
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        await writer.wait_closed()
        assert door.outcome("rejected") == 1
