"""Runs the two apps that use a real Agents SDK, each as a process of its own."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.e2e.process import REPO, Grafter
from tests.e2e.realtime_server import KEY
from tests.e2e.reference_call import Call

JS = Path(__file__).parent / "js"
APP_DEADLINE = 120.0
HEARD = "I could not refund order 7."


async def python_app(grafter: Grafter, model: str, first: str = "host", otlp: str = "") -> str:
    """Run tests/e2e/agents_app.py to its end; the host's trace id. ``otlp``: where its own spans go instead."""
    arguments = ["--otlp", otlp or grafter.otlp_grpc, "--ingest", grafter.ingest, "--model", model, "--first", first]
    said = json.loads(await _run(sys.executable, "-m", "tests.e2e.agents_app", *arguments))
    assert said["answer"] == HEARD
    return str(said["trace_id"])


async def javascript_app(grafter: Grafter, model: str, trace_id: str) -> None:
    """Run tests/e2e/js/run.mjs to its end. Skips where Node or its packages are not there."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    assert await _run("node", str(JS / "run.mjs"), grafter.ingest, model, trace_id) == HEARD


async def javascript_call(call: Call, url: str) -> None:
    """Run tests/e2e/js/realtime.mjs to its end. Skips where Node or its packages are not there."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    assert await _run("node", str(JS / "realtime.mjs"), url, KEY, call.trace_id) == "[7]"


@cache
def why_no_javascript() -> str:
    """Empty where the JavaScript Agents SDK can run, else what is missing."""
    if shutil.which("node") is None:
        return "node is not installed"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    if int(version.removeprefix("v").split(".")[0] or 0) < 20:
        return f"node 20 or newer is needed, this is {version}"
    if not (JS / "node_modules" / "@openai" / "agents").is_dir():
        return "the npm packages are not installed: `make test` fetches them"
    return ""


async def _run(*command: str) -> str:
    # The JavaScript SDK makes no traces where NODE_ENV is "test"; neither SDK should see settings of this machine.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "OTEL_", "NODE_ENV"))}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=REPO, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), APP_DEADLINE)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"{command[1]} was not done within {APP_DEADLINE} s") from None
    assert process.returncode == 0, err.decode()[-4000:]
    return out.decode().strip()
