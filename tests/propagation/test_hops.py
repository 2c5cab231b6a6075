"""The pages of docs/hops: each form that fails and each line to add gives the tree that stands under it."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.e2e.process import REPO
from tests.propagation.apps import APP_DEADLINE, HELPERS
from tests.propagation.nats_server import serving
from tests.store.redis.servers import server

PAGES = REPO / "docs" / "hops"
PROGRAM = re.compile(r"^## (.+?)$.*?^```python\n(.*?)^```\n+```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
CASES = [
    pytest.param(page.stem, program, tree, id=f"{page.stem}-{heading.replace(' ', '_')}")
    for page in sorted(PAGES.glob("*.md"))
    for heading, program, tree in PROGRAM.findall(page.read_text("utf-8"))
]


@asynccontextmanager
async def peer(page: str, directory: Path) -> AsyncIterator[str]:
    """The URL of the real server that a page's programs talk to; empty where they need none."""
    async with AsyncExitStack() as stack:
        if page == "nats":
            yield await stack.enter_async_context(serving(directory))
        elif page in {"redis", "bullmq"}:
            yield f"redis://127.0.0.1:{stack.enter_context(server()).port}"
        else:
            yield ""


@pytest.mark.parametrize(("page", "program", "tree"), CASES)
async def test_a_program_of_the_pages_gives_its_tree(page: str, program: str, tree: str, tmp_path: Path) -> None:
    """Run as it stands, in a process of its own."""
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), str(HELPERS)])}
    async with peer(page, tmp_path) as url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).parent / "hop.py"), str(file), url),
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await asyncio.wait_for(process.communicate(), APP_DEADLINE)
    assert process.returncode == 0, error.decode()[-4000:]
    assert out.decode() == tree


def test_every_page_shows_the_form_that_fails_and_the_line_to_add() -> None:
    """And the index names every page."""
    for page in PAGES.glob("*.md"):
        if page.name != "README.md":
            headings = [heading for heading, _, _ in PROGRAM.findall(page.read_text("utf-8"))]
            assert headings[:2] == ["Without it", "The line"], page.name
            assert f"]({page.name})" in (PAGES / "README.md").read_text("utf-8")
