"""Calls of LiveKit and Pipecat, as those packages wrote them, through a grafter that runs and onto its page."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.web.test_page_browser import AXE
from tests.web.test_page_real import grafter, shown

DATA = Path(__file__).parent.parent / "data"
PIPECAT = "CA1e2d3c4b5a69788796a5b4c3d2e1f001"
LIVEKIT = "SCL_Vx7c2k9QmT4d"
TAPPED = "RM_tapped_room"

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def requests() -> Iterator[tuple[bytes, str]]:
    """A LiveKit agent's session, a Pipecat conversation, and a LiveKit session whose events were tapped too."""
    for name in ("livekit_agents_1.8.9", "pipecat_1.14.0"):
        yield (DATA / "otlp" / f"{name}.pb").read_bytes(), "application/x-protobuf"
    tapped = json.loads((DATA / "livekit" / "host.json").read_text())
    spans = [span for each in tapped["resourceSpans"] for scope in each["scopeSpans"] for span in scope["spans"]]
    root = next(span for span in spans if not span.get("parentSpanId"))
    root["attributes"] = [*root.get("attributes", []), {"key": "lk.room_sid", "value": {"stringValue": TAPPED}}]
    yield json.dumps(tapped).encode(), "application/json"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page that has the three calls."""
    ready: dict[str, Any] = {}
    up = threading.Event()

    async def serve() -> None:
        ready["loop"], ready["stop"] = asyncio.get_running_loop(), asyncio.Event()
        async with grafter(tmp_path_factory.mktemp("frameworks")) as (doors, session, address):
            events = (DATA / "livekit" / "guest.ndjson").read_bytes()
            url = f"http://127.0.0.1:{doors.ports['openai']}/v1/realtime/events"
            async with session.post(url, data=events, headers={"Content-Type": "application/x-ndjson"}) as answer:
                assert answer.status == 204
            for request, kind in requests():
                url = f"http://127.0.0.1:{doors.ports['otlp_http']}/v1/traces"
                headers = {"Content-Type": kind}
                async with session.post(url, data=request, headers=headers) as answer:
                    assert answer.status == 200
            await shown(session, address, lambda text: len(set(re.findall(r'/calls/([a-z2-7]{20})"', text))) == 3)
            ready["address"] = address
            up.set()
            await ready["stop"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert up.wait(90)
    yield ready["address"]
    ready["loop"].call_soon_threadsafe(ready["stop"].set)
    thread.join(60)


def opened(browser: Any, page: str, text: str) -> Any:
    """The page of the call of this id, in a tab as narrow as a phone."""
    context = browser.new_context(bypass_csp=True, viewport={"width": 390, "height": 844})
    tab = context.new_page()
    tab.goto(page)
    tab.get_by_label("Phone number, call id or trace id").fill(text)
    tab.get_by_role("button", name="Look up").click()
    tab.wait_for_selector(".verdict")
    return tab


def what(tab: Any) -> dict[str, str]:
    """By span: what the page says that it is."""
    pairs = tab.eval_on_selector_all(
        "table.fall tbody tr",
        """all => all.map(one => [one.querySelector('a.row').innerText,
            one.querySelector('td.what').textContent.trim().replace(/^.\\s+/, '')])""",
    )
    return dict(pairs)


def test_a_livekit_agent(page: str, browser: Any) -> None:
    """Its own session and turns are the app's; the request to a model that is not OpenAI's is not called OpenAI."""
    tab = opened(browser, page, LIVEKIT)
    kinds = what(tab)
    assert (kinds["agent_session"], kinds["agent_turn"], kinds["llm_request"]) == ("app", "app", "app")
    assert kinds["agent_speaking"] == "media"
    assert "What LiveKit's own spans measured is all there is of the model" in tab.locator("ul.missing").inner_text()
    assert LIVEKIT in tab.locator("dl.ids").inner_text()
    tab.context.close()


def test_a_pipecat_conversation(page: str, browser: Any) -> None:
    """Found by Twilio's id, which its conversation has; what it lacks is told in Pipecat's words."""
    tab = opened(browser, page, PIPECAT)
    assert what(tab) == {"conversation": "phone line", "turn": "app"}
    assert "What Pipecat's own spans measured" in tab.locator("ul.missing").inner_text()
    tab.context.close()


def test_a_livekit_session_that_was_tapped(page: str, browser: Any) -> None:
    """Joined with its Realtime session: whose time each wait was."""
    tab = opened(browser, page, TAPPED)
    assert "OpenAI" in what(tab).values()
    assert tab.locator("table.turns tbody tr").count() >= 1
    tab.context.close()


@pytest.mark.parametrize("text", [LIVEKIT, PIPECAT, TAPPED])
def test_axe_finds_nothing_and_nothing_is_cut(page: str, browser: Any, text: str) -> None:
    """On a phone's width."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (npm ci in tests/e2e/js)")
    tab = opened(browser, page, text)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.evaluate("[...document.querySelectorAll('.scroll')].every(one => one.scrollWidth <= one.clientWidth)")
    tab.add_script_tag(path=str(AXE))
    found = tab.evaluate("axe.run(document)")
    tab.context.close()
    assert [(one["id"], one["nodes"][0]["html"][:160]) for one in found["violations"]] == []
