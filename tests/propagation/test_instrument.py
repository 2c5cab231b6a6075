"""The one line for an Agents SDK app, in Python and JavaScript: a real SDK, a real grafter, restarted in between."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.apps import why_no_javascript
from tests.e2e.conftest import Start
from tests.e2e.process import Grafter
from tests.e2e.sink import Sink
from tests.e2e.test_restart import EXPORT
from tests.e2e.tree import Node, outline, spans_in
from tests.propagation.apps import APP_DEADLINE, HELPERS, with_packages

HERE = Path(__file__).parent

TREE = """
    call
      invoke_workflow Agent workflow
        invoke_agent Guard
          turn Guard
            chat
"""


def door_of(grafter: Grafter) -> str:
    """The address that a reader of the documents writes."""
    return f"http://{urlsplit(grafter.ingest).netloc}"


@asynccontextmanager
async def app(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """An app that works through the lines of its input."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "OTEL_", "NODE_ENV"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        env=env | {"PYTHONPATH": str(HELPERS)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def asked(process: asyncio.subprocess.Process) -> list[str]:
    """Let the app do its job once; what it printed."""
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    return await said(process)


async def said(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), APP_DEADLINE)).decode().split()


async def ended(process: asyncio.subprocess.Process) -> int:
    """Close its input; how many traces its own processor has seen. Fails unless it ends by itself, and well."""
    assert process.stdin is not None
    process.stdin.close()
    (count,) = await said(process)
    assert await asyncio.wait_for(process.wait(), APP_DEADLINE) == 0
    return int(count)


async def over_a_restart(grafter: Grafter, *commands: Sequence[str]) -> list[list[str]]:
    """What apps printed that ran their agent before grafter was killed, while it was away, and after it was back."""
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(app(*command)) for command in commands]
        calls = [await asked(each) for each in apps]
        await grafter.kill()
        calls += [await asked(each) for each in apps]
        await grafter.start()
        calls += [await asked(each) for each in apps]
        # Its own processor is left alone or replaced, as each app chose.
        assert [(command[-1], await ended(each)) for command, each in zip(commands, apps, strict=True)] == [
            ("replace", 0),
            ("beside", 3),
        ]
    return calls


async def test_a_python_app_loses_nothing_to_a_restart(start: Start, sink: Sink, model: str) -> None:
    """Runs before grafter is killed, while it is away, and after it is back all hang under the app's span that was
    current, though the app named none and never flushed; beside its own processor or in its place."""
    grafter = await start(wait={"for_guest": "20s"})
    program = (sys.executable, str(HERE / "instrumented.py"), grafter.otlp_grpc, door_of(grafter), model)
    calls = await over_a_restart(grafter, (*program, "replace"), (*program, "beside"))
    assert len(calls) == 6
    for (call,) in calls:
        await sink.until_spans(call, spans_in(TREE))
        assert shape(sink.tree(call)) == outline(TREE)


async def test_a_javascript_app_loses_nothing_to_a_restart(
    start: Start, sink: Sink, model: str, tmp_path: Path
) -> None:
    """The same. The app's own spans reach grafter by the test's hand: how they travel is not what is claimed."""
    if reason := why_no_javascript():
        pytest.skip(reason)
    grafter = await start(wait={"for_guest": "20s"})
    with_packages(tmp_path)
    program = ("node", str(shutil.copy(HERE / "instrumented.mjs", tmp_path)), door_of(grafter), model)
    calls = await over_a_restart(grafter, (*program, "replace"), (*program, "beside"))
    assert len(calls) == 6
    async with grpc.aio.insecure_channel(grafter.otlp_grpc) as channel:
        for trace_id, span_id in calls:
            await channel.unary_unary(EXPORT)(root(trace_id, span_id))
    for trace_id, _ in calls:
        await sink.until_spans(trace_id, spans_in(TREE))
        assert shape(sink.tree(trace_id)) == outline(TREE)


def root(trace_id: str, span_id: str) -> bytes:
    """A request with the one span of these ids."""
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(name="call")
    span.trace_id, span.span_id = bytes.fromhex(trace_id), bytes.fromhex(span_id)
    span.start_time_unix_nano, span.end_time_unix_nano = 1, 2
    return request.SerializeToString()


def shape(node: Node, depth: int = 0) -> str:
    """The names, two blanks a level."""
    return "\n".join([f"{'  ' * depth}{node.name}", *(shape(child, depth + 1) for child in node.children)])
