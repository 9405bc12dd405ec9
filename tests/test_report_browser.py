"""The page in a real browser: nothing fails, nothing is fetched, nothing runs off the side, tables sort."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from report_samples import HOSTILE, hostile, planned, sample

from tokpack.report.html import page
from tokpack.report.values import Figures

pytestmark = pytest.mark.slow

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
Open = Callable[..., tuple[Any, list[str]]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    chromium = os.environ.get("TOKPACK_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None:
        pytest.skip("no chromium: install it, or set TOKPACK_CHROMIUM to one")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    reports = {
        "usual": sample(
            dropped={"empty_answer": 12, "exact_duplicate": 40},
            overlong=9,
            examples={"empty_answer": ["What is two and two?"]},
            counters={"special_token_stripped": 400},
        ),
        "hostile": hostile(),
        "text": with_text(sample(dropped={"empty_answer": 12}, sources=("a.jsonl", "b.jsonl"))),
        "empty": sample(documents=20, dropped={"empty_answer": 20}),
        "bill": sample(training=planned(), dropped={"empty_answer": 12}, overlong=9),
        "tiny bill": sample(documents=9, training=planned(gpu="t4", method="lora")),
        "hostile bill": hostile(planned(name=HOSTILE)),
        "long names": sample(sources=("x" * 300 + ".jsonl", "b"), dropped={"y" * 300: 3}),
    }
    for name, data in reports.items():
        (folder / f"{name}.html").write_text(page(Figures.read(data)), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in reports}


def with_text(data: dict[str, Any]) -> dict[str, Any]:
    """With what only `analyze` knows: vocabulary, languages, near duplicates."""
    scripts = ["Latin", "signs", "digits", "white space", "parts of characters", "Cyrillic"]
    sources = [{"name": line["name"], "tokens": 400, "bytes": 1650} for line in data["sources"]]
    languages = [{"language": code, "share": 0.5, "error": 0.01} for code in ("en", "de")]
    return data | {
        "vocabulary": {
            "size": 151_643, "used": 40_112, "share": 0.26, "tokens": 800, "bytes": 3300, "covered": 5000,
            "top": [{"id": n, "text": f" token{n}", "count": 100 - n} for n in range(20)],
            "scripts": [{"script": name, "tokens": 500 // (n + 1)} for n, name in enumerate(scripts)],
            "sources": sources,
        },
        "languages": {"sample": 5000, "of": 75_426, "shares": languages},
        "near_dup": {
            "threshold": 0.8, "applied": False, "documents": 4, "tokens": 99, "bounded": 0,
            "on": "both", "kept": {},
            "pairs": [{"alike": "", "jaccard": 0.91, "removed": "What is 1 and 1?", "kept": "What is 2?"}],
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def visit(browser: Any, pages: dict[str, Path]) -> Iterator[Open]:
    tabs: dict[tuple[str, bool], tuple[Any, list[str]]] = {}

    def visit(
        name: str, width: int = 1440, scheme: str = "light", scripts: bool = True
    ) -> tuple[Any, list[str]]:
        """The open page, and everything that it complained about or asked for besides itself.

        A page is loaded once: it follows the window and the colors of the system by its style alone.
        """
        if (name, scripts) not in tabs:
            tabs[name, scripts] = load(browser.new_context(java_script_enabled=scripts), pages[name].as_uri())
        tab, events = tabs[name, scripts]
        tab.set_viewport_size({"width": width, "height": 900})
        tab.emulate_media(color_scheme=scheme)
        return tab, events

    yield visit
    for tab, _ in tabs.values():
        tab.context.close()


def load(context: Any, address: str) -> tuple[Any, list[str]]:
    tab, events = context.new_page(), []
    tab.on("console", lambda message: events.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: events.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: events.append(f"dialog: {dialog.message}"))
    tab.on("request", lambda request: events.append(f"request: {request.url}"))
    tab.goto(address, wait_until="load")
    tab.wait_for_timeout(100)
    assert events.pop(0) == f"request: {address}"
    return tab, events


@pytest.mark.parametrize(
    "name", ["usual", "text", "hostile", "empty", "long names", "bill", "tiny bill", "hostile bill"]
)
def test_it_renders_without_errors_requests_or_overflow(visit: Open, name: str) -> None:
    for width, scheme in product((1440, 390), ("light", "dark")):
        tab, events = visit(name, width, scheme)
        assert events == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("h1").is_visible()
        shown = tab.locator("svg:visible")
        assert shown.count() == tab.locator(".chart").count() >= (8 if name == "bill" else 4)
        for left, right in shown.evaluate_all(
            "all => all.map(svg => svg.getBoundingClientRect()).map(box => [box.left, box.right])"
        ):
            assert left >= 0
            assert right <= width


@pytest.mark.parametrize("name", ["usual", "text", "bill", "tiny bill"])
def test_words_of_a_chart_stay_inside_it(visit: Open, name: str) -> None:
    for width in (1440, 390):
        tab, _ = visit(name, width)
        outside = tab.evaluate(
            """() => [...document.querySelectorAll("svg")].filter(s => s.checkVisibility()).flatMap(svg => {
                const frame = svg.getBoundingClientRect();
                return [...svg.querySelectorAll("text")].filter(text => {
                    const box = text.getBoundingClientRect();
                    return box.left < frame.left - 1 || box.right > frame.right + 1;
                }).map(text => text.textContent);
            })"""
        )
        assert outside == []


@pytest.mark.parametrize("name", ["usual", "text", "bill", "tiny bill"])
def test_words_of_a_chart_do_not_touch_each_other(visit: Open, name: str) -> None:
    for width in (1440, 390):
        tab, _ = visit(name, width)
        touching = tab.evaluate(
            """() => [...document.querySelectorAll("svg")].filter(s => s.checkVisibility()).flatMap(svg => {
                const words = [...svg.querySelectorAll("text")].filter(t => t.textContent);
                const boxes = words.map(text => text.getBoundingClientRect());
                return boxes.flatMap((a, i) => boxes.slice(i + 1).flatMap((b, j) => {
                    const beside = a.right + 2 < b.left || b.right + 2 < a.left;
                    const apart = beside || a.bottom <= b.top || b.bottom <= a.top;
                    return apart ? [] : [words[i].textContent + " | " + words[i + 1 + j].textContent];
                }));
            })"""
        )
        assert touching == [], width


def test_what_if_begins_with_the_figures_of_the_bill(visit: Open) -> None:
    tab, _ = visit("bill")
    cost = tab.locator("#cost").inner_text()
    for name in ("money", "hours"):
        assert tab.locator(f'[data-shown="{name}"]').inner_text() in cost
    tab.locator('[name="epochs"]').fill("0.1")
    assert tab.locator('[data-shown="money"]').inner_text() not in cost
    tab.reload()


def test_light_and_dark_have_readable_words(visit: Open) -> None:
    """Contrast of 4.5 at least (WCAG 2, AA) between the paper and everything written on it."""
    script = """() => {
        const light = color => {
            const parts = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
                .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const paper = light(getComputedStyle(document.body).backgroundColor);
        const contrast = color => {
            const [high, low] = [paper, light(color)].sort((a, b) => b - a);
            return (high + 0.05) / (low + 0.05);
        };
        const words = [...document.querySelectorAll("p, th, td, dd, dt, h1, h2, h3, code, summary")]
            .map(e => getComputedStyle(e).color);
        const drawn = [...document.querySelectorAll("svg text")].map(e => getComputedStyle(e).fill);
        return Math.min(...[...words, ...drawn].map(contrast));
    }"""
    for scheme, name in product(("light", "dark"), ("text", "bill")):
        tab, _ = visit(name, scheme=scheme)
        assert tab.evaluate(script) >= 4.5, scheme


def test_the_page_has_its_own_colors_in_the_dark(visit: Open) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    bar = "getComputedStyle(document.querySelector('svg path')).fill"
    colors = [
        (tab.evaluate(paper), tab.evaluate(bar))
        for tab, _ in (visit("usual", scheme=scheme) for scheme in ("light", "dark"))
    ]
    assert all(light != dark for light, dark in zip(*colors, strict=True))


def test_tables_sort_by_a_click_and_back(browser: Any, pages: dict[str, Path]) -> None:
    tab, _ = load(browser.new_context(), pages["usual"].as_uri())
    reasons = tab.locator("#left-out tbody th code")
    header = tab.locator("#left-out th button", has_text="Documents")
    header.click()
    assert reasons.all_inner_texts() == ["exact_duplicate", "empty_answer"]
    header.click()
    assert reasons.all_inner_texts() == ["empty_answer", "exact_duplicate"]
    assert tab.locator("#left-out th[aria-sort=ascending]").count() == 1
    tab.locator("#left-out th button", has_text="Left out").click()
    assert reasons.all_inner_texts() == ["empty_answer", "exact_duplicate"]


def test_it_reads_the_same_without_scripts(visit: Open) -> None:
    with_script, _ = visit("usual")
    without, events = visit("usual", scripts=False)
    assert events == []
    text = "main"
    assert without.locator(text).inner_text() == with_script.locator(text).inner_text()


def test_it_prints_with_examples_unfolded(visit: Open) -> None:
    tab, _ = visit("usual", scheme="dark")
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"
    assert len(tab.pdf(format="A4")) > 10_000
    tab.emulate_media(media="screen")
