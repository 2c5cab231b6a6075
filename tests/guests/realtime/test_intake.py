"""Realtime events on their way into the store: quick and slow reading agree, and one odd event costs only itself."""

import base64
import json
from collections import Counter
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grafter.core.model import Part, Source, TraceId, UnixNano, call_guest, guest_key
from grafter.core.policy import HOUR, SECOND, Content, GraftPolicy
from grafter.guests.realtime.event_buffer import EventBuffer, kind_of
from grafter.guests.realtime.intake import RealtimeIntake, read_posts
from grafter.guests.realtime.stored_event import ALIVE, ENDED, METADATA, Side, StoredEvent, decode

NOW = UnixNano(1_800_000_000 * SECOND)
HOST = TraceId(bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736"))
OTHER = TraceId(bytes.fromhex("0af7651916cd43dd8448eb211c80319c"))
POLICY = GraftPolicy()
DONE = {"type": "response.done", "event_id": "event_1", "response": {"id": "resp_1", "status": "completed"}}


def delta(audio: bytes = b"\0" * 480, **more: Any) -> dict[str, Any]:
    return {
        "type": "response.output_audio.delta",
        "event_id": "event_7",
        "response_id": "resp_1",
        "item_id": "item_1",
        "output_index": 0,
        "content_index": 0,
        "delta": base64.b64encode(audio).decode(),
        **more,
    }


def buffer(policy: GraftPolicy = POLICY) -> EventBuffer:
    return EventBuffer("rtc_1", policy)


def stored_events_of(part: Part | None) -> list[StoredEvent]:
    return [] if part is None else decode(part.payload)


def posted(*posts: Any, ndjson: bool = False, policy: GraftPolicy = POLICY, now: UnixNano = NOW) -> RealtimeIntake:
    body = b"\n".join(map(orjson.dumps, posts)) if ndjson else orjson.dumps(posts[0] if len(posts) == 1 else posts)
    return read_posts(body, ndjson, policy, now)


def at(seconds: float) -> UnixNano:
    return UnixNano(NOW + int(seconds * SECOND))


# --- deltas ---------------------------------------------------------------------------------------------------------

ids = st.none() | st.text(max_size=12) | st.sampled_from(["item_1", "resp_1"])
audio = st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode()) | st.text(max_size=8)
deltas = st.builds(
    lambda members, order: {key: members[key] for key in order if key in members},
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["response.output_audio.delta", "response.audio.delta", "input_audio_buffer.append", "response.done"]
            )
        },
        optional={
            "event_id": ids,
            "response_id": ids,
            "item_id": ids,
            "output_index": st.integers(-1, 11) | st.none(),
            "content_index": st.integers(0, 3),
            "delta": audio,
            "audio": audio,
            "delta_bytes": st.integers(-1, 9),
            "extra": st.none() | st.text(max_size=3),
        },
    ),
    st.permutations(
        [
            *("type", "event_id", "response_id", "item_id", "output_index", "content_index"),
            "delta",
            "audio",
            "delta_bytes",
            "extra",
        ]
    ),
)
spellings = st.sampled_from(
    [
        lambda event: json.dumps(event),
        lambda event: json.dumps(event, separators=(",", ":")),
        lambda event: json.dumps(event, indent=1) + "\n",
        lambda event: json.dumps(event, ensure_ascii=False).encode(),
        lambda event: " \t" + json.dumps(event, separators=(" , ", " : ")),
        lambda event: json.dumps(event).encode(),
    ]
)


@given(st.lists(st.tuples(deltas, spellings, st.integers(0, 50)), max_size=8), st.sampled_from(list(Content)))
def test_an_event_read_from_its_bytes_is_the_event_that_a_decoder_reads(
    events: list[tuple[dict[str, Any], Any, int]], content: Content
) -> None:
    """However it is written and whatever stands around it: the same type, the same events, the same runs."""
    policy = GraftPolicy(content=content)
    quick, slow = buffer(policy), buffer(policy)
    for event, spelled, second in events:
        assert quick.add(spelled(event), at(second), Side.SERVER) == slow.add_event(event, at(second), Side.SERVER)
    assert quick.take() == slow.take()


