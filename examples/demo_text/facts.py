"""Facts found and sorted: extraction to JSON, questions about a product, classification."""

from __future__ import annotations

import json

from demo_text.draw import Draw, Scene, capital, phrases
from demo_text.problems import Turn
from demo_text.reports import REMARKS
from demo_text.words import (
    COLOURS,
    COUNTABLE,
    NAMES,
    PLACES,
    SHARED,
    TOWNS,
    article,
    brand,
    company,
    date,
    money,
    person,
    series,
)


def extraction(draw: Draw) -> list[Turn]:
    """Facts scattered over a text, and the same facts as JSON."""
    kind = draw.pick(["invoice", "booking", "incident", "delivery"])
    who, town, when = person(draw), draw.pick(TOWNS), date(draw)
    number, amount = draw.integer(1000, 99999), draw.integer(500, 90000)
    count, goods, firm = draw.integer(2, 90), draw.pick(COUNTABLE), company(draw)
    place, colour = draw.pick(PLACES), draw.pick(COLOURS)
    if kind == "invoice":
        facts = {"invoice": number, "customer": who, "date": when, "total": money(amount), "item": goods}
        sentences = [
            f"Invoice {number} was issued by {firm}.",
            f"It is addressed to {who}.",
            f"The date on it is {when}.",
            f"All in all {money(amount)} are due for the {goods}.",
        ]
    elif kind == "booking":
        facts = {"guest": who, "hotel": firm, "arrival": when, "nights": count, "room": colour}
        sentences = [
            f"This is {who} speaking.",
            f"I booked the {colour} room at {firm} in {town}.",
            f"We arrive on {when} and stay {count} nights.",
            f"Somebody at {place} told us about you.",
        ]
    elif kind == "incident":
        facts = {"reporter": who, "place": town, "date": when, "damaged": count, "object": goods}
        sentences = [
            f"On {when} there was water in the store in {town}.",
            f"We count {count} damaged {goods}.",
            f"I noticed it at the end of the shift. {who}",
            f"The {colour} door next to {place} was open.",
        ]
    else:
        facts = {"carrier": firm, "recipient": who, "pieces": count, "contents": goods, "town": town}
        sentences = [
            f"{firm} brought a pallet on {when}.",
            f"It holds {count} {goods}.",
            f"The recipient is {who} from {town}.",
            f"The slip has the number {number} and lies at {place}.",
        ]
    noise = Scene(draw, {**SHARED, "noise": REMARKS})
    listed = draw.shuffled(sentences) + noise.lines("noise", draw.integer(0, 4))
    fields = ", ".join(facts)
    ask = draw.pick(
        [
            f"Extract the fields {fields} from this text and answer with JSON only.",
            f"Turn the note into a JSON object with the keys {fields}.",
            f"Read the message below. I need {fields} as JSON, nothing else.",
        ]
    )
    answer = json.dumps(facts, indent=draw.pick([None, 2, 2, 4]))
    if draw.chance(0.4):
        answer = f"```json\n{answer}\n```"
    return [(f"{ask}\n\n{' '.join(draw.shuffled(listed))}", answer)]


QUALITIES = {
    "battery": (
        "{4..60} hours",
        "How long does the battery of the {product} last?",
        "The battery of the {product} lasts {value}.",
    ),
    "weight": ("{120..990} grams", "What does it weigh?", "The {product} weighs {value}."),
    "warranty": (
        "{2..9} years",
        "How long is the warranty?",
        "{maker} gives {value} of warranty on the {product}.",
    ),
    "colour": ("{colour+} or {colour+}", "Which colours can I get?", "It comes in {value}."),
    "price": ("{19..890} euros", "How much is the {product}?", "The {product} costs {value}."),
    "delivery": ("{2..15} days", "When would it arrive in {where}?", "Delivery to {where} takes {value}."),
    "noise": (
        "{20..70} decibels",
        "Is it loud?",
        "It makes {value}, which {name+} at {place+} measured for us.",
    ),
    "depth": ("{1..30} metres", "Can it get wet?", "Yes: it is tight down to {value} of water."),
    "range": (
        "{10..300} metres",
        "How far does the radio reach?",
        "In open country the {product} reaches {value}.",
    ),
    "power": ("{5..900} watts", "How much power does it draw?", "It draws {value} at most."),
    "memory": ("{2..64} gigabytes", "How much can it store?", "The built-in memory holds {value}."),
    "return": (
        "{10..90} days",
        "Can I send it back?",
        "Yes, within {value}, free of charge from {town+} and elsewhere.",
    ),
    "training": (
        "{10..90} minutes",
        "Is it hard to learn?",
        "Most people need {value}; {name+}, {job+} in {town+}, needed less.",
    ),
    "spares": ("{5..20} years", "Will there be spare parts?", "{maker} promises spare parts for {value}."),
}

DEVICES = phrases(
    "head torch|kettle|label printer|bicycle lamp|weather station|hearing aid|door lock|camping stove|"
    "coffee grinder|floor robot|scale|radio|drill|thermostat|water filter|baby monitor|air purifier|"
    "soldering iron|projector|e-bike"
)


