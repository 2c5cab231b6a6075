"""The call map as a support engineer uses it: a real process, the real doors, the real commands."""

import asyncio
import re
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import orjson
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tests.calls.postgres import new_database, postgres_server
from tests.e2e import commands
from tests.e2e.conftest import to_grpc
from tests.e2e.process import Grafter
from tests.e2e.sink import DEADLINE, Sink
from tests.rig import CALL, recorded_call
from tests.webhooks import SECRET, delivery, envelope

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
# Typed in Germany without +, the first may be the second.
ALIKE = ("+15005550006", "+4915005550006")
CALLER, CALLEE = "+49 30 1234567", "+442079460456"
NUMBERS = re.compile(r"30\D*123\D*45\D*67|44\D*207\D*946\D*0456")
SID = "CA0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as url:
        yield url


def grafter(home: Path, sink: Sink, url: str = "", **more: Any) -> Grafter:
    openai = {"projects": {"default": {"webhook_secrets": [SECRET]}}}
    made = Grafter(home, {"otlp_grpc/sink": to_grpc(sink)}, {"for_guest": "500ms"}, openai)
    config = yaml.safe_load(made.config.read_text("utf-8"))
    config["extensions"]["calls"] = {
        "url": url or f"sqlite:///{home}/calls.db",
        "region": "DE",
        "lookups_per_minute": 100_000,
        **more,
    }
    config["service"]["telemetry"]["logs"] = {"level": "debug"}
    made.config.write_text(yaml.safe_dump(config), "utf-8")
    return made


def attribute(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def call(number: int, **attributes: str) -> tuple[str, bytes]:
    """A host trace of one span, just now."""
    trace_id = number.to_bytes(16, "big")
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(
        trace_id=trace_id, span_id=number.to_bytes(8, "big"), name="callsphere.call",
        start_time_unix_nano=time.time_ns() - 60 * 10**9, end_time_unix_nano=time.time_ns(),
    )  # fmt: skip
    for key, value in attributes.items():
        span.attributes.append(attribute(key.replace("_", "."), value))
    return trace_id.hex(), request.SerializeToString()


@asynccontextmanager
async def running(made: Grafter) -> AsyncIterator[Grafter]:
    """Started, and in the end stopped in order."""
    try:
        await made.start()
        yield made
        assert await made.terminate() == 0, made.log()
    finally:
        await made.close()


def whole_log(made: Grafter) -> str:
    return (made.home / "grafter.log").read_text("utf-8", "replace")


async def send(made: Grafter, request: bytes) -> None:
    async with grpc.aio.insecure_channel(made.otlp_grpc) as channel:
        await channel.unary_unary(EXPORT)(request)


async def command(made: Grafter, *words: str, code: int = 0, given: str = "", by: Any = commands.command) -> str:
    """What a command prints."""
    ended, out, err = await by(made, *words, given=given)
    assert ended == code, (out, err, made.log())
    return str(out or err)


async def ask(made: Grafter, path: str, **asked: Any) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(made.admin.replace("/admin/pull", path), data=orjson.dumps(asked), headers=headers) as response,
    ):
        found: dict[str, Any] = await response.json()
        return {"status": response.status, **found}


async def post(made: Grafter, body: Any) -> int:
    async with (
        aiohttp.ClientSession() as client,
        client.post(made.admin.replace("/admin/pull", "/api/calls"), json=body) as response,
    ):
        return response.status


async def until_known(made: Grafter, text: str, calls: int = 1, **asked: Any) -> list[dict[str, Any]]:
    """The calls under a text, once there are so many."""
    answer: dict[str, Any] = {}
    try:
        async with asyncio.timeout(DEADLINE):
            while answer.get("status") != 200 or len(answer["calls"]) < calls:
                await asyncio.sleep(0.1)
                answer = await ask(made, "/admin/lookup", text=text, **asked)
    except TimeoutError:
        raise AssertionError(f"{answer}\n{made.log()}") from None
    return list(answer["calls"])


