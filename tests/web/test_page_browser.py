"""The page in a real browser: from a number to the verdict, by mouse, by keyboard, without scripts, for everybody."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.web.conftest import Served

AXE = Path(__file__).parent.parent / "e2e" / "js" / "node_modules" / "axe-core" / "axe.min.js"
VERDICT = "Turn 3 took 2.93 s; 1.68 s of it was your tool book_slot."
SLOW = "+1 (555) 010-4037"

# Chromium's start writes to a pipe that playwright closes late.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(params=[True, False], ids=["scripts", "no scripts"])
def tab(browser: Any, request: pytest.FixtureRequest) -> Any:
    """A tab with and without JavaScript, in which no console error may come up."""
    context = browser.new_context(java_script_enabled=request.param)
    one = context.new_page()
    wrong: list[str] = []
    one.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    one.on("pageerror", lambda error: wrong.append(str(error)))
    yield one
    context.close()
    assert wrong == []


@pytest.fixture
def scripted(browser: Any) -> Any:
    """A tab with JavaScript."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


def test_from_a_number_to_the_verdict_in_two_clicks(served: Served, tab: Any) -> None:
    """Paste, click, and here already: one call has this number. With several a second click chooses."""
    tab.goto(served.address)
    tab.get_by_label("Phone number, call id or trace id").fill(SLOW)
    tab.get_by_role("button", name="Look up").click()
    assert tab.locator(".verdict .sentence").inner_text() == VERDICT
    assert "4037" not in re.sub(r"/calls/.*", "", tab.url)
    tab.goto(served.address)
    tab.get_by_label("Phone number, call id or trace id").fill("+1 555 010 0000")
    tab.get_by_role("button", name="Look up").click()
    assert tab.get_by_role("heading", name="No call of that").is_visible()


def test_a_filter_and_a_row_are_two_clicks(served: Served, tab: Any) -> None:
    """Who has no number: the slow ones, and one of them."""
    tab.goto(served.address)
    tab.get_by_role("link", name="Slow", exact=True).click()
    rows = tab.locator("table.calls tbody tr")
    assert 0 < rows.count() < len(served.calls.rows)
    rows.filter(has_text="book_slot").filter(has_text="2.93 s").click()
    assert tab.locator(".verdict .sentence").inner_text() == VERDICT


def test_evidence_leads_to_the_span(served: Served, tab: Any) -> None:
    """A click on the evidence shows the span with its attributes; a second one takes them away again."""
    tab.goto(served.call("slow tool"))
    link = tab.locator(".verdict .evidence a").first
    assert "execute_tool book_slot" in link.inner_text()
    link.click()
    details = tab.locator("tr.details")
    assert details.is_visible()
    assert "gen_ai.tool.call.id" in details.inner_text()
    tab.locator("tr.chosen a.row").click()
    assert tab.locator("tr.details").count() == 0


def test_one_turn_alone(served: Served, tab: Any) -> None:
    """The waterfall of a turn has its spans only, on its own scale."""
    tab.goto(served.call("slow tool"))
    everything = tab.locator("table.fall tbody tr").count()
    tab.get_by_role("link", name="Turn 3 alone").first.click()
    assert "Every span of turn 3" in tab.locator("#waterfall-title").inner_text()
    assert 0 < tab.locator("table.fall tbody tr").count() < everything
    tab.get_by_role("link", name="The whole call").click()
    assert tab.locator("table.fall tbody tr").count() == everything


def test_a_group_opens(served: Served, tab: Any) -> None:
    """A long call is folded; each group says how many it holds and shows them on request."""
    tab.goto(served.call("long"))
    folded = tab.locator("table.fall tbody tr.group")
    assert folded.count() > 0
    before = tab.locator("table.fall tbody tr").count()
    name = folded.first.locator("a.row").inner_text()
    many = int(re.search(r"(\d+) ×", name)[1])  # type: ignore[index]
    folded.first.locator("a.row").click()
    assert tab.locator("table.fall tbody tr").count() >= before + many


