"""What is found in a call, and above all what is not: a loss that is none is never stated."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, set_span_in_context

from grafter.core.call_latency import Step
from grafter.doctor.answers import call_answer
from grafter.doctor.call_findings import call_root, examine_call
from grafter.doctor.model import Call, Weight
from grafter.otlp.from_json import trace_request_from_json
from grafter.otlp.reading import read_spans
from grafter.receiver.examining import Examiner
from grafter.receiver.explaining import Explainer
from grafter_propagation import call_context, continue_call
from tests.doctor.hops import IDS
from tests.doctor.services import SID, Services, ids_of, weighed
from tests.e2e.process import REPO
from tests.rig import CALL, DATA, Peer, Rig, recorded_call, recorded_guest, rig
from tests.web.double import MemoryCalls, memory_calls

SECOND = 10**9
START = 1_790_000_000 * SECOND
GUEST = "trace_641f3b5c6ea248ddbd46cabf7ae382b9"
RUN = "py_runner_chat_completions"


def is_anchor(step: Step) -> bool:
    return step.name == "gen_ai.realtime.session"


def said(call: Call, *weights: Weight) -> list[str]:
    return [finding.code for finding in weighed(call, *(weights or tuple(Weight)))]


def span(app: Services, service: str, name: str, start: float, end: float, **more: Any) -> Any:
    """One of a service, from and to seconds after the start."""
    made = app.tracer(service).start_span(name, start_time=START + int(start * SECOND), **more)
    made.end(START + int(end * SECOND))
    return made


# What is no loss.


@pytest.mark.parametrize("name", ["otlp_call_from_sdk", "otlp_call_from_collector"])
async def test_a_healthy_call_has_lost_nothing(name: str) -> None:
    """The recorded call with OpenAI's recorded run in it."""
    async with rig(peer := Peer()) as r:
        await r.host(recorded_call(name))
        for request in recorded_guest(RUN):
            await r.guest(request)
        await r.pass_time(20)
    spans = list(read_spans(peer.requests))
    call = Call(SID, ids_of(spans), spans, is_anchor=is_anchor)
    assert said(call, Weight.FAULT, Weight.DOUBT) == []
    assert str(call_answer(call, examine_call(call))["lines"]).count("nothing lost") == 1


async def test_calls_of_every_kind_have_lost_nothing_but_where_they_have() -> None:
    """Twenty-one calls of a clinic's line, joined by grafter itself."""
    calls = await memory_calls()
    found = {name: said(call_of(calls, name), Weight.FAULT, Weight.DOUBT) for name in calls.names}
    assert {name: codes for name, codes in found.items() if codes} == {
        "metadata missing": ["openai_unlinked"],
        "app silent": ["app_missing"],
    }


def call_of(calls: MemoryCalls, name: str) -> Call:
    key = calls.names[name]
    row = next(row for row in calls.rows if row.key == key)
    return Call(
        name, {one.value: one.kind for one in row.ids}, list(read_spans(calls.documents[key])), is_anchor=is_anchor
    )


@pytest.mark.parametrize("name", ["livekit_agents_1.8.9", "pipecat_1.14.0"])
def test_a_frameworks_own_trace_has_lost_nothing(name: str) -> None:
    """As it was recorded."""
    spans = list(read_spans([(DATA / "otlp" / f"{name}.pb").read_bytes()]))
    assert said(Call("", ids_of(spans), spans), Weight.FAULT, Weight.DOUBT) == []


def test_a_retry_with_a_link_is_another_trace_on_purpose() -> None:
    """Also one that begins an hour later."""
    app = Services()
    sent = span(app, "gateway", "callsphere.call", 0, 60, attributes=IDS)
    links = [Link(sent.get_span_context())]
    span(app, "desk", "process orders", 30, 31, kind=SpanKind.CONSUMER, links=links, attributes=IDS)
    assert said(app.call()) == []


