"""Office work: summaries of reports, letters, data extraction to JSON, questions about a product, sorting texts."""

from __future__ import annotations

import json

from demo_text.draw import Draw, Scene, capital
from demo_text.problems import Turn
from demo_text.words import (
    COLOURS,
    COUNTABLE,
    JOBS,
    MONTHS,
    NAMES,
    PLACES,
    TOWNS,
    WEEKDAYS,
    article,
    brand,
    company,
    date,
    money,
    person,
    series,
)

SHARED = {
    "name": NAMES,
    "town": TOWNS,
    "place": PLACES,
    "day": WEEKDAYS,
    "month": MONTHS,
    "goods": COUNTABLE,
    "job": JOBS,
    "colour": COLOURS,
}

MEASURES = (
    "revenue from {goods+} in {town+}|running costs of the {colour+} team in {town+}|number of open orders for {goods+}|"
    "customer complaints about {goods+}|parcels sent from {town+}|hours of training at {place+} in {town+}|"
    "visitors to {place+} in {town+}|electricity used by {place+}|sick days among the {job+}s in {town+}|"
    "returns of {colour+} {goods+}|new contracts signed in {town+}|waste from making {goods+}|"
    "calls answered by the {town+} office|{colour+} {goods+} made per week|invoices paid late in {town+}"
).split("|")
CAUSES = (
    "{name+} links this to the new shift plan in {town+}|the change began in {month+}, when {place+} in {town+} reopened|"
    "according to {name+}, the price of {goods+} explains most of it|the {job+}s in {town+} had asked for this since {month+}|"
    "{name+} expects the trend to hold until {month+}|a supplier from {town+} delivered {5..60} days late|"
    "it is the first such move since {month+}|the figure includes {10..90} late entries from {town+}|"
    "nobody in {town+} could say why|bad weather in {month+} played a part|the {colour+} team had {2..9} people more than before|"
    "{name+} wants a second count before {month+}"
).split("|")
REMARKS = (
    "{name+} will present the details in {town+} on {day+}.|The meeting in {town+} lasted {2..5} hours.|"
    "A visit to {place+} is planned for {month+}.|{name+}, {job+} in {town+}, joined the group in {month+}.|"
    "The list of {goods+} is in the annex of {10..80} pages.|Two rooms in {town+} are still painted {colour+}.|"
    "The next stocktaking of {goods+} is on {day+}.|{name+} thanked everybody at {place+} for their patience.|"
    "A {job+} from {town+} checked the {goods+} in {month+}."
).split("|")
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
    heading = f"{company(draw)}: report for {draw.pick(MONTHS)} {draw.integer(2016, 2026)}, prepared by {person(draw)}"
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


