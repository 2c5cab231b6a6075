"""The lookup page over HTTP: addresses, forms, and what every answer carries.

A number is sent in a form's body and answered by a redirect: to the call, where there is one, or to a list under a
name that says nothing of what was searched for. No address, no log and no header ever has a number in it.
"""

import asyncio
import csv
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any
from urllib.parse import urlencode, urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from grafter.calls.base import CallMap
from grafter.calls.call_link import LINKS_PATH, CallLinks
from grafter.calls.model import CallRow, Search
from grafter.calls.report import HOUR, report, rows
from grafter.errors import RejectedError, UnavailableError
from grafter.otlp.reading import read_spans
from grafter.receiver.http_server import is_local
from grafter.web import pages, words
from grafter.web.access import (
    LINK,
    SESSION,
    SESSION_SECONDS,
    VISIT,
    Access,
    Asking,
    Rate,
    Role,
    Searches,
    Signer,
    Viewer,
)
from grafter.web.call_view import Asked, CallView, call_view
from grafter.web.list_view import FILTERS, list_rows
from grafter.web.redaction import Sight, trace_json
from grafter.web.report_view import PERIODS, columns, report_view

_log = logging.getLogger(__name__)

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
"""On every answer; what is static may be cached."""

_VIEWER = web.RequestKey("viewer", Viewer)
_VISIT = web.RequestKey("visit", str)
"""A cookie that goes out with the answer."""
_MAX_BODY = 16 << 10
_LONGEST_TEXT = 200
_KEY = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_LOGINS_PER_MINUTE = 10
_OPEN_PATHS = ("/static/", "/login")
_TOO_OFTEN = "Too many searches in a minute. Wait a little."


