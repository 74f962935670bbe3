"""The activation that sentence-transformers writes into a CrossEncoder's config.json becomes the contract's."""

import json
from pathlib import Path
from typing import Any

import pytest

from registry.errors import CheckpointWarning
from serving.tasks import get_task

TASK = get_task("text-classification")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "6.2.0"}}, "none"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "none"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, "sigmoid"),
        ({"sentence_transformers": {"version": "6.2.0"}}, None),
        ({}, None),
    ],
)
def test_scores_are_those_of_the_cross_encoder(tmp_path: Path, keys: dict[str, Any], expected: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **keys}))
    assert TASK.defaults(tmp_path, {}).get("function_to_apply") == expected
    assert TASK.defaults(tmp_path, {"function_to_apply": "softmax"})["function_to_apply"] == "softmax"


def test_an_activation_that_is_not_served_is_warned_of(tmp_path: Path) -> None:
    keys = {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"}
    (tmp_path / "config.json").write_text(json.dumps(keys))
    with pytest.warns(CheckpointWarning, match=r"activation torch\.nn\.modules\.activation\.Tanh, which is not served"):
        assert TASK.defaults(tmp_path, {}) == {}
