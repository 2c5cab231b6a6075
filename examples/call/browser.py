"""A caller's browser: the call's page in a real Chromium, behind a real worker runtime, over a real TURN server."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from programs import HERE, MODULES, Programs, free_address

PROPAGATION = MODULES / "grafter-propagation"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    return next(
        (path for name in (os.environ.get("CHROMIUM", ""), *NAMES) if name and (path := shutil.which(name))), None
    )


async def turn_server(programs: Programs) -> None:
    """coturn, and its address for the page. Without it the page has candidates of its own machine only."""
    program, at = shutil.which("turnserver"), free_address()
    if program is None:
        print("no TURN (coturn is not installed): the page's media path goes over this machine's own addresses")
        return
    port = at.rpartition(":")[2]
    await programs.start(
        "turn", program, "-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}",
        "--min-port=42300", "--max-port=42400", "--no-tls", "--no-dtls", "--no-cli", "--lt-cred-mech", "--realm=call",
        "--user=caller:secret", "--allow-loopback-peers", "--log-file=stdout", "--pidfile=turn.pid", "--userdb=turn.db",
        at=at,
    )  # fmt: skip
    server = {"urls": f"turn:{at}?transport=udp", "username": "caller", "credential": "secret"}
    programs.settings["ICE_SERVERS"] = json.dumps([server])


async def edge(programs: Programs, at: str) -> None:
    """workerd with the worker and the helpers that it imports."""
    home = Path(tempfile.mkdtemp(dir=programs.home))
    for file in (HERE / "edge_worker.mjs", *(PROPAGATION / name for name in ("context.mjs", "edge.mjs", "webrtc.mjs"))):
        shutil.copy(file, home)
    words = {
        "port": at.rpartition(":")[2],
        "gateway": programs.settings["GATEWAY"],
        "otlp": programs.settings["OTLP_HTTP"],
    }
    text = (HERE / "edge.capnp").read_text("utf-8")
    for word, value in words.items():
        text = text.replace(f"{{{word}}}", value)
    (home / "edge.capnp").write_text(text, "utf-8")
    await programs.start("edge", str(MODULES / ".bin/workerd"), "serve", str(home / "edge.capnp"), at=at)


async def web_call(browser: str, openai: str, edge: str, call: str) -> None:
    """Open the page, hear the answer, leave. The stand-in's end of the connection is another page."""
    from playwright.async_api import async_playwright

    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=browser, args=arguments)
        try:
            peer, page = await running.new_page(), await running.new_page()
            await peer.goto(f"{openai}/peer")
            await page.goto(f"{edge}/join/{call}")
            await page.wait_for_function("document.title === 'heard' && 'leave' in globalThis", timeout=30_000)
            await page.evaluate("leave()")
        finally:
            await running.close()
