"""``/admin/…``: what the commands of grafter ask of the one that runs, at the address of the OpenAI receiver.

Open to processes of the same machine without a token, to everybody else with one of ``extensions.admin.tokens``. A
browser is no such process although it runs there: a page may post to any address, so what a page sends (its Origin, a
form's content type) is refused, and so is what a proxy passes on, whose sender may be anywhere. A proxy or tunnel that
says nothing of itself, and a name that somebody made point here, are known by the Host that was asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict

from aiohttp import web

from grafter.calls.base import CallMap
from grafter.core.model import JsonObject
from grafter.errors import RejectedError, UnavailableError
from grafter.receiver.calls_admin import CallQuery, call_queries, requester
from grafter.receiver.config import AdminCommands
from grafter.receiver.examining import Examiner, closed_endpoints
from grafter.receiver.explaining import Explainer, status
from grafter.receiver.http_body import json_object, read_json_body
from grafter.receiver.http_server import Tokens, is_local
from grafter.receiver.outcomes import Answered, Outcome, UnauthenticatedError, openai_endpoint
from grafter.receiver.sessions import PullRequests
from grafter.telemetry import Metrics

PULL_PATH = "/admin/pull"
EXPLAIN_PATH = "/admin/explain"
STATUS_PATH = "/admin/status"
DOCTOR_PATH = "/admin/doctor"
DEAD_PATH = "/admin/dead"
BACKLOG_PATH = "/admin/backlog"
_TRANSPORT = "admin"
_WHO = "commands come from this machine, or with a bearer token of extensions.admin.tokens"
_LONGEST_ID = 1_000
_LONGEST_CALL = 300
_MAX_BYTES = 64 << 10

Query = Callable[[Mapping[str, object], web.Request], Awaitable[JsonObject]]
"""From a body, and the request that it came in, to an answer. Raises RejectedError and UnavailableError."""


def admin_routes(
    pulls: PullRequests,
    explainer: Explainer,
    metrics: Metrics,
    dead_letters: AdminCommands | None = None,
    backlogs: AdminCommands | None = None,
    *,
    calls: CallMap | None = None,
    tokens: Sequence[str] = (),
    wait_seconds: float = 120.0,
    alone: bool = True,
) -> list[web.RouteDef]:
    """The routes of the commands: POST to ``/admin/pull``, ``/admin/explain``, ``/admin/status`` and, where there are
    ``dead_letters``, ``/admin/dead/…`` of list, show, retry and drop, and ``/admin/backlog/…`` of list and drop where
    there are ``backlogs``: what they take and answer stands there; where there is a call map, those of ``calls_admin``.

    Explain: ``{"id": "…"}`` in, 200 with what ``Explainer`` says. Status: ``{}`` in, 200 with what ``status`` says.
    Doctor: ``{"call": "…"}`` in, or ``{"closed": […]}`` with endpoints that whoever asks found closed; 200 with what
    ``Examiner`` says; ``alone`` as there.
    Pull: ``{"session": "…", "project": "…"}`` in (the project may be left out), 200 out when all pages have been read
    once; 503 when that took longer than ``wait_seconds``, and it goes on.
    """
    opened_by = Tokens(tokens) if tokens else None
    examiner = Examiner(explainer, metrics, calls, alone)

    async def pull(body: Mapping[str, object], _request: web.Request) -> JsonObject:
        session, project = body.get("session"), body.get("project")
        if not isinstance(session, str):
            raise RejectedError("body is no JSON object with a string under session", reason="shape")
        if not isinstance(project, str | None):
            raise RejectedError("project is no string", reason="shape")
        try:
            async with asyncio.timeout(wait_seconds):
                return asdict(await pulls.pull(session, project or None))
        except TimeoutError:
            message = f"OpenAI has not let it be read for {wait_seconds:g} s; grafter goes on trying"
            raise UnavailableError(message, retry_after=60.0, reason="still_trying") from None

    async def explain(body: Mapping[str, object], _request: web.Request) -> JsonObject:
        identity = body.get("id")
        if not isinstance(identity, str) or not 0 < len(identity) <= _LONGEST_ID:
            raise RejectedError(f"expected an id of 1 to {_LONGEST_ID} characters under id", reason="shape")
        return await explainer.explain(identity)

    async def answer_status(_body: Mapping[str, object], _request: web.Request) -> JsonObject:
        return status(explainer.store, metrics, explainer.clock())

    async def doctor(body: Mapping[str, object], request: web.Request) -> JsonObject:
        call, closed = body.get("call"), body.get("closed", [])
        if call is not None:
            if not isinstance(call, str) or not 0 < len(call.strip()) <= _LONGEST_CALL:
                raise RejectedError(f"expected an id of 1 to {_LONGEST_CALL} characters under call", reason="shape")
            return await examiner.call(call, requester(request))
        try:
            endpoints = closed_endpoints(closed if isinstance(closed, list) else [closed])
        except ValueError as error:
            raise RejectedError(str(error), reason="shape") from None
        return await examiner.instance(endpoints)

    def by_word(commands: AdminCommands) -> Query:
        return lambda body, request: commands.answer(request.match_info["what"], body)

    def of_calls(query: CallQuery) -> Query:
        return lambda body, request: query(body, requester(request))

    def route(path: str, query: Query) -> web.RouteDef:
        async def handle(request: web.Request) -> Answered:
            if not _allows(request, opened_by):
                raise UnauthenticatedError(_WHO)
            body = json_object(await read_json_body(request, _MAX_BYTES, in_turn=False))
            return web.json_response(await query(body, request)), Outcome.ACCEPTED

        # Not timed: how long OpenAI takes is no time of this receiver's.
        return web.post(path, openai_endpoint(handle, metrics, _TRANSPORT, timed=False))

    queries: dict[str, Query] = {
        PULL_PATH: pull,
        EXPLAIN_PATH: explain,
        STATUS_PATH: answer_status,
        DOCTOR_PATH: doctor,
    }
    for path, commands in ((DEAD_PATH, dead_letters), (BACKLOG_PATH, backlogs)):
        if commands is not None:
            queries[f"{path}/{{what}}"] = by_word(commands)
    if calls is not None:
        queries |= {path: of_calls(query) for path, query in call_queries(calls, explainer.clock).items()}
    return [route(path, query) for path, query in queries.items()]


def _allows(request: web.Request, tokens: Tokens | None) -> bool:
    authorization = request.headers.get("Authorization")
    if tokens is not None and authorization is not None and tokens.allows(authorization):
        return True
    if "Origin" in request.headers or request.content_type.lower() != "application/json":
        return False
    return is_local(request)
