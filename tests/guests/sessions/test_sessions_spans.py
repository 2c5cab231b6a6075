"""A session's parts to spans of one guest."""

import json
import random
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from grafter.core import join
from grafter.core.anchor import AnchorIndex
from grafter.core.model import Part, TraceId, guest_span_id
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.sessions.intake import closing, opening, read_page, read_session
from grafter.guests.sessions.spans import map_session
from grafter.guests.source import Mapped
from tests.agents_server import BEGAN, PROMPT, SESSION, attribute, session, span, trace, trace_id
from tests.guests.sessions.strategies import ANY_JSON, TRACES

POLICY = GraftPolicy()
FULL = GraftPolicy(content=Content.FULL)
HOST = TraceId(bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736"))
LINK = {"trace_id": HOST.hex(), "customer": "acme"}


def dumps(value: Any) -> bytes:
    """JSON with whatever a peer may write into it, such as integers of any length."""
    return json.dumps(value).encode()


def parts(*traces: Any, policy: GraftPolicy = POLICY, metadata: Any = None) -> list[Part]:
    """What is stored of a session with these traces."""
    told = read_session(dumps(session(metadata=LINK if metadata is None else metadata)), SESSION, policy)
    page = read_page(dumps({"data": traces}), told, (), policy)
    return [opening(told, 1), *page.parts, closing(told, 1)]


def mapped(*traces: Any, policy: GraftPolicy = POLICY) -> Mapped:
    return map_session(SESSION, [part.payload for part in parts(*traces, policy=policy)], policy)


def one(**more: Any) -> dict[str, Any]:
    """A trace of one span."""
    told = trace(1)
    told["otlp"]["resourceSpans"][0]["scopeSpans"][0]["spans"] = [span(1, 1, "agent", None, 0, 1, **more)]
    return told


def test_a_span_keeps_what_it_said() -> None:
    """Name, kind, times, attributes of every type, events, and an error with its message where content may leave."""
    told = one(
        kind=3,
        status={"code": 2, "message": "it broke"},
        events=[{"timeUnixNano": str((BEGAN + 61) * 10**9), "name": "retry", "attributes": [attribute("n", 2)]}],
        traceState="a=b",
        droppedAttributesCount=4,
    )
    told["otlp"]["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"] = [
        attribute("outcome", "failed"),
        attribute("input", PROMPT),
        attribute("n", 7),
        attribute("ok", False),
        {"key": "ratio", "value": {"doubleValue": 0.5}},
        {"key": "words", "value": {"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}}},
        {"key": "mixed", "value": {"arrayValue": {"values": [{"intValue": "1"}, {"boolValue": True}]}}},
        {"key": "map", "value": {"kvlistValue": {"values": [attribute("k", "v")]}}},
    ]
    (found,) = mapped(told, policy=FULL).guest.spans
    attributes = dict(found.attributes)
    extra = orjson.loads(str(attributes.pop("openai.agents.extra")))
    assert attributes == {
        "outcome": "failed",
        "input": PROMPT,
        "n": 7,
        "ok": False,
        "ratio": 0.5,
        "words": ("a", "b"),
        "mixed": "[1,true]",
        "map": '{"k":"v"}',
        "gen_ai.conversation.id": SESSION,
        "grafter.guest.trace_id": trace_id(1),
        "grafter.guest.span_id": "0000000100000001",
        "openai.agents.trace.metadata": '{"customer":"acme","trace_id":"' + HOST.hex() + '"}',
        "openai.agents.workflow_name": "Reception",
    }
    assert extra == {
        "span": {"traceState": "a=b", "droppedAttributesCount": 4},
        "trace": {"id": "turn_0001", "session_id": SESSION, "created_at": BEGAN + 60},
        "resource": {"service.name": "agents", "note": PROMPT},
        "scope": {"name": "openai.agents", "version": "1"},
        "session": {"agent": {"id": "agent_1", "name": "Reception", "model": "gpt-5.1"}, "created_at": BEGAN},
    }
    assert (found.name, found.kind, found.parent) == ("agent", 3, None)
    assert (found.start, found.end) == ((BEGAN + 60) * 10**9, (BEGAN + 61) * 10**9)
    assert (found.status_code, found.status_message) == (2, "it broke")
    assert [(each.name, each.time, each.attributes) for each in found.events] == [
        ("retry", (BEGAN + 61) * 10**9, (("n", 2),))
    ]


def test_without_content_the_error_stays_and_its_words_go() -> None:
    (found,) = mapped(one(status={"code": 2, "message": "it broke"}, attributes={"error.type": "timeout"})).guest.spans
    assert (found.status_code, found.status_message, dict(found.attributes)["error.type"]) == (2, "", "timeout")


def test_a_wider_rule_of_an_earlier_process_lets_nothing_out() -> None:
    """Stored with ``full``, released with ``none``."""
    stored = parts(trace(1), policy=FULL)
    assert PROMPT.encode() in stored[1].payload
    found = map_session(SESSION, [part.payload for part in stored], POLICY)
    assert PROMPT not in str(found)


def test_the_link_is_that_of_the_metadata_and_stays() -> None:
    """A later session that names another host changes nothing, in one release and over two."""
    other = {"trace_id": "cd" * 16}
    payloads = [part.payload for part in [*parts(trace(1)), *parts(trace(2), metadata=other)]]
    first = map_session(SESSION, payloads, POLICY)
    later = map_session(SESSION, [part.payload for part in parts(trace(3), metadata=other)], POLICY, first.head)
    assert first.guest.link is not None
    assert first.guest.link == later.guest.link
    assert first.guest.link.host == HOST


def test_metadata_keys_become_attributes_of_their_own_at_the_top() -> None:
    found = map_session(
        SESSION,
        [part.payload for part in parts(trace(1))],
        GraftPolicy(metadata_keys=("customer",)),
    )
    told = [dict(each.attributes).get("openai.agents.trace.metadata.customer") for each in found.guest.spans]
    assert told == ["acme", None, None]


def test_a_link_to_a_span_of_the_session_stays_a_link() -> None:
    """Also to one of another turn; one that leads elsewhere is kept as what was said."""
    here = {"traceId": trace_id(1).upper(), "spanId": f"{1:08x}{2:08x}", "attributes": [attribute("outcome", "done")]}
    away = {"traceId": "ee" * 16, "spanId": "ee" * 8}
    told = trace(2)
    told["otlp"]["resourceSpans"][0]["scopeSpans"][0]["spans"][1]["links"] = [here, away]
    found = next(each for each in mapped(trace(1), told).guest.spans if each.links)
    (link,) = found.links
    assert link.span_id == guest_span_id(trace_id(1), f"{1:08x}{2:08x}")
    assert link.attributes == (("outcome", "done"),)
    assert orjson.loads(str(dict(found.attributes)["openai.agents.extra"])) == {"span": {"links": [away]}}


def test_of_two_copies_of_a_span_the_later_one_stays() -> None:
    """It is the fuller one, in any order."""
    early, late = trace(1), trace(1, tokens=99)
    late["otlp"]["resourceSpans"][0]["scopeSpans"][0]["spans"][1]["endTimeUnixNano"] = str((BEGAN + 63) * 10**9)
    for order in ((early, late), (late, early)):
        found = mapped(*order)
        tokens = [dict(each.attributes).get("gen_ai.usage.output_tokens") for each in found.guest.spans]
        assert (tokens, found.repeated) == ([None, 99, None], 3)


@given(st.lists(TRACES, max_size=4), st.sampled_from(Content), st.randoms(use_true_random=False))
def test_whatever_comes_gives_one_tree_and_each_id_once(
    traces: list[Any], content: Content, chance: random.Random
) -> None:
    """Never raises; the order is nothing; every span hangs under the anchor or another one; all are counted."""
    policy = GraftPolicy(content=content)
    stored = parts(*traces, policy=policy)
    found = map_session(SESSION, [part.payload for part in stored], policy)
    ids = [each.span_id for each in found.guest.spans]
    assert len(ids) == len(set(ids))
    assert sum(part.spans for part in stored) == len(ids) + found.repeated
    for each in found.guest.spans:
        told = dict(each.attributes)
        own = told["grafter.guest.trace_id"], told["grafter.guest.span_id"]
        assert each.span_id == guest_span_id(str(own[0]), str(own[1]))
        assert each.start >= 0 <= each.end
        assert (each.end < each.start) == (told.get("grafter.time.odd") is True)
    chance.shuffle(stored)
    assert map_session(SESSION, [part.payload for part in stored], policy).guest == found.guest

    grafted = join.graft(found.guest, AnchorIndex.of((), policy), HOST, policy, None, found.head)
    parents = {each.span.span_id: each.parent_span_id for each in grafted.spans}
    assert parents.keys() == set(ids)
    for node in parents:
        walked = set()
        while node in parents:
            assert node not in walked
            walked.add(node)
            node = parents[node]
        assert node == b""


@given(ANY_JSON, ANY_JSON, ANY_JSON)
def test_no_answer_and_no_payload_raises_but_as_it_says(page: Any, told: Any, payload: Any) -> None:
    """What is no session and no page is a ValueError; any payload of the store is read as far as it can be."""
    try:
        known = read_session(dumps(told), SESSION, POLICY)
    except ValueError:
        known = read_session(b"{}", SESSION, POLICY)
    for body in (page, {"data": page}, {"data": [page, {"id": "t", "otlp": page}], "last_id": page, "has_more": page}):
        try:
            read_page(dumps(body), known, (), POLICY)
        except ValueError:
            assert not isinstance(body, dict) or not isinstance(body.get("data"), list)
    map_session(SESSION, [dumps(payload), dumps([payload]), b"\xff"], POLICY, {"link": payload})
