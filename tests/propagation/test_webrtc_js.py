"""What a page records of its media path: two peers in a real browser, over a real TURN server where there is one."""

import asyncio
import gzip
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.service import running
from tests.e2e.process import REPO
from tests.ports import free_port
from tests.test_service import Backend, backend, read, settings

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HERE = f"00-{TRACE}-{PARENT}-01"
SECONDS = 60.0
USER, PASSWORD = "caller", "secret"

# Two peers in one page; the second only answers. The sound is an oscillator's: nobody is asked for a microphone.
# Sound and the state of the connection are told apart, in either order.
PAGE = """<!doctype html><title>waiting</title><script type="module">
import { tracePeerConnection } from '/webrtc.mjs';
const { endpoint, config } = await (await fetch('/setting')).json();
const a = new RTCPeerConnection(config), b = new RTCPeerConnection(config);
globalThis.trace = tracePeerConnection(a, { endpoint, traceparent: 'HERE', attributes: { 'call.id': 'c1' } });
globalThis.a = a;
a.addEventListener('icecandidate', ({ candidate }) => candidate && b.addIceCandidate(candidate));
b.addEventListener('icecandidate', ({ candidate }) => candidate && a.addIceCandidate(candidate));
const audio = new AudioContext(), tone = audio.createOscillator();
for (const pc of [a, b]) {
  const into = audio.createMediaStreamDestination();
  tone.connect(into);
  pc.addTrack(into.stream.getTracks()[0], into.stream);
}
tone.start();
Promise.all([
  new Promise((yes) => a.addEventListener('track', ({ track }) => track.addEventListener('unmute', yes))),
  new Promise((yes) => a.addEventListener('connectionstatechange', () => a.connectionState === 'connected' && yes())),
]).then(() => { document.title = 'heard'; });
a.addEventListener('icecandidateerror', ({ errorCode }) => { if (errorCode === 401) document.title = 'refused'; });
await a.setLocalDescription();
await b.setRemoteDescription(a.localDescription);
await b.setLocalDescription();
await a.setRemoteDescription(b.localDescription);
</script>""".replace("HERE", HERE)


