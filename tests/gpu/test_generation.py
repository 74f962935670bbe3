"""Texts generated on a GPU: as transformers' `generate` writes them there, however rows join, leave and give way."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import transformers

from serving.engine.assembly import optimize_model
from serving.engine.generation.causal_decoder import CausalDecoder
from serving.engine.generation.seq2seq_decoder import Seq2SeqDecoder
from serving.engine.generation.verification import KINDS, choose_decoder, try_out
from tests.families import build
from tests.gpu.loaded import ask, engine_of, load, write_artifact
from tests.serving.engine.generation.rows import (
    CAUSAL,
    SEQ2SEQ,
    Found,
    finish,
    make_scheduler,
    prompt_of,
    row,
)

pytestmark = pytest.mark.gpu

FAMILIES = (*CAUSAL, *SEQ2SEQ)
TASKS = {"text-generation": "llama", "text2text-generation": "bart", "translation": "t5"}


@cache
def module_of(family: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A tiny model with random weights."""
    auto_class = "AutoModelForSeq2SeqLM" if family in SEQ2SEQ else "AutoModelForCausalLM"
    folder = build(Path(mkdtemp()), family, auto_class)
    module = getattr(transformers, auto_class).from_pretrained(folder, dtype=dtype).eval().to(device)
    module.generation_config.pad_token_id = 0
    module.generation_config.max_length = None
    return module


def alone(module: Any, prompt: list[int], **asked: Any) -> list[int]:
    """What `generate` writes on the module's device."""
    ids = torch.tensor([prompt], device=module.device)
    made = module.generate(
        ids, attention_mask=torch.ones_like(ids), **{"max_new_tokens": 8, "do_sample": False, **asked}
    )
    return list(made[0, 1 if module.config.is_encoder_decoder else len(prompt) :].tolist())


@pytest.mark.parametrize("max_width", [0, 39, 512])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_added_and_removed_midway_get_the_tokens_of_generate(
    device: torch.device, family: str, max_width: int
) -> None:
    module = module_of(family, torch.float32, device)
    scheduler, found = make_scheduler(module, max_rows=5, max_width=max_width), Found()
    asked = {number: 3 + (number * 5) % 17 for number in range(14)}
    for number, most in asked.items():
        scheduler.add(b"f", row(number, prompt_of(number), max_new_tokens=most, streams=number % 2 == 0), 0.0)
        found.take(scheduler.step())
    finish(scheduler, found)
    for number, most in asked.items():
        assert found.tokens[number] == alone(module, prompt_of(number), max_new_tokens=most), number


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_rows_that_give_way_go_on_with_the_same_text(device: torch.device, family: str) -> None:
    module = module_of(family, torch.float32, device)
    scheduler, found, gone_on = make_scheduler(module, max_rows=2), Found(), list[list[int]]()
    prefill = scheduler.decoder.prefill

    def noted(prompts: Any, written: Any, callers: Any) -> torch.Tensor:
        gone_on.extend(filter(None, written))
        return prefill(prompts, written, callers)

    scheduler.decoder.prefill = noted  # type: ignore[method-assign]  # rows that come back are looked at
    for number in range(2):
        scheduler.add(b"f", row(number, prompt_of(number), max_new_tokens=60), 0.0)
    for number in range(2, 6):  # they come later and write less
        for _ in range(35):
            found.take(scheduler.step())
        scheduler.add(b"f", row(number, prompt_of(number), max_new_tokens=5), 0.0)
    finish(scheduler, found)
    assert gone_on, "a row has given way"
    for number in range(6):
        most = 60 if number < 2 else 5
        assert found.tokens[number] == alone(module, prompt_of(number), max_new_tokens=most), number


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_batched_decoder_fits_in_every_dtype(device: torch.device, family: str, dtype: torch.dtype) -> None:
    module, refused = module_of(family, dtype, device), list[str]()
    decoder = choose_decoder(module, 0, module.config.vocab_size, refused.append)
    assert refused == []
    assert type(decoder) is (Seq2SeqDecoder if family in SEQ2SEQ else CausalDecoder)
    for kind in KINDS[module.config.is_encoder_decoder]:
        assert try_out(kind(module, 0), module.config.vocab_size) is None


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_beams_and_draws_are_those_of_the_seed(device: torch.device, family: str, beams: int) -> None:
    module, asked = module_of(family, torch.float32, device), {"num_beams": beams}
    asked |= {"do_sample": True, "seed": 3, "top_k": 5} if beams == 1 else {}
    texts = []
    for others in (0, 3):
        scheduler = make_scheduler(module)
        for number in range(others + 1):
            given = asked if number == 0 else {}
            scheduler.add(b"f", row(number, prompt_of(number + 3), **given), 0.0)
        texts.append(finish(scheduler).tokens[0])
    assert texts[0] == texts[1]
    assert beams == 1 or texts[0] == alone(module, prompt_of(3), num_beams=beams)[: len(texts[0])]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("task", TASKS)
def test_a_served_model_writes_and_frees_its_cache(tmp_path: Path, device: torch.device, task: str, dtype: str) -> None:
    model = load(write_artifact(tmp_path, TASKS[task], task), device, dtype)
    optimize_model(model)
    assert model.notes == [], "the best decoder, rows of any lengths together"
    assert model.form.batching == "any lengths"
    assert device.type == "cpu" or not model.form.is_torchscript
    rows = [row(number, prompt_of(number), max_new_tokens=8) for number in range(12)]
    with engine_of(model, tmp_path) as address:
        found = ask(address, rows)
    for number in range(len(rows)) if dtype == "float32" else ():  # in bfloat16 the likeliest of two may be either
        assert found[number] == alone(model.module, prompt_of(number), max_length=None, pad_token_id=0), number
    assert all(len(tokens) == 8 for tokens in found.values())
    assert model.scheduler.cached_tokens == 0