def test_deltas_of_one_item_are_one_note() -> None:
    """A run has the moments of its first and its last, the sum of its bytes, and no audio."""
    buffered = buffer()
    for second in range(100):
        buffered.add(json.dumps(delta(event_id=f"event_{second}")), at(second), Side.SERVER)
    assert buffered.pending == 1
    assert not buffered.urgent
    (stored,) = stored_events_of(buffered.take())
    assert (stored.at, stored.last, stored.count) == (at(0), at(99), 100)
    assert stored.event["delta_bytes"] == 48_000
    assert "delta" not in stored.event
    assert buffered.pending == 0


def test_what_comes_between_ends_a_run() -> None:
    """Audio after a cut is told from audio before it, and audio of two responses from each other."""
    buffered = buffer()
    buffered.add(json.dumps(delta()), at(0), Side.SERVER)
    buffered.add(json.dumps(delta()), at(1), Side.SERVER)
    buffered.add_event({"type": "input_audio_buffer.speech_started", "item_id": "item_9"}, at(2), Side.SERVER)
    buffered.add(json.dumps(delta()), at(3), Side.SERVER)
    buffered.add(json.dumps(delta(response_id="resp_2")), at(4), Side.SERVER)
    found = [(stored.event["type"], stored.count) for stored in stored_events_of(buffered.take())]
    assert found == [
        ("response.output_audio.delta", 2),
        ("input_audio_buffer.speech_started", 1),
        ("response.output_audio.delta", 1),
        ("response.output_audio.delta", 1),
    ]


def test_deltas_of_words_are_runs_too() -> None:
    """They come between those of the audio, and tell only when the first and the last came."""
    buffered = buffer()
    words = {
        "type": "response.output_audio_transcript.delta",
        "response_id": "resp_1",
        "item_id": "item_1",
        "delta": "w",
    }
    for second in range(5):
        buffered.add(json.dumps(delta()), at(second), Side.SERVER)
        buffered.add(json.dumps(words), at(second + 0.5), Side.SERVER)
    stored_events = {stored.event["type"]: stored for stored in stored_events_of(buffered.take())}
    assert [(stored.count, stored.at, stored.last) for stored in stored_events.values()] == [
        (5, at(0), at(4)),
        (5, at(0.5), at(4.5)),
    ]
    assert "delta_bytes" not in stored_events["response.output_audio_transcript.delta"].event


def test_the_callers_audio_is_counted_and_not_kept() -> None:
    """Of what the microphone sends only its moments stay, and it does not end a run of the answer's audio."""
    buffered = buffer()
    append = json.dumps({"type": "input_audio_buffer.append", "audio": "AAAA"})
    buffered.add(json.dumps(delta()), at(0), Side.SERVER)
    assert buffered.add(append, at(1), Side.CLIENT) == "input_audio_buffer.append"
    buffered.add(json.dumps(delta()), at(2), Side.SERVER)
    assert buffered.add(append, at(2), Side.CLIENT) == "input_audio_buffer.append"
    stored_events = stored_events_of(buffered.take())
    assert [stored.count for stored in stored_events] == [2, 2]
    assert stored_events[1].event == {"type": "input_audio_buffer.append"}