def test_by_keyboard_alone(served: Served, scripted: Any) -> None:
    """/ to the box, Enter; arrows through rows, Enter; n through problems; ? for the keys, Escape."""
    tab = scripted
    tab.goto(served.call("quick"))
    tab.keyboard.press("/")
    tab.keyboard.type(SLOW)
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".verdict")
    assert tab.locator(".verdict .sentence").inner_text() == VERDICT
    tab.keyboard.press("n")
    assert tab.evaluate("document.activeElement.id") == "problem-1"
    tab.keyboard.press("?")
    assert tab.get_by_role("dialog", name="Keys").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.get_by_role("dialog", name="Keys").is_visible()
    tab.goto(served.address)
    tab.evaluate("document.activeElement.blur()")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    wanted = tab.locator("a.row").nth(1).get_attribute("href")
    assert tab.evaluate("document.activeElement.getAttribute('href')") == wanted
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".verdict")
    assert tab.url.endswith(wanted)


def test_letters_can_be_turned_off(served: Served, scripted: Any) -> None:
    """Who talks to their computer would press keys by accident (WCAG 2.1.4)."""
    tab = scripted
    tab.goto(served.call("slow tool"))
    tab.keyboard.press("?")
    tab.get_by_label("Use single letters as keys").uncheck()
    tab.keyboard.press("Escape")
    tab.reload()
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") != "q"


def test_by_tab_alone_without_scripts(served: Served, browser: Any) -> None:
    """The skip link comes first, and every stop that Tab makes can be seen."""
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(served.call("slow tool"))
    tab.keyboard.press("Tab")
    first = tab.locator(":focus")
    assert first.inner_text() == "Skip to the content"
    assert first.bounding_box()["y"] >= 0
    for _ in range(12):
        tab.keyboard.press("Tab")
        assert tab.locator(":focus").bounding_box()["width"] > 1
        assert tab.locator(":focus").evaluate("one => one.closest('[aria-hidden=true]') === null")
    context.close()


AXED = (
    *(
        ("light", name)
        for name in ("", "slow tool", "hostile names", "no openai", "interruptions", "long", "/forget", "/report")
    ),
    *(("dark", name) for name in ("", "tool fails", "interruptions", "/report")),
)


