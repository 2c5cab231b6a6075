"""``grafter demo``: the whole service, in this process, on free ports."""

import asyncio
import io
import os
import re
import signal
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from grafter.commands.demo.agents_call import GUEST_SPANS, AgentsCall
from grafter.commands.demo.command import demo
from grafter.commands.demo.many_calls import BOOKING_SPANS, booking


class Terminal(io.StringIO):
    """Text that somebody waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    def flush(self) -> None:
        self.written.set()


async def test_the_demo_prints_each_call_as_one_tree_of_both_halves() -> None:
    """Every span of the app and of OpenAI stands in one tree, OpenAI's under the session; the exit code is 0."""
    out = io.StringIO()
    assert await demo(keep=False, stream=out) == 0
    text = out.getvalue()
    agents, realtime = (rows_of(tree) for tree in re.split(r"^2\. ", text, flags=re.MULTILINE))
    assert len(agents) == len(AgentsCall(datetime.now(UTC)).host) + GUEST_SPANS
    assert sum("◆" in row for row in agents) == GUEST_SPANS
    assert depth(agents, "invoke_workflow Clinic line") > depth(agents, "gen_ai.realtime.session")

    assert len(realtime) == len(booking(datetime.now(UTC)).host) + BOOKING_SPANS
    assert sum("◆" in row for row in realtime) == BOOKING_SPANS
    assert depth(realtime, "realtime_session gpt-realtime") == depth(realtime, "gen_ai.realtime.session") + 1
    assert depth(realtime, "execute_tool book_slot") == depth(realtime, "chat gpt-realtime") + 1
    answers = [row for row in realtime if "◆ chat" in row]
    assert [re.findall(r"first_token_ms=([\d.]+)", row) for row in answers] == [
        ["370.0"],
        ["410.0"],
        [],
        ["434.0"],
        ["390.0"],
    ]
    assert [re.findall(r"caller_wait_ms=([\d.]+)", row) for row in answers] == [
        [],
        ["910.0"],
        [],
        ["2930.0"],
        ["890.0"],
    ]
    assert ["gen_ai.audio.barge_in" in row for row in answers] == [False, True, False, True, False]
    assert "gen_ai.audio.barge_in(audio.elapsed_ms=1440)" in answers[3]
    assert "Next" in text


def rows_of(text: str) -> list[str]:
    """The lines of a tree."""
    return re.findall(r"^(?:[│├└─ ]*)(?:callsphere|sip|queue|webrtc|gen_ai|POST|◆).*$", text, re.MULTILINE)


def depth(rows: list[str], name: str) -> int:
    """How deep the first span of this name hangs."""
    row = next(row for row in rows if name in row)
    return len(re.match(r"[│├└─ ]*", row)[0]) // 3  # type: ignore[index]  # it always matches


async def test_keep_stays_until_a_signal_and_prints_what_else_comes() -> None:
    """With ``keep`` the addresses are printed and work, a further trace is printed, and SIGTERM ends it with 0."""
    out = Terminal()
    running = asyncio.ensure_future(demo(keep=True, stream=out))
    async with asyncio.timeout(60):
        await out.written.wait()
        out.written.clear()
        (url,) = re.findall(r"OTLP/HTTP +(\S+)", out.getvalue())
        (page,) = re.findall(r"lookup page +(\S+)", out.getvalue())
        span = {
            "traceId": "ab" * 16,
            "spanId": "cd" * 8,
            "name": "mine",
            "startTimeUnixNano": "1",
            "endTimeUnixNano": "2",
        }
        body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
            assert answer.status == 200
        async with aiohttp.ClientSession() as session, session.get(page) as answer:
            assert "Which call was it?" in await answer.text()
        await out.written.wait()
        assert re.search(r"^mine ", out.getvalue(), re.MULTILINE)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0


async def test_a_reachable_failure_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the demo can make no directory it says so in a line and answers 1."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    out = io.StringIO()
    assert await demo(keep=False, stream=out) == 1
    assert out.getvalue().startswith("the demo could not run: ")
    assert out.getvalue().count("\n") == 1
