"""examples/call as a reader runs it: one command, and the whole tree of the call, written by hand, comes out.

What stands here is the reference call: the ringing phone, the desk over NATS, the media stream, the Realtime session
with its tools, the jobs of after hours, the page over WebRTC, and a call by Telnyx and SIP.
"""

import asyncio
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from tests.e2e.apps import why_no_javascript
from tests.e2e.process import REPO
from tests.e2e.tree import outline
from tests.ports import free_ports

SECONDS = 300.0
EXAMPLE = REPO / "examples" / "call"
PORTS = 30
"""More than the programs of the call listen at."""

DESK = """\
send desk.reception [gateway]
  process desk.reception [desk-reception]
    send desk.language [desk-reception]
      process desk.language [desk-language]
        send desk.caller [desk-language]
          process desk.caller [desk-caller]
            send desk.hours [desk-caller]
              process desk.hours [desk-hours]
                send desk.routing [desk-hours]
                  process desk.routing [desk-routing]
                    send desk.assistant [desk-routing]
                      process desk.assistant [desk-assistant]
"""
TALK = """\
realtime_session gpt-realtime [openai]
  chat gpt-realtime [openai]
    gen_ai.client [media-worker]
    assistant_speech [openai]
  user_speech [openai]
  chat gpt-realtime [openai]
    gen_ai.client [media-worker]
    execute_tool find_patient [openai]
      gen_ai.tool.execute [media-worker]
        POST /records [records]
          SELECT records [records]
    execute_tool check_insurance [openai]
      gen_ai.tool.execute [media-worker]
        POST /insurance [insurance]
          SELECT insurance [insurance]
  chat gpt-realtime [openai] * gen_ai.audio.barge_in heard_by=mark
    gen_ai.client [media-worker]
    assistant_speech [openai]
  user_speech [openai]
  chat gpt-realtime [openai]
    gen_ai.client [media-worker]
    execute_tool book_slot [openai]
      gen_ai.tool.execute [media-worker]
        POST /calendar [calendar]
          SELECT calendar [calendar]
          add after-hours.confirm [calendar]
            process after-hours [after-hours]
              process letters [letters]
                print [letters]
              complete after-hours [after-hours]
  chat gpt-realtime [openai]
    gen_ai.client [media-worker]
    assistant_speech [openai]
  user_speech [openai]
  chat gpt-realtime [openai]
    gen_ai.client [media-worker]
    assistant_speech [openai]
"""
GREETED = """\
realtime_session gpt-realtime [openai]
  chat gpt-realtime [openai]
    gen_ai.client [media-worker]
    assistant_speech [openai]
"""
"""A session whose worker was killed when it had greeted the caller."""
PAGE = """\
webrtc.peer_connection [browser]
  edge [edge]
    POST /sdp [gateway]
      gen_ai.realtime.session [gateway]
        realtime_session gpt-realtime [openai]
          chat gpt-realtime [openai]
            assistant_speech [openai]
"""
TELNYX = """\
callsphere.call [gateway]
  sip.invite [gateway]
    call.bridged [gateway]
    call.answered [gateway]
    gen_ai.realtime.session [gateway]
      realtime_session gpt-realtime [openai]
        chat gpt-realtime [openai]
          assistant_speech [openai]
"""


def under(line: str, *below: str) -> str:
    """A line of a tree, and what hangs under it."""
    return f"{line}\n" + "".join(indent(each, "  ") for each in below)


INVITE = under("sip.invite [gateway]", DESK, "media [media-worker]\n")
PHONE = (INVITE, under("gen_ai.realtime.session [media-worker]", TALK))
ROOT = "callsphere.call [gateway]"


@dataclass
class Span:
    """One as the file exporter wrote it, with the service that it came from."""

    line: str
    span_id: str
    parent: str
    start: int
    children: list["Span"] = field(default_factory=list)

    def text(self) -> str:
        """It and what hangs under it, siblings in the order of their text."""
        return under(self.line, *sorted(child.text() for child in self.children))


def told(event: dict[str, Any]) -> str:
    """An event, and by whose word the caller had heard so much."""
    values = {one["key"]: one["value"] for one in event.get("attributes", ())}
    heard_by = values.get("grafter.audio.heard_by")
    return str(event["name"]) + (f" heard_by={heard_by['stringValue']}" if heard_by else "")


def read(home: Path) -> dict[str, list[Span]]:
    """Every trace that left."""
    traces: dict[str, list[Span]] = {}
    for line in (home / "joined.jsonl").read_text("utf-8").splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            (service,) = (one["value"] for one in resource["resource"]["attributes"] if one["key"] == "service.name")
            for span in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
                events = [told(one) for one in span.get("events", ()) if one["name"].startswith("gen_ai.")]
                text = " * ".join([f"{span['name']} [{service['stringValue']}]", *events])
                made = Span(text, span["spanId"], span.get("parentSpanId", ""), int(span["startTimeUnixNano"]))
                traces.setdefault(span["traceId"], []).append(made)
    return traces


def tree(spans: list[Span]) -> str:
    """The one tree of a trace's spans. Fails where there is no single root, or a parent that did not come."""
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans), "a span came twice"
    (root,) = [span for span in spans if not span.parent]
    for span in spans:
        if span.parent:
            by_id[span.parent].children.append(span)
    return root.text()


