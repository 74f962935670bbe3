"""`/tokenize` and `/detokenize` in the forms of vLLM and text-embeddings-inference, and token ids as inputs."""

import base64
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import numpy
import pytest

from serving.front.front import Front
from serving.front.protocols.openai_embeddings import quantize
from serving.processors.tokenizer import LONG_CHARACTERS, TextEncoder
from tests.serving.front.local_front import MakeFront
from tests.serving.front.task_fronts import TaskLink, context_of, post, serve_tasks

CLASSIFIER, EMBEDDER, WRITER, SUMMARIZER = (
    "text-classification",
    "feature-extraction",
    "text-generation",
    "summarization",
)
TEXT = "A fox isn't quick."
TOKENIZER = context_of(CLASSIFIER).tokenizer.exact


@pytest.fixture
def links(front: Front) -> dict[str, TaskLink]:
    """What each model's engine gets."""
    return serve_tasks(front, (CLASSIFIER, EMBEDDER, WRITER, SUMMARIZER, "image-classification"))


@pytest.fixture
def front(make_front: MakeFront) -> Front:
    return make_front()


def ask(front: Front, path: str, **body: Any) -> httpx.Response:
    return post(front, path, json.dumps(body).encode())


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("special", [True, False])
def test_tokens_are_the_tokenizers(front: Front, special: bool) -> None:
    expected = TOKENIZER.encode(TEXT, add_special_tokens=special)
    found = ask(front, "/tokenize", model=CLASSIFIER, prompt=TEXT, add_special_tokens=special, return_token_strs=True)
    assert found.json() == {
        "count": len(expected),
        "max_model_len": 512,
        "tokens": expected.ids,
        "token_strs": expected.tokens,
    }
    assert {"x-model-version", "server-timing"} <= set(found.headers)
    (one, two) = ask(front, f"/models/{CLASSIFIER}/tokenize", inputs=[TEXT, "fox"], add_special_tokens=special).json()
    assert [token["id"] for token in one] == expected.ids
    assert "".join(token["text"] for token in one if not token["special"]) == TEXT.replace(" ", "")
    assert all(TEXT[token["start"] : token["stop"]] == token["text"] for token in one if not token["special"])
    assert [token["text"] for token in two] == (["[CLS]", "fox", "[SEP]"] if special else ["fox"])


@pytest.mark.usefixtures("links")
def test_a_long_text_is_counted_and_not_refused(front: Front) -> None:
    assert ask(front, "/tokenize", model=CLASSIFIER, prompt="word " * 2000).json()["count"] == 2002


@pytest.mark.usefixtures("links")
def test_ids_become_their_text(front: Front) -> None:
    ids = TOKENIZER.encode(TEXT).ids
    whole = ask(front, "/detokenize", model=CLASSIFIER, tokens=ids)
    assert whole.json() == {"prompt": TOKENIZER.decode(ids, skip_special_tokens=False)}
    text = ask(front, f"/models/{CLASSIFIER}/detokenize", tokens=ids, skip_special_tokens=True).json()["prompt"]
    assert text == TOKENIZER.decode(ids)


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("tokenize", {"model": CLASSIFIER}, 422, "missing required field `prompt`"),
        ("tokenize", {"model": CLASSIFIER, "prompt": "a", "messages": []}, 422, "unknown field `messages`"),
        ("tokenize", {"model": CLASSIFIER, "prompt": "a" * 40_000}, 422, "at most 32,768: send it in parts"),
        ("tokenize", {"model": "image-classification", "prompt": "a"}, 422, "has no tokenizer: choose one that reads"),
        ("tokenize", {"prompt": "a"}, 404, "name a model in the field model"),
        ("tokenize", {"model": CLASSIFIER, "inputs": ["a"] * 20_000}, 413, "a request may have 16,384"),
        ("tokenize", {"model": CLASSIFIER, "inputs": ["a b " * 4000] * 60}, 413, "the answer would take"),
        ("detokenize", {"model": CLASSIFIER, "tokens": [99999]}, 422, "does not have: send ids of its vocabulary"),
        ("detokenize", {"model": CLASSIFIER, "tokens": [-1]}, 422, "tokens[]: expected `int` >= 0"),
        ("tokenize/more", {}, 404, "no such route"),
    ],
)
def test_what_cannot_be_done_is_refused(front: Front, path: str, body: Any, status: int, said: str) -> None:
    refused = ask(front, f"/{path}", **body)
    assert (refused.status_code, refused.json().keys()) == (status, {"error", "error_type"})
    assert said.replace("[]", "[0]") in refused.json()["error"]


def ids_of(link: TaskLink) -> list[list[int]]:
    """The tokens of the rows that an engine got."""
    return [numpy.frombuffer(row.tokens, dtype=numpy.int32).tolist() for row in link.rows]


@pytest.mark.parametrize("given", [[7592, 2088], [[7592, 2088], [2088]]], ids=["one", "several"])
def test_token_ids_go_to_the_engine_as_they_are(front: Front, links: dict[str, TaskLink], given: Any) -> None:
    expected = given if isinstance(given[0], list) else [given]
    for model in (WRITER, SUMMARIZER):
        answer = ask(front, "/v1/completions", model=model, prompt=given, max_tokens=3)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["choices"]) == len(expected)
        assert answer.json()["usage"]["prompt_tokens"] == sum(map(len, expected))
        assert ids_of(links[model]) == expected
    answer = ask(front, "/v1/embeddings", model=EMBEDDER, input=given, pooling="mean")
    assert len(answer.json()["data"]) == len(expected)
    assert ids_of(links[EMBEDDER]) == expected


