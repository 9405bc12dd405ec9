"""Unit conversions, worked with exact fractions and rounded once at the end."""

from __future__ import annotations

from fractions import Fraction

from demo_text.draw import Draw
from demo_text.problems import Turn
from demo_text.words import NAMES, PLACES, TOWNS

FACTORS: dict[tuple[str, str], str] = {
    ("kilometres", "miles"): "0.621371192",
    ("miles", "kilometres"): "1.609344",
    ("metres", "feet"): "3.280839895",
    ("feet", "metres"): "0.3048",
    ("inches", "centimetres"): "2.54",
    ("centimetres", "inches"): "0.393700787",
    ("kilograms", "pounds"): "2.204622622",
    ("pounds", "kilograms"): "0.45359237",
    ("ounces", "grams"): "28.349523125",
    ("litres", "US gallons"): "0.264172052",
    ("US gallons", "litres"): "3.785411784",
    ("hectares", "acres"): "2.471053815",
    ("knots", "km/h"): "1.852",
    ("m/s", "km/h"): "3.6",
    ("kilowatt hours", "megajoules"): "3.6",
    ("nautical miles", "kilometres"): "1.852",
    ("bar", "kilopascals"): "100",
    ("hours", "minutes"): "60",
    ("weeks", "days"): "7",
    ("gibibytes", "mebibytes"): "1024",
}
"""(from, to) -> how many of the second are one of the first, to nine places where it does not end."""

PAIRS = tuple(FACTORS)


def rounded(value: Fraction, places: int) -> str:
    """Decimal text, halves away from zero, without trailing zeros."""
    scaled = abs(value) * 10**places
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    text = f"{whole // 10**places}.{whole % 10**places:0{places}d}".rstrip("0").rstrip(".")
    return "-" + text if value < 0 and whole else text


def amount(draw: Draw) -> str:
    whole = draw.integer(2, draw.pick([20, 90, 900]))
    return f"{whole}.{draw.integer(1, 9)}" if draw.chance(0.4) else str(whole)


def one(draw: Draw) -> tuple[str, str, str, str]:
    """(quantity, target unit, working, result)."""
    if draw.chance(0.15):
        celsius = draw.integer(-40, 260)
        result = rounded(Fraction(celsius * 9, 5) + 32, 1)
        return f"{celsius} °C", "°F", f"{celsius} × 9 ÷ 5 + 32", f"{result} °F"
    start, target = draw.pick(PAIRS)
    value, factor = amount(draw), FACTORS[start, target]
    result = rounded(Fraction(value) * Fraction(factor), 2)
    return f"{value} {start}", target, f"{value} × {factor}", f"{result} {target}"


def conversion(draw: Draw) -> list[Turn]:
    """One conversation: a single question, a list, or several turns."""
    purpose = draw.pick(
        [
            f"I am writing a sign for {draw.pick(PLACES)} in {draw.pick(TOWNS)}.",
            f"{draw.pick(NAMES)} sent me figures in the wrong units.",
            f"For a school project of {draw.pick(NAMES)} in {draw.pick(TOWNS)}:",
            f"Quick question from {draw.pick(PLACES)}.",
            f"A customer in {draw.pick(TOWNS)} asks for this.",
        ]
    )
    asked = [one(draw) for _ in range(draw.pick([1, 1, 2, 3, 4, 5]))]
    if len(asked) > 2 and draw.chance(0.6):
        listed = "\n".join(
            f"{place}. {value} in {target}" for place, (value, target, _, _) in enumerate(asked, 1)
        )
        answers = "\n".join(
            f"{place}. {value}: {working} = {result}"
            for place, (value, _, working, result) in enumerate(asked, 1)
        )
        return [(f"{purpose} Please convert:\n{listed}", f"{answers}\n(Rounded to two places at most.)")]
    turns = []
    for place, (value, target, working, result) in enumerate(asked):
        lead = purpose if place == 0 else draw.pick(["Thanks.", "Good.", "Got it.", "One more, please."])
        ask = draw.pick(
            [
                f"How much is {value} in {target}?",
                f"What is {value} in {target}?",
                f"Convert {value} to {target}.",
            ]
        )
        reply = draw.pick(["{0} = {1}. So {2} is about {1}.", "{2} is {1} ({0}).", "Calculate {0} = {1}."])
        turns.append((f"{lead} {ask}", reply.format(working, result, value)))
    return turns
