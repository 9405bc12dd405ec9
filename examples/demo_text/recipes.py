"""Recipes, with amounts that a second question may scale."""

from __future__ import annotations

from demo_text.draw import Draw, Scene, phrases, words
from demo_text.problems import Turn
from demo_text.words import MONTHS, NAMES, TOWNS, WEEKDAYS, article

VEGETABLES = words(
    "carrots leeks onions potatoes tomatoes spinach pumpkin mushrooms courgettes peppers beetroot fennel "
    "celery parsnips broccoli cauliflower aubergine kale peas sweetcorn"
)


def single(vegetable: str) -> str:
    """The form in front of another noun: "tomato soup", "leek pie", "kale salad"."""
    return vegetable.removesuffix("es") if vegetable.endswith("oes") else vegetable.removesuffix("s")


STAPLES = words("rice lentils chickpeas pasta barley bulgur couscous polenta beans quinoa noodles buckwheat")

SEASONINGS = phrases(
    "cumin|smoked paprika|fresh thyme|lemon zest|ginger|garlic|mint|rosemary|chilli flakes|nutmeg|coriander|"
    "mustard seeds|dill|turmeric|black pepper|basil|caraway|sesame"
)

RICH = [
    "cream",
    "coconut milk",
    "yoghurt",
    "butter",
    "crème fraîche",
    "olive oil",
    "grated cheese",
    "tahini",
    "sour cream",
    "oat milk",
]

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
        "Layer everything in a dish, pour {stock} ml of stock over it and bake at {170..210} °C for "
        "{30..55} minutes.",
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
    "cut": [
        "into cubes of {1..3} cm",
        "into thin slices",
        "into strips",
        "roughly",
        "into half rings",
        "finely",
    ],
    "start": [
        "Wash and cut the {first} {cut+}; cut the {second} {cut+}.",
        "Peel and cut the {first} {cut+}, then do the same with the {second}.",
        "Cut the {second} {cut+} and the {first} {cut+}.",
    ],
    "fry": [
        "Warm {1..4} spoons of oil in a wide pot and fry the {second} for {3..9} minutes.",
        "Fry the {first} in a little oil for {4..11} minutes, until the edges turn golden.",
        "Let the {second} sweat in {10..40} g of butter over low heat for {5..12} minutes.",
    ],
    "spice": [
        "Stir in {spice1} and {spice2} and wait {1..3} minutes, until you can smell it.",
        "Add the {spice1} first and, {1..4} minutes later, the {spice2}.",
        "Now {spice1} and {spice2} go in, then the {staple}.",
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
        draw,
        COOKING,
        first=first,
        second=second,
        staple=staple,
        rich=rich,
        spice1=spice,
        spice2=spice2,
        stock=stock,
    )
    steps = [scene("{start}"), scene("{fry}"), scene("{spice}"), *map(scene, DISHES[kind]), scene("{finish}")]
    if draw.chance(0.5):
        steps.append(scene("{tip}"))
    title = f"{single(first).capitalize()} {kind} with {staple} and {second}"
    listed = "\n".join(f"- {grams} g {what}" for what, grams in amounts.items())
    numbered = "\n".join(f"{place}. {step}" for place, step in enumerate(steps, 1))
    question = draw.pick(
        [
            f"I have {first}, {second} and {staple}. What can I cook for {serves} people?",
            f"Give me a recipe for {article(single(first))} {kind} for {serves}, with {spice} please.",
            f"{draw.pick(NAMES)} is coming for dinner on {draw.pick(WEEKDAYS)}. Any {kind} with {staple} "
            f"for {serves}?",
            f"A simple {kind} with {first} and {rich}, for {serves} persons?",
        ]
    )
    answer = (
        f"**{title}** (serves {serves})\n\n{listed}\n- {spice} and {spice2}\n- {stock} ml stock\n\n{numbered}"
    )
    turns = [(question, answer)]
    if draw.chance(0.25):
        people = serves * draw.integer(2, 4)
        scaled = "\n".join(f"- {grams * people // serves} g {what}" for what, grams in amounts.items())
        turns.append(
            (
                f"We will be {people} in the end. How much do I need of each?",
                f"That is {people // serves} times as much:\n{scaled}\n- "
                f"{stock * people // serves} ml stock\n"
                f"Take more {spice} by taste rather than by number.",
            )
        )
    return turns
