"""The lookup page over HTTP: what stands at its addresses, and what its forms do.

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

from aiohttp import web

from grafter.calls.base import CallMap
from grafter.calls.call_link import LINKS_PATH, CallLinks
from grafter.calls.model import CallRow, Search
from grafter.calls.report import report, rows
from grafter.core.policy import HOUR
from grafter.otlp.reading import read_spans
from grafter.web import pages, words
from grafter.web.access import Access, Role, Searches, Viewer
from grafter.web.call_view import CallView, PageQuery, call_view
from grafter.web.gate import VIEWER, Gate, html_answer, see
from grafter.web.list_view import FILTERS, list_rows
from grafter.web.redaction import Sight, trace_json
from grafter.web.report_view import PERIODS, columns, report_view

_log = logging.getLogger(__name__)

_MAX_BODY = 16 << 10
_LONGEST_TEXT = 200
_KEY = re.compile(r"[A-Za-z0-9._~-]{1,128}")


@dataclass(slots=True)
class _Page:
    gate: Gate
    links: Mapping[str, str]
    searches: Searches = field(default_factory=Searches)

    @property
    def calls(self) -> CallMap:
        return self.gate.calls

    def now(self) -> int:
        return self.gate.now()

    # The list.

    async def overview(self, request: web.Request) -> web.StreamResponse:
        viewer, query = request[VIEWER], request.query
        name = query.get("s", "")[:64]
        text = self.searches.text(name, _owner(viewer), self.gate.elapsed()) if name else ""
        filters = {key: query.get(key) == "1" for key, _, _ in FILTERS}
        before = query.get("before", "")[:200] or None
        frame = self.gate.frame(request)
        rows, following = [], None
        if text is not None:
            search = Search(text=text, before=before, who=viewer.who, **filters)
            found = await self.calls.search(search)
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
        return html_answer(shown)

    async def search(self, request: web.Request) -> web.StreamResponse:
        """The form: to the one call that there is, or to a list."""
        viewer = request[VIEWER]
        text = (await self.gate.form(request)).get("q", "").strip()[:_LONGEST_TEXT]
        if not text:
            return see("/")
        found = await self.calls.search(Search(text=text, who=viewer.who, limit=2))
        _log.info("lookup", extra={"who": viewer.who, "found": len(found.calls)})
        if len(found.calls) == 1 and found.next is None:
            return see(f"/calls/{found.calls[0].key}")
        name = secrets.token_urlsafe(18)
        self.searches.keep(name, text, _owner(viewer), self.gate.elapsed())
        return see(pages.list_address(name, {}))

    # A call.

    async def call(self, request: web.Request) -> web.StreamResponse:
        viewer, frame = request[VIEWER], self.gate.frame(request)
        row = await self._row(request)
        if row.key != request.match_info["key"]:
            answer = see(f"/calls/{row.key}")
            self.gate.pass_on(request, answer, row.key)
            return answer
        view = await self._view(row, _sight(viewer), pages.page_query(request.query))
        return html_answer(await asyncio.to_thread(pages.call_page, view, **frame))

    async def ticket(self, request: web.Request) -> web.StreamResponse:
        """The call as a file without numbers and content, whoever asks for it."""
        row = await self._row(request)
        query = pages.page_query(request.query)
        view = await self._view(row, Sight(), query)
        written = f"{words.day(self.now())}, {words.clock(self.now())} UTC"
        text = await asyncio.to_thread(pages.ticket_page, view, self.gate.version, written)
        answer = html_answer(text)
        answer.headers["Content-Disposition"] = f'attachment; filename="call-{row.key}.html"'
        # Opened from here it is as harmless as opened from a disk: it needs its own style, and nothing else.
        answer.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
        return answer

    async def trace(self, request: web.Request) -> web.StreamResponse:
        """The joined trace as OTLP JSON, as far as the viewer may see it."""
        viewer = request[VIEWER]
        row = await self._row(request)
        documents = await self.calls.spans(row.key)
        body = await asyncio.to_thread(trace_json, documents, _sight(viewer))
        headers = {"Content-Disposition": f'attachment; filename="call-{row.key}.json"'}
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def _row(self, request: web.Request) -> CallRow:
        key = request.match_info["key"]
        row = await self.calls.call(key) if _KEY.fullmatch(key) else None
        if row is None:
            raise web.HTTPNotFound(reason="No such call")
        return row

    async def _view(self, row: CallRow, sight: Sight, query: PageQuery) -> CallView:
        documents = await self.calls.spans(row.key)
        medians = await self.calls.recent_medians()
        return await asyncio.to_thread(self._build, row, documents, medians, sight, query)

    def _build(
        self, row: CallRow, documents: Any, medians: Mapping[str, float], sight: Sight, query: PageQuery
    ) -> CallView:
        spans = list(read_spans(documents))
        return call_view(row, spans, medians, sight, query, self.links, self.now())

    # Figures.

    async def report(self, request: web.Request) -> web.StreamResponse:
        """Figures of the last days, as a page, JSON or CSV."""
        period = request.query.get("since", "7d")
        if period not in PERIODS:
            raise web.HTTPBadRequest(reason=f"since is one of {', '.join(PERIODS)}")
        until = self.now()
        since = until - PERIODS[period] * HOUR
        figures = await self.calls.over(since, until, lambda rows: report(rows, since, until))
        form = request.path.rpartition(".")[2]
        if form in ("json", "csv"):
            headers = {"Content-Disposition": f'attachment; filename="report-{period}.{form}"'}
            if form == "json":
                del figures["lines"]
                return web.json_response(figures, headers=headers)
            sheet = StringIO()
            csv.writer(sheet, lineterminator="\n").writerows(rows(figures))
            return web.Response(text=sheet.getvalue(), content_type="text/csv", headers=headers)
        view = report_view(figures, period, since, until)
        shown = pages.page("report.html", report=view, periods=PERIODS, columns=columns(), **self.gate.frame(request))
        return html_answer(shown)

    # Forgetting.

    async def forget(self, request: web.Request) -> web.StreamResponse:
        """Asks which number; removes its calls."""
        viewer, frame = request[VIEWER], self.gate.frame(request)
        if not viewer.may(Role.FORGET):
            raise web.HTTPForbidden(reason="This needs the role forget")
        if request.method == "GET":
            return html_answer(pages.page("forget.html", done=None, **frame))
        form = await self.gate.form(request)
        number = form.get("number", "").strip()[:_LONGEST_TEXT]
        if not number or form.get("sure") != "yes":
            return see("/forget")
        gone = await self.calls.forget(number, viewer.who)
        done = {"words": words.count(gone.calls, "call"), "traces": [trace.hex() for trace in gone.traces]}
        return html_answer(pages.page("forget.html", done=done, **frame))

    async def static(self, request: web.Request) -> web.StreamResponse:
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
    gate = Gate(calls, access, version, now, elapsed, shared)
    page = _Page(gate, links)

    app = web.Application(middlewares=[gate.guard], client_max_size=_MAX_BODY)
    app.add_routes(
        [
            web.get("/", page.overview),
            web.post("/search", page.search),
            web.get("/calls/{key}", page.call),
            web.get("/calls/{key}/trace.json", page.trace),
            web.get("/calls/{key}/ticket.html", page.ticket),
            web.get(f"{LINKS_PATH}/{{token}}", gate.link),
            *[web.get(f"/report{form}", page.report) for form in ("", ".json", ".csv")],
            web.get("/forget", page.forget),
            web.post("/forget", page.forget),
            web.get("/login", gate.login),
            web.post("/login", gate.login),
            web.post("/logout", gate.logout),
            web.get("/static/{name}", page.static),
        ]
    )
    return app


def _sight(viewer: Viewer) -> Sight:
    return Sight(numbers=viewer.may(Role.NUMBERS), content=viewer.may(Role.CONTENT))


def _owner(viewer: Viewer) -> str:
    return f"{viewer.who} {viewer.bound_to}"
