"""Every template family that trl ships: ids and labels against `apply_chat_template` and trl's tags."""

from __future__ import annotations

import sys

import families
import pytest
from conftest import REPO_ROOT
from family_judge import Judge
from few import a_few

sys.path.insert(0, str(REPO_ROOT / "docs"))

from make_template_table import line, lines

pytestmark = pytest.mark.skipif(families.folder() is None, reason="trl is not installed")


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return Judge(tmp_path_factory.mktemp("families"))


@pytest.mark.slow
@pytest.mark.parametrize("name", a_few(families.names()))
def test_ids_and_labels_are_those_of_the_tagged_template_and_the_docs_say_so(judge, name):
    assert line(name, judge.cells(name)) in lines()


def test_the_table_names_every_family_once():
    named = [text.split("`")[1] for text in lines()]
    assert set(named) >= set(families.names())
    assert len(named) == len(set(named))
