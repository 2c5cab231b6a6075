"""The reference call, with one command: ``python examples/call`` (``make example`` sets everything up before).

Starts every program of the call, each a process of its own, plays the call, looks it up by the caller's number, and
prints the one trace that came out of it.
"""

import argparse
import asyncio
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import aiohttp
from browser import chromium, web_call
from carrier_telnyx import Telnyx
from carrier_twilio import Twilio
from phone import Phone, Tick, maria
from programs import HERE, MODULES, Programs, calls_database
from starting import start

from grafter_propagation import call_context

CALLER, CLINIC, TELNYX_CALLER = "+1 555 010 4037", "+1 555 010 0456", "+1 555 010 2214"


async def phone_call(programs: Programs, session: aiohttp.ClientSession, gateway: str, kill: str) -> Twilio:
    """Maria's call by Twilio, up to where she hangs up. ``kill``: what dies when she has heard the greeting."""
    call = Twilio(session, gateway, "CA" + secrets.token_hex(16), CALLER, CLINIC)
    killed: list[asyncio.Future[None]] = []

    def caller(phone: Phone) -> Tick:
        yield from phone.until(lambda phone: phone.answers == 1)
        if kill and not killed:
            yield from phone.wait(600)
            killed.append(asyncio.ensure_future(kill_one(programs, kill, call.form["CallSid"])))
        yield from maria(phone)

    await call.talk(caller)
    await asyncio.gather(*killed)
    return call


async def kill_one(programs: Programs, name: str, sid: str) -> None:
    """SIGKILL, and another in its place. Of the media workers it is the one that has the call, and pm2 replaces it."""
    if name == "media-worker":
        os.kill(int(re.findall(rf"(\d+) answers {sid}", programs.log(name))[-1]), signal.SIGKILL)
    else:
        await programs.kill(name)


async def shown(home: Path, programs: Programs, number: str, trace_id: str) -> None:
    """Wait until the trace has left grafter, then paste the number."""
    joined = home / "joined.jsonl"
    async with asyncio.timeout(60):
        # A file has no event to wait for.
        while not joined.exists() or trace_id not in joined.read_text("utf-8"):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    commands = ("lookup", number), ("trace", trace_id)
    for (name, about), said in zip(
        commands, await asyncio.gather(*(asked(programs, *one) for one in commands)), strict=True
    ):
        print(f"\n$ grafter {name} {about!r}\n{said}", end="", flush=True)


async def asked(programs: Programs, command: str, about: str) -> str:
    """What a command of grafter's answers."""
    words = sys.executable, "-m", "grafter", command, about, "--config", str(HERE / "grafter.yaml")
    env, pipe = os.environ | programs.settings, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, env=env, stdout=pipe)
    out, _ = await process.communicate()
    return out.decode()


async def main(home: Path, kill: str, small: bool, keep: bool) -> None:
    with calls_database(home, small) as database:
        async with Programs(home) as programs, aiohttp.ClientSession() as session:
            url = await start(programs, database, small)
            print(f"{len(programs.running)} programs run; their logs are in {home}", flush=True)
            call = await phone_call(programs, session, url["GATEWAY"], kill)
            sid = call.form["CallSid"]
            if not small and (browser := chromium()):
                await web_call(browser, url["OPENAI"], url["EDGE"], sid)
            elif not small:
                print("no Chromium: the page, and with it the WebRTC media path, is left out")
            await call.over()
            await shown(home, programs, CALLER, call_context(sid).trace_id)
            if not small:
                telnyx = Telnyx(session, url, TELNYX_CALLER, CLINIC)
                await telnyx.play()
                await shown(home, programs, TELNYX_CALLER, call_context(telnyx.session_id).trace_id)
            if keep:
                print(f"\nStill running: paste {CALLER} at {url['LOOKUP']}; Ctrl-C ends it.", flush=True)
                await asyncio.Event().wait()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--kill", default="", choices=("media-worker", "gateway"), help="kill it in the middle of the call"
    )
    options.add_argument("--small", action="store_true", help="the phone call alone: no page, Telnyx, Postgres or pm2")
    options.add_argument("--keep", action="store_true", help="stay, with the lookup page, until Ctrl-C")
    options.add_argument("--home", type=Path, help="an empty directory for logs and data; a temporary one is removed")
    given = options.parse_args()
    if given.small and given.kill:
        options.error("--kill needs the whole call: it is pm2 that starts a media worker again")
    if shutil.which("node") is None or not (MODULES / ("bullmq" if given.small else "pm2")).is_dir():
        sys.exit("half of the call runs in Node: it needs Node 20 or newer, and what `npm ci` fetches in examples/call")
    with tempfile.TemporaryDirectory(prefix="grafter-call-") as temporary, suppress(KeyboardInterrupt):
        asyncio.run(main(given.home or Path(temporary), given.kill, given.small, given.keep))
