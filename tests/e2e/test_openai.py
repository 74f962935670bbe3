"""OpenAI's own client, unchanged, and the shape of the errors that it reads."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy
import openai
import pytest

from tests.alike import assert_alike
from tests.e2e.server import Server

pytestmark = pytest.mark.processor


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models_are_listed_and_told_apart(server: Server, client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"embedder", "sentiment", "text-generation"} <= set(listed)
    assert listed["embedder"].object == "model"
    assert listed["embedder"].created > 1_700_000_000
    assert client.models.retrieve("embedder") == listed["embedder"]
    with pytest.raises(openai.NotFoundError, match="no model 'nobody'") as caught:
        client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


def test_embeddings_are_those_of_the_other_routes(server: Server, client: openai.OpenAI) -> None:
    texts = ["the quick fox", "a lazy dog sleeps"]
    answer = client.embeddings.create(model="embedder", input=texts)
    assert [entry.index for entry in answer.data] == [0, 1]
    expected = server.ask("embedder", texts)
    assert_alike([entry.embedding for entry in answer.data], expected)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(len(text.split()) + 2 for text in texts)
    (one,) = client.embeddings.create(model="embedder@champion", input=texts[0]).data
    assert_alike(one.embedding, expected[0])
    (versioned,) = client.embeddings.create(model="embedder/1", input=texts[0]).data
    assert_alike(versioned.embedding, one.embedding)


def test_embeddings_come_as_numbers_or_as_base64(client: openai.OpenAI) -> None:
    def ask(encoding: Any) -> Any:
        raw = client.embeddings.with_raw_response.create(model="embedder", input="a text", encoding_format=encoding)
        assert raw.headers["x-model-version"] == "1"
        assert "forward;dur=" in raw.headers["server-timing"]
        return raw.http_response.json()["data"][0]["embedding"]

    decoded = numpy.frombuffer(base64.b64decode(ask("base64")), dtype="<f4")
    assert_alike(decoded, ask("float"))


def test_embeddings_take_the_tasks_parameters_beside_the_input(server: Server, client: openai.OpenAI) -> None:
    answer = client.embeddings.create(
        model="embedder", input="a text", dimensions=5, extra_body={"normalize": True, "pooling": "cls"}, user="someone"
    )
    vector = numpy.asarray(answer.data[0].embedding)
    assert vector.shape == (5,)
    assert_alike(numpy.linalg.norm(vector), 1.0)
    expected = server.ask("embedder", "a text", dimensions=5, normalize=True, pooling="cls")
    assert_alike(vector, expected)


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ({"model": "embedder"}, 422, "input", "missing required field `input`"),
        ({"input": "a"}, 422, "model", "model is missing"),
        ({"model": 7, "input": "a"}, 422, "model", "expected `str | null`"),
        ({"model": "nobody", "input": "a"}, 404, None, "no model 'nobody'"),
        ({"model": "embedder/9", "input": "a"}, 404, None, "no version '9'"),
        ({"model": "sentiment", "input": "a"}, 422, None, "makes no embeddings"),
        ({"model": "embedder", "input": ""}, 422, "input", "input holds an empty text"),
        ({"model": "embedder", "input": []}, 422, "input", "input is an empty list"),
        ({"model": "embedder", "input": [1, 99999]}, 422, "input", "token id 99999"),
        ({"model": "embedder", "input": [[1, 2], ["a"]]}, 422, "input", "lists of token ids"),
        ({"model": "embedder", "input": ["a"] * 1025}, 413, "input", "a request may have 1,024"),
        ({"model": "embedder", "input": "word " * 300}, 422, "input", 'or pass "truncate": true'),
        ({"model": "embedder", "input": "a", "dimensions": 99}, 422, "dimensions", "this model has 32"),
        ({"model": "embedder", "input": "a", "dimensions": "x"}, 422, "dimensions", "expected `int"),
        ({"model": "embedder", "input": "a", "encoding_format": "hex"}, 422, "encoding_format", "hex"),
        ({"model": "embedder", "input": "a", "pooling": "raw"}, 422, None, "pools nothing"),
        ([], 400, None, "JSON of type list: send an object"),
        (b"{", 400, None, "not JSON"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_error_has_openais_shape_and_names_the_field(
    server: Server, body: Any, status: int, param: str | None, words: str
) -> None:
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = server.http.post("/v1/embeddings", **content)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1", 404), ("POST", "/v1/images", 404), ("GET", "/v1/embeddings", 405), ("POST", "/v1/models", 405)],
)
def test_an_unknown_route_is_refused_in_openais_shape(server: Server, method: str, path: str, status: int) -> None:
    answer = server.http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] in ("not_found_error", "invalid_request_error")


def test_requests_are_counted_under_the_protocol(server: Server, client: openai.OpenAI) -> None:
    before = server.sample("request_duration_seconds_count", model="embedder", protocol="openai", status="200")
    client.embeddings.create(model="embedder", input="a text")
    after = server.sample("request_duration_seconds_count", model="embedder", protocol="openai", status="200")
    assert after == before + 1


MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the quick fox"}]
GREEDY: Any = {"temperature": 0, "max_tokens": 8}


def test_what_a_prompt_has_in_common_with_an_earlier_one_is_counted(client: openai.OpenAI) -> None:
    prompt = "the dog counts twelve parcels near Paris " * 6
    counts = []
    for question in ("again", "while"):
        answer = client.completions.create(model="text-generation", prompt=prompt + question, **GREEDY)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        counts.append(answer.usage.prompt_tokens_details.cached_tokens)
    (first, second), asked = counts, answer.usage.prompt_tokens
    assert first == 0
    assert second is not None
    assert asked - 32 < second < asked


def test_a_completion_is_the_text_of_the_other_route(server: Server, client: openai.OpenAI) -> None:
    prompts = ["the quick", "a lazy dog"]
    expected = [
        entry[0]["generated_text"]
        for entry in server.ask("text-generation", prompts, max_new_tokens=8, do_sample=False)
    ]
    answer = client.completions.create(model="text-generation", prompt=prompts, **GREEDY)
    assert [choice.text for choice in answer.choices] == expected
    assert [(choice.index, choice.finish_reason) for choice in answer.choices] == [(0, "length"), (1, "length")]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 16
    echoed = client.completions.create(model="text-generation", prompt=prompts[0], echo=True, **GREEDY)
    assert echoed.choices[0].text == prompts[0] + expected[0]


def test_a_streamed_completion_has_the_same_text_and_a_right_end(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="text-generation", prompt=["the quick", "a dog"], **GREEDY)
    texts, reasons = ["", ""], {}
    chunks = list(
        client.completions.create(
            model="text-generation",
            prompt=["the quick", "a dog"],
            stream=True,
            stream_options={"include_usage": True},
            **GREEDY,
        )
    )
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == {0: "length", 1: "length"}
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)


def test_the_raw_stream_is_server_sent_events_that_end_with_done(server: Server) -> None:
    body = {"model": "text-generation", "prompt": "the quick", "stream": True, **GREEDY}
    answer = server.http.post("/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-model-version"] == "1"
    events = answer.text.split("\n\n")
    assert all(event.startswith("data: ") for event in events[:-1])
    assert events[-2:] == ["data: [DONE]", ""]


def test_settings_of_a_text(client: openai.OpenAI) -> None:
    def ask(**settings: Any) -> Any:
        return client.completions.create(model="text-generation", prompt="the quick", max_tokens=8, **settings)

    assert ask(seed=7).choices[0].text == ask(seed=7).choices[0].text
    assert [choice.index for choice in ask(n=3, seed=1).choices] == [0, 1, 2]
    assert len({choice.text for choice in ask(n=3, seed=1, temperature=2.0).choices}) > 1
    greedy = ask(temperature=0).choices[0].text
    assert ask(temperature=0, top_p=0.5, seed=3).choices[0].text == greedy
    stopped = ask(temperature=0, stop=[greedy[3:5], "unheard"]).choices[0]
    assert (stopped.text, stopped.finish_reason) == (greedy[: greedy.index(greedy[3:5])], "stop")
    assert ask(extra_body={"top_k": 1}, temperature=1.5).choices[0].text == greedy


def test_completions_tell_the_probabilities_of_tokens(client: openai.OpenAI) -> None:
    ask = {"model": "text-generation", "prompt": "the quick", "logprobs": 2, **GREEDY}
    (whole,) = client.completions.create(**ask).choices
    scores = whole.logprobs
    assert scores is not None
    assert scores.tokens is not None
    assert scores.token_logprobs is not None
    assert scores.top_logprobs is not None
    assert len(scores.tokens) == len(scores.token_logprobs) == 8
    for token, score, top in zip(scores.tokens, scores.token_logprobs, scores.top_logprobs, strict=True):
        assert top[token] == score == max(top.values())
    streamed: list[Any] = []
    for chunk in client.completions.create(stream=True, **ask):
        if chunk.choices[0].logprobs:
            streamed += zip(chunk.choices[0].logprobs.tokens, chunk.choices[0].logprobs.token_logprobs, strict=True)
    assert [token for token, _ in streamed] == scores.tokens
    assert_alike([score for _, score in streamed], scores.token_logprobs)


def test_a_summarizer_completes_too(server: Server, client: openai.OpenAI) -> None:
    (expected,) = server.ask("summarization", "the quick fox", max_new_tokens=8, do_sample=False)
    (choice,) = client.completions.create(model="summarization", prompt="the quick fox", **GREEDY).choices
    assert choice.text == expected["summary_text"]


def test_a_chat_is_its_rendered_prompt_without_further_special_tokens(server: Server, client: openai.OpenAI) -> None:
    prompt = "<s>system: Be brief.\nuser: the quick fox\nassistant: "
    settings = {"max_new_tokens": 8, "do_sample": False, "add_special_tokens": False}
    (expected,) = server.ask("chat", prompt, **settings)
    answer = client.chat.completions.create(model="chat", messages=MESSAGES, **GREEDY)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected["generated_text"])
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    parts: Any = [MESSAGES[0], {"role": "user", "content": [{"type": "text", "text": "the quick fox"}]}]
    newer = client.chat.completions.create(model="chat", messages=parts, temperature=0, max_completion_tokens=8)
    assert newer.choices[0].message.content == choice.message.content


def test_a_streamed_chat_has_the_same_texts_and_a_right_end(client: openai.OpenAI) -> None:
    ask: Any = {"model": "chat", "messages": MESSAGES, "n": 2, "seed": 5, "max_tokens": 8}
    whole = client.chat.completions.create(**ask)
    texts: dict[int, str] = {0: "", 1: ""}
    roles, reasons, usage = [], {}, None
    for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ask):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles += [choice.delta.role] if choice.delta.role else []
            reasons |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
        usage = chunk.usage
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert (roles, reasons) == (["assistant", "assistant"], {0: "length", 1: "length"})
    assert usage == whole.usage


def test_the_clients_own_accumulator_reads_a_streamed_chat(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="chat", messages=MESSAGES, **GREEDY).choices[0].message.content
    assert whole
    stop = whole[2:4]  # it takes no text that ends for its length
    with client.chat.completions.stream(model="chat", messages=MESSAGES, stop=stop, **GREEDY) as stream:
        final = stream.get_final_completion().choices[0]
    assert (final.message.role, final.finish_reason) == ("assistant", "stop")
    assert final.message.content == whole[: whole.index(stop)]


def test_a_chat_tells_the_probabilities_of_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="chat", messages=MESSAGES, logprobs=True, top_logprobs=3, **GREEDY)
    scores = answer.choices[0].logprobs
    assert scores is not None
    assert scores.content is not None
    assert 0 < len(scores.content) <= 8  # those that a text leaves out are left out
    for token in scores.content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == max(other.logprob for other in token.top_logprobs)


@pytest.mark.parametrize(
    ("route", "body", "status", "param", "words"),
    [
        ("completions", {"model": "sentiment", "prompt": "a"}, 422, None, "writes no texts"),
        ("completions", {"model": "chat"}, 422, "prompt", "missing required field"),
        ("completions", {"model": "chat", "prompt": [1, 99999]}, 422, "prompt", "token id 99999"),
        ("completions", {"model": "chat", "prompt": ""}, 422, "prompt", "prompt[0] holds an empty text"),
        ("completions", {"model": "chat", "prompt": "a", "max_tokens": 0}, 422, "max_tokens", ">= 1"),
        ("completions", {"model": "chat", "prompt": "a", "max_tokens": 10**6}, 422, "max_tokens", "at most 2,048"),
        ("completions", {"model": "chat", "prompt": "a", "temperature": -1}, 422, "temperature", ">= 0"),
        ("completions", {"model": "chat", "prompt": "a", "suffix": "b"}, 422, "suffix", "leave it out"),
        ("completions", {"model": "chat", "prompt": "a", "best_of": 3}, 422, "best_of", "leave it out"),
        ("completions", {"model": "chat", "prompt": "a", "n": 99}, 422, "n", "<= 16"),
        ("completions", {"model": "chat", "prompt": "a", "stop": [""]}, 422, None, "length >= 1"),
        ("completions", {"model": "chat", "prompt": "a", "presence_penalty": 1}, 422, "presence_penalty", "leave it"),
        ("completions", {"model": "chat", "prompt": "word " * 900}, 422, "prompt", "this model takes at most"),
        ("chat/completions", {"model": "chat"}, 422, "messages", "missing required field"),
        ("chat/completions", {"model": "chat", "messages": []}, 422, "messages", "empty list"),
        ("chat/completions", {"model": "chat", "messages": [{"content": "a"}]}, 422, "messages", "role"),
        ("chat/completions", {"model": "chat", "messages": [{"role": "user"}]}, 422, "messages", "content"),
        (
            "chat/completions",
            {"model": "chat", "messages": [{"role": "tool", "content": "a"}]},
            422,
            "messages",
            "no role",
        ),
        ("chat/completions", {"model": "text-generation", "messages": MESSAGES}, 422, "messages", "no chat template"),
        ("chat/completions", {"model": "sentiment", "messages": MESSAGES}, 422, None, "writes no texts"),
        ("chat/completions", {"model": "chat", "messages": MESSAGES, "tools": [{}]}, 422, "tools", "not supported"),
        ("chat/completions", {"model": "chat", "messages": MESSAGES, "audio": {}}, 422, "audio", "not supported"),
        (
            "chat/completions",
            {"model": "chat", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            422,
            "messages",
            "only text is read",
        ),
        (
            "chat/completions",
            {"model": "chat", "messages": MESSAGES, "response_format": {"type": "json_object"}},
            422,
            "response_format",
            "not supported",
        ),
        ("chat/completions", {"model": "chat", "messages": MESSAGES, "top_logprobs": 2}, 422, "top_logprobs", "needs"),
        ("chat/completions", {"model": "nobody", "messages": MESSAGES}, 404, None, "no model"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_wrong_request_for_a_text_is_told_before_any_of_it(
    server: Server, route: str, body: Any, status: int, param: str | None, words: str
) -> None:
    for more in ({}, {"stream": True}):
        answer = server.http.post(f"/v1/{route}", json=body | more)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert words in error["message"]
        assert param is None or error["param"].startswith(param), error


def test_fields_that_ask_for_nothing_are_let_through(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="chat",
        messages=MESSAGES,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        frequency_penalty=0,
        logit_bias={},
        user="someone",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        **GREEDY,
    )
    assert answer.choices[0].message.content is not None


def test_a_path_may_name_the_model(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/models/chat/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="whatever", messages=MESSAGES, **GREEDY)
        assert answer.choices[0].message.content
        with pytest.raises(openai.UnprocessableEntityError, match="makes no embeddings"):
            client.embeddings.create(model="whatever", input="a")
