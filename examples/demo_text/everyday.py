"""Recipes, travel advice, dialogues and short stories."""

from __future__ import annotations

from demo_text.draw import Draw, Scene, capital
from demo_text.problems import Turn
from demo_text.words import (
    COLOURS,
    COUNTABLE,
    JOBS,
    MONTHS,
    NAMES,
    PLACES,
    SURNAMES,
    TOWNS,
    WEEKDAYS,
    article,
    series,
)

SHARED = {
    "name": NAMES,
    "surname": SURNAMES,
    "town": TOWNS,
    "place": PLACES,
    "day": WEEKDAYS,
    "month": MONTHS,
    "goods": COUNTABLE,
    "job": JOBS,
    "colour": COLOURS,
}


VEGETABLES = (
    "carrots leeks onions potatoes tomatoes spinach pumpkin mushrooms courgettes peppers beetroot fennel celery "
    "parsnips broccoli cauliflower aubergine kale peas sweetcorn"
).split()
STAPLES = "rice lentils chickpeas pasta barley bulgur couscous polenta beans quinoa noodles buckwheat".split()
SEASONINGS = (
    "cumin|smoked paprika|fresh thyme|lemon zest|ginger|garlic|mint|rosemary|chilli flakes|nutmeg|coriander|"
    "mustard seeds|dill|turmeric|black pepper|basil|caraway|sesame"
).split("|")
RICH = "cream|coconut milk|yoghurt|butter|crème fraîche|olive oil|grated cheese|tahini|sour cream|oat milk".split("|")
DISHES = {
    "soup": (
        "Cover with {stock} ml of stock and simmer for {15..35} minutes.",
        "Blend half of it, so that some pieces stay whole.",
    ),
    "stew": (
        "Pour in {stock} ml of stock, put the lid on and cook gently for {35..80} minutes.",
        "Take the lid off for the last {5..15} minutes so that it thickens.",
    ),
    "gratin": (
        "Layer everything in a dish, pour {stock} ml of stock over it and bake at {170..210} °C for {30..55} minutes.",
        "Leave the oven door open for {3..8} minutes before serving.",
    ),
    "salad": (
        "Cook the {staple} in {stock} ml of stock for {10..25} minutes, drain and let it cool.",
        "Mix everything and leave it for {10..40} minutes, so that the taste goes through.",
    ),
    "curry": (
        "Add {stock} ml of stock and cook over low heat for {20..40} minutes.",
        "Taste it after {8..18} minutes and add salt if needed.",
    ),
    "pan": (
        "Add {stock} ml of stock in {2..4} portions, stirring each time until it is gone.",
        "Raise the heat for the last {2..5} minutes so that the edges brown.",
    ),
}
COOKING = {
    "vegetable": VEGETABLES,
    "seasoning": SEASONINGS,
    "name": NAMES,
    "town": TOWNS,
    "day": WEEKDAYS,
    "cut": ["into cubes of {1..3} cm", "into thin slices", "into strips", "roughly", "into half rings", "finely"],
    "start": [
        "Wash the {first} and cut [it|them] {cut+}; cut the {second} {cut+}.",
        "Peel the {first}, chop [it|them] {cut+}, and do the same with the {second}.",
        "Cut the {second} {cut+} and the {first} {cut+}.",
    ],
    "fry": [
        "Warm {1..4} spoons of oil in a wide pot and fry the {second} for {3..9} minutes.",
        "Fry the {first} in a little oil for {4..11} minutes, until the edges turn golden.",
        "Let the {second} sweat in {10..40} g of butter over low heat for {5..12} minutes.",
    ],
    "spice": [
        "Stir in {spice} and {spice2} and wait {1..3} minutes, until you can smell it.",
        "Add the {spice} first and, {1..4} minutes later, the {spice2}.",
        "Now {spice} and {spice2} go in, then the {staple}.",
    ],
    "finish": [
        "Stir in the {rich}, season with salt, and serve with bread.",
        "Finish with the {rich} and a few leaves of whatever herb you have.",
        "Off the heat, fold in the {rich}; it keeps for {2..4} days in the fridge.",
    ],
    "tip": [
        "Tip: with {vegetable+} instead of {first} it becomes a dish for {month}.",
        "{name} from {town} adds {1..3} spoons of {seasoning+} at the table.",
        "What is left over can be frozen for {2..6} months.",
        "It tastes even better on {day}, when it was made the evening before.",
    ],
    "month": MONTHS,
}


