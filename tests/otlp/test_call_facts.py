"""Which traces name a call, and what their spans say of it."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

from grafter.consumer import Piece
from grafter.core.model import Envelope
from grafter.otlp.call_facts import CallFacts, CallSearch, call_facts
from grafter.otlp.frames import run_of

SEARCH = CallSearch(["call.id", "lk.room_sid"])
APP = Envelope(b"", b"")
LIVEKIT = Envelope(b"", ScopeSpans(scope=InstrumentationScope(name="livekit-agents")).SerializeToString())
Plain = tuple[list[bytes], list[Envelope], list[bytes], int]
START = 1_800_000_000_000_000_000


def span(own: int = 1, parent: int = 0, **more: object) -> Span:
    made = Span(trace_id=bytes(15) + b"\1", span_id=own.to_bytes(8, "big"), name="step")
    made.start_time_unix_nano, made.end_time_unix_nano = START, START + 1000
    if parent:
        made.parent_span_id = parent.to_bytes(8, "big")
    for key, value in more.items():
        attribute = made.attributes.add(key=key.replace("__", "."))
        if isinstance(value, float):
            attribute.value.double_value = value
        else:
            attribute.value.string_value = str(value)
    return made


def plain(*spans: Span, envelope: Envelope = APP) -> Plain:
    return [run_of([one.SerializeToString() for one in spans])], [envelope], [], 0


def among(traces: Sequence[Plain], search: CallSearch = SEARCH, *, whole: bool = False) -> list[int]:
    return search.among(traces, {id(one): one for _, own, _, _ in traces for one in own}.values(), whole=whole)


def read(*spans: Span) -> CallFacts:
    run = run_of([one.SerializeToString() for one in spans])
    return call_facts([Piece(APP, run, len(spans))], frozenset({"call.id"}))


def test_a_call_is_known_by_its_root() -> None:
    """By a key, not by a longer one, nor by a value in which one stands. A value that is one has the same bytes, so who
    reads the spans finds no key then."""
    traces = [
        plain(span(url__path="/call.id")),
        plain(span(call__id="call-of-anna")),
        plain(span(the__call__id="x", call__id__s="y")),
        plain(span(), span(2, 1, call__id="below")),
    ]
    assert among(traces) == [1]
    assert among([traces[0], traces[3]]) == []
    assert among([plain(span(other="call.id"))]) == [0]
    assert read(span(other="call.id")).values == {}


@given(st.lists(st.text(st.sampled_from("ab.-]^\\n√"), min_size=1, max_size=4), min_size=1, max_size=4), st.data())
def test_any_keys_are_found(keys: list[str], data: st.DataObject) -> None:
    """However short or odd: a trace names a call where its root has one of them, first or last."""
    others = [each for each in ("x", "xyz", "call.id") if each not in keys]
    key = data.draw(st.sampled_from(keys))
    named = [span(**{"x__y": "1", key.replace(".", "__"): "call-of-anna"}), span(**{key.replace(".", "__"): "call"})]
    traces = [plain(one) for one in (*named, span(**dict.fromkeys(others, "value")))]
    assert among(traces, CallSearch(keys))[:2] == [0, 1]


def test_a_framework_names_it_anywhere() -> None:
    """LiveKit's ids stand where they become known; an app's own spans are looked at only at the root."""
    below = (span(), span(2, 1, lk__room_sid="RM_abcdef"))
    assert among([plain(*below), plain(*below, envelope=LIVEKIT)]) == [1]
    assert among([plain(*below)], whole=True) == [0]


def test_the_roots_word_comes_first() -> None:
    """Whatever order spans come in."""
    found = read(span(2, 1, call__id="below"), span(call__id="root"))
    assert found.values == {"call.id": ["root", "below"]}
    assert (found.spans, found.start, found.end) == (2, START, START + 1000)


def test_a_tool_that_both_sides_traced_is_one() -> None:
    """The host's span says how long it took; one that is drawn to an unknown end says nothing."""
    tool = {"gen_ai__tool__name": "book", "gen_ai__tool__call__id": "call_1"}
    host = span(1, **tool)
    host.end_time_unix_nano = START + 5_000_000
    guest = span(2, 1, **tool, grafter__guest__trace_id="rtc_one")
    endless = span(3, 1, gen_ai__tool__name="other", grafter__end="unknown")
    for order in ((host, guest, endless), (endless, guest, host)):
        found = read(*order)
        assert found.tools == {"book": (1, 5.0)}
        assert found.guests == ["rtc_one"]


def test_a_tool_that_was_matched_by_its_name_is_one() -> None:
    """The Agents SDK sends no ids of calls: the host's span hangs under the guest's. Two calls of one name are two."""
    ran = [span(n, gen_ai__tool__name="book", openai__agents__trace__id="trace_1") for n in (1, 2)]
    host = span(3, 1, gen_ai__tool__name="book", grafter__match="name_arguments")
    host.end_time_unix_nano = START + 5_000_000
    assert read(*ran, host).tools == read(host, *ran).tools == {"book": (2, 5.001)}


def test_metadata_of_openais_names_a_call_too() -> None:
    """The JSON that the guest's spans carry; what is no JSON says nothing."""
    for text, expected in (('{"call.id": "call-of-anna", "n": 1}', {"call.id": ["call-of-anna"]}), ("{", {})):
        assert read(span(openai__agents__trace__metadata=text)).values == expected


def test_what_a_caller_had_waited_who_hung_up_is_no_turn() -> None:
    """It stands on the session's span; of two sessions the longer one counts."""
    found = read(span(1, grafter__unanswered_ms=4700.0), span(2, 1, grafter__unanswered_ms=900.0))
    assert (found.unanswered_ms, found.turns) == (4700.0, [])


def test_a_frameworks_wait_is_read() -> None:
    """LiveKit's figure of a turn, in milliseconds: a wait, and no first token of a model. A span that ends before it
    starts gives no times."""
    odd = span(2, 1)
    odd.end_time_unix_nano = 5
    turn = span(1, lk__e2e_latency=1.25)
    found = read(odd, turn)
    assert [(one.wait_ms, one.first_token_ms) for one in found.turns] == [(1250.0, None)]
    assert found.end == START + 1000
