"""Views as HTML. Everything that stands in a page is escaped; no page has a script or a style of its own."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from grafter.web import words
from grafter.web.call_view import CallView, PageQuery

_MOST_OPENED = 50
_HERE = Path(__file__).parent
STATIC = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""The files that pages refer to."""


@cache
def static(name: str) -> bytes:
    return (_HERE / "static" / name).read_bytes()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(offset=words.offset, tick=words.length)
    environment.filters["unbroken"] = words.unbroken
    return environment


def page(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def call_address(key: str, query: PageQuery) -> Callable[..., str]:
    """Makes the address of a call's page: as it is now, but for what is given."""

    def here(**changes: Any) -> str:
        opened = set(query.opened)
        if group := changes.get("toggle"):
            opened ^= {group}
        turn = changes.get("turn", query.turn)
        span = changes.get("span", query.span)
        pairs = [
            ("turn", turn),
            ("page", changes.get("page", None if "span" in changes or "turn" in changes else query.page)),
            ("span", span),
            ("turns", "all" if changes.get("all_turns", query.all_turns) else None),
            *(("open", each) for each in sorted(opened)),
        ]
        given = [pair for pair in pairs if pair[1] not in (None, "") and pair != ("page", 1)]
        encoded = urlencode(given)
        return f"/calls/{key}" + (f"?{encoded}" if encoded else "")

    return here


def page_query(query: Mapping[str, str]) -> PageQuery:
    """What of a call an address names; what is malformed in it counts as left out."""
    opened = query.getall("open", []) if hasattr(query, "getall") else []
    span = query.get("span", "")
    return PageQuery(
        turn=_number(query.get("turn")),
        opened=tuple(each[:40] for each in opened[:_MOST_OPENED]),
        span=span if re.fullmatch(r"[0-9a-f]{16}", span) else "",
        page=_number(query.get("page")),
        all_turns=query.get("turns") == "all",
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,6}", text) else None


def call_page(view: CallView, version: str, **values: Any) -> str:
    here = call_address(view.key, view.query)
    return page("call.html", call=view, here=here, ticket=False, version=version, **values)


def ticket_page(view: CallView, version: str, written: str) -> str:
    """A call as one file that needs no server: no script, no address but those of other parts of the file."""

    def here(**changes: Any) -> str:
        return ""

    style = static("page.css").decode()
    return page("ticket.html", call=view, here=here, ticket=True, version=version, written=written, style=style)


def list_address(search: str, filters: Mapping[str, bool], before: str | None = None) -> str:
    pairs = [("s", search), *((name, "1") for name, on in filters.items() if on), ("before", before or "")]
    query = urlencode([(name, value) for name, value in pairs if value])
    return f"/?{query}" if query else "/"
