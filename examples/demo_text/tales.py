"""Short stories and small talk, of any length."""

from __future__ import annotations

from demo_text.draw import Draw, Scene, capital, phrases
from demo_text.problems import Turn
from demo_text.words import A_JOB, COUNTABLE, NAMES, PLACES, SHARED, SURNAMES, TOWNS, series

STORY = {
    **SHARED,
    "thing": phrases(
        "a key without a lock|a letter from {month+}|a map of {town+}|a clock that ran backwards|"
        "a box of {goods+}|a coat with {3..9} pockets|a bell from {place+}|a jar of {colour+} sand|"
        "a bird made of paper|half a photograph|a ticket to {town+}|a {colour+} lantern|"
        "a book without a title|a stone shaped like a heart|an unsigned bill"
    ),
    "opening": [
        "{hero}, {hero_job}, had lived in {town} for {2..40} years before anything strange happened.",
        "On a {day} in {month}, {hero} found {thing} in front of {place}.",
        "Nobody in {town} had ever asked {hero} about {thing}, and that was a pity.",
        "It began when {friend} left {thing} on the table and took the bus to {town+}.",
        "The {job+}s of {town} had a saying about {thing}, and {hero} never believed it.",
        "{hero} counted the {goods+} twice; there were {11..99}, and yesterday there had been one more.",
    ],
    "middle": [
        "{friend} thought of {place+} in {town+}, where {a_job+} might know more.",
        "At {place+} an old {job+} looked at it for {2..20} minutes and said nothing.",
        "They walked {3..19} kilometres towards {town+}, with the wind from the sea.",
        "Behind the {colour+} door lay {goods+}, stacked up to the ceiling.",
        '"You are the {4..9}th person to ask me that since {month+}," said the {job+} at {place+}.',
        "In the night {hero} heard steps on the stairs, {5..40} of them, and then a laugh.",
        "{friend} wrote everything into a {colour+} notebook, the hours on the "
        "left, the doubts on the right.",
        "The train to {town+} stopped for {10..50} minutes in a field of sunflowers.",
        '"My grandmother sold {goods+} at {place+}," said {friend}, "and she kept '
        '{thing+} under the counter."',
        "A child in a {colour+} coat pointed at the roof of {place+} and ran away.",
        "By {day+} the whole of {town} was talking about {thing+}.",
        "The {job+} from {town+} wanted {20..900} coins for it; {hero} offered {2..19}.",
        "Rain fell on {town+} for {2..9} days, and the river rose to the {colour+} mark.",
        "{hero} dreamed of {goods+} that sang in the voice of {friend}.",
        "They asked {a_job+}, then {a_job+}, and each told another story about {thing+}.",
        "Somewhere near {place+} the path ended, and a rope hung down from the wall.",
        '"If I were {a_job+}," {friend} whispered, "I would look under the {goods+}."',
        "The lamp went out {2..6} times before they reached {place+}.",
        "A dog followed them from {town+} and answered to the name of {surname+}.",
        "{hero} laughed, because on the back of it somebody had drawn {place+} with {3..12} windows.",
        "For {2..11} weeks nothing happened, except that the {goods+} turned {colour+}.",
        "On the {colour+} bench in front of {place+} sat {name+} {surname+}, eating bread.",
        "{friend} had once been {a_job+} in {town+}, and it still showed.",
        'The woman at {place+} shook her head: "We stopped selling {goods+} in {1950..1999}."',
        "There was a smell of {goods+} and wet wool in the air.",
        "{hero} took the stairs, {20..300} steps, and was out of breath at the top.",
        "Under the {goods+} lay a list of {4..40} names; the third was {surname+}.",
        '"{day+} is too late," said {friend}. "By then the {goods+} will be in {town+}."',
        "A {colour+} van drove slowly past {place+} and turned towards {town+}.",
        "{hero} had promised {name+} to be home by {5..9}, and it was already {10..12}.",
        'The {job+} had left only a note: "Back in {month+}, ask at {place+}."',
        "They slept at {place+}, between {goods+} and {goods+}.",
        "In {town+} people said that {friend} had not been seen there since {month+}.",
        "{name+}, the youngest of the {surname+} family, knew a shortcut behind {place+}.",
        "The clock of {town+} struck {5..12}, though it was hardly {2..4}.",
        "Every {day+} somebody had laid a {colour+} stone on the wall of {place+}.",
        "{hero} paid {3..60} coins for the boat and {3..60} for the silence of {a_job+}.",
        "When the fog rose, {town+} lay before them like a drawing in {colour+} chalk.",
        "{friend} sold the {goods+} and bought {thing+} instead, which helped nobody.",
        '"Count again," said {name+}. There were {20..99} {goods+}, not one less.',
    ],
    "turn": [
        "Then {hero} understood: the answer had been at {place} since {month+}.",
        '"Look at the date," said {friend}. It was the {4..20}th of {month+}, the '
        "day of the flood in {town+}.",
        "When the {goods+} fell over, {thing+} came to light, and everything fitted together.",
        "It was {a_job+} from {town+} who finally told them the truth.",
        "In the cellar of {place+} they found the other half.",
    ],
    "ending": [
        "Since then a {colour+} light burns at {place} in {town}, and {hero} knows why.",
        "{hero} gave it back on {day+}, and {friend} never mentioned it again.",
        "They shared the {goods+} with all of {town}, and kept {thing+} for themselves.",
        "If you visit {town}, ask for {hero}; the first cup of tea is free.",
        "The next {month+}, {friend} moved to {town+} and became {a_job+}.",
    ],
}


