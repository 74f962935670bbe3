"""Texts are ranked in the forms of Cohere, Jina and text-embeddings-inference, with one answer on every route."""

import asyncio
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import cohere
import httpx
import numpy
import pytest

from monitoring.merge import Merge
from serving.front.app import DataPlane
from serving.front.front import Front
from serving.front.waiter import Waiter
from serving.runtime.instruments import instruments
from serving.wire.messages import EncodedRow
from tests.serving.front.local_front import FakeLink, MakeFront
from tests.serving.front.task_fronts import RANKER, no_other_app, post, serve_tasks

QUERY, TEXTS = "a fox", ["one two three", "one", "one two"]
LOGITS = {"none": lambda length: length / 10 - 1, "sigmoid": lambda length: 1 / (1 + math.exp(1 - length / 10))}
"""What the engine here says of a row, by activation and length."""
ORDER = [0, 2, 1]
EXPECTED = [LOGITS["sigmoid"](length) for length in (8, 7, 6)]
"""Of rows with the special tokens, the query's two words and the text's: longest first."""


class Ranking(FakeLink):
    """An engine for which longer rows answer the query better."""

    def submit(self, rows: Sequence[EncodedRow], waiter: Waiter) -> None:
        for index, row in enumerate(rows):
            waiter.put(index, [numpy.float32([LOGITS[row.batch_key](row.length)]), numpy.int32([0])], 0.0)


@pytest.fixture
def front(make_front: MakeFront) -> Front:
    """A front of a model that ranks."""
    made = make_front()
    serve_tasks(made, (RANKER,))
    engine: Any = Ranking()
    made.routing._loaded[RANKER, "1"].accepting = [engine]
    return made


def ask(front: Front, path: str, **body: Any) -> httpx.Response:
    return post(front, path, json.dumps(body).encode())


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", f"/models/{RANKER}/rerank"])
def test_every_route_takes_both_forms(path: str, front: Front) -> None:
    answer = ask(front, path, query=QUERY, documents=TEXTS, top_n=2)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [entry["index"] for entry in found["results"]] == ORDER[:2]
    assert [entry["relevance_score"] for entry in found["results"]] == pytest.approx(EXPECTED[:2])
    assert found["id"] == answer.headers["x-request-id"]
    assert found["model"] == RANKER
    assert found["usage"] == {"prompt_tokens": 8 + 6 + 7, "total_tokens": 8 + 6 + 7}
    assert {"x-model-version", "server-timing"} <= set(answer.headers)
    listed = ask(front, path, query=QUERY, texts=TEXTS).json()
    assert [entry["index"] for entry in listed] == ORDER
    assert [entry["score"] for entry in listed] == pytest.approx(EXPECTED)


def test_documents_come_back_as_they_were_sent(front: Front) -> None:
    documents = [{"text": TEXTS[0], "id": 7}, *TEXTS[1:]]
    body = {"model": RANKER, "query": QUERY, "documents": documents, "return_documents": True, "rank_fields": ["text"]}
    results = ask(front, "/v1/rerank", **body).json()["results"]
    assert [entry["document"] for entry in results] == [documents[0], {"text": TEXTS[2]}, {"text": TEXTS[1]}]
    listed = ask(front, "/rerank", query=QUERY, texts=TEXTS, return_text=True, raw_scores=True).json()
    assert [entry["text"] for entry in listed] == [TEXTS[place] for place in ORDER]
    assert [entry["score"] for entry in listed] == pytest.approx([-0.2, -0.3, -0.4])


def test_only_coheres_and_jinas_form_cuts_long_texts_by_itself(front: Front) -> None:
    long = "word " * 600
    assert ask(front, "/v1/rerank", query=QUERY, documents=[long]).json()["usage"]["total_tokens"] == 512
    for body in ({"documents": [long], "truncation": False}, {"texts": [long]}):
        refused = ask(front, "/rerank", query=QUERY, **body)
        assert refused.status_code == 422
        assert "takes at most 512 tokens" in refused.json()["message"]
    assert ask(front, "/rerank", query=QUERY, texts=[long], truncate=True, truncation_direction="Left").is_success


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"documents": []}, 422, "documents: expected `array` of length >= 1"),
        ({"documents": ["a", {"title": "b"}]}, 422, r"documents\[1\]: expected a text or an object with text"),
        ({"documents": ["a", ""]}, 422, "documents holds an empty text"),
        ({"documents": ["a"], "top_n": 0}, 422, "top_n"),
        ({"documents": ["a"], "max_tokens_per_doc": 9}, 422, "max_tokens_per_doc is not supported"),
        ({"documents": ["a"], "unheard": 1}, 422, "unheard"),
        ({"documents": ["a"], "query": ""}, 422, "query"),
        ({"texts": ["a", 1]}, 422, r"texts\[1\]: expected `str`"),
        ({"texts": ["a"], "model": "nobody"}, 404, "no model 'nobody'"),
        ({"texts": ["a"] * 20_000}, 413, "a request may have 16,384"),
        ({}, 422, "missing required field `documents`"),
    ],
)
def test_a_refusal_names_the_clients_own_field(body: Any, status: int, said: str, front: Front) -> None:
    refused = ask(front, "/v1/rerank", **{"query": QUERY, **body})
    assert refused.status_code == status, refused.text
    found = refused.json()
    assert found.keys() == {"message", "error", "error_type"}
    assert found["message"] == found["error"]
    assert re.search(said, found["message"]), found


def test_a_model_that_does_not_rank_is_told(make_front: MakeFront) -> None:
    front = make_front()
    serve_tasks(front, ("text-classification", "feature-extraction"))
    for model, said in (
        ("text-classification", "ranked by a model with one label"),
        ("feature-extraction", "ranks no"),
    ):
        refused = ask(front, "/rerank", model=model, query=QUERY, texts=TEXTS)
        assert refused.status_code == 422
        assert said in refused.json()["error"]
    unnamed = ask(front, "/rerank", query=QUERY, texts=TEXTS)
    assert (unnamed.status_code, unnamed.json()["error_type"]) == (404, "unknown_model")
    assert "name a model in the field model" in unnamed.json()["error"]


def test_the_requests_are_counted_under_their_protocol(front: Front) -> None:
    def count() -> float:
        labels = (RANKER, "1", "text-classification", "rerank", "200")
        return sum(Merge(instruments().store.folder).read().get(("request_duration_seconds", labels), [0.0])[1:])

    before = count()
    ask(front, "/v2/rerank", query=QUERY, documents=TEXTS)
    assert count() == before + 1


@pytest.mark.parametrize("client_type", [cohere.AsyncClient, cohere.AsyncClientV2], ids=["v1", "v2"])
def test_coheres_client_ranks(client_type: Any, front: Front) -> None:
    async def work() -> Any:
        transport = httpx.ASGITransport(DataPlane(front, no_other_app))
        async with httpx.AsyncClient(transport=transport) as http:
            client = client_type(base_url="http://here", api_key="none", httpx_client=http)
            found = await client.rerank(model=RANKER, query=QUERY, documents=TEXTS, top_n=2)
            with pytest.raises(cohere.UnprocessableEntityError) as caught:
                await client.rerank(model=RANKER, query=QUERY, documents=[])
            return found, caught.value.body

    found, refused = asyncio.run(work())
    assert [result.index for result in found.results] == ORDER[:2]
    assert [result.relevance_score for result in found.results] == pytest.approx(EXPECTED[:2])
    assert found.id
    assert refused["message"].startswith("documents: ")