async def test_a_call_is_found_by_its_number(tmp_path: Path, sink: Sink) -> None:
    """The main job: paste a number in any form, see the call and its trace; and the number stands nowhere. What the app
    posts later under a key of the config's is an id of the call, under any other it is one of that system."""
    made = grafter(tmp_path, sink, keys={"ids": ["call.id", "order.number"]})
    async with running(made):
        request = ExportTraceServiceRequest.FromString(recorded_call())
        root = next(
            span
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if not span.parent_span_id
        )
        for key, value in {"call.from": CALLER, "call.id": SID, "call.outcome": "booked"}.items():
            root.attributes.append(attribute(key, value))
        await send(made, request.SerializeToString())
        (found,) = await until_known(made, "030/1234567")
        assert found["traces"] == [CALL.hex()]
        assert found["from"] == {"last_four": "4567", "number": None}
        assert found["outcome"] == "booked"
        assert await post(made, {"ids": {"call.id": SID, "order.number": "order-77", "desk": "case-78"}}) == 204
        (found,) = await until_known(made, "case-78")
        assert [(one["id"], one.get("system")) for one in found["ids"]] == [
            ("case-78", "desk"),
            ("order-77", None),
            (SID, None),
        ]
        said = await command(made, "lookup", "-", given="+49 (30) 12345-67\n", by=commands.typed)
        assert CALL.hex() in said
        assert "…4567" in said
        assert "an OpenAI session was expected" in said
        assert orjson.loads(await command(made, "lookup", SID, "--json"))["calls"][0]["key"] == found["key"]
        shown = await command(made, "trace", CALL.hex(), "--json")
        kept = b"".join(b64decode(one) for one in orjson.loads(shown)["documents"])
        assert "…4567".encode() in kept
        assert not NUMBERS.search(kept.decode("utf-8", "replace"))
        assert "callsphere.call" in await command(made, "trace", CALL.hex())
        assert "no call is known" in await command(made, "lookup", "+493099999", code=1)
        assert "calls           1" in await command(made, "report", "--since", "520w")
    assert "callsphere.call" in await command(made, "trace", SID)
    for file in [made.home / "grafter.log", *made.home.glob("calls.db*")]:
        assert not NUMBERS.search(file.read_bytes().decode("utf-8", "replace")), file.name


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_what_was_released_is_known_after_a_kill(
    tmp_path: Path, sink: Sink, kind: str, request: pytest.FixtureRequest
) -> None:
    """Killed as soon as the backend has it: the call is there after the next start, once."""
    url = new_database(request.getfixturevalue("postgres")) if kind == "postgres" else ""
    made = grafter(tmp_path, sink, url)
    async with running(made):
        trace_id, spans = call(7, **{"call_id": SID, "call_from": CALLER})
        await send(made, spans)
        await sink.until_spans(trace_id, 1)
        await made.kill()
        await made.start()
        (found,) = await until_known(made, CALLER)
        assert found["traces"] == [trace_id]


async def test_a_database_that_is_away_costs_nothing(tmp_path: Path, sink: Sink, postgres: str) -> None:
    """Doors, releases and webhooks go on; what came meanwhile, over a kill too, is there when it is back."""
    url = new_database(postgres)
    link = tmp_path / "pg"
    socket = re.search(r"host=([^&]*)", url)
    assert socket is not None
    real = Path(re.sub("%2F", "/", socket[1]))
    away = url.replace(socket[1], str(link).replace("/", "%2F"))
    made = grafter(tmp_path, sink, away)
    async with running(made):
        trace_id, spans = call(9, **{"call_id": SID, "call_from": CALLER})
        await send(made, spans)
        await sink.until_spans(trace_id, 1)
        assert await post(made, {"ids": [SID], "outcome": "completed", "to": CALLEE}) == 204
        assert (await ask(made, "/admin/lookup", text=CALLER))["status"] == 503
        await made.kill()
        await made.start()
        link.symlink_to(real)
        (found,) = await until_known(made, CALLEE)
        assert found["traces"] == [trace_id]
        assert found["outcome"] == "completed"


async def test_a_number_is_forgotten(tmp_path: Path, sink: Sink) -> None:
    """What was known of it is gone, what lives on elsewhere is named, and other calls stay: without + no
    number's whose digits these may be."""
    made = grafter(tmp_path, sink)
    async with running(made):
        mine, spans = call(11, **{"call_id": "call-of-anna", "call_from": CALLER})
        await send(made, spans)
        _, others = call(12, **{"call_id": "call-of-bert", "call_from": "+493055555"})
        await send(made, others)
        for number, caller in enumerate(ALIKE, 13):
            await send(made, call(number, **{"call_id": f"call-{number}", "call_from": caller})[1])
        for known in (CALLER, "call-of-bert", "call-13", "call-14"):
            await until_known(made, known)
        said = await command(made, "forget", "-", given=f"{CALLER}\n")
        assert "forgotten, with all that was kept of them: 1" in said
        assert mine in said
        assert (await ask(made, "/admin/lookup", text="call-of-anna"))["calls"] == []
        assert len((await ask(made, "/admin/lookup", text="call-of-bert"))["calls"]) == 1
        assert (await ask(made, "/admin/forget", number="anna"))["status"] == 400
        for typed, left in ((ALIKE[0][1:], [1, 1]), (ALIKE[0], [0, 1])):
            answer = await ask(made, "/admin/forget", number=typed)
            assert answer["status"] == 200
            assert ("write it with +" in " ".join(answer["lines"])) == (not typed.startswith("+"))
            assert [len((await ask(made, "/admin/lookup", text=f"call-{one}"))["calls"]) for one in (13, 14)] == left
        assert "a number was forgotten" in whole_log(made)
    assert not NUMBERS.search(whole_log(made))