def recipe(draw: Draw) -> list[Turn]:
    """A recipe; sometimes a second turn that scales it, with the amounts worked out."""
    kind, (first, second) = draw.pick(list(DISHES)), draw.sample(VEGETABLES, 2)
    staple, rich, (spice, spice2) = draw.pick(STAPLES), draw.pick(RICH), draw.sample(SEASONINGS, 2)
    serves = draw.integer(2, 6)
    amounts = {
        first: draw.integer(8, 20) * 10 * serves,
        second: draw.integer(4, 12) * 10 * serves,
        staple: draw.integer(5, 9) * 10 * serves,
        rich: draw.integer(2, 5) * 10 * serves,
    }
    stock = draw.integer(15, 30) * 10 * serves
    scene = Scene(
        draw, COOKING, first=first, second=second, staple=staple, rich=rich, spice=spice, spice2=spice2, stock=stock
    )
    steps = [scene("{start}"), scene("{fry}"), scene("{spice}"), *map(scene, DISHES[kind]), scene("{finish}")]
    if draw.chance(0.5):
        steps.append(scene("{tip}"))
    title = f"{first.capitalize()} {kind} with {staple} and {second}"
    listed = "\n".join(f"- {grams} g {what}" for what, grams in amounts.items())
    numbered = "\n".join(f"{place}. {step}" for place, step in enumerate(steps, 1))
    question = draw.pick(
        [
            f"I have {first}, {second} and {staple}. What can I cook for {serves} people?",
            f"Give me a recipe for {article(first)} {kind} for {serves}, with {spice} please.",
            f"{draw.pick(NAMES)} is coming for dinner on {draw.pick(WEEKDAYS)}. Any {kind} with {staple} for {serves}?",
            f"A simple {kind} with {first} and {rich}, for {serves} persons?",
        ]
    )
    answer = f"**{title}** (serves {serves})\n\n{listed}\n- {spice} and {spice2}\n- {stock} ml stock\n\n{numbered}"
    turns = [(question, answer)]
    if draw.chance(0.25):
        people = serves * draw.integer(2, 4)
        scaled = "\n".join(f"- {grams * people // serves} g {what}" for what, grams in amounts.items())
        turns.append(
            (
                f"We will be {people} in the end. How much do I need of each?",
                f"That is {people // serves} times as much:\n{scaled}\n- {stock * people // serves} ml stock\n"
                f"Take more {spice} by taste rather than by number.",
            )
        )
    return turns


