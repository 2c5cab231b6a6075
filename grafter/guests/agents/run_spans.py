"""How a run is mapped: tasks, turns, agents, tools, handoffs, guardrails, and what an app adds of its own.

Names and attributes follow the GenAI conventions where they have words for it (invoke_workflow, invoke_agent,
execute_tool, MCP); the rest keeps the SDK's names under ``openai.agents``.
"""

from grafter.core import semconv
from grafter.core.model import SPAN_KIND_CLIENT
from grafter.guests.attributes import Json, SpanDraft, titled
from grafter.guests.json_values import INPUT_DIGEST, count_of, digest, names_of, structure
from grafter.guests.usage import sum_usage

# What an agent answers in when it answers in no type: Python and JavaScript say it differently.
_PLAIN_OUTPUT = ("str", "text")


def custom(draft: SpanDraft) -> str:
    """A span that the app made, or one of the SDK's own that come in its form; the type that it is."""
    data = draft.rest.get("data")
    own = data.get("sdk_span_type") if isinstance(data, dict) else None
    if own == "task":
        _task(draft)
        return "task"
    if own == "turn":
        _turn(draft)
        return "turn"
    draft.name = draft.take_text("name") or "custom"
    data = draft.take("data")
    if isinstance(data, dict):
        # A key ``data`` would have the name of the attribute that holds the rest.
        left = draft.put_each(semconv.AGENTS_CUSTOM, {key: value for key, value in data.items() if key != "data"})
        data = left | {"data": data["data"]} if "data" in data else left
    if data is not None and data != {}:
        draft.put(semconv.AGENTS_CUSTOM_DATA, Json(data))
    return "custom"


def agent(draft: SpanDraft) -> None:
    name = draft.take_text("name")
    draft.name = titled("invoke_agent", name)
    draft.put(semconv.GEN_AI_OPERATION_NAME, "invoke_agent")
    draft.put(semconv.GEN_AI_AGENT_NAME, name)
    _names(draft, "tools", semconv.AGENTS_AGENT_TOOLS)
    _names(draft, "handoffs", semconv.AGENTS_AGENT_HANDOFFS)
    output_type = draft.take_text("output_type")
    draft.put(semconv.AGENTS_AGENT_OUTPUT_TYPE, output_type)
    if output_type is not None and output_type not in _PLAIN_OUTPUT:
        draft.put(semconv.GEN_AI_OUTPUT_TYPE, "json")


def function(draft: SpanDraft) -> None:
    """A tool that ran in the app, or at an MCP server on its behalf."""
    name = draft.take_text("name")
    draft.name = titled("execute_tool", name)
    draft.put(semconv.GEN_AI_OPERATION_NAME, "execute_tool")
    draft.put(semconv.GEN_AI_TOOL_NAME, name)
    draft.put(semconv.GEN_AI_TOOL_TYPE, "function")
    given = draft.take("input")
    known = draft.take_text(INPUT_DIGEST)
    # By it the app's own span of the call is known, content or none.
    draft.put(semconv.TOOL_ARGUMENTS_DIGEST, known if given in (None, "") else digest(given))
    draft.put_content(semconv.GEN_AI_TOOL_CALL_ARGUMENTS, _json_or_text(given))
    draft.put_content(semconv.GEN_AI_TOOL_CALL_RESULT, _json_or_text(draft.take("output")))
    mcp = draft.take_object("mcp_data")
    if mcp:
        draft.put(semconv.MCP_METHOD_NAME, "tools/call")
        server = mcp.get("server")
        if isinstance(server, str):
            draft.put(semconv.AGENTS_MCP_SERVER, server)
            del mcp["server"]
        draft.keep("mcp_data", mcp)


def handoff(draft: SpanDraft) -> None:
    """One agent passing the run to another. It is no tool here: the tool's name is not sent."""
    to_agent = draft.take_text("to_agent")
    draft.name = titled("handoff", to_agent)
    draft.put(semconv.GEN_AI_OPERATION_NAME, "handoff")
    draft.put(semconv.GEN_AI_HANDOFF_FROM_AGENT, draft.take_text("from_agent"))
    draft.put(semconv.GEN_AI_HANDOFF_TO_AGENT, to_agent)


