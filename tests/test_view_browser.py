"""The local page in a real browser: keyboard, hostile text, both themes, narrow screens, no other address."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="no uvicorn: pip install 'tokpack[view]'")

import uvicorn
from test_report_browser import browser  # noqa: F401
from test_view import HOSTILE, log, packed  # noqa: F401

from tokpack.stages.keep import KeepList
from tokpack.terminal.printable import printable
from tokpack.view.run import shown
from tokpack.view.server import loopback_socket, make_app

pytestmark = pytest.mark.slow
TOKEN = "browser"


def expect(place: Any) -> Any:
    from playwright.sync_api import expect  # loads for long

    return expect(place)


@pytest.fixture(scope="module")
def address(packed, log, tmp_path_factory) -> Iterator[tuple[str, Any]]:  # noqa: F811
    """A running server, and the keep list that it writes."""
    keep = tmp_path_factory.mktemp("keep") / "keep.txt"
    with loopback_socket(0) as bound, shown(packed, keep, log) as found:
        config = uvicorn.Config(make_app(found, TOKEN), log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        found.texts.hits("left_out", "x")
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/{TOKEN}/", keep
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def visit(browser, address) -> Iterator[Any]:  # noqa: F811
    contexts = []

    def visit(width: int = 1440, scheme: str = "light", at: str = "") -> tuple[Any, list[str]]:
        """The page, and everything that it complained about or asked of another place."""
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        tab, events = context.new_page(), []
        tab.on("console", lambda message: events.append(message.text))
        tab.on("pageerror", lambda error: events.append(str(error)))
        tab.on("dialog", lambda dialog: (events.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: request.url.startswith(address[0]) or events.append(request.url))
        tab.goto(address[0] + at)
        tab.wait_for_selector(".item")
        return tab, events

    yield visit
    for context in contexts:
        context.close()


def press(tab: Any, *keys: str) -> None:
    for key in keys:
        tab.keyboard.press(key)


def heading(tab: Any) -> str:
    tab.wait_for_selector("#detail h2")
    return tab.locator("#detail h2").inner_text()


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_list_and_a_document_fit_the_screen_without_errors(visit, width, scheme):
    tab, events = visit(width, scheme)
    for key in "123":
        press(tab, key)
        tab.wait_for_selector(f"[role=tab]:nth-child({key})[aria-selected=true]")
        tab.wait_for_selector(".item")
        press(tab, "j", "Enter")
        assert heading(tab).startswith("document ")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("document.querySelector('#detail').getBoundingClientRect().right") <= width
        assert tab.locator("#list").is_visible() == (width > 900)
        press(tab, "Escape")
        assert tab.locator("#detail").is_hidden()
        assert tab.locator("#list").is_visible()
    assert events == []


def test_words_are_readable_in_both_themes(visit):
    """Contrast of 4.5 at least (WCAG 2, AA) between texts and what they stand on."""
    script = """() => {
        const parts = color => color.match(/[\\d.]+/g).map(Number);
        const light = color => { const [r, g, b] = parts(color).map(v => v / 255)
            .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const paper = e => { const color = getComputedStyle(e).backgroundColor;
            return parts(color)[3] === 0 && e.parentElement ? paper(e.parentElement) : color; };
        return Math.min(...[...document.querySelectorAll("p, span, mark, pre, h2, h3, dt, dd, button")]
            .filter(e => e.checkVisibility() && e.innerText && !e.disabled).map(e => {
                const [a, b] = [light(getComputedStyle(e).color), light(paper(e))].sort((x, y) => y - x);
                return (a + 0.05) / (b + 0.05); }));
    }"""
    for scheme in ("light", "dark"):
        tab, _ = visit(scheme=scheme, at="#list=left_out&open=left_out/1")
        assert heading(tab) == "document 1"
        assert tab.evaluate(script) >= 4.5, scheme
        press(tab, "2")
        tab.wait_for_selector(".snippet")
        press(tab, "j", "Enter")
        tab.wait_for_selector(".trained")
        assert tab.evaluate(script) >= 4.5, scheme


def test_the_keyboard_walks_lists_rows_and_pages(visit):
    tab, events = visit()
    press(tab, "j", "Enter")
    first = heading(tab)
    press(tab, "ArrowRight")
    expect(tab.locator("#detail h2")).not_to_have_text(first)
    assert tab.locator(".block.current").count() == 1
    press(tab, "k", "ArrowDown")
    assert tab.locator(".item.selected b").inner_text() == "row 1"
    press(tab, "Escape", "2")
    tab.wait_for_selector(".snippet")
    press(tab, "ArrowRight")
    expect(tab.locator("#page")).to_have_text("2 of 2")
    press(tab, "k")
    expect(tab.locator("#page")).to_have_text("1 of 2")
    press(tab, "?")
    assert tab.locator("#help").is_visible()
    press(tab, "Escape")
    assert tab.locator("#help").is_hidden()
    assert events == []


def test_search_by_slash_narrows_the_list_and_marks_what_was_found(visit):
    tab, events = visit()
    press(tab, "/")
    tab.keyboard.type("ALERT(1)")
    press(tab, "Enter")
    expect(tab.locator("#count")).to_have_text("2 documents")
    press(tab, "j", "Enter")
    tab.wait_for_selector(".found")
    assert {text.lower() for text in tab.locator("#detail .found").all_inner_texts()} == {"alert(1)"}
    tab.reload()
    expect(tab.locator("#count")).to_have_text("2 documents")
    assert events == []


def test_what_is_selected_stays_so_when_the_list_comes_anew(visit):
    tab, events = visit(at="#list=kept")
    expect(tab.locator("#items .item").nth(1)).to_be_visible()
    press(tab, "j", "j")
    chosen = tab.locator("#items .selected").inner_text()
    with tab.expect_response("**/api/list/kept**"):
        tab.evaluate("load()")
    expect(tab.locator("#items .selected")).to_have_count(1)
    assert tab.locator("#items .selected").inner_text() == chosen
    press(tab, "Enter")
    assert heading(tab) in chosen
    assert events == []


def test_hostile_text_stays_text(visit):
    tab, events = visit(at="#list=kept&open=kept/6/0/0")
    assert heading(tab) == "document 6"
    assert printable(HOSTILE) in tab.locator("#detail pre").first.inner_text()
    assert tab.locator("main script, main img, main a").count() == 0
    assert events == []


def test_a_duplicate_stands_beside_the_one_it_repeats(visit):
    tab, _ = visit(at="#list=left_out&open=left_out/1")
    tab.wait_for_selector(".twins")
    assert "other answer" in tab.locator(".twin").inner_text()
    assert tab.locator(".twins .side:first-child mark").all_inner_texts() == ["end"]
    assert tab.locator(".twin mark").all_inner_texts() == ["fin"]


def test_keep_this_after_all_by_button_and_key_writes_the_list(visit, address):
    tab, events = visit(at="#list=left_out&open=left_out/4")
    tab.locator("#keep").click()
    tab.wait_for_selector("#keep.on")
    assert KeepList.load(address[1]).doc_ids.tolist() == [4]
    assert tab.locator(".item .wanted").count() == 1
    press(tab, "a")
    tab.wait_for_selector("#keep:not(.on)")
    assert KeepList.load(address[1]).doc_ids.tolist() == []
    assert events == []
