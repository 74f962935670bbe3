"""The process of a runtime answers orders; its rows are padded as transformers pads them."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bench.models import tiny_classifier
from bench.processes import BenchError
from bench.runtimes.comparison import Runtime, _row, _working
from bench.runtimes.loaders import pad
from bench.texts import SHORT, make_lengths
from bench.topics import make_topic_texts

ROWS = [[101, 7, 8, 102], [101, 9, 102], [101, 2000, 2001, 2002, 2003, 102]]
TOPICS = [["one", "two"], ["red", "blue", "green"]]


def test_rows_are_padded_to_the_longest() -> None:
    arrays = pad([[5, 6], [7]])
    assert arrays["input_ids"].tolist() == [[5, 6], [7, 0]]
    assert arrays["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_texts_have_the_words_of_their_topic_and_the_lengths_of_the_mix() -> None:
    texts, topics = make_topic_texts(SHORT, TOPICS, 200)
    assert (texts, topics) == make_topic_texts(SHORT, TOPICS, 200)
    assert [len(text.split()) + 3 for text in texts] == make_lengths(SHORT, 200)
    assert all(set(text.rstrip(".").split()) <= set(TOPICS[topic]) for text, topic in zip(texts, topics, strict=True))


@pytest.mark.long
@pytest.mark.server
def test_a_worker_answers_with_labels_and_seconds() -> None:
    folder = tiny_classifier()
    with _working(Runtime("bare", "loaders:torch_float32", folder, sys.executable), 1) as worker:
        worker.labels = [label for batch in worker.ask({"name": "one 12", "batches": [ROWS]}) for label in batch]
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        with torch.inference_mode():
            assert worker.labels == [int(model(torch.tensor([row])).logits.argmax()) for row in ROWS]
        worker.ask({"name": "one 43", "batches": [ROWS]})
        given = {"one 12": [ROWS], "one 43": [ROWS], "short 256": [ROWS, ROWS]}
        worker.ask({"name": "short 256", "batches": [ROWS, ROWS]})
        worker.seconds = {name: [worker.ask({"name": name, "repeats": 1}) for _ in range(3)] for name in given}
    assert all(second > 0 for turns in worker.seconds.values() for turn in turns for second in turn)
    assert [len(turn) for turn in worker.seconds["short 256"]] == [2, 2, 2]
    name, *cells = _row(worker, worker, given)
    assert (name, len(cells), cells[-1]) == ("bare", 6, "100.00%")


def test_a_worker_that_ends_is_told() -> None:
    missing = Runtime("missing", "loaders:nothing", Path("nowhere"), sys.executable)
    with pytest.raises(BenchError, match="missing ended"), _working(missing, 1):
        pass