def chromium() -> str:
    """Where the browser is; without one the test says so."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium: what a browser records of a call's media path was not tried")
    return found


@asynccontextmanager
async def turn_server(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of coturn; skipped, and said so, where it is not installed."""
    program = shutil.which("turnserver")
    if program is None:
        pytest.skip("no turnserver (coturn): TURN was not tried, only candidates of the host were")
    port = free_port()
    low = 42_000
    process = await asyncio.create_subprocess_exec(
        *(program, "-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", f"--listening-port={port}"),
        *(f"--min-port={low}", f"--max-port={low + 200}", "--no-tls", "--no-dtls", "--no-cli", "--lt-cred-mech"),
        *(f"--user={USER}:{PASSWORD}", "--realm=test", "--allow-loopback-peers", "--log-file=stdout"),
        *(f"--pidfile={tmp_path / 'pid'}", f"--userdb={tmp_path / 'db'}"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield f"turn:127.0.0.1:{port}?transport=udp"
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def page_of(setting: dict[str, Any]) -> AsyncIterator[str]:
    """The origin that serves the page, its settings, and the helper as it is."""
    app = web.Application()

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def helper(_: web.Request) -> web.FileResponse:
        return web.FileResponse(REPO / "propagation/js/webrtc.mjs", headers={"Content-Type": "text/javascript"})

    async def settings_of(_: web.Request) -> web.Response:
        return web.json_response(setting)

    app.router.add_get("/", page)
    app.router.add_get("/webrtc.mjs", helper)
    app.router.add_get("/setting", settings_of)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def visit(tmp_path: Path, config: dict[str, Any], title: str, leave: str) -> tuple[Span, Backend]:
    """Open the page, wait for its title, leave it so, and wait for the span at the backend."""
    playwright = pytest.importorskip("playwright.async_api")
    program = chromium()
    setting: dict[str, Any] = {"config": config}
    async with backend() as out, page_of(setting) as origin:
        sections = settings(tmp_path, {"otlp_http": {"endpoint": out.url}})
        sections["receivers"]["otlp"]["protocols"]["http"]["cors"] = {"allowed_origins": [origin]}
        sections["processors"]["graft"]["wait"]["local_root"] = "50ms"
        sections["processors"]["graft"]["wait"]["idle"] = "50ms"
        async with running(read(tmp_path, sections)) as served, playwright.async_playwright() as browsers:
            setting["endpoint"] = f"http://127.0.0.1:{served.ports['otlp_http']}"
            browser = await browsers.chromium.launch(
                executable_path=program,
                args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
            )
            try:
                tab = await browser.new_page()
                await tab.goto(origin)
                await tab.wait_for_function(f"document.title === '{title}'", timeout=SECONDS * 1000)
                # What the helper asked when the connection stood is answered before this is.
                await tab.evaluate("a.getStats().then(() => true)")
                if leave == "page":
                    await tab.close(run_before_unload=True)
                else:
                    await tab.evaluate(leave)
                await out.spans(1)
            finally:
                await browser.close()
    ((span, _service),) = out.peer.spans
    return span, out


def named(span: Span) -> list[str]:
    """Its events, with the state or the type of each."""
    found = []
    for event in span.events:
        more = {one.key: one.value.string_value for one in event.attributes}
        found.append(f"{event.name} {more.get('state') or more.get('type') or ''}".strip())
    return found


def numbers(span: Span) -> dict[str, float]:
    return {one.key: one.value.double_value for one in span.attributes if one.value.HasField("double_value")}


def words(span: Span) -> dict[str, str]:
    return {one.key: one.value.string_value for one in span.attributes if one.value.HasField("string_value")}


@pytest.mark.parametrize(("leave", "ended_by"), [("a.close()", "close"), ("trace.end()", "end"), ("page", "pagehide")])
async def test_a_page_tells_of_its_media_path(tmp_path: Path, leave: str, ended_by: str) -> None:
    """One span under the page's place, whichever way the page ends, with the way of its media and no address in it."""
    span, _ = await visit(tmp_path, {}, "heard", leave)
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("webrtc.peer_connection", TRACE, PARENT)
    events = named(span)
    for one in (
        "webrtc.ice_gathering_state gathering",
        "webrtc.ice_candidate host",
        "webrtc.connection_state connected",
        "webrtc.candidate_pair",
        "webrtc.media",
    ):
        assert one in events, events
    assert events.index("webrtc.ice_gathering_state gathering") < events.index("webrtc.connection_state connected")
    length = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
    assert 0 < numbers(span)["webrtc.connected_ms"] < length
    assert 0 < numbers(span)["webrtc.media_ms"] < length
    assert words(span) == {"call.id": "c1", "webrtc.ended_by": ended_by}
    times = [event.time_unix_nano for event in span.events]
    assert times == sorted(times)
    assert span.start_time_unix_nano <= times[0]
    assert times[-1] <= span.end_time_unix_nano
    assert not re.search(rb"\d+\.\d+\.\d+\.\d+|\.local", span.SerializeToString())


async def test_turn_and_its_time_are_told_apart(tmp_path: Path) -> None:
    """Only relayed: the pair says so, and how long TURN took from the beginning of gathering."""
    async with turn_server(tmp_path) as url:
        server = {"urls": url, "username": USER, "credential": PASSWORD}
        config = {"iceServers": [server], "iceTransportPolicy": "relay"}
        span, _ = await visit(tmp_path, config, "heard", "a.close()")
    assert "webrtc.ice_candidate relay" in named(span)
    assert "webrtc.ice_candidate host" not in named(span)
    assert 0 < numbers(span)["webrtc.turn_ms"] < numbers(span)["webrtc.connected_ms"]
    (pair,) = [event for event in span.events if event.name == "webrtc.candidate_pair"]
    said = {one.key: one.value.string_value for one in pair.attributes if one.value.HasField("string_value")}
    assert (said["local"], said["relay_protocol"]) == ("relay", "udp")


async def test_a_turn_server_that_refuses_is_said(tmp_path: Path) -> None:
    """A wrong password is an event with its code, and the address of the server."""
    async with turn_server(tmp_path) as url:
        server = {"urls": url, "username": USER, "credential": "wrong"}
        config = {"iceServers": [server], "iceTransportPolicy": "relay"}
        span, _ = await visit(tmp_path, config, "refused", "trace.end()")
    errors = [event for event in span.events if event.name == "webrtc.ice_candidate_error"]
    said = [{one.key: one.value.double_value or one.value.string_value for one in error.attributes} for error in errors]
    assert (401, url) in [(one.get("code"), one.get("url")) for one in said]
    assert "webrtc.turn_ms" not in numbers(span)


def test_it_is_small() -> None:
    """A page can afford it: under 3 kB as a server sends it."""
    assert len(gzip.compress((REPO / "propagation/js/webrtc.mjs").read_bytes(), 9)) < 3000
