"""English word lists and the small makers of names and amounts that the tasks share."""

from __future__ import annotations

from demo_text.draw import Draw, phrases, words

NAMES = words(
    "Ada Amir Anika Ben Bruno Carla Chen Clara Daniel Dilara Elif Emil Emma Farah Felix Finn Gita Grace "
    "Hana Hugo Ines Ivan Jana Jonas Julia Kaan Karim Lara Leo Lina Luca Maria Mateo Maya Mila Nadia Nina "
    "Noah Nora Olga Oskar Paul Pia Priya Rana Rosa Sam Sara Selma Simon Sofia Tara Theo Tom Vera Viktor "
    "Yara Yusuf Zoe"
)
SURNAMES = words(
    "Abbas Adler Baker Bauer Berg Blanc Carter Costa Demir Dietz Eriksen Faber Fischer Gomez Grant Haddad "
    "Hale Ito Jansen Kaya Keller Koch Lang Lopez Marsh Meyer Moreau Novak Okafor Orlov Patel Pereira Quinn "
    "Reed Rossi Sato Silva Stone Tanaka Torres Ulrich Varga Walsh Weber Winter Young Zhang Zimmer"
)
TOWNS = words(
    "Alderbrook Ashby Bellmoor Birkdale Brightwater Carrow Cedarholm Coldspring Dunmere Eastvale Elmford "
    "Fairhaven Fernley Glenroy Greyport Harrowgate Hazelton Highcombe Ironbridge Kestrel Larkfield Linwood "
    "Maplecross Marlow Millbrook Northwick Oakridge Otterburn Pinehurst Quarrybank Ravensea Redcliff "
    "Rosehill Saltmarsh Silverton Stonehaven Summerfield Thornbury Underhill Valewood Westbrook Wexcombe "
    "Whitby Willowdale Yarrow"
)
COUNTABLE = words(
    "apples pears oranges lemons plums peaches notebooks pencils markers stickers marbles postcards candles "
    "cushions mugs plates bricks tiles planks bolts shells ribbons buttons badges balloons muffins cookies "
    "pretzels rolls seedlings bulbs tickets posters magnets keyrings batteries lamps chairs jars bottles "
    "baskets"
)
PLACES = phrases(
    "the library|the town hall|the bakery|the old mill|the harbour|the station|the museum|the school|"
    "the bus depot|the garden centre|the swimming pool|the community kitchen|the workshop|the post office|"
    "the sports hall|the theatre|the market square|the health centre|the nursery|the boat house|"
    "the bookshop|the repair café"
)
WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
COLOURS = words("red blue green yellow grey white black violet brown turquoise silver beige crimson golden")
JOBS = words(
    "nurse carpenter baker librarian electrician gardener teacher plumber driver welder translator florist "
    "cook optician surveyor editor mechanic pharmacist roofer tailor beekeeper glazier potter"
)

A_JOB = [("an " if job[0] in "aeiou" else "a ") + job for job in JOBS]

ONSETS = words(
    "Al Bel Cor Dal El Fen Gal Hel Ira Jun Kor Lum Mar Nel Or Pel Quo Ral Sol Tar Ul Ver Wil Xan Yor Zen"
)
MIDDLES = words("a e i o u ar en il on ira ela ova uma eta ani")
ENDINGS = words("dex via tron lis mera nox pax ra s ta vo x zon line works flow mark point")
TRADES = phrases(
    "Logistics|Foods|Tools|Textiles|Energy|Software|Dental Care|Packaging|Bicycles|Optics|Ceramics|Timber|"
    "Media|Coatings|Seeds|Travel|Robotics|Instruments|Furniture|Paper|Coffee|Insurance|Printing|Lighting|"
    "Plastics"
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
    "a_job": A_JOB,
    "colour": COLOURS,
}
"""Slots that most grammars have."""


def brand(draw: Draw) -> str:
    """An invented name such as "Kormatron": 26 x 15 x 18 of them."""
    return draw.pick(ONSETS) + draw.pick(MIDDLES) + draw.pick(ENDINGS)


def company(draw: Draw) -> str:
    return f"{brand(draw)} {draw.pick(TRADES)}"


def person(draw: Draw) -> str:
    return f"{draw.pick(NAMES)} {draw.pick(SURNAMES)}"


def money(cents: int) -> str:
    return f"${cents // 100:,}.{cents % 100:02d}"


def date(draw: Draw) -> str:
    return f"{draw.integer(1, 28)} {draw.pick(MONTHS)} {draw.integer(2019, 2026)}"


def clock(minutes: int) -> str:
    """Minutes since midnight as "14:05"."""
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def series(items: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def article(noun: str) -> str:
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun
