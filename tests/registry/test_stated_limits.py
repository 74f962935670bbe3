"""How long a row may be: the least limit that a checkpoint states, which has to leave room for a text."""

import json
from pathlib import Path
from typing import Any

import pytest

from registry.errors import IncompleteArtifact
from registry.staging import stage
from registry.stated_limits import longest_row
from tests.families import MAX_TOKENS, build


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A model of MAX_TOKENS positions, and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    folder = build(tmp_path_factory.mktemp("bert"), "bert", "AutoModel")
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("stated", "longest"), [(1e30, MAX_TOKENS), (100_000, MAX_TOKENS), (64, 64), (3, 3), (None, MAX_TOKENS)]
)
def test_the_least_limit_counts(bert: tuple[Any, Any], stated: float | None, longest: int) -> None:
    model, tokenizer = bert
    tokenizer.model_max_length = stated
    assert longest_row(model, tokenizer) == longest


@pytest.mark.parametrize("stated", [1, 2])
def test_a_limit_that_special_tokens_fill_is_refused_by_file_and_key(bert: tuple[Any, Any], stated: int) -> None:
    model, tokenizer = bert
    tokenizer.model_max_length = stated
    with pytest.raises(IncompleteArtifact, match=rf"model_max_length in tokenizer_config\.json .* {stated} tokens"):
        longest_row(model, tokenizer)


def test_logging_refuses_such_a_limit(tmp_path: Path) -> None:
    folder = build(tmp_path / "saved", "bert", "AutoModel")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 2}))
    with pytest.raises(IncompleteArtifact, match=r"2 are special: correct it"):
        stage(tmp_path / "artifact", folder, None, "feature-extraction")
