"""What is in a delivery: events by type, exports by shape, and nothing lost to one odd line."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.core.calls import phone_in
from grafter.core.model import Source
from grafter.core.policy import GraftPolicy
from grafter.guests.agents.intake import read_items
from grafter.guests.webhooks import KINDS, MOST_ODD, MOST_OTHER, Delivery, IncomingCall, JunkError, read_delivery
from tests.steps import at_most_steps
from tests.webhooks import envelope, incoming, span, trace_object

HOST = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{HOST}-00f067aa0ba902b7-01"
EXPORT = "trace.exported"
TRACE = trace_object()
SPANS = [span(1), span(2, 1)]
SECRET = b"s" * 32
NUMBERS = {"caller": phone_in("+15550100", SECRET), "callee": phone_in("+15550199", SECRET)}
"""What ``incoming`` puts beside the headers of a test."""


def read(body: bytes) -> Delivery:
    return read_delivery(body, SECRET)


def lines(*documents: Any) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else orjson.dumps(one) for one in documents)


def bare(one: dict[str, Any], *without: str) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in without}


EXPORTS: dict[str, Any] = {
    "a trace with its spans": envelope(EXPORT, {**TRACE, "spans": SPANS}),
    "a list of items": envelope(EXPORT, [TRACE, *SPANS]),
    "a list of traces with their spans": envelope(EXPORT, [{**TRACE, "spans": SPANS}]),
    "data in data": envelope(EXPORT, {"data": [TRACE, *SPANS]}),
    "a trace with its spans in data in data": envelope(EXPORT, {"data": [{**TRACE, "spans": SPANS}]}),
    "no type": {"data": [TRACE, *SPANS]},
    "another receiver's type": envelope("batch.completed", [TRACE, *SPANS]),
    "a type that is no text": envelope(None, [TRACE, *SPANS]),  # type: ignore[arg-type]
    "items without an envelope": [TRACE, *SPANS],
    "a trace without an envelope": {**TRACE, "spans": SPANS},
    "envelopes in a list": [envelope(EXPORT, TRACE), envelope(EXPORT, SPANS[0]), envelope(EXPORT, SPANS[1])],
    "lines of envelopes": lines(*(envelope(EXPORT, one) for one in [TRACE, *SPANS])),
    "lines of items": lines(TRACE, *SPANS),
    "lines of both, with blank ones": lines(TRACE, b"", envelope(EXPORT, SPANS), b"\r\n"),
    "spans that leave out what their trace says": envelope(
        EXPORT, {**bare(TRACE, "object"), "spans": [bare(one, "trace_id", "object") for one in SPANS]}
    ),
}


@pytest.mark.parametrize("body", EXPORTS.values(), ids=EXPORTS.keys())
def test_an_export_is_told_by_its_shape(body: Any) -> None:
    """Every form gives the same guest."""
    found = read(body if isinstance(body, bytes) else orjson.dumps(body))
    intake = read_items(found.items, Source.WEBHOOK, GraftPolicy())
    expected = read_items([TRACE, *SPANS], Source.WEBHOOK, GraftPolicy())
    assert intake.parts[0].guest == expected.parts[0].guest
    assert [orjson.loads(part.payload) for part in intake.parts] == [
        orjson.loads(part.payload) for part in expected.parts
    ]
    assert (intake.spans, intake.kinds["odd"]) == (2, 0)
    assert set(found.kinds) == {"export"}


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        [],
        {"id": "resp_1"},
        [1, "a"],
        {"data": []},
        {"data": {"id": "x"}},
        "text",
        {"spans": []},
        {"spans": 1},
    ],
)
def test_what_is_no_item_is_no_export(data: Any) -> None:
    """An event of any other kind is taken, counted, and nothing else."""
    found = read(orjson.dumps(envelope("response.completed", data)))
    assert (found.items, found.calls, found.sessions, found.kinds) == ([], {}, {}, {"other": 1})


@pytest.mark.parametrize("kind", ["idle", "failed", "created", "in_progress", "action_required"])
def test_a_session_event_names_its_session(kind: str) -> None:
    """Whatever became of it, it has something to pull; told twice it is one."""
    event = envelope(f"agent.session.{kind}", {"id": "sess_1", "environment_type": "none"})
    found = read(lines(event, event))
    assert (list(found.sessions), found.kinds) == (["sess_1"], {"session": 2})


@pytest.mark.parametrize("session", [None, 1, "", "two words", "s" * 257, "séance", "a\nb"])
def test_a_session_without_a_usable_id_is_odd(session: object) -> None:
    """It could not be asked for; nothing else of the delivery is lost."""
    found = read(lines(envelope("agent.session.idle", {"id": session}), TRACE))
    assert (found.sessions, found.kinds) == ({}, {"odd": 1, "export": 1})


@pytest.mark.parametrize(
    ("headers", "traceparent"),
    [
        ([], None),
        ([("traceparent", TRACEPARENT)], TRACEPARENT),
        ([("X-Traceparent", TRACEPARENT)], TRACEPARENT),
        ([("x-TRACEPARENT ", f" {TRACEPARENT.upper()} ")], TRACEPARENT),
        ([("Traceparent", "nonsense"), ("X-Traceparent", TRACEPARENT)], TRACEPARENT),
        ([("Traceparent", TRACEPARENT), ("Traceparent", f"00-{'1' * 32}-{'2' * 16}-01")], TRACEPARENT),
        ([("X-Traceparent", f"00-{'1' * 32}-{'2' * 16}-01"), ("Traceparent", TRACEPARENT)], TRACEPARENT),
        ([("traceparent", "cc" + TRACEPARENT[2:] + "-" + "x" * 10_000)], "cc" + TRACEPARENT[2:]),
        ([("traceparent", TRACEPARENT + "\x00")], None),
        ([("traceparent", "00-" + "0" * 32 + TRACEPARENT[35:])], None),
        ([("Trace", TRACEPARENT), ("tracestate", "a=b")], None),
    ],
)
def test_a_call_brings_the_trace_that_its_headers_name(headers: list[tuple[str, str]], traceparent: str | None) -> None:
    """Case is forgiven, X- too; what cannot be read is passed over; of the numbers only the hashes are there."""
    found = read(orjson.dumps(incoming("rtc_1", *headers)))
    assert found.calls == {"rtc_1": IncomingCall("rtc_1", traceparent, sip_call_id="c1", **NUMBERS)}
    assert found.kinds == {"call": 1}


@pytest.mark.parametrize("kind", ["live.call.incoming", "live.transport.incoming"])
def test_a_live_session_is_a_call(kind: str) -> None:
    """By the id that its events have."""
    found = read(orjson.dumps(incoming("live_1", ("traceparent", TRACEPARENT), kind=kind)))
    assert found.calls == {"live_1": IncomingCall("live_1", TRACEPARENT, sip_call_id="c1", **NUMBERS)}


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"call_id": None, "sip_headers": []},
        {"call_id": "two words"},
        {"call_id": "rtc_\u202e"},
        {"sip_headers": [{"name": "traceparent", "value": TRACEPARENT}]},
    ],
)
def test_a_call_without_a_usable_id_is_odd(data: Any) -> None:
    """Nothing could be found under it."""
    assert read(orjson.dumps(envelope("realtime.call.incoming", data))).kinds == {"odd": 1}


@pytest.mark.parametrize("headers", [None, 1, {}, [None, 1, "a", {}, {"name": 1, "value": TRACEPARENT}, {"name": "a"}]])
def test_hostile_headers_cost_the_call_nothing(headers: Any) -> None:
    """Only what is a pair of texts is a header."""
    body = envelope("realtime.call.incoming", {"call_id": "rtc_1", "sip_headers": headers})
    assert read(orjson.dumps(body)).calls == {"rtc_1": IncomingCall("rtc_1")}


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b"no", b"\xff\xfe", b"[1]\n{}", b"1\n{}", b'{"a": 1\n}\n{', b'{"a"}\n{"type": "x"}', b"{} {}"],
)
def test_what_is_neither_json_nor_lines_of_it_is_refused(body: bytes) -> None:
    """Lines are lines when the first one is a whole object; the message quotes nothing."""
    with pytest.raises(ValueError, match="body") as refused:
        read(body)
    assert "type" not in str(refused.value)


def test_a_bad_later_line_is_counted_and_skipped() -> None:
    """Also one that was cut off, as the last line of a stream often is."""
    found = read(lines(TRACE, b"{", SPANS[0], b"null", orjson.dumps(SPANS[1])[:-1]))
    assert found.items == [TRACE, SPANS[0]]
    assert found.kinds == {"export": 2, "odd": 3}


@pytest.mark.parametrize("junk", [b"{]\n" * 5_000_000, b"{}\n" * 5_000_000, b"\n" * 15_000_000 + b"{]\n" * 1_001])
def test_a_body_of_junk_is_not_read_to_its_end(junk: bytes) -> None:
    """Lines that are no event, and events that ask nothing: to read all of either takes 330 million steps and more."""
    with at_most_steps(15_000_000), pytest.raises(JunkError, match=r"^body has more than \d+ \w+"):
        read(lines(TRACE) + b"\n" + junk)


def test_some_junk_costs_nothing_else() -> None:
    """At the bound, all that is an event is taken."""
    found = read(lines(TRACE, *[b"{]"] * MOST_ODD, envelope("x", {}), SPANS[0]))
    assert (found.items, found.kinds) == ([TRACE, SPANS[0]], {"export": 2, "odd": MOST_ODD, "other": 1})
    many = read(b"[" + b"0," * (MOST_OTHER - 1) + b"0]")
    assert many.kinds == {"other": MOST_OTHER}


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from([TRACE, *SPANS]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "data", "spans", "id", "object", "sip_headers", "call_id", "name", "value", "x"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_a_delivery(value: Any) -> None:
    """Whatever it says it raises nothing, each event is one of the kinds, and its items can be read."""
    found = read(json.dumps(value).encode())
    assert set(found.kinds) <= set(KINDS)
    read_items(found.items, Source.WEBHOOK, GraftPolicy())
