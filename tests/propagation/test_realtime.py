"""The tap against a real door: what arrives, when, and what the app feels of it."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from openai.types.realtime import ResponseAudioDeltaEvent, ResponseDoneEvent
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from grafter_propagation import RealtimeTap
from grafter_propagation.realtime import BATCH_EVENTS
from tests.ports import free_port
from tests.propagation.apps import HELPERS
from tests.propagation.door import Door, busy, opened

AUDIO = "QUJDRA=="
"""Base64 of four bytes."""
LINK = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}


def tap_of(door: Door, **settings: Any) -> RealtimeTap:
    """A tap that posts soon."""
    return RealtimeTap(door.url, "call_1", **{"metadata": LINK, "interval": 0.02, **settings})


def delta(number: int = 0, item: str = "item_1") -> dict[str, Any]:
    return {
        "type": "response.output_audio.delta",
        "event_id": f"event_{number}",
        "response_id": "resp_1",
        "item_id": item,
        "output_index": 0,
        "content_index": 0,
        "delta": AUDIO,
    }


def said(number: int) -> dict[str, Any]:
    return {"type": "input_audio_buffer.speech_started", "event_id": f"event_{number}", "audio_start_ms": number}


async def test_events_arrive_in_order_with_their_sides_and_the_end_of_the_call(door: Door) -> None:
    """The posts say which call, where it belongs, what happened in which order, and that it is over."""
    async with tap_of(door, token="secret") as tap:
        tap.server(said(1))
        tap.client({"type": "response.create"})
        tap.server(json.dumps(said(2)))
        tap.server(json.dumps(said(3)).encode())
    first = door.stored[0]
    assert first["call"] == "call_1"
    assert first["metadata"] == LINK
    assert [(row["from"], row["event"].get("audio_start_ms")) for row in door.rows] == [
        ("server", 1),
        ("client", None),
        ("server", 2),
        ("server", 3),
    ]
    assert door.stored[-1]["ended"] is True
    assert "events" not in door.stored[-1]
    assert (tap.sent, tap.dropped, tap.pending) == (4, 0, 0)
    assert door.headers[0]["Authorization"] == "Bearer secret"


async def test_metadata_is_said_until_it_is_stored_and_no_more(door: Door) -> None:
    """A link is in the first post that got through; a later one is posted though nothing else happens."""
    door.script = [busy("0"), web.Response(status=204)]
    tap = tap_of(door)
    tap.server(said(1))
    await door.until(lambda d: d.stored)
    tap.server(said(2))
    await door.until(lambda d: len(d.rows) == 2)
    tap.link({"trace_id": "0" * 31 + "1"})
    await door.until(lambda d: len(d.stored) == 3)
    await tap.aclose()
    assert [post.get("metadata") for _, post in door.asked] == [LINK, LINK, None, {"trace_id": "0" * 31 + "1"}, None]


@pytest.mark.parametrize(
    "audio",
    [
        pytest.param(delta(), id="dict"),
        pytest.param(json.dumps(delta()), id="text"),
        pytest.param(json.dumps(delta()).encode(), id="bytes"),
        pytest.param(bytearray(json.dumps(delta()).encode()), id="bytearray"),
        pytest.param(ResponseAudioDeltaEvent(**delta()), id="model"),
        pytest.param({**delta(), "type": "response.audio.delta"}, id="beta"),
    ],
)
async def test_an_audio_delta_is_told_by_its_size(door: Door, audio: object) -> None:
    """Whatever form the app has, the ids are kept and the bytes are counted."""
    async with tap_of(door) as tap:
        tap.server(audio)
    (row,) = door.rows
    assert {**row["event"], "type": ""} == {
        "type": "",
        "event_id": "event_0",
        "response_id": "resp_1",
        "item_id": "item_1",
        "output_index": 0,
        "content_index": 0,
        "delta_bytes": 4,
    }
    assert AUDIO.encode() not in door.raw


async def test_the_callers_audio_is_told_by_its_size_everywhere(door: Door) -> None:
    """Appended buffers, audio inside items, and pictures leave their bytes in the app."""
    picture = "data:image/png;base64," + "A" * 4000
    async with tap_of(door) as tap:
        tap.client({"type": "input_audio_buffer.append", "event_id": "e", "audio": AUDIO})
        parts = [{"type": "input_audio", "audio": AUDIO}, {"type": "input_image", "image_url": picture}]
        tap.client({"type": "conversation.item.create", "item": {"type": "message", "content": parts}})
        output = {"type": "output_audio", "audio": AUDIO, "transcript": "Hello"}
        response = {"id": "resp_1", "object": "realtime.response", "output": [{"type": "message", "content": [output]}]}
        tap.server(json.dumps({"type": "response.done", "event_id": "f", "response": response}))
    append, create, done = [row["event"] for row in door.rows]
    assert append == {"type": "input_audio_buffer.append", "event_id": "e", "audio_bytes": 4}
    assert create["item"]["content"] == [
        {"type": "input_audio", "audio_bytes": 4},
        {"type": "input_image", "image_url_bytes": 3000},
    ]
    assert done["response"]["output"][0]["content"][0] == {
        "type": "output_audio",
        "audio_bytes": 4,
        "transcript": "Hello",
    }
    assert AUDIO.encode() not in door.raw


async def test_a_model_of_the_openai_package_is_told_as_what_was_received(door: Door) -> None:
    """Fields that nobody set are not made up."""
    response = {"id": "resp_1", "object": "realtime.response", "status": "completed", "output": []}
    event = {"type": "response.done", "event_id": "e", "response": response}
    async with tap_of(door) as tap:
        tap.server(ResponseDoneEvent.model_validate(event))
    assert door.rows[0]["event"] == event


async def test_an_event_has_the_time_at_which_it_was_shown(door: Door) -> None:
    """Not that of the post, which may be much later; and the post says its own."""
    door.script = [busy("1")]
    tap = tap_of(door)
    before = time.time_ns() / 1e9
    tap.server(said(1))
    after = time.time_ns() / 1e9
    await door.until(lambda d: d.stored)
    stored_at = time.time_ns() / 1e9
    await tap.aclose()
    (row,) = door.rows
    assert before - 1e-3 <= row["at"] <= after + 1e-3
    assert after + 0.9 < door.stored[0]["sent_at"] <= stored_at + 1e-3


async def test_the_app_may_go_on_with_its_event(door: Door) -> None:
    """What is changed after the call was not shown."""
    event = {"type": "response.created", "response": {"id": "resp_1"}}
    async with tap_of(door, interval=5) as tap:
        tap.server(event)
        event["response"]["id"] = "changed"  # type: ignore[index]
    assert door.rows[0]["event"]["response"] == {"id": "resp_1"}


async def test_a_busy_door_is_left_alone_as_long_as_it_asks(door: Door) -> None:
    """503 with Retry-After: the same events come again, and not before."""
    door.script = [busy("1")]
    tap = tap_of(door)
    tap.server(said(1))
    await door.until(lambda d: d.stored)
    await tap.aclose()
    (first, refused), (second, taken), *_ = door.asked
    assert second - first >= 0.99
    assert refused["events"] == taken["events"]
    assert tap.dropped == 0


async def test_close_does_not_wait_for_a_door_that_asks_for_more_time_than_it_has(door: Door) -> None:
    """The events are counted as lost, at once: coming back earlier than asked would not help grafter."""
    door.script = [busy("60")]
    tap = tap_of(door)
    tap.server(said(1))
    await door.until(lambda d: d.asked)
    await tap.aclose(5.0)
    assert (tap.sent, tap.dropped, len(door.asked)) == (0, 1, 1)


async def test_a_closed_port_is_tried_again_until_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grafter that restarts costs no event."""
    failed = threading.Event()
    monkeypatch.setattr(logging.getLogger("grafter_propagation"), "filters", [lambda record: failed.set() or True])
    port = free_port()
    tap = RealtimeTap(f"http://127.0.0.1:{port}", "call_1", metadata={}, interval=0.01)
    tap.server(said(1))
    await asyncio.to_thread(failed.wait, 20)
    async with opened(port) as door:
        await door.until(lambda d: d.rows)
        await tap.aclose()
        assert door.ended
    assert (tap.sent, tap.dropped) == (1, 0)