def test_who_looks_at_a_call_is_no_part_of_it() -> None:
    """While it runs, by a page that asks; after it, by anything; and a page that asks for something is only doubted."""
    app = Services()
    span(app, "gateway", "callsphere.call", 0, 60, attributes=IDS)
    for method, start, expected in (("GET", 10, []), ("POST", 3600, []), ("POST", 20, ["parted"])):
        attributes = {**IDS, "http.request.method": method, "url.path": f"/calls/{SID}"}
        span(app, "desk", method, start, start + 1, kind=SpanKind.SERVER, attributes=attributes)
        assert said(app.call(), Weight.DOUBT) == expected
        assert said(app.call(), Weight.FAULT) == []


def test_a_server_in_which_the_call_goes_on_has_lost_nothing() -> None:
    """A web framework's instrumentation begins a trace for the webhook, and the line in it goes on with the call."""
    app = Services()
    under = call_context(SID).otel()
    span(app, "gateway", "media", 1, 60, attributes=IDS, context=under)
    span(app, "gateway", "sip.invite", 5.1, 5.2, kind=SpanKind.SERVER, attributes=IDS, context=under)
    attributes = {**IDS, "user_agent.original": "TwilioProxy/1.1"}
    span(app, "gateway", "POST /voice", 5, 5.3, kind=SpanKind.SERVER, attributes=attributes)
    assert "parted" not in said(app.call())
    span(app, "gateway", "POST /status", 50, 50.1, kind=SpanKind.SERVER, attributes=attributes)
    (finding,) = [each for each in weighed(app.call()) if each.code == "parted"]
    assert [each.span for each in finding.evidence] == ["POST /status"]


def test_another_leg_is_a_trace_of_its_own() -> None:
    """It names its parent's id beside its own; two calls that share an app's own word are two."""
    app = Services()
    span(app, "gateway", "leg 1", 0, 60, attributes=IDS)
    other = {"call.id": f"CA{'7' * 32}", "twilio.call_sid": SID}
    span(app, "gateway", "leg 2", 10, 40, attributes=other)
    assert said(app.call()) == []
    word = {"conversation.id": "reception"}
    apart = Services()
    span(apart, "gateway", "one", 0, 60, attributes={**IDS, **word})
    span(apart, "gateway", "two", 10, 40, attributes={**other, "twilio.call_sid": f"CA{'7' * 32}", **word})
    assert said(apart.call()) == []


def test_an_id_that_every_trace_has_names_no_call() -> None:
    """An app's default."""
    app = Services()
    for number in range(30):
        span(app, "gateway", "call", number, number + 5, attributes={"call.id": "unknown"})
    assert said(app.call()) == []


def test_a_call_that_still_runs_has_no_missing_parents() -> None:
    """What is held is no evidence."""
    app = Services()
    with continue_call(call_context(SID), "sip.invite", kind="server", attributes=IDS, tracer=app.tracer("gateway")):
        pass
    running = app.call()
    assert said(Call(SID, running.ids, running.spans, whole=False)) == []
    assert said(running, Weight.FAULT) == ["root_never_written"]
    last = max(span.step.end for span in running.spans)
    for minutes, weight in ((29, Weight.DOUBT), (31, Weight.FAULT)):
        assert said(replace(running, now=last + minutes * 60 * SECOND), weight) == ["root_never_written"]


def test_the_root_is_the_one_that_the_helpers_compute() -> None:
    """Of ids of every kind."""
    for call_id in (SID, SID.lower(), "5c1d9f0e-7b3a-4c2d-8e6f-1a0b9c8d7e6f", "call 7", "CA" + "0" * 32):
        context = call_context(call_id)
        assert call_root(call_id) == (bytes.fromhex(context.trace_id), bytes.fromhex(context.span_id))


# What is one.


def test_a_span_that_never_ended_is_known_by_what_is_under_it() -> None:
    """Of the same process; of another, its service may only send its spans elsewhere."""
    app = Services()
    begun = app.tracer("desk").start_span("desk.session", context=Context())
    with app.tracer("desk").start_as_current_span("look up", context=set_span_in_context(begun)):
        pass
    (finding,) = weighed(app.call())
    assert (finding.code, finding.evidence[0].span) == ("parent_never_ended", "look up")
    now = app.read()[0].step.end + SECOND
    (finding,) = weighed(replace(app.call(), now=now), *Weight)
    assert (finding.code, finding.weight) == ("parent_never_ended", Weight.DOUBT)
    assert "still runs, or did not end" in finding.sentence
    elsewhere = Services()
    source = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    with continue_call(source, "process orders", tracer=elsewhere.tracer("desk")):
        pass
    assert said(elsewhere.call(), Weight.FAULT) == []
    assert said(elsewhere.call(), Weight.DOUBT) == ["sender_elsewhere"]


