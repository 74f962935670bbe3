"""Artifacts as logging stages them, without a registry."""

from pathlib import Path
from typing import Any

from registry.artifact import write_artifact
from registry.checks import load_model
from registry.contract import Contract
from registry.heads import HEADS
from registry.image_settings import reads_images
from registry.layout import MODEL_FOLDER
from registry.saved_processors import load_processor
from registry.staging import make_contract
from tests.families import build


def make_artifact(root: Path, family: str, task: str, **tokenizer: Any) -> Contract:
    """Stage a tiny model of the family at `root`. tokenizer: attributes to set before it is saved."""
    folder = build(root / MODEL_FOLDER, family, HEADS[task].auto_class)
    model = load_model(folder, task, dtype="auto")
    found = load_processor(folder, reads_images(model))
    for name, value in tokenizer.items():
        setattr(found, name, value)
    found.save_pretrained(folder)
    contract = make_contract(root, model, found, task, origin=folder)
    write_artifact(root, contract)
    return contract
