"""The order of the rooms: a module imports what stands before it, and nothing goes in circles.

Read from the sources, nothing is imported. Imports inside of functions count, and those for types alone.
"""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A room is a module or a package; each imports only those before it. The front door, tokpack/__init__.py,
# imports any of them for types, and nothing else.
HOUSE = {
    "tokpack": """
        version frozen arrays terminal ranges free_memory schema errors engine plugins hub host_header
        files settings on_disk doctor
        encoding stages packed_urls
        run cost way pipeline calibration starting
        report packed
        api text export
        cli view __main__
    """,
    "trainer_plugin": """
        words extras processes
        rows models losses checkpoints
        recipe output_folder dtypes options
        isolation adapters training
        evaluation serving serve_config served_proof
        cli
    """,
}
ROOMS = {top: rooms.split() for top, rooms in HOUSE.items()}
UPWARD = {
    (
        "tokpack.settings.config_limits",
        "tokpack.settings.config",
    ): "for types: Config checks itself by the limits of its own"
}
CIRCLES = {
    ("tokpack.packed.folder", "tokpack.packed.viewer"): "`packed.show(row)`: a method, for people",
    (
        "tokpack.packed.folder",
        "tokpack.packed.left_out",
    ): "`packed.dropped_text(doc_id)`: a method, for people",
    ("tokpack.cost.model_shape", "tokpack.cost.hf_config"): "`ModelShape.from_config`: the way to make one",
}
"""Imports inside of functions that lead back, with their reasons."""
TRAINER_TAKES = {
    "version",
    "terminal",
    "schema",
    "errors",
    "hub",
    "host_header",
    "files",
    "on_disk",
    "cost",
    "packed_urls",
}
ONLY_THERE = {
    "trainer_plugin.evaluation": {"tokpack.packed", "tokpack.report", "tokpack.cli", "tokpack.encoding"},
    "trainer_plugin.cli": {"tokpack.cli"},
    "trainer_plugin.options": {"tokpack.cli"},
    "trainer_plugin.checkpoints": {"tokpack.encoding"},
    "trainer_plugin.training": {"tokpack.encoding"},
    "trainer_plugin.serving": {"tokpack.cli", "tokpack.stages"},
    "trainer_plugin.serve_config": {"tokpack.cli"},
}
"""Commands draw as tokpack's do, and an evaluation reads and shows packed documents."""


class Import(NamedTuple):
    by: str
    of: str
    line: int
    for_types: bool

    def __str__(self) -> str:
        return f"{self.by}:{self.line} imports {self.of}"


@cache
def tree(text: str) -> ast.Module:
    return ast.parse(text)


def sources() -> dict[str, str]:
    """Module -> its text. What the trainers of others run (`export/scripts`) is no part of the house."""
    found = {}
    for top in ROOMS:
        for path in sorted((ROOT / top).rglob("*.py")):
            if "scripts" not in path.parts:
                parts = path.relative_to(ROOT).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imports(modules: dict[str, str]) -> list[Import]:
    """All imports of the modules among themselves, each once."""
    found = {}
    for name, text in modules.items():
        for place, line, for_types in _imported(tree(text), False):
            of = place
            while of and of not in modules:  # a function or a class: the module that it is in
                of = of.rpartition(".")[0]
            if of and of != name:
                found.setdefault((name, of, for_types), Import(name, of, line, for_types))
    return list(found.values())


def _imported(node: ast.AST, for_types: bool) -> Iterator[tuple[str, int, bool]]:
    if isinstance(node, ast.ImportFrom):
        assert not node.level, "imports are absolute"
        yield from ((f"{node.module}.{alias.name}", node.lineno, for_types) for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from ((alias.name, node.lineno, for_types) for alias in node.names)
    for_types = for_types or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):  # what can hold a statement
            yield from _imported(child, for_types)