def test_a_message_that_nobody_takes_up_is_doubted() -> None:
    """Nobody may be there; and a receiver whose sender says nothing may have none."""
    app = Services()
    nats = {"messaging.system": "nats", "messaging.destination.name": "desk.orders"}
    with app.tracer("gateway").start_as_current_span("callsphere.call", attributes=IDS):
        for _ in range(3):
            with app.tracer("gateway").start_as_current_span("send", kind=SpanKind.PRODUCER, attributes=nats):
                pass
    (finding,) = weighed(app.call(), *Weight)
    assert (finding.code, finding.hop, finding.weight) == ("nothing_goes_on", "nats", Weight.DOUBT)
    assert len(finding.evidence) == 3
    assert [line.where for line in finding.lines] == ["where it is received"]
    alone = Services()
    span(alone, "desk", "process orders", 0, 1, kind=SpanKind.CONSUMER, attributes={**IDS, **nats})
    (finding,) = weighed(alone.call(), *Weight)
    assert (finding.code, finding.hop, finding.weight) == ("nobody_sent", "nats", Weight.DOUBT)


def test_a_clock_is_behind_where_an_effect_comes_before_its_cause() -> None:
    """At least by so much; within a service spans may overlap as they like."""
    app = Services()
    sent = span(app, "gateway", "POST /book", 10, 12, kind=SpanKind.CLIENT)
    under = set_span_in_context(sent)
    span(app, "calendar", "POST /book", 9.25, 11, kind=SpanKind.SERVER, context=under)
    span(app, "gateway", "read answer", 9, 11, kind=SpanKind.SERVER, context=under)
    (finding,) = weighed(app.call(), *Weight)
    assert (finding.code, finding.weight) == ("clocks_differ", Weight.NOTE)
    assert "calendar is at least 750 ms behind that of gateway" in finding.sentence


def test_the_lines_are_in_the_languages_of_the_services() -> None:
    """Of a sender in Node and a worker in Python each its own."""
    app = Services()
    span(app, "worker", "process", 2, 3, kind=SpanKind.CONSUMER, attributes={**IDS, "messaging.system": "bullmq"})
    app.documents.append(
        otlp("gateway", [{"name": "callsphere.call", "attributes": IDS, "end": 10}], language="nodejs")
    )
    (finding,) = weighed(app.call())
    assert [(line.where, line.language) for line in finding.lines] == [
        ("where it is sent", "js"),
        ("where it is received", "python"),
    ]


def otlp(service: str, spans: Sequence[Mapping[str, Any]], **sdk: str) -> bytes:
    """A request of another SDK's, with seconds after the start."""
    resource = {"service.name": service, **{f"telemetry.sdk.{key}": value for key, value in sdk.items()}}
    rows = [
        {
            "traceId": f"{at + 1:032x}",
            "spanId": f"{at + 1:016x}",
            "name": each["name"],
            "startTimeUnixNano": str(START),
            "endTimeUnixNano": str(START + each["end"] * SECOND),
            "attributes": listed(each["attributes"]),
        }
        for at, each in enumerate(spans)
    ]
    body = {"resourceSpans": [{"resource": {"attributes": listed(resource)}, "scopeSpans": [{"spans": rows}]}]}
    return trace_request_from_json(json.dumps(body).encode())


def listed(attributes: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]