async def test_a_door_that_never_answers_holds_up_nothing(door: Door) -> None:
    """The app's calls return while the post has no answer, and so does ``close`` when its time is over."""
    door.script = [None] * 100
    tap = tap_of(door, timeout=600.0)
    tap.server(said(0))
    await door.until(lambda d: d.asked)
    for number in range(1000):
        tap.server(said(number))
    await asyncio.to_thread(tap.close, 0.3)
    assert (tap.sent, len(door.asked)) == (0, 1)


async def test_a_post_that_times_out_is_made_again(door: Door) -> None:
    """A door that hangs once has the events in the end."""
    door.script = [None]
    tap = tap_of(door, timeout=0.1)
    tap.server(said(1))
    await door.until(lambda d: d.rows)
    await tap.aclose()
    assert tap.sent == 1


async def test_what_is_refused_is_dropped_and_said_once(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong token is no reason to keep a call's events for ever, nor to fill the app's log."""
    # More than are asked for: a post that a busy machine cuts off is made again.
    door.script = [web.Response(status=401) for _ in range(20)]
    tap = tap_of(door)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            tap.server(said(number))
            await door.until(lambda d, n=number: len(d.asked) > n)
    await tap.aclose()
    assert tap.dropped == 3
    assert [record.getMessage() for record in caplog.records] == [
        "grafter refuses the events of a Realtime call: HTTP 401 (call call_1)"
    ]


async def test_a_redirect_is_not_followed(door: Door) -> None:
    """It would turn the post into a GET."""
    door.script = [web.Response(status=302, headers={"Location": door.url})]
    async with tap_of(door) as tap:
        tap.server(said(1))
    assert tap.dropped == 1


async def test_the_queue_is_bounded_and_audio_goes_first(door: Door) -> None:
    """While the door is away the newest is kept, of audio least, but of each item its first."""
    away = asyncio.Event()
    door.script = [away]
    tap = tap_of(door, max_events=10, timeout=600.0)
    tap.server(said(0))
    await door.until(lambda d: d.asked)
    tap.server({"type": "response.created"})
    for number in range(1, 50):
        tap.server(delta(number))
        tap.client({"type": "input_audio_buffer.append", "audio": AUDIO})
    tap.server({"type": "response.done"})
    assert tap.pending == 10
    assert tap.dropped == 90
    away.set()
    await door.until(lambda d: len(d.rows) == 11)
    await tap.aclose()
    assert door.types[1:3] == ["response.created", "response.output_audio.delta"]
    assert door.rows[2]["event"]["event_id"] == "event_1"
    assert door.types[-1] == "response.done"
    assert door.rows[-2]["event"]["type"] == "input_audio_buffer.append"


async def test_bytes_are_bounded_as_well(door: Door) -> None:
    """A few huge events fill the queue as many small ones do."""
    away = asyncio.Event()
    door.script = [away]
    tap = tap_of(door, max_bytes=100_000, timeout=600.0)
    tap.server(said(0))
    await door.until(lambda d: d.asked)
    for number in range(20):
        tap.server({"type": "session.updated", "event_id": str(number), "session": {"instructions": "x" * 30_000}})
    assert tap.pending == 3
    assert tap.dropped == 17
    away.set()
    await door.until(lambda d: len(d.rows) == 4)
    await tap.aclose()
    assert [row["event"]["event_id"] for row in door.rows] == ["event_0", "17", "18", "19"]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(None, id="none"),
        pytest.param(7, id="number"),
        pytest.param("", id="empty"),
        pytest.param("no json", id="text"),
        pytest.param('{"type": "response.output_audio.delta"', id="half"),
        pytest.param(b"\xff\xfe", id="bytes"),
        pytest.param("[1]", id="list"),
        pytest.param('{"type": 3}', id="type"),
        pytest.param({}, id="no type"),
        pytest.param(object(), id="object"),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
async def test_what_is_no_event_costs_only_itself(door: Door, odd: object) -> None:
    """It is counted, nothing is raised, and what came with it is posted."""
    async with tap_of(door) as tap:
        tap.server(said(1))
        tap.server(odd)
        tap.client(said(2))
    assert [row["event"]["audio_start_ms"] for row in door.rows] == [1, 2]
    assert tap.dropped == 1


async def test_hostile_texts_leave_a_post_that_can_be_read(door: Door) -> None:
    """No number or text that JSON or UTF-8 does not know, no endless nesting, nothing huge."""
    nested: dict[str, Any] = {}
    for _ in range(2000):
        nested = {"in": nested}
    async with tap_of(door, metadata={"odd": float("nan"), "lone": "\ud800"}) as tap:
        tap.server({"type": "a.b", "lone": "\ud800", "nan": float("nan"), "nested": nested, "object": object(), 3: 4})
        tap.server('{"type": "a.c", "lone": "\\ud800", "nan": NaN}')
        tap.server({"type": "a.d", "text": "x" * 1_000_000})
    first, second, third = [row["event"] for row in door.rows]
    assert (first["lone"], first["nan"], first["object"], first["3"]) == ("?", None, None, 4)
    assert (second["lone"], second["nan"]) == ("?", None)
    assert len(third["text"]) == 65_536


async def test_many_threads_and_the_event_loop_may_show_events_at_once(door: Door) -> None:
    """Nothing is lost or doubled, and each thread's order is kept."""
    tap = tap_of(door)

    def show(side: Callable[[object], None], thread: int) -> None:
        for number in range(500):
            side({"type": "a.b", "thread": thread, "number": number})

    threads = [threading.Thread(target=show, args=(tap.server, number)) for number in range(4)]
    for thread in threads:
        thread.start()
    show(tap.client, 9)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await tap.aclose()
    for thread_number in (0, 1, 2, 3, 9):
        numbers = [row["event"]["number"] for row in door.rows if row["event"]["thread"] == thread_number]
        assert numbers == list(range(500))
    assert all(len(post.get("events", [])) <= BATCH_EVENTS for post in door.stored)


async def test_the_current_span_is_the_link(door: Door) -> None:
    """Where the app said nothing, its OpenTelemetry span does; its flags too, so that an unsampled one is followed."""
    for provider, sampled in ((TracerProvider(), True), (TracerProvider(sampler=ALWAYS_OFF), False)):
        with provider.get_tracer("app").start_as_current_span("call") as span:
            context = span.get_span_context()
            tap = tap_of(door, metadata=None)
            tap.server(said(1))
            await tap.aclose()
        trace_id, span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
        assert door.stored[0]["metadata"] == {
            "trace_id": trace_id,
            "span_id": span_id,
            "traceparent": f"00-{trace_id}-{span_id}-{context.trace_flags:02x}",
        }
        assert context.trace_flags.sampled is sampled
        door.stored.clear()


def threads(name: str) -> set[threading.Thread]:
    """Those of this name that run now."""
    return {one for one in threading.enumerate() if one.name == name}


async def test_without_a_span_there_is_no_link(door: Door) -> None:
    """Metadata is left out; the call can still be linked by what OpenAI's session says."""
    async with tap_of(door, metadata=None) as tap:
        tap.server(said(1))
    assert "metadata" not in door.stored[0]


async def test_a_call_without_events_is_not_ended(door: Door) -> None:
    """A tap that saw nothing posts nothing, and starts no thread."""
    before = threads("grafter-realtime-tap")
    async with tap_of(door):
        assert threads("grafter-realtime-tap") <= before
    assert door.asked == []


async def test_closing_twice_and_showing_after_it_is_harmless(door: Door) -> None:
    """The late event is counted, no more."""
    tap = tap_of(door)
    tap.server(said(1))
    await tap.aclose()
    await tap.aclose()
    tap.server(said(2))
    assert (tap.sent, tap.dropped) == (1, 1)
    assert sum(post.get("ended", False) for post in door.stored) == 1


@pytest.mark.parametrize("endpoint", ["", "ftp://x", "http://"])
def test_an_endpoint_that_is_none_is_said_at_once(endpoint: str) -> None:
    """The one thing that is raised: at the start of the app, not in a call."""
    with pytest.raises(ValueError, match="not an http or https address"):
        RealtimeTap(endpoint, "call_1")


def test_a_token_that_no_header_can_carry_is_said_at_once() -> None:
    """Otherwise every post would fail, and be tried again for ever."""
    with pytest.raises(ValueError, match="token"):
        RealtimeTap("localhost:4319", "call_1", token="two\nlines")


async def test_a_connection_that_grafter_closed_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """A restart between two posts is not even noticed."""
    port = free_port()
    tap = RealtimeTap(f"http://127.0.0.1:{port}", "call_1", metadata={}, interval=0.01)
    for number in range(2):
        async with opened(port) as door:
            # The first post of the second door goes out on the first one's connection.
            tap.server(said(number))
            await door.until(lambda d: d.rows)
            assert [row["event"]["audio_start_ms"] for row in door.rows] == [number]
            if number:
                await tap.aclose()
    assert (tap.sent, tap.dropped, caplog.records) == (2, 0, [])


async def test_a_quiet_call_costs_no_thread(door: Door) -> None:
    """The thread ends by itself; the next event, and the end of the call, find another."""
    tap, before = tap_of(door, idle=0.0), threads("grafter-realtime-tap")
    for number in range(2):
        tap.server(said(number))
        started = threads("grafter-realtime-tap") - before
        await door.until(lambda d, n=number: len(d.rows) == n + 1)
        for thread in started:
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()
    await tap.aclose()
    assert door.ended
    assert tap.sent == 2


async def test_a_process_that_ends_without_close_posts_what_waits(door: Door) -> None:
    """An app that forgets to close, or dies of an exception, loses nothing; and a forked child posts only its own."""
    code = f"""
import os, sys
from grafter_propagation import RealtimeTap
tap = RealtimeTap({door.url!r}, "call_1", metadata={{}}, interval=60)
tap.server({{"type": "a.parent"}})
child = os.fork()
if not child:
    tap.server({{"type": "a.child"}})
    tap.close()
    os._exit(0)
os.waitpid(child, 0)
raise SystemExit(3)
"""
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-W", "ignore", "-c", code], cwd=HELPERS, capture_output=True, check=False
    )
    assert process.returncode == 3, process.stderr
    assert sorted(door.types) == ["a.child", "a.parent"]
