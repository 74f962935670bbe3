"""OpenAI's own client, unchanged, and the shape of the errors that it reads."""

import base64
from collections.abc import Iterator
from typing import Any

import numpy
import openai
import pytest

from tests.e2e.server import Server


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
    numpy.testing.assert_allclose([entry.embedding for entry in answer.data], expected, rtol=1e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(len(text.split()) + 2 for text in texts)
    (one,) = client.embeddings.create(model="embedder@champion", input=texts[0]).data
    numpy.testing.assert_allclose(one.embedding, expected[0], rtol=1e-5)
    assert client.embeddings.create(model="embedder/1", input=texts[0]).data[0].embedding == one.embedding


def test_embeddings_come_as_numbers_or_as_base64(client: openai.OpenAI) -> None:
    def ask(encoding: Any) -> Any:
        raw = client.embeddings.with_raw_response.create(model="embedder", input="a text", encoding_format=encoding)
        assert raw.headers["x-model-version"] == "1"
        assert "forward;dur=" in raw.headers["server-timing"]
        return raw.http_response.json()["data"][0]["embedding"]

    decoded = numpy.frombuffer(base64.b64decode(ask("base64")), dtype="<f4")
    numpy.testing.assert_array_equal(decoded, numpy.asarray(ask("float"), dtype=numpy.float32))


def test_embeddings_take_the_tasks_parameters_beside_the_input(server: Server, client: openai.OpenAI) -> None:
    answer = client.embeddings.create(
        model="embedder", input="a text", dimensions=5, extra_body={"normalize": True, "pooling": "cls"}, user="someone"
    )
    vector = numpy.asarray(answer.data[0].embedding)
    assert vector.shape == (5,)
    assert numpy.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    expected = server.ask("embedder", "a text", dimensions=5, normalize=True, pooling="cls")
    numpy.testing.assert_allclose(vector, expected, rtol=1e-5)


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
        ({"model": "embedder", "input": [1, 2]}, 422, "input", "the server tokenizes"),
        ({"model": "embedder", "input": [[1, 2]]}, 422, "input", "the server tokenizes"),
        ({"model": "embedder", "input": ["a"] * 1025}, 413, "input", "a request may have 1,024"),
        ({"model": "embedder", "input": "word " * 300}, 422, "input", 'or pass "truncate": true'),
        ({"model": "embedder", "input": "a", "dimensions": 99}, 422, "dimensions", "this model has 32"),
        ({"model": "embedder", "input": "a", "dimensions": "x"}, 422, "dimensions", "expected `int"),
        ({"model": "embedder", "input": "a", "encoding_format": "hex"}, 422, "encoding_format", "hex"),
        ({"model": "embedder", "input": "a", "pooling": "raw"}, 422, None, "pools nothing"),
        ([], 400, None, "another kind than an object"),
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