@pytest.mark.parametrize(
    ("hop", "begun"),
    [
        pytest.param("edge", "'edge', undefined, { kind: 'server', attributes }", id="edge"),
        pytest.param("webrtc", "'webrtc.peer_connection', undefined, { attributes }", id="webrtc"),
    ],
)
def test_a_worker_and_a_page_that_begin_anew_are_named(hop: str, begun: str) -> None:
    """By the spans that grafter's own files send for them, here without the traceparent that they lack."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    edge = (REPO / "propagation" / "js" / "edge.mjs").as_uri()
    program = f"""
        import {{ beginSpan, endSpan }} from '{edge}';
        globalThis.fetch = async (url, {{ body }}) => {{ console.log(body); return new Response(); }};
        const attributes = {json.dumps(IDS)};
        await endSpan(beginSpan({begun}));
    """
    ended = subprocess.run(["node", "--input-type=module", "-e", program], capture_output=True, text=True, check=True)
    app = Services()
    with app.tracer("gateway").start_as_current_span("callsphere.call", attributes=IDS):
        pass
    app.documents.append(trace_request_from_json(ended.stdout.encode()))
    (finding,) = weighed(app.call())
    assert (finding.code, finding.hop) == ("parted", hop)
    assert "js" in {line.language for line in finding.lines}


# OpenAI's half.


def examiner(rooms: Rig) -> Examiner:
    return Examiner(Explainer(rooms.store, rooms.policy, lambda: rooms.now[0]), rooms.metrics)


def with_metadata(item: Any, metadata: dict[str, str]) -> Any:
    """A trace object with other metadata; a span as it is."""
    return {**item, "metadata": metadata} if item.get("object") == "trace" else item


@pytest.mark.parametrize(
    ("metadata", "told"),
    [({}, "its metadata names no trace"), ({"trace_id": "not hex"}, "in a form that cannot be read")],
)
async def test_an_sdks_trace_that_names_no_trace(metadata: dict[str, str], told: str) -> None:
    """By the record that is kept of it, and by its spans alone."""
    async with rig(peer := Peer()) as r:
        for request in recorded_guest(RUN):
            await r.guest([with_metadata(item, metadata) for item in request])
        await r.pass_time(60)
        answer = await examiner(r).call(GUEST, "test")
    findings: Any = answer["findings"]
    assert [(one["code"], one["hop"]) for one in findings] == [("openai_unlinked", "openai")]
    assert told in findings[0]["sentence"]
    assert "grafter_propagation.instrument(" in findings[0]["lines"][0]["code"]
    assert answer["lost"] is True
    assert said(Call(GUEST, spans=list(read_spans(peer.requests)))) == ["openai_unlinked"]


async def test_of_a_call_that_is_held_it_is_said_that_more_may_come() -> None:
    """What is there is no evidence of what is not; and without a call map there are no spans to look at."""
    async with rig(Peer()) as r:
        await r.host(recorded_call())
        answer = await examiner(r).call(CALL.hex(), "test")
        nobody = await examiner(r).call("rtc_nobody", "test")
    assert (answer["known"], answer["lost"], answer["findings"]) == (True, False, [])
    notes: Any = answer["notes"]
    assert notes[0].startswith("something of it is still held, so more may come")
    assert "no call map is kept" in notes[1]
    assert (nobody["known"], nobody["lost"]) == (False, False)


async def test_a_session_that_was_opened_and_of_which_nothing_came() -> None:
    """The span that opened it is the evidence."""
    spans = list(read_spans([recorded_call()]))
    call = Call(SID, ids_of(spans), spans, never_came=True, is_anchor=is_anchor)
    (finding,) = weighed(call)
    assert (finding.code, finding.hop) == ("openai_never_came", "openai")
    assert [each.span for each in finding.evidence] == ["gen_ai.realtime.session"]
    (finding,) = weighed(replace(call, strays=2))
    assert "2 traces of OpenAI's were joined with nothing since the start" in finding.sentence


async def test_a_trace_that_openais_half_names_and_that_never_came() -> None:
    """Its app sends nothing here."""
    async with rig(peer := Peer()) as r:
        for request in recorded_guest(RUN):
            await r.guest(request)
        await r.pass_time(700, step=10)
    spans = list(read_spans(peer.requests))
    assert {span.trace_id for span in spans} == {CALL}
    (finding,) = weighed(Call(CALL.hex(), spans=spans))
    assert (finding.code, finding.lines[0].language) == ("app_missing", "shell")


def test_a_call_of_which_nothing_came_has_no_findings() -> None:
    """Nothing proves anything."""
    assert examine_call(Call("rtc_1")) == []
