import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Malformed, ServingError, TooLarge, Unprocessable
from serving.tasks import get_task, served_tasks
from serving.tasks.base.request import convert_request, parse_body

TEXT = get_task("text-classification")
TOKENS = get_task("token-classification")


def parse(body: Any, task: Any = TEXT, max_rows: int = 10) -> Any:
    return parse_body(body if isinstance(body, bytes) else json.dumps(body).encode(), task, max_rows)


def test_one_input_and_a_list_are_told_apart() -> None:
    one, many = parse({"inputs": "a"}), parse({"inputs": ["a", {"text": "b", "text_pair": "c"}]})
    assert (one.items, one.is_list) == (["a"], False)
    assert many.is_list
    assert [getattr(item, "text_pair", item) for item in many.items] == ["a", "c"]
    assert parse({"inputs": "a", "parameters": None}).parameters == TEXT.parameters_type()


@pytest.mark.parametrize(
    ("body", "error", "match"),
    [
        (b"", Malformed, "not JSON"),
        (b"{", Malformed, "not JSON"),
        (b'{"inputs": "\xff"}', Malformed, "not JSON"),
        (b'{"inputs": "\xed\xa0\x80"}', Malformed, "not JSON"),
        (b'{"inputs": "\\ud800"}', Malformed, "lone surrogate"),
        (b'{"inputs": [' + b"[" * 50_000, ServingError, "not JSON|expected"),
        (b'{"inputs": NaN}', Malformed, "not JSON"),
        ([], Unprocessable, "expected `object`, got `array`"),
        ({}, Unprocessable, "missing required field `inputs`"),
        ({"inputs": 1}, Unprocessable, r"inputs: expected .*got `int`"),
        ({"inputs": ["a", 1]}, Unprocessable, r"inputs\[1\]: expected"),
        ({"inputs": []}, Unprocessable, "empty list"),
        ({"inputs": "a", "options": {}}, Unprocessable, "unknown field `options`"),
        ({"inputs": "a", "parameters": {"topk": 1}}, Unprocessable, "parameters: object contains unknown field `topk`"),
        ({"inputs": "a", "parameters": {"top_k": 0}}, Unprocessable, r"parameters\.top_k: expected `int` >= 1"),
        ({"inputs": "a", "parameters": {"top_k": "1"}}, Unprocessable, r"parameters\.top_k: expected"),
        ({"inputs": {"text": "a", "pair": "b"}}, Unprocessable, "unknown field `pair`"),
        ({"inputs": ["a"] * 11}, TooLarge, "11 entries, a request may have 10"),
    ],
)
def test_a_bad_body_is_refused_by_field_and_rule(body: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        parse(body)


@pytest.mark.slow
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_plain_data_gives_a_request_or_an_error_of_ours(inputs: Any) -> None:
    try:
        request = convert_request(inputs, None, TEXT, 10)
    except ServingError as error:
        assert error.status in (413, 422)
    else:
        assert request.items


@given(st.binary(max_size=200))
def test_any_bytes_give_a_request_or_an_error_of_ours(body: bytes) -> None:
    try:
        parse_body(body, TOKENS, 10)
    except ServingError as error:
        assert error.status in (400, 413, 422)


def test_plain_data_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(Unprocessable, match="lone surrogate at character 1"):
        convert_request(["a\ud800"], None, TEXT, 10)


@pytest.mark.parametrize("name", [name for name in served_tasks() if get_task(name).example])
def test_every_task_takes_its_own_example(name: str) -> None:
    task = get_task(name)
    request = convert_request(list(task.example), None, task, 10)
    assert len(request.items) == len(task.example)
    assert task.head.task == name
    assert isinstance(request.parameters, msgspec.Struct)


@pytest.mark.parametrize("place", ["beside", "within"])
def test_a_summarizer_takes_settings_where_the_hugging_face_client_puts_them(place: str) -> None:
    def parsed(**given: Any) -> Any:
        body = {"inputs": "a", **given} if place == "beside" else {"inputs": "a", "parameters": given}
        return parse(body, get_task("summarization")).parameters

    found = parsed(generate_parameters={"max_new_tokens": 8, "stop": ["."]}, truncation="longest_first", n=2)
    assert (found.max_new_tokens, found.stop, found.truncate, found.n) == (8, ["."], True, 2)
    for settings, words in (
        ({"generate_parameters": {"top_k": 0}}, "generate_parameters: Expected `int` >= 1 - of `top_k`"),
        ({"generate_parameters": {"generate_parameters": {}}}, "within itself"),
        ({"generate_parameters": {"unheard": 1}}, "unknown field `unheard`"),
        ({"generate_parameters": {"max_length": 1}}, "generate_parameters: Expected `int` >= 2 - of `max_length`"),
        ({"clean_up_tokenization_spaces": True}, "leave it out"),
    ):
        with pytest.raises(Unprocessable, match=words):
            parsed(**settings)


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [
        ({"max_length": 20, "min_length": 5}, 4, 19),  # the decoder's start token counts
        ({"max_length": 20, "max_new_tokens": 7, "min_length": 5, "min_new_tokens": 0}, 0, 7),
        ({"max_length": None, "min_length": 0}, 0, None),
    ],
)
def test_lengths_are_counted_as_generate_does(given: dict[str, Any], least: int, most: int | None) -> None:
    for parameters in (given, {"generate_parameters": given}):
        found = parse({"inputs": "a", "parameters": parameters}, get_task("summarization")).parameters
        assert (found.min_new_tokens, found.max_new_tokens) == (least, most)


def test_null_means_absent_wherever_it_stands() -> None:
    plain = parse({"inputs": {"text": "a"}})
    for body in (
        {"inputs": {"text": "a", "text_pair": None}, "parameters": None},
        {"inputs": {"text": "a", "query": None}, "parameters": {"top_k": None, "truncate": None}, "unheard": None},
        {"inputs": {"text": "a"}, "truncate": None, "parameters": {}},
    ):
        assert parse(body) == plain
    with pytest.raises(Unprocessable, match="missing required field `inputs`"):
        parse({"inputs": None})
    beside = {"inputs": "a", "parameters": {"top_k": 1}, "top_k": None}
    assert parse(beside).parameters.top_k == 1


@pytest.mark.parametrize("beside", [1, 2])
def test_a_parameter_within_and_beside_parameters_is_refused(beside: int) -> None:
    with pytest.raises(Unprocessable, match=r"parameters.top_k is also beside parameters: send it once"):
        parse({"inputs": "a", "parameters": {"top_k": 1}, "top_k": beside})
