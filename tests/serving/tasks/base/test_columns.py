"""Columns of a table become inputs of a task, or an error that says which column is missing."""

from typing import Any

import pytest

from serving.errors import Unprocessable
from serving.tasks import get_task
from serving.tasks.base.columns import check_names, parts_of, takes_text, to_inputs, unread_column

PAIR = {"question": ["q"], "context": ["c"]}


@pytest.mark.parametrize(
    ("task", "columns", "inputs"),
    [
        ("fill-mask", {"inputs": ["a", "b"]}, ["a", "b"]),
        ("fill-mask", {"text": ["a"], "id": [7]}, ["a"]),
        ("fill-mask", {"anything": ["a"]}, ["a"]),
        ("text-classification", {"text": ["a"]}, ["a"]),
        ("text-classification", {"text": ["a"], "text_pair": ["b"], "id": [1]}, [{"text": "a", "text_pair": "b"}]),
        ("question-answering", PAIR | {"id": [1]}, [{"question": "q", "context": "c"}]),
        ("multiple-choice", {"prompt": ["p"], "choices": [["x", "y"]]}, [{"prompt": "p", "choices": ["x", "y"]}]),
        ("fill-mask", {"text": []}, []),
    ],
)
def test_columns_become_inputs(task: str, columns: dict[str, list[Any]], inputs: list[Any]) -> None:
    assert to_inputs(columns, get_task(task)) == inputs


@pytest.mark.parametrize(
    ("task", "columns", "words"),
    [
        ("fill-mask", {"a": ["x"], "b": ["y"]}, "there are a, b: send inputs"),
        ("fill-mask", {}, "there are none"),
        ("question-answering", {"x": ["q"], "y": ["c"]}, "send question and context"),
        ("question-answering", {"question": ["q"], "context": ["c", "d"]}, "question: 1, context: 2"),
    ],
)
def test_columns_that_say_nothing_are_refused(task: str, columns: dict[str, list[Any]], words: str) -> None:
    with pytest.raises(Unprocessable, match=words):
        to_inputs(columns, get_task(task))


@pytest.mark.parametrize(
    ("task", "columns", "unread"),
    [
        ("fill-mask", {"text": ["a"], "id": [7]}, "id"),
        ("fill-mask", {"text": ["a"], "id": [None]}, None),
        ("fill-mask", {"text": ["a"], "inputs": ["b"]}, "text"),
        ("text-classification", {"inputs": ["a"], "text_pair": ["b"]}, "text_pair"),
        ("question-answering", PAIR | {"text": ["a"]}, "text"),
        ("question-answering", PAIR, None),
        ("fill-mask", {"anything": ["a"]}, None),
    ],
)
def test_a_column_that_is_not_read_is_named(task: str, columns: dict[str, list[Any]], unread: str | None) -> None:
    assert unread_column(columns, get_task(task)) == unread


def test_two_columns_of_one_name_are_refused() -> None:
    check_names(["a", "b"])
    with pytest.raises(Unprocessable, match="column 'b' comes twice"):
        check_names(["a", "b", "b"])


def test_the_parts_of_an_input_and_whether_they_are_lists() -> None:
    assert parts_of(get_task("multiple-choice")) == {"prompt": False, "choices": True}
    assert parts_of(get_task("text-classification"))["texts"] is True
    assert parts_of(get_task("fill-mask")) == {}
    assert [takes_text(get_task(name)) for name in ("fill-mask", "text-classification", "multiple-choice")] == [
        True,
        True,
        False,
    ]
