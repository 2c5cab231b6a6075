"""The page over HTTP, without a browser: who gets in, what may be posted, and what never leaves."""

import html
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from yarl import URL

from grafter.calls.call_link import CallLinks
from grafter.calls.model import PhoneView
from grafter.core.redact import digest
from grafter.receiver.http_server import serving
from grafter.web.access import Access, Role
from grafter.web.app import page_app
from grafter.web.config import LookupExtension
from grafter.web.pages import static
from tests.web.conftest import LINKS, now
from tests.web.double import MemoryCalls

LOOK = frozenset({Role.LOOK_UP})
EVERYTHING = frozenset(Role)


class Page:
    """A browser without a screen: keeps cookies, follows nothing by itself."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self.session = session
        self.base = f"http://localhost:{port}"

    async def get(self, path: str, **headers: str) -> tuple[int, str, Any]:
        async with self.session.get(
            URL(self.base + path, encoded=True), headers=headers, allow_redirects=False
        ) as answer:
            return answer.status, await answer.text(), answer.headers

    async def post(self, path: str, headers: dict[str, str] | None = None, **form: str) -> tuple[int, str, Any]:
        async with self.session.post(self.base + path, data=form, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.text(), answer.headers

    async def proof(self, path: str = "/") -> str:
        _, text, _ = await self.get(path)
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', text)
        assert found, text[:400]
        return found[1]

    async def search(self, text: str) -> tuple[int, str, Any]:
        return await self.post("/search", csrf=await self.proof(), q=text)


@asynccontextmanager
async def page(calls: MemoryCalls, access: Access | None = None, **more: Any) -> AsyncIterator[Page]:
    app = page_app(calls, access or Access(), LINKS, "0", now=now, **more)
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        serving(app, "127.0.0.1:0", None, 1.0) as (_, port),
        aiohttp.ClientSession(cookie_jar=jar) as session,
    ):
        yield Page(session, port)


SLOW = "+15550104037"
"""The caller of the call with the slow tool."""


@pytest.mark.parametrize("form", [SLOW, "1 (555) 010-4037", "001 555 010 4037", "555.010.4037", "  +1-555-010-4037 "])
async def test_a_number_in_any_form_leads_to_its_call(calls: MemoryCalls, form: str) -> None:
    """The answer to the form is the call; the number stands neither in the address nor in any header."""
    async with page(calls) as it:
        status, _, headers = await it.search(form)
        assert status == 303
        assert headers["Location"] == f"/calls/{calls.names['slow tool']}"
        assert "4037" not in str(headers)
        status, text, _ = await it.get(headers["Location"])
    assert status == 200
    assert "Turn 3 took 2.93 s; 1.68 s of it was your tool book_slot." in html.unescape(text)


async def test_ids_lead_to_their_call(calls: MemoryCalls) -> None:
    """A carrier's id, OpenAI's, and the host's trace id."""
    row = next(row for row in calls.rows if row.key == calls.names["slow tool"])
    async with page(calls) as it:
        for text in (*(each.value for each in row.ids), row.traces[0].hex()):
            status, _, headers = await it.search(text)
            assert (status, headers["Location"]) == (303, f"/calls/{row.key}")


async def test_several_calls_are_a_list_under_a_name_that_says_nothing(calls: MemoryCalls) -> None:
    """The name leads nobody else to the search, and ends."""
    twice = MemoryCalls([*calls.rows], dict(calls.documents), dict.fromkeys(calls.numbers, "15550104037"), calls.names)
    clock = [0.0]
    async with page(twice, elapsed=lambda: clock[0]) as it:
        _, _, headers = await it.search(SLOW)
        place = headers["Location"]
        assert re.fullmatch(r"/\?s=[\w-]{20,}", place)
        assert "4037" not in place
        _, text, _ = await it.get(place)
        assert text.count('class="row"') == len(calls.rows)
        assert twice.searches[-1].text == SLOW
        filtered = re.search(r'href="(/\?s=[^"]*slow=1)"', text)
        assert filtered
        await it.get(html.unescape(filtered[1]))
        assert (twice.searches[-1].text, twice.searches[-1].slow) == (SLOW, True)
        it.session.cookie_jar.clear()
        _, text, _ = await it.get(place)
        assert "This search has ended" in text
    async with page(twice, elapsed=lambda: clock[0]) as it:
        _, _, headers = await it.search(SLOW)
        clock[0] += 1801
        _, text, _ = await it.get(headers["Location"])
        assert "This search has ended" in text


