"""The simulator's world keeps to the documentation: its events, their order, and what can be known of them."""

import random
from itertools import pairwise
from typing import Any

import orjson
from openai.types.live import ConnectServerEvent
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent
from pydantic import TypeAdapter

from tests.simulator.calls import play, scenes_for
from tests.simulator.live import Live
from tests.simulator.observer import View, observe
from tests.simulator.run import simulated
from tests.simulator.truth import PARTS
from tests.simulator.world import T0, Interval, known

SERVER: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
LIVE: TypeAdapter[Any] = TypeAdapter(ConnectServerEvent)
CLIENT: TypeAdapter[Any] = TypeAdapter(RealtimeClientEvent)
SAMPLE = range(300)


def test_a_seed_is_a_call() -> None:
    """The same seed gives the same posts and the same truth."""
    for seed in (1, 2, 3):
        first, second = simulated(seed), simulated(seed)
        assert first[2].body == second[2].body
        assert first[3] == second[3]


def test_events_are_the_documented_ones() -> None:
    """Every event of a server that follows today's API validates against the types of the openai package."""
    seen = set()
    for seed in SAMPLE:
        record = play(seed)
        if record.setup.beta or record.setup.announced == "nothing":
            continue
        for moment in record.moments:
            event = dict(moment.event)
            if "delta_bytes" in event:
                event["delta"] = "A" * 4
            if "audio_bytes" in event:
                event["audio"] = "A" * 4
            (SERVER if moment.side == "server" else CLIENT).validate_python(event)
            seen.add(event["type"])
    assert {"response.mcp_call.completed", "output_audio_buffer.cleared", "conversation.item.truncated"} <= seen
    assert {"input_audio_buffer.timeout_triggered", "error", "session.updated", "response.cancel"} <= seen


def test_a_live_session_counts_its_seconds() -> None:
    """Events validate (pauses are newer than the package that is installed), and the breakdown adds up to the total."""
    paused = 0
    for seed in SAMPLE:
        live = Live.played(seed)
        for moment in live.record.moments:
            if moment.event["type"] not in ("session.paused", "session.resumed"):
                LIVE.validate_python(moment.event)
        for usage in (m.event["usage"] for m in live.usages):
            assert usage.get("active_seconds", usage["seconds"]) + usage.get("paused_seconds", 0) == usage["seconds"]
        paused += len(live.pauses)
        assert all(turn.caller[1] < turn.model[0] for turn in live.turns)
    assert paused > 100


def test_every_scene_is_played() -> None:
    """The sample holds every scene of every kind of call."""
    played = {name for seed in range(1500) for name in play(seed).kinds}
    assert played == {name for seed in range(300) for name in scenes_for(play(seed, []).setup)}


def test_one_response_at_a_time_writes_to_the_conversation() -> None:
    """Documented: "Only one Response can write to the default Conversation at a time"."""
    for seed in SAMPLE:
        inside = sorted(
            (r.created.time, r.done.time) for r in play(seed).responses if r.created and r.done and not r.out_of_band
        )
        for (_, done), (created, _) in pairwise(inside):
            assert done < created, seed


def test_what_never_ran_is_no_span() -> None:
    """History, committed silence and incomplete calls are in no truth, but for an observer who left in the middle."""
    never = 0
    for seed in SAMPLE:
        record, view, _, truth = simulated(seed)
        halves = {call_id for call_id, _ in record.halves}
        never += len(record.never | halves)
        assert not record.never & {s.owner for s in truth.spans}, seed
        assert view.hung_up is not None or not halves & {s.owner for s in truth.spans}, seed
    assert never > 100