def tale(draw: Draw, sentences: int, hero: str, hero_job: str) -> str:
    """A story of about `sentences` sentences (18 tokens each) in paragraphs."""
    friend = f"{draw.pick(['old', 'young', 'Aunt', 'Uncle', 'Doctor'])} {draw.pick(SURNAMES)}"
    scene = Scene(draw, STORY, hero=hero, hero_job=hero_job, friend=friend)
    body = [
        scene("{opening}"),
        *scene.lines("middle", max(1, sentences - 3)),
        scene("{turn}"),
        scene("{ending}"),
    ]
    paragraphs: list[list[str]] = [[]]
    for sentence in body:
        if len(paragraphs[-1]) >= draw.integer(2, 6):
            paragraphs.append([])
        paragraphs[-1].append(capital(sentence))
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs)


def story(draw: Draw) -> list[Turn]:
    size = draw.pick([5, 6, 7, 8, 8, 9, 10, 12, 14, 18, 25, 40, 70, 120])
    hero, job = draw.pick(NAMES), draw.pick(A_JOB)
    wish = draw.pick(
        [
            f"Tell me a {draw.pick(['short ', 'strange ', 'quiet ', 'funny ', ''])}story about {hero}, "
            f"{job}.",
            f"Write a story in which {hero} looks for something in {draw.pick(TOWNS)}.",
            f"A bedtime story for {draw.pick(NAMES)}, please. The main person is called {hero}.",
            f"Write about {hero} and {draw.pick(COUNTABLE)}, in "
            f"{'many' if size > 20 else 'a few'} paragraphs.",
        ]
    )
    return [(wish, tale(draw, size, hero, job))]


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
        "My sister works as {a_job+} now, in {town+}.",
        "Could you lend me your {goods+} until {day+}?",
        "I have asked {2..9} people, and nobody knows {place+}.",
        "In {month+} we always drive to {town+}.",
        "You should tell {name+} about the {goods+}.",
        "The heating at {place+} has been broken since {month+}.",
        "On {day+} I have to be in {town+} by {6..11}.",
        "What would you do with {20..200} {goods+}?",
        "{name+} found a {colour+} umbrella in front of {place+}.",
        "The {job+} in our street has started to sell {goods+}.",
        "We could take the {colour+} car to {town+}.",
        "I read {2..9} books about {town+} and understood none.",
        "{name+} and {name+} are getting married in {month+}.",
        "They want {3..30} volunteers for {place+}, mostly on {day+}s.",
        "The film at {place+} is about {a_job+} who counts {goods+}.",
    ],
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
        counts = {
            name: sum(line.startswith(f"{name}: ") for line in text.split("\n")) for name in (left, right)
        }
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
