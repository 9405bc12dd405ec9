"""Travel advice for invented towns."""

from __future__ import annotations

from demo_text.draw import Draw, Scene, capital
from demo_text.problems import Turn
from demo_text.recipes import VEGETABLES, single
from demo_text.words import MONTHS, NAMES, SHARED, TOWNS

TRIP = {
    **SHARED,
    "sight": [
        "{place} in {surname+} Street, built by {a_job+} in {1700..1960}",
        "the {colour+} tower, {90..400} steps up, with a view as far as {town+}",
        "a museum of {goods+} that {name+} {surname+} runs with {2..9} volunteers",
        "the {day+} market, where {goods+} cost half of what they do in {town+}",
        "the river path to {town+}, {3..15} km, flat and shady",
        "a cellar full of {colour+} {goods+}, open until {17..22} o'clock",
        "the workshop of {name+}, {a_job+}, who shows how {goods+} are made",
        "the bridge of {1800..1990}, painted {colour+} after the flood",
        "the park behind {place+}, with {20..90} kinds of roses",
    ],
    "eat": [
        "For lunch try the {colour+} house near {place+}; a plate costs {6..19} euros.",
        "{name+}'s kitchen opposite {place+} serves {soup+} until {20..23} o'clock.",
        "The stalls at {place+} sell {soup+} for {3..9} euros.",
        "On {day+}s the {job+}s of {town+} cook {soup+} for everybody at {place+}.",
    ],
    "soup": [
        f"{single(vegetable)} {dish}" for vegetable in VEGETABLES for dish in ("soup", "pie", "dumplings")
    ],
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
        "Book the tour of {place+} {3..21} days ahead; {name+} answers the phone in person.",
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
            f"What should I see in {town} in {days} day{'s' * (days > 1)}? I travel "
            f"in {month} with {friend}.",
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
        lines += [
            f"{draw.pick(['After that:', 'Then comes', 'Later visit'])} {sight}." for sight in sights[1:]
        ]
        lines += [capital(scene.fresh("eat"))] * draw.chance(0.7) + [
            capital(scene.fresh("move"))
        ] * draw.chance(0.5)
        text = " ".join(lines)
        blocks.append(text if days == 1 else f"Day {number}: {text}")
    advice = " ".join(capital(line) for line in scene.lines("advice", draw.integer(1, 2)))
    turns = [(question, "\n\n".join([*blocks, advice]))]
    if draw.chance(0.3):
        wish, slot = draw.pick(
            [
                ("And where do we eat well?", "eat"),
                ("How do we get around?", "move"),
                ("What about food?", "eat"),
            ]
        )
        turns.append((wish, " ".join(capital(line) for line in scene.lines(slot, draw.integer(2, 3)))))
    return turns
