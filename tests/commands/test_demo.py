"""``grafter demo``: the whole service, in this process, on free ports."""

import asyncio
import io
import os
import re
import signal
import tempfile
from pathlib import Path

import aiohttp
import pytest

from grafter.commands.demo import demo
from grafter.commands.story import GUEST_SPANS, HOST_SPANS


class Terminal(io.StringIO):
    """Text that somebody waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    def flush(self) -> None:
        self.written.set()


async def test_the_demo_prints_one_tree_of_both_halves() -> None:
    """Every span of the app and of OpenAI stands in one tree, OpenAI's under the session; the exit code is 0."""
    out = io.StringIO()
    assert await demo(keep=False, stream=out) == 0
    text = out.getvalue()
    rows = re.findall(r"^(?:[│├└─ ]*)(?:callsphere|sip|queue|webrtc|gen_ai|POST|◆).*$", text, re.MULTILINE)
    assert len(rows) == HOST_SPANS + GUEST_SPANS
    assert sum("◆" in row for row in rows) == GUEST_SPANS
    session = next(number for number, row in enumerate(rows) if "gen_ai.realtime.session" in row)
    under = next(row for row in rows if "invoke_workflow Clinic line" in row)
    assert rows.index(under) > session
    assert under.index("◆") > rows[session].index("gen_ai")
    assert "Next" in text


async def test_keep_stays_until_a_signal_and_prints_what_else_comes() -> None:
    """With ``keep`` the addresses are printed and work, a further trace is printed, and SIGTERM ends it with 0."""
    out = Terminal()
    running = asyncio.ensure_future(demo(keep=True, stream=out))
    async with asyncio.timeout(60):
        await out.written.wait()
        out.written.clear()
        (url,) = re.findall(r"OTLP/HTTP +(\S+)", out.getvalue())
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