def test_time_runs_one_way() -> None:
    """What is caused comes after its cause, in the world and on the observer's clock."""
    for seed in SAMPLE:
        record, view, posts, _ = simulated(seed)
        server = [m.at for m in sorted(posts.seen, key=lambda m: (m.time, m.order)) if m.side == "server"]
        assert server == sorted(server)
        assert view.both or not any(m.side == "client" for m in posts.seen)
        for response in record.responses:
            assert response.cause is not None
            assert response.created is not None
            assert response.cause.time < response.created.time, seed
            for later in (response.first_delta, response.first_audio, response.started, response.done):
                assert later is None or response.created.time < later.time, seed
            if response.done is not None:
                assert all(m.time <= response.done.time for m in (response.first_delta, response.first_audio) if m)
        for tool in record.tools:
            assert tool.output is None or tool.output.at >= tool.whole[-1].at or not tool.output.seen, seed


def test_nobody_hears_more_than_there_was() -> None:
    """Heard audio lies between nothing and all that was generated; a server never truncates past the end."""
    barge_ins = 0
    for seed in range(1000):
        record = play(seed)
        for response in record.responses:
            if response.barge_in is not None:
                barge_ins += 1
                assert 0 < response.barge_in.heard <= response.audio_ms, seed
        lengths = {r.item: r.audio_ms for r in record.responses if r.item}
        for moment in record.moments:
            if moment.event["type"] == "conversation.item.truncated":
                assert moment.event["audio_end_ms"] <= lengths[moment.event["item_id"]], seed
    assert barge_ins > 200


# The truth.


def test_the_parts_of_a_wait_add_up() -> None:
    """The parts lie between the same two moments as the wait, without a gap."""
    waits = 0
    for seed in range(600):
        truth = simulated(seed)[3]
        by_owner: dict[str, dict[str, list[Interval]]] = {}
        for figure in truth.figures:
            by_owner.setdefault(figure.owner, {})[figure.name] = figure.right
        for figures in by_owner.values():
            parts = [figures.get(f"grafter.caller_wait.{part}_ms") for part in PARTS]
            if all(parts):
                waits += 1
                ((low, high),) = figures["grafter.caller_wait_ms"]
                assert sum(part[0][0] for part in parts if part) <= high + 0.001, seed
                assert sum(part[0][1] for part in parts if part) >= low - 0.001, seed
    assert waits > 500


def test_what_can_be_known_stands_in_the_posts() -> None:
    """A recorder knows no figure that hangs on a client event, and nobody one that hangs on an event without a time."""
    for seed in range(600):
        record, view, _, truth = simulated(seed)
        asked = {r.id for r in record.responses if r.word == "response.create"}
        for figure in truth.figures:
            if figure.knowable:
                assert figure.right, seed
                assert view.both or figure.name != "grafter.turn.first_token_ms" or figure.owner not in asked, seed
        for response in record.responses:
            if not known(response.first_delta):
                names = [f for f in truth.figures if f.owner == response.id and f.knowable]
                assert not any("first_token" in f.name or "first_delta" in f.name for f in names), seed


# The observer.


def test_a_post_says_when_in_its_own_unit() -> None:
    """Seconds, milliseconds and RFC 3339 name the same moment; without a time there is none."""
    assert View(True, 1.0).date(1_500) == T0 + 1.5
    assert View(True, 1.0, unit="ms").date(1_500) == T0 * 1000 + 1500
    assert View(True, 1.0, unit="rfc3339").date(1_500.25) == "2026-11-18T11:06:41.500250Z"
    record = play(7, ["plain"])
    posts = observe(record, View(True, 1.0, undated=2))
    lines = [line for line in map(orjson.loads, posts.body.splitlines()) if "event" in line]
    assert sum("at" not in line for line in lines) == 2 == sum(not m.dated for m in posts.seen)


def test_views_of_all_kinds_are_drawn() -> None:
    """Taps and recorders, each unit, hang-ups, repeats and every order of posts."""
    views = [View.drawn(random.Random(seed)) for seed in range(400)]
    assert {v.both for v in views} == {True, False}
    assert {v.unit for v in views} == {"s", "ms", "rfc3339"}
    assert {v.shuffle for v in views} == {"no", "ties", "posts", "all"}
    assert any(v.hung_up for v in views)
    assert any(v.undated for v in views)
