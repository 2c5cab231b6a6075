"""Runs of the Agents SDK, Python's and JavaScript's forms, whose usage, errors and tools were counted by hand.

A dashboard's sum over the trace is what is compared: tokens once, an error of a kind, a tool for each that ran.
"""

import json

import pytest

from grafter.core.policy import Content, GraftPolicy
from tests.guests.realtime.hand import TRACE, Joined, joined

IN, OUT = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
CACHED, REASONING = "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.reasoning.output_tokens"


def run(*spans: dict[str, object], js: bool = False, policy: GraftPolicy | None = None) -> Joined:
    """The joined trace of one run's spans; ids are their names."""
    head = {
        "object": "trace", "id": "trace_" + "ab" * 16, "workflow_name": "Support", "group_id": "conv_1",
        "metadata": {"trace_id": TRACE},
    }  # fmt: skip
    zone = "Z" if js else "+00:00"
    items: list[dict[str, object]] = [head]
    for n, one in enumerate(spans):
        items.append(
            {
                "object": "trace.span",
                "trace_id": head["id"],
                "parent_id": None,
                "error": None,
                "started_at": f"2026-11-18T10:26:40.{100 + n:03d}{zone}",
                "ended_at": f"2026-11-18T10:26:41.{100 + n:03d}{zone}",
                **one,
            }
        )
    return joined(json.dumps({"data": items}), policy)


def span(identity: str, parent: str | None, error: object = None, /, **data: object) -> dict[str, object]:
    return {"id": identity, "parent_id": parent, "span_data": data, "error": error}


def task(name: str = "task", **more: object) -> dict[str, object]:
    return span(name, None, None, type="custom", name="task", data={"sdk_span_type": "task", "name": "Support", **more})


def turn(name: str, parent: str, number: int, usage: object = None, error: object = None) -> dict[str, object]:
    data = {"sdk_span_type": "turn", "turn": number, "agent_name": "Triage"}
    return span(
        name, parent, error, type="custom", name="turn", data=data if usage is None else {**data, "usage": usage}
    )


def agent(name: str = "agent", parent: str = "task", error: object = None) -> dict[str, object]:
    return span(name, parent, error, type="agent", name="Triage", handoffs=[], tools=["find"], output_type="text")


def response(name: str, parent: str, error: object = None, /, **more: object) -> dict[str, object]:
    return span(name, parent, error, type="response", response_id=f"resp_{name}", **more)


def tokens(count: int, out: int, **more: object) -> dict[str, object]:
    return {
        "input_tokens": count,
        "output_tokens": out,
        "cached_input_tokens": 0,
        "cache_write_input_tokens": 0,
        **more,
    }


def sums(got: Joined) -> tuple[int, int]:
    return got.total(IN), got.total(OUT)


# -- usage once


def test_javascripts_usage_of_two_turns() -> None:
    """Turns of 120 + 17 and 80 + 9 tokens, one response each; the task's 200 + 26 are their sum: 200 and 26."""
    got = run(
        task(usage=tokens(200, 26, requests=2, total_tokens=226)), agent(),
        turn("t1", "agent", 1, tokens(120, 17)), response("r1", "t1"),
        turn("t2", "agent", 2, tokens(80, 9)), response("r2", "t2"), js=True,
    )  # fmt: skip
    assert sums(got) == (200, 26)
    assert (got.of("r1")[IN], got.of("r2")[IN]) == (120, 80)


def test_javascripts_usage_with_tools_and_guardrails_beside_the_call() -> None:
    """One response, a tool and a guardrail under one turn of 120 + 17, 64 of it cached."""
    got = run(
        task(), agent(), turn("t1", "agent", 1, tokens(120, 17, cached_input_tokens=64)), response("r1", "t1"),
        span("f1", "t1", type="function", name="find", input="{}", output="{}"),
        span("g1", "agent", type="guardrail", name="pii", triggered=False), js=True,
    )  # fmt: skip
    assert sums(got) == (120, 17)
    assert got.of("r1")[CACHED] == 64
    assert IN not in got.of("f1")


def test_javascripts_usage_of_a_turn_with_a_run_inside() -> None:
    """A tool is itself an agent: its turn's 30 + 3 go to its own call, the outer 120 + 17 to the outer one."""
    got = run(
        task(), agent(), turn("t1", "agent", 1, tokens(120, 17)), response("r1", "t1"),
        span("f1", "t1", type="function", name="ask_expert", input="{}", output="x"),
        {**task("task2", usage=tokens(30, 3)), "parent_id": "f1"}, agent("agent2", "task2"),
        turn("t2", "agent2", 1, tokens(30, 3)), response("r2", "t2"), js=True,
    )  # fmt: skip
    assert (got.of("r1")[IN], got.of("r2")[IN]) == (120, 30)
    assert sums(got) == (150, 20)


