"""Arithmetic word problems with the answer worked out; every line `a op b = c` in an answer is true."""

from __future__ import annotations

from collections.abc import Callable

from demo_text.draw import Draw
from demo_text.money_problems import Turn, discount, interest, savings, shopping, unit_price
from demo_text.words import COUNTABLE, NAMES, PLACES, TOWNS, clock, money, series

__all__ = ["Turn", "word_problem"]


def journey(draw: Draw) -> Turn:
    name, start, middle, end = draw.pick(NAMES), *draw.sample(TOWNS, 3)
    speeds, hours = draw.sample(range(8, 25), 2), [draw.integer(1, 6), draw.integer(1, 6)]
    speeds = [5 * speed for speed in speeds]
    legs = [speed * hour for speed, hour in zip(speeds, hours, strict=True)]
    vehicle = draw.pick(["bus", "train", "car", "delivery van", "camper", "motorcycle"])
    question = (
        f"{name} travels by {vehicle} from {start} to {middle} at {speeds[0]} km/h, "
        f"which takes {hours[0]} h, and "
        f"then on to {end} at {speeds[1]} km/h for {hours[1]} h. "
        + draw.pick(
            [
                f"How far is it from {start} to {end} along this route, and how long is {name} moving?",
                "What is the whole distance, and the whole time on the move?",
                f"How many kilometres lie between {start} and {end}, and how many hours did {name} drive?",
            ]
        )
    )
    return question, (
        f"{start} to {middle}: {speeds[0]} × {hours[0]} = {legs[0]} km\n"
        f"{middle} to {end}: {speeds[1]} × {hours[1]} = {legs[1]} km\n"
        f"Distance: {legs[0]} + {legs[1]} = {sum(legs)} km\n"
        f"Time: {hours[0]} + {hours[1]} = {sum(hours)} h\n\n"
        f"The {vehicle} covers {sum(legs)} km in {sum(hours)} hours of driving."
    )


def boxes(draw: Draw) -> Turn:
    thing, size = draw.pick(COUNTABLE), draw.integer(4, 30)
    made = draw.integer(60, 900)
    full, rest = divmod(made, size)
    place = draw.pick(PLACES)
    more = f"{full} full boxes, and {rest} {thing} are left over" if rest else f"exactly {full} full boxes"
    question = draw.pick(
        [
            f"{place.capitalize()} in {draw.pick(TOWNS)} packs {made} {thing} into boxes "
            f"of {size}. How many boxes "
            f"are full, and how many {thing} remain?",
            f"{draw.pick(NAMES)} has {made} {thing} to pack for {place}; {size} fit in a box. "
            "How many full boxes are there, and what is left?",
        ]
    )
    return question, (
        f"{draw.pick(['We divide', 'Divide', 'Count how often'])} {made} by {size}"
        f"{draw.pick([': whole boxes first.', ' and look at the remainder.', ', keeping the rest apart.'])}\n"
        f"{full} × {size} = {full * size}\n{made} − {full * size} = {rest}\n"
        f"So there are {more}."
    )


def average(draw: Draw) -> Turn:
    days = draw.integer(4, 7)
    low = draw.integer(5, 200)
    values = [low + draw.integer(0, 90) for _ in range(days)]
    values[-1] += -sum(values) % days
    mean = sum(values) // days
    what = draw.pick(
        [
            f"{draw.pick(COUNTABLE)} sold",
            "visitors counted",
            "parcels delivered",
            "letters sorted",
            "pages printed",
        ]
    )
    listed = series([str(value) for value in values])
    question = draw.pick(
        [
            f"{draw.pick(PLACES).capitalize()} in {draw.pick(TOWNS)} noted the number "
            f"of {what} on {days} days: "
            f"{listed}. What is the average per day?",
            f"{draw.pick(NAMES)} keeps a list for {draw.pick(PLACES)}: {listed} {what}, one figure a day. "
            f"Find the mean, and by how much the best day is above it.",
        ]
    )
    plus = " + ".join(str(value) for value in values)
    return question, (
        f"Sum: {plus} = {sum(values)}\n{sum(values)} ÷ {days} = {mean}\n"
        f"{draw.pick(['On average there were', 'The mean is'])} {mean} {what} a day. "
        f"The best day, with {max(values)}, lies {max(values) - mean} above it."
    )


