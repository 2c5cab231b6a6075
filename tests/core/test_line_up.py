"""Each step once: a host's tools and model calls under the guest's spans of the same steps, and usage counted once."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from grafter.core.anchor import AnchorIndex
from grafter.core.join import Grafted, graft
from grafter.core.left_steps import StepIndex, StepTime, clock_of
from grafter.core.lifecycle import ReleaseReason
from grafter.core.line_up import CIRCLE, SENT, LinedUp, line_up, step_index
from grafter.core.memory import TraceMemory
from grafter.core.model import (
    AttributeValue,
    Envelope,
    GraftedSpan,
    Guest,
    GuestSpan,
    HostSpan,
    Link,
    Source,
    SpanId,
    ToolCall,
    TraceId,
    UnixNano,
    guest_span_id,
)
from grafter.core.policy import GraftPolicy, Tools
from grafter.core.steps import HostSteps, host_steps
from grafter.core.tools import TWO_FIT, Match

HOST = TraceId(b"h" * 16)
POLICY = GraftPolicy()
ENVELOPE = Envelope(b"voice", b"scope")
ELSEWHERE = Envelope(b"calendar", b"scope")
CAUSED = (("gen_ai.attribution.link_type", "CAUSED_BY_GENERATION"),)


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def at(milliseconds: float) -> UnixNano:
    return UnixNano(int(milliseconds * 1_000_000))


def own(name: str) -> SpanId:
    return SpanId(name.encode().rjust(8, b"."))


def host_span(name: str, parent: str, start: int, end: int, **attributes: AttributeValue) -> HostSpan:
    """A host span; attribute names have ``_`` for ``.`` where two stand together."""
    return HostSpan(
        own(name),
        own(parent) if parent else b"",
        name,
        at(start),
        at(end),
        1,
        "",
        ENVELOPE,
        {key.replace("__", "."): value for key, value in attributes.items()},
    )


ROOT = host_span("call", "", 0, 1000)
SESSION = replace(host_span("session", "call", 0, 1000), name="gen_ai.realtime.session")


def host_tool(name: str, start: int, end: int, parent: str = "session", **more: AttributeValue) -> HostSpan:
    """The app's span of a tool: ``call`` its id, ``tool`` its name, ``arguments`` what it was given."""
    words = {"call": "gen_ai.tool.call.id", "tool": "gen_ai.tool.name", "arguments": "gen_ai.tool.call.arguments"}
    attributes = {"gen_ai.operation.name": "execute_tool", **{words[key]: value for key, value in more.items()}}
    return replace(host_span(name, parent, start, end), attributes=attributes)


def guest_span(
    name: str, parent: str | None, start: int, end: int, trace: str = "g", **attributes: AttributeValue
) -> GuestSpan:
    return GuestSpan(
        span_id=guest_span_id(trace, name),
        parent=None if parent is None else guest_span_id(trace, parent),
        parent_name=parent or "",
        name=name,
        kind=1,
        start=at(start),
        end=at(end),
        attributes=tuple((key.replace("__", "."), value) for key, value in attributes.items()),
    )


def chat(
    name: str, start: int, end: int, parent: str | None = None, *asked: ToolCall, **more: AttributeValue
) -> GuestSpan:
    span = guest_span(name, parent, start, end, gen_ai__operation__name="chat", **more)
    return replace(span, tool_calls=asked, name="chat")


def tool(name: str, parent: str | None, start: int, end: int, of: str = "look", **more: AttributeValue) -> GuestSpan:
    """A guest's span of a tool: ``call`` its id, ``given`` its arguments."""
    words: dict[str, AttributeValue] = {"gen_ai__operation__name": "execute_tool", "gen_ai__tool__name": of}
    if "call" in more:
        words["gen_ai__tool__call__id"] = more["call"]
    if "given" in more:
        words["grafter__arguments__sha256"] = digest(str(more["given"]))
    return guest_span(name, parent, start, end, **words)


def grafted(
    *spans: GuestSpan, under: Sequence[HostSpan] = (ROOT, SESSION), name: str = "g", below: str = ""
) -> Grafted:
    link = Link(HOST, own(below) if below else None)
    index = AnchorIndex.of(under, POLICY)
    return graft(Guest("g", Source.SDK, spans, link, measured_in_app=True), index, HOST, POLICY, None, {})


def lined(host: Sequence[HostSpan], *guests: Grafted, policy: GraftPolicy = POLICY) -> LinedUp:
    spans = (ROOT, SESSION, *host)
    return line_up(spans, host_steps(spans, digest), guests, policy, None)


