"""What a tokenizer's configuration says beyond tokenizer.json is served, or refused by its key."""

import json
from pathlib import Path
from typing import Any

import pytest

from registry.errors import IncompleteArtifact
from registry.processors import describe_processor
from registry.saved_processors import load_processor
from registry.staging import stage
from tests.families import build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build(tmp_path / "saved", "roberta", "AutoModel")


def edit(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_special_tokens_that_are_read_as_text_are_refused(folder: Path, tmp_path: Path) -> None:
    edit(folder / "tokenizer_config.json", split_special_tokens=True)
    with pytest.raises(IncompleteArtifact, match=r"tokenizer_config\.json: split_special_tokens, .* remove it"):
        stage(tmp_path / "artifact", folder, None, "feature-extraction")


def test_special_tokens_are_compared_too(folder: Path) -> None:
    from transformers import AutoModel

    model, tokenizer = AutoModel.from_pretrained(folder), load_processor(folder, of_images=False)
    assert describe_processor(model, tokenizer, folder).mask_token_id == tokenizer.mask_token_id
    path = folder / "tokenizer.json"
    added = json.loads(path.read_text())["added_tokens"]
    edit(path, added_tokens=[token for token in added if token["content"] != "<mask>"])
    with pytest.raises(IncompleteArtifact, match=r"tokenize .*word <mask>.* differently"):
        describe_processor(model, tokenizer, folder)