@pytest.mark.parametrize(("scheme", "path"), AXED)
def test_axe_finds_nothing(served: Served, browser: Any, scheme: str, path: str) -> None:
    """No failure of WCAG 2.2 A or AA and none of axe's best practices, contrast included, in either scheme."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (npm ci in tests/e2e/js)")
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    tab = context.new_page()
    tab.goto(served.call(path) if path in served.calls.names else served.address + path)
    tab.add_script_tag(path=str(AXE))
    # Of what passes it needs to say nothing: to write all that down takes longer than to look.
    found = tab.evaluate("axe.run(document, { resultTypes: ['violations'] }).then((all) => all.violations)")
    context.close()
    told = [
        f"{one['id']} ({one['impact']}): {one['nodes'][0]['html'][:160]} {one['nodes'][0]['failureSummary'][:200]}"
        for one in found
    ]
    assert told == []


def test_the_table_says_what_the_waterfall_says(served: Served, scripted: Any) -> None:
    """What is hidden from a screen reader stands beside it as text: name, kind, service, begin, length, failure."""
    tab = scripted
    tab.goto(served.call("tool fails"))
    assert tab.locator("table.fall svg:not([aria-hidden=true]):not([aria-hidden=true] *)").count() == 0
    rows = tab.get_by_role("table").last.get_by_role("row")
    text = " ".join(rows.nth(at).inner_text() for at in range(rows.count()))
    for word in (
        "POST /book_slot",
        "error",
        "calendar",
        "tool",
        "OpenAI",
        "+3.830 s",
        "596 ms",
        "under gen_ai.tool.execute",
    ):
        assert word in text
    heads = tab.locator("table.fall thead th").all_inner_texts()
    assert heads == ["Span", "What", "Service", "Begins", "Takes"]
    assert tab.locator("table.fall tbody th[scope=row]").count() == rows.count() - 1


def test_more_than_colour(served: Served, scripted: Any) -> None:
    """Each kind has a letter and a pattern of its own, and in forced colours bars stay apart from the ground."""
    tab = scripted
    tab.emulate_media(forced_colors="active")
    tab.goto(served.call("two tools"))
    letters = dict(
        tab.eval_on_selector_all(
            "table.fall td.what",
            "all => all.map(one => [one.innerText.replace(/^./, '').trim(), one.querySelector('text').textContent])",
        )
    )
    assert len(set(letters.values())) == len(letters) >= 4
    fills = tab.eval_on_selector_all(
        "table.fall .track rect.edge", "all => [...new Set(all.map(one => one.getAttribute('fill')))]"
    )
    assert len(fills) == len(letters)
    colours = tab.evaluate(
        """() => ['.f-app', '.f-openai', '.f-line', '.f-unknown'].map(
            name => getComputedStyle(document.querySelector(name)).fill)"""
    )
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground not in colours


@pytest.mark.parametrize("path", ["", "slow tool", "hostile names", "no openai", "/report"])
def test_nothing_is_wider_than_the_screen(served: Served, scripted: Any, path: str) -> None:
    """On no screen anybody scrolls sideways but within the table of turns."""
    tab = scripted
    tab.goto(served.call(path) if path in served.calls.names else served.address + path)
    for width in (320, 390, 768, 820, 1024):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_no_turn_is_cut_on_a_phone(served: Served, scripted: Any) -> None:
    """Each turn is a block there, with every figure beside its name; nothing has to be scrolled to be seen."""
    tab = scripted
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.goto(served.call("slow tool"))
    assert tab.evaluate("[...document.querySelectorAll('.scroll')].every(one => one.scrollWidth <= one.clientWidth)")
    told = " ".join(tab.locator("#turn-3").inner_text().split())
    for words in ("Turn 3", "2.93 s", "Your app 1.68 s", "OpenAI 1.25 s", "First token 432 ms", "Of the median"):
        assert words in told
    assert tab.get_by_role("table").first.get_by_role("columnheader").count() >= 9


def test_nothing_moves(served: Served, scripted: Any) -> None:
    """No animation and no transition, whatever one prefers."""
    tab = scripted
    tab.goto(served.call("slow tool"))
    moving = tab.evaluate(
        """() => [...document.querySelectorAll('*')].filter(one => {
            const style = getComputedStyle(one);
            return style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0;
        }).length"""
    )
    assert moving == 0


def test_the_printed_page_has_the_verdict_and_no_buttons(served: Served, scripted: Any) -> None:
    """On paper there is nothing to press."""
    tab = scripted
    tab.goto(served.call("slow tool"))
    tab.emulate_media(media="print")
    assert tab.locator(".verdict .sentence").is_visible()
    assert tab.locator("table.fall").is_visible()
    assert not tab.get_by_role("button").first.is_visible()


def test_the_file_opens_without_a_server(served: Served, browser: Any, tmp_path: Path) -> None:
    """From the disk, with its picture, asking for nothing."""
    context = browser.new_context(accept_downloads=True)
    tab = context.new_page()
    tab.goto(served.call("slow tool"))
    with tab.expect_download() as saving:
        tab.get_by_role("link", name="File for a ticket").click()
    file = tmp_path / "call.html"
    saving.value.save_as(file)
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(file.as_uri())
    assert tab.locator(".verdict .sentence").inner_text() == VERDICT
    assert tab.locator("table.fall .track rect.edge").count() > 20
    assert tab.evaluate("getComputedStyle(document.querySelector('.verdict')).borderLeftWidth") == "6px"
    assert asked == [file.as_uri()]
    assert "0104037" not in file.read_text()
    context.close()


def test_the_list_stays_fresh(served: Served, scripted: Any) -> None:
    """A call that comes in stands on the list without a reload."""
    tab = scripted
    tab.clock.install()
    tab.goto(served.address)
    tab.evaluate("document.activeElement.blur()")
    tab.evaluate("document.querySelector('table.calls tbody').replaceChildren()")
    assert tab.locator("table.calls tbody tr").count() == 0
    tab.clock.run_for(6000)
    tab.wait_for_selector("table.calls tbody tr")
    assert tab.locator("table.calls tbody tr").count() == len(served.calls.rows)


PICTURES = {
    "list-light": ("", {}),
    "list-dark": ("", {"color_scheme": "dark"}),
    "list-phone": ("", {"viewport": {"width": 390, "height": 760}}),
    "call-light": ("slow tool", {}),
    "call-dark": ("slow tool", {"color_scheme": "dark"}),
    "call-phone": ("slow tool", {"viewport": {"width": 390, "height": 760}}),
    "call-forced": ("slow tool", {"forced_colors": "active"}),
    "spans-light": ("tool fails#waterfall-title", {}),
    "turns-phone": ("slow tool#turn-3", {"viewport": {"width": 390, "height": 760}}),
    "report-light": ("/report?since=24h", {}),
}
"""Those of docs/lookup: of what, and how it is looked at."""


@pytest.mark.skipif("PICTURES" not in os.environ, reason="make pictures")
@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_of_the_docs(served: Served, browser: Any, name: str) -> None:
    """Made anew in the directory that PICTURES names, after the look has changed."""
    what, looked = PICTURES[name]
    story, sign, place = what.partition("#")
    context = browser.new_context(**{"viewport": {"width": 1120, "height": 760}, **looked})
    tab = context.new_page()
    tab.goto((served.call(story) if story in served.calls.names else served.address + story) + sign + place)
    tab.screenshot(path=f"{os.environ['PICTURES']}/{name}.png")
    context.close()


# The questions that one look must answer, on the page.


def test_question_which_call_and_where_is_its_trace(served: Served, tab: Any) -> None:
    """1. Paste the number: the call, its trace's id, and the way to it with its times."""
    tab.goto(served.address)
    tab.get_by_label("Phone number, call id or trace id").fill(SLOW)
    tab.get_by_role("button", name="Look up").click()
    row = next(row for row in served.calls.rows if row.key == served.calls.names["slow tool"])
    assert row.traces[0].hex() in tab.locator("dl.ids").inner_text()
    honeycomb = tab.get_by_role("link", name="Honeycomb").get_attribute("href")
    assert f"trace_id={row.traces[0].hex()}" in honeycomb
    begins, ends = (int(re.search(rf"{name}=(\d+)", honeycomb)[1]) for name in ("trace_start_ts", "trace_end_ts"))  # type: ignore[index]
    assert row.end is not None
    assert begins * 10**9 <= row.start
    assert row.end <= ends * 10**9