LETTER = {
    **SHARED,
    "greeting": ["Dear {to},", "Hello {to},", "Good morning {to},", "Hi {to},"],
    "closing": ["Kind regards", "Yours sincerely", "Best wishes", "With many thanks", "Warm regards", "All the best"],
    "complaint": [
        "on {5..27} {month} I ordered {6..60} {goods} from your shop in {town}, order number {10000..99999}.",
        "I am writing about the {colour} {goods} that reached me in {town} on {day}.",
        "my delivery of {6..60} {goods} (invoice {10000..99999}) came to {place} in {town} on {day}.",
    ],
    "complaint_more": [
        "{2..5} of them were broken, and the box was [wet|open|torn|crushed].",
        "Instead of {colour+} ones I got {colour+} ones.",
        "The parcel was {3..20} days late, although {name+} in your {town+} branch had promised me {day+}.",
        "I called {2..6} times and spoke to {name+}, who said that a {job+} would look at it.",
        "The colour comes off after {2..9} days of normal use.",
        "The price on the bill is {3..30} euros higher than on your page of {5..27} {month+}.",
        "The lid does not close, as {name+} from {place+} can confirm.",
    ],
    "complaint_wish": [
        "Please send a replacement to {town} by {day+}.",
        "I ask you to pay back {20..190} euros within {7..21} days.",
        "Please collect the goods from {place+} and refund the full price before {5..27} {month+}.",
        "I would accept a discount of {10..40}% and keep them.",
    ],
    "thanks": [
        "thank you for {2..6} wonderful days in {town}.",
        "many thanks for your help with the {goods} at {place}.",
        "I want to thank you and {name+} for the evening at {place} in {town}.",
        "thank you so much for the {colour} {goods} that came on {day}.",
    ],
    "thanks_more": [
        "[The children|Our guests|My parents|The neighbours] still talk about the {goods+} you brought.",
        "Without {name+} we would never have found {place+} on {day+}.",
        "I have put the {colour+} {goods+} next to the window, where everybody sees them.",
        "{name+} laughed for {2..9} minutes when I told the story of {place+}.",
        "It was the best {day+} since we moved to {town+}.",
        "I learned more from you in {2..8} hours than in a whole course in {town+}.",
    ],
    "thanks_wish": [
        "Come and see us in {town+} in {month+}; the room with the {colour+} door is yours.",
        "Next time the {goods+} are on me.",
        "I hope we meet at {place+} on {day+}.",
        "{name+} sends greetings from {town+} and hopes to see you in {month+}.",
    ],
    "request": [
        "I have read that you are looking for a {job} in {town}.",
        "I would like to apply for the post of {job} that {name+} showed me at {place}.",
        "{name+} from {place} told me that your team in {town} needs a {job} from {month}.",
    ],
    "request_more": [
        "For {2..14} years I have worked as a {job+} in {town+}, the last {2..6} of them with {goods+}.",
        "In {month+} I finished a course at {place+} with a mark of {70..99} out of 100.",
        "I speak {2..5} languages and have led a group of {3..19} people in {town+}.",
        "My present employer in {town+} closes the {colour+} department in {month+}.",
        "I have set up {3..25} machines for {goods+}, most of them alone.",
        "{name+}, my former manager in {town+}, is glad to answer questions on {day+}s.",
    ],
    "request_wish": [
        "I could start on {5..27} {month+} and would be happy to visit you in {town+}.",
        "May I call you on {day+} to talk about the next step?",
        "My papers are attached; {place+} can send the originals by {month+}.",
        "I look forward to a talk, on {day+} or {day+} if that suits you.",
    ],
    "move": [
        "our meeting at {place} on {day} cannot take place as planned.",
        "I am sorry, but I have to move our appointment in {town} on {5..27} {month}.",
        "the visit of the {job} from {town} has to wait: {name+} is ill.",
    ],
    "move_more": [
        "The room is taken by {name+}'s group of {8..40} people until {day+}.",
        "My train from {town+} is cancelled, and the next one arrives {2..5} hours later.",
        "The {goods+} we wanted to look at will not be here before {day+}.",
        "Half of the {job+}s are at a course in {town+} until {5..27} {month+}.",
        "{place+} stays closed while a {job+} repairs the heating.",
    ],
    "move_wish": [
        "Would {day+} at {8..11} suit you instead, or else {day+} at {13..17}?",
        "Please tell {name+} by {day+} which date in {month+} you prefer.",
        "I suggest {5..27} {month+} at {place+}; the agenda stays the same.",
    ],
}
LETTER_ASKS = {
    "complaint": "a complaint to a shop about {goods} bought in {town}",
    "thanks": "a thank-you note to {to}, mentioning {town}",
    "request": "an application as {job} in {town}",
    "move": "a message that moves an appointment in {town} to another day",
}


