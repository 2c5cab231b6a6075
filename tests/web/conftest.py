"""The page over calls in memory, and a browser for those tests that need one."""

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from grafter.receiver.http_server import serving
from grafter.web.access import Access
from grafter.web.app import page_app
from tests.web.double import LAST, MemoryCalls, memory_calls

LINKS = {
    "OpenAI": "https://platform.openai.com/logs/trace?trace_id={openai_trace_id}",
    "Twilio": "https://www.twilio.com/console/voice/calls/logs/{call_sid}",
    "Honeycomb": "https://ui.honeycomb.io/t/environments/e/trace?trace_id={trace_id}&trace_start_ts={start}&trace_end_ts={end}",
    "Jaeger": "http://localhost:16686/trace/{trace_id}",
}


def now() -> int:
    """A minute and a half after the last call began."""
    return round(LAST.timestamp()) * 10**9 + 90 * 10**9


@dataclass(frozen=True)
class Served:
    """A page that runs, and what is behind it."""

    address: str
    calls: MemoryCalls

    def call(self, name: str) -> str:
        """The address of the call of this story."""
        return f"{self.address}/calls/{self.calls.names[name]}"


@pytest.fixture(scope="session")
def calls() -> MemoryCalls:
    """Every kind of call, joined once; a test that changes it copies it."""
    return asyncio.run(memory_calls())


@pytest.fixture(scope="session")
def served(calls: MemoryCalls) -> Iterator[Served]:
    """The page on a port and a thread of its own, since a browser's tests block."""
    ready: dict[str, Any] = {}
    up = threading.Event()

    async def serve() -> None:
        ready["loop"], ready["stop"] = asyncio.get_running_loop(), asyncio.Event()
        app = page_app(calls, Access(), LINKS, "0", now=now)
        async with serving(app, "127.0.0.1:0", None, 1.0) as (_, port):
            ready["port"] = port
            up.set()
            await ready["stop"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert up.wait(30)
    yield Served(f"http://localhost:{ready['port']}", calls)
    ready["loop"].call_soon_threadsafe(ready["stop"].set)
    thread.join(60)


def chromium() -> str | None:
    """The system's Chromium, or what CHROMIUM names."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system. While it is there no other loop can run in this thread, so it ends with the
    file that asked for it."""
    api = pytest.importorskip("playwright.sync_api", reason="the page's tests in a browser need playwright")
    path = chromium()
    if path is None:
        pytest.skip(
            "no Chromium: the page's tests in a browser did not run (apt-get install chromium, or set CHROMIUM)"
        )
    with api.sync_playwright() as playwright:
        # A container has no user namespaces; the pages are grafter's own.
        one = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield one
        one.close()
