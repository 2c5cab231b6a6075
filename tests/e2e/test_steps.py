"""Real instrumentations beside a real run of the Agents SDK: each step stands once, tokens sum up to the truth."""

import asyncio
import base64
import json
import os
import sys
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.core.policy import GraftPolicy, Tools
from tests.checker import Call, check
from tests.e2e.process import REPO
from tests.rig import DATA, Peer, rig

Said = dict[str, Any]
COLUMNS = (
    ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"),
    ("llm.token_count.prompt", "llm.token_count.completion"),
)
MODEL_CALLS = 3
RECORDED = ("logfire", "logfire-agents", "openllmetry", "openllmetry-agents")
"""Of these tests/data/instrumentations has what the app said."""
UNTOLD = (("openai-v2", "responses"), ("openllmetry-agents", "chat_completions"))
"""The first writes no spans of the Responses API; those of the second have neither ids nor counts, so nobody can say
which call is which."""


_SAID: dict[str, dict[str, Said]] = {}


async def app(kind: str, api: str, model: str) -> Said:
    """What tests/e2e/instrumented_app.py said; run once for each kind, for what it says is no test's to change."""
    if kind not in _SAID:
        _SAID[kind] = await run_app(kind, model)
    return _SAID[kind][api]


async def run_app(kind: str, model: str) -> dict[str, Said]:
    """Run it to its end, or take what it said when it was recorded."""
    if kind in RECORDED:
        apis = ("responses", "chat_completions")
        return {api: json.loads((DATA / "instrumentations" / f"{kind}.{api}.json").read_bytes()) for api in apis}
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "OTEL_"))}
    command = (sys.executable, "-m", "tests.e2e.instrumented_app", "--with", kind, "--model", model)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=REPO, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-4000:]
    said: dict[str, Said] = json.loads(out)
    return said


async def joined(said: Said, policy: GraftPolicy) -> list[Span]:
    peer = Peer()
    async with rig(peer, policy=policy) as r:
        await r.host(base64.b64decode(said["host"]))
        await r.guest(said["items"])
        await r.pass_time(30)
    moves = policy.tools is Tools.UNDER_TURN
    check(Call([base64.b64decode(said["host"])], said["items"], moves=moves), peer.requests)
    return [span for span, _ in peer.spans]


def total(spans: list[Span], column: str) -> int:
    """What a dashboard's SUM over the trace says."""
    return sum(each.value.int_value for span in spans for each in span.attributes if each.key == column)


def words(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
@pytest.mark.parametrize("kind", ["none", "openai-v2", "openinference", "openinference-agents", *RECORDED])
async def test_the_sum_of_tokens_is_what_the_model_used(kind: str, api: str, model: str) -> None:
    """Under either API and every instrumentation each column says the truth, or nothing where nobody writes it."""
    said = await app(kind, api, model)
    spans = await joined(said, GraftPolicy())
    assert {span.trace_id.hex() for span in spans} == {said["trace_id"]}
    truth = (said["used"], said["made"])
    assert truth == (120 * MODEL_CALLS, 17 * MODEL_CALLS)
    for column in COLUMNS:
        sums = tuple(total(spans, name) for name in column)
        assert sums == (truth if column is COLUMNS[0] or kind.startswith("openinference") else (0, 0))


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
@pytest.mark.parametrize("kind", ["openai-v2", "openinference", "openinference-agents", *RECORDED])
async def test_every_step_of_the_instrumentation_is_found(kind: str, api: str, model: str) -> None:
    """All of its model calls and tools, and the app's own spans of both tools, hang under the run's spans of the same
    step."""
    spans = await joined(await app(kind, api, model), GraftPolicy())
    own = {span.span_id: span for span in spans}
    tools = [span for span in spans if span.name == "lookup"]
    assert {own[span.parent_span_id].name for span in tools} == {"execute_tool lookup_order"}
    assert len({span.parent_span_id for span in tools}) == 2
    theirs = [span for span in spans if span.name in ("Function: {name}", "lookup_order.tool")]
    assert {own[span.parent_span_id].name for span in theirs} <= {"execute_tool lookup_order"}
    assert len({span.parent_span_id for span in theirs}) == (
        2 if kind in ("logfire-agents", "openllmetry-agents") else 0
    )
    above = [own[span.parent_span_id] for span in spans if "grafter.duplicate_of" in words(span)]
    assert len(above) == (0 if (kind, api) in UNTOLD else MODEL_CALLS)
    assert len({span.span_id for span in above}) == len(above)
    assert {words(span)["gen_ai.operation.name"] for span in above} <= {"chat"}


async def test_nothing_moves_and_all_is_counted_once_with_siblings(model: str) -> None:
    """The setting is about places: what was used is still counted once."""
    said = await app("openai-v2", "chat_completions", model)
    spans = await joined(said, GraftPolicy(tools=Tools.SIBLINGS))
    assert not any("grafter.parent.original" in words(span) for span in spans)
    assert total(spans, COLUMNS[0][0]) == said["used"]
