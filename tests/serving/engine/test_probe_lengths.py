"""The rows of a proof follow from the model: the same on each load, long enough for its spans, and cheap."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serving.engine.probe_lengths import (
    LONG,
    MAX_TOKENS,
    MIDDLE,
    PROOF_MULTIPLICATIONS,
    SHORT,
    longest_affordable,
    probe_lengths,
)


class Part(torch.nn.Module):
    """A module with the configuration `config`, `weights` weights and as many of an embedding."""

    def __init__(self, config: dict[str, Any], weights: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)
        self.embedding = torch.nn.Embedding(weights, 1, device="meta")
        self.linear = torch.nn.Linear(weights, 1, bias=False, device="meta")


def a_model(limit: int, config: dict[str, Any], weights: int = 1000) -> Any:
    """Stands for a model: its limit and its module."""
    return SimpleNamespace(contract=SimpleNamespace(max_tokens=limit), module=Part(config, weights))


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({}, LONG),
        ({"hidden_size": 768, "vocab_size": 30522, "sliding_window": None}, LONG),
        ({"attention_window": [512, 512]}, 771),
        ({"block_size": 64, "num_random_blocks": 3}, 1059),
        ({"block_size": 512}, 771),
        ({"relative_attention_max_distance": 128, "relative_attention_num_buckets": 32}, LONG),
        ({"num_hash_buckets": 16384, "local_transformer_stride": 128}, LONG),
        ({"sliding_window": 4096, "use_sliding_window": True}, MAX_TOKENS),
    ],
)
def test_the_longest_rows_are_longer_than_the_spans_of_the_configuration(config: dict[str, Any], longest: int) -> None:
    lengths = probe_lengths(a_model(100_000, config))
    assert lengths == [longest, *SHORT, MIDDLE, longest * 2 // 3]


@pytest.mark.parametrize("limit", [1, 2, 4, 69, 70, 71, 319])
def test_no_row_is_longer_than_the_limit(limit: int) -> None:
    lengths = probe_lengths(a_model(limit, {}))
    assert lengths[0] == limit
    assert all(1 <= length <= limit for length in lengths)


def test_rows_of_a_large_model_are_shorter_by_its_weights_alone() -> None:
    weights = PROOF_MULTIPLICATIONS // 200
    assert probe_lengths(a_model(5000, {}, weights))[0] == 200
    assert probe_lengths(a_model(5000, {}, weights * 1000))[0] == MIDDLE
    assert longest_affordable(a_model(5000, {}, 10), 300) == 30
    assert longest_affordable(a_model(5000, {}, 10), 1) == 1
    assert longest_affordable(a_model(10**6, {}, 10), 10**9) == MAX_TOKENS
