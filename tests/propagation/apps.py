"""Runs apps that show a call to grafter, those of the documents among them."""

import asyncio
import os
import re
import shutil
from pathlib import Path
from textwrap import dedent

import pytest

from tests.e2e.apps import JS, why_no_javascript
from tests.e2e.process import REPO

APP_DEADLINE = 120.0
"""Seconds for an app to start and do its job, where the imports alone take some 5 s of a core and it is busy."""
HELPERS = REPO / "propagation" / "python"
JAVASCRIPT = REPO / "propagation" / "js"

_TEXT = (REPO / "docs" / "realtime-tap.md").read_text("utf-8")
BLOCKS = {
    heading: [dedent(block).strip("\n") + "\n" for block in re.findall(r"(?:^(?:    .*)?\n)+", body, re.MULTILINE)]
    for heading, body in (section.split("\n", 1) for section in _TEXT.split("\n## ")[1:])
}
"""The indented blocks of each section of docs/realtime-tap.md."""


def example(heading: str) -> str:
    """The program of a section: its longest block."""
    return max(BLOCKS[heading], key=len)


async def run(*command: str, key: str = "") -> None:
    """Run an app to its end. ``key``: OpenAI's."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "OTEL_", "NODE_ENV"))}
    env |= {"PYTHONPATH": str(HELPERS), "OPENAI_API_KEY": key}
    process = await asyncio.create_subprocess_exec(*command, cwd=REPO, env=env, stderr=asyncio.subprocess.PIPE)
    try:
        _, error = await asyncio.wait_for(process.communicate(), APP_DEADLINE)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"{command[1]} was not done within {APP_DEADLINE} s") from None
    assert process.returncode == 0, error.decode()[-4000:]


def with_packages(directory: Path) -> None:
    """What a directory sees whose app has installed the JavaScript Agents SDK and the helpers."""
    modules = directory / "node_modules"
    modules.mkdir()
    for package in (JS / "node_modules").iterdir():
        (modules / package.name).symlink_to(package)
    (modules / "grafter-propagation").symlink_to(JAVASCRIPT)


def installed(program: str, directory: Path) -> str:
    """A program of this folder, copied to where the packages are; the test is left out where there is no Node."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    with_packages(directory)
    return str(shutil.copy(Path(__file__).parent / program, directory))