async def test_no_number_is_logged(calls: MemoryCalls, caplog: pytest.LogCaptureFixture) -> None:
    """A lookup is logged, by whom, and not of what."""
    caplog.set_level(logging.DEBUG)
    async with page(calls) as it:
        await it.search(SLOW)
    told = [record for record in caplog.records if record.message == "lookup"]
    assert [record.who for record in told] == ["this machine"]  # type: ignore[attr-defined]
    for record in caplog.records:
        assert "4037" not in f"{record.getMessage()} {record.__dict__}"


@pytest.mark.parametrize("path", ["/", "/calls/{slow tool}", "/static/page.css", "/nowhere", "/calls/none", "/forget"])
async def test_every_answer_has_the_headers(calls: MemoryCalls, path: str) -> None:
    """No script or style but the page's own files, no frame, no referrer for others, nothing kept."""
    path = path.replace("{slow tool}", calls.names["slow tool"])
    async with page(calls) as it:
        _, text, headers = await it.get(path)
    policy = headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    for rule in (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
    ):
        assert rule in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    if headers["Content-Type"].startswith("text/html"):
        assert headers["Cache-Control"] == "no-store"
        # What the policy would refuse is not there either.
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?! src=\"/static/page\.js)", text)


async def test_hostile_names_are_text(calls: MemoryCalls) -> None:
    """What a span or a service is called never becomes markup, turns no direction of writing, breaks no line."""
    key = calls.names["hostile names"]
    async with page(calls) as it:
        for path in ("/", f"/calls/{key}", f"/calls/{key}/ticket.html"):
            _, text, _ = await it.get(path)
            for bad in ("<script>alert", "<img", "<b onclick", "\u202e", "\u202c", "\x00", "\x1b"):
                assert bad not in text, (path, bad)
        _, text, _ = await it.get(f"/calls/{key}")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "x" * 130 not in text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:4320", 200),
        ("127.0.0.1", 200),
        ("[::1]:4320", 200),
        ("LOCALHOST", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:4320", 421),
        ("192.168.1.7:4320", 421),
    ],
)
async def test_only_the_pages_own_names(calls: MemoryCalls, host: str, status: int) -> None:
    """A page elsewhere that makes its name point to this machine reads nothing."""
    async with page(calls) as it:
        found, text, _ = await it.get("/", Host=host)
    assert found == status
    assert ("4037" in text) == (status == 200)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-Ip"])
async def test_what_a_proxy_passes_on_is_not_local(calls: MemoryCalls, header: str) -> None:
    """Without tokens the page is this machine's own."""
    async with page(calls) as it:
        status, text, _ = await it.get("/", **{header: "203.0.113.9"})
    assert status == 403
    assert "4037" not in text


async def test_a_form_must_come_from_the_page(calls: MemoryCalls) -> None:
    """Without its proof, with another visitor's, or from another origin nothing is searched or forgotten."""
    async with page(calls) as it:
        other = await it.proof()
        it.session.cookie_jar.clear()
        good = await it.proof()
        assert good != other
        before = len(calls.searches)
        for path in ("/search", "/forget", "/logout"):
            for headers, csrf in (
                ({}, ""),
                ({}, other),
                ({}, "é" * 64),
                ({"Origin": "http://evil.example"}, good),
                ({"Origin": "null"}, good),
                ({"Origin": "http://["}, good),
                ({"Sec-Fetch-Site": "cross-site"}, good),
                ({"Sec-Fetch-Site": "same-site"}, good),
            ):
                status, _, _ = await it.post(path, headers, csrf=csrf, q=SLOW, number=SLOW, sure="yes")
                assert status == 403, (path, headers, csrf)
        async with it.session.post(f"{it.base}/search", json={"csrf": good, "q": SLOW}) as answer:
            assert answer.status == 403
        assert len(calls.searches) == before
        status, _, _ = await it.post("/search", {"Origin": it.base}, csrf=good, q=SLOW)
        assert status == 303


