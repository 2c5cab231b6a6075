"""The printed tree: the reference call as a golden text, and spans that no tree should be made of."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.errors import RejectedError
from grafter.exporter.tree import render
from tests.steps import at_most_steps

Row = tuple[int, int, str, int, int, dict[str, str | int]]

MS = 1_000_000
START = 1_795_382_875_000 * MS


def add(
    request: ExportTraceServiceRequest,
    service: str,
    scope: str,
    rows: Sequence[Row],
) -> None:
    """Spans of one service: id, parent (0: none), name, start and length in ms, attributes."""
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.add(key="service.name").value.string_value = service
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = scope
    for number, parent, name, start, length, attributes in rows:
        span = scope_spans.spans.add(
            trace_id=b"\x4b" * 16,
            span_id=number.to_bytes(8, "big"),
            parent_span_id=parent.to_bytes(8, "big") if parent else b"",
            name=name,
            start_time_unix_nano=START + start * MS,
            end_time_unix_nano=START + (start + length) * MS,
        )
        for key, value in attributes.items():
            attribute = span.attributes.add(key=key)
            if isinstance(value, int):
                attribute.value.int_value = value
            else:
                attribute.value.string_value = value


def reference_call() -> ExportTraceServiceRequest:
    """A clinic's call: the gateway's spans, a tool's own service, and what OpenAI's side measured."""
    request = ExportTraceServiceRequest()
    add(
        request,
        "openai",
        "grafter",
        [
            (
                21,
                4,
                "invoke_agent Front desk",
                700,
                2100,
                {"gen_ai.agent.name": "Front desk", "grafter.link": "trace_id"},
            ),
            (22, 21, "chat gpt-realtime", 710, 480, {"gen_ai.request.model": "gpt-realtime"}),
            (23, 21, "execute_tool check_insurance", 1200, 1500, {"gen_ai.tool.name": "check_insurance"}),
            (24, 99, "custom", 2900, 10, {}),
        ],
    )
    add(
        request,
        "pbx",
        "app",
        [
            (4, 1, "gen_ai.realtime.session", 600, 29400, {}),
            (3, 1, "webrtc.peer_connection", 250, 29700, {}),
            (2, 1, "sip.invite", 0, 240, {"http.response.status_code": 200}),
            (1, 0, "callsphere.call", 0, 30000, {"call.id": "CA4bf9", "call.from": "+14155550123"}),
        ],
    )
    add(request, "crm", "app", [(11, 23, "GET /policies", 1210, 1450, {"http.request.method": "GET"})])
    failed = request.resource_spans[0].scope_spans[0].spans[2]
    failed.status.code = 2  # type: ignore[assignment]
    failed.status.message = "policy not found"
    event = request.resource_spans[1].scope_spans[0].spans[0].events.add(name="gen_ai.audio.barge_in")
    event.time_unix_nano = START + 5600 * MS
    event.attributes.add(key="audio.elapsed_ms").value.int_value = 1240
    return request


GOLDEN = """\
trace 4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b  9 spans  ◆ 4 grafted  30,000.0 ms  1 error  callsphere.call  pbx, openai, crm
callsphere.call  30,000.0 ms  [pbx]  call.id=CA4bf9
├─ sip.invite  240.0 ms  http.response.status_code=200
├─ webrtc.peer_connection  29,700.0 ms
└─ gen_ai.realtime.session  29,400.0 ms  gen_ai.audio.barge_in(audio.elapsed_ms=1240)
   └─ ◆ invoke_agent Front desk  2,100.0 ms  [openai]  gen_ai.agent.name=Front desk  grafter.link=trace_id
      ├─ ◆ chat gpt-realtime  480.0 ms  gen_ai.request.model=gpt-realtime
      └─ ◆ execute_tool check_insurance  1,500.0 ms  ERROR: policy not found  gen_ai.tool.name=check_insurance
         └─ GET /policies  1,450.0 ms  [crm]  http.request.method=GET
