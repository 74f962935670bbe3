"""What a body of MLflow's scoring protocol asks is applied or refused by its name; tables in CSV of other programs."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from serving.errors import Malformed, ServingError, TooLarge, Unprocessable
from serving.front.protocols import mlflow
from serving.tasks import get_task
from serving.tasks.base.request import Request, convert_request

MAX_ROWS = 8


def read(body: Any, task: str = "text-classification") -> Request:
    """The request in a body: of JSON, or of CSV where it is bytes."""
    is_table = isinstance(body, bytes)
    given = body if is_table else json.dumps(body).encode()
    read_inputs, params = (mlflow._read_table if is_table else mlflow._read_object)(given, MAX_ROWS)
    found = get_task(task)
    return convert_request(read_inputs(found), params, found, MAX_ROWS)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {"inputs": ["a"], "parameters": {"top_k": 1}},
            "parameters is no field .*: put the model's parameters in params",
        ),
        ({"inputs": ["a"], "top_k": 1, "truncat": True}, "top_k is no field .* params"),
        ({"inputs": ["a"], "signature_name": "serving_default"}, "signature_name is no field"),
        ({"inputs": {"text": ["a"], "top_k": [1]}}, "column 'top_k' is unknown to text-classification .* params"),
        ({"inputs": ["a"], "params": {"top": 1}}, "unknown field `top`"),
        ({"inputs": [{"text": "a", "top_k": 1}]}, "unknown field `top_k`"),
        ({"instances": [{"text": "a", "top_k": 1}]}, "unknown field `top_k`"),
        ({"dataframe_split": {"columns": ["text", "id"], "data": [["a", 7]]}}, "column 'id' .* leave it out"),
        ({"dataframe_split": {"columns": ["text", "text"], "data": [["a", "b"]]}}, "column 'text' comes twice"),
        ({"dataframe_split": {"columns": ["text"], "data": [["a"]], "dtype": 1}}, "unknown field `dtype`"),
        ({"dataframe_records": [{"text": "a", "top_k": 1}]}, "column 'top_k' .* params"),
        ({"dataframe_records": [{"inputs": "a", "text": "b"}]}, "column 'text'"),
        (b"text,top_k\na,1\n", "column 'top_k' .* params"),
        (b"text,text\na,b\n", "column 'text' comes twice"),
    ],
    ids=repr,
)
def test_what_is_not_applied_is_refused_by_its_name(body: Any, words: str) -> None:
    with pytest.raises(ServingError, match=words) as refused:
        read(body)
    assert refused.value.status in (400, 422)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": ["a"], "params": None, "instances": None, "parameters": None},
        {"dataframe_split": {"columns": ["text"], "index": [0], "data": [["a"]]}},
        {"dataframe_split": {"columns": ["any name"], "data": [["a"]]}},
        {"dataframe_records": [{"text": "a", "id": None}]},
        {"instances": [{"text": "a"}]},
        {"inputs": {"text": "a"}},
        b"text\na\n",
        b",text\n0,a\n",  # as pandas' to_csv
    ],
    ids=repr,
)
def test_what_the_protocol_has_is_read(body: Any) -> None:
    (item,) = read(body).items
    assert getattr(item, "text", item) == "a"


def test_columns_that_are_the_parts_of_an_input_are_all_read() -> None:
    pair = read(b"text,text_pair\na,b\n").items[0]
    assert (pair.text, pair.text_pair) == ("a", "b")
    with pytest.raises(Unprocessable, match="column 'id' is unknown to question-answering"):
        read({"dataframe_records": [{"question": "q", "context": "c", "id": 1}]}, "question-answering")


@pytest.mark.parametrize("task", ["text-classification", "question-answering"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(task: str) -> None:
    names = {"text-classification": "text,text_pair", "question-answering": "question,context"}[task]
    assert len(read(f"\ufeff{names}\na,b\n".encode(), task).items) == 1


@pytest.fixture
def field_limit() -> Iterator[None]:
    """The limit of a process that has imported the protocol, whatever other tests did to it."""
    before = csv.field_size_limit(mlflow.MAX_FIELD)
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("field_limit")
def test_a_field_of_a_table_is_as_long_as_a_text_may_be() -> None:
    assert read(b"text\n" + b"a" * 200_000).items == ["a" * 200_000]
    with pytest.raises(TooLarge, match=f"a field of more than {mlflow.MAX_FIELD:,} characters"):
        read(b"text\n" + b"a" * (mlflow.MAX_FIELD + 1))
    with pytest.raises(Malformed, match="not CSV in UTF-8"):
        read(b"text\n\xff\n")


def test_importing_the_protocol_sets_the_limit_of_the_process() -> None:
    code = "import csv; from serving.front.protocols import mlflow; assert csv.field_size_limit() == mlflow.MAX_FIELD"
    subprocess.run([sys.executable, "-c", code], check=True)