async def test_announcements_and_the_apps_word_are_one_call(tmp_path: Path, sink: Sink) -> None:
    """Two webhooks of one SIP call and a post of the app's: one row; and a host trace that names the same call."""
    made = grafter(tmp_path, sink)
    async with running(made):
        sip = [
            {"name": "From", "value": f"<sip:{CALLER.replace(' ', '')}@carrier.example>"},
            {"name": "Call-ID", "value": "a84b4c76e66710@pc33"},
        ]
        async with aiohttp.ClientSession() as client:
            announced: dict[str, dict[str, str]] = {
                "realtime.call.incoming": {"call_id": "rtc_one"},
                "live.transport.incoming": {"session_id": "live_one"},
            }
            for at, (kind, data) in enumerate(announced.items()):
                body, headers = delivery(envelope(kind, {**data, "sip_headers": sip}), id=f"wh_{at}")
                async with client.post(made.webhooks, data=body, headers=headers) as response:
                    assert response.status == 200
        (found,) = await until_known(made, CALLER, live=True)
        assert found["outcome"] == "running"
        assert await post(made, {"ids": {"sip_call_id": "a84b4c76e66710@pc33", "twilio": SID}, "to": CALLEE}) == 204
        trace_id, spans = call(13, **{"call_sid": SID, "call_outcome": "completed"})
        await send(made, spans)
        await until_known(made, trace_id)
        (found,) = await until_known(made, CALLER)
        assert len((await ask(made, "/admin/lookup", text=""))["calls"]) == 1
        assert {one["id"] for one in found["ids"]} == {"rtc_one", "live_one", "a84b4c76e66710@pc33", SID}
        assert found["traces"] == [trace_id]
        assert found["to"]["last_four"] == "0456"


async def test_a_post_that_says_nothing_usable_is_refused(tmp_path: Path, sink: Sink) -> None:
    """400, and nothing is stored."""
    refused: list[Any] = [
        *([], {}, {"ids": []}, {"ids": [5]}, {"ids": ["+49301234567"]}, {"ids": [SID], "start": "then"}),
        *({"ids": [SID], "start": 20, "end": 10}, {"ids": [SID], "from": 5}, {"ids": [SID], "traceparent": "00-1"}),
    ]
    made = grafter(tmp_path, sink)
    async with running(made):
        for body in refused:
            assert await post(made, body) == 400, body
        assert await post(made, {"ids": [SID], "start": 1_800_000_000, "end": "2027-01-15T08:10:00Z"}) == 204
        assert len(await until_known(made, "")) == 1


async def test_lookups_by_number_have_a_rate(tmp_path: Path, sink: Sink) -> None:
    """Whoever tries numbers is stopped; each try stands in the log, as a hash."""
    made = grafter(tmp_path, sink, lookups_per_minute=3)
    async with running(made):
        await until_known(made, "", calls=0)
        answers = [(await ask(made, "/admin/lookup", text=f"+4930123450{n}"))["status"] for n in range(5)]
        assert answers == [200, 200, 200, 503, 503]
        assert (await ask(made, "/admin/lookup", text=SID))["status"] == 200
    assert whole_log(made).count("a number was looked up") == 3
    assert "4930123450" not in whole_log(made)


async def test_without_the_extension_there_is_no_call_map(tmp_path: Path, sink: Sink) -> None:
    """A file that does not name it: no door, no file, and the command says what to do."""
    made = Grafter(tmp_path, {"otlp_grpc/sink": to_grpc(sink)})
    async with running(made):
        assert await post(made, {"ids": [SID]}) == 404
        assert "names no extensions.calls" in await command(made, "lookup", SID, code=1)
    assert not (tmp_path / "calls.db").exists()
