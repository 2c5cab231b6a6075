"""A flood: more than can be taken is refused before it is read, with a hint, and the books hold through it.

What is asserted is counted, or a ratio within one run: how quickly answers come is the machine's.
"""

import asyncio
import json
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.process import REPO, Grafter
from tests.faults.flood import AT_ONCE, CONNECTIONS, PATIENCE_SECONDS, SENDERS, TRACES, Sender


@pytest.mark.parametrize(
    ("kind", "each"),
    [
        pytest.param("grpc", 5, id="grpc, short"),
        pytest.param("grpc", 25, id="grpc", marks=pytest.mark.slow),
        pytest.param("http", 25, id="http", marks=pytest.mark.slow),
    ],
)
async def test_a_flood_is_refused_with_a_hint_and_a_small_sender_is_not_starved(
    tmp_path: Path, kind: str, each: int
) -> None:
    """Each answer of a flood is success or a refusal with a hint; what was taken is stored, and counted once, that of
    senders who gave up too; who sends little beside it fares better."""
    grafter = Grafter(tmp_path, {"otlp_http": {"endpoint": "http://127.0.0.1:1"}}, wait={"after_root": "10m"})
    async with AsyncExitStack() as stack:
        stack.push_async_callback(grafter.close)
        await grafter.start()

        async def opened(number: int, traces: int) -> Sender:
            address = grafter.otlp_grpc if kind == "grpc" else grafter.otlp_http
            return Sender(await stack.enter_async_context(SENDERS[kind](address)), number, traces)

        flood = [await opened(number, TRACES) for number in range(1, CONNECTIONS + 1)]
        hasty = await opened(200, 50)
        small = await opened(201, 5)
        over = asyncio.Event()

        async def beside(one: Sender, seconds: float) -> None:
            while not over.is_set():
                await one.send(seconds)

        def refused() -> bool:
            return any(some.answers["refused"] for some in flood)

        async def flooding(one: Sender) -> None:
            # The first requests of all may be served in time.
            while one.sent < each or not refused():
                await one.send()

        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(beside(small, PATIENCE_SECONDS))
            group.create_task(beside(hasty, 0.05))
            async with asyncio.TaskGroup() as floods:
                for one in flood:
                    for _ in range(AT_ONCE):
                        floods.create_task(flooding(one))
            over.set()

        answers = sum((one.answers for one in flood), Counter[str]())
        assert set(answers) == {"taken", "refused"}
        assert set(small.answers) <= {"taken", "refused"}
        assert set(hasty.answers) <= {"taken", "refused", "gave up"}
        assert small.answers["taken"] / small.sent > answers["taken"] / answers.total()
        async with aiohttp.ClientSession() as http:
            at_least = TRACES * answers["taken"] + 5 * small.answers["taken"] + 50 * hasty.answers["taken"]

            async def is_counted(session: aiohttp.ClientSession) -> bool:
                counters = await grafter.counters(session)
                came = counters["grafter_receiver_accepted_spans_total"] + counters["grafter_recovered_spans_total"]
                return came == counters["grafter_held_spans"]

            await grafter.until(is_counted, "balanced")
            counters = await grafter.counters(http)
            came = counters["grafter_receiver_accepted_spans_total"] + counters["grafter_recovered_spans_total"]
            assert at_least <= came <= at_least + 50 * hasty.answers["gave up"]
            answered = answers.total() + small.sent + hasty.sent
            assert answered - hasty.answers["gave up"] <= counters["grafter_receiver_requests_total"] <= answered


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpc", "http"])
async def test_three_times_what_it_takes_is_answered_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Requests that come three times as fast as they are taken: each is taken or refused with a hint, and who sends
    little beside them is refused no more often. The figures are printed: they are the machine's."""
    grafter = Grafter(tmp_path, {"otlp_http": {"endpoint": "http://127.0.0.1:1"}}, wait={"after_root": "10m"})
    try:
        await grafter.start()
        address = grafter.otlp_grpc if kind == "grpc" else grafter.otlp_http
        command = (sys.executable, "-m", "tests.faults.flood", kind, address)
        sender = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=REPO)
        try:
            out, _ = await asyncio.wait_for(sender.communicate(), PATIENCE_SECONDS)
        finally:
            if sender.returncode is None:
                sender.kill()
                await sender.wait()
        found = json.loads(out)
        with capsys.disabled():
            print("", *found["figures"], sep="\n")
        answers, small = found["answers"], found["small"]
        assert set(answers) == {"taken", "refused"}
        assert set(small) <= {"taken", "refused"}
        assert small["taken"] / sum(small.values()) >= answers["taken"] / sum(answers.values())
    finally:
        await grafter.close()