def moves(result: LinedUp) -> dict[str, str]:
    """Which host span hangs under which guest's now, by their names."""
    names = {each.span.span_id: each for guest in result.guests for each in guest.spans}
    return {
        host.decode().strip("."): _name(names[edit.parent])
        for host, edit in result.host.items()
        if edit.parent is not None
    }


def _name(each: GraftedSpan) -> str:
    known = {guest_span_id("g", name): name for name in ("a", "b", "c", "t", "t1", "t2", "r1", "r2", "run")}
    return known.get(each.span.span_id, each.span.name)


def named(result: LinedUp, name: str) -> GraftedSpan:
    return next(
        each for guest in result.guests for each in guest.spans if each.span.span_id == guest_span_id("g", name)
    )


def test_a_tool_moves_under_the_guests_span_of_its_id() -> None:
    """It says where it was and how it was matched, and links to the turn that asked; its service's span stays below."""
    called = host_tool("tool", 100, 200, call="call_1")
    served = replace(host_tool("serve", 110, 190, parent="tool", call="call_1"), envelope=ELSEWHERE)
    guest = grafted(chat("a", 10, 90), tool("t", "a", 95, 205, call="call_1"))
    result = lined([called, served], guest)
    assert moves(result) == {"tool": "t"}
    edit = result.host[own("tool")]
    assert edit.attributes == [("grafter.match", "call_id"), ("grafter.parent.original", own("session").hex())]
    assert [(link.span_id, link.attributes) for link in edit.links] == [(guest_span_id("g", "a"), CAUSED)]
    assert [link.span_id for link in named(result, "t").span.links] == [guest_span_id("g", "a")]
    assert result.tools == (Match(own("tool"), guest_span_id("g", "t"), "call_id", 0, guest_span_id("g", "a")),)


def test_every_attempt_of_one_call_moves() -> None:
    """A retry, and the same call in another service beside it, have one id and one cause."""
    first, second = host_tool("one", 100, 150, call="call_1"), host_tool("two", 160, 500, call="call_1")
    elsewhere = replace(host_tool("far", 165, 190, parent="call", call="call_1"), envelope=ELSEWHERE)
    result = lined([first, second, elsewhere], grafted(chat("a", 10, 90), tool("t", "a", 95, 205, call="call_1")))
    assert moves(result) == {"one": "t", "two": "t", "far": "t"}


def test_without_a_span_of_its_own_a_tool_hangs_under_the_turn_that_asked() -> None:
    """The turn whose answer holds the id."""
    turn = chat("a", 10, 90, None, ToolCall("call_1", "look", None))
    assert moves(lined([host_tool("tool", 100, 200, call="call_1")], grafted(turn))) == {"tool": "a"}


def test_parallel_calls_of_one_tool_are_told_apart_by_their_arguments() -> None:
    """Two calls at once, the same tool: by id through the answer's arguments, whatever the order of the spans."""
    turn = chat("a", 10, 90, "run", ToolCall("call_2", "look", digest("2")), ToolCall("call_1", "look", digest("1")))
    guest = grafted(
        guest_span("run", None, 0, 300),
        turn,
        tool("t1", "run", 100, 200, given=1),
        tool("t2", "run", 100, 200, given=2),
    )
    by_id = lined([host_tool("two", 110, 190, call="call_2"), host_tool("one", 110, 190, call="call_1")], guest)
    assert moves(by_id) == {"one": "t1", "two": "t2"}
    assert dict(named(by_id, "t1").attributes)["gen_ai.tool.call.id"] == "call_1"
    hosts = [
        host_tool("two", 110, 190, tool="look", arguments="2"),
        host_tool("one", 110, 190, tool="look", arguments="1"),
    ]
    by_arguments = lined(hosts, guest)
    assert moves(by_arguments) == {"one": "t1", "two": "t2"}
    assert {match.how for match in by_arguments.tools} == {"name_arguments"}


def test_two_that_fit_equally_are_left_where_they_are() -> None:
    """Equal calls at the same time are not told apart, and the refusal says between which; in time they may be."""
    same = [tool("t1", None, 100, 200, given=1), tool("t2", None, 100, 200, given=1)]
    hosts = [
        host_tool("one", 110, 150, tool="look", arguments="1"),
        host_tool("two", 110, 150, tool="look", arguments="1"),
    ]
    result = lined(hosts, grafted(*same))
    assert moves(result) == {}
    fitting = {same[0].span_id, same[1].span_id}
    assert [(refused.why, set(refused.between)) for refused in result.refused] == [(TWO_FIT, fitting)] * 2
    apart = [tool("t1", None, 100, 155, given=1), tool("t2", None, 156, 300, given=1)]
    hosts[1] = host_tool("two", 160, 250, tool="look", arguments="1")
    assert moves(lined(hosts, grafted(*apart))) == {"one": "t1", "two": "t2"}


