"""`SpecialStrings` finds what a regular expression of the strings, the longest first, would find."""

from __future__ import annotations

import random
import re

from tokpack.stages.render.spans.special_strings import SpecialStrings


def test_special_strings_are_found_as_by_a_regular_expression():
    rng = random.Random(7)
    for _ in range(300):
        strings = {"".join(rng.choices("ab<^]-\\\n", k=rng.randint(0, 4))) for _ in range(rng.randint(0, 8))}
        strings -= {""}
        text = "".join(rng.choices("ab<^]-\\\n ", k=30))
        longest_first = sorted(strings, key=lambda string: (-len(string), string))
        pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        found = SpecialStrings(strings)
        assert found.ends(text) == [one.end() for one in pattern.finditer(text)]
        for place in range(len(text) + 1):
            one = pattern.match(text, place)
            assert found.at(text, place) == (one.group() if one else "")
            ending = [string for string in longest_first if text[:place].endswith(string)]
            assert found.before(text, 0, place) == (ending[0] if ending else "")
            assert not found.before(text, place, place)


def test_what_closes_a_text_is_special_strings_and_white_space_alone():
    found = SpecialStrings(["<e>", "e>", "<end>"])
    assert found.closing("x <e> <end>\n", 0, 12) == 1
    assert found.closing("x <e> <end>\n", 4, 12) == 5  # what began before is no part of it
    assert found.closing("x <e>y", 0, 6) == 6
