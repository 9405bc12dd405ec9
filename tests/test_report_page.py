"""The page: self-contained, true to the data, and closed to what the data says."""

from __future__ import annotations

import base64
import copy
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from report_samples import HOSTILE, hostile, planned, sample

from tokpack.report import charts
from tokpack.report.data.data_page import MOST_FILES
from tokpack.report.data.packing_chart import Packing, packing_chart
from tokpack.report.figures import Report
from tokpack.report.html import page
from tokpack.report.values import Figures
from tokpack.report.words import make_bill, size

VOID = {"meta", "link", "br", "input"}


class Page(HTMLParser):
    """All elements with their attributes, and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.script, self.text = "", ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.script += data
        elif not self.open or self.open[-1] != "style":
            self.text += data + "\n"


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return sample(
        dropped={"exact_duplicate": 40, "empty_answer": 12, "held_out": 20},
        overlong=9,
        examples={"empty_answer": ["What is two and two?", "second", "third", "fourth"]},
        counters={"special_token_stripped": 400, "special_token_inside": 0, "my_counter": 7},
    )


@pytest.fixture(scope="module")
def html(data: dict[str, Any]) -> str:
    return page(Figures.read(data))


@pytest.fixture(scope="module")
def attacked() -> str:
    return page(Figures.read(hostile()))


def test_the_page_asks_for_nothing_outside_itself(html: str, attacked: str) -> None:
    for text in (html, attacked):
        for tag, attributes in Page(text).elements:
            assert tag not in ("iframe", "object", "embed", "base", "form", "img", "image", "use")
            for name in ("src", "srcset", "href", "xlink:href", "action", "background", "style"):
                value = attributes.get(name) or "data:,"
                assert value == "data:," or (tag == "a" and re.fullmatch("#[a-z-]+", value)), (
                    tag,
                    attributes,
                )
        style = text[text.index("<style>") : text.index("</style>")]
        assert "url(" not in style
        assert "@import" not in style
    assert "://" not in html


def test_the_only_script_is_ours_and_the_policy_names_its_hash(html: str, attacked: str) -> None:
    for text in (html, attacked):
        parsed = Page(text)
        digest = base64.b64encode(hashlib.sha256(parsed.script.encode()).digest()).decode()
        policy = next(a["content"] for _, a in parsed.elements if a.get("http-equiv"))
        assert policy is not None
        assert policy.startswith("default-src 'none';")
        assert f"script-src 'sha256-{digest}';" in policy
        assert [tag for tag, _ in parsed.elements].count("script") == 1
        assert not [name for _, a in parsed.elements for name in a if name.startswith("on")]


def test_hostile_text_is_shown_and_does_nothing(attacked: str) -> None:
    parsed = Page(attacked)
    assert "<script>alert" not in attacked
    assert "<img" not in attacked
    assert "{{ 7 * 7 }}" in parsed.text
    assert "[red]bold[/red]" in parsed.text
    assert '<script>alert("x")</script>' in parsed.text
    assert "\\u202eright to left\\u2066" in parsed.text
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\uffff]", attacked
    )
    attacked.encode("utf-8")


def test_the_page_is_closed_html_with_one_heading_first(html: str) -> None:
    tags = [tag for tag, _ in Page(html).elements]
    assert html.startswith("<!doctype html>")
    assert tags.count("h1") == 1
    assert tags.index("h1") < tags.index("svg")
    assert tags.index("h1") < tags.index("h2")


def test_every_figure_of_the_data_is_on_the_page(data: dict[str, Any], html: str) -> None:
    text = Page(html).text
    ledger, bill = data["ledger"], make_bill(Figures.read(data))
    sums = [*ledger["documents"].items(), *ledger["tokens"].items(), *ledger["slots"].items()]
    numbers = [value for _, value in [*sums, *ledger["trained"].items()] if isinstance(value, int)]
    numbers += [abs(slots) for _, slots in bill.lines]
    numbers += [line["slots"] for line in data["slots"]]
    numbers += [drop[key] for drop in data["drops"] for key in ("documents", "tokens")]
    numbers += [data["lengths"][key] for key in ("p50", "p90", "p99", "max", "overlong")]
    numbers += [data["plan"]["rows"], data["plan"]["bound"], data["capacity"]]
    missing = [n for n in numbers if not re.search(rf"(?<![\d,]){n:,}(?![\d,])", text)]
    assert not missing
    assert bill.headline in text
    assert bill.explanation in text
    assert "my_counter" in text
    assert "What is two and two?" in text
    assert "third" in text
    assert "fourth" not in text


def test_other_data_gives_other_figures(data: dict[str, Any], html: str) -> None:
    changed = copy.deepcopy(data)
    changed["slots"][1]["slots"] = 9_876_543_210
    changed["plan"]["bound"] = 7_654_321
    text = Page(page(Figures.read(changed))).text
    assert "9,876,543,210" in text
    assert "7,654,321" in text
    assert "9,876,543,210" not in html


def test_the_picture_of_packing_shows_rows_and_the_same_documents_padded(data: dict[str, Any]) -> None:
    packing = Packing.of(Figures.read(data))
    assert packing is not None
    documents = sorted(block.tokens for row in packing.rows for block in row)
    assert documents == sorted(block.tokens for batch in packing.batches for block in batch)
    assert all(sum(block.tokens for block in row) <= data["capacity"] for row in packing.rows)
    assert all(len(batch) <= data["batch_size"] for batch in packing.batches)
    drawn = packing_chart(packing)
    for svg in (drawn.wide, drawn.narrow):
        root = ElementTree.fromstring(svg)
        width = float(root.attrib["width"])
        assert all(float(r.attrib["x"]) + float(r.attrib["width"]) <= width + 0.1 for r in root.iter("rect"))
        about = [title.text for title in root.iter("title")]
        assert sum(": " in (text or "") for text in about) == 2 * len(documents)
        assert packing.words[0] in svg


@pytest.mark.slow
def test_kept_rows_and_places_of_what_was_left_out_are_shown(data: dict[str, Any]) -> None:
    runs = [["<|user|>What?", False], ["A <b>cat</b>.", True]]
    kept = [{"place": "chats.jsonl:3", "tokens": 9, "trained": 4, "runs": runs}]
    places = [{"place": "a.jsonl:7", "detail": "jaccard 0.91", "other": "a.jsonl:2"}]
    drops = [drop | {"places": places * len(drop["examples"])} for drop in data["drops"]]
    html = page(Figures.read(data | {"kept": kept, "drops": drops}))
    assert "&lt;|user|&gt;What?<mark>A &lt;b&gt;cat&lt;/b&gt;.</mark>" in html
    assert "9 tokens, 4 of them trained" in html
    assert "a.jsonl:7, repeats a.jsonl:2, jaccard 0.91" in html


def test_links_of_the_contents_lead_somewhere(html: str) -> None:
    priced = page(Figures.read(sample(training=planned())))
    for text in (html, priced):
        ids = {attributes.get("id") for _, attributes in Page(text).elements}
        links = [attributes["href"] for tag, attributes in Page(text).elements if tag == "a"]
        assert len(links) > 5
        assert {str(link)[1:] for link in links} <= ids


def bars(svg: str) -> dict[str, float]:
    """Tooltip -> width in pixels of every bar of a chart."""
    found = {}
    for path in ElementTree.fromstring(svg).iter("path"):
        about = path.find("title")
        width = re.search(r"h([-\d.e]+)", path.get("d") or "")
        if about is not None and about.text and width:
            found[about.text] = abs(float(width[1]))
    return found


def test_bars_are_as_long_as_their_slots(data: dict[str, Any]) -> None:
    longest = max(line["slots"] for line in data["slots"])
    drawn = charts.slots_chart(Figures.read(data).slots)
    for svg, width in ((drawn.wide, charts.WIDE), (drawn.narrow, charts.NARROW)):
        for line in data["slots"]:
            found = bars(svg)[f"{line['name']}: {line['tokens']:,} tokens"]
            assert found == pytest.approx(line["tokens"] / longest * width, abs=0.01)


def test_the_waterfall_goes_from_all_tokens_to_the_packed_ones(data: dict[str, Any]) -> None:
    tokens = data["ledger"]["tokens"]
    found = bars(charts.tokens_chart(Figures.read(data).ledger.tokens).wide)
    per_token = charts.WIDE / tokens["tokenized"]
    assert found[f"{tokens['tokenized']:,} tokens in the data"] == pytest.approx(charts.WIDE)
    for reason, lost in [*tokens["dropped"].items(), ("cut off to fit a row", tokens["truncated"])]:
        assert found[f"{reason}: {lost:,} tokens"] == pytest.approx(max(lost * per_token, 2), abs=0.01)
    assert found[f"{tokens['packed']:,} tokens packed"] == pytest.approx(
        tokens["packed"] * per_token, abs=0.01
    )


def test_the_waterfall_takes_duplicates_first_then_noise_then_what_does_not_fit() -> None:
    data = sample(
        documents=300,
        dropped={"overlong": 90, "empty_answer": 20, "exact_duplicate": 5, "mojibake": 40},
        overlong=9,
    )
    order = [
        about.partition(":")[0] for about in bars(charts.tokens_chart(Figures.read(data).ledger.tokens).wide)
    ]
    noise = sorted(("empty_answer", "mojibake"), key=lambda name: -data["ledger"]["tokens"]["dropped"][name])
    assert order[1:-1] == ["exact_duplicate", *noise, "overlong", "cut off to fit a row"]


def test_words_beside_the_capacity_find_room_on_a_phone() -> None:
    data = sample(documents=2000, capacity=2048, overlong=3)
    data["lengths"]["histogram"][-1]["to"] = 2100
    for svg in (
        charts.lengths_chart(Figures.read(data).lengths, data["capacity"]).wide,
        charts.lengths_chart(Figures.read(data).lengths, data["capacity"]).narrow,
    ):
        words = [text.text for text in ElementTree.fromstring(svg).iter("text")]
        assert "a row: 2,048 tokens, 3 longer" in words


def test_many_reasons_share_one_bar_of_the_waterfall() -> None:
    data = sample(documents=60, dropped={f"rule_{n:02d}": 2 for n in range(12)})
    found = bars(charts.tokens_chart(Figures.read(data).ledger.tokens).wide)
    assert len(found) == 2 + charts.MOST_REASONS + 1
    lost = sum(
        int(re.search(r"([\d,]+) tokens$", about)[1].replace(",", "")) for about in found if about[0] == "r"
    )
    rest = next(about for about in found if "more reasons" in about)
    tokens = data["ledger"]["tokens"]
    assert lost + int(rest.rpartition(": ")[2].split()[0].replace(",", "")) == sum(tokens["dropped"].values())


def test_a_single_reason_beyond_the_most_is_named() -> None:
    names = {f"rule_{n:02d}": n + 2 for n in range(charts.MOST_REASONS + 1)}
    chart = charts.tokens_chart(Figures.read(sample(documents=90, dropped=names)).ledger.tokens).wide
    assert all(name in chart for name in names)
    assert "more reason" not in chart


def test_the_histogram_marks_the_capacity_and_what_is_beyond(data: dict[str, Any]) -> None:
    svg = charts.lengths_chart(Figures.read(data).lengths, data["capacity"]).wide
    root = ElementTree.fromstring(svg)
    words = [text.text for text in root.iter("text")]
    assert f"a row: {data['capacity']:,} tokens" in words
    assert f"{data['lengths']['overlong']:,} longer" in words
    drawn = {p.find("title").text: p.get("fill") for p in root.iter("path") if p.find("title") is not None}
    shown = [b for b in data["lengths"]["histogram"] if b["documents"]]
    assert len(drawn) == len(shown)
    for bin_, (about, color) in zip(shown, drawn.items(), strict=True):
        assert f"{bin_['documents']:,} document" in about
        assert f"{bin_['tokens']:,} tokens" in about
        assert color == (charts.LOST if bin_["from"] > data["capacity"] else charts.ACCENT)


def test_charts_take_their_colors_from_the_page(data: dict[str, Any], html: str) -> None:
    figures = Figures.read(data)
    drawn = [charts.slots_chart(figures.slots), charts.tokens_chart(figures.ledger.tokens)]
    drawn.append(charts.lengths_chart(figures.lengths, figures.capacity))
    for svg in (svg for chart in drawn for svg in (chart.wide, chart.narrow)):
        colors = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg)) - {"none"}
        assert all(re.fullmatch(r"var\(--\w+\)", color) for color in colors), colors
        assert " id=" not in svg
        assert svg in html
    light, dark = html.split("prefers-color-scheme: dark", 1)
    for name in set(re.findall(r"var\((--\w+)\)", html)):
        assert f"{name}:" in light
        assert f"{name}:" in dark[:500]


def test_equal_data_gives_equal_bytes(data: dict[str, Any], html: str, attacked: str) -> None:
    assert page(Figures.read(copy.deepcopy(data))) == html


def test_a_page_of_nothing_kept_says_so() -> None:
    data = sample(documents=20, dropped={"empty_answer": 20}, examples={"empty_answer": ["  ", ""]})
    text = Page(page(Figures.read(data))).text
    assert "Nothing is left to train on" in text
    assert "Of 20 documents none is kept" in text
    assert "No document is kept." in text


def test_a_page_of_one_document_says_document_not_documents() -> None:
    text = Page(page(Figures.read(sample(documents=1, sources=("one.jsonl",))))).text
    assert "1 row of 512 tokens" in text
    assert "one.jsonl" in text
    assert "Nothing was left out." in text


@pytest.mark.slow
def test_huge_reports_stay_below_two_megabytes() -> None:
    long_name = "x" * 4000
    sources = tuple(f"part-{n:05d}-{long_name}.jsonl" for n in range(3000))
    reasons = {f"rule_{n:03d}_{long_name}": 4 for n in range(200)}
    examples = {reason: ["\x1b" * 100_000] * 3 for reason in reasons}
    html = page(Figures.read(sample(documents=3000, dropped=reasons, sources=sources, examples=examples)))
    assert len(html.encode()) < 2_000_000
    assert f"and {3000 - MOST_FILES:,} more files" in Page(html).text


def test_a_usual_report_is_small(html: str) -> None:
    assert len(html.encode()) < 150_000


def test_save_html_writes_the_page(data: dict[str, Any], html: str, tmp_path: Path) -> None:
    Report(Figures.read(data)).save_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html


def test_tooltips_and_labels_of_charts_show_hostile_names_as_text() -> None:
    svg = charts.tokens_chart(Figures.read(hostile()).ledger.tokens).wide
    words = " ".join(text.text or "" for text in ElementTree.fromstring(svg).iter("text"))
    assert "<script>" in words
    assert "<script>" not in svg
    assert HOSTILE[-5:] in words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (4_815_925, "4.82 MB"),
        (999_600, "1 MB"),
        (5 * 10**15, "5,000 TB"),
    ],
)
def test_sizes_have_the_unit_a_person_would_choose(value: int, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (20, 4097, 10, [32, 64, 128, 256, 512, 1024, 2048, 4096]),
        (20, 4097, 5, [64, 256, 1024, 4096]),
        (5, 7, 6, [5]),
        (1, 2, 6, [1, 2]),
    ],
)
def test_length_ticks_are_powers_of_two_that_have_room(
    low: int, high: int, most: int, ticks: list[int]
) -> None:
    assert charts.length_ticks(low, high, most) == ticks


@pytest.mark.parametrize(
    ("highest", "last"), [(1, 1), (4, 4), (5, 6), (9, 10), (3542, 4000), (10**12, 10**12)]
)
def test_level_ticks_are_round_and_reach_the_highest(highest: int, last: int) -> None:
    ticks = charts.level_ticks(highest)
    assert ticks[-1] == last
    assert 2 <= len(ticks) <= 6
