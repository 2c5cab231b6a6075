"""``/admin/…``: what the commands of grafter ask of the one that runs, at the address of the OpenAI receiver.

Open to processes of the same machine without a token, to everybody else with one of ``extensions.admin.tokens``. A
browser is no such process although it runs there: a page may post to any address, so what a page sends (its Origin, a
form's content type) is refused, and so is what a proxy passes on, whose sender may be anywhere. A proxy or tunnel that
says nothing of itself, and a name that somebody made point here, are known by the Host that was asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

from aiohttp import web

from grafter.calls.base import CallMap
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
    Pull:

    ``{"session": "…", "project": "…"}`` in (the project may be left out), 200 out when all pages have been read once;
    503 when that took longer than ``wait_seconds``, and it goes on.
    """
    opened_by = Tokens(tokens) if tokens else None

    async def pull(request: web.Request) -> Answered:
        if not _allows(request, opened_by):
            raise UnauthenticatedError(_WHO)
        session, project = _read(await read_json_body(request, _MAX_BYTES, in_turn=False))
        try:
            async with asyncio.timeout(wait_seconds):
                pulled = await pulls.pull(session, project)
        except TimeoutError:
            message = f"OpenAI has not let it be read for {wait_seconds:g} s; grafter goes on trying"
            raise UnavailableError(message, retry_after=60.0, reason="still_trying") from None
        return web.json_response(asdict(pulled)), Outcome.ACCEPTED

    async def read_body(request: web.Request) -> dict[str, object]:
        if not _allows(request, opened_by):
            raise UnauthenticatedError(_WHO)
        return json_object(await read_json_body(request, _MAX_BYTES, in_turn=False))

    async def explain(request: web.Request) -> Answered:
        identity = (await read_body(request)).get("id")
        if not isinstance(identity, str) or not 0 < len(identity) <= _LONGEST_ID:
            raise RejectedError(f"expected an id of 1 to {_LONGEST_ID} characters under id", reason="shape")
        return web.json_response(await explainer.explain(identity)), Outcome.ACCEPTED

    async def answer_status(request: web.Request) -> Answered:
        await read_body(request)
        return web.json_response(status(explainer.store, metrics, explainer.clock())), Outcome.ACCEPTED

    examiner = Examiner(explainer, metrics, calls, alone)

    async def doctor(request: web.Request) -> Answered:
        body = await read_body(request)
        call, closed = body.get("call"), body.get("closed", [])
        if call is not None:
            if not isinstance(call, str) or not 0 < len(call.strip()) <= _LONGEST_CALL:
                raise RejectedError(f"expected an id of 1 to {_LONGEST_CALL} characters under call", reason="shape")
            return web.json_response(await examiner.call(call, requester(request))), Outcome.ACCEPTED
        try:
            endpoints = closed_endpoints(closed if isinstance(closed, list) else [closed])
        except ValueError as error:
            raise RejectedError(str(error), reason="shape") from None
        return web.json_response(await examiner.instance(endpoints)), Outcome.ACCEPTED

    def about_calls_endpoint(query: CallQuery) -> Callable[[web.Request], Awaitable[Answered]]:
        async def handle(request: web.Request) -> Answered:
            return web.json_response(await query(await read_body(request), requester(request))), Outcome.ACCEPTED

        return handle

    about_calls = {} if calls is None else call_queries(calls, explainer.clock)

    def routes_of(path: str, commands: AdminCommands | None) -> list[web.RouteDef]:
        async def handle(request: web.Request) -> Answered:
            body = await read_body(request)
            assert commands is not None
            return web.json_response(await commands.answer(request.match_info["what"], body)), Outcome.ACCEPTED

        answering = openai_endpoint(handle, metrics, _TRANSPORT, timed=False)
        return [] if commands is None else [web.post(f"{path}/{{what}}", answering)]

    # Not timed: how long OpenAI takes is no time of this receiver's.
    return [
        web.post(PULL_PATH, openai_endpoint(pull, metrics, _TRANSPORT, timed=False)),
        web.post(EXPLAIN_PATH, openai_endpoint(explain, metrics, _TRANSPORT, timed=False)),
        web.post(STATUS_PATH, openai_endpoint(answer_status, metrics, _TRANSPORT, timed=False)),
        web.post(DOCTOR_PATH, openai_endpoint(doctor, metrics, _TRANSPORT, timed=False)),
        *routes_of(DEAD_PATH, dead_letters),
        *routes_of(BACKLOG_PATH, backlogs),
        *[
            web.post(path, openai_endpoint(about_calls_endpoint(query), metrics, _TRANSPORT, timed=False))
            for path, query in about_calls.items()
        ],
    ]


def _allows(request: web.Request, tokens: Tokens | None) -> bool:
    authorization = request.headers.get("Authorization")
    if tokens is not None and authorization is not None and tokens.allows(authorization):
        return True
    if "Origin" in request.headers or request.content_type.lower() != "application/json":
        return False
    return is_local(request)


def _read(body: bytes) -> tuple[str, str | None]:
    """The session and the project. Raises RejectedError."""
    posted = json_object(body)
    session, project = posted.get("session"), posted.get("project")
    if not isinstance(session, str):
        raise RejectedError("body is no JSON object with a string under session", reason="shape")
    if not isinstance(project, str | None):
        raise RejectedError("project is no string", reason="shape")
    return session, project or None
