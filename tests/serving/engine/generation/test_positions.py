"""Texts end where the decoder of a model with an encoder has no more positions, whichever decoder writes them."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import transformers

from serving.engine.generation.sequential import SequentialDecoder
from serving.engine.generation.verification import KINDS, choose_decoder
from tests.families import MAX_TOKENS
from tests.serving.engine.generation.rows import alone, finish, load, make_scheduler, row

pytestmark = pytest.mark.processor

POSITIONS = 24
SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "max_position_embeddings": POSITIONS}
LAYERS: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def pair_of(config: Any) -> Any:
    """An encoder and a decoder of this configuration."""
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(config, deepcopy(config))
    config.pad_token_id = config.encoder.pad_token_id
    return transformers.EncoderDecoderModel(config=config)


def make_prophetnet() -> Any:
    config = transformers.ProphetNetConfig(
        **SIZES,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_encoder_attention_heads=2,
        num_decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        pad_token_id=0,
    )
    return transformers.ProphetNetForConditionalGeneration(config)


MODELS = {
    "bert": (lambda: pair_of(transformers.BertConfig(**SIZES, **LAYERS)), POSITIONS - 1),
    "roberta": (lambda: pair_of(transformers.RobertaConfig(**SIZES, **LAYERS, pad_token_id=1)), POSITIONS - 3),
    "prophetnet": (make_prophetnet, POSITIONS - 2),
}
"""How a model is made, and the new tokens that it has positions for. RoBERTa's begin behind its padding token's."""


@pytest.mark.parametrize("family", MODELS)
def test_rows_that_are_decoded_one_by_one_end_with_the_positions(family: str) -> None:
    make, most = MODELS[family]
    torch.manual_seed(0)
    module = make().eval()
    config = module.generation_config
    config.max_length = config.eos_token_id = None
    config.pad_token_id, config.decoder_start_token_id = 0, 2
    decoder = choose_decoder(module, 0, 50, lambda _: None)
    assert type(decoder) is SequentialDecoder
    scheduler = make_scheduler(module, SequentialDecoder)
    asked = {1: POSITIONS + 30, 2: most + 1, 3: 10}
    for number, count in asked.items():
        scheduler.add(b"f", row(number, [5, 6, 7 + number], max_new_tokens=count), 0.0)
    found = finish(scheduler)
    assert not found.failures
    for number, count in asked.items():
        assert found.tokens[number] == alone(module, [5, 6, 7 + number], max_new_tokens=min(count, most))
        assert found.finishes[number] == "length"


@pytest.mark.parametrize("kind", KINDS[True])
def test_decoders_of_one_model_know_the_same_positions(kind: Any) -> None:
    assert kind(load("bart"), 0).max_new_tokens == MAX_TOKENS - 1
    assert kind(load("t5"), 0).max_new_tokens is None, "it has no table of positions"
    gpt2 = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=POSITIONS)
    assert kind(pair_of(gpt2), 0).max_new_tokens == POSITIONS - 1


def test_a_prompt_bounds_a_decoder_alone_and_no_table_does() -> None:
    for family in ("gpt2", "llama"):
        assert KINDS[False][0](load(family), 0).max_new_tokens is None