def test_question_whose_time_was_a_slow_answer(served: Served, tab: Any) -> None:
    """2. How much of turn 3 was our tool, our network, how much OpenAI."""
    tab.goto(served.call("slow tool"))
    turn = tab.locator("#turn-3").inner_text()
    for words in ("2.93 s", "1.68 s", "1.25 s", "80 ms network", "1.58 s service calendar", "500 ms voice detector"):
        assert words in turn
    tab.goto(served.call("after hours"))
    assert "3.40 s went by in the queue after-hours." in tab.locator(".verdict").inner_text()


def test_question_which_tool_belongs_to_which_answer(served: Served, tab: Any) -> None:
    """3. The tool hangs under the answer that asked for it."""
    tab.goto(served.call("two tools"))
    names = tab.locator("table.fall tbody th").all_inner_texts()
    tool = next(name for name in names if "execute_tool record_lookup" in name)
    above = names[names.index(tool) - 1]
    assert "under chat gpt-realtime" in tool
    assert "chat gpt-realtime" in above


def test_question_was_it_the_media_path(served: Served, tab: Any) -> None:
    """4. TURN and STUN with their moments, and whether it came up late."""
    tab.goto(served.call("late media"))
    assert "The media path came up late: 4.15 s" in tab.locator(".verdict .sentence").inner_text()
    events = tab.locator("table.events").inner_text()
    for words in ("turn.allocation", "stun.check", "relay", "+4.320 s"):
        assert words in events


def test_question_how_often_do_callers_interrupt(served: Served, tab: Any) -> None:
    """5. Each interruption with how much was heard."""
    tab.goto(served.call("interruptions"))
    told = tab.locator("ul.cuts li").all_inner_texts()
    assert [re.search(r"[\d,]+ ms heard", one)[0] for one in told] == [  # type: ignore[index]
        "740 ms heard",
        "1,440 ms heard",
        "420 ms heard",
        "2,100 ms heard",
    ]
    assert "interrupted 4 answers" in tab.locator(".problems").inner_text()


def test_question_was_it_sampled_away(served: Served, tab: Any) -> None:
    """6. Why it was kept."""
    tab.goto(served.call("tool fails"))
    assert "Kept by the policy error" in tab.locator(".kept").inner_text()


def test_question_does_the_trace_survive(served: Served, tab: Any) -> None:
    """7. A side that is missing is named, with the line that brings it; what came is shown."""
    tab.goto(served.call("no openai"))
    missing = tab.locator("ul.missing").inner_text()
    assert "Nothing of OpenAI's came for this trace." in missing
    assert "Was metadata.trace_id set?" in missing
    assert '"trace_id": format(context.trace_id, "032x")' in missing
    tab.goto(served.call("app silent"))
    assert "No spans of the app came" in tab.locator("ul.missing").inner_text()