@pytest.mark.parametrize("content", list(Content))
def test_no_audio_is_stored(content: Content) -> None:
    """Under no policy, in no event, by no way in."""
    sound = base64.b64encode(bytes(range(256)) * 8).decode()
    events = [
        delta(delta=sound),
        {"type": "input_audio_buffer.append", "audio": sound},
        {
            "type": "conversation.item.create",
            "item": {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": sound}]},
        },
        {"type": "no.such.event", "audio": sound, "delta": sound},
    ]
    buffered = buffer(GraftPolicy(content=content))
    for event in events:
        buffered.add(json.dumps(event), NOW, Side.SERVER)
        buffered.add_event(event, NOW, Side.SERVER)
    part = buffered.take()
    assert part is not None
    assert sound[:40].encode() not in part.payload


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "x",
        "[]",
        "null",
        "1",
        '"response.done"',
        "{}",
        '{"type": 1}',
        '{"type": ""}',
        '{"type": "a b"}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_event_is_odd(raw: str | bytes) -> None:
    """It is said and left out, and the next event is read."""
    buffered = buffer()
    assert buffered.add(raw, NOW, Side.SERVER) == "odd"
    assert buffered.take() is None
    assert buffered.add(json.dumps(DONE), NOW, Side.SERVER) == "response.done"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "item", "session", "response", "x"]), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.sampled_from([DONE["type"], "session.update", "no.such", "response.output_audio.delta"]),
    st.sampled_from(list(Side)),
)
def test_any_value_is_taken_or_odd(value: Any, kind: str, side: Side) -> None:
    """No JSON value of an event keeps the rest of a call from being stored."""
    buffered = buffer()
    buffered.add_event(value, NOW, side)
    buffered.add_event({"type": kind, "item": value, "session": value, "item_id": value, "delta": value}, NOW, side)
    buffered.add_event(DONE, NOW, Side.SERVER)
    assert stored_events_of(buffered.take())[-1].event["type"] == "response.done"


# --- facts ----------------------------------------------------------------------------------------------------------


def facts(*events: dict[str, Any], policy: GraftPolicy = POLICY) -> Any:
    buffered = buffer(policy)
    for event in events:
        if str(event["type"]).startswith("grafter."):
            buffered.add_own(event, NOW)
        else:
            buffered.add_event(event, NOW, Side.SERVER)
    part = buffered.take()
    assert part is not None
    assert part.spans == 0
    assert part.key == guest_key(call_guest("rtc_1"))
    assert part.guest is not None
    assert part.guest.source is Source.REALTIME
    return part.guest


def tracing(metadata: Any, kind: str = "session.updated") -> dict[str, Any]:
    return {"type": kind, "session": {"type": "realtime", "id": "sess_1", "tracing": {"metadata": metadata}}}


def test_facts_say_what_the_waits_need() -> None:
    """A session, an end of a span and an end of the call are known without reading the part."""
    plain = facts({"type": "response.created", "response": {"id": "resp_1"}})
    assert (plain.head, plain.top_level, plain.ended, plain.host) == (False, False, False, None)
    assert facts({"type": "session.created", "session": {"id": "sess_1"}}).head
    assert facts(DONE).top_level
    ended = facts({"type": ENDED, "by": "close"})
    assert ended.ended
    assert ended.top_level


@pytest.mark.parametrize("kind", ["session.created", "session.updated", "session.update"])
def test_tracing_metadata_links(kind: str) -> None:
    """Whoever set it: the server shows it, or the client sends it."""
    assert facts(tracing({"trace_id": HOST.hex()}, kind)).host == HOST


def test_the_link_is_the_starts_then_the_posted_then_the_sessions() -> None:
    """An app that says it itself is believed before what the session was opened with."""
    start = {"type": METADATA, "origin": "start", "metadata": {"traceparent": f"00-{HOST.hex()}-{'1' * 16}-00"}}
    said = {"type": METADATA, "origin": "posted", "metadata": {"trace_id": OTHER.hex()}}
    found = facts(tracing({"trace_id": "ab" * 16}), said, start)
    assert (found.host, found.sampled) == (HOST, False)
    assert facts(tracing({"trace_id": "ab" * 16}), said).host == OTHER
    assert facts({"type": METADATA, "origin": "posted", "metadata": {"trace_id": "nonsense"}}).host is None


def test_a_link_stands_in_every_later_part() -> None:
    """A part says where it belongs, whichever part before it said so first."""
    buffered = buffer()
    buffered.add_event(tracing({"trace_id": HOST.hex()}), NOW, Side.SERVER)
    buffered.take()
    buffered.add_own({"type": ALIVE}, NOW)
    part = buffered.take()
    assert part is not None
    assert part.guest is not None
    assert part.guest.host == HOST


def test_urgent_is_what_must_not_be_lost() -> None:
    """A finished turn, and where the call belongs; not the audio on the way."""
    buffered = buffer()
    buffered.add_event({"type": "response.created", "response": {"id": "resp_1"}}, NOW, Side.SERVER)
    assert not buffered.urgent
    buffered.add_event(DONE, NOW, Side.SERVER)
    assert buffered.urgent
    buffered.take()
    assert not buffered.urgent