def test_every_name_that_is_imported_from_another_module_is_there() -> None:
    """Inside of functions too, where nothing notices before a user does; and by what no test runs."""
    modules = sources()
    own = {name: set(_defined(tree(text).body)) for name, text in modules.items()}
    outside = [path for top in ("tests", "benchmarks", "examples") for path in (ROOT / top).rglob("*.py")]
    missing = [
        f"{name}:{line} imports {place}"
        for name, text in [*modules.items(), *((str(path), path.read_text()) for path in outside)]
        for place, line, _ in _imported(tree(text), False)
        for of, _, last in [place.rpartition(".")]
        if of in modules and place not in modules and last not in own[of] and "__getattr__" not in own[of]
    ]
    assert missing == []


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """Names that the statements of a module bind."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from _defined(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _defined(handler.body)


def test_a_class_has_a_name_of_its_own() -> None:
    found: dict[str, list[str]] = {}
    for module, text in sources().items():
        for node in tree(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def upward(found: list[Import], rooms: list[str]) -> list[Import]:
    """Imports between rooms of which the second does not stand before the first."""
    place = {room: number for number, room in enumerate(rooms)}
    return [
        each
        for each in found
        if room_of(each.by) != room_of(each.of)
        and {room_of(each.by), room_of(each.of)} <= place.keys()
        and place[room_of(each.of)] > place[room_of(each.by)]
    ]


def in_circles(found: list[Import]) -> set[str]:
    """The modules that are left when those are taken away that import none of the others, again and again,
    and then those that none of the others imports."""
    after: dict[str, set[str]] = {}
    before: dict[str, set[str]] = {}
    for each in found:
        after.setdefault(each.by, set()).add(each.of)
        before.setdefault(each.of, set()).add(each.by)
    left = after.keys() | before.keys()
    while ends := {m for m in left if not (after.get(m, set()) & left and before.get(m, set()) & left)}:
        left -= ends
    return left


@pytest.fixture(scope="module")
def found() -> list[Import]:
    return imports(sources())


@pytest.mark.parametrize("top", ROOMS)
def test_every_room_has_its_place(top):
    there = {path.stem for path in (ROOT / top).glob("*.py")}
    there |= {path.parent.name for path in (ROOT / top).glob("*/__init__.py")}
    assert sorted(ROOMS[top]) == sorted(there - {"__init__"})


@pytest.mark.parametrize("top", ROOMS)
def test_no_room_imports_one_after_it(top, found):
    wrong = upward(found, [f"{top}.{room}" for room in ROOMS[top]])
    assert [str(each) for each in wrong if (each.by, each.of) not in UPWARD] == []


def test_no_module_imports_itself_by_way_of_others(found):
    told = UPWARD.keys() | CIRCLES.keys()
    assert (
        in_circles([each for each in found if not each.for_types and (each.by, each.of) not in told]) == set()
    )


def test_each_exception_is_needed(found):
    assert UPWARD.keys() | CIRCLES.keys() <= {(each.by, each.of) for each in found}
    run = [each for each in found if not each.for_types]
    for one in CIRCLES:
        others = CIRCLES.keys() - {one}
        assert in_circles([each for each in run if (each.by, each.of) not in others]), one


def test_the_front_door_imports_for_types_alone(found):
    assert {each.of for each in found if each.by == "tokpack" and not each.for_types} == {"tokpack.version"}
    assert [str(each) for each in found if each.of == "tokpack"] == []


def test_the_trainer_takes_the_small_modules_of_tokpack(found):
    wrong, used = [], set()
    for each in found:
        if each.by.startswith("tokpack"):
            assert not each.of.startswith("trainer_plugin"), str(each)
        elif each.of.startswith("tokpack"):
            special = {
                of for of in ONLY_THERE.get(room_of(each.by), ()) if f"{each.of}.".startswith(f"{of}.")
            }
            used |= {(room_of(each.by), of) for of in special}
            if not special and room_of(each.of).removeprefix("tokpack.") not in TRAINER_TAKES:
                wrong.append(str(each))
    assert wrong == []
    assert used == {(by, of) for by, rooms in ONLY_THERE.items() for of in rooms}


def test_wrong_houses_are_seen():
    house = {
        "a.low": "def f():\n    from a.high import g",
        "a.high": "import a.low",
        "a.types": "if TYPE_CHECKING:\n    from a.top.room import T",
        "a.top.room": "from a import types",
        "a.top.cellar": "from a.low import f",
    }
    found = imports(house)
    order = ["a.low", "a.high", "a.types", "a.top"]
    assert [str(each) for each in upward(found, order)] == [
        "a.low:2 imports a.high",
        "a.types:2 imports a.top.room",
    ]
    assert in_circles([each for each in found if not each.for_types]) == {"a.low", "a.high"}


def test_no_link_is_tracked():
    """A link of one machine, as `.venv`, would take the place of what lies there on another."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-s"]
    listed = subprocess.run(listing, capture_output=True, check=False, text=True).stdout.splitlines()
    assert [line for line in listed if line.startswith("120000")] == []
