"""Tiny models that have learnt one text by heart: their likeliest token is far likelier than any other."""

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from registry.artifact import write_artifact
from registry.checks import load_model
from registry.contract import Contract
from registry.heads import HEADS
from registry.layout import MODEL_FOLDER
from registry.saved_processors import load_processor
from registry.staging import make_contract
from tests.families import WORDS, build

STEPS, RATE = {False: 120, True: 300}, 3e-3
"""Steps of a decoder alone, and of one with an encoder."""
ROWS, TOKENS = 8, 48
"""Parts of the text of a step of training, and the tokens of each."""
MIN_SOURCE = 4
"""The fewest tokens that an encoder reads in training."""
PROMPTS = [" ".join((WORDS * 2)[begin : begin + count]) for begin in range(len(WORDS)) for count in (3, 7)]
"""Parts of the text."""


def make_writer(root: Path, family: str, task: str) -> Contract:
    """Stage a model of the family at `root` that continues any part of the text. Blocks for seconds."""
    folder = build(root / MODEL_FOLDER, family, HEADS[task].auto_class)
    model: Any = load_model(folder, task, dtype="float32")
    tokenizer: Any = load_processor(folder, of_images=False)
    _train(model.train(), tokenizer)
    model.eval().save_pretrained(folder)
    contract = make_contract(root, model, tokenizer, task, origin=folder)
    write_artifact(root, contract)
    return contract


def _train(model: Any, tokenizer: Any) -> None:
    """Steps of AdamW over parts of the text; a model with an encoder reads a part and writes what follows."""
    torch.manual_seed(0)
    text = torch.tensor(tokenizer(" ".join(WORDS * 12), add_special_tokens=False)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(STEPS[model.config.is_encoder_decoder]):
        begins = torch.randint(0, len(text) // 2, (ROWS,)).tolist()
        rows = torch.stack([text[begin : begin + TOKENS] for begin in begins])
        if model.config.is_encoder_decoder:
            length = int(torch.randint(MIN_SOURCE, TOKENS // 2, ()))
            loss = model(input_ids=rows[:, :length], labels=rows[:, length:].contiguous()).loss
        else:
            logits = model(input_ids=rows).logits[:, :-1]
            loss = cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