TRIP = {
    **SHARED,
    "sight": [
        "{place} in {surname+} Street, built by {article_job} in {1700..1960}",
        "the {colour+} tower, {90..400} steps up, with a view as far as {town+}",
        "a museum of {goods+} that {name+} {surname+} runs with {2..9} volunteers",
        "the {day+} market, where {goods+} cost half of what they do in {town+}",
        "the river path to {town+}, {3..15} km, flat and shady",
        "a cellar full of {colour+} {goods+}, open until {17..22} o'clock",
        "the workshop of {name+}, {article_job}, who shows how {goods+} are made",
        "the bridge of {1800..1990}, painted {colour+} after the flood",
        "the park behind {place+}, with {20..90} kinds of roses",
    ],
    "article_job": [article(job) for job in JOBS],
    "eat": [
        "For lunch try the {colour+} house near {place+}; a plate costs {6..19} euros.",
        "{name+}'s kitchen opposite {place+} serves {soup+} until {20..23} o'clock.",
        "The stalls at {place+} sell {soup+} for {3..9} euros.",
        "On {day+}s the {job+}s of {town+} cook {soup+} for everybody at {place+}.",
    ],
    "soup": [f"{vegetable} {dish}" for vegetable in VEGETABLES for dish in ("soup", "pie", "dumplings")],
    "move": [
        "Take bus {2..80} from {place+}; it runs every {10..40} minutes.",
        "The walk from the station takes {10..45} minutes and passes {place+}.",
        "A day ticket costs {4..15} euros and is also valid in {town+}.",
        "Hire a bicycle from {name+} at {place+}: {8..25} euros a day.",
        "Leave the car in {town+}, where a day costs {2..9} euros, and come by train.",
    ],
    "advice": [
        "In {month+} it rains on {5..15} days, so pack a coat.",
        "On {day+}s most doors stay shut before {9..11} o'clock.",
        "Book {place+} {3..21} days ahead; {name+} answers the phone in person.",
        "Bring small coins: {place+} takes no cards below {10..30} euros.",
        "Ask at {place+} for the {colour+} leaflet with {4..12} walks.",
        "If the weather turns, {town+} with its indoor market is {15..50} minutes away.",
    ],
}


def travel(draw: Draw) -> list[Turn]:
    town, days = draw.pick(TOWNS), draw.pick([1, 1, 2, 2, 3, 3, 4, 5, 7])
    scene = Scene(draw, TRIP, town=town)
    month, friend = draw.pick(MONTHS), draw.pick(NAMES)
    question = draw.pick(
        [
            f"What should I see in {town} in {days} day{'s' * (days > 1)}? I travel in {month} with {friend}.",
            f"{friend} and I have {days} day{'s' * (days > 1)} in {town}. Can you make a plan?",
            f"Planning a trip to {town} for {month}: any tips for {days} day{'s' * (days > 1)}?",
            f"Is {town} worth a visit with children? We stay {days} day{'s' * (days > 1)} in {month}.",
        ]
    )
    blocks = []
    for number in range(1, days + 1):
        sights = scene.lines("sight", draw.integer(1, 3))
        first = draw.pick(["Start with", "In the morning see", "Begin at", "Go first to"])
        lines = [f"{first} {sights[0]}."]
        lines += [f"{draw.pick(['After that:', 'Then comes', 'Later visit'])} {sight}." for sight in sights[1:]]
        lines += [capital(scene.fresh("eat"))] * draw.chance(0.7) + [capital(scene.fresh("move"))] * draw.chance(0.5)
        text = " ".join(lines)
        blocks.append(text if days == 1 else f"{draw.pick(['Day', '**Day'])} {number}".replace("**Day", "Day") + f": {text}")
    advice = " ".join(capital(line) for line in scene.lines("advice", draw.integer(1, 2)))
    turns = [(question, "\n\n".join([*blocks, advice]))]
    if draw.chance(0.3):
        turns.append(
            (
                draw.pick(["And where do we eat well?", "How do we get around?", f"What about food in {town}?"]),
                " ".join(capital(line) for line in scene.lines("eat", 2) + scene.lines("move", 1)),
            )
        )
    return turns


