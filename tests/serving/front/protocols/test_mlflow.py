"""What a body of MLflow's scoring protocol asks is applied or refused by its name."""

import json
from typing import Any

import pytest

from serving.errors import ServingError, Unprocessable
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