# --- posts ----------------------------------------------------------------------------------------------------------

EVENT = {"at": 1_799_999_990.25, "from": "server", "event": DONE}


def test_an_envelope() -> None:
    """Times, sides and events come as they were posted; metadata holds from the first event on, the end after all."""
    client = {"at": "2027-01-15T07:59:55.000000001Z", "from": "client", "event": {"type": "response.create"}}
    intake = posted({"call": "rtc_1", "metadata": {"trace_id": HOST.hex()}, "ended": True, "events": [client, EVENT]})
    (part,) = intake.parts
    assert part.guest is not None
    assert (part.guest.host, part.guest.ended) == (HOST, True)
    assert intake.kinds == Counter(event=2, metadata=1, ended=1)
    stored_events = sorted(decode(part.payload), key=lambda stored: stored.at)
    assert {stored.event["type"]: (stored.at - NOW, stored.side) for stored in stored_events} == {
        "response.done": (-9_750_000_000, Side.SERVER),
        METADATA: (-9_750_000_000, Side.GRAFTER),
        "response.create": (-4_999_999_999, Side.CLIENT),
        ENDED: (-4_999_999_999, Side.GRAFTER),
    }


def test_all_forms_say_the_same() -> None:
    """One envelope, a list of them, lines of envelopes, lines of events, and lines that nobody announced."""
    events = [{**EVENT, "at": 1_799_999_990 + n, "event": {**DONE, "event_id": f"event_{n}"}} for n in range(4)]
    whole = posted({"call": "rtc_1", "events": events})
    halves = [{"call": "rtc_1", "events": events[:2]}, {"call": "rtc_1", "events": events[2:]}]
    lines = [{"call": "rtc_1", **event} for event in events]
    for each in (
        posted(*halves),
        posted(*halves, ndjson=True),
        posted(*lines, ndjson=True),
        posted(*lines),
        read_posts(b"\n".join(map(orjson.dumps, lines)), False, POLICY, NOW),
    ):
        assert each == whole


def test_one_body_may_tell_of_several_calls() -> None:
    """Each call is a part of its own."""
    intake = posted({"call": "a", **EVENT}, {"call": "b", **EVENT}, {"call": "a", **EVENT}, ndjson=True)
    assert [(part.key, len(decode(part.payload))) for part in intake.parts] == [
        (guest_key(call_guest("a")), 2),
        (guest_key(call_guest("b")), 1),
    ]


@pytest.mark.parametrize(
    "time", [None, "soon", True, [], -1, 0, 12.5, 1e300, 1_577_836_799, 1_800_003_601, 1_800_003_601_000]
)
def test_a_time_that_cannot_be_is_the_arrival(time: Any) -> None:
    """It is counted, and the event is kept, marked so that no figure is made of the time that stands for it."""
    intake = posted({"call": "rtc_1", "events": [{**EVENT, "at": time}]})
    stored_events = decode(intake.parts[0].payload)
    assert [(stored.at, stored.event["untimed"]) for stored in stored_events] == [(NOW, True)]
    assert intake.kinds == Counter(event=1, untimed=1)


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_a_time_in_another_unit_is_recognised(unit: int) -> None:
    """Milliseconds as Date.now() has them, micro- and nanoseconds: between 2020 and 2100 no number is two of them."""
    intake = posted(
        {"call": "rtc_1", "sent_at": 1_800_000_000 * unit, "events": [{**EVENT, "at": 1_799_999_990 * unit}]}
    )
    (stored,) = (one for one in decode(intake.parts[0].payload) if one.side is Side.SERVER)
    assert stored.at == 1_799_999_990 * SECOND
    assert "untimed" not in stored.event


