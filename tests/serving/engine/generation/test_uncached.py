"""Models without a key-value cache write what `generate` writes, a row's text from the whole of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from registry.flavor import stage
from serving.engine.generation.uncached import UncachedDecoder
from serving.engine.generation.verification import KINDS, choose_decoder, try_out
from tests.families import MAX_TOKENS, make_tokenizer, texts_of
from tests.local import Local

pytestmark = pytest.mark.slow


SIZES: dict[str, dict[str, Any]] = {
    "mamba": {},
    "mamba2": {"head_dim": 16, "num_heads": 4, "n_groups": 1, "expand": 2, "state_size": 8},
    "falcon_mamba": {},
    "rwkv": {"attention_hidden_size": 32},
    "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": MAX_TOKENS},
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "mask_token_id": 4},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "local"],
        "is_decoder": True,
        "attention_head_size": 16,
        "feed_forward_size": 64,
        "local_attn_chunk_length": 8,
    },
}


def make(family: str) -> Any:
    """A model of the family with random weights, whose texts have the length that is asked for."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        family,
        hidden_size=32,
        num_hidden_layers=2,
        initializer_range=0.3,
        vocab_size=len(make_tokenizer("gpt2")),
        pad_token_id=0,
        max_position_embeddings=MAX_TOKENS,
        **SIZES[family],
    )
    module: Any = transformers.AutoModelForCausalLM.from_config(config).eval()
    module.generation_config.eos_token_id = None
    module.generation_config.pad_token_id = 0
    return module


@pytest.mark.parametrize("family", SIZES)
def test_texts_are_those_of_generate(family: str) -> None:
    module, vocabulary = make(family), len(make_tokenizer("gpt2"))
    notes: list[str] = []
    decoder = choose_decoder(module, 0, vocabulary, notes.append)
    assert isinstance(decoder, UncachedDecoder)
    assert len(notes) == len(KINDS[False]) - 1
    with torch.no_grad():
        module.get_output_embeddings().weight.mul_(1.5)
    assert try_out(decoder, vocabulary) is None, "the decoder keeps nothing of the rows before"


def test_mamba_is_logged_and_answers_in_batches_as_generate_does(tmp_path: Path) -> None:
    module, tokenizer = make("mamba"), make_tokenizer("gpt2")
    stage(tmp_path, module, tokenizer, "text-generation")
    (tmp_path / "run").mkdir()
    texts = texts_of(4, 2, 12)
    parameters = {"max_new_tokens": 8, "return_full_text": False}
    found = Local(tmp_path, tmp_path / "run").answers([{"inputs": text, "parameters": parameters} for text in texts])
    for text, answer in zip(texts, found, strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            (made,) = module.generate(inputs["input_ids"], max_new_tokens=8, do_sample=False)
        new = made[inputs["input_ids"].shape[1] :]
        assert answer[0]["generated_text"] == tokenizer.decode(new, skip_special_tokens=True)
