"""The pages of docs/hops: each form that fails and each line to add gives the tree that stands under it."""

import asyncio
import os
import re
import shutil
import sys
import venv
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.apps import why_no_javascript
from tests.e2e.process import REPO
from tests.propagation import rabbitmq_server
from tests.propagation.apps import APP_DEADLINE, HELPERS, with_packages
from tests.propagation.nats_server import serving
from tests.store.redis.servers import server

PAGES = REPO / "docs" / "hops"
PROGRAM = re.compile(r"^## (.+?)$.*?^```python\n(.*?)^```\n+```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Kafka's need a broker that not every machine has: test_kafka.py.
PYTHON = [page for page in sorted(PAGES.glob("*.md")) if page.stem != "kafka"]
CASES = [
    pytest.param(page.stem, program, tree, id=f"{page.stem}-{heading.replace(' ', '_')}")
    for page in PYTHON
    for heading, program, tree in PROGRAM.findall(page.read_text("utf-8"))
    if not heading.startswith("In ")
]
JAVASCRIPT = {"edge.md", "webrtc.md"}
"""Tried in a browser and in a worker's runtime: test_webrtc_js.py, test_edge_js.py."""
NODE = {
    page.stem: (re.findall(r"^```js\n(.*?)^```", part, re.MULTILINE | re.DOTALL), tree)
    for page in sorted(PAGES.glob("*.md"))
    for part in re.split(r"^## In (?:JavaScript|classic Bull)$", page.read_text("utf-8"), flags=re.MULTILINE)[1:]
    for tree in re.findall(r"^```text\n(.*?)^```", part, re.MULTILINE | re.DOTALL)[:1]
}
"""The programs of a page for Node, the app's last, and what they give."""
LIBRARIES = {
    heading.removeprefix("In "): (page.stem, program, tree)
    for page in PYTHON
    for heading, program, tree in PROGRAM.findall(page.read_text("utf-8"))
    if heading.startswith("In ")
}
AIO_PIKA = ["aio-pika==10.2.1", "opentelemetry-instrumentation-aio-pika==0.66b1", "opentelemetry-sdk==1.45.1"]
"""The last that fit together."""
INSTALLED = {
    "httpx": [
        *("httpx==0.28.1", "starlette", "uvicorn"),
        *("opentelemetry-instrumentation-httpx", "opentelemetry-instrumentation-asgi"),
    ],
    "FastAPI and aiohttp": [
        *("fastapi==0.165.0", "uvicorn", "aiohttp==3.14.5"),
        *("opentelemetry-instrumentation-fastapi", "opentelemetry-instrumentation-aiohttp-client"),
    ],
    "RQ": ["rq==3.0.0"],
    "Dramatiq": ["dramatiq[redis]==2.2.1"],
    "TaskIQ": ["taskiq==0.13.0", "taskiq-redis==1.2.4"],
    "arq": ["arq==0.28.0"],
    "SAQ": ["saq[redis]==0.26.4"],
    "Celery": ["celery[redis]==5.7.0", "opentelemetry-instrumentation-celery==0.66b2"],
    "aio-pika": AIO_PIKA,
    "an iterator of aio-pika": AIO_PIKA,
}
"""Not in the environment of the tests: arq and SAQ want an older redis."""


@asynccontextmanager
async def peer(page: str, directory: Path) -> AsyncIterator[str]:
    """The URL of the real server that a page's programs talk to; empty where they need none."""
    async with AsyncExitStack() as stack:
        if page == "nats":
            yield await stack.enter_async_context(serving(directory))
        elif page == "rabbitmq":
            yield await stack.enter_async_context(rabbitmq_server.serving(directory))
        elif page in {"redis", "bullmq", "jobs"}:
            yield f"redis://127.0.0.1:{stack.enter_context(server()).port}"
        else:
            yield ""


@pytest.mark.parametrize(("page", "program", "tree"), CASES)
async def test_a_program_of_the_pages_gives_its_tree(page: str, program: str, tree: str, tmp_path: Path) -> None:
    """Run as it stands, in a process of its own."""
    async with peer(page, tmp_path) as url:
        assert await traced(sys.executable, program, url, tmp_path) == tree


@pytest.mark.slow
@pytest.mark.parametrize("library", INSTALLED)
async def test_a_library_gives_its_tree(library: str, tmp_path: Path) -> None:
    """The real one, installed for this test, over a real server."""
    if "aio-pika" in library and (reason := rabbitmq_server.why_no_rabbitmq()):
        pytest.skip(reason)
    await asyncio.to_thread(venv.create, tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    pip = [
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "-qq",
        "opentelemetry-sdk",
        *INSTALLED[library],
    ]
    process = await asyncio.create_subprocess_exec(*pip, stderr=asyncio.subprocess.PIPE)
    _, error = await process.communicate()
    if process.returncode:
        pytest.skip(f"pip could not fetch {INSTALLED[library]}: {error.decode()[-300:]}")
    page, program, tree = LIBRARIES[library]
    broker = "rabbitmq" if "aio-pika" in library else "redis"
    async with peer(broker if page == "jobs" else page, tmp_path) as url:
        assert await traced(python, program, url, tmp_path) == tree


@pytest.mark.parametrize("page", NODE)
async def test_a_program_in_javascript_gives_its_tree(page: str, tmp_path: Path) -> None:
    """As it stands, beside a provider."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    (*before, app), tree = NODE[page]
    with_packages(tmp_path)
    with_bull(tmp_path)
    missing = [one for one in imports("\n".join([*before, app])) if not (tmp_path / "node_modules" / one).is_dir()]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: `make test` fetches it")
    shutil.copy(Path(__file__).parent / "printed.mjs", tmp_path)
    for name, text in (("app", app), *(("tracing", text) for text in before)):
        (tmp_path / f"{name}.mjs").write_text(text, encoding="utf-8")
    hooks = ["./printed.mjs", *("./tracing.mjs" for _ in before)]
    async with peer(page, tmp_path) as url:
        process = await asyncio.create_subprocess_exec(
            *("node", *(word for hook in hooks for word in ("--import", hook)), "app.mjs", url),
            cwd=tmp_path,
            env={key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "NODE_"))},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await asyncio.wait_for(process.communicate(), APP_DEADLINE)
    assert process.returncode == 0, error.decode()
    # bullmq-otel also traces what BullMQ does for itself, later and in traces of its own.
    seen = out.decode().partition("close orders [internal]\n")[0] if page == "bullmq" else out.decode()
    assert seen == tree


def with_bull(directory: Path) -> None:
    """Classic Bull, of the example's packages."""
    for package in (REPO / "examples/call/node_modules").glob("*"):
        with suppress(FileExistsError):
            (directory / "node_modules" / package.name).symlink_to(package)


def imports(program: str) -> set[str]:
    """The packages of npm that a program names."""
    return set(re.findall(r"^(?:\} |import .*)from '(?!node:)((?:@[^/']+/)?[^./'][^/']*)", program, re.MULTILINE))


async def traced(python: str, program: str, url: str, directory: Path) -> str:
    """The tree that a program gives in a process of its own."""
    file = directory / "program.py"
    file.write_text(program, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(python, str(Path(__file__).parent / "hop.py"), str(file), url),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), str(HELPERS)])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), APP_DEADLINE)
    assert process.returncode == 0, error.decode()[-4000:]
    return out.decode()


def test_every_page_shows_the_form_that_fails_and_the_line_to_add() -> None:
    """And the index names every page."""
    for page in PAGES.glob("*.md"):
        if page.name != "README.md":
            text = page.read_text("utf-8")
            if page.name in JAVASCRIPT:
                headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
            else:
                headings = [heading for heading, _, _ in PROGRAM.findall(text)]
            assert headings[:2] == ["Without it", "The line"], page.name
            assert f"]({page.name})" in (PAGES / "README.md").read_text("utf-8")
    assert list(LIBRARIES) == list(INSTALLED)
