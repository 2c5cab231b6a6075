"""The examples of docs/realtime-tap.md, run as they stand but for the two addresses."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.e2e.apps import why_no_javascript
from tests.propagation.apps import BLOCKS, example, run, with_packages
from tests.propagation.door import Door, busy
from tests.propagation.realtime_api import Api, calling


@pytest.mark.parametrize("heading", [heading for heading in BLOCKS if heading.startswith(("Python", "From"))])
def test_every_python_example_is_python(heading: str) -> None:
    """A reader may copy it into a file as it stands; it names the tap as it is."""
    assert ast.parse(example(heading)).body


@pytest.mark.parametrize("heading", [heading for heading in BLOCKS if heading.startswith("JavaScript")])
def test_every_javascript_example_is_javascript(heading: str, tmp_path: Path) -> None:
    """The same."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    file = tmp_path / "example.mjs"
    file.write_text(example(heading), encoding="utf-8")
    checked = subprocess.run(["node", "--check", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("heading", "own", "ours"),
    [
        pytest.param(
            "Python: a socket of your own", "wss://api.openai.com/v1/realtime?model=gpt-realtime", "{api}", id="socket"
        ),
        pytest.param(
            "Python: openai-agents", "runner.run()", 'runner.run(model_config={{"url": "{api}"}})', id="agents"
        ),
        pytest.param(
            "JavaScript: @openai/agents",
            "apiKey: process.env.OPENAI_API_KEY",
            "apiKey: process.env.OPENAI_API_KEY, url: '{api}'",
            id="javascript",
        ),
    ],
)
async def test_an_example_shows_its_call(door: Door, heading: str, own: str, ours: str, tmp_path: Path) -> None:
    """Run against a stand-in of OpenAI, it posts what it saw and says that the call has ended."""
    javascript = heading.startswith("JavaScript")
    if javascript and (reason := why_no_javascript()):
        pytest.skip(reason)
    if javascript:
        with_packages(tmp_path)
    async with calling() as api:
        text = example(heading)
        assert own in text
        text = text.replace(own, ours.format(api=api.url)).replace("http://localhost:4319", door.url)
        file = tmp_path / ("example.mjs" if javascript else "example.py")
        file.write_text(text, encoding="utf-8")
        await run("node" if javascript else sys.executable, str(file), key="sk-none")
        assert_told(door, api)


def assert_told(door: Door, api: Api) -> None:
    """What was said and heard, up to where the example ends."""
    server = [row["event"]["event_id"] for row in door.rows if row["from"] == "server"]
    assert server == [event["event_id"] for event in api.said[: len(server)]]
    assert "response.done" in door.types
    assert "response.create" in door.types
    assert door.stored[0]["call"] == "CA0123456789abcdef0123456789abcdef"
    assert door.ended


async def test_the_route_for_browsers_passes_answers_on(door: Door, tmp_path: Path) -> None:
    """A post goes to grafter as it came, and grafter's wish to wait comes back."""
    namespace: dict[str, object] = {"__name__": "example"}
    exec(example("From a browser").replace("http://localhost:4319", door.url), namespace)
    app = namespace["app"]
    assert isinstance(app, web.Application)
    door.script = [busy("7")]
    async with TestClient(TestServer(app)) as client:
        answer = await client.post("/realtime/events", json={"call": "call_1", "events": []})
        assert (answer.status, answer.headers["Retry-After"]) == (503, "7")
        answer = await client.post("/realtime/events", json={"call": "call_1", "events": []})
        assert answer.status == 204
    assert door.stored == [{"call": "call_1", "events": []}]
