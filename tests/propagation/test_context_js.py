"""The JavaScript helpers say of a place in a trace what the Python ones say."""

import asyncio
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from grafter_propagation import call_context, extract, observe_sdp_answer
from tests.e2e.apps import why_no_javascript
from tests.propagation.apps import with_packages
from tests.propagation.test_context import CONTEXT, HERE, SPAN, TRACE

DEADLINE = 60.0


@pytest.fixture
def program(tmp_path: Path) -> str:
    """The scenes where the packages are installed."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    with_packages(tmp_path)
    return str(shutil.copy(Path(__file__).parent / "context.mjs", tmp_path))


async def play(program: str, scene: str, given: object = None) -> Any:
    """What a scene answers."""
    process = await asyncio.create_subprocess_exec(
        *("node", program, scene),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(json.dumps(given).encode()), DEADLINE)
    assert process.returncode == 0, error.decode()
    return json.loads(out)


async def test_a_call_has_the_same_root_in_both_languages(program: str) -> None:
    """Of Twilio, of Telnyx, and of any text, of every length that a block of the hash may have."""
    chance = random.Random(7)
    calls = ["CA5c1d9f0e7b3a4c2d8e6f1a0b9c8d7e6f", "428C31B6-7AF4-4BCB-B7F5-5013EF9657C1", "0" * 32, "CA" + "0" * 32]
    calls += ["".join(chance.choices("aZ09-_ü😀:/", k=length)) for length in range(1, 200)]
    assert await play(program, "calls", calls) == [call_context(call).traceparent for call in calls]


async def test_a_carrier_is_read_as_in_python(program: str) -> None:
    """Each form that a hop writes, and what is none."""
    carriers: list[Any] = [
        {"traceparent": HERE},
        {"TraceParent": HERE},
        {"SipHeader_X-Traceparent": HERE},
        {"_otel": {"traceparent": HERE}, "order": 7},
        [{"name": "From", "value": "x"}, {"name": "X-Traceparent", "value": HERE}],
        HERE,
        f"cc-{TRACE}-{SPAN}-03-later",
        f"{HERE}-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        {"traceparent": 7},
        {"_otel": 7},
        [7, None],
        None,
        7,
        {},
    ]
    here = {"traceId": TRACE, "spanId": SPAN, "traceFlags": 1, "isRemote": True}
    answers = await play(program, "extract", carriers)
    assert answers[:7] == [here] * 6 + [here | {"traceFlags": 3}]
    assert answers[7:] == [None] * 9
    assert [extract(carrier) == CONTEXT for carrier in carriers[:6]] == [True] * 6
    # What was extracted may be handed on to whatever takes a carrier.
    odd = [here | {"spanId": "x"}, {"isRemote": True, "traceId": TRACE}, {"isRemote": True, "traceparent": HERE}]
    assert await play(program, "extract", [here, *odd]) == [here, None, None, here]


async def test_a_proxied_calls_id_is_read_as_in_python(program: str) -> None:
    """Of headers in any case, of a Location, of what fetch gives; it stands on the active span."""
    answers: list[Any] = [
        {"Location": "/v1/realtime/calls/rtc_1"},
        {"location": "https://api.openai.com/v1/realtime/calls/live_2?x=y"},
        "/v1/realtime/calls/rtc_3",
        {"Location": "/v1/realtime/calls/sess_4"},
        {"Location": "rtc_5"},
        {},
        "",
    ]
    *read, span = await play(program, "answers", [*answers, None, 7])
    assert read == [*(observe_sdp_answer(answer) for answer in answers), None, None, "rtc_last"]
    assert read[:3] == ["rtc_1", "live_2", "rtc_3"]
    assert span == {"openai.realtime.call_id": "rtc_last"}


async def test_what_is_written_names_the_active_span(program: str) -> None:
    """Headers, a job, metadata, a session's tracing, a first message; without a span they are as they were."""
    seen = await play(program, "span")
    inside, outside = seen["inside"], seen["outside"]
    traceparent = f"00-{inside['traceId']}-{inside['spanId']}-01"
    ids = {"trace_id": inside["traceId"], "span_id": inside["spanId"], "traceparent": traceparent}
    assert inside["inject"] == inside["headers"] == {"a": "b", "traceparent": traceparent}
    assert inside["job"] == {"order": 7, "_otel": {"traceparent": traceparent}}
    assert inside["metadata"] == {**ids, "tenant": "t_1"}
    assert inside["tracing"] == {
        "workflow_name": "Desk",
        "group_id": "CA1",
        "metadata": {**ids, "call_id": "CA1", "tenant": "t_1"},
    }
    assert inside["first"] == {"type": "trace_context", "traceparent": traceparent}
    assert inside["read"]["spanId"] == inside["spanId"]
    assert outside["inject"] == outside["headers"] == {"a": "b"}
    assert (outside["job"], outside["metadata"]) == ({"order": 7}, {"tenant": "t_1"})
    assert outside["tracing"]["metadata"] == {"call_id": "CA1", "tenant": "t_1"}
    assert (seen["thrown"], seen["others"]) == ("TypeError", [None] * 5)
