"""Texts of six topics, and a head that is trained to tell them apart: labels that are more than ties of random weights.

A topic is a cluster of frequent words by the encoder's own vectors.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.texts import MIXED, SHORT, LengthMix, make_lengths, read_words

TOPICS = 6
TRAINING_TEXTS, TRAINING_SEED = 300, 1
"""Of each mix; texts that are measured have another seed."""
Topics = Sequence[Sequence[str]]


def find_topics(encoder: Path) -> list[list[str]]:
    """The words of each topic, the same every time. encoder: folder of BERT and its `vocab.txt`. Blocks for seconds."""
    import torch
    from sklearn.cluster import KMeans
    from transformers import BertModel

    vocabulary = (encoder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    numbers = {token: number for number, token in enumerate(vocabulary)}
    words = read_words(encoder / "vocab.txt")
    ids = torch.tensor([[numbers["[CLS]"], numbers[word], numbers["[SEP]"]] for word in words])
    model: Any = BertModel.from_pretrained(encoder, dtype=torch.float32).eval()
    with torch.inference_mode():
        parts = [model(input_ids=ids[first : first + 256]) for first in range(0, len(ids), 256)]
    vectors = torch.cat([each.last_hidden_state.mean(1) for each in parts])
    found = KMeans(TOPICS, n_init=1, random_state=0).fit_predict(vectors.numpy())
    return [[word for word, topic in zip(words, found, strict=True) if topic == number] for number in range(TOPICS)]


def make_topic_texts(mix: LengthMix, topics: Topics, count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """(texts, the topic of each), of the lengths of `texts.make_texts`, the same every time."""
    draw = random.Random(f"{mix.name} {seed} topics")
    lengths = make_lengths(mix, count, seed)
    chosen = [draw.randrange(len(topics)) for _ in lengths]
    texts = [
        " ".join(draw.choices(topics[topic], k=length - 3)) + "." for length, topic in zip(lengths, chosen, strict=True)
    ]
    return texts, chosen


def train_head(model: Any, tokenizer: Any, topics: Topics) -> None:
    """Train the last layer of a BERT classifier to tell the topics apart. Blocks for seconds."""
    import torch
    from sklearn.linear_model import LogisticRegression

    pooled, labels = list[Any](), list[int]()
    for mix in (SHORT, MIXED):
        texts, wanted = make_topic_texts(mix, topics, TRAINING_TEXTS, TRAINING_SEED)
        labels += wanted
        with torch.inference_mode():
            pooled += [model.bert(**tokenizer(text, return_tensors="pt")).pooler_output[0].numpy() for text in texts]
    found = LogisticRegression(max_iter=1000).fit(pooled, labels)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(found.coef_))
        model.classifier.bias.copy_(torch.from_numpy(found.intercept_))
