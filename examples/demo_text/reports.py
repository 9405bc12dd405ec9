"""Made-up reports, and summaries that say the same in short."""

from __future__ import annotations

from demo_text.draw import Draw, Scene, capital, phrases
from demo_text.problems import Turn
from demo_text.words import JOBS, MONTHS, NAMES, SHARED, TOWNS, company, person

MEASURES = phrases(
    "revenue from {goods+} in {town+}|cost of running the {colour+} team in {town+}|"
    "number of open orders for {goods+}|number of complaints about {goods+}|"
    "number of parcels sent from {town+}|number of training hours at {place+} in {town+}|"
    "number of visitors to {place+} in {town+}|electricity used by {place+}|"
    "number of sick days among the {job+}s in {town+}|number of returned {colour+} {goods+}|"
    "number of contracts signed in {town+}|waste from making {goods+}|"
    "number of calls answered by the {town+} office|weekly output of {colour+} {goods+}|"
    "number of late payments in {town+}"
)

CAUSES = phrases(
    "{name+} links this to the new shift plan in {town+}|"
    "the change began in {month+}, when {place+} in {town+} reopened|"
    "according to {name+}, the price of {goods+} explains most of it|"
    "the {job+}s in {town+} had asked for this since {month+}|"
    "{name+} expects the trend to hold until {month+}|a supplier from {town+} delivered {5..60} days late|"
    "it is the first such move since {month+}|the figure includes {10..90} late entries from {town+}|"
    "nobody in {town+} could say why|bad weather in {month+} played a part|"
    "the {colour+} team had {2..9} people more than before|{name+} wants a second count before {month+}"
)

REMARKS = phrases(
    "{name+} will present the details in {town+} on {day+}.|The meeting in {town+} lasted {2..5} hours.|"
    "A visit to {place+} is planned for {month+}.|{name+}, {job+} in {town+}, joined the group in {month+}.|"
    "The list of {goods+} is in the annex of {10..80} pages.|"
    "Two rooms in {town+} are still painted {colour+}.|The next stocktaking of {goods+} is on {day+}.|"
    "{name+} thanked everybody at {place+} for their patience.|"
    "{a_job+} from {town+} checked the {goods+} in {month+}."
)

REPORT = {**SHARED, "measure": MEASURES, "cause": CAUSES, "remark": REMARKS}


def finding(scene: Scene) -> tuple[str, str]:
    """A report sentence with two figures and the true change between them, and the same in short."""
    draw = scene.draw
    measure = scene.fresh("measure")
    before, percent = draw.integer(4, 90) * 20, draw.integer(1, 12) * 5
    rise = draw.chance(0.5)
    after = before + before * percent // 100 * (1 if rise else -1)
    up, verb = ("up", "rose") if rise else ("down", "fell")
    cause = scene.fresh("cause")
    long = draw.pick(
        [
            f"The {measure} {verb} from {before} to {after}, {up} {percent}%; {cause}.",
            f"At {after}, the {measure} is {up} {percent}% from {before} the year before; {cause}.",
            f"The {measure} went from {before} to {after}. That is {percent}% {up}, and {cause}.",
        ]
    )
    short = draw.pick(
        [
            f"The {measure} {verb} by {percent}% to {after}.",
            f"{capital(measure)}: {up} {percent}% to {after}.",
            f"The {measure} is {up} {percent}%, at {after}.",
        ]
    )
    return long, short


def report(draw: Draw, findings: int) -> tuple[str, list[str]]:
    """Text of a made-up report and its findings in short; about 30 words for each finding."""
    scene = Scene(draw, REPORT)
    when = f"{draw.pick(MONTHS)} {draw.integer(2016, 2026)}"
    heading = f"{company(draw)}: report for {when}, prepared by {person(draw)}"
    sentences, shorts = [], []
    for _ in range(findings):
        long, short = finding(scene)
        sentences.append(long)
        shorts.append(short)
        if draw.chance(0.4):
            sentences.append(scene.fresh("remark"))
    paragraphs, left = [], sentences
    while left:
        size = draw.integer(3, 6)
        paragraphs.append(" ".join(map(capital, left[:size])))
        left = left[size:]
    return heading + "\n\n" + "\n\n".join(paragraphs), shorts


def summary(draw: Draw) -> list[Turn]:
    text, shorts = report(draw, draw.pick([2, 3, 3, 4, 4, 5, 6, 8, 12, 20]))
    keep = min(len(shorts), draw.integer(2, 5))
    ask = draw.pick(
        [
            f"Summarise this report in {keep} points.",
            f"Give me the first {keep} findings of the report below, short.",
            "What are the main points of this text?",
            f"I have one minute before a call with {draw.pick(NAMES)}. What does this say?",
            f"Shorten the following report for the {draw.pick(JOBS)}s in {draw.pick(TOWNS)}.",
        ]
    )
    style = draw.pick(["- {}", "* {}", "{}"])
    points = "\n".join(style.format(short) for short in shorts[:keep])
    lead = draw.pick(["In short:\n", "The main points:\n", "Summary\n", "", "Here is what matters:\n"])
    return [(f"{ask}\n\n{text}", lead + points)]
