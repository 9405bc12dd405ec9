"""Letters: complaints, thanks, applications, appointments."""

from __future__ import annotations

from demo_text.draw import Draw, Scene, capital
from demo_text.problems import Turn
from demo_text.words import NAMES, SHARED, article, person

LETTER = {
    **SHARED,
    "greeting": ["Dear {to},", "Hello {to},", "Good morning {to},", "Hi {to},"],
    "closing": [
        "Kind regards",
        "Yours sincerely",
        "Best wishes",
        "With many thanks",
        "Warm regards",
        "All the best",
    ],
    "complaint": [
        "on {5..27} {month} I ordered {6..60} {goods} from your shop in {town}, order number {10000..99999}.",
        "I am writing about the {colour} {goods} that reached me in {town} on {day}.",
        "my delivery of {6..60} {goods} (invoice {10000..99999}) came to {place} in {town} on {day}.",
    ],
    "complaint_more": [
        "{2..5} of them were broken, and the box was [wet|open|torn|crushed].",
        "Instead of {colour+} ones I got {colour+} ones.",
        "The parcel was {3..20} days late, although {name+} in your {town+} branch had promised me {day+}.",
        "I called {2..6} times and spoke to {name+}, who said that {a_job+} would look at it.",
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
        "I have read that you are looking for [a new|another] {job} in {town}.",
        "I would like to apply for the post of {job} that {name+} showed me at {place}.",
        "{name+} from {place} told me that your team in {town} needs [a new|another] {job} from {month}.",
    ],
    "request_more": [
        "For {2..14} years I have worked as {a_job+} in {town+}, the last {2..6} of them with {goods+}.",
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
        "{place+} stays closed while {a_job+} repairs the heating.",
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
    "request": "an application for work as {job} in {town}",
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
