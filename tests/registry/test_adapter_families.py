"""Merged adapters of some families answer as PEFT's own; `make test-families ARGS=--adapters` looks at all."""

from pathlib import Path

import pytest

from tests.sweep.adapters import try_adapter

pytestmark = pytest.mark.slow


SOME = [
    ("gpt2", "text-generation"),
    ("llama", "text-classification"),
    ("qwen3", "text-generation"),
    ("roberta", "token-classification"),
    ("deberta-v2", "fill-mask"),
    ("bart", "question-answering"),
    ("t5", "text2text-generation"),
    ("t5gemma", "text2text-generation"),
    ("vit", "image-classification"),
]


@pytest.mark.parametrize(("family", "task"), SOME)
def test_a_merged_adapter_of_the_family_answers_as_peft_does(family: str, task: str, tmp_path: Path) -> None:
    cell = try_adapter(family, task, tmp_path)
    assert cell.found == "equal", cell.detail
