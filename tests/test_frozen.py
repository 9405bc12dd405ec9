"""What `frozen` makes is what `dataclass(frozen=True, slots=True)` makes, assignments aside."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import pytest

import tokpack
from tokpack.frozen import frozen

both = pytest.mark.parametrize(
    "make", [frozen, dataclass(frozen=True, slots=True)], ids=["frozen", "dataclass"]
)


def a_point(make):
    @make
    class Point:
        x: int
        y: float = 0.0
        tags: list[str] = field(default_factory=list, compare=False)
        note: str = field(default="", repr=False)

        def __post_init__(self):
            assert self.x >= 0

    return Point


@frozen
class Sent:
    x: int
    y: str = ""


@both
def test_values_compare_hash_and_show_as_those_of_a_dataclass(make):
    point = a_point(make)
    one = point(1, tags=["a"])
    assert one == point(1, tags=["b"]) != point(2)
    assert len({one, point(1), point(1, 2.0)}) == 2
    assert one != a_point(make)(1)
    assert one != (1, 0.0, "")
    assert repr(one).endswith("Point(x=1, y=0.0, tags=['a'])")
    with pytest.raises(AssertionError):
        point(-1)


@both
def test_one_without_fields_is_like_any_other(make):
    @make
    class Nothing:
        """No field."""

    assert Nothing() == Nothing()
    assert len({Nothing(), Nothing()}) == 1
    assert repr(Nothing()).endswith("Nothing()")


@both
def test_they_are_taken_where_dataclasses_are(make):
    one = a_point(make)(1, note="n")
    assert asdict(replace(one, y=2.0)) == {"x": 1, "y": 2.0, "tags": [], "note": "n"}
    assert [part.name for part in fields(one)] == ["x", "y", "tags", "note"]
    assert copy.copy(one) == one
    assert not hasattr(one, "__dict__")


@both
def test_methods_that_a_class_defines_stay(make):
    @make
    class Named:
        name: str

        def __eq__(self, other):
            return self.name.lower() == other.name.lower()

        def __hash__(self):
            return hash(self.name.lower())

        def __repr__(self):
            return f"<{self.name}>"

    assert len({Named("A"), Named("a")}) == 1
    assert repr(Named("A")) == "<A>"


def test_they_go_to_other_processes():
    assert pickle.loads(pickle.dumps(Sent(1, "y"))) == Sent(1, "y")


def test_fields_are_given_by_name_alone_where_that_is_asked_for():
    point = a_point(frozen(kw_only=True))
    assert point(x=1) == point(x=1)
    with pytest.raises(TypeError):
        point(1)


def test_the_values_of_the_package_are_made_by_it_but_those_that_users_make():
    plain = re.compile(r"^@dataclass\(frozen=True, slots=True(, kw_only=True)?\)$", re.MULTILINE)
    package = Path(tokpack.__file__).parent
    found = [path.relative_to(package) for path in package.rglob("*.py") if plain.search(path.read_text())]
    assert found == [Path("settings/config.py")]
