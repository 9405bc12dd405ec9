"""Word problems about money: prices, discounts, savings, interest."""

from __future__ import annotations

from demo_text.draw import Draw
from demo_text.words import COUNTABLE, NAMES, PLACES, TOWNS, money, series

Turn = tuple[str, str]
"""A question and its answer."""


def shopping(draw: Draw) -> Turn:
    name, town = draw.pick(NAMES), draw.pick(TOWNS)
    goods = draw.sample(COUNTABLE, draw.integer(2, 5))
    counts = [draw.integer(2, 12) for _ in goods]
    prices = [draw.integer(3, 79) * 5 for _ in goods]
    costs = [count * price for count, price in zip(counts, prices, strict=True)]
    total = sum(costs)
    paid = (total // 2000 + 1) * 2000
    bought = series(
        [f"{n} {good} at {money(p)} each" for n, good, p in zip(counts, goods, prices, strict=True)]
    )
    question = draw.pick(
        [
            f"{name} goes to the market in {town} and buys {bought}. How much change does {name} get back "
            f"from {money(paid)}?",
            f"At a shop in {town}, {name} takes {bought} to the till and pays with {money(paid)}. "
            "What is the change?",
            f"{name}'s basket holds {bought}. The cashier in {town} is given "
            f"{money(paid)}. How much goes back?",
        ]
    )
    steps = [
        f"- {good}: {n} × {money(p)} = {money(cost)}"
        for good, n, p, cost in zip(goods, counts, prices, costs, strict=True)
    ]
    return question, "\n".join(
        [
            draw.pick(["Cost of each kind:", "First the price of every item:", "Item by item:"]),
            *steps,
            f"Together that is {money(total)}.",
            f"{money(paid)} − {money(total)} = {money(paid - total)}",
            f"The change is {money(paid - total)}.",
        ]
    )


def discount(draw: Draw) -> Turn:
    name, thing = draw.pick(NAMES), draw.pick(COUNTABLE)
    price, percent, count = draw.integer(10, 400) * 20, draw.integer(1, 12) * 5, draw.integer(2, 30)
    full = price * count
    saved = full * percent // 100
    question = draw.pick(
        [
            f"A shop in {draw.pick(TOWNS)} sells {thing} at {money(price)} apiece and "
            f"takes {percent}% off orders "
            f"of {count}. What does {name} pay for {count} {thing}?",
            f"{name} orders {count} {thing} for {draw.pick(PLACES)}. One costs {money(price)}, and a "
            "voucher takes "
            f"{percent}% off the total. How much is the bill?",
        ]
    )
    return question, (
        f"{draw.pick(['Without the reduction', 'Full price', 'Before the discount'])}: "
        f"{count} × {money(price)} = {money(full)}\n"
        f"{percent}% of {money(full)} is {money(saved)}.\n"
        f"{money(full)} − {money(saved)} = {money(full - saved)}\n"
        f"{name} pays {money(full - saved)} and saves {money(saved)}."
    )


def savings(draw: Draw) -> Turn:
    name, start, weekly = draw.pick(NAMES), draw.integer(5, 90), draw.integer(6, 45)
    goal = start + weekly * draw.integer(6, 40) - draw.integer(0, weekly - 1)
    missing = goal - start
    weeks = -(-missing // weekly)
    thing = draw.pick(
        [
            "a bicycle",
            "a camera",
            "a guitar",
            "a tent",
            "a telescope",
            "a sewing machine",
            "a desk",
            "a phone",
            "a drone",
            "an e-reader",
        ]
    )
    question = (
        f"{name} has ${start} and puts aside ${weekly} every week for {thing} that costs ${goal}. "
        + draw.pick(
            ["After how many weeks is it enough?", "How many weeks does that take?", "When is the goal met?"]
        )
    )
    return question, (
        f"Still missing: {goal} − {start} = {missing} dollars.\n"
        f"After {weeks - 1} weeks {name} has added {weekly} × {weeks - 1} = {weekly * (weeks - 1)}, "
        f"which is not enough; after {weeks} weeks it is {weekly} × {weeks} = {weekly * weeks}.\n"
        f"{name} can buy {thing} after {weeks} weeks, with ${start + weekly * weeks - goal} to spare."
    )


def interest(draw: Draw) -> Turn:
    name, dollars, rate, years = (
        draw.pick(NAMES),
        draw.integer(4, 90) * 100,
        draw.integer(2, 7),
        draw.integer(2, 12),
    )
    yearly = dollars * rate // 100
    question = draw.pick(
        [
            f"{name} lends ${dollars} to a friend in {draw.pick(TOWNS)} at {rate}% simple "
            "interest a year. How much "
            f"is to be paid back after {years} years?",
            f"A savings bond of ${dollars} pays {rate}% simple interest each year. "
            f"What does {name} own after "
            f"{years} years?",
        ]
    )
    return question, (
        f"Interest for one year: {rate}% of ${dollars} is ${yearly}.\n"
        f"For {years} years: {yearly} × {years} = {yearly * years}\n"
        f"{dollars} + {yearly * years} = {dollars + yearly * years}\n"
        f"After {years} years it is ${dollars + yearly * years}."
    )


def unit_price(draw: Draw) -> Turn:
    thing, small, large = draw.pick(COUNTABLE), draw.integer(2, 9), draw.integer(10, 40)
    each = draw.sample(range(15, 240), 2)
    shops = draw.sample(TOWNS, 2)
    better = shops[0] if each[0] < each[1] else shops[1]
    question = (
        f"In {shops[0]} a pack of {small} {thing} costs {money(small * each[0])}; in "
        f"{shops[1]} a pack of {large} "
        f"costs {money(large * each[1])}. "
        + draw.pick(
            ["Where is one cheaper?", "Which offer is better per piece?", "Compare the price of one."]
        )
    )
    return question, (
        f"{shops[0]}: {money(small * each[0])} ÷ {small} = {money(each[0])}\n"
        f"{shops[1]}: {money(large * each[1])} ÷ {large} = {money(each[1])}\n"
        f"One piece is cheaper in {better}, by {money(abs(each[0] - each[1]))}."
    )