def test_javascripts_usage_where_a_call_was_tried_twice() -> None:
    """The first response failed, the second answered; whose the turn's 120 + 17 are is not said: nobody's, or of the
    one that answered, never both."""
    failed = {"message": "Error getting response", "data": {"error": "500"}}
    got = run(
        task(),
        agent(),
        turn("t1", "agent", 1, tokens(120, 17)),
        response("r1", "t1", failed),
        response("r2", "t1"),
        js=True,
    )
    assert sums(got) in [(120, 17), (0, 0)]
    assert IN not in got.of("r1")


@pytest.mark.parametrize("folded", [False, True], ids=["python", "folded"])
def test_pythons_usage_stands_once(folded: bool) -> None:
    """Task, turn and response all say 100 + 20 (40 cached, 8 reasoning): a sum says 100 and 20."""
    details = {"input_tokens_details": {"cached_tokens": 40}, "output_tokens_details": {"reasoning_tokens": 8}}
    usage = {"input_tokens": 100, "output_tokens": 20, **({"details": details} if folded else details)}
    got = run(
        task(usage=tokens(100, 20, requests=1, total_tokens=120)), agent(), turn("t1", "agent", 1, tokens(100, 20)),
        response("r1", "t1", usage=usage),
    )  # fmt: skip
    assert sums(got) == (100, 20)
    assert (got.of("r1")[CACHED], got.of("r1")[REASONING]) == (40, 8)


def test_chat_completions_usage_by_its_other_names() -> None:
    """prompt_tokens and completion_tokens of a generation, the same on its turn: 50 and 5."""
    got = run(
        task(), agent(), turn("t1", "agent", 1, tokens(50, 5)),
        span("g1", "t1", type="generation", model="gpt-5", usage={"prompt_tokens": 50, "completion_tokens": 5}),
    )  # fmt: skip
    assert sums(got) == (50, 5)


# -- errors


