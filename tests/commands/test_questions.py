"""The questions that one look must answer, by command: from a phone number, against a grafter that runs."""

import io
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from grafter.commands.lookup import lookup, trace
from grafter.components import Config
from tests.web.test_page_real import grafter, played, shown

NAMES = ("slow tool", "two tools", "late media", "interruptions", "tool fails", "quick", "metadata missing")
KEEP_ERRORS = {"tail_sampling": {"regret": "0s", "policies": [{"type": "error"}, {"type": "drop"}]}}
Said = Callable[..., Awaitable[int]]


async def said(ask: Callable[..., Awaitable[int]], config: Config, asked: object) -> str:
    out, err = io.StringIO(), io.StringIO()
    assert await ask(asked, config, as_json=False, out=out, err=err) == 0, err.getvalue()
    return out.getvalue()


async def test_seven_questions(tmp_path: Path) -> None:
    """Each within one command, or one after the other: which call, whose time, which answer's tool, the media path,
    interruptions, sampling, and what of it did not come."""
    calls = {call.name: call for call in played(*NAMES)}
    async with grafter(tmp_path / "all") as (doors, session, page):
        await doors.calls(calls.values())
        await shown(session, page, lambda text: all(f"•••• {one.script.caller[-4:]}" in text for one in calls.values()))
        endpoint = {"receivers": {"openai": {"endpoint": f"127.0.0.1:{doors.ports['openai']}"}}}
        config = Config.model_validate({**endpoint, "extensions": {"calls": {}}})

        def number(name: str) -> str:
            return calls[name].script.caller

        # 1. Which call was it, and where is its trace.
        found = await said(lookup, config, {"text": number("slow tool")})
        assert found.startswith("1 call\n")
        assert f"trace {calls['slow tool'].host.trace_id.hex()}" in found
        # 2. Whose time was the slow answer.
        assert "turn 3 was slow: the caller waited 2.93 s; 1.68 s of it was your tools" in found
        assert "0.50 the voice detector, 0.75 the model in two answers, 1.68 your tool book_slot" in found
        # 3. Which tool belongs to which answer.
        tree = (await said(trace, config, number("two tools"))).splitlines()
        tool = next(at for at, line in enumerate(tree) if "execute_tool record_lookup" in line)
        answer = next(line for line in reversed(tree[:tool]) if "chat gpt-realtime" in line)
        assert tree[tool].index("execute_tool") == answer.index("chat") + 3
        # 4. Was it the media path.
        late = await said(trace, config, number("late media"))
        assert re.search(r"media   \+\d+\.\d{3} s  turn\.allocation  turn\.server=turn-eu-2", late)
        # 5. Was the caller talked over, and how much was heard.
        cut = await said(trace, config, number("interruptions"))
        assert "4 interruptions" in cut
        assert [int(ms) for ms in re.findall(r"barge_in\(audio\.elapsed_ms=(\d+)\)", cut)] == [740, 1440, 420, 2100]
        # 7. Does the trace survive: what did not come is named.
        missing = await said(lookup, config, {"text": number("metadata missing")})
        assert "missing: an OpenAI session was expected, and nothing of it came" in missing
    # 6. Was it sampled away, and why.
    async with grafter(tmp_path / "some", KEEP_ERRORS) as (doors, session, page):
        await doors.calls([calls["tool fails"], calls["quick"]])
        both = [calls[name].script.caller[-4:] for name in ("tool fails", "quick")]
        await shown(session, page, lambda text: all(f"•••• {one}" in text for one in both))
        endpoint = {"receivers": {"openai": {"endpoint": f"127.0.0.1:{doors.ports['openai']}"}}}
        config = Config.model_validate({**endpoint, "extensions": {"calls": {}}})
        assert "kept by error" in await said(lookup, config, {"text": calls["tool fails"].script.caller})
        assert "its spans were sampled away by drop" in await said(
            lookup, config, {"text": calls["quick"].script.caller}
        )
