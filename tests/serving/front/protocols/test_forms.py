"""Bodies of other protocols: fields, their errors, and the names that clients know."""

from typing import Any

import msgspec
import pytest

from serving import errors
from serving.front.protocols.forms import named_model, read_form, read_json, renamed
from serving.front.protocols.openai import describe_error
from serving.front.protocols.openai_forms import GenerationForm, refuse_unsupported, to_parameters
from serving.tasks import get_task

WRITES = get_task("text-generation")


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (errors.Malformed("x"), "invalid_request_error", "malformed"),
        (errors.UnknownModel("x"), "not_found_error", "model_not_found"),
        (errors.TooLarge("x"), "invalid_request_error", "too_large"),
        (errors.Unprocessable("x", field="n"), "invalid_request_error", "unprocessable"),
        (errors.QueueFull("x"), "rate_limit_error", "rate_limit_exceeded"),
        (errors.NotReady("x"), "server_error", "service_unavailable"),
        (errors.EngineLost("x"), "server_error", "service_unavailable"),
        (errors.DeadlineExceeded("x"), "server_error", "deadline"),
        (errors.Failed("x"), "server_error", "failed"),
    ],
)
def test_every_error_has_openais_shape(error: errors.ServingError, kind: str, code: str) -> None:
    expected = {"message": "x", "type": kind, "param": error.field or None, "code": code}
    assert describe_error(error) == {"error": expected}


@pytest.mark.parametrize(
    ("message", "told", "field"),
    [
        ("inputs[2] holds an empty text", "prompt[2] holds an empty text", "prompt"),
        ("parameters.max_new_tokens is 9", "max_tokens is 9", "max_tokens"),
        ("parameters.top_k: expected `int` >= 1", "top_k: expected `int` >= 1", "top_k"),
        ('cut it, or pass "parameters": {"truncate": true}', 'cut it, or pass "truncate": true', ""),
        ("the queue is full", "the queue is full", ""),
    ],
)
def test_errors_name_fields_as_the_client_wrote_them(message: str, told: str, field: str) -> None:
    with pytest.raises(errors.Unprocessable) as caught, renamed({"inputs": "prompt", "max_new_tokens": "max_tokens"}):
        raise errors.Unprocessable(message)
    assert (caught.value.message, caught.value.field) == (told, field)


def test_a_body_is_an_object_of_json() -> None:
    assert read_json(b'{"a": 1}') == {"a": 1}
    for body in (b"", b"[]", b"{", b'{"a": "\xff"}', b'{"a": "\\ud800"}', b"[" * 100_000):
        with pytest.raises(errors.Malformed):
            read_json(body)


def test_a_field_of_another_kind_is_named() -> None:
    class Small(msgspec.Struct):
        size: int
        names: list[str] = []

    for fields, field in (({}, "size"), ({"size": "x"}, "size"), ({"size": 1, "names": [1]}, "names[0]")):
        with pytest.raises(errors.Unprocessable) as caught:
            read_form(fields, Small)
        assert caught.value.field == field
    assert read_form({"size": 1, "more": 2}, Small).size == 1


def test_a_model_is_named_with_alias_or_version() -> None:
    assert named_model("a") == ("a", None)
    assert named_model("a@champion") == ("a@champion", None)
    assert named_model("a/3") == ("a", "3")
    with pytest.raises(errors.Unprocessable, match="GET /v1/models"):
        named_model(None)


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, {}),
        ({"max_tokens": 5, "n": 2, "stop": "x"}, {"max_new_tokens": 5, "n": 2, "stop": ["x"]}),
        ({"stop": [], "seed": None}, {}),
        ({"temperature": 0.5, "top_k": 3, "seed": 1}, {"temperature": 0.5, "top_k": 3, "seed": 1}),
        ({"temperature": 0, "top_p": 0.5, "top_k": 3, "seed": 1}, {"do_sample": False}),
        ({"logprobs": 5, "unknown": 1, "user": "me"}, {}),
    ],
)
def test_openais_settings_become_the_tasks(fields: Any, parameters: Any) -> None:
    assert to_parameters(read_form(fields, GenerationForm), fields, WRITES) == parameters


def test_what_is_not_done_is_refused_by_name() -> None:
    refuse_unsupported({"tools": [], "tool_choice": "none", "logit_bias": None, "response_format": {"type": "text"}})
    for fields in ({"tools": [{}]}, {"logit_bias": {"1": 2}}, {"suffix": "b"}, {"audio": {}}, {"best_of": 2}):
        with pytest.raises(errors.Unprocessable, match="leave it out") as caught:
            refuse_unsupported(fields)
        assert caught.value.field == next(iter(fields))
