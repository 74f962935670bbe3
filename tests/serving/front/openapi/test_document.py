"""The OpenAPI document is valid, and requests and answers are as it says."""

import hmac
import json
import re
import time
from base64 import b64encode
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis
from schemathesis.specs.openapi import checks

from serving.front.front import Front
from serving.front.openapi.document import document
from serving.front.openapi.route import Route
from tests.serving.front.openapi.surface import (
    DOCUMENT,
    EMBEDS,
    GENERATES,
    OWN,
    TEXT,
    ask,
    check,
    check_answer,
    check_body,
    filled,
    identify,
)
from tests.serving.front.task_fronts import RANKER, TASKS, png


@pytest.mark.slow
def test_the_document_is_valid_and_made_once(front: Front) -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    answer = ask(front, "GET", "/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == json.loads(document()) == DOCUMENT
    assert document() is document()


@pytest.mark.parametrize("path", ["/models/{name}", "/v1/completions", "/v1/chat/completions"])
def test_events_are_as_described(path: str) -> None:
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path]["POST"]
    case = operation.Case(path_parameters={"name": "a"}, body={}, media_type="application/json")
    events, asked = 'event: message\ndata: {"index": 1}\n\ndata: [DONE]\n\n', httpx.Request("POST", "http://here/")
    answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, text=events, request=asked)
    answer.elapsed = timedelta(0)
    case.validate_response(answer, checks=[checks.response_schema_conformance])


def test_every_reference_leads_somewhere() -> None:
    references = set(re.findall(r'"\$ref":"#/([^"]+)"', document().decode()))
    assert len(references) > 50
    for reference in references:
        found: Any = DOCUMENT
        for part in reference.split("/"):
            found = found[part]


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"top_k": "1"}, {"unknown": 1}])
def test_bounds_and_fields_are_those_of_the_structs(wrong: object) -> None:
    parameters = {"$ref": "#/components/schemas/text_classification.Parameters"}
    check(parameters, {"top_k": 1, "truncate": True, "function_to_apply": None})
    with pytest.raises(jsonschema_rs.ValidationError):
        check(parameters, wrong)


PARAMETERS: dict[str, Any] = {
    "zero-shot-classification": {"candidate_labels": ["a", "b"]},
    "text-generation": {"max_new_tokens": 3, "details": True, "top_n_tokens": 2},
    "summarization": {"max_new_tokens": 3},
}
ITEMS: dict[str, Any] = {
    "fill-mask": "a [MASK]",
    "image-classification": b64encode(png(20, 20)).decode(),
    "question-answering": {"question": "who?", "context": "it is me"},
    "multiple-choice": {"prompt": "a", "choices": ["b", "c"]},
    "next-sentence-prediction": {"text": "a", "text_pair": "b"},
}