def guardrail(draft: SpanDraft) -> None:
    """A check of input or output. One that triggers did its work: the error is the run's, not its own."""
    name = draft.take_text("name")
    draft.name = titled("run_guardrail", name)
    draft.put(semconv.GEN_AI_OPERATION_NAME, "run_guardrail")
    draft.put(semconv.GEN_AI_GUARDRAIL_NAME, name)
    triggered = draft.rest.get("triggered")
    if isinstance(triggered, bool):
        draft.put(semconv.GEN_AI_GUARDRAIL_TRIGGERED, triggered)
        draft.take("triggered")


def mcp_tools(draft: SpanDraft) -> None:
    """An MCP server asked for its tools. The conventions forbid execute_tool here."""
    draft.name = "tools/list"
    draft.kind = SPAN_KIND_CLIENT
    draft.put(semconv.MCP_METHOD_NAME, "tools/list")
    draft.put(semconv.AGENTS_MCP_SERVER, draft.take_text("server"))
    _names(draft, "result", semconv.AGENTS_MCP_TOOLS)


def unknown(draft: SpanDraft, kind: str) -> None:
    """A type that no SDK had when this was written: kept whole."""
    draft.name = f"openai.{kind or 'unknown'}"
    draft.put(semconv.GRAFTER_UNMAPPED_TYPE, kind or "unknown")
    if draft.rest:
        draft.put(semconv.AGENTS_SPAN_DATA, Json(dict(draft.rest)))
    draft.rest.clear()


def _task(draft: SpanDraft) -> None:
    """One Runner.run. Its usage is the sum of its model calls, so it may not be counted with them."""
    draft.take("name")
    data = draft.take_object("data")
    name = data.pop("name", None)
    label = name if isinstance(name, str) and name else None
    draft.name = titled("invoke_workflow", label)
    draft.put(semconv.GEN_AI_OPERATION_NAME, "invoke_workflow")
    draft.put(semconv.GEN_AI_AGENT_NAME, label)
    _rest_of_own(draft, data, {} if label is not None else {"name": name})


def _turn(draft: SpanDraft) -> None:
    """One round of an agent: a model call and the tools that it asked for."""
    draft.take("name")
    data = draft.take_object("data")
    name = data.pop("agent_name", None)
    label = name if isinstance(name, str) and name else None
    draft.name = titled("turn", label)
    draft.put(semconv.GEN_AI_AGENT_NAME, label)
    number = count_of(data.get("turn"))
    if number is not None:
        draft.put(semconv.AGENTS_TURN_NUMBER, number)
        del data["turn"]
    _rest_of_own(draft, data, {} if label is not None else {"agent_name": name})


def _rest_of_own(draft: SpanDraft, data: dict[str, object], unread: dict[str, object]) -> None:
    del data["sdk_span_type"]
    usage = data.get("usage")
    if isinstance(usage, dict):
        counts, left = sum_usage(usage)
        for name, count in counts.items():
            draft.put(name, count)
        del data["usage"]
        if left:
            data["usage"] = left
    data |= {key: value for key, value in unread.items() if value is not None}
    draft.keep("data", {key: value for key, value in data.items() if value is not None})


def _names(draft: SpanDraft, key: str, attribute: str) -> None:
    value = draft.rest.get(key)
    names = names_of(value)
    if names is not None or value is None:
        draft.put(attribute, names)
        draft.take(key)


def _json_or_text(value: object) -> str | Json | None:
    """Arguments or a result: JSON where the text stands for an object or a list, else the text."""
    if value is None or value == "":
        return None
    read = structure(value) if isinstance(value, str) else value
    return read if isinstance(read, str) else Json(read)


MAPPERS = {
    "agent": agent,
    "custom": custom,
    "function": function,
    "guardrail": guardrail,
    "handoff": handoff,
    "mcp_tools": mcp_tools,
}
"""By type of span data; what of a type may be stored is in ``content``."""
