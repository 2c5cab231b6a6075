"""The processor for @openai/agents in Node, with the real SDK, against a door that answers by script."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.apps import why_no_javascript
from tests.propagation.apps import with_packages
from tests.propagation.door import Door, busy

SCENES = Path(__file__).parent / "agents_sdk.mjs"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The scenes where the packages are installed."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    with_packages(tmp_path)
    return Path(shutil.copy(SCENES, tmp_path))


async def play(program: Path, door: Door, scene: str) -> tuple[Any, list[str]]:
    """What the app saw of a scene, and its warnings."""
    process = await asyncio.create_subprocess_exec(
        "node", str(program), door.url, scene, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(), 60)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"the scene {scene} did not end") from None
    assert process.returncode == 0, error.decode()
    return json.loads(out), error.decode().splitlines()


async def test_a_trace_and_its_spans_arrive_as_the_sdk_writes_them(program: Path, ingest: Door) -> None:
    """The trace first, then its span, under the token; what comes after the end is only counted."""
    seen, warned = await play(program, ingest, "whole")
    assert (seen, warned) == ({"sent": 2, "dropped": 2, "pending": 0}, [])
    made, span = ingest.items
    assert (made["object"], made["workflow_name"], made["group_id"]) == ("trace", "Support call", "conv_42")
    assert made["metadata"] == {"customer": "c_1"}
    assert (span["object"], span["trace_id"], span["span_data"]["name"]) == ("trace.span", made["id"], "step")
    assert ingest.headers[0]["OpenAI-Beta"] == "traces=v1"
    assert ingest.headers[0]["Authorization"] == "Bearer secret"


async def test_a_trace_gets_the_ids_of_the_active_span_unless_it_names_some(program: Path, ingest: Door) -> None:
    """The span of a real OpenTelemetry context; the object that the app gave stays as it is."""
    seen, _ = await play(program, ingest, "link")
    ids = {"trace_id": seen["span"]["traceId"], "span_id": seen["span"]["spanId"]}
    ids["traceparent"] = f"00-{ids['trace_id']}-{ids['span_id']}-01"
    named = [{"trace_id": "a" * 32}, {"traceparent": "theirs"}]
    assert [item["metadata"] for item in ingest.items] == [{"customer": "c_1", **ids}, ids, *named, {}]
    assert (seen["given"], seen["outside"]) == ({"customer": "c_1"}, {})


async def test_it_goes_on_trying_where_the_sdk_gives_up(program: Path, ingest: Door) -> None:
    """Four refusals, then everything is stored, once."""
    ingest.script = [busy("0") for _ in range(4)]
    seen, warned = await play(program, ingest, "refused")
    assert seen == {"sent": 4, "dropped": 0, "pending": 0}
    assert sorted(item["object"] for item in ingest.items) == ["trace", "trace", "trace.span", "trace.span"]
    assert warned == ["traces wait for grafter: HTTP 503"]


async def test_what_is_refused_is_dropped(program: Path, ingest: Door) -> None:
    """A wrong token does not fill the queue, and is said once."""
    ingest.script = [web.Response(status=401) for _ in range(4)]
    seen, warned = await play(program, ingest, "refused")
    assert (seen, warned) == (
        {"sent": 0, "dropped": 4, "pending": 0},
        ["grafter refuses traces: HTTP 401"],
    )


async def test_the_queue_is_bounded_and_traces_go_last(program: Path, ingest: Door) -> None:
    """Of a hundred spans the newest are kept, and their trace."""
    seen, _ = await play(program, ingest, "bounded")
    assert seen == {"sent": 10, "dropped": 91, "pending": 0}
    assert [item["object"] for item in ingest.items] == ["trace", *["trace.span"] * 9]


async def test_the_app_is_never_held_up(program: Path, ingest: Door) -> None:
    """A door that takes a post and never answers: flushing and the end return when their times are over."""
    ingest.script = [None] * 10
    seen, warned = await play(program, ingest, "hanging")
    assert (seen["sent"], seen["pending"]) == (0, 0)
    assert any("were lost" in line for line in warned)


async def test_flushing_holds_up_no_job_while_grafter_is_away(program: Path, ingest: Door) -> None:
    """It tries once, at once, and what could not be given goes on waiting."""
    seen, _ = await play(program, ingest, "away")
    assert seen == {"sent": 0, "dropped": 0, "pending": 6}


async def test_a_key_of_a_trace_is_used_for_it_alone(program: Path, ingest: Door) -> None:
    """As the SDK's exporter does."""
    await play(program, ingest, "keys")
    assert [headers["Authorization"] for headers in ingest.headers] == ["Bearer theirs", "Bearer ours"]


async def test_odd_values_cost_only_themselves(program: Path, ingest: Door) -> None:
    """NaN, half a character, a circle: the post can be read."""
    seen, _ = await play(program, ingest, "odd")
    values = [item["span_data"]["data"]["value"] for item in ingest.items if item["object"] == "trace.span"]
    assert values == [None, "?", "😀"]
    assert seen == {"sent": 7, "dropped": 1, "pending": 0}


async def test_an_app_that_just_ends_posts_what_waits(program: Path, ingest: Door) -> None:
    """Though another processor uses up the time that the SDK gives to them all."""
    await play(program, ingest, "forgotten")
    assert sorted(item["object"] for item in ingest.items) == ["trace", "trace.span"]


async def test_wrong_settings_are_said_at_the_start(program: Path, ingest: Door) -> None:
    """An address that is none, a token that no header can carry; a provider that is handed in is taken."""
    assert (await play(program, ingest, "wrong"))[0] == ["TypeError", "TypeError", None]