@dataclass(slots=True)
class _Page:
    """The page's handlers and what they share."""

    calls: CallMap
    access: Access
    links: Mapping[str, str]
    version: str
    now: Callable[[], int]
    elapsed: Callable[[], float]
    shared: CallLinks | None = None
    signer: Signer = field(default_factory=lambda: Signer(secrets.token_bytes(32)))
    searches: Searches = field(default_factory=Searches)
    logins: Rate = field(default_factory=lambda: Rate(_LOGINS_PER_MINUTE))

    # Around every request.

    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Host, viewer, form proof; and the headers of every answer."""
        try:
            answer = await self._guarded(request, handler)
        except web.HTTPException as refusal:
            # What aiohttp says of itself (404 for an address that there is not, 405, 413) is a page as well.
            answer = self._message(request, refusal.status, refusal.reason, [])
        except UnavailableError as error:
            often = error.reason == "rate"
            line = _TOO_OFTEN if often else "The call map's database is away. Calls go on being taken; try again."
            answer = self._message(request, 429 if often else 503, "Not now", [line])
            answer.headers["Retry-After"] = str(max(1, round(error.retry_after)))
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        asking = _asking(request)
        if not self.access.answers_for(asking):
            lines = ["This page does not go by the name that it was asked for."]
            return self._message(request, 421, "Not here", lines, "extensions: {lookup: {hosts: [calls.example.com]}}")
        if request.path.startswith("/static/"):
            return await handler(request)
        if request.path == "/login" or request.path.startswith(f"{LINKS_PATH}/"):
            return await handler(request)
        viewer = self.access.viewer(asking, self.signer, self.now() // words.SECOND) or self._by_link(request)
        if viewer is None:
            return self._stranger(request)
        if not viewer.may(Role.LOOK_UP):
            return self._message(request, 403, "Not for you", ["This page needs the role look_up."])
        request[_VIEWER] = viewer
        if request.method == "POST" and not await self._is_own_form(request, viewer.bound_to):
            lines = ["The form did not come from this page, or the page was too old. Go back, reload it, try again."]
            return self._message(request, 403, "Not taken", lines)
        answer = await handler(request)
        self._visit(request, answer, viewer.bound_to)
        return answer

    def _by_link(self, request: web.Request) -> Viewer | None:
        """Who came by a link to this call."""
        token = request.cookies.get(LINK, "")
        read = self.shared.read(token, self.now()) if self.shared is not None else None
        if read is None or request.match_info.get("key") != read[0] or request.method not in ("GET", "HEAD"):
            return None
        return Viewer("a link", frozenset({Role.LOOK_UP}), f"link {token}", only=read[0])

    def _stranger(self, request: web.Request) -> web.StreamResponse:
        if self.access.tokens:
            if request.method != "GET" or "Authorization" in request.headers:
                return self._message(request, 401, "Log in", ["This needs a token of extensions.lookup.tokens."])
            back = request.path_qs if _is_inside(request.path_qs) else "/"
            return _see(f"/login?{urlencode({'next': back})}" if back != "/" else "/login")
        if self.access.proxy_header:
            lines = ["The proxy in front of this page did not say who asks."]
            return self._message(request, 403, "Not for you", lines)
        lines = ["This page is open to browsers of its own machine only. For others, set tokens or a proxy:"]
        code = "extensions:\n  lookup:\n    tokens: [{token: …, name: support, roles: [look_up]}]"
        return self._message(request, 403, "Not from here", lines, code)

    async def _is_own_form(self, request: web.Request, bound_to: str) -> bool:
        """Whether a browser sent it from a page of this server; what sends a bearer token is no browser."""
        if not bound_to:
            return True
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
            return False
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return False
        form = await self._form(request)
        return self.signer.proves(form.get("csrf", ""), bound_to)

    async def _form(self, request: web.Request) -> dict[str, str]:
        """The texts of a form; bounded."""
        if request.content_type != "application/x-www-form-urlencoded":
            return {}
        return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}

    def _visit(self, request: web.Request, answer: web.StreamResponse, bound_to: str) -> None:
        """Give who has no cookie yet one that proofs can be bound to, and again to who lost it."""
        if bound_to.startswith("visit ") and request.cookies.get(VISIT, "") == "" and _VISIT in request:
            self._cookie(request, answer, VISIT, request[_VISIT], None)

    def _cookie(
        self, request: web.Request, answer: web.StreamResponse, name: str, value: str, seconds: int | None,
        path: str = "/",
    ) -> None:  # fmt: skip
        secure = request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
        answer.set_cookie(name, value, max_age=seconds, path=path, httponly=True, secure=secure, samesite="Lax")

    def _proof(self, request: web.Request) -> str:
        """For the forms of a page that is made now."""
        viewer = request.get(_VIEWER)
        bound_to = viewer.bound_to if viewer is not None else f"visit {request.cookies.get(VISIT, '')}"
        if bound_to == "visit ":
            fresh = request.get(_VISIT) or secrets.token_urlsafe(18)
            request[_VISIT] = fresh
            bound_to = f"visit {fresh}"
        return self.signer.proof(bound_to)

    def _frame(self, request: web.Request) -> dict[str, Any]:
        """What every page shows."""
        viewer = request.get(_VIEWER) or Viewer("", frozenset(), "")
        return {"csrf": self._proof(request), "viewer": viewer, "version": self.version}

    def _message(
        self, request: web.Request, status: int, heading: str, lines: list[str], code: str = ""
    ) -> web.Response:
        text = pages.page("message.html", heading=heading, lines=lines, code=code, **self._frame(request))
        return _html(text, status)

    # The list.

    async def overview(self, request: web.Request) -> web.StreamResponse:
        """Calls, newest first."""
        viewer, query = request[_VIEWER], request.query
        name = query.get("s", "")[:64]
        text = self.searches.text(name, _owner(viewer), self.elapsed()) if name else ""
        filters = {key: query.get(key) == "1" for key, _, _ in FILTERS}
        before = query.get("before", "")[:200] or None
        frame = self._frame(request)
        rows, following = [], None
        if text is not None:
            search = Search(text=text, before=before, who=viewer.who, **filters)
            found = await self._search(search)
            rows = list_rows(found.calls, _sight(viewer), self.now())
            following = found.next and pages.list_address(name, filters, found.next)
        shown = pages.page(
            "list.html",
            rows=rows,
            next=following,
            searched=bool(name),
            ended=text is None,
            # A search is asked for by number, and counts each time.
            fresh=before is None and not name,
            any_filter=any(filters.values()),
            clear=pages.list_address(name, {}),
            may_forget=viewer.may(Role.FORGET),
            filters=[
                {
                    "label": label,
                    "means": means,
                    "on": filters[key],
                    "address": pages.list_address(name, {**filters, key: not filters[key]}),
                }
                for key, label, means in FILTERS
            ],
            **frame,
        )
        return _html(shown)

    async def search(self, request: web.Request) -> web.StreamResponse:
        """The form: to the one call that there is, or to a list."""
        viewer = request[_VIEWER]
        text = (await self._form(request)).get("q", "").strip()[:_LONGEST_TEXT]
        if not text:
            return _see("/")
        found = await self._search(Search(text=text, who=viewer.who, limit=2))
        _log.info("lookup", extra={"who": viewer.who, "found": len(found.calls)})
        if len(found.calls) == 1 and found.next is None:
            return _see(f"/calls/{found.calls[0].key}")
        name = secrets.token_urlsafe(18)
        self.searches.keep(name, text, _owner(viewer), self.elapsed())
        return _see(pages.list_address(name, {}))

    async def _search(self, search: Search) -> Any:
        try:
            return await self.calls.search(search)
        except RejectedError as error:
            raise web.HTTPBadRequest from error

    # A call.

    async def call(self, request: web.Request) -> web.StreamResponse:
        """A call's page."""
        viewer, frame = request[_VIEWER], self._frame(request)
        row = await self._row(request)
        if row.key != request.match_info["key"]:
            return _see(f"/calls/{row.key}")
        view = await self._view(row, _sight(viewer), pages.asked_of(request.query))
        return _html(await asyncio.to_thread(pages.call_page, view, **frame))

    async def ticket(self, request: web.Request) -> web.StreamResponse:
        """The call as a file without numbers and content, whoever asks for it."""
        row = await self._row(request)
        asked = pages.asked_of(request.query)
        view = await self._view(row, Sight(), asked)
        written = f"{words.day(self.now())}, {words.clock(self.now())} UTC"
        text = await asyncio.to_thread(pages.ticket_page, view, self.version, written)
        answer = _html(text)
        answer.headers["Content-Disposition"] = f'attachment; filename="call-{row.key}.html"'
        # Opened from here it is as harmless as opened from a disk: it needs its own style, and nothing else.
        answer.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
        return answer

    async def trace(self, request: web.Request) -> web.StreamResponse:
        """The joined trace as OTLP JSON, as far as the viewer may see it."""
        viewer = request[_VIEWER]
        row = await self._row(request)
        documents = await self.calls.spans(row.key)
        body = await asyncio.to_thread(trace_json, documents, _sight(viewer))
        headers = {"Content-Disposition": f'attachment; filename="call-{row.key}.json"'}
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def link(self, request: web.Request) -> web.StreamResponse:
        """A link to one call: to its page, which it opens until it expires."""
        read = self.shared.read(request.match_info["token"], self.now()) if self.shared is not None else None
        if read is None:
            lines = ["It holds for a time. Ask for a new one where you found it."]
            return self._message(request, 403, "This link has ended", lines)
        row = await self.calls.call(read[0])
        if row is None:
            raise web.HTTPNotFound(reason="No such call")
        assert self.shared is not None
        _log.info("a link to a call was opened", extra={"call": row.key})
        path = f"/calls/{row.key}"
        answer = _see(path)
        seconds = max(1, read[1] - self.now() // words.SECOND)
        self._cookie(request, answer, LINK, self.shared.token(row.key, read[1]), seconds, path)
        return answer

    async def _row(self, request: web.Request) -> CallRow:
        key = request.match_info["key"]
        row = await self.calls.call(key) if _KEY.fullmatch(key) else None
        if row is None:
            raise web.HTTPNotFound(reason="No such call")
        return row

    async def _view(self, row: CallRow, sight: Sight, asked: Asked) -> CallView:
        documents = await self.calls.spans(row.key)
        medians = await self.calls.recent_medians()
        return await asyncio.to_thread(self._build, row, documents, medians, sight, asked)

    def _build(
        self, row: CallRow, documents: Any, medians: Mapping[str, float], sight: Sight, asked: Asked
    ) -> CallView:
        spans = list(read_spans(documents))
        return call_view(row, spans, medians, sight, asked, self.links, self.now())

    # Figures.

    async def report(self, request: web.Request) -> web.StreamResponse:
        """Figures of the last days, as a page, JSON or CSV."""
        period = request.query.get("since", "7d")
        if period not in PERIODS:
            raise web.HTTPBadRequest(reason=f"since is one of {', '.join(PERIODS)}")
        until = self.now()
        since = until - PERIODS[period] * HOUR
        said = await self.calls.over(since, until, lambda rows: report(rows, since, until))
        form = request.path.rpartition(".")[2]
        if form in ("json", "csv"):
            headers = {"Content-Disposition": f'attachment; filename="report-{period}.{form}"'}
            if form == "json":
                del said["lines"]
                return web.json_response(said, headers=headers)
            sheet = StringIO()
            csv.writer(sheet, lineterminator="\n").writerows(rows(said))
            return web.Response(text=sheet.getvalue(), content_type="text/csv", headers=headers)
        view = report_view(said, period, since, until)
        shown = pages.page("report.html", report=view, periods=PERIODS, columns=columns(), **self._frame(request))
        return _html(shown)

    # Forgetting.

    async def forget(self, request: web.Request) -> web.StreamResponse:
        """Asks which number; removes its calls."""
        viewer, frame = request[_VIEWER], self._frame(request)
        if not viewer.may(Role.FORGET):
            raise web.HTTPForbidden(reason="This needs the role forget")
        if request.method == "GET":
            return _html(pages.page("forget.html", done=None, **frame))
        form = await self._form(request)
        number = form.get("number", "").strip()[:_LONGEST_TEXT]
        if not number or form.get("sure") != "yes":
            return _see("/forget")
        gone = await self.calls.forget(number)
        _log.info("forgot a number", extra={"who": viewer.who, "calls": gone.calls})
        done = {"words": words.count(gone.calls, "call"), "traces": [trace.hex() for trace in gone.traces]}
        return _html(pages.page("forget.html", done=done, **frame))

    # Logging in.

    async def login(self, request: web.Request) -> web.StreamResponse:
        """The form for a token, and its answer."""
        if not self.access.tokens:
            return _see("/")
        frame = self._frame(request)
        if request.method == "GET":
            back = request.query.get("next", "/")
            answer: web.StreamResponse = _html(pages.page("login.html", next=back, wrong="", **frame))
            self._visit(request, answer, "visit ")
            return answer
        if not await self._is_own_form(request, f"visit {request.cookies.get(VISIT, '')}"):
            return self._message(request, 403, "Not taken", ["The form was too old, or cookies are off. Try again."])
        form = await self._form(request)
        back = form.get("next", "/")
        peer = _asking(request).peer
        if not self.logins.allows(peer, self.elapsed()):
            _log.warning("too many logins")
            return self._message(request, 429, "Not now", ["Too many tries in a minute. Wait a little."])
        found = self.access.token(form.get("token", "").strip())
        if found is None:
            _log.warning("a wrong token at the lookup page")
            return _html(pages.page("login.html", next=back, wrong="That is no token of this page.", **frame), 401)
        answer = _see(back if _is_inside(back) else "/")
        cookie = self.signer.session(found[0], secrets.token_urlsafe(18), self.now() // words.SECOND)
        self._cookie(request, answer, SESSION, cookie, SESSION_SECONDS)
        return answer

    async def logout(self, request: web.Request) -> web.StreamResponse:
        """Takes the cookie back."""
        answer = _see("/login" if self.access.tokens else "/")
        answer.del_cookie(SESSION, path="/")
        return answer

    async def static(self, request: web.Request) -> web.StreamResponse:
        """Style, script, icon."""
        name = request.match_info["name"]
        if name not in pages.STATIC:
            raise web.HTTPNotFound
        headers = {"Cache-Control": "public, max-age=3600"}
        kind = pages.STATIC[name]
        return web.Response(body=pages.static(name), content_type=kind, charset="utf-8", headers=headers)


def page_app(
    calls: CallMap,
    access: Access,
    links: Mapping[str, str],
    version: str,
    *,
    now: Callable[[], int] = time.time_ns,
    elapsed: Callable[[], float] = time.monotonic,
    shared: CallLinks | None = None,
) -> web.Application:
    """The page over a call map. ``links``: templates of addresses elsewhere, by label; ``now``: Unix nanoseconds;
    ``elapsed``: seconds that never go back; ``shared``: opens links to single calls."""
    page = _Page(calls, access, links, version, now, elapsed, shared)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await page.guard(request, handler)

    app = web.Application(middlewares=[guard], client_max_size=_MAX_BODY)
    app.add_routes(
        [
            web.get("/", page.overview),
            web.post("/search", page.search),
            web.get("/calls/{key}", page.call),
            web.get("/calls/{key}/trace.json", page.trace),
            web.get("/calls/{key}/ticket.html", page.ticket),
            web.get(f"{LINKS_PATH}/{{token}}", page.link),
            *[web.get(f"/report{form}", page.report) for form in ("", ".json", ".csv")],
            web.get("/forget", page.forget),
            web.post("/forget", page.forget),
            web.get("/login", page.login),
            web.post("/login", page.login),
            web.post("/logout", page.logout),
            web.get("/static/{name}", page.static),
        ]
    )
    return app


def _asking(request: web.Request) -> Asking:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    address = str(peer[0]) if isinstance(peer, tuple) else ""
    host = request.headers.get("Host", "")
    return Asking(is_local(request), address, host, request.headers, request.cookies)


def _sight(viewer: Viewer) -> Sight:
    return Sight(numbers=viewer.may(Role.NUMBERS), content=viewer.may(Role.CONTENT))


def _owner(viewer: Viewer) -> str:
    return f"{viewer.who} {viewer.bound_to}"


def _is_inside(address: str) -> bool:
    """Whether it is an address of this page: no scheme, no host, nothing that a browser could read as one."""
    return re.fullmatch(r"/(?![/\\])[\w./~?&=%+-]*", address, re.ASCII) is not None


def _see(address: str) -> web.Response:
    return web.Response(status=303, headers={"Location": address})


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")