def ordered(written: str) -> str:
    """A tree written by hand, siblings in the order of their text."""
    stack: list[tuple[int, Span]] = []
    for number, line in enumerate(outline(written).splitlines()):
        depth = len(line) - len(line.lstrip())
        span = Span(line.strip(), str(number), "", 0)
        while stack and stack[-1][0] >= depth:
            stack.pop()
        if stack:
            stack[-1][1].children.append(span)
            stack.append((depth, span))
        else:
            root = span
            stack.append((depth, span))
    return root.text()


def test_the_readme_shows_these_trees() -> None:
    """What a reader is told comes out is what the other tests hold the programs to."""
    text = (EXAMPLE / "README.md").read_text("utf-8")
    shown = [
        re.sub("[│├└]|─ ", " ", each).replace("◆ ", "") for each in re.findall("```text\n(.*?)```", text, re.DOTALL)
    ]
    assert [ordered(each) for each in shown] == [ordered(under(ROOT, *PHONE, PAGE)), ordered(TELNYX)]


async def play(home: Path, *options: str) -> str:
    """What the command prints."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    package, command = ("bull", "make test") if "--small" in options else ("pm2", "make soak")
    if not (EXAMPLE / "node_modules" / package).is_dir():
        pytest.skip(f"the npm packages of examples/call are not installed: `{command}` fetches them")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLE), "--home", str(home), *options),
        env=os.environ | {"CALL_PORTS": " ".join(map(str, free_ports(PORTS)))},
        cwd=REPO,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(), SECONDS)
    except TimeoutError:
        process.terminate()
        await process.wait()
        raise AssertionError(f"the call was not over in {SECONDS} s") from None
    assert process.returncode == 0, (out.decode(), error.decode()[-4000:])
    return out.decode()


def judged(out: str, home: Path, number: str) -> tuple[str, list[Span]]:
    """What is said of the call of that number, and its trace."""
    (said,) = re.findall(rf"\$ grafter lookup '{re.escape(number)}'\n(.*?)\n\$ grafter", out, re.DOTALL)
    (trace_id,) = re.findall(r"^  trace ([0-9a-f]{32})$", said, re.MULTILINE)
    assert said.startswith("1 call\n")
    return said, read(home)[trace_id]


def assert_told(said: str) -> None:
    """Pasting the number says whose time it was: the tool that the example makes slow."""
    assert re.search(r"completed  from …4037 to …0456\n  turn \d was slow: the caller waited \d+\.\d\d s", said), said
    assert "your tool book_slot" in said
    assert "3 turns, 1 interruption, 0 failed spans" in said


async def test_the_phone_call_is_one_tree(tmp_path: Path) -> None:
    """From the webhook to the last letter: thirteen services in two languages, and OpenAI's session among them."""
    out = await play(tmp_path, "--small")
    said, spans = judged(out, tmp_path, "+1 555 010 4037")
    assert tree(spans) == ordered(under(ROOT, *PHONE))
    assert_told(said)
    # What a library does for itself, and nothing of the call, is outside it.
    others = {span.line for trace in read(tmp_path).values() for span in trace} - {span.line for span in spans}
    assert all("after-hours [after-hours]" in line for line in others), others


def legs() -> tuple[str, ...]:
    """Of a whole call; the page only where there is a browser."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return (PAGE,) if any(map(shutil.which, filter(None, names))) else ()


@pytest.mark.slow
async def test_the_whole_call_is_one_tree(tmp_path: Path) -> None:
    """With the page over WebRTC through a worker at the edge, eight media workers of pm2, and a call by Telnyx."""
    out = await play(tmp_path)
    said, spans = judged(out, tmp_path, "+1 555 010 4037")
    assert tree(spans) == ordered(under(ROOT, *PHONE, *legs()))
    assert_told(said)
    said, spans = judged(out, tmp_path, "+1 555 010 2214")
    assert tree(spans) == ordered(TELNYX)
    assert re.search("^  ids .*telnyx [0-9a-f-]{36}", said, re.MULTILINE), said
    if not legs():
        pytest.skip("no Chromium: the page of the call, and its WebRTC media path, were left out")


@pytest.mark.slow
async def test_a_gateway_that_dies_costs_the_call_nothing(tmp_path: Path) -> None:
    """Killed while the caller talks, and started again: the root is written all the same, and the tree is the same."""
    out = await play(tmp_path, "--kill", "gateway")
    said, spans = judged(out, tmp_path, "+1 555 010 4037")
    assert tree(spans) == ordered(under(ROOT, *PHONE, *legs()))
    assert_told(said)


@pytest.mark.slow
async def test_a_media_worker_that_dies_leaves_one_tree(tmp_path: Path) -> None:
    """Killed when it had greeted the caller. What it had open is lost; what had ended, OpenAI's part and the rest of
    the call, which another of the eight takes over, are one trace."""
    out = await play(tmp_path, "--kill", "media-worker")
    said, spans = judged(out, tmp_path, "+1 555 010 4037")
    dead = under("sip.invite [gateway]", DESK)
    sessions = under("gen_ai.realtime.session [media-worker]", GREETED, TALK)
    assert tree(spans) == ordered(under(ROOT, dead, INVITE, sessions, *legs()))
    assert_told(said)
