"""Served answers are those of plain transformers, one example at a time, also when many lengths share batches."""

import random
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from serving.engine.tolerances import ANSWER
from tests.alike import assert_alike
from tests.e2e.conftest import ask_together
from tests.e2e.server import Server

pytestmark = pytest.mark.processor

SENTENCE = "Ada went to the Paris office with 12 unbelievable parcels, but Mr. O'Neil isn't in; naïve café owners wait"
WORDS = SENTENCE.split()


def texts_of(count: int, seed: int, longest: int = 120) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(count)]


def scores_of(answer: list[dict[str, Any]]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in answer}


@cache
def load_classifier(folder: Path) -> tuple[Any, Any]:
    return AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def classify(folder: Path, text: str, pair: str | None = None) -> dict[str, float]:
    """The rule of transformers' pipeline, from the logits."""
    model, tokenizer = load_classifier(folder)
    logits = model(**tokenizer(text, pair, return_tensors="pt")).logits[0]
    problem = model.config.problem_type
    if problem == "single_label_classification":
        logits = logits.softmax(-1)
    elif problem == "multi_label_classification":
        logits = logits.sigmoid()
    return {model.config.id2label[index]: value for index, value in enumerate(logits.tolist())}


@pytest.mark.parametrize(("name", "kind"), [("sentiment", "single"), ("topics", "multi"), ("stars", "regression")])
def test_text_classification_is_equal(server: Server, models: dict[str, Path], name: str, kind: str) -> None:
    texts = texts_of(64, seed=1)
    pairs = [(text, other) for text, other in zip(texts_of(32, 2, 60), texts_of(32, 3, 60), strict=True)]
    bodies: list[Any] = [{"inputs": text} for text in texts]
    bodies += [{"inputs": {"text": text, "text_pair": pair}} for text, pair in pairs]
    responses = ask_together(server, [(name, body) for body in bodies])
    assert {response.status_code for response in responses} == {200}
    for response, (text, pair) in zip(responses, [*((text, None) for text in texts), *pairs], strict=True):
        (answer,) = response.json()
        assert_alike(scores_of(answer), classify(models[kind], text, pair))
        assert [entry["score"] for entry in answer] == sorted((entry["score"] for entry in answer), reverse=True)


def test_bfloat16_gives_the_same_label_and_close_scores(server: Server, models: dict[str, Path]) -> None:
    texts = texts_of(64, seed=4)
    responses = ask_together(server, [("sentiment-bf16", {"inputs": text}) for text in texts])
    for response, text in zip(responses, texts, strict=True):
        found, expected = scores_of(response.json()[0]), classify(models["single"], text)
        assert_alike(found, expected, "bfloat16")
        best, second = sorted(expected.values(), reverse=True)[:2]
        if best - second > ANSWER.of("bfloat16"):
            assert max(found, key=found.__getitem__) == max(expected, key=expected.__getitem__)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_token_classification_is_equal(server: Server, models: dict[str, Path], strategy: str) -> None:
    reference = pipeline(
        "token-classification",
        model=AutoModelForTokenClassification.from_pretrained(models["tokens"]),
        tokenizer=AutoTokenizer.from_pretrained(models["tokens"]),
        aggregation_strategy=strategy,
        ignore_labels=[],
    )
    texts = texts_of(40, seed=5)
    parameters = {"aggregation_strategy": strategy, "ignore_labels": []}
    responses = ask_together(server, [("names", {"inputs": text, "parameters": parameters}) for text in texts])
    for response, text in zip(responses, texts, strict=True):
        with warnings.catch_warnings(action="ignore"):
            expected = reference(text)
        found = response.json()
        assert len(found) == len(expected)
        for own, other in zip(found, expected, strict=True):
            assert_alike(own, other | {"score": float(other["score"])})
            assert text[own["start"] : own["end"]].lower().replace(" ", "") == text[
                other["start"] : other["end"]
            ].lower().replace(" ", "")


def test_ignored_labels_are_left_out(server: Server) -> None:
    answer = server.ask("names", "Ada in Paris", aggregation_strategy="none")
    assert "O" not in {entry["entity"] for entry in answer}


@pytest.mark.parametrize("pooling", ["raw", "mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
@torch.inference_mode()
def test_feature_extraction_is_equal(server: Server, models: dict[str, Path], pooling: str, normalize: bool) -> None:
    model, tokenizer = AutoModel.from_pretrained(models["base"]), AutoTokenizer.from_pretrained(models["base"])
    texts = texts_of(40, seed=6)
    parameters = {"pooling": pooling, "normalize": normalize}
    responses = ask_together(server, [("embedder", {"inputs": text, "parameters": parameters}) for text in texts])
    for response, text in zip(responses, texts, strict=True):
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected = {"raw": states, "mean": states.mean(0), "cls": states[0]}[pooling]
        if normalize:
            expected = torch.nn.functional.normalize(expected, dim=-1)
        assert_alike(response.json(), expected)


def test_a_list_is_answered_in_order_and_like_single_requests(server: Server) -> None:
    texts = texts_of(50, seed=7)
    alone = [server.ask("sentiment", text)[0] for text in texts]
    assert_alike(server.ask("sentiment", texts), alone)
    assert len(server.ask("embedder", texts)) == 50
    assert [len(entry) for entry in server.ask("names", texts[:3], aggregation_strategy="none", ignore_labels=[])] == [
        len(server.ask("names", text, aggregation_strategy="none", ignore_labels=[])) for text in texts[:3]
    ]


def test_top_k_and_another_activation(server: Server) -> None:
    (everything,) = server.ask("sentiment", "fine")
    (best,) = server.ask("sentiment", "fine", top_k=1)
    assert_alike(best, everything[:1])
    (raw,) = server.ask("sentiment", "fine", function_to_apply="none")
    (sigmoid,) = server.ask("sentiment", "fine", function_to_apply="sigmoid")
    assert [entry["label"] for entry in raw] == [entry["label"] for entry in sigmoid]
    assert_alike(torch.tensor([entry["score"] for entry in raw]).sigmoid(), [entry["score"] for entry in sigmoid])