STORY = {
    **SHARED,
    "thing": (
        "a key without a lock|a letter from {month+}|a map of {town+}|a clock that ran backwards|a box of {goods+}|"
        "a coat with {3..9} pockets|a bell from {place+}|a jar of {colour+} sand|a bird made of paper|half a photograph|"
        "a ticket to {town+}|a {colour+} lantern|a book without a title|a stone shaped like a heart|an unsigned bill"
    ).split("|"),
    "opening": [
        "{hero}, {article_job}, had lived in {town} for {2..40} years before anything strange happened.",
        "On a {day} in {month}, {hero} found {thing} in front of {place}.",
        "Nobody in {town} had ever asked {hero} about {thing}, and that was a pity.",
        "It began when {friend} left {thing} on the table and took the bus to {town+}.",
        "The {job+}s of {town} had a saying about {thing}, and {hero} never believed it.",
        "{hero} counted the {goods+} twice; there were {11..99}, and yesterday there had been one more.",
    ],
    "article_job": [article(job) for job in JOBS],
    "middle": [
        "{friend} thought of {place+} in {town+}, where {article_job} might know more.",
        "At {place+} an old {job+} looked at it for {2..20} minutes and said nothing.",
        "They walked {3..19} kilometres towards {town+}, with the wind from the sea.",
        "Behind the {colour+} door lay {goods+}, stacked up to the ceiling.",
        "\"You are the {2..9}th person to ask me that since {month+},\" said the {job+} at {place+}.",
        "In the night {hero} heard steps on the stairs, {5..40} of them, and then a laugh.",
        "{friend} wrote everything into a {colour+} notebook, the hours on the left, the doubts on the right.",
        "The train to {town+} stopped for {10..50} minutes in a field of sunflowers.",
        "\"My grandmother sold {goods+} at {place+},\" said {friend}, \"and she kept {thing+} under the counter.\"",
        "A child in a {colour+} coat pointed at the roof of {place+} and ran away.",
        "By {day+} the whole of {town} was talking about {thing+}.",
        "The {job+} from {town+} wanted {20..900} coins for it; {hero} offered {2..19}.",
        "Rain fell on {town+} for {2..9} days, and the river rose to the {colour+} mark.",
        "{hero} dreamed of {goods+} that sang in the voice of {friend}.",
        "They asked {article_job}, then {article_job}, and each told another story about {thing+}.",
        "Somewhere near {place+} the path ended, and a rope hung down from the wall.",
        "\"If I were {article_job},\" {friend} whispered, \"I would look under the {goods+}.\"",
        "The lamp went out {2..6} times before they reached {place+}.",
        "A dog followed them from {town+} and answered to the name of {surname+}.",
        "{hero} laughed, because on the back of it somebody had drawn {place+} with {3..12} windows.",
        "For {2..11} weeks nothing happened, except that the {goods+} turned {colour+}.",
        "On the {colour+} bench in front of {place+} sat {name+} {surname+}, eating bread.",
    ],
    "turn": [
        "Then {hero} understood: the answer had been at {place} since {month+}.",
        "\"Look at the date,\" said {friend}. It was the {2..28}th of {month+}, the day of the flood in {town+}.",
        "When the {goods+} fell over, {thing+} came to light, and everything fitted together.",
        "It was {article_job} from {town+} who finally told them the truth.",
        "In the cellar of {place+} they found the other half.",
    ],
    "ending": [
        "Since then a {colour+} light burns at {place} in {town}, and {hero} knows why.",
        "{hero} gave it back on {day+}, and {friend} never mentioned it again.",
        "They shared the {goods+} with all of {town}, and kept {thing+} for themselves.",
        "If you visit {town}, ask for {hero}; the first cup of tea is free.",
        "The next {month+}, {friend} moved to {town+} and became {article_job}.",
    ],
}


def tale(draw: Draw, sentences: int, *, hero: str | None = None) -> str:
    """A story of about `sentences` sentences (18 tokens each) in paragraphs."""
    hero, friend = hero or draw.pick(NAMES), draw.pick(SURNAMES)
    scene = Scene(draw, STORY, hero=hero, friend=f"{draw.pick(['old', 'young', 'Aunt', 'Uncle', 'Doctor'])} {friend}")
    body = [scene("{opening}"), *scene.lines("middle", max(1, sentences - 3)), scene("{turn}"), scene("{ending}")]
    paragraphs: list[list[str]] = [[]]
    for sentence in body:
        if len(paragraphs[-1]) >= draw.integer(2, 6):
            paragraphs.append([])
        paragraphs[-1].append(capital(sentence))
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs)


