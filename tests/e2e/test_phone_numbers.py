"""Phone numbers of calls: remembered as hashes, over restarts and replicas, and as themselves nowhere."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import yaml

from grafter.core.calls import CallNote, phone_in
from grafter.core.model import UnixNano
from grafter.core.policy import SECOND, Waits
from grafter.store.embedded import opening as embedded
from grafter.store.redis import opening
from tests.e2e.conftest import to_grpc
from tests.e2e.process import Grafter
from tests.e2e.realtime_server import KEY, event, session
from tests.e2e.sink import Sink
from tests.store.redis.servers import Server, server
from tests.webhooks import SECRET, delivery, envelope

CALLER, CALLEE = "+1 (555) 010-0123", "+442079460456"
NUMBERS = re.compile(r"555\D*010\D*0123|44\D*207\D*946\D*0456")
HOST = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{HOST}-b7ad6b7169203331-01"
OPEN: dict[str, Any] = {
    "waits": Waits(),
    "max_bytes": 1 << 30,
    "max_trace_bytes": 1 << 26,
    "lease_ns": 10 * SECOND,
    "guests_apart": False,
}


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with server() as running:
        yield running


def grafter(home: Path, sink: Sink, store: dict[str, Any] | None = None) -> Grafter:
    """A grafter that would record calls, if anybody answered it, and says all that it can say."""
    project = {"api_key": KEY, "base_url": "http://127.0.0.1:9/v1", "webhook_secrets": [SECRET]}
    openai = {"projects": {"default": project}, "realtime": {"record": True}}
    home.mkdir(exist_ok=True)
    made = Grafter(home, {"otlp_grpc/sink": to_grpc(sink)}, {"idle": "1s"}, openai, store)
    config = yaml.safe_load(made.config.read_text("utf-8"))
    config["service"]["telemetry"]["logs"] = {"level": "debug"}
    made.config.write_text(yaml.safe_dump(config), "utf-8")
    return made


def incoming(call_id: str, **headers: str) -> dict[str, Any]:
    sip = [{"name": name.replace("_", "-"), "value": value} for name, value in headers.items()]
    return envelope("realtime.call.incoming", {"call_id": call_id, "sip_headers": sip})


async def tell(url: str, body: Any, headers: dict[str, str] | None = None) -> str:
    """The answer of a door, which is to have taken it."""
    async with aiohttp.ClientSession() as client, client.post(url, data=body, headers=headers) as answer:
        text = await answer.text()
        assert answer.status < 300, text
        return text


async def deliver(to: Grafter, body: Any, **signed: Any) -> str:
    return await tell(to.webhooks, *delivery(body, **signed))


async def said(by: Grafter) -> str:
    """All that a grafter says of itself."""
    async with aiohttp.ClientSession() as client, client.get(by.metrics) as page:
        return await page.text() + (by.home / "grafter.log").read_text("utf-8")


async def test_a_number_is_in_no_file_log_metric_or_span(tmp_path: Path, sink: Sink) -> None:
    """Of a call that is recorded, one whose numbers are odd, and one that the app started: the notes are there after a
    kill and a restart, a second event of the call fills in what was left open, and the digits are nowhere."""
    mine = grafter(tmp_path / "one", sink)
    try:
        await mine.start()
        name = f'"{CALLER}" <sip:{CALLER.replace(" ", "%20")}@example.com>;tag=1'
        text = await deliver(mine, incoming("rtc_1", From=name, X_Traceparent=TRACEPARENT))
        text += await deliver(mine, incoming("rtc_2", From="sip:anonymous@x", To=f"<tel:{CALLEE}x>"), id="wh_2")
        text += await tell(mine.calls, f'{{"call_id": "rtc_3", "from": "{CALLER}", "to": "{CALLEE}"}}')
        begun = {
            "at": time.time_ns() / SECOND,
            "from": "server",
            "event": event("session.created", session=session("sess_1")),
        }
        posted = {"call": "rtc_1", "metadata": {"trace_id": HOST}, "events": [begun], "ended": True}
        text += await tell(mine.calls.replace("calls", "events"), orjson.dumps(posted))
        await mine.kill()
        await mine.start()
        text += await deliver(mine, incoming("rtc_1", From="sip:+19995550000@x", To=f"sip:{CALLEE}@x"), id="wh_3")
        text += await said(mine)
        await sink.until_spans(HOST, 1)
        await mine.terminate()
    finally:
        await mine.close()
    kept = b"".join(path.read_bytes() for path in (mine.home / "store").rglob("*") if path.is_file())
    assert b"rtc_1" in kept
    assert not NUMBERS.search(kept.decode("latin-1"))
    assert not NUMBERS.search(text + str(sink.requests))

    now = UnixNano(time.time_ns())
    async with embedded.opened(mine.home / "store", **OPEN) as store:
        secret = store.hmac_secret()
        caller, callee = phone_in(CALLER, secret), phone_in(CALLEE, secret)
        first, second, third = await store.find_calls(["rtc_1", "rtc_2", "rtc_3"], now)
    assert first is not None
    assert second is not None
    assert third is not None
    assert first == CallNote("rtc_1", first.at, caller, callee, TRACEPARENT)
    assert second == CallNote("rtc_2", second.at)
    assert third == CallNote("rtc_3", third.at, caller, callee)
    assert caller is not None
    assert caller.last_four == "0123"


async def test_replicas_note_one_call_once(tmp_path: Path, sink: Sink, redis: Server) -> None:
    """Each hears something else of it; hashed under one secret, the parts fit. Redis holds no digits."""
    store = {"redis": {"url": redis.url}}
    both = [grafter(tmp_path / name, sink, store) for name in ("one", "two")]
    try:
        for one in both:
            await one.start()
        text = await deliver(both[0], incoming("rtc_4", From=f"sip:{CALLER}@x"))
        text += await deliver(both[1], incoming("rtc_4", f=CALLEE, To=f"sip:{CALLEE}@x"), id="wh_2")
        text += await deliver(both[1], incoming("rtc_5", From=CALLER, To="sip:+19995550000@x"), id="wh_3")
        kept = everything(redis)
        text += "".join([await said(one) for one in both])
        for one in both:
            await one.terminate()
    finally:
        for one in both:
            await one.close()
    assert "rtc_4" in kept
    assert not NUMBERS.search(kept + text + str(sink.requests))

    async with opening.opened(redis.url, **OPEN) as shared:
        secret = shared.hmac_secret()
        notes = await shared.find_calls(["rtc_4", "rtc_5"], UnixNano(time.time_ns()))
    assert [note and (note.caller, note.callee) for note in notes] == [
        (phone_in(CALLER, secret), phone_in(CALLEE, secret)),
        (phone_in(CALLER, secret), phone_in("+19995550000", secret)),
    ]


def everything(redis: Server) -> str:
    """Every key of a server and what is in it."""
    (names,) = redis.ask([("KEYS", "*")])
    assert isinstance(names, list)
    read: dict[object, tuple[Any, ...]] = {
        b"string": ("GET",),
        b"hash": ("HGETALL",),
        b"list": ("LRANGE", 0, -1),
        b"zset": ("ZRANGE", 0, -1),
    }
    asked = []
    for name, kind in zip(names, redis.ask([("TYPE", name) for name in names]), strict=True):
        command, *more = read[kind]
        asked.append((command, name, *more))
    return repr((names, redis.ask(asked)))