TOKENS = Access(tokens=(("secret-1", "support", LOOK), ("secret-2", "lead", EVERYTHING)), local_roles=EVERYTHING)


async def test_a_token_is_entered_once(calls: MemoryCalls) -> None:
    """A form, a cookie that scripts cannot read, back to where one wanted to go; and out again."""
    async with page(calls, TOKENS) as it:
        wanted = f"/calls/{calls.names['quick']}?turn=2"
        status, _, headers = await it.get(wanted)
        assert status == 303
        place = headers["Location"]
        assert parse_qs(urlsplit(place).query)["next"] == [wanted]
        proof = await it.proof(place)
        status, text, _ = await it.post("/login", csrf=proof, token="secret", next=wanted)
        assert (status, "That is no token" in text) == (401, True)
        status, _, headers = await it.post("/login", csrf=proof, token=" secret-1 ", next=wanted)
        assert (status, headers["Location"]) == (303, wanted)
        cookie = headers["Set-Cookie"]
        for word in ("HttpOnly", "SameSite=Lax", "Path=/"):
            assert word in cookie
        assert "secret-1" not in cookie
        status, text, _ = await it.get(wanted)
        assert status == 200
        assert "support" in text
        status, _, headers = await it.search(SLOW)
        assert (status, headers["Location"]) == (303, f"/calls/{calls.names['slow tool']}")
        status, _, _ = await it.get("/forget")
        assert status == 403
        await it.post("/logout", csrf=await it.proof())
        status, _, _ = await it.get(wanted)
        assert status == 303


async def test_a_session_ends_and_cannot_be_made_up(calls: MemoryCalls) -> None:
    """A cookie holds half a day, for its token only, under this process's key."""
    moment = [now()]
    app = page_app(calls, TOKENS, LINKS, "0", now=lambda: moment[0])
    jar = aiohttp.CookieJar(unsafe=True)
    async with serving(app, "127.0.0.1:0", None, 1.0) as (_, port), aiohttp.ClientSession(cookie_jar=jar) as session:
        it = Page(session, port)
        await it.post("/login", csrf=await it.proof("/login"), token="secret-2")
        assert (await it.get("/"))[0] == 200
        cookie = next(each for each in jar if each.key == "grafter_session")
        for made_up in (
            cookie.value[:-1] + ("0" if cookie.value[-1] != "0" else "1"),
            "9" * 10 + cookie.value[10:],
            "x",
            "",
        ):
            headers = {"Cookie": f"grafter_session={made_up}"}
            async with (
                aiohttp.ClientSession() as bare,
                bare.get(it.base, headers=headers, allow_redirects=False) as answer,
            ):
                assert answer.status == 303
        moment[0] += 12 * 3600 * 10**9 + 10**9
        assert (await it.get("/"))[0] == 303


async def test_a_program_sends_the_token(calls: MemoryCalls) -> None:
    """A bearer token needs no cookie and no form's proof; a wrong one is told so."""
    async with page(calls, TOKENS) as it:
        assert (await it.get("/", Authorization="Bearer secret-1"))[0] == 200
        assert (await it.get("/", Authorization="bearer  secret-1"))[0] == 200
        assert (await it.get("/", Authorization="Bearer secret"))[0] == 401
        assert (await it.get("/", Authorization="Basic secret-1"))[0] == 401
        headers = {"Authorization": "Bearer secret-1"}
        assert (await it.post("/search", headers, q=SLOW))[0] == 303


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "/\t/e"]
)
async def test_a_login_leads_nowhere_else(calls: MemoryCalls, back: str) -> None:
    """Whatever the address says, after a login one is on this page."""
    async with page(calls, TOKENS) as it:
        _, _, headers = await it.post("/login", csrf=await it.proof("/login"), token="secret-1", next=back)
        assert headers["Location"] == "/"