def fence(draw: Draw) -> Turn:
    long, wide, price = draw.integer(8, 90), draw.integer(4, 60), draw.integer(12, 90) * 25
    around, name = 2 * (long + wide), draw.pick(NAMES)
    what = draw.pick(
        ["a vegetable plot", "a paddock", "a chicken run", "a playground", "a car park", "an orchard"]
    )
    question = draw.pick(
        [
            f"{name} wants a fence around {what} that is {long} m long and {wide} m "
            "wide. A metre of fence costs "
            f"{money(price)}. What does the fence cost, and how large is the area?",
            f"In {draw.pick(TOWNS)}, {what} measures {long} m by {wide} m. {name} pays "
            f"{money(price)} per metre to "
            "fence it. Work out the area and the price of the fence.",
        ]
    )
    return question, (
        f"Half the way round: {long} + {wide} = {long + wide} m\n"
        f"All the way round: 2 × {long + wide} = {around} m\n"
        f"Price: {around} × {money(price)} = {money(around * price)}\n"
        f"Area: {long} × {wide} = {long * wide} square metres\n\n"
        f"The fence costs {money(around * price)} and encloses {long * wide} m²."
    )


def production(draw: Draw) -> Turn:
    rate, hours, days = draw.integer(12, 180), draw.integer(5, 12), draw.integer(3, 20)
    thing, town = draw.pick(COUNTABLE), draw.pick(TOWNS)
    daily, made = rate * hours, rate * hours * days
    order = draw.integer(made // 2, made * 2)
    question = (
        f"A {draw.pick(['machine', 'small factory', 'line', 'workshop'])} in {town} turns out {rate} "
        f"{thing} an hour "
        f"and runs {hours} hours a day. "
        + draw.pick(
            [
                f"Can it fill an order for {order} {thing} in {days} days?",
                f"A customer wants {order} {thing} within {days} days. Is that possible?",
            ]
        )
    )
    gap = abs(made - order)
    verdict = f"Yes, with {gap} to spare" if made >= order else f"No, {gap} would be missing"
    return question, (
        f"A day: {rate} × {hours} = {daily} {thing}\nIn {days} days: {daily} × {days} = {made} {thing}\n"
        f"The order is for {order}. {verdict}."
    )


def ages(draw: Draw) -> Turn:
    old, young = draw.sample(NAMES, 2)
    base, gap, later = draw.integer(4, 40), draw.integer(2, 30), draw.integer(2, 15)
    total = 2 * (base + later) + gap
    question = (
        f"{old} is {gap} years older than {young}. In {later} years they will be {total} years old together. "
        + draw.pick(
            ["How old are they today?", "What are their ages now?", f"How old is {young} now, and {old}?"]
        )
    )
    return question, (
        f"Together today: {total} − {2 * later} = {total - 2 * later}, because both "
        f"grow {later} years older.\n"
        f"Without the gap: {total - 2 * later} − {gap} = {2 * base}\n{2 * base} ÷ 2 = {base}\n"
        f"{young} is {base} and {old} is {base + gap} years old."
    )


def mixture(draw: Draw) -> Turn:
    left, right, unit = draw.integer(1, 7), draw.integer(2, 9), draw.integer(2, 40)
    total = (left + right) * unit
    one, two = draw.pick(
        [
            ("syrup", "water"),
            ("cement", "sand"),
            ("blue paint", "white paint"),
            ("vinegar", "oil"),
            ("juice", "tea"),
        ]
    )
    question = (
        f"{draw.pick(NAMES)} from {draw.pick(TOWNS)} mixes {one} and {two} in the ratio {left} : {right} "
        f"for {draw.pick(PLACES)} in "
        f"{draw.pick(TOWNS)}. "
        f"How much of each goes into {total} litres?"
    )
    return question, (
        f"{draw.pick(['The ratio has', 'Count the parts:', 'There are'])} {left} + {right} = "
        f"{left + right} parts.\n"
        f"One part: {total} ÷ {left + right} = {unit} litres\n"
        f"{one.capitalize()}: {left} × {unit} = {left * unit} litres\n"
        f"{two.capitalize()}: {right} × {unit} = {right * unit} litres"
    )


def survey(draw: Draw) -> Turn:
    asked, first, second = draw.integer(3, 60) * 20, draw.integer(4, 10) * 5, draw.integer(2, 9) * 5
    topic = draw.pick(
        ["a longer market day", "a new cycle path", "later shop hours", "more benches", "a car-free square"]
    )
    yes, no = asked * first // 100, asked * second // 100
    question = (
        f"{draw.pick(NAMES)} asked {asked} people in {draw.pick(TOWNS)} and {draw.pick(TOWNS)} about "
        f"{topic}: {first}% "
        f"are for it, {second}% against, the others undecided. How many "
        f"{draw.pick(['people', 'answers'])} is that?"
    )
    return question, (
        f"For {topic}: {first}% of {asked} is {yes}.\nAgainst: {second}% of {asked} is {no}.\n"
        f"Decided: {yes} + {no} = {yes + no}\nUndecided: {asked} − {yes + no} = {asked - yes - no}"
    )


def reading(draw: Draw) -> Turn:
    name, slow, fast = draw.pick(NAMES), draw.integer(8, 30), draw.integer(31, 70)
    early, late = draw.integer(3, 12), draw.integer(2, 14)
    pages = slow * early + fast * late
    question = (
        f"{name} borrows a book of {pages} pages from {draw.pick(PLACES)} and reads "
        f"{slow} pages a day for {early} "
        f"days, later {fast} pages a day. "
        + draw.pick(["After how many days in all is the book finished?", "How many days does the book take?"])
    )
    return question, (
        f"The first days: {slow} × {early} = {slow * early} pages\n"
        f"Left: {pages} − {slow * early} = {fast * late} pages\n{fast * late} ÷ {fast} = {late}\n"
        f"{early} + {late} = {early + late}\n{name} needs {early + late} days."
    )


def fuel(draw: Draw) -> Turn:
    distance, use, price = draw.integer(2, 90) * 10, draw.integer(4, 12), draw.integer(120, 220)
    tenths = distance * use // 10
    cents = distance * use * price
    litres = f"{tenths // 10}.{tenths % 10}"
    cost = (cents + 50) // 100
    question = (
        f"A car uses {use} litres per 100 km. {draw.pick(NAMES)} drives {distance} km from "
        f"{draw.pick(TOWNS)} and "
        f"back home to {draw.pick(TOWNS)}, {distance} km in all, at {money(price)} a "
        "litre. What does the fuel cost?"
    )
    exact = "" if cents % 100 == 0 else ", rounded to the cent"
    return question, (
        f"Fuel: {distance} × {use} = {distance * use}, and divided by 100 that is {litres} litres.\n"
        f"Cost: {litres} litres at {money(price)} come to {money(cost)}{exact}."
    )


def schedule(draw: Draw) -> Turn:
    start = draw.integer(84, 200) * 5
    parts = draw.sample(
        [
            "the welcome",
            "a talk",
            "a break",
            "group work",
            "a tour",
            "questions",
            "lunch",
            "a film",
            "a quiz",
        ],
        draw.integer(3, 5),
    )
    lengths = [draw.integer(2, 12) * 5 for _ in parts]
    plan = series([f"{part} ({length} min)" for part, length in zip(parts, lengths, strict=True)])
    question = (
        f"A {draw.pick(['meeting', 'workshop', 'school visit', 'training day'])} at {draw.pick(PLACES)} in "
        f"{draw.pick(TOWNS)} starts at {clock(start)}. The plan: {plan}. "
        + draw.pick(["When does it end?", "At what time is everybody free?"])
    )
    now, rows = start, []
    for part, length in zip(parts, lengths, strict=True):
        rows.append(f"{clock(now)} to {clock(now + length)}: {part}")
        now += length
    return question, "\n".join(
        [
            *rows,
            f"The parts last {' + '.join(str(length) for length in lengths)} = {sum(lengths)} minutes.",
            f"It ends at {clock(now)}.",
        ]
    )


KINDS: tuple[Callable[[Draw], Turn], ...] = (
    shopping,
    journey,
    discount,
    boxes,
    average,
    fence,
    savings,
    production,
    ages,
    mixture,
    survey,
    reading,
    fuel,
    schedule,
    interest,
    unit_price,
)


def word_problem(draw: Draw) -> list[Turn]:
    return [draw.pick(KINDS)(draw)]
