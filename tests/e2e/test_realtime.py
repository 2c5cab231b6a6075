"""Realtime calls against a grafter as a user runs it."""

import asyncio
import json
import re
import shutil
import time
from textwrap import dedent

import aiohttp
import pytest

from tests.e2e.conftest import Start
from tests.e2e.process import REPO
from tests.e2e.sink import Sink
from tests.e2e.tree import Node

TRACE = "0af7651916cd43dd8448eb211c80319c"


def names(node: Node) -> list[object]:
    """A tree as names within names."""
    return [node.name, *map(names, sorted(node.children, key=lambda child: child.name))]


async def test_the_page_does_what_it_says(start: Start, sink: Sink) -> None:
    """The shell lines of docs/realtime.md, against a grafter with other ports, give the tree that they promise."""
    if shutil.which("bash") is None or shutil.which("curl") is None:
        pytest.skip("bash and curl are needed to run the page's lines")
    text = (REPO / "docs" / "realtime.md").read_text("utf-8")
    lines = text[text.index("    now=$(date") : text.index("Ten seconds later")]
    grafter = await start()
    script = dedent(lines).replace("http://localhost:4318", grafter.otlp_http)
    script = script.replace("http://localhost:4319", grafter.ingest.removesuffix("/v1/traces/ingest"))
    process = await asyncio.create_subprocess_exec("bash", "-euc", script, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0
    await sink.until_spans(TRACE, 5)
    assert names(sink.tree(TRACE)) == [
        "call",
        ["realtime_session gpt-realtime", ["chat gpt-realtime", ["assistant_speech"]], ["user_speech"]],
    ]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
async def test_a_call_whose_grafter_died_keeps_its_turns(start: Start, sink: Sink, how: str) -> None:
    """What was answered with 204 comes out after the restart; the call that went on elsewhere was cut off."""
    grafter = await start(wait={"idle": "5s"})
    url = grafter.ingest.replace("/traces/ingest", "/realtime/events")
    now = time.time_ns() / 1e9
    turns = 3

    def event(offset: float, kind: str, **more: object) -> dict[str, object]:
        told = {"type": kind, "event_id": f"event_{kind}_{offset}", **more}
        return {"at": now + offset, "from": "server", "event": told}

    posts: list[dict[str, object]] = [{"call": "rtc_1", "metadata": {"trace_id": TRACE}}]
    posts.append({"call": "rtc_1", "events": [event(0, "session.created", session={"id": "sess_1", "model": "m"})]})
    for number in range(turns):
        response = {"id": f"resp_{number}", "status": "completed"}
        done = [event(number, "response.created", response=response), event(number, "response.done", response=response)]
        posts.append({"call": "rtc_1", "events": done})
    async with aiohttp.ClientSession() as session:
        for post in posts:
            async with session.post(url, data=json.dumps(post)) as answer:
                assert answer.status == 204
    if how == "SIGKILL":
        await grafter.kill()
    else:
        assert await grafter.terminate() == 0, grafter.log()
    assert sink.spans() == []
    await grafter.start()
    await sink.until_spans(TRACE, turns + 1)
    tree = sink.tree(TRACE)
    assert re.fullmatch(r"realtime_session.*", tree.name)
    assert len(tree.children) == turns
    assert tree.attributes["grafter.ended_by"] == "disconnect"