def product_questions(draw: Draw) -> list[Turn]:
    """A conversation about an invented product, its data sheet in the first message."""
    product, maker = f"{brand(draw)} {draw.integer(2, 99)}", company(draw)
    scene = Scene(draw, SHARED, product=product, maker=maker)
    chosen = draw.sample(list(QUALITIES), draw.integer(3, 7))
    values = {quality: scene(QUALITIES[quality][0]) for quality in chosen}
    sheet = "; ".join(f"{quality}: {value}" for quality, value in values.items())
    device = draw.pick(DEVICES)
    if draw.chance(0.45):
        rows = []
        for quality in chosen:
            scene.set(value=values[quality], where=draw.pick(TOWNS))
            rows.append(f"**{scene(QUALITIES[quality][1])}**\n{scene(QUALITIES[quality][2])}")
        ask = f"Write an FAQ for the {product}, {article(device)} by {maker}. Facts: {sheet}."
        return [(ask, f"# {product}: questions and answers\n\n" + "\n\n".join(rows))]
    turns: list[Turn] = []
    for place, quality in enumerate(draw.sample(chosen, draw.integer(1, min(4, len(chosen))))):
        scene.set(value=values[quality], where=draw.pick(TOWNS))
        question = scene(QUALITIES[quality][1])
        if place == 0:
            question = f"Data sheet of the {product}, {article(device)} by {maker}. {sheet}.\n\n{question}"
        turns.append((question, scene(QUALITIES[quality][2])))
    return turns


OPINION = {
    **SHARED,
    "good": phrases(
        "the {colour+} {goods+} arrived in {town+} within {2..5} days|"
        "{name+} at the counter was patient and kind|after {3..30} weeks everything still works|"
        "the {job+} explained all {2..9} buttons to me|I paid {5..40} euros less than in {town+}|"
        "even my neighbour {name+} wants one now|the {goods+} look better than on the photo|"
        "they swapped the {colour+} one without a question"
    ),
    "bad": phrases(
        "the {goods+} fell apart after {2..9} days|nobody in {town+} picked up the phone for {2..6} hours|"
        "{name+} was rude when I asked about the {goods+}|the {colour+} paint smells|"
        "I waited {3..9} weeks for {a_job+} to come|the bill was {5..50} euros too high|"
        "the manual for the {goods+} makes no sense|two of the {colour+} {goods+} were missing"
    ),
    "sport": phrases(
        "{town+} beat {town+} by {3..6} goals to {0..2} on {day+}|"
        "{name+} ran the {10..42} kilometres of {town+} in {month+}|"
        "the {colour+} team of {town+} signs {name+} for {2..4} seasons"
    ),
    "business": phrases(
        "a maker of {goods+} in {town+} takes on {10..90} people|"
        "prices for {goods+} rose by {2..19}% in {month+}|"
        "{name+} becomes head of the {goods+} exchange in {town+}"
    ),
    "weather": phrases(
        "up to {10..60} millimetres of rain are expected in {town+} on {day+}|"
        "the coldest {month+} night in {town+} had minus {5..25} degrees|"
        "wind of {60..140} km/h closed the bridge at {town+}"
    ),
    "culture": phrases(
        "{name+} shows {10..90} paintings of {goods+} at {place+} in {town+}|"
        "the {town+} choir sings on {day+} at {place+}|a film about {a_job+} from {town+} opens in {month+}"
    ),
}


def sentiment(scene: Scene) -> tuple[str, str]:
    label = scene.draw.pick(["positive", "negative", "mixed"])
    kinds = {"positive": ["good", "good"], "negative": ["bad", "bad"], "mixed": ["good", "bad"]}[label]
    first, second = (scene.fresh(kind) for kind in kinds)
    join = ", but" if label == "mixed" else ", and"
    return f"{capital(first)}{join} {second}.", label


def topic(scene: Scene) -> tuple[str, str]:
    label = scene.draw.pick(["sport", "business", "weather", "culture"])
    text = scene.fresh(label)
    return f"{capital(text)}.", label


def classification(draw: Draw) -> list[Turn]:
    task, labels, what = draw.pick(
        [
            (sentiment, "positive, negative or mixed", "review"),
            (topic, "sport, business, weather or culture", "news line"),
        ]
    )
    scene = Scene(draw, OPINION)
    items = [task(scene) for _ in range(draw.pick([1, 2, 3, 4, 5, 8]))]
    if len(items) == 1:
        text, label = items[0]
        ask = draw.pick(
            [
                f'Is this {what} {labels}? "{text}"',
                f"Classify the {what} as {labels}: {text}",
                f"Label for {draw.pick(NAMES)}'s list ({labels}): {text}",
            ]
        )
        return [(ask, draw.pick(["{}", "Label: {}", "I would call it {}.", "{}."]).format(label))]
    ask = f"Mark each {what} as {labels}."
    listed = "\n".join(f"{place}) {text}" for place, (text, _) in enumerate(items, 1))
    given = [label for _, label in items]
    counts = series([f"{label} {given.count(label)}" for label in dict.fromkeys(given)])
    marks = "\n".join(f"{place}) {label}" for place, (_, label) in enumerate(items, 1))
    return [(f"{ask}\n\n{listed}", f"{marks}\n\nIn all: {counts}." if draw.chance(0.5) else marks)]