async def test_logins_are_few_in_a_minute(calls: MemoryCalls) -> None:
    """Who tries out tokens waits, with the right one too."""
    async with page(calls, TOKENS, elapsed=lambda: 0.0) as it:
        proof = await it.proof("/login")
        found = [(await it.post("/login", csrf=proof, token=f"guess{at}"))[0] for at in range(12)]
        assert found == [401] * 10 + [429] * 2
        assert (await it.post("/login", csrf=proof, token="secret-1"))[0] == 429


async def test_lookups_are_few_in_a_minute(calls: MemoryCalls) -> None:
    """Where the call map says that one viewer asks too often, they are told to wait; it is told who asks."""
    often = replace(calls, often=True)
    async with page(often, TOKENS) as it:
        headers = {"Authorization": "Bearer secret-1"}
        status, text, found = await it.post("/search", headers, q=SLOW)
        assert (status, found["Retry-After"], "Too many searches" in text) == (429, "7", True)
        assert often.searches[-1].who == "support"


async def test_a_proxy_says_who_asks(calls: MemoryCalls) -> None:
    """Only from the proxy's own address, and only with its header."""
    access = Access(proxy_header="X-Forwarded-User", proxy_peers=(ip_network("127.0.0.0/8"),), proxy_roles=LOOK)
    async with page(calls, access) as it:
        status, text, _ = await it.get("/", **{"X-Forwarded-User": "ana@example.com", "Host": "calls.example.com"})
        assert (status, "ana@example.com" in text) == (200, True)
        assert (await it.get("/"))[0] == 403
    elsewhere = replace(access, proxy_peers=(ip_network("10.0.0.0/8"),))
    async with page(calls, elsewhere) as it:
        assert (await it.get("/", **{"X-Forwarded-User": "ana@example.com"}))[0] == 403


async def test_named_hosts_are_the_only_ones(calls: MemoryCalls) -> None:
    """With names given, a token does not open the page under another."""
    access = replace(TOKENS, hosts=("calls.example.com",))
    async with page(calls, access) as it:
        bearer = {"Authorization": "Bearer secret-1"}
        assert (await it.get("/", Host="calls.example.com:4320", **bearer))[0] == 200
        assert (await it.get("/", Host="evil.example", **bearer))[0] == 421


async def test_the_page_goes_by_the_name_that_its_links_have(calls: MemoryCalls) -> None:
    """Without any hosts a link to `address` opens, through a proxy and to who has no token."""
    extension = LookupExtension.model_validate({"address": "https://Calls.example.com/"})
    made = CallLinks(b"a secret", 10**9, extension.public_address)
    address = made.link(calls.names["quick"], now()).address
    assert address.startswith("https://Calls.example.com/links/")
    async with page(calls, extension.access(), shared=made) as it:
        assert (await it.get(urlsplit(address).path, Host="calls.example.com"))[0] == 303
        for name in ("evil.example", "", "example.com"):
            assert (await it.get(urlsplit(address).path, Host=name))[0] == 421