◆ custom  10.0 ms  [openai]  (parent 0000000000000063 is not here)
"""


def test_the_reference_call_as_text() -> None:
    """Spans of three services, in any order, make one tree in the order of time, with errors and guests marked."""
    assert render(reference_call().SerializeToString()) == GOLDEN


def test_basic_is_one_line_a_trace() -> None:
    """The line alone says which call it was, how long, and whether something failed."""
    assert render(reference_call().SerializeToString(), "basic") == GOLDEN.splitlines(keepends=True)[0]


def test_detailed_shows_attributes_and_events() -> None:
    """Everything that a span says is there, below its line and inside its branch."""
    text = render(reference_call().SerializeToString(), "detailed")
    assert "│  call.from = +14155550123\n" in text
    assert "   │  event gen_ai.audio.barge_in at +5,000.0 ms\n   │     audio.elapsed_ms = 1240\n" in text
    assert "├─ sip.invite  240.0 ms\n│     span 0000000000000002  kind 0\n" in text


def test_traces_are_apart_and_in_the_order_of_time() -> None:
    """Each trace id has its own tree, the earlier one first, even where the spans came mixed."""
    request = ExportTraceServiceRequest()
    add(request, "a", "app", [(1, 0, "late", 10, 1, {}), (2, 0, "early", 0, 1, {})])
    request.resource_spans[0].scope_spans[0].spans[0].trace_id = b"\x01" * 16
    lines = render(request.SerializeToString()).splitlines()
    assert [line.split()[0] for line in lines] == ["trace", "early", "trace", "late"]


def test_nothing_steers_the_terminal() -> None:
    """Control characters and line breaks in names, values and messages are written out, and long ones are cut."""
    request = ExportTraceServiceRequest()
    add(request, "a\x1b[2J", "app", [(1, 0, "x\ny\u202ez", 0, 1, {"call.id": "\x07" + "v" * 5000})])
    for verbosity in ("basic", "normal", "detailed"):
        text = render(request.SerializeToString(), verbosity)
        assert all(c == "\n" or c.isprintable() for c in text)
        assert len(text) < 3000
    assert r"x\ny\u202ez" in text


def test_a_request_that_cannot_be_read_is_rejected() -> None:
    """Bytes that are no request raise the error that an exporter can answer with."""
    with pytest.raises(RejectedError):
        render(b"\x0a\xff")


def test_an_empty_request_is_no_text() -> None:
    """Nothing in, nothing out."""
    assert render(b"") == ""


def test_ten_thousand_spans_deep() -> None:
    """A chain of 10,000 spans prints in steps that grow with its length, in lines of bounded width that say how deep
    they are."""
    request = ExportTraceServiceRequest()
    add(request, "a", "app", [(n, n - 1, f"s{n}", n, 1, {}) for n in range(1, 10_001)])
    # 180 for each; to walk from each to the root takes a hundred million.
    with at_most_steps(4_000_000):
        lines = render(request.SerializeToString()).splitlines()
    assert len(lines) == 10_001
    assert max(map(len, lines)) < 300
    assert "(9999 deep)  s10000" in lines[-1]


@given(
    links=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 14), st.integers(0, 5)), min_size=1, max_size=14),
)
def test_each_span_stands_in_the_text_once(links: list[tuple[int, int, int]]) -> None:
    """Whatever the ids and parents are (cycles, repeats, strangers), each span has one line and the text ends."""
    request = ExportTraceServiceRequest()
    rows: list[Row] = [(own, parent, f"name-{at:02}", start, 1, {}) for at, (own, parent, start) in enumerate(links)]
    add(request, "a", "app", rows)
    tree = render(request.SerializeToString()).splitlines()[1:]
    assert sorted(line.split("name-")[1][:2] for line in tree) == [f"{at:02}" for at in range(len(links))]


def test_a_cycle_is_cut_at_its_earliest_span() -> None:
    """Spans that are each other's parents hang below the earliest of them, which says why it has none."""
    request = ExportTraceServiceRequest()
    add(
        request,
        "a",
        "app",
        [(1, 3, "b", 1, 1, {}), (2, 1, "a", 0, 1, {}), (3, 2, "c", 2, 1, {}), (4, 3, "d", 0, 1, {})],
    )
    assert render(request.SerializeToString()).splitlines()[1:] == [
        "a  1.0 ms  [a]  (its parents form a cycle)",
        "└─ c  1.0 ms",
        "   ├─ d  1.0 ms",
        "   └─ b  1.0 ms",
    ]


def test_odd_times_do_not_break_the_text() -> None:
    """A span that ends before it starts, or starts at the end of time, is printed with what it says."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    spans.append(Span(trace_id=b"\1" * 16, span_id=b"\1" * 8, start_time_unix_nano=(1 << 64) - 1, name="x"))
    assert "x  -18,446,744,073,709.6 ms  [no service name]" in render(request.SerializeToString())
