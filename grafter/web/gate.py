"""Who gets at the page over HTTP: names, viewers, links, sessions, proofs of forms, and what every answer carries."""

import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from grafter.calls.base import CallMap
from grafter.calls.call_link import LINKS_PATH, CallLinks
from grafter.errors import RejectedError, UnavailableError
from grafter.receiver.http_server import is_local
from grafter.web import pages, words
from grafter.web.access import LINK, SESSION, SESSION_SECONDS, VISIT, Access, PageRequest, Rate, Role, Signer, Viewer

logger = logging.getLogger(__name__)

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

VIEWER = web.RequestKey("viewer", Viewer)
"""Who asks; on every request that a handler of the page gets."""
_VISIT = web.RequestKey("visit", str)
"""A cookie that goes out with the answer."""
_LOGINS_PER_MINUTE = 10
_TOO_OFTEN = "Too many searches in a minute. Wait a little."


@dataclass(slots=True)
class Gate:
    calls: CallMap
    access: Access
    version: str
    now: Callable[[], int]
    """Unix nanoseconds."""
    elapsed: Callable[[], float]
    """Seconds that never go back."""
    shared: CallLinks | None = None
    """Opens links to single calls."""
    signer: Signer = field(default_factory=lambda: Signer(secrets.token_bytes(32)))
    logins: Rate = field(default_factory=lambda: Rate(_LOGINS_PER_MINUTE))

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Host, viewer, form proof; and the headers of every answer."""
        try:
            answer = await self._guarded(request, handler)
        except web.HTTPException as refusal:
            # What aiohttp says of itself (404 for an address that there is not, 405, 413) is a page as well.
            answer = self.message(request, refusal.status, refusal.reason, [])
        except RejectedError as error:
            answer = self.message(request, 400, "Not taken", [f"{error}."])
        except UnavailableError as error:
            often = error.reason == "rate"
            line = _TOO_OFTEN if often else "The call map's database is away. Calls go on being taken; try again."
            answer = self.message(request, 429 if often else 503, "Not now", [line])
            answer.headers["Retry-After"] = str(max(1, round(error.retry_after)))
        except Exception:
            logger.exception("a page could not be made")
            answer = self.message(request, 500, "That went wrong", ["The log of grafter says what it was."])
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        page_request = _page_request(request)
        if not self.access.answers_for(page_request):
            lines = ["This page does not go by the name that it was asked for."]
            return self.message(request, 421, "Not here", lines, "extensions: {lookup: {hosts: [calls.example.com]}}")
        if request.path == "/login" or request.path.startswith(("/static/", f"{LINKS_PATH}/")):
            return await handler(request)
        viewer = self.access.viewer(page_request, self.signer, self.now() // words.SECOND) or self._by_link(request)
        if viewer is None:
            return self._stranger(request)
        if not viewer.may(Role.LOOK_UP):
            return self.message(request, 403, "Not for you", ["This page needs the role look_up."])
        request[VIEWER] = viewer
        if request.method == "POST" and not await self._is_own_form(request, viewer.bound_to):
            lines = ["The form did not come from this page, or the page was too old. Go back, reload it, try again."]
            return self.message(request, 403, "Not taken", lines)
        answer = await handler(request)
        self._visit(request, answer, viewer.bound_to)
        return answer

    def _by_link(self, request: web.Request) -> Viewer | None:
        """Who came by a link to this call."""
        read = self._by_cookie(request)
        if read is None or request.match_info.get("key") != read[0] or request.method not in ("GET", "HEAD"):
            return None
        return Viewer("a link", frozenset({Role.LOOK_UP}), f"link {read[0]}", only=read[0])

    def _by_cookie(self, request: web.Request) -> tuple[str, int] | None:
        return self._read(request.cookies.get(LINK, ""))

    def _read(self, token: str) -> tuple[str, int] | None:
        """The call's key that a link holds, and its last second."""
        return None if self.shared is None else self.shared.read(token, self.now())

    def _stranger(self, request: web.Request) -> web.StreamResponse:
        if self.access.tokens:
            if request.method != "GET" or "Authorization" in request.headers:
                return self.message(request, 401, "Log in", ["This needs a token of extensions.lookup.tokens."])
            back = request.path_qs if _is_inside(request.path_qs) else "/"
            return see(f"/login?{urlencode({'next': back})}" if back != "/" else "/login")
        if self.access.proxy_header:
            lines = ["The proxy in front of this page did not say who asks."]
            return self.message(request, 403, "Not for you", lines)
        lines = ["This page is open to browsers of its own machine only. For others, set tokens or a proxy:"]
        code = "extensions:\n  lookup:\n    tokens: [{token: …, name: support, roles: [look_up]}]"
        return self.message(request, 403, "Not from here", lines, code)

    async def _is_own_form(self, request: web.Request, bound_to: str) -> bool:
        """Whether a browser sent it from a page of this server; what sends a bearer token is no browser."""
        if not bound_to:
            return True
        origin = request.headers.get("Origin")
        if origin is not None and _authority(origin) != request.headers.get("Host", "").lower():
            return False
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return False
        form = await self.form(request)
        return self.signer.proves(form.get("csrf", ""), bound_to)

    async def form(self, request: web.Request) -> dict[str, str]:
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
        viewer = request.get(VIEWER)
        bound_to = viewer.bound_to if viewer is not None else f"visit {request.cookies.get(VISIT, '')}"
        if bound_to == "visit ":
            fresh = request.get(_VISIT) or secrets.token_urlsafe(18)
            request[_VISIT] = fresh
            bound_to = f"visit {fresh}"
        return self.signer.proof(bound_to)

    def frame(self, request: web.Request) -> dict[str, Any]:
        viewer = request.get(VIEWER) or Viewer("", frozenset(), "")
        return {"csrf": self._proof(request), "viewer": viewer, "version": self.version}

    def message(
        self, request: web.Request, status: int, heading: str, lines: list[str], code: str = ""
    ) -> web.Response:
        text = pages.page("message.html", heading=heading, lines=lines, code=code, **self.frame(request))
        return html_answer(text, status)

    # Coming in.

    async def login(self, request: web.Request) -> web.StreamResponse:
        """The form for a token, and its answer."""
        if not self.access.tokens:
            return see("/")
        frame = self.frame(request)
        if request.method == "GET":
            back = request.query.get("next", "/")
            answer: web.StreamResponse = html_answer(pages.page("login.html", next=back, wrong="", **frame))
            self._visit(request, answer, "visit ")
            return answer
        if not await self._is_own_form(request, f"visit {request.cookies.get(VISIT, '')}"):
            return self.message(request, 403, "Not taken", ["The form was too old, or cookies are off. Try again."])
        form = await self.form(request)
        back = form.get("next", "/")
        peer = _page_request(request).peer
        if not self.logins.allows(peer, self.elapsed()):
            logger.warning("too many logins")
            return self.message(request, 429, "Not now", ["Too many tries in a minute. Wait a little."])
        found = self.access.token(form.get("token", "").strip())
        if found is None:
            logger.warning("a wrong token at the lookup page")
            wrong = "That is no token of this page."
            return html_answer(pages.page("login.html", next=back, wrong=wrong, **frame), 401)
        answer = see(back if _is_inside(back) else "/")
        cookie = self.signer.session(found[0], secrets.token_urlsafe(18), self.now() // words.SECOND)
        self._cookie(request, answer, SESSION, cookie, SESSION_SECONDS)
        return answer

    async def logout(self, request: web.Request) -> web.StreamResponse:
        """Takes the cookie back."""
        answer = see("/login" if self.access.tokens else "/")
        answer.del_cookie(SESSION, path="/")
        return answer

    async def link(self, request: web.Request) -> web.StreamResponse:
        """A link to one call: to its page, which it opens until it expires."""
        read = self._read(request.match_info["token"])
        if read is None:
            lines = ["It holds for a time. Ask for a new one where you found it."]
            return self.message(request, 403, "This link has ended", lines)
        row = await self.calls.call(read[0])
        if row is None:
            raise web.HTTPNotFound(reason="No such call")
        logger.info("a link to a call was opened", extra={"call": row.key})
        answer = see(f"/calls/{row.key}")
        self._open(request, answer, row.key, read[1])
        return answer

    def pass_on(self, request: web.Request, answer: web.StreamResponse, key: str) -> None:
        """Who came by a link goes on seeing the call under the key that it has got since."""
        read = self._by_cookie(request)
        if request[VIEWER].only and read is not None:
            self._open(request, answer, key, read[1])

    def _open(self, request: web.Request, answer: web.StreamResponse, key: str, until: int) -> None:
        """Let whoever gets this answer see one call until a Unix second."""
        if self.shared is not None:
            seconds = max(1, until - self.now() // words.SECOND)
            self._cookie(request, answer, LINK, self.shared.token(key, until), seconds, f"/calls/{key}")


def _page_request(request: web.Request) -> PageRequest:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    address = str(peer[0]) if isinstance(peer, tuple) else ""
    host = request.headers.get("Host", "")
    return PageRequest(is_local(request), address, host, request.headers, request.cookies)


def _authority(origin: str) -> str | None:
    """Host and port of an Origin; None for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _is_inside(address: str) -> bool:
    """Whether it is an address of this page: no scheme, no host, nothing that a browser could read as one."""
    return re.fullmatch(r"/(?![/\\])[\w./~?&=%+-]*", address, re.ASCII) is not None


def see(address: str) -> web.Response:
    return web.Response(status=303, headers={"Location": address})


def html_answer(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")
