"""Bodies of other protocols: fields, their errors, and the names that clients know."""

from inspect import signature
from types import SimpleNamespace
from typing import Any

import msgspec
import openai
import pytest

from serving import errors
from serving.front.protocols.forms import named_model, read_form, read_json, refuse_unknown, renamed
from serving.front.protocols.openai import describe_error
from serving.front.protocols.openai_chat import Chat, ChatForm
from serving.front.protocols.openai_completions import CompletionForm
from serving.front.protocols.openai_embeddings import EmbeddingForm
from serving.front.protocols.openai_forms import UNSUPPORTED, WITHOUT_EFFECT, GenerationForm, to_parameters
from serving.tasks import get_task
from serving.tasks.base.fields import drop_unsupported

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
    for body in (b"", b"[]", b"{", b'{"a": "\xff"}', b'{"a": "\\ud800"}', b"[" * 50_000):
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


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_completion_tokens": 5, "max_tokens": 9}, 5),
        ({"max_tokens": 9}, 9),
        ({"max_completion_tokens": None}, None),
    ],
)
def test_a_chats_length_has_two_names(fields: dict[str, Any], expected: int | None) -> None:
    assert convert_chat(fields).parameters.max_new_tokens == expected


@pytest.mark.parametrize("fields", [{"max_completion_tokens": 0}, {"max_completion_tokens": 0, "max_tokens": 9}])
def test_a_chat_of_no_tokens_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(errors.Unprocessable, match=r"max_new_tokens: expected `int` >= 1"):
        convert_chat(fields)


def convert_chat(fields: dict[str, Any]) -> Any:
    front: Any = SimpleNamespace(settings=SimpleNamespace(max_rows=1))
    return Chat(front)._convert("a prompt", read_form({"messages": [], **fields}, ChatForm), fields, WRITES)


def test_what_is_not_done_is_refused_by_name() -> None:
    harmless = {"tools": [], "tool_choice": "none", "logit_bias": None, "response_format": {"type": "text"}}
    fields: dict[str, Any] = harmless | {"model": "m"}
    drop_unsupported(fields, UNSUPPORTED)
    assert fields == {"model": "m"}
    for fields in ({"tools": [{}]}, {"logit_bias": {"1": 2}}, {"suffix": "b"}, {"audio": {}}, {"best_of": 2}):
        with pytest.raises(errors.Unprocessable, match="leave it out") as caught:
            drop_unsupported(dict(fields), UNSUPPORTED)
        assert caught.value.field == next(iter(fields))


def test_null_means_absent_in_all_objects_and_lists_of_objects() -> None:
    class Inner(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
        size: int = 3

    class Outer(msgspec.Struct):
        one: Inner = Inner()
        many: list[Inner] = []

    fields = {"one": {"size": None, "unheard": None}, "many": [{"size": None}, {"size": 4}], "more": None}
    assert read_form(fields, Outer) == Outer(Inner(), [Inner(), Inner(4)])
    assert read_form(dict.fromkeys(GenerationForm.__struct_fields__), GenerationForm) == GenerationForm()
    deep: Any = None
    for _ in range(10_000):
        deep = {"one": deep}
    with pytest.raises(errors.Unprocessable, match="unknown field `one`"):
        read_form({"one": deep}, Outer)


def parameters_of(call: Any) -> set[str]:
    """What a method of the client sends in the body."""
    return set(signature(call).parameters) - {"extra_headers", "extra_query", "extra_body", "timeout"}


def test_every_parameter_of_openais_client_is_applied_or_refused_by_name() -> None:
    with openai.OpenAI(api_key="none") as client:
        sent = {
            ChatForm: parameters_of(client.chat.completions.create),
            CompletionForm: parameters_of(client.completions.create),
            EmbeddingForm: parameters_of(client.embeddings.create),
        }
    for form, names in sent.items():
        task = get_task("feature-extraction") if form is EmbeddingForm else WRITES
        for name in names:
            if name not in UNSUPPORTED or form is EmbeddingForm:
                refuse_unknown({name: 1}, form, task, *WITHOUT_EFFECT)
        with pytest.raises(errors.Unprocessable, match="unheard is unknown here and to") as caught:
            refuse_unknown({"unheard": 1, "model": "m"}, form, task, *WITHOUT_EFFECT)
        assert caught.value.field == "unheard"
        refuse_unknown({"unheard": None}, form, task)
    assert sent[ChatForm] | sent[CompletionForm] >= UNSUPPORTED.keys() - {"tool_prompt"}


def test_obfuscation_of_a_stream_is_refused_unless_it_is_not_asked_for() -> None:
    given = {"stream_options": {"include_usage": None, "include_obfuscation": False}}
    assert not read_form(given, GenerationForm).has_usage
    with pytest.raises(errors.Unprocessable, match="include_obfuscation is not supported"):
        read_form({"stream_options": {"include_obfuscation": True}}, GenerationForm)


def test_a_parameter_by_two_names_is_refused_where_they_differ() -> None:
    fields = {"prompt": "a", "max_tokens": 3, "max_new_tokens": 9}
    with pytest.raises(errors.Unprocessable, match="max_new_tokens differs from what this route sets") as refused:
        to_parameters(read_form(fields, CompletionForm), fields, WRITES)
    assert refused.value.field == "max_new_tokens"
    fields["max_new_tokens"] = 3
    assert to_parameters(read_form(fields, CompletionForm), fields, WRITES) == {"max_new_tokens": 3}