@pytest.mark.parametrize("ndjson", [False, True])
@pytest.mark.parametrize("time", [None, 0, "9999-12-31T23:59:59Z"])
def test_a_time_that_cannot_be_is_that_of_its_neighbour(time: Any, ndjson: bool) -> None:
    """So a call that is read from a file of last week does not reach from then until now, nor to 1970."""
    week = 7 * 24 * 3600
    timed = [{**EVENT, "at": EVENT["at"] - week + n, "event": {**DONE, "event_id": f"e_{n}"}} for n in range(2)]
    odd = [{**EVENT, "at": time, "event": {**DONE, "event_id": f"odd_{n}"}} for n in range(2)]
    events = [timed[0], odd[0], timed[1], odd[1]]
    lines = [{"call": "c", **event} for event in events]
    intake = posted(*lines, ndjson=True) if ndjson else posted({"call": "c", "events": events})
    stood = {str(stored.event["event_id"]): stored.at for stored in decode(intake.parts[0].payload)}
    assert stood["odd_0"] == stood["e_0"] == (1_799_999_990 - week) * SECOND + SECOND // 4
    assert stood["odd_1"] == stood["e_1"] == stood["e_0"] + SECOND
    assert intake.kinds["untimed"] == 2
    first = posted({"call": "c", "events": events[1:]})
    assert {stored.at for stored in decode(first.parts[0].payload)} == {stood["e_1"]}


def test_a_clock_that_was_never_set_is_set_right() -> None:
    """A device that thinks it is 1970 still knows how long ago something was."""
    intake = posted({"call": "c", "sent_at": 100.0, "events": [{**EVENT, "at": 92}, {**EVENT, "at": 99}]})
    times = [stored.at for stored in decode(intake.parts[0].payload) if stored.side is Side.SERVER]
    assert times == [at(-8), at(-1)]


def test_times_stay_as_measured() -> None:
    """A clock that is some seconds off, or a recording of last year, is the sender's own affair: its spans agree."""
    for offset in (-400 * 24 * 3600, -30, 0, 30):
        second = NOW // SECOND + offset
        intake = posted({"call": "c", "sent_at": second, "events": [{**EVENT, "at": second}]})
        assert {stored.at for stored in decode(intake.parts[0].payload)} == {second * SECOND}


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_a_clock_that_is_provably_wrong_is_set_right(unit: int) -> None:
    """Nothing is received before it is sent: by so much, at least, all its times are too late. Whatever their unit."""
    sent = (NOW + 5 * HOUR) // SECOND
    events = [{**EVENT, "at": (sent - 8) * unit}, {**EVENT, "at": (sent - 1) * unit}]
    intake = posted({"call": "c", "sent_at": sent * unit, "events": events})
    times = [stored.at for stored in decode(intake.parts[0].payload) if stored.side is Side.SERVER]
    assert times == [at(-8), at(-1)]
    (clock,) = (stored.event["clock"] for stored in decode(intake.parts[0].payload) if stored.side is Side.GRAFTER)
    assert clock == {"ahead_ms": 18_000_000.0, "offset_ms": 18_000_000.0}
    assert "untimed" not in intake.kinds


def test_a_missing_side_is_that_of_the_event() -> None:
    """Clients and servers send events of different types."""
    events = [{"at": 1_799_999_990, "event": event} for event in (DONE, {"type": "response.create"})]
    intake = posted({"call": "c", "events": events})
    assert [stored.side for stored in decode(intake.parts[0].payload)] == [Side.SERVER, Side.CLIENT]


ODD_ENTRIES = [None, 1, "x", [], {}, {"at": 1}, {"event": 1}, {"event": {}}, {**EVENT, "from": "nobody"}]


@pytest.mark.parametrize(
    "said",
    [
        {"Events": [EVENT]},
        {"data": [EVENT]},
        {"at": EVENT["at"], "from": "server", **DONE},
        {"ended": "true"},
        {"ended": 1},
    ],
)
def test_an_envelope_of_which_nothing_is_kept_is_odd(said: Any) -> None:
    """It is counted, so that its sender hears of it; one that says nothing at all is not."""
    assert posted({"call": "c", **said}).kinds == Counter(odd=1)
    assert posted({"call": "c", **said}, {"call": "c", **EVENT}, ndjson=True).kinds == Counter(odd=1, event=1)
    assert posted({"call": "c"}).kinds == posted({"call": "c", "events": []}).kinds == Counter()