def letter(draw: Draw) -> list[Turn]:
    kind = draw.pick(list(LETTER_ASKS))
    scene = Scene(draw, LETTER, to=draw.pick(NAMES))
    scene("{goods}{town}{job}")  # named in the question as well as in the letter
    body = [scene.fresh(kind), *scene.lines(f"{kind}_more", draw.integer(1, 4)), scene.fresh(f"{kind}_wish")]
    sender = person(draw)
    text = "\n\n".join([scene("{greeting}"), " ".join(map(capital, body)), f"{scene('{closing}')}\n{sender}"])
    tone = draw.pick(["friendly", "short", "polite", "formal", "clear", "warm", "firm but polite"])
    ask = scene(
        draw.pick(
            [
                f"Write {article(tone)} letter: {LETTER_ASKS[kind]}. My name is {sender}.",
                f"Please draft {LETTER_ASKS[kind]}, signed {sender}. Keep it {tone}.",
                f"I am {sender}. Help me with {LETTER_ASKS[kind]}; the tone should be {tone}.",
            ]
        )
    )
    return [(ask, text)]


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
    "battery": ("{4..60} hours", "How long does the battery of the {product} last?", "The battery of the {product} lasts {value}."),
    "weight": ("{120..990} grams", "What does it weigh?", "The {product} weighs {value}."),
    "warranty": ("{2..9} years", "How long is the warranty?", "{maker} gives {value} of warranty on the {product}."),
    "colour": ("{colour+} or {colour+}", "Which colours can I get?", "It comes in {value}."),
    "price": ("{19..890} euros", "How much is the {product}?", "The {product} costs {value}."),
    "delivery": ("{2..15} days", "When would it arrive in {town+}?", "Delivery to any town, {town+} included, takes {value}."),
    "noise": ("{20..70} decibels", "Is it loud?", "It makes {value}, which {name+} at {place+} measured for us."),
    "depth": ("{1..30} metres", "Can it get wet?", "Yes: it is tight down to {value} of water."),
    "range": ("{10..300} metres", "How far does the radio reach?", "In open country the {product} reaches {value}."),
    "power": ("{5..900} watts", "How much power does it draw?", "It draws {value} at most."),
    "memory": ("{2..64} gigabytes", "How much can it store?", "The built-in memory holds {value}."),
    "return": ("{10..90} days", "Can I send it back?", "Yes, within {value}, free of charge from {town+} and elsewhere."),
    "training": ("{10..90} minutes", "Is it hard to learn?", "Most people need {value}; {name+}, {job+} in {town+}, needed less."),
    "spares": ("{5..20} years", "Will there be spare parts?", "{maker} promises spare parts for {value}."),
}
DEVICES = (
    "head torch|kettle|label printer|bicycle lamp|weather station|hearing aid|door lock|camping stove|coffee grinder|"
    "floor robot|scale|radio|drill|thermostat|water filter|baby monitor|air purifier|soldering iron|projector|e-bike"
).split("|")


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
            scene.set(value=values[quality])
            rows.append(f"**{scene(QUALITIES[quality][1])}**\n{scene(QUALITIES[quality][2])}")
        ask = f"Write an FAQ for the {product}, {article(device)} by {maker}. Facts: {sheet}."
        return [(ask, f"# {product}: questions and answers\n\n" + "\n\n".join(rows))]
    turns: list[Turn] = []
    for place, quality in enumerate(draw.sample(chosen, draw.integer(1, min(4, len(chosen))))):
        scene.set(value=values[quality])
        question = scene(QUALITIES[quality][1])
        if place == 0:
            question = f"Data sheet of the {product}, {article(device)} by {maker}. {sheet}.\n\n{question}"
        turns.append((question, scene(QUALITIES[quality][2])))
    return turns


OPINION = {
    **SHARED,
    "good": (
        "the {colour+} {goods+} arrived in {town+} within {2..5} days|{name+} at the counter was patient and kind|"
        "after {3..30} weeks everything still works|the {job+} explained all {2..9} buttons to me|"
        "I paid {5..40} euros less than in {town+}|even my neighbour {name+} wants one now|"
        "the {goods+} look better than on the photo|they swapped the {colour+} one without a question"
    ).split("|"),
    "bad": (
        "the {goods+} fell apart after {2..9} days|nobody in {town+} picked up the phone for {2..6} hours|"
        "{name+} was rude when I asked about the {goods+}|the {colour+} paint smells|"
        "I waited {3..9} weeks for a {job+} to come|the bill was {5..50} euros too high|"
        "the manual for the {goods+} makes no sense|two of the {colour+} {goods+} were missing"
    ).split("|"),
    "sport": (
        "{town+} beat {town+} by {3..6} goals to {0..2} on {day+}|{name+} ran the {10..42} kilometres of {town+} in {month+}|"
        "the {colour+} team of {town+} signs {name+} for {2..4} seasons"
    ).split("|"),
    "business": (
        "a maker of {goods+} in {town+} takes on {10..90} people|prices for {goods+} rose by {2..19}% in {month+}|"
        "{name+} becomes head of the {goods+} exchange in {town+}"
    ).split("|"),
    "weather": (
        "up to {10..60} millimetres of rain are expected in {town+} on {day+}|the coldest {month+} night in {town+} had minus {5..25} degrees|"
        "wind of {60..140} km/h closed the bridge at {town+}"
    ).split("|"),
    "culture": (
        "{name+} shows {10..90} paintings of {goods+} at {place+} in {town+}|the {town+} choir sings on {day+} at {place+}|"
        "a film about a {job+} from {town+} opens in {month+}"
    ).split("|"),
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
                f"Is this {what} {labels}? \"{text}\"",
                f"Classify the {what} as {labels}: {text}",
                f"Label for {draw.pick(NAMES)}'s list ({labels}): {text}",
            ]
        )
        return [(ask, draw.pick(["{}", "Label: {}", "I would call it {}.", "{}."]).format(label))]
    ask = f"Mark each {what} as {labels}."
    listed = "\n".join(f"{place}) {text}" for place, (text, _) in enumerate(items, 1))
    counts = series([f"{label} {[l for _, l in items].count(label)}" for label in dict.fromkeys(l for _, l in items)])
    marks = "\n".join(f"{place}) {label}" for place, (_, label) in enumerate(items, 1))
    return [(f"{ask}\n\n{listed}", f"{marks}\n\nIn all: {counts}." if draw.chance(0.5) else marks)]
