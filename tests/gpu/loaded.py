"""Small models on a device, loaded as an engine loads them, and rows for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from bench.models import make_tokenizer, write_contract
from registry.checks import load_model
from registry.heads import get_head
from registry.layout import MODEL_FOLDER
from registry.processors import load_processor
from registry.staging import describe
from serving.engine.assembly import make_model
from serving.engine.model import Model
from serving.tasks import get_task
from serving.wire.messages import Row
from tests.alike import assert_alike
from tests.families import MAX_TOKENS, build

WORD_PIECE = ("bert", "distilbert", "electra")


def write_artifact(root: Path, family: str, task: str) -> Path:
    """An artifact as an engine reads it, in float32."""
    tokenizer = make_tokenizer(MAX_TOKENS) if family in WORD_PIECE else None
    folder = build(root / MODEL_FOLDER, family, get_head(task).auto_class, tokenizer)
    module = load_model(folder, task, dtype="float32")
    processor = load_processor(folder, of_images=family == "vit")
    defaults = get_task(task).defaults(folder, {})
    write_contract(root, describe(root, module, processor, task, defaults=defaults, dtype="auto", max_tokens=None))
    return root


def load(root: Path, device: torch.device, dtype: str, kind: type[Model] | None = None) -> Any:
    """The artifact's model. kind: instead of the task's own class."""
    from registry.artifact import read_contract

    return (kind or make_model)(root, read_contract(root), device=str(device), dtype=dtype)


def rows_of(model: Model, lengths: Sequence[int], **changes: Any) -> list[Row]:
    """Rows of ordinary tokens, numbered."""
    return [
        msgspec.structs.replace(model.probe(length, index), deadline=1e12, **changes)
        for index, length in enumerate(lengths)
    ]


def assert_same_rows(found: Sequence[Any], expected: Sequence[Any], dtype: str) -> None:
    """Each row's arrays agree as answers must."""
    assert len(found) == len(expected)
    for arrays, wanted in zip(found, expected, strict=True):
        for one, other in zip(arrays, wanted, strict=True):
            assert_alike(one, other, dtype)