def story(draw: Draw) -> list[Turn]:
    size = draw.pick([5, 6, 7, 8, 8, 9, 10, 12, 14, 18, 25, 40, 70, 120])
    hero = draw.pick(NAMES)
    wish = draw.pick(
        [
            f"Tell me a {draw.pick(['short ', 'strange ', 'quiet ', 'funny ', ''])}story about {hero}, "
            f"{article(draw.pick(JOBS))}.",
            f"Write a story in which {hero} looks for something in {draw.pick(TOWNS)}.",
            f"A bedtime story for {draw.pick(NAMES)}, please. The main person is called {hero}.",
            f"Write about {hero} and {draw.pick(COUNTABLE)}, in {'many' if size > 20 else 'a few'} paragraphs.",
        ]
    )
    return [(wish, tale(draw, size, hero=hero))]


TALK = {
    **SHARED,
    "remark": [
        "Have you seen the {goods+} at {place+}?",
        "I was in {town+} on {day+}, and it rained for {2..9} hours.",
        "{name+} says the {job+} wants {20..400} euros for it.",
        "My {goods+} are {colour+} now. Do not ask why.",
        "Do you still have the number of the {job+} in {town+}?",
        "The bus to {town+} was {5..55} minutes late again.",
        "I would rather wait until {month+}.",
        "Shall we meet at {place+} on {day+}, say at {8..19}?",
        "{name+} is moving to {town+} and gives away {3..30} {goods+}.",
        "They will close {place+} for {2..12} weeks.",
        "I paid {5..90} euros for the {colour+} ones.",
        "My sister works as {article_job} now, in {town+}.",
        "Could you lend me your {goods+} until {day+}?",
        "I have asked {2..9} people, and nobody knows {place+}.",
        "In {month+} we always drive to {town+}.",
        "You should tell {name+} about the {goods+}.",
    ],
    "article_job": [article(job) for job in JOBS],
    "reply": [
        "Really?",
        "That is news to me.",
        "Who told you?",
        "I thought so.",
        "You cannot be serious.",
        "Fine by me.",
        "No, not yet.",
        "Let me think.",
        "Well, well.",
        "Oh dear.",
        "Yes, since {month+}.",
        "Ask {name+}.",
        "Not on a {day+}!",
        "Maybe in {town+}.",
    ],
}


def conversation(draw: Draw, lines: int) -> tuple[str, str, str]:
    """Two names and a dialogue between them of `lines` lines, about 16 tokens each."""
    left, right = draw.sample(NAMES, 2)
    scene = Scene(draw, TALK)
    said = []
    for place in range(lines):
        opener = scene.fresh("reply") + " " if place and draw.chance(0.5) else ""
        said.append(f"{left if place % 2 == 0 else right}: {opener}{scene.fresh('remark')}")
    return left, right, "\n".join(said)


def dialogue(draw: Draw) -> list[Turn]:
    lines = draw.pick([4, 5, 6, 6, 8, 8, 10, 12, 16, 24, 40])
    left, right, text = conversation(draw, lines)
    if draw.chance(0.4):
        counts = {name: sum(line.startswith(f"{name}: ") for line in text.split("\n")) for name in (left, right)}
        told = series([f"{name} {count}" for name, count in counts.items()])
        return [(f"How many lines does each person have here?\n\n{text}", f"{lines} lines in all: {told}.")]
    ask = draw.pick(
        [
            f"Write a dialogue of {lines} lines between {left} and {right}.",
            f"{left} and {right} meet at {draw.pick(PLACES)} in {draw.pick(TOWNS)}. What do they say?",
            f"I need {lines} lines of small talk for a language class; the speakers are {left} and {right}.",
        ]
    )
    return [(ask, text)]