def bodies() -> Iterator[tuple[str, Any]]:
    """Requests of every kind, which are answered with 200: path and body."""
    for task in TASKS:
        item, parameters = ITEMS.get(task, "a text"), PARAMETERS.get(task, {})
        for inputs in (item, [item, item]):
            yield f"/models/{task}", {"inputs": inputs, "parameters": parameters}
        yield f"/models/{task}/versions/1", {"inputs": item, **parameters}
        yield f"/invocations/{task}", {"inputs": [item], "params": parameters}
        yield f"/invocations/{task}", {"instances": [item], "params": parameters}
    yield f"/models/{GENERATES}", {"inputs": "a", "stream": True, "parameters": {"best_of": 1, "watermark": None}}
    yield f"/invocations/{TEXT}", {"dataframe_split": {"columns": ["text"], "data": [["a"]]}}
    yield f"/invocations/{TEXT}", {"dataframe_records": [{"text": "a"}]}
    for form in ("float", "base64"):
        yield (
            "/v1/embeddings",
            {"model": EMBEDS, "input": "a", "pooling": "mean", "encoding_format": form, "user": "me"},
        )
    written = {"model": GENERATES, "max_tokens": 3, "top_k": 4, "n": 2, "tools": [], "metadata": {}}
    yield "/v1/completions", {**written, "prompt": ["a", "b"], "logprobs": 2}
    yield "/v1/completions", {**written, "prompt": "a", "stream": True, "stream_options": {"include_usage": True}}
    chat = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    yield "/v1/chat/completions", {**written, "messages": chat, "logprobs": True, "top_logprobs": 2}
    yield f"/models/{GENERATES}/v1/chat/completions", {"messages": chat, "max_tokens": 3}
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    yield f"/v2/models/{TEXT}/infer", {"inputs": [tensor], "id": "x", "parameters": {"top_k": 1}}
    yield f"/v2/models/{EMBEDS}/versions/1/infer", {"inputs": [tensor]}
    yield (
        f"/v2/models/{EMBEDS}/infer",
        {"inputs": [tensor], "outputs": [{"name": "output", "parameters": {"binary_data": True}}]},
    )
    yield "/v2/repository/index", {"ready": True}
    ranked = {"query": "a", "documents": ["b", {"text": "c", "id": 1}], "top_n": 1, "return_documents": True}
    yield "/v1/rerank", {"model": RANKER, **ranked}
    yield "/v2/rerank", {"model": RANKER, "query": "a", "documents": ["b"]}
    yield "/rerank", {"model": RANKER, "query": "a", "texts": ["b", "c"], "return_text": True, "raw_scores": True}
    yield "/tokenize", {"model": TEXT, "prompt": "a text", "return_token_strs": True}
    yield f"/models/{TEXT}/tokenize", {"inputs": ["a text", "b"], "add_special_tokens": False}
    yield f"/models/{TEXT}/detokenize", {"tokens": [101, 1037], "skip_special_tokens": True}
    yield "/v1/completions", {**written, "prompt": [1037, 3793]}
    yield "/v1/embeddings", {"model": EMBEDS, "pooling": "mean", "input": [[1037], [3793]], "output_dtype": "binary"}
    yield f"/models/{RANKER}/rerank", {"query": "a", "texts": ["b"], "truncation_direction": "Left"}


@pytest.mark.parametrize(("path", "body"), list(bodies()), ids=lambda given: given if isinstance(given, str) else "")
def test_a_request_and_its_answer_are_as_described(path: str, body: Any, front: Front) -> None:
    check_body(path, body)
    answer = ask(front, "POST", path, json=body)
    assert answer.status_code == 200, answer.text
    check_answer(answer)


@pytest.mark.parametrize("path", [filled(route) for route in OWN if route.method == "GET"])
def test_a_page_is_as_described(path: str, front: Front) -> None:
    answer = ask(front, "GET", path)
    assert answer.status_code == 200
    check_answer(answer)


POSTED = [route for route in OWN if route.method == "POST"]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"no": 1}', b'{"inputs": 1}', b" " * 5_000_000], ids=lambda body: str(body[:20])
)
@pytest.mark.parametrize("route", POSTED, ids=identify)
def test_a_refusal_is_as_described(route: Route, body: bytes, front: Front) -> None:
    for name in (TEXT, "nobody"):
        answer = ask(front, "POST", filled(route, name), content=body)
        assert route.path == "/v2/repository/index" or answer.status_code >= 400
        check_answer(answer)


def test_an_answered_webhook_is_as_described(front: Front) -> None:
    body = {"entity": "registered_model", "action": "created", "data": {"name": "m"}}
    check_body("/hooks/mlflow", body)
    content, now = json.dumps(body).encode(), b"%d" % time.time()
    code = b64encode(hmac.digest(b"secret", b"an-id." + now + b"." + content, "sha256"))
    signed = {"X-MLflow-Signature": b"v1," + code, "X-MLflow-Delivery-Id": b"an-id", "X-MLflow-Timestamp": now}
    answer = ask(front, "POST", "/hooks/mlflow", content=content, headers=signed)
    assert answer.status_code == 202
    check_answer(answer)
