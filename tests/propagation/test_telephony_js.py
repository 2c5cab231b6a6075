"""A gateway in Node: Twilio's own package checks its signatures, and it writes the root that Python would write."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from aiohttp import ClientSession
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id
from twilio.request_validator import RequestValidator

from grafter_propagation import call_context, end_call
from grafter_propagation.telephony import twilio_call, twilio_ended
from tests.e2e.apps import JS
from tests.propagation.apps import installed
from tests.propagation.spans import Spans
from tests.propagation.test_telephony import OVER, SID, TOKEN, VOICE

DEADLINE = 60.0


@pytest.fixture
def program(tmp_path: Path) -> str:
    """The gateway where the packages are installed."""
    return installed("telephony.mjs", tmp_path)


async def started(*command: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec("node", *command, stdin=pipe, stdout=pipe, stderr=pipe)


async def play(program: str, scene: str, given: object) -> Any:
    """What a scene answers, and what it warned of."""
    process = await started(program, scene)
    out, error = await asyncio.wait_for(process.communicate(json.dumps(given).encode()), DEADLINE)
    assert process.returncode == 0, error.decode()
    return json.loads(out), error.decode()


@asynccontextmanager
async def serving(program: str) -> AsyncIterator[str]:
    """The gateway's address."""
    process = await started(program, "serve", TOKEN)
    assert process.stdout is not None
    try:
        port = (await asyncio.wait_for(process.stdout.readline(), DEADLINE)).decode().strip()
        yield f"http://127.0.0.1:{port}"
    finally:
        _, error = await asyncio.wait_for(process.communicate(b""), DEADLINE)
        assert process.returncode == 0, error.decode()


async def test_a_call_from_its_webhook_to_its_end(program: str) -> None:
    """Signed by Twilio's Python package, checked by its Node package: the webhook's TwiML names the place, the media
    socket goes on there, and the status callback writes the root over them."""
    if not (JS / "node_modules/twilio").is_dir():
        pytest.skip("twilio is not installed in tests/e2e/js: `make test` fetches it")
    async with serving(program) as gateway, ClientSession() as session:

        async def post(path: str, form: dict[str, str], token: str = TOKEN) -> tuple[int, str]:
            url = gateway + path
            headers = {"X-Twilio-Signature": RequestValidator(token).compute_signature(url, form)}
            async with session.post(url, data=form, headers=headers) as answer:
                return answer.status, await answer.text()

        assert await post("/voice", VOICE, token="another") == (403, "")
        assert await post("/status", OVER, token="another") == (403, "")
        _, twiml = await post("/voice", VOICE)
        parameters = ElementTree.fromstring(twiml).iter("Parameter")
        custom = {parameter.attrib["name"]: parameter.attrib["value"] for parameter in parameters}
        assert await post("/media", custom) == (200, "")
        assert await post("/status", VOICE | {"CallStatus": "in-progress"}) == (200, "false")
        assert await post("/status", OVER) == (200, "true")
        invite, media, root = json.loads((await post("/spans", {}))[1])

    call = call_context(SID)
    assert (root["trace_id"], root["span_id"], root["parent"]) == (call.trace_id, call.span_id, "")
    assert root["attributes"] == {"call.id": SID, "call.status": "completed", "outcome": "booked"}
    assert (int(root["start"]), int(root["end"])) == (1_795_899_600_000_000_000, 1_795_899_642_000_000_000)
    assert (invite["name"], invite["parent"], invite["attributes"]) == ("sip.invite", call.span_id, {"call.id": SID})
    assert (media["name"], media["parent"], media["kind"]) == ("media", invite["span_id"], invite["kind"])
    assert {span["trace_id"] for span in (invite, media)} == {call.trace_id}


async def test_a_status_callback_writes_what_it_writes_in_python(program: str, spans: Spans) -> None:
    """Each final status, a leg of another call, a call that goes on, a length that is none: the same root, or none."""
    leg = {"CallSid": "CA" + "1" * 32, "ParentCallSid": SID}
    changes: list[dict[str, str]] = [{"CallStatus": status} for status in ("canceled", "busy", "no-answer", "failed")]
    changes += [{"CallStatus": status} for status in ("ringing", "in-progress", "", "constructor")]
    changes += [
        {},
        leg,
        {"CallDuration": "long"},
        {"CallDuration": " 7 "},
        {"CallDuration": "-7"},
        {"CallDuration": ""},
    ]
    changes += [{"Timestamp": "Sat, 28 Nov 2026 22:00:42 +0100"}, {"CallSid": "428c31b6-7af4-4bcb-b7f5-5013ef9657c1"}]
    forms = [OVER | change for change in changes]
    answer, _ = await play(program, "ended", forms)
    assert answer["written"] == [twilio_ended(form, tracer=spans.tracer) for form in forms]
    assert answer["roots"] == [twilio_call(form).span_id for form in forms]
    assert answer["spans"] == [plain(span) for span in spans.ended]
    assert len(spans.ended) == 11


async def test_a_root_is_written_under_its_own_ids_or_not_at_all(program: str, spans: Spans) -> None:
    """As end_call writes it, whatever the times are, and not for a time that is none; other spans have ids by chance; a
    provider with other ids gets a warning instead of another root, and so does no provider."""
    calls = [
        {"call": SID, "start": 1_795_899_600_000, "end": 1_795_899_642_000.5, "attributes": {"outcome": "booked"}},
        {"call": "call 1", "start": 0, "end": 1, "name": "call", "error": "no answer"},
        {"call": "ends before it began", "start": 2_000, "end": 1_000},
    ]
    answer, _ = await play(program, "calls", calls)
    for call in calls:
        rest = {name: value for name, value in call.items() if name in {"name", "attributes", "error"}}
        start, end = (int(float(str(call[name])) * 1000) * 1000 for name in ("start", "end"))
        assert end_call(str(call["call"]), start=start, end=end, tracer=spans.tracer, **rest)  # type: ignore[arg-type]
    end_call("a date", start=1_500_000_000, end=2_000_000_007, tracer=spans.tracer)
    assert answer["spans"] == [plain(span) for span in spans.ended]
    assert (answer["apart"], answer["random"], answer["odd"]) == (True, 2000, [])
    assert answer["thrown"] == ["TypeError"] * 22
    assert (answer["without"], answer["foreign"], answer["lost"]) == ([False] * 3, False, [])
    assert ["idGenerator: new CallIds()" in words for words in answer["warned"]] == [True] * 3


def plain(span: ReadableSpan) -> dict[str, Any]:
    """What telephony.mjs says of one."""
    assert span.context is not None
    return {
        "name": span.name,
        "kind": span.kind.value,
        "trace_id": format_trace_id(span.context.trace_id),
        "span_id": format_span_id(span.context.span_id),
        "parent": "",
        "start": str(span.start_time),
        "end": str(span.end_time),
        "attributes": dict(span.attributes or {}),
        "error": span.status.description if span.status.status_code is StatusCode.ERROR else None,
    }
