"""A stand-in of OpenAI's Responses and chat completions APIs, scripted by what a request asks: no state, so that any
SDK may retry.

One customer's order goes wrong: a guardrail's agent looks at the question, the triage agent looks up two orders at
once and hands off, the billing agent tries a refund that fails, and says so. The model ``model-down`` answers 500.
"""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

GUARD = "model-guard"
TRIAGE = "model-triage"
BILLING = "model-billing"
DOWN = "model-down"

Json = dict[str, Any]


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """The base URL of a running stand-in, to be given to an OpenAI client."""
    app = web.Application()
    app.router.add_post("/v1/responses", _respond)
    app.router.add_post("/v1/chat/completions", _complete)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def _respond(request: web.Request) -> web.Response:
    asked: Json = await request.json()
    if asked["model"] == DOWN:
        return web.json_response({"error": {"message": "the model is down", "type": "server_error"}}, status=500)
    output = script(asked)
    # The same question gives the same response id, so that a retry is seen as one.
    name = hashlib.sha256(json.dumps([asked["model"], asked["input"]]).encode()).hexdigest()[:24]
    return web.json_response(
        {
            "id": f"resp_{name}",
            "object": "response",
            "created_at": 1_790_000_000,
            "status": "completed",
            "model": asked["model"],
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": asked.get("tools", []),
            "instructions": asked.get("instructions"),
            "error": None,
            "incomplete_details": None,
            "metadata": {},
            "temperature": 1.0,
            "top_p": 1.0,
            "usage": {
                "input_tokens": 120,
                "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
                "output_tokens": 17,
                "output_tokens_details": {"reasoning_tokens": 3},
                "total_tokens": 137,
            },
        }
    )


async def _complete(request: web.Request) -> web.Response:
    """The same conversation by the older API."""
    asked: Json = await request.json()
    if asked["model"] == DOWN:
        return web.json_response({"error": {"message": "the model is down", "type": "server_error"}}, status=500)
    called = [call["function"] for message in asked["messages"] for call in message.get("tool_calls") or ()]
    items = [{"type": "function_call", "name": call["name"]} for call in called]
    output = script({**asked, "input": items, "tools": [tool["function"] for tool in asked.get("tools", [])]})
    calls = [
        {"id": item["call_id"], "type": "function", "function": {key: item[key] for key in ("name", "arguments")}}
        for item in output
        if item["type"] == "function_call"
    ]
    texts = [item["content"][0]["text"] for item in output if item["type"] == "message"]
    message = {"role": "assistant", "content": texts[0] if texts else None, "tool_calls": calls or None}
    name = hashlib.sha256(json.dumps([asked["model"], asked["messages"]]).encode()).hexdigest()[:24]
    return web.json_response(
        {
            "id": f"chatcmpl-{name}",
            "object": "chat.completion",
            "created": 1_790_000_000,
            "model": asked["model"],
            "choices": [{"index": 0, "finish_reason": "tool_calls" if calls else "stop", "message": message}],
            "usage": {"prompt_tokens": 120, "completion_tokens": 17, "total_tokens": 137},
        }
    )


def script(asked: Json) -> list[Json]:
    """The output items that this request gets."""
    items = asked["input"] if isinstance(asked["input"], list) else []
    called = {item.get("name") for item in items if item.get("type") == "function_call"}
    offered = {tool.get("name") for tool in asked.get("tools", [])}
    match asked["model"]:
        case "model-guard":
            return [_message("It is about an order.")]
        case "model-triage" if "lookup_order" not in called:
            return [_call("lookup_order", {"order_id": 7}, "a"), _call("lookup_order", {"order_id": 8}, "b")]
        case "model-triage":
            (handoff,) = [tool["name"] for tool in asked["tools"] if tool["name"].startswith("transfer_to")]
            return [_call(handoff, {}, "c")]
        case "model-billing" if "refund" in offered - called:
            return [_call("refund", {"order_id": 7}, "d")]
        case _:
            return [_message("I could not refund order 7.")]


def _call(name: str, arguments: Json, mark: str) -> Json:
    return {
        "type": "function_call",
        "id": f"fc_{mark}",
        "call_id": f"call_{mark}",
        "name": name,
        "arguments": json.dumps(arguments),
        "status": "completed",
    }


def _message(text: str) -> Json:
    return {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    }
