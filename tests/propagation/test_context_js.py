"""The JavaScript helpers say of a place in a trace what the Python ones say."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from grafter_propagation import call_context, extract, observe_sdp_answer, seal, unseal
from tests.propagation.apps import installed
from tests.propagation.test_context import CONTEXT, HERE, SPAN, TRACE

DEADLINE = 60.0


@pytest.fixture
def program(tmp_path: Path) -> str:
    """The scenes where the packages are installed."""
    return installed("context.mjs", tmp_path)


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
        {"_otel": {}, "traceparent": HERE},
        {"_otel": {"traceparent": 7}, "traceparent": HERE},
        {"_otel": [7], "traceparent": HERE},
        {"_otel": HERE, "traceparent": "x"},
        {"traceparent": 7, "X-Traceparent": HERE},
        [7, ["traceparent", HERE]],
        [{"name": "From", "value": "x"}, {"name": "X-Traceparent", "value": HERE}],
        [["order", "7"], ["traceparent", HERE]],
        HERE,
        f"cc-{TRACE}-{SPAN}-03-later",
        f"{HERE}-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        {"traceparent": 7},
        {"_otel": 7},
        {"_otel": {"traceparent": "x"}, "traceparent": HERE},
        [7, None],
        None,
        7,
        {},
    ]
    here = {"traceId": TRACE, "spanId": SPAN, "traceFlags": 1, "isRemote": True}
    answers = await play(program, "extract", carriers)
    assert answers[:14] == [here] * 13 + [here | {"traceFlags": 3}]
    assert answers[14:] == [None] * 10
    assert [extract(carrier) == CONTEXT for carrier in carriers[:13]] == [True] * 13
    assert [extract(carrier) for carrier in carriers[14:]] == [None] * 10
    # What was extracted may be handed on to whatever takes a carrier.
    odd = [here | {"spanId": "x"}, {"isRemote": True, "traceId": TRACE}, {"isRemote": True, "traceparent": HERE}]
    assert await play(program, "extract", [here, *odd]) == [here, None, None, here]


async def test_a_carrier_of_bytes_is_read_as_in_python(program: str) -> None:
    """As Redis and Kafka hand values on: a Uint8Array, of another realm too, a Buffer, a view, a whole ArrayBuffer."""
    assert extract({"traceparent": HERE.encode()}) == CONTEXT
    here = {"traceId": TRACE, "spanId": SPAN, "traceFlags": 1, "isRemote": True}
    assert await play(program, "bytes", HERE) == [here] * 15


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


async def test_a_tracestate_stays_with_its_trace(program: str) -> None:
    """In carriers of every kind, as in Python; metadata and what a carrier lets through have no room for it."""
    states = ["ot=th:8,vendor@1=a b", "a=1", "", "odd", "UPPER=1, ok=2", ",".join(f"k{n}=1" for n in range(40))]
    carriers = [{"traceparent": HERE, "tracestate": state} for state in states]
    found = await play(program, "state", carriers)
    kept = [each["inject"].get("tracestate", "") for each in found]
    assert kept[:5] == ["ot=th:8,vendor@1=a b", "a=1", "", "", "ok=2"]
    assert len(kept[5].split(",")) == 32
    for each, state in zip(found, kept, strict=True):
        for carrier in ("headers", "first", "sealed", "handed", "edge"):
            assert each[carrier].get("tracestate", "") == state, carrier
        assert each["job"]["_otel"].get("tracestate", "") == state
        assert each["metadata"].keys() == {"trace_id", "span_id", "traceparent", "tenant"}
        assert each["twiml"].keys() == {"traceparent"}
    assert [each["again"] for each in found][:3] == ["new=1,vendor@1=a b", "new=1,a=1", None]
    odd = await play(program, "extract", [{"traceparent": HERE, "tracestate": state} for state in (7, [], {}, None)])
    assert [each["traceId"] for each in odd] == [TRACE] * 4


async def test_an_envelope_is_opened_in_either_language(program: str) -> None:
    """Text and bytes come out as they went in, also of what Redis gave as bytes; what was never sealed is its own."""
    bodies: list[str | bytes] = ["7", "für Ältere 😀", "", "{}", '{"grafter.envelope', b"\x00\xff", b"", bytes(100_000)]
    others: list[Any] = ["7", "", "{}", '{"grafter.envelope": 1}', '{"grafter.envelope": 1, "text": 7}', "[]"]
    given = {"place": {"traceparent": HERE}, "messages": [seal(body, CONTEXT) for body in bodies], "others": others}
    answer = await play(program, "sealed", given)
    shown = [body if isinstance(body, str) else {"bytes": list(body)} for body in bodies]
    assert answer["opened"] == [[[body, {"traceparent": HERE}]] * 2 for body in shown]
    assert [unseal(message) for message in answer["again"]] == [(body, {"traceparent": HERE}) for body in bodies]
    assert (answer["without"], answer["own"], answer["buffer"]) == ({}, [True] * 6, {"bytes": [0, 255]})


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
