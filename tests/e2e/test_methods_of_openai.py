"""Every public method and parameter of OpenAI's client for the routes of this server, and the rest."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.e2e.client_table import MESSAGES, SENTENCE, Method, read_table, sweep
from tests.e2e.server import Server

pytestmark = pytest.mark.processor


CHAT = Method(
    "chat",
    {"model": "chat", "messages": MESSAGES},
    {
        "frequency_penalty": 0,
        "logprobs": True,
        "max_completion_tokens": 5,
        "max_tokens": 5,
        "metadata": {"a": "b"},
        "modalities": ["text"],
        "n": 2,
        "parallel_tool_calls": False,
        "presence_penalty": 0,
        "prompt_cache_key": "a",
        "prompt_cache_options": {},
        "prompt_cache_retention": "24h",
        "reasoning_effort": "none",
        "response_format": {"type": "text"},
        "safety_identifier": "a",
        "seed": 3,
        "service_tier": "auto",
        "stop": "fox",
        "store": False,
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "temperature": 0.7,
        "tool_choice": "none",
        "tools": [],
        "top_logprobs": 2,
        "top_p": 0.9,
        "user": "a",
    },
    {
        "audio": {"voice": "alloy", "format": "mp3"},
        "frequency_penalty": 0.5,
        "function_call": {"name": "f"},
        "functions": [{"name": "f"}],
        "logit_bias": {"1": 2},
        "modalities": ["audio"],
        "moderation": {"model": "a"},
        "prediction": {"type": "content", "content": "a"},
        "presence_penalty": 0.5,
        "reasoning_effort": "high",
        "response_format": {"type": "json_object"},
        "service_tier": "flex",
        "store": True,
        "stream_options": {"include_obfuscation": True},
        "tool_choice": "required",
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "verbosity": "low",
        "web_search_options": {},
    },
    {"top_logprobs": {"logprobs": True}, "stream_options": {"stream": True}},
)
COMPLETIONS = Method(
    "text-generation",
    {"model": "text-generation", "prompt": SENTENCE},
    {
        "best_of": 1,
        "echo": True,
        "frequency_penalty": 0,
        "logprobs": 2,
        "max_tokens": 5,
        "n": 2,
        "presence_penalty": 0,
        "seed": 3,
        "stop": ["fox"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "top_p": 0.9,
        "user": "a",
    },
    {
        "best_of": 2,
        "frequency_penalty": 0.5,
        "logit_bias": {"1": 2},
        "presence_penalty": 0.5,
        "stream_options": {"include_obfuscation": True},
        "suffix": "end",
    },
    {"stream_options": {"stream": True}},
)
EMBEDDINGS = Method(
    "embedder", {"model": "embedder", "input": SENTENCE}, {"dimensions": 5, "encoding_format": "base64", "user": "a"}
)
OPENAI = {
    "chat.completions.create": CHAT,
    "completions.create": COMPLETIONS,
    "embeddings.create": EMBEDDINGS,
    "models.list": Method(""),
    "models.retrieve": Method("", {"model": "chat"}),
}
TRANSPORT = {"extra_headers", "extra_query", "extra_body", "timeout"}
"""Parameters of every method that are about the call and not the request."""


@pytest.fixture
def openai_client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", admin_api_key="none", max_retries=0) as client:
        yield client


def reach(client: Any, path: str) -> Any:
    for name in path.split("."):
        client = getattr(client, name)
    return client


def resources(owner: Any) -> dict[str, Any]:
    """The resources that an object of openai has."""
    names = [name for name in dir(type(owner)) if not name.startswith("_") and not name.startswith("with_")]
    found = {name: getattr(owner, name) for name in names}
    return {name: each for name, each in found.items() if hasattr(each, "_client") and not inspect.ismethod(each)}


def methods(owner: Any) -> dict[str, Callable[..., Any]]:
    """The methods of a resource of openai."""
    return {
        name: method
        for name, method in inspect.getmembers(owner, inspect.ismethod)
        if not name.startswith(("_", "with_"))
    }


def any_call(owner: Any) -> Callable[..., Any] | None:
    """A method of a resource, or of one below it, that is one request; with something for each required argument."""
    for name in ("list", "create", "generate", "retrieve"):
        call = methods(owner).get(name)
        if call is not None:
            needed = [each for each in inspect.signature(call).parameters.values() if each.default is each.empty]
            given = {
                each.name: b"x" if each.name == "file" else "x" for each in needed if each.kind != each.VAR_KEYWORD
            }
            return partial(call, **given)
    return next((found for each in resources(owner).values() if (found := any_call(each)) is not None), None)


def test_the_table_of_openais_client_has_every_resource_and_method() -> None:
    table = read_table("openai.OpenAI")
    with openai.OpenAI(api_key="none") as client:
        served = {"chat.completions", "completions", "embeddings", "models"}
        expected = {f"{name}.{method}" for name in served for method in methods(reach(client, name))}
        expected |= {f"{name}.{below}" for name in served for below in resources(reach(client, name))}
        expected |= resources(client).keys() - {"chat", "completions", "embeddings", "models"}
        assert resources(client.chat).keys() == {"completions"}
    assert table.keys() == expected
    for name, method in OPENAI.items():
        assert table[name].refused == method.refused.keys(), name
    tested = OPENAI.keys() | {"chat.completions.parse", "chat.completions.stream"}
    assert {name for name, row in table.items() if not row.is_refused} == tested


@pytest.mark.parametrize("name", OPENAI)
def test_a_method_of_openais_client_with_each_parameter(openai_client: openai.OpenAI, name: str) -> None:
    answers = sweep(reach(openai_client, name), OPENAI[name], TRANSPORT, openai.UnprocessableEntityError)
    for answer in answers:
        for each in answer if isinstance(answer, openai.Stream) else [answer]:
            assert isinstance(
                each, (ChatCompletion, ChatCompletionChunk, Completion, CreateEmbeddingResponse, Model)
            ) or (name == "models.list")
            is_part = isinstance(each, Completion) and isinstance(
                answer, openai.Stream
            )  # OpenAI's have no reason, either
            if not isinstance(each, CreateEmbeddingResponse) and not is_part:  # the client decodes vectors
                type(each).model_validate(each.model_dump(), strict=True)


def test_null_means_absent_in_openais_bodies(server: Server) -> None:
    for route, method in (("chat/completions", CHAT), ("completions", COMPLETIONS), ("embeddings", EMBEDDINGS)):
        empty = dict.fromkeys({*method.values, *method.refused, "unheard"})
        found = server.http.post(f"/v1/{route}", json=empty | method.given)
        assert found.status_code == 200, found.text
        unheard = server.http.post(f"/v1/{route}", json={**method.given, "unheard": 1})
        assert (unheard.status_code, unheard.json()["error"]["param"]) == (422, "unheard")


def test_a_chats_message_says_that_it_is_no_refusal(openai_client: openai.OpenAI) -> None:
    raw = openai_client.chat.completions.with_raw_response.create(**CHAT.given, n=2, max_tokens=3)
    choices = raw.http_response.json()["choices"]
    assert [sorted(choice["message"]) for choice in choices] == [["content", "refusal", "role"]] * 2
    assert [choice["message"]["refusal"] for choice in choices] == [None, None]
    answer = openai_client.chat.completions.create(**CHAT.given, max_tokens=3)
    again = [*MESSAGES, answer.choices[0].message.model_dump(), {"role": "user", "content": "more"}]
    assert openai_client.chat.completions.create(**{**CHAT.given, "messages": again}, max_tokens=3).choices


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [name for name, row in read_table("openai.OpenAI").items() if row.is_refused])
def test_what_openais_client_has_beyond_is_not_there(openai_client: openai.OpenAI, name: str) -> None:
    found = reach(openai_client, name)
    if inspect.ismethod(found):
        needed = [each for each in inspect.signature(found).parameters.values() if each.default is each.empty]
        call: Any = partial(found, **{each.name: "x" for each in needed if each.kind != each.VAR_KEYWORD})
    else:
        call = any_call(found)
    assert call is not None
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    assert caught.value.status_code in (404, 405)