async def test_roles_decide_what_is_seen(calls: MemoryCalls) -> None:
    """Whole numbers, and what an app wrote into its spans, need their roles: on the page, in the file, in the trace."""
    key = calls.names["slow tool"]
    rows = [replace(row, caller=PhoneView("4037", SLOW)) if row.key == key else row for row in calls.rows]
    plain = replace(calls, rows=rows)
    async with page(plain, TOKENS) as it:
        root = next(
            iter(
                re.findall(
                    r'id="s-([0-9a-f]{16})"', (await it.get(f"/calls/{key}", Authorization="Bearer secret-2"))[1]
                )
            )
        )
        path = f"/calls/{key}?span={root}"
        _, seen, _ = await it.get(path, Authorization="Bearer secret-2")
        assert SLOW in seen
        _, unseen, _ = await it.get(path, Authorization="Bearer secret-1")
        assert "0104037" not in unseen
        assert "••• (hidden)" in unseen
        _, body, headers = await it.get(f"/calls/{key}/trace.json", Authorization="Bearer secret-2")
        assert SLOW in body
        _, body, headers = await it.get(f"/calls/{key}/trace.json", Authorization="Bearer secret-1")
        assert "0104037" not in body
        assert headers["Content-Disposition"] == f'attachment; filename="call-{key}.json"'
        spans = [
            span
            for each in json.loads(body)["resourceSpans"]
            for scope in each["scopeSpans"]
            for span in scope["spans"]
        ]
        assert len(spans) == next(row.spans for row in rows if row.key == key)
        _, body, _ = await it.get(f"/calls/{key}/ticket.html", Authorization="Bearer secret-2")
        assert "0104037" not in body
        assert SLOW in (await it.get("/", Authorization="Bearer secret-2"))[1]
        assert "0104037" not in (await it.get("/", Authorization="Bearer secret-1"))[1]


async def test_the_file_for_a_ticket_stands_alone(calls: MemoryCalls) -> None:
    """One file: no script, nothing to fetch, no way back into the page, and the verdict."""
    async with page(calls) as it:
        _, text, headers = await it.get(f"/calls/{calls.names['slow tool']}/ticket.html")
    assert headers["Content-Disposition"].startswith("attachment")
    assert "<script" not in text
    assert not re.search(r'(src|href)="(?!#)', text)
    assert not re.search(r"url\((?!#)", text)
    assert "1.68 s of it was your tool book_slot" in text
    assert text.count("<form") == 0
    style = static("page.css").decode()
    assert f"<style>{style}</style>" in text
    assert "</" not in style


async def test_forgetting_needs_its_role_and_a_yes(calls: MemoryCalls) -> None:
    """A number is removed by its form alone; the traces that live on are named."""
    own = replace(calls, rows=list(calls.rows))
    async with page(own) as it:
        proof = await it.proof("/forget")
        status, _, _ = await it.post("/forget", csrf=proof, number=SLOW)
        assert (status, len(own.rows)) == (303, len(calls.rows))
        status, text, _ = await it.post("/forget", csrf=proof, number=SLOW, sure="yes")
        assert (status, len(own.rows)) == (200, len(calls.rows) - 1)
        gone = next(row for row in calls.rows if row.key == calls.names["slow tool"])
        assert gone.traces[0].hex() in text
        status, text, _ = await it.post("/forget", csrf=proof, number="nobody", sure="yes")
        assert (status, "that is no phone number" in text) == (400, True)


async def test_a_database_that_is_away(calls: MemoryCalls) -> None:
    """Said so, with when to come back."""
    away = replace(calls, away=True)
    async with page(away) as it:
        for path in ("/", f"/calls/{calls.names['quick']}"):
            status, text, headers = await it.get(path)
            assert (status, "database is away" in text) == (503, True)
            assert int(headers["Retry-After"]) >= 1


ODD = (
    *("turn=x", "turn=999999", "turn=-1", "turn=%00", "turns=all&turn=1", "page=0", "page=99999999999999999999"),
    *("page=%EF%BC%92", "span=zz", "span=" + "f" * 16, "open=" + "x" * 5000, "&".join(["open=a"] * 500)),
)


@pytest.mark.parametrize("query", ODD)
async def test_odd_addresses_show_the_call(calls: MemoryCalls, query: str) -> None:
    """What an address does not say well it does not say."""
    async with page(calls) as it:
        status, text, _ = await it.get(f"/calls/{calls.names['slow tool']}?{query}")
    assert status == 200
    assert "2.93 s" in text


@pytest.mark.parametrize(
    "path", ["/calls/none", "/calls/%2e%2e%2fetc", "/calls/" + "a" * 500, "/static/app.py", "/static/..%2fapp.py"]
)
async def test_what_there_is_not(calls: MemoryCalls, path: str) -> None:
    """404, as a page."""
    async with page(calls) as it:
        status, text, _ = await it.get(path)
    assert status == 404
    assert "<h1>" in text


