"""The JavaScript tap in Node, against a real door."""

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.ports import free_port
from tests.propagation.door import Door, busy
from tests.propagation.test_realtime import AUDIO, LINK

SCENES = Path(__file__).parent / "realtime_tap.mjs"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


async def play(url: str, scene: str) -> dict[str, Any]:
    """What the app saw of a scene."""
    process = await asyncio.create_subprocess_exec(
        "node", str(SCENES), url, scene, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(), 30)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"the scene {scene} did not end") from None
    assert process.returncode == 0, error.decode()
    result: dict[str, Any] = json.loads(out)
    return result | {"warned": error.decode().splitlines()}


async def test_events_of_every_form_arrive_in_order_and_without_audio(door: Door) -> None:
    """Objects, texts and bytes; the call, its link, its end; one event after the end is only counted."""
    seen = await play(door.url, "forms")
    assert (seen["sent"], seen["dropped"], seen["pending"], seen["warned"]) == (8, 1, 0, [])
    assert door.stored[0]["call"] == "call_1"
    assert door.stored[0]["metadata"] == LINK
    assert [post.get("ended", False) for post in door.stored] == [False, True]
    assert door.headers[0]["Authorization"] == "Bearer secret"
    rows = door.rows
    assert [row["from"] for row in rows] == ["server", "client", *["server"] * 4, "client", "client"]
    assert [row["event"].get("audio_start_ms") for row in rows[:4]] == [1, None, 2, 3]
    audio = {"type": "response.output_audio.delta", "response_id": "resp_1", "item_id": "item_1"}
    audio |= {"output_index": 0, "content_index": 0, "delta_bytes": 4}
    assert [row["event"] for row in rows[4:7]] == [
        audio | {"event_id": "event_1"},
        audio | {"event_id": "event_2"},
        {"type": "input_audio_buffer.append", "event_id": "e", "audio_bytes": 4},
    ]
    assert rows[7]["event"]["item"]["content"] == [{"type": "input_audio", "audio_bytes": 4}]
    assert AUDIO.encode() not in door.raw
    now = time.time_ns() / 1e9
    times = [row["at"] for row in rows]
    assert times == sorted(times)
    assert now - 30 < times[0] <= door.stored[0]["sent_at"] <= now + 0.1


async def test_the_audio_of_a_live_session_stays_in_the_app(door: Door) -> None:
    """Told by its size and its place in the session, inside another event too."""
    await play(door.url, "live")
    assert [row["event"] for row in door.rows] == [
        {"type": "session.output_audio.delta", "delta_bytes": 4, "start_ms": 100, "end_ms": 200},
        {"type": "session.input_audio.append", "audio_bytes": 4},
        {"type": "response.event", "event_id": "e", "event": {"type": "response.audio.delta", "delta_bytes": 4}},
    ]
    assert AUDIO.encode() not in door.raw


async def test_a_busy_door_is_left_alone_as_long_as_it_asks(door: Door) -> None:
    """503 with Retry-After, then the same events again; the times stay those of the app's calls."""
    door.script = [busy("1")]
    seen = await play(door.url, "busy")
    assert (seen["sent"], seen["dropped"]) == (1, 0)
    (first, refused), (second, taken), _ = door.asked
    assert second - first >= 0.99
    assert refused["events"] == taken["events"]
    assert taken["sent_at"] - taken["events"][0]["at"] > 0.9


async def test_a_door_that_never_answers_holds_up_close_no_longer_than_asked(door: Door) -> None:
    """200 ms were given."""
    door.script = [None] * 10
    seen = await play(door.url, "hanging")
    assert seen["spent"] < 1500
    assert (seen["sent"], seen["dropped"]) == (0, 1)


async def test_close_does_not_wait_for_a_door_that_asks_for_more_time_than_it_has(door: Door) -> None:
    """The events are counted as lost, and grafter is not asked again."""
    door.script = [busy("60")]
    seen = await play(door.url, "impatient")
    assert (seen["sent"], seen["dropped"], len(door.asked)) == (0, 1, 1)
    assert seen["spent"] < 1500


async def test_what_is_refused_is_dropped(door: Door) -> None:
    """A wrong token is said once."""
    door.script = [web.Response(status=401) for _ in range(3)]
    seen = await play(door.url, "busy")
    assert (seen["sent"], seen["dropped"]) == (0, 1)
    assert seen["warned"] == ["grafter refuses the events of a Realtime call: HTTP 401 (call call_1)"]


async def test_the_queue_is_bounded_and_audio_goes_first(door: Door) -> None:
    """The newest is kept, of audio least, but of each item its first."""
    seen = await play(door.url, "bounded")
    assert (seen["pending"], seen["sent"], seen["dropped"]) == (10, 10, 90)
    assert door.types[:2] == ["response.created", "response.output_audio.delta"]
    assert door.rows[1]["event"]["event_id"] == "event_1"
    assert door.types[-1] == "response.done"


async def test_odd_input_costs_only_itself(door: Door) -> None:
    """Nothing is thrown, and the post can be read."""
    seen = await play(door.url, "hostile")
    assert (seen["sent"], seen["dropped"]) == (3, 11)
    circle, text, late = [row["event"] for row in door.rows]
    assert circle["type"] == "a.b"
    assert (text["lone"], text["pair"], text["text"], text["nan"]) == ("?", "😀", "\\ud800", None)
    assert len(text["big"]) == 65_536
    assert late["lone"] == "?"


async def test_a_page_that_goes_away_hands_over_what_waits(door: Door) -> None:
    """One last request with the events and the end of the call."""
    await play(door.url, "page")
    (post,) = door.stored
    assert post["metadata"] == LINK
    assert post["ended"] is True
    assert [row["event"]["audio_start_ms"] for row in post["events"]] == [1]


async def test_an_app_that_forgets_to_close_posts_what_waits(door: Door) -> None:
    """The process lives until its last events are posted."""
    await play(door.url, "forgotten")
    assert door.types == ["input_audio_buffer.speech_started"]


async def test_a_grafter_that_is_away_keeps_no_process_alive() -> None:
    """The app ends when it is done."""
    seen = await play(f"http://127.0.0.1:{free_port()}", "away")
    assert (seen["sent"], len(seen["warned"])) == (0, 1)
    assert "ECONNREFUSED" in seen["warned"][0]