def thrown(text: object) -> dict[str, object]:
    return {"message": "Error in agent run", "data": {"error": text}}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (thrown("InputGuardrailTripwireTriggered: Input guardrail triggered: {}"), "guardrail_tripwire_triggered"),
        (thrown("OutputGuardrailTripwireTriggered: x"), "guardrail_tripwire_triggered"),
        (thrown("MaxTurnsExceededError: Max turns (3) exceeded"), "max_turns_exceeded"),
        ({"message": "Max turns exceeded", "data": {"max_turns": 3}}, "max_turns_exceeded"),
        ({"message": "Guardrail tripwire triggered", "data": {"guardrail": "g"}}, "guardrail_tripwire_triggered"),
        (thrown("Error"), "agent_error"),
        (thrown("Error: 500 internal"), "agent_error"),
        (thrown({"a": 1}), "agent_error"),
        (thrown(None), "agent_error"),
        ({"message": "the caller's name is Bob"}, "_OTHER"),
        ({"message": "Tool not found", "data": {"tool_name": "x"}}, "tool_not_found"),
        ({"message": "Multiple handoffs requested"}, "multiple_handoffs"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_run_fails_for_the_same_reason_in_both_languages(error: dict[str, object], kind: str) -> None:
    """The class at the beginning of the data is JavaScript's, the sentence Python's; free text has no kind of its own,
    and no text of an error leaves beyond the SDK's own sentence."""
    got = run(task(), agent(error=error), js=True)
    assert got.of("agent")["error.type"] == kind
    assert (got.span("agent") or {})["status"]["code"] == 2
    assert "status" not in (got.span("task") or {}) or not (got.span("task") or {})["status"].get("code")
    assert "openai.agents.error.data" not in got.of("agent")


def test_an_abort_is_nobodys_error_of_another_kind() -> None:
    """The caller hung up: AbortError, told apart from what failed."""
    got = run(task(), agent(error=thrown("AbortError: This operation was aborted")), js=True)
    assert got.of("agent")["error.type"] not in ("agent_error", "_OTHER", "model_error")


GIVEN_UP = "Error: Request was aborted."


@pytest.mark.parametrize(
    ("model", "run_ended_by"),
    [
        ({"message": "Request was aborted."}, GIVEN_UP),
        ({"message": "Error streaming response", "data": {"error": GIVEN_UP}}, GIVEN_UP),
        ({"message": "Request was aborted."}, "TimeoutError: The operation was aborted due to timeout"),
    ],
    ids=["plain", "streamed", "by-a-timer"],
)
@pytest.mark.parametrize("content", list(Content))
def test_a_request_that_is_given_up_is_nobodys_error(
    model: dict[str, object], run_ended_by: str, content: Content
) -> None:
    """As @openai/agents 0.20.0 writes it: whoever aborts while the model answers, as on a hang-up, is told by OpenAI's
    client, whose error has no class of its own. Neither the model nor the agent has failed."""
    spans = (task(), agent(error=thrown(run_ended_by)), turn("t1", "agent", 1), response("r1", "t1", model))
    got = run(*spans, js=True, policy=GraftPolicy(content=content))
    assert [got.of(name)["error.type"] for name in ("agent", "r1")] == ["aborted", "aborted"]


@pytest.mark.parametrize(
    ("python", "javascript", "kind"),
    [
        ("Error in call_model_input_filter", "Error in callModelInputFilter", "input_filter_error"),
        (
            "Handoff function expected non-null input, but got None",
            "Handoff function expected non empty input but got: ",
            "model_behavior_error",
        ),
        ("MCP server label not found", None, "model_behavior_error"),
        ("Local shell executor not found", None, "model_behavior_error"),
    ],
)
def test_sentences_that_the_languages_spell_otherwise(python: str, javascript: str | None, kind: str) -> None:
    for message in filter(None, (python, javascript)):
        got = run(task(), agent(error={"message": message, "data": {"error": "Error: x"}}))
        assert got.of("agent")["error.type"] == kind


def test_a_tool_that_fails_fails_alone() -> None:
    """The model is told and goes on: the error is the tool's, neither the turn's nor the agent's."""
    error = {"message": "Error running tool (non-fatal)", "data": {"tool_name": "find", "error": "x"}}
    got = run(
        task(), agent(), turn("t1", "agent", 1), response("r1", "t1", usage={"input_tokens": 1, "output_tokens": 1}),
        span("f1", "t1", error, type="function", name="find", input="{}", output="sorry"),
    )  # fmt: skip
    assert got.of("f1")["error.type"] == "tool_error"
    assert [s["name"] for s in got.spans if s["a"].get("error.type")] == ["execute_tool find"]


def test_a_tool_that_a_person_refused() -> None:
    """The SDK's sentence for it is in the data."""
    error = {
        "message": "Error running tool",
        "data": {"error": "Tool execution of find was manually rejected by user."},
    }
    got = run(task(), agent(), span("f1", "agent", error, type="function", name="find", input="{}", output=None))
    assert got.of("f1")["error.type"] == "tool_rejected"


@pytest.mark.parametrize("kind", ["response", "generation", "transcription", "speech"])
def test_a_model_call_that_fails(kind: str) -> None:
    """Python's constant sentence and JavaScript's free text of the provider are one kind; no tokens are claimed."""
    for error in ({"message": "Error getting response", "data": {"error": "Error code: 500"}}, {"message": "503 busy"}):
        got = run(task(), agent(), turn("t1", "agent", 1), span("m1", "t1", error, type=kind))
        assert got.of("m1")["error.type"] == "model_error"
        assert sums(got) == (0, 0)


# -- tools


def test_what_is_a_tool_call_and_what_is_none() -> None:
    """Two functions ran; a handoff, a guardrail that triggered, an MCP list and a request for approval are none."""
    asked = [{"type": "hosted_tool_call", "name": "mcp_approval_request", "status": "completed", "arguments": "{}"}]
    got = run(
        task(), agent(), turn("t1", "agent", 1),
        span("m1", "t1", type="generation", model="gpt-5", output=asked),
        span("f1", "t1", type="function", name="find", input="{}", output="{}"),
        span("f2", "t1", type="function", name="crm", input="{}", output="{}", mcp_data={"server": "crm"}),
        span("h1", "t1", type="handoff", from_agent="Triage", to_agent="Billing"),
        span("g1", "t1", type="guardrail", name="pii", triggered=True),
        span("l1", "t1", type="mcp_tools", server="crm", result=["a"]), js=True,
    )  # fmt: skip
    tools = [s["name"] for s in got.spans if s["a"].get("gen_ai.operation.name") == "execute_tool"]
    assert sorted(tools) == ["execute_tool crm", "execute_tool find"]
    assert "gen_ai.tool.name" not in got.of("h1")
    assert "tool_call" not in str(got.of("m1").get("gen_ai.response.finish_reasons"))
    assert "error.type" not in got.of("g1")


def test_the_same_items_again_change_no_sum() -> None:
    """A run that is resumed in another process sends its trace again, and a retried post its spans."""
    items = [task(), agent(), turn("t1", "agent", 1, tokens(120, 17)), response("r1", "t1")]
    got = run(*items, *items, js=True)
    assert sums(got) == (120, 17)
    assert len(got.named("invoke_agent")) == 1