async def test_what_goes_wrong_is_a_page(calls: MemoryCalls, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of grafter's own: its words are in the log, and not on the page, which has the headers of all pages."""
    broken = replace(calls)
    broken.rows = [replace(row, turns=None) for row in calls.rows]  # type: ignore[arg-type]
    async with page(broken) as it:
        status, text, headers = await it.get("/")
    assert status == 500
    assert "NoneType" not in text
    assert "NoneType" in caplog.text
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


async def test_a_list_goes_on(calls: MemoryCalls) -> None:
    """Older calls by a cursor, each once."""
    many = replace(calls, rows=[replace(row, key=f"{row.key}.{at}") for at in range(6) for row in calls.rows])
    seen: list[str] = []
    async with page(many) as it:
        place: str | None = "/"
        while place:
            _, text, _ = await it.get(place)
            seen += re.findall(r'class="row" href="/calls/([^"]+)"', text)
            more = re.search(r'class="button" href="([^"]+)">Older', text)
            place = html.unescape(more[1]) if more else None
    assert sorted(seen) == sorted(row.key for row in many.rows)


async def test_what_runs_is_on_top(calls: MemoryCalls) -> None:
    """However many began after it."""
    older = replace(calls, rows=sorted(calls.rows, key=lambda row: row.outcome == "running"))
    async with page(older) as it:
        _, text, _ = await it.get("/")
    assert re.findall(r'class="row" href="/calls/([^"]+)"', text)[0] == calls.names["running"]


async def test_empty_lists_say_what_to_do() -> None:
    """No calls at all, none of a number, none with a filter."""
    async with page(MemoryCalls()) as it:
        assert "Point the app’s OTLP at this grafter" in (await it.get("/"))[1]
        _, _, headers = await it.search(SLOW)
        assert "No call of that" in (await it.get(headers["Location"]))[1]
        assert "No call with this filter" in (await it.get("/?slow=1"))[1]


# Links to single calls.

SHARED = CallLinks(b"a secret", 3600 * 10**9, lambda: "")
GATED = Access(tokens=(("a token of the page", "support", EVERYTHING),))


async def test_a_link_opens_its_call_and_nothing_else(calls: MemoryCalls) -> None:
    """Without a token: the call, its file and its trace, masked; no list, no search, no other call, no form."""
    key, other = calls.names["slow tool"], calls.names["quick"]
    async with page(calls, GATED, shared=SHARED) as it:
        status, _, headers = await it.get(f"/calls/{key}")
        assert (status, headers["Location"].split("?")[0]) == (303, "/login")
        status, _, headers = await it.get(SHARED.link(key, now()).address)
        assert (status, headers["Location"]) == (303, f"/calls/{key}")
        cookie = headers["Set-Cookie"]
        assert f"Path=/calls/{key}" in cookie
        assert "HttpOnly" in cookie
        assert "Max-Age=3600" in cookie
        status, text, headers = await it.get(f"/calls/{key}")
        assert status == 200
        assert "Turn 3 took 2.93 s" in text
        assert SLOW not in text
        assert 'method="post"' not in text
        assert 'href="/"' not in text
        assert headers["Referrer-Policy"] == "same-origin"
        for path in ("/trace.json", "/ticket.html", "?turn=3"):
            assert (await it.get(f"/calls/{key}{path}"))[0] == 200
        for path in ("/", f"/calls/{other}", "/forget"):
            assert (await it.get(path))[0] == 303
        # Sent to where it does not belong it opens nothing either.
        stolen = {"Cookie": cookie.split(";")[0]}
        assert (await it.get(f"/calls/{other}", **stolen))[0] == 303
        assert (await it.get("/", **stolen))[0] == 303
        assert (await it.post("/search", headers=stolen, q=SLOW))[0] == 401


async def test_a_link_follows_its_call_to_another_key(calls: MemoryCalls) -> None:
    """A later source gave the call another key while somebody looked at it: the page goes on, until the same moment."""
    key = calls.names["slow tool"]
    moved = replace(calls, earlier={"anearlierkey": key})
    async with page(moved, GATED, shared=SHARED) as it:
        cookie = f"grafter_link={SHARED.token('anearlierkey', now() // 10**9 + 60)}"
        status, _, headers = await it.get("/calls/anearlierkey", Cookie=cookie)
        assert (status, headers["Location"]) == (303, f"/calls/{key}")
        assert f"Path=/calls/{key}" in headers["Set-Cookie"]
        assert "Max-Age=60" in headers["Set-Cookie"]
        assert (await it.get(f"/calls/{key}"))[0] == 200
        assert (await it.get(f"/calls/{calls.names['quick']}"))[0] == 303


async def test_what_a_redaction_hashes_is_no_signature(calls: MemoryCalls) -> None:
    """Whoever writes spans can have any text hashed under the store's secret, and gets half of it back."""
    key, until = calls.names["slow tool"], now() // 10**9 + 60
    signature = SHARED.token(key, until).rpartition(".")[2]
    for text in (f"{key}\0{until}", f"link to a call\0{key}\0{until}", f"{key}.{until}"):
        assert not signature.startswith(digest(text, SHARED.secret))


async def test_a_link_ends_and_cannot_be_made(calls: MemoryCalls) -> None:
    """Past its time, with another key, time or signature, and with another store's secret."""
    key = calls.names["slow tool"]
    until = now() // 10**9
    right = SHARED.token(key, until + 60)
    strange = CallLinks(b"another secret", 3600 * 10**9, lambda: "").token(key, until + 60)
    async with page(calls, GATED, shared=SHARED) as it:
        for token in (
            SHARED.token(key, until - 1),
            SHARED.token(key, until),
            right.replace(key, calls.names["quick"], 1),
            right.replace(str(until + 60), str(until + 600)),
            right[:-1],
            f"{key}..",
            f"{key}.%D9%A3.{'0' * 40}",
            strange,
            "%00",
        ):
            status, text, headers = await it.get(f"/links/{token}")
            assert status == 403, token
            assert "This link has ended" in text
            assert "Set-Cookie" not in headers
            got = await it.get(f"/calls/{key}", Cookie=f"grafter_link={token}")
            assert got[0] == 303, token
        assert (await it.get(f"/links/{SHARED.token('nosuchcall', until + 60)}"))[0] == 404
    async with page(calls, GATED) as it:
        assert (await it.get(f"/links/{right}"))[0] == 403
    async with page(calls, replace(GATED, hosts=("calls.example.com",)), shared=SHARED) as it:
        assert (await it.get(f"/links/{right}", Host="evil.example.com"))[0] == 421


async def test_the_figures_of_the_last_days(calls: MemoryCalls) -> None:
    """As a page, as JSON and as CSV; for who may look up, and of a time that there is."""
    async with page(calls) as it:
        _, text, _ = await it.get("/report")
        assert "Figures of the last 7 days" in text
        assert "Why calls did not join" in text
        assert "book_slot" in text
        _, body, headers = await it.get("/report.json?since=24h")
        said = json.loads(body)
        assert said["calls"] == len(calls.rows)
        assert sum(hour["calls"] for hour in said["hours"]) == said["calls"]
        assert "attachment" in headers["Content-Disposition"]
        _, body, _ = await it.get("/report.csv?since=24h")
        lines = body.splitlines()
        assert lines[0].startswith("hour,calls,failed,slow,interrupted,joined")
        assert len(lines) == 2 + len(said["hours"])
        assert (await it.get("/report?since=1y"))[0] == 400
    async with page(calls, replace(GATED, tokens=(("t", "nobody", frozenset()),))) as it:
        assert (await it.get("/report", Authorization="Bearer t"))[0] == 403


async def test_no_calls_are_no_figures() -> None:
    """Nothing is divided by nothing."""
    async with page(MemoryCalls()) as it:
        _, text, _ = await it.get("/report")
        assert "No calls in that time" in text
        assert json.loads((await it.get("/report.json"))[1])["join_rate"] is None