@pytest.mark.parametrize("odd", ODD_ENTRIES)
def test_one_odd_event_never_loses_its_batch(odd: Any) -> None:
    """It is counted; what stands before and after it is kept."""
    last = {**EVENT, "event": {**DONE, "event_id": "event_2"}}
    intake = posted({"call": "c", "events": [EVENT, odd, last]})
    assert intake.kinds == Counter(event=2, odd=1)
    assert len(decode(intake.parts[0].payload)) == 2


@pytest.mark.parametrize(
    ("post", "kinds"),
    [
        ({"call": "c", "events": {"0": EVENT}}, {"odd": 1}),
        ({"call": "c", "metadata": "x"}, {"odd": 1}),
        ({"call": "c"}, {}),
        ({"call": "c", "ended": "yes"}, {"odd": 1}),
        ({"call": "c", "events": []}, {}),
    ],
)
def test_an_odd_member_of_an_envelope_costs_only_itself(post: Any, kinds: dict[str, int]) -> None:
    """The other envelopes of the body are read."""
    intake = posted(post, {"call": "d", **EVENT})
    assert intake.kinds == Counter(event=1, **kinds)
    assert len(intake.parts) == 1


def test_a_broken_line_costs_only_itself() -> None:
    """Whatever is no JSON in lines is counted."""
    body = b'{"call": "c"\n' + orjson.dumps({"call": "c", **EVENT}) + b"\n\n \nnonsense\n"
    intake = read_posts(body, True, POLICY, NOW)
    assert intake.kinds == Counter(event=1, odd=2)


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"x",
            b"null",
            b"1",
            b'"rtc_1"',
            b"{}",
            b"[]",
            b"[1]",
            b'{"call": 1}',
            b'{"call": ""}',
            b'{"events": []}',
        ),
        *(b'{"call": null, "ended": true}', orjson.dumps({"call": "c" * 1001}), b'{"call": "c"', b"[" * 100_000),
    ],
)
@pytest.mark.parametrize("ndjson", [False, True])
def test_a_body_that_names_no_call_is_refused(body: bytes, ndjson: bool) -> None:
    """With words that say what was expected, and none of the payload."""
    with pytest.raises(ValueError, match=r"expected|JSON|nested|empty"):
        read_posts(body, ndjson, POLICY, NOW)


def test_a_body_of_too_many_calls_is_refused() -> None:
    """A sender decides neither how much memory its body takes nor how many traces it begins."""
    body = b"\n".join(b'{"call":"%d"}' % number for number in range(10_001))
    with pytest.raises(ValueError, match="more than 10000 calls"):
        read_posts(body, True, POLICY, NOW)
    assert read_posts(body.rpartition(b"\n")[0], True, POLICY, NOW).parts == ()


def test_a_repeated_post_is_the_same_part() -> None:
    """A sender that got no answer sends again; the store keeps equal parts, and the machine knows equal events."""
    post = {"call": "c", "events": [EVENT, {**EVENT, "event": delta()}, {**EVENT, "event": delta()}]}
    assert posted(post).parts == posted(post, now=at(60)).parts


def test_kinds_are_few() -> None:
    """Whatever a sender calls its events, the metric has a handful of labels."""
    answers = ["response.done", "response.output_audio.delta", "input_audio_buffer.append", "odd", "x.y", "a" * 90]
    assert {kind_of(answer) for answer in answers} == {"audio", "event", "odd", "unknown_type"}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=20))
def test_no_event_is_lost_by_folding(stream: list[tuple[int, int]]) -> None:
    """The counts of all runs add up to the deltas, their bytes to the audio, and no run ends before it began."""
    buffered = buffer()
    for item, second in stream:
        buffered.add(json.dumps(delta(item_id=f"item_{item}")), at(second), Side.SERVER)
    stored_events = stored_events_of(buffered.take())
    assert sum(stored.count for stored in stored_events) == len(stream)
    assert sum(int(str(stored.event["delta_bytes"])) for stored in stored_events) == 480 * len(stream)
    for stored in stored_events:
        assert stored.count == 1 or stored.at <= stored.last
    assert all(one != other for one, other in pairwise([stored.event["item_id"] for stored in stored_events]))
