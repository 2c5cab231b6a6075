"""A stand-in of OpenAI's Agents API: what it answers is made with the official package's own types."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from openai.types.beta.agent_session import AgentSession
from openai.types.beta.agents.sessions import SessionTrace, Turn

SESSION = "sess_0123456789abcdef"
KEY = "sk-proj-agents-0123456789"
BEGAN = 1_800_000_000
"""Unix seconds of the first turn."""
PROMPT = "my card number is four one one one"
DEADLINE = 120.0

Answer = Callable[[web.Request], web.StreamResponse | None]


def session(session_id: str = SESSION, metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A session as the API answers it."""
    told = {
        "id": session_id,
        "object": "agent.session",
        "created_at": BEGAN,
        "last_active_at": BEGAN + 60,
        "status": "idle",
        "metadata": dict(metadata or {}),
        "required_actions": [],
        "vault_ids": [],
        "environment": {"type": "none"},
        "agent": {
            "id": "agent_1",
            "name": "Reception",
            "model": "gpt-5.1",
            "instructions": PROMPT,
            "multi_agent": {"enabled": False, "max_concurrent_subagents": None, "mode": None},
            "reasoning": {"effort": "low", "summary": None},
            "service_tier": "auto",
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "tools": [],
        },
    }
    AgentSession.model_validate(told, strict=False)
    return told


def attribute(key: str, value: Any) -> dict[str, Any]:
    kind = "boolValue" if isinstance(value, bool) else "intValue" if isinstance(value, int) else "stringValue"
    return {"key": key, "value": {kind: str(value) if kind == "intValue" else value}}


def span(
    number: int, turn: int, name: str, parent: int | None, first: float, last: float, **more: Any
) -> dict[str, Any]:
    """A span as OTLP JSON has it; ids in capitals, which OTLP allows."""
    start = (BEGAN + turn * 60) * 1_000_000_000
    attributes = [attribute(key, value) for key, value in more.pop("attributes", {}).items()]
    return {
        "traceId": trace_id(turn).upper(),
        "spanId": f"{turn:08x}{number:08x}".upper(),
        "parentSpanId": "" if parent is None else f"{turn:08x}{parent:08x}",
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(start + int(first * 1e9)),
        "endTimeUnixNano": str(start + int(last * 1e9)),
        "attributes": attributes,
        **more,
    }


def trace_id(turn: int) -> str:
    return f"{0xABCD0000 + turn:032x}"


def turn_id(turn: int) -> str:
    return f"turn_{turn:04d}"


def trace(turn: int, session_id: str = SESSION, tokens: int = 42) -> dict[str, Any]:
    """The trace of one turn: an agent that asks a model, calls a tool, and hears an error from it."""
    spans = [
        span(1, turn, "agent Reception", None, 0, 4, attributes={"agent.name": "Reception", "instructions": PROMPT}),
        span(
            2, turn, "generation", 1, 0.5, 2, kind=3, attributes={"gen_ai.usage.output_tokens": tokens, "input": PROMPT}
        ),
        span(
            3,
            turn,
            "mcp_call",
            1,
            2,
            3,
            attributes={"tool.type": "mcp_call", "result": PROMPT},
            status={"code": 2, "message": PROMPT},
        ),
    ]
    return trace_of(turn, *spans, session_id=session_id)


def trace_of(turn: int, *spans: dict[str, Any], session_id: str = SESSION) -> dict[str, Any]:
    """A turn's trace, of these spans."""
    resource = {"attributes": [attribute("service.name", "agents"), attribute("note", PROMPT)]}
    scoped = [{"scope": {"name": "openai.agents", "version": "1"}, "spans": list(spans)}]
    told = {
        "id": turn_id(turn),
        "object": "agent.session.trace",
        "session_id": session_id,
        "created_at": BEGAN + turn * 60,
        "otlp": {"resourceSpans": [{"resource": resource, "scopeSpans": scoped}]},
    }
    SessionTrace.model_validate(told)
    return told


@dataclass
class AgentsServer:
    """The API, and what was asked of it."""

    base_url: str = ""
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    traces: list[dict[str, Any]] = field(default_factory=list)
    """Published ones, in order of their turns."""
    turns: list[str] = field(default_factory=list)
    """Ids; those of the traces where it is empty."""
    answer: Answer = lambda _: None
    """Answers in the API's place, where it does."""
    most: int = 100
    """Traces in one answer."""
    asked: list[str] = field(default_factory=list)
    """Path and query of each request, in order."""
    odd: list[str] = field(default_factory=list)
    """What was wrong with a request."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Closed: an answer to a request for traces waits."""
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until_asked(self, count: int) -> None:
        """Return when so many requests have come."""
        async with asyncio.timeout(DEADLINE), self._news:
            await self._news.wait_for(lambda: len(self.asked) >= count)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("OpenAI-Beta") != "agents=v1" or request.headers.get("Authorization") != f"Bearer {KEY}":
            self.odd.append(str(request.headers))
        async with self._news:
            self.asked.append(request.path_qs.removeprefix("/v1/agents/sessions/"))
            self._news.notify_all()
        own = self.answer(request)
        if own is not None:
            return own
        told = self.sessions.get(request.match_info["session"])
        if told is None:
            return web.json_response({"error": {"message": "no such session"}}, status=404)
        below = request.match_info.get("below")
        if below is None:
            return web.json_response(told)
        await self.gate.wait()
        return self._page(request, self.traces if below == "traces" else self._turns())

    def _turns(self) -> list[dict[str, Any]]:
        ids = self.turns or [str(each["id"]) for each in self.traces]
        return [
            Turn(
                id=each,
                agent_id="agent_1",
                created_at=BEGAN,
                object="agent.session.turn",
                session_id=SESSION,
                status="completed",
            ).to_dict(mode="json")
            for each in ids
        ]

    def _page(self, request: web.Request, entries: list[dict[str, Any]]) -> web.Response:
        limit = min(int(request.query.get("limit", "20")), self.most)
        entries = entries if request.query.get("order") == "asc" else entries[::-1]
        after = request.query.get("after")
        # Behind a turn, whether or not it has a trace.
        order = [each["id"] for each in entries]
        begin = 0 if after is None else sum(one <= after for one in order)
        page = entries[begin : begin + limit]
        told = {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": begin + limit < len(entries),
        }
        return web.Response(body=orjson.dumps(told), content_type="application/json")


@asynccontextmanager
async def serving() -> AsyncIterator[AgentsServer]:
    """A stand-in on a free port of the loopback."""
    server = AgentsServer()
    server.gate.set()
    app = web.Application()
    app.router.add_get("/v1/agents/sessions/{session}", server.handle)
    app.router.add_get("/v1/agents/sessions/{session}/{below:traces|turns}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        server.gate.set()
        await runner.cleanup()
