"""The table of architectures in docs/tasks.md says what logging, `headwaiter check` and `headwaiter heads` say."""

import re

import pytest

from registry.heads import architectures
from registry.served_classes import find_refusal, read_facts
from tests.families import FAMILIES
from tests.sweep.table import COLUMNS, SERVED, find_differences, parse, read_page

pytestmark = pytest.mark.slow


PAGE = read_page()
TABLE = parse(PAGE)
REFUSED_BY_LAYERS = {"reformer": "ReformerModelWithLMHead", "big_bird": "other logits at token n of a prompt"}
"""Families whose class is served, but not with the layers that the sweep and published checkpoints have."""
SAMPLES = 12
"""Classes of a task that are looked at: importing each takes a moment."""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_the_guide_has_a_row_and_all_its_answers_are_equal(family: str) -> None:
    heads = {task for task in COLUMNS if family in architectures(task)}
    assert heads
    assert {task for task in COLUMNS if TABLE[family, task] in SERVED} == heads
    assert {task for task in COLUMNS if TABLE[family, task]} == heads


def test_a_cell_has_a_sign_where_transformers_has_the_head_and_no_other() -> None:
    heads = {(family, task) for task in COLUMNS for family in architectures(task)}
    assert {cell for cell, sign in TABLE.items() if sign} == heads & TABLE.keys()
    with_heads = {(family, task) for family, task in heads if task != "feature-extraction"}
    assert with_heads <= TABLE.keys()


def test_what_the_table_refuses_is_refused_for_its_class() -> None:
    reasons = re.findall(r"^\| no \d+ \| (.*) \|$", PAGE, re.MULTILINE)
    assert reasons
    others = [reason for reason in reasons if not reason.startswith("the class ")]
    assert [reason for reason in others if not any(name in reason for name in REFUSED_BY_LAYERS.values())] == []


@pytest.mark.parametrize("task", COLUMNS)
def test_a_class_is_listed_as_the_table_has_it(task: str) -> None:
    classes = architectures(task)
    for is_served in (True, False):
        families = sorted(
            family
            for (family, column), sign in TABLE.items()
            if column == task and sign and _is_served(sign) == is_served and family not in REFUSED_BY_LAYERS
        )
        chosen = families[:: 1 + len(families) // SAMPLES]
        refusals = {family: find_refusal(task, read_facts(classes[family])) for family in chosen}
        assert [family for family, refusal in refusals.items() if (refusal is None) != is_served] == []


def _is_served(sign: str) -> bool:
    """Whether the class is: a family that was not tried is listed."""
    return sign != "no"


def test_another_table_is_told_by_its_cells_and_what_the_page_did_not_try_is_none() -> None:
    assert find_differences(PAGE, PAGE) == []
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| bert |")]
    found = PAGE.replace(row, row.replace("=", "=1", 1))
    assert find_differences(found, PAGE) == ["bert, feature-extraction: =1, the page has ="]
    assert find_differences(found, PAGE.replace(row, row.replace("=", "?", 1))) == []
