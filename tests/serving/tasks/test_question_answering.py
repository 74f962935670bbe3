"""Where a tokenizer pads on the left, the context stands before the question, as the removed pipeline had it."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from serving.tasks.question_answering import best_spans
from tests.alike import assert_alike
from tests.artifacts import make_artifact
from tests.local import Local

pytestmark = [pytest.mark.processor, pytest.mark.slow]

CONTEXT = "the quick brown fox jumps over a lazy dog near Paris while Ada counts twelve naive parcels again"


@torch.inference_mode()
def best_span(folder: Path, question: str) -> tuple[float, str]:
    """The likeliest span of transformers' model, with the context first."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()
    encoded = tokenizer(CONTEXT, question, return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")
    sequences = encoded.sequence_ids()
    output = model(**{name: torch.tensor([values]) for name, values in encoded.items()})
    parts = zip(sequences, encoded["input_ids"], strict=True)
    hidden = torch.tensor([sequence != 0 and token != tokenizer.cls_token_id for sequence, token in parts])
    starts, ends = (
        logits[0].masked_fill(hidden, -10_000).softmax(-1) for logits in (output.start_logits, output.end_logits)
    )
    places = [place for place, sequence in enumerate(sequences) if sequence == 0]
    spans = [(float(starts[a] * ends[b]), a, b) for a in places for b in places if a <= b < a + 15]
    score, start, end = max(spans)
    return score, CONTEXT[offsets[start][0] : offsets[end][1]]


def test_an_answer_is_found_in_the_context_that_comes_first(tmp_path: Path) -> None:
    contract = make_artifact(tmp_path, "xlnet", "question-answering")
    assert contract.processor.padding_side == "left"
    (tmp_path / "run").mkdir()
    local = Local(tmp_path, tmp_path / "run")
    questions = ["who", "who counts twelve parcels", "where is a lazy dog while Ada jumps over the fox"]
    asked = [
        {"inputs": {"question": question, "context": CONTEXT}, "parameters": {"align_to_words": False}}
        for question in questions
    ]
    for answer, question in zip(local.answers(asked), questions, strict=True):
        score, text = best_span(tmp_path / "model", question)
        assert_alike(answer["score"], score)
        assert answer["answer"] == text


@given(st.integers(1, 12), st.integers(1, 15), st.integers(1, 30), st.integers(0, 1000))
def test_the_best_spans_are_those_of_the_whole_table(tokens: int, longest: int, top_k: int, seed: int) -> None:
    """Of all starts and ends, though only spans within `max_answer_len` are compared."""
    first, last = numpy.random.default_rng(seed).random((2, tokens), dtype=numpy.float32)
    table = numpy.tril(numpy.triu(numpy.outer(first, last)), longest - 1)
    order = numpy.argsort(-table.ravel(), kind="stable")[:top_k].tolist()
    expected = [(start, end, table[start, end]) for start, end in (divmod(place, tokens) for place in order)]
    assert best_spans(first, last, longest, top_k) == [found for found in expected if found[2] > 0]