def test_name_and_time_are_the_last_resort() -> None:
    """Within the one span of that name it is that step; within two, beyond one, or with other arguments it is none."""
    guest = grafted(tool("t", None, 100, 200, given=1))
    assert moves(lined([host_tool("tool", 110, 190, tool="look")], guest)) == {"tool": "t"}
    assert moves(lined([host_tool("tool", 110, 202, tool="look")], guest)) == {}
    assert moves(lined([host_tool("tool", 110, 190, tool="other")], guest)) == {}
    assert moves(lined([host_tool("tool", 110, 190, tool="look", arguments="2")], guest)) == {}
    two = grafted(tool("t1", None, 100, 200), tool("t2", None, 50, 250))
    assert moves(lined([host_tool("tool", 110, 190, tool="look")], two)) == {}


def test_another_id_is_another_call() -> None:
    """A tool whose id no guest knows does not take the place of one that has an id."""
    guest = grafted(chat("a", 10, 90), tool("t", "a", 100, 200, call="call_1"))
    assert moves(lined([host_tool("tool", 110, 190, call="call_9", tool="look")], guest)) == {}


def test_a_tool_that_outlives_its_turn_is_matched_by_its_arguments() -> None:
    """It ends long after the guest's span of it."""
    guest = grafted(tool("t", None, 100, 200, given=1))
    assert moves(lined([host_tool("tool", 110, 900, tool="look", arguments="1")], guest)) == {"tool": "t"}


def test_a_tool_that_calls_an_agent_is_not_hung_below_that_agent() -> None:
    """Nothing hangs below itself: the guest's anchor is below the host's span. What matched is said all the same."""
    called = host_tool("tool", 100, 900, call="call_1")
    inside = host_span("within", "tool", 110, 890)
    outer = grafted(chat("a", 10, 90), tool("t", "a", 95, 905, call="call_1"))
    nested = grafted(tool("c", None, 120, 880, call="call_1"), under=(ROOT, SESSION, called, inside), below="within")
    result = lined([called, inside], nested)
    assert moves(result) == {}
    assert result.refused[0].why == CIRCLE
    assert dict(result.host[own("tool")].attributes) == {"grafter.match": "call_id"}
    assert moves(lined([called, inside], outer)) == {"tool": "t"}


def test_two_guests_do_not_close_a_circle_between_them() -> None:
    """Each would take the span above the other's anchor: the first move stands, the second is refused."""
    one, two = host_tool("one", 100, 900, call="call_1"), host_tool("two", 100, 900, call="call_2")
    host = (ROOT, SESSION, one, two)
    first = grafted(tool("a", None, 100, 900, call="call_2"), under=host, below="one")
    second = grafted(tool("b", None, 100, 900, call="call_1"), under=host, below="two")
    result = lined([one, two], first, second)
    assert len(moves(result)) == 1
    assert [refused.why for refused in result.refused] == [CIRCLE]


def test_siblings_moves_nothing_and_off_matches_nothing() -> None:
    """``siblings`` says what it found; ``off`` leaves the host's span as it came."""
    called = [host_tool("tool", 100, 200, call="call_1")]
    guest = grafted(chat("a", 10, 90), tool("t", "a", 95, 205, call="call_1"))
    beside = lined(called, guest, policy=replace(POLICY, tools=Tools.SIBLINGS))
    assert beside.host[own("tool")].parent is None
    assert beside.host[own("tool")].attributes == [("grafter.match", "call_id")]
    assert len(beside.host[own("tool")].links) == len(named(beside, "t").span.links) == 1
    off = lined(called, guest, policy=replace(POLICY, tools=Tools.OFF))
    assert off.host == {}
    assert off.guests == (guest,)


def model_call(name: str, start: int, end: int, **more: AttributeValue) -> HostSpan:
    return host_span(name, "session", start, end, gen_ai__operation__name="chat", **more)


USED: dict[str, AttributeValue] = {"gen_ai__usage__input_tokens": 40, "gen_ai__usage__output_tokens": 20}


