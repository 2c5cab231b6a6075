"""Twenty calls of every kind, as a clinic's line has them in a day: what the lookup page is tried out with.

Numbers are from the range that is kept free for stories (555-01xx).
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from grafter.commands.demo.host_call import GATEWAY, VOICE
from grafter.commands.demo.script import PlayedCall, Script


def _greeted(caller: str, *, silence_ms: int = 500) -> Script:
    script = Script(caller, silence_ms)
    script.media()
    script.greet()
    return script


def _quick(caller: str) -> Script:
    script = _greeted(caller)
    script.turns(380, 350, 410)
    return script


def _slow_tool(caller: str) -> Script:
    script = _greeted(caller)
    script.say()
    script.answer(410)
    script.say(700)
    script.answer(360)
    script.say(900)
    script.tool("book_slot", 1_660, served=1_580, database=1_440, service="calendar")
    script.answer(410)
    script.say(600)
    script.answer(370)
    return script


def _slow_model(caller: str) -> Script:
    script = _greeted(caller)
    script.turns(420, 2_350, 1_150, 440)
    return script


def _tool_fails(caller: str) -> Script:
    script = _greeted(caller)
    script.say()
    script.tool("book_slot", 620, error=409, service="calendar")
    script.answer(380)
    script.say()
    script.tool("book_slot", 590, error=409, service="calendar")
    script.answer(400)
    return script


def _interrupting(caller: str) -> Script:
    script = _greeted(caller)
    script.say()
    for heard in (740, 1_440, 420, 2_100):
        script.interrupted(heard=heard)
    script.answer(390)
    return script


def _late_media(caller: str) -> Script:
    script = Script(caller)
    script.media(4_320, relay=True)
    script.greet()
    script.turns(400, 380)
    return script


def _after_hours(caller: str) -> Script:
    script = Script(caller)
    script.queue(3_400)
    script.media()
    script.greet()
    script.say()
    script.answer(420)
    return script


def _metadata_missing(caller: str) -> Script:
    script = _quick(caller)
    script.linked = False
    return script


def _no_openai(caller: str) -> Script:
    script = _slow_tool(caller)
    script.guest = False
    return script


def _app_silent(caller: str) -> Script:
    script = _quick(caller)
    script.hosted = False
    return script


def _insurance(caller: str) -> Script:
    script = _greeted(caller)
    script.say()
    script.tool("insurance_check", 760, served=410, service="insurance")
    script.tool("record_lookup", 540, served=500, database=460, service="records")
    script.answer(430)
    script.say()
    script.answer(390)
    return script


def _patient_detector(caller: str) -> Script:
    script = _greeted(caller, silence_ms=1_250)
    script.turns(420, 390)
    return script


def _network(caller: str) -> Script:
    script = _greeted(caller)
    script.say()
    script.tool("record_lookup", 1_900, served=210, service="records")
    script.answer(380)
    return script


def _busy(caller: str) -> Script:
    script = Script(caller, guest=False, outcome="busy")
    script.host[0] = replace(script.host[0], attributes={"sip.status_code": 486})
    return script


def _no_media(caller: str) -> Script:
    script = Script(caller, outcome="failed")
    script.media(5_100, relay=True, failed=True)
    script.greet()
    return script


def _long(caller: str) -> Script:
    script = _greeted(caller)
    for turn in range(48):
        script.say(1_500 + 90 * (turn % 7))
        if turn % 6 == 4:
            script.tool("record_lookup", 300 + 40 * turn, service="records", database=200)
        script.answer(340 + 13 * (turn * 7 % 23), audio=4_000 + 300 * (turn % 5), pause=2_000)
    return script


def _hostile(caller: str) -> Script:
    script = _greeted(caller)
    script.say()
    script.tool("<script>alert(1)</script>", 1_700, service='"><img src=x onerror=alert(1)>')
    script.answer(380)
    script.step("odd", "session", "\u202egnp.exe\u202c", "name " + "x" * 400, 900, 1_400)
    script.step("markup", "session", VOICE, "<b onclick=alert(1)>tool</b>\n\x00\x1b[31m", 1_500, 1_600)
    return script


def _untraced_tool(caller: str) -> Script:
    script = _greeted(caller)
    script.say()
    script.tool("transfer_quote", 2_100, traced=False)
    script.answer(400)
    return script


def _transferred(caller: str) -> Script:
    script = _insurance(caller)
    script.outcome = "transferred"
    script.step("dial", "call", GATEWAY, "sip.refer", script.now, script.now + 840, attributes={"sip.status_code": 202})
    script.now += 900
    return script


def _slow_greeting(caller: str) -> Script:
    script = Script(caller)
    script.media()
    script.step("warm", "session", VOICE, "load_patient_context", 410, 4_700)
    script.now = 4_750
    script.greet(620)
    script.say()
    script.answer(400)
    return script


def _running(caller: str) -> Script:
    script = _quick(caller)
    script.ended = False
    return script


STORIES: tuple[tuple[str, Callable[[str], Script]], ...] = (
    ("quick", _quick),
    ("slow tool", _slow_tool),
    ("slow model", _slow_model),
    ("tool fails", _tool_fails),
    ("interruptions", _interrupting),
    ("late media", _late_media),
    ("after hours", _after_hours),
    ("metadata missing", _metadata_missing),
    ("no openai", _no_openai),
    ("app silent", _app_silent),
    ("two tools", _insurance),
    ("patient detector", _patient_detector),
    ("slow network", _network),
    ("busy", _busy),
    ("media fails", _no_media),
    ("long", _long),
    ("hostile names", _hostile),
    ("untraced tool", _untraced_tool),
    ("transferred", _transferred),
    ("slow greeting", _slow_greeting),
    ("running", _running),
)
"""Name and script of each kind."""


def booking(start: datetime) -> PlayedCall:
    """The second call that ``grafter demo`` prints: the caller asks for a slot and goes on speaking over the first
    answer, the next has to wait for a slow calendar, and the caller interrupts it."""
    script = Script("+15550104711", outcome="booked")
    script.media()
    script.now = 430
    script.greet(350, 1_120)
    script.now = 2_050
    script.say(560)
    # "One moment": the caller goes on speaking over it.
    script.interrupted(390, 200, heard=90, say=490)
    script.tool("book_slot", 1_660, service="calendar")
    script.interrupted(412, 2_400, heard=1_440, say=730)
    script.answer(370, 760)
    script.now = 12_600
    script.say(540)
    return PlayedCall("booking", script, start)


BOOKING_MS = 14_000
BOOKING_SPANS = 15
"""The session, five answers, what was heard of four of them, four times that the caller spoke, and a tool."""


def play(name: str, start: datetime, number: int = 0) -> PlayedCall:
    """The call of a kind, as if the first ring had been at ``start``."""
    make = dict(STORIES)[name]
    return PlayedCall(name, make(f"+1555010{4000 + number * 37 % 1000:04}"[:12]), start)


def all_calls(last: datetime) -> list[PlayedCall]:
    """One of each kind over some hours, the last to begin at ``last``."""
    count = len(STORIES)
    return [play(name, last - timedelta(minutes=11 * (count - 1 - at)), at) for at, (name, _) in enumerate(STORIES)]