def test_a_prompt_of_token_ids_is_echoed_as_text(front: Front, links: dict[str, TaskLink]) -> None:
    asked = {"model": WRITER, "max_tokens": 3, "echo": True}
    by_ids = ask(front, "/v1/completions", prompt=[7592, 2088], **asked).json()["choices"][0]["text"]
    assert by_ids.startswith(TOKENIZER.decode([7592, 2088]))


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize(
    ("route", "body", "said"),
    [
        ("completions", {"model": WRITER, "prompt": [7592, "a"]}, "prompt holds other than lists of token ids"),
        ("completions", {"model": WRITER, "prompt": [[]]}, "prompt holds other than lists of token ids"),
        ("completions", {"model": WRITER, "prompt": [40_000]}, "prompt[0] has the token id 40000"),
        ("completions", {"model": WRITER, "prompt": [7592] * 600}, "has 600 tokens, this model takes at most"),
        ("completions", {"model": WRITER, "prompt": 7}, "prompt"),
        ("embeddings", {"model": EMBEDDER, "input": [[7592] * 600]}, "input[0] has 600 tokens"),
        ("embeddings", {"model": EMBEDDER, "input": [{"source_sentence": "a", "sentences": ["b"]}]}, "input: expected"),
    ],
)
def test_other_ids_are_refused_by_the_clients_field(front: Front, route: str, body: Any, said: str) -> None:
    refused = ask(front, f"/v1/{route}", **body)
    assert refused.status_code == 422, refused.text
    assert said in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"]


def test_quantized_vectors_are_those_of_sentence_transformers() -> None:
    from sentence_transformers.util.quantization import quantize_embeddings

    vectors = numpy.random.default_rng(0).normal(size=(4, 24)).astype(numpy.float32)
    for dtype in ("binary", "ubinary"):
        expected = quantize_embeddings(vectors, precision=dtype)
        found = numpy.stack([quantize(vector.tolist(), dtype) for vector in vectors])
        assert found.dtype == expected.dtype
        assert (found == expected).all()
    for vector in vectors:
        small, shifted = quantize(vector.tolist(), "int8"), quantize(vector.tolist(), "uint8")
        assert (small.dtype, shifted.dtype, abs(small).max()) == (numpy.int8, numpy.uint8, 127)
        assert (shifted.astype(int) - 128 == small).all()
        lengths = numpy.linalg.norm(vector) * numpy.linalg.norm(small.astype(float))
        assert vector @ small.astype(float) / lengths > 0.9999
    assert not quantize([0.0] * 8, "int8").any()


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("dtype", ["int8", "uint8", "binary", "ubinary"])
def test_embeddings_come_in_smaller_forms(front: Front, dtype: Any) -> None:
    asked = {"model": EMBEDDER, "input": "a fox", "pooling": "mean"}
    (whole,) = ask(front, "/v1/embeddings", **asked).json()["data"]
    expected = quantize(whole["embedding"], dtype)
    (numbers,) = ask(front, "/v1/embeddings", **asked, output_dtype=dtype).json()["data"]
    assert numbers["embedding"] == expected.tolist()
    (packed,) = ask(front, "/v1/embeddings", **asked, output_dtype=dtype, encoding_format="base64").json()["data"]
    assert base64.b64decode(packed["embedding"]) == expected.tobytes()


@pytest.mark.usefixtures("links")
def test_the_vocabulary_is_read_in_a_thread_where_the_request_is_long(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[str]] = {"token_of": set(), "has_id": set()}
    for name, seen in threads.items():
        monkeypatch.setattr(TextEncoder, name, noting(getattr(TextEncoder, name), seen))
    words = "fox " * LONG_CHARACTERS
    found = ask(front, "/tokenize", model=CLASSIFIER, prompt=words, return_token_strs=True).json()
    assert ask(front, "/detokenize", model=CLASSIFIER, tokens=found["tokens"]).status_code == 200
    assert all(name.startswith("headwaiter-texts") for seen in threads.values() for name in seen)
    assert all(threads.values())


def noting(work: Callable[..., Any], seen: set[str]) -> Callable[..., Any]:
    """`work`, which notes the names of the threads that it runs in."""

    def noted(*args: Any) -> Any:
        seen.add(threading.current_thread().name)
        return work(*args)

    return noted


def test_ids_of_long_tokens_are_bounded_by_the_memory_of_their_text(make_front: MakeFront) -> None:
    """65,000 ids made an answer of 16.6 MB that nothing counted."""
    front = make_front(max_answer_bytes=2**16)
    serve_tasks(front, (CLASSIFIER,))
    longest = max(TOKENIZER.get_vocab().items(), key=lambda item: len(item[0]))
    most = 2**16 // (4 * (len(longest[0]) + 1))
    assert ask(front, "/detokenize", model=CLASSIFIER, tokens=[longest[1]] * most).status_code == 200
    refused = ask(front, "/detokenize", model=CLASSIFIER, tokens=[longest[1]] * (most + 1))
    assert refused.status_code == 413
    assert "the answer would take about" in refused.json()["error"]