def test_one_response_is_counted_once() -> None:
    """The host's counts stay, the guest's go; what the host lacks moves there, and what differs is kept beside."""
    app = model_call(
        "app",
        10,
        95,
        gen_ai__response__id="resp_1",
        gen_ai__usage__input_tokens="41",
        gen_ai__usage__output_tokens="20",
    )
    turn = chat("a", 10, 90, gen_ai__response__id="resp_1", gen_ai__usage__audio__input_tokens=7, **USED)
    result = lined([app], grafted(turn))
    assert moves(result) == {"app": "a"}
    left = dict(named(result, "a").attributes)
    assert {key: value for key, value in left.items() if "usage" in key} == {"grafter.duplicate.usage.input_tokens": 40}
    edit = dict(result.host[own("app")].attributes)
    assert edit["gen_ai.usage.audio.input_tokens"] == 7
    assert edit["grafter.duplicate_of"] == guest_span_id("g", "a").hex()
    assert edit["grafter.match"] == "response_id"


def test_a_span_that_counts_nothing_leaves_the_counting_to_the_guest() -> None:
    """A client span with the response's id alone: model and reasons are copied to it, usage stays on the guest's."""
    app = model_call("app", 10, 95, gen_ai__response__id="resp_1")
    turn = chat(
        "a",
        10,
        90,
        gen_ai__response__id="resp_1",
        gen_ai__request__model="m",
        gen_ai__response__finish_reasons=("stop",),
        **USED,
    )
    result = lined([app], grafted(turn))
    assert dict(named(result, "a").attributes)["gen_ai.usage.input_tokens"] == 40
    edit = dict(result.host[own("app")].attributes)
    assert (edit["gen_ai.request.model"], edit["gen_ai.response.finish_reasons"]) == ("m", ("stop",))
    assert not any("usage" in key for key in edit)


def test_a_response_without_a_model_has_it_from_the_app() -> None:
    """The Agents SDK's response spans name none; the app's do."""
    app = model_call(
        "app",
        10,
        95,
        gen_ai__response__id="resp_1",
        gen_ai__response__model="gpt-5",
        gen_ai__response__finish_reasons=("stop",),
    )
    result = lined([app], grafted(chat("a", 10, 90, gen_ai__response__id="resp_1", **USED)))
    given_back = named(result, "a")
    assert given_back.span.name == "chat gpt-5"
    assert dict(given_back.attributes)["gen_ai.response.model"] == "gpt-5"
    assert dict(given_back.attributes)["gen_ai.response.finish_reasons"] == ("stop",)


def test_without_an_id_equal_usage_at_the_same_time_is_one_call() -> None:
    """One to one or not at all, and never a span that sums up several."""
    app = model_call("app", 95, 96, gen_ai__usage__input_tokens="40", gen_ai__usage__output_tokens="20")
    result = lined([app], grafted(chat("a", 10, 90, **USED)))
    assert [(match.how, moves(result)) for match in result.duplicates] == [("usage_time", {"app": "a"})]
    identified = replace(app, attributes={**app.attributes, "gen_ai.response.id": "chatcmpl-1"})
    assert moves(lined([identified], grafted(chat("a", 10, 90, **USED)))) == {"app": "a"}
    assert moves(lined([identified], grafted(chat("a", 10, 90, gen_ai__response__id="chatcmpl-2", **USED)))) == {}
    twice = lined([app, replace(app, span_id=own("app2"))], grafted(chat("a", 10, 90, **USED)))
    assert moves(twice) == {}
    assert [refused.why for refused in twice.refused] == [TWO_FIT] * 2
    either = lined([app], grafted(chat("a", 10, 90, **USED), chat("b", 20, 91, **USED)))
    assert moves(either) == {}
    summed = replace(app, attributes={**app.attributes, "gen_ai.operation.name": "invoke_agent"})
    assert moves(lined([summed], grafted(chat("a", 10, 90, **USED)))) == {}
    in_a_row = [replace(app, span_id=own("app"), start=at(11)), replace(app, span_id=own("app2"))]
    in_a_row = [replace(each, end=UnixNano(each.start + 1000)) for each in in_a_row]
    both = lined(in_a_row, grafted(chat("a", 10, 90, **USED), chat("b", 92, 99, **USED)))
    assert moves(both) == {"app": "a", "app2": "b"}
    later = replace(app, start=at(2000), end=at(3000))
    assert moves(lined([later], grafted(chat("a", 10, 90, **USED)))) == {}


def test_openinferences_own_names_are_read() -> None:
    """``llm.token_count.*`` counts; the conventions' columns stand beside it on the same span, and nowhere else."""
    app = host_span(
        "app",
        "session",
        10,
        95,
        openinference__span__kind="LLM",
        llm__token_count__prompt="40",
        llm__token_count__completion="20",
    )
    result = lined([app], grafted(chat("a", 10, 90, **USED)))
    assert not any("usage" in key for key, _ in named(result, "a").attributes)
    assert dict(result.host[own("app")].attributes)["gen_ai.usage.input_tokens"] == 40


def test_openllmetrys_spans_of_a_realtime_session_are_read() -> None:
    """As its 0.62 writes them beside a RealtimeSession of the Agents SDK: an answer's span has counts and no id, begins
    with the caller's words and calls its operation ``realtime``, as does that of the audio, which counts nothing; a
    tool's has a name, and what it is under a key of its own."""
    realtime: dict[str, AttributeValue] = {"gen_ai__operation__name": "realtime", "gen_ai__provider__name": "openai"}
    counts: dict[str, AttributeValue] = {"gen_ai__usage__input_tokens": "40", "gen_ai__usage__output_tokens": "20"}
    answer = host_span("answer", "session", 5, 91, **realtime, **counts)
    audio = host_span("audio", "session", 50, 80, **realtime)
    ran = host_span("ran", "session", 96, 204, traceloop__span__kind="tool", gen_ai__tool__name="look")
    agent = host_span("agent", "session", 0, 300, traceloop__span__kind="agent", gen_ai__agent__name="lookup")
    guest = grafted(chat("a", 10, 90, gen_ai__response__id="resp_1", **USED), tool("t", "a", 95, 205))
    result = lined([answer, audio, ran, agent], guest)
    assert moves(result) == {"answer": "a", "ran": "t"}
    assert not any(key.startswith("gen_ai.usage") for key, _ in named(result, "a").attributes)


def test_what_left_before_is_linked_and_not_counted_again() -> None:
    """After a release only the guest's side can say it: a link on the turn, and counts that no sum takes."""
    steps = StepIndex({"call_1": own("tool")}, {"resp_1": own("app")})
    memory = TraceMemory(ReleaseReason.COMPLETE, UnixNano(0), root=own("call"), steps=steps)
    turn = chat("a", 10, 90, gen_ai__response__id="resp_1", **USED)
    result = line_up((), HostSteps(), [grafted(turn, tool("t", "a", 95, 205, call="call_1"))], POLICY, memory)
    span = named(result, "a")
    assert [(link.span_id, link.attributes) for link in span.span.links] == [
        (own("tool"), (("grafter.match", "call_id"),))
    ]
    said = dict(span.attributes)
    assert not any(key.startswith("gen_ai.usage") for key in said)
    assert said["grafter.duplicate.usage.input_tokens"] == 40
    assert said["grafter.duplicate_of"] == own("app").hex()
    assert {refused.why for refused in result.refused} == {SENT}


def test_the_index_of_what_left_names_tools_and_counted_calls() -> None:
    """The first span of a call, and no model call that counts nothing."""
    spans = [
        host_tool("one", 100, 150, call="call_1"),
        host_tool("two", 160, 170, call="call_1"),
        model_call("app", 10, 20, gen_ai__response__id="resp_1", gen_ai__usage__input_tokens="1"),
        model_call("bare", 10, 20, gen_ai__response__id="resp_2"),
    ]
    clock = clock_of(ENVELOPE.resource)
    times = {
        own("one"): StepTime(at(100), at(150), True, clock),
        own("app"): StepTime(at(10), at(20), True, clock),
    }
    assert step_index(host_steps(spans, digest)) == StepIndex({"call_1": own("one")}, {"resp_1": own("app")}, times)


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_spans_says_nothing(random: st.DataObject) -> None:
    """Hosts and guests in any order come out the same: nothing is matched by position."""
    hosts = [host_tool(f"h{n}", 10 * n, 10 * n + 5, tool="look", arguments=str(n % 3)) for n in range(9)]
    guests = [tool(f"t{n}", None, 10 * n - 1, 10 * n + 6, given=n % 3) for n in range(9)]
    expected = lined(hosts, grafted(*guests))
    random.shuffle(hosts)  # type: ignore[attr-defined]
    random.shuffle(guests)  # type: ignore[attr-defined]
    assert lined(hosts, grafted(*guests)).host == expected.host
    assert len(moves(expected)) == 9
