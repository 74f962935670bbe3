"""A tiny model with random weights for every family and head, with a tokenizer of the family's kind."""

import random
from collections import Counter
from functools import cache
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

from registry.heads import HEADS
from tests.small_models import WORD_PIECES, vocabulary

FAMILIES = (
    *("bert", "roberta", "deberta", "deberta-v2", "distilbert", "albert", "electra"),
    *("gpt2", "gptj", "llama", "mistral", "t5", "mt5", "umt5", "bart", "vit"),
)
MAX_TOKENS = 320
"""Tokens of the longest row of every model here."""
PAIRS = 8
"""The most frequent pairs of letters, which are pieces of the Unigram tokenizer beside the letters."""
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "near",
    "Paris",
    "while",
    "Ada",
    "counts",
    "twelve",
    "naive",
    "parcels",
    "again",
]
LABELS = ("contradiction", "neutral", "entailment")
_BASE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": MAX_TOKENS}
_T5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
_HALVES: dict[str, Any] = {
    "d_model": 32,
    **{
        f"{half}_{key}": value
        for half in ("encoder", "decoder")
        for key, value in (("layers", 2), ("ffn_dim", 64), ("attention_heads", 2))
    },
}
_SIZES: dict[str, dict[str, Any]] = {
    "roberta": {"max_position_embeddings": MAX_TOKENS + 2},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 32},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 32},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "gpt2": _GPT,
    "gptj": {**_GPT, "rotary_dim": 8},
    "llama": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 1, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 1},
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "bart": _HALVES,
    "vit": {"image_size": 32, "patch_size": 8},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "initializer_range": 0.3},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 128},
    "big_bird": {"block_size": 4, "num_random_blocks": 1, "initializer_range": 0.3},
    "led": {
        **_HALVES,
        "attention_window": 8,
        "max_encoder_position_embeddings": MAX_TOKENS,
        "max_decoder_position_embeddings": 90,
    },
    "bigbird_pegasus": {**_HALVES, "block_size": 4, "num_random_blocks": 1, "init_std": 0.3},
    "m2m_100": {**_HALVES, "decoder_start_token_id": 0},  # 0 is its padding, too
    "longformer": {"attention_window": 8, "max_position_embeddings": MAX_TOKENS + 2, "sep_token_id": 1},
    "convbert": {"embedding_size": 32, "initializer_range": 0.3},
    "roformer": {"embedding_size": 32, "initializer_range": 0.3},
}


def texts_of(count: int, seed: int, longest: int = 40) -> list[str]:
    """Texts of 1 to `longest` words."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(count)]


def build(folder: Path, family: str, auto_class: str, tokenizer: Any = None) -> Path:
    """Save a model of the family with the head of `auto_class`, and its tokenizer or image processor.

    tokenizer: instead of one of the family's kind, of which BERT's kinds need a package with a real vocabulary.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    if family != "vit":
        tokenizer = tokenizer or make_tokenizer(family)
    settings: dict[str, Any] = {**_BASE, "initializer_range": 0.2, "max_position_embeddings": MAX_TOKENS}
    settings |= {"initializer_factor": 2.0} if family in ("t5", "mt5", "umt5") else {}
    if tokenizer is not None:
        settings["vocab_size"] = len(tokenizer)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            settings[name] = getattr(tokenizer, name)
    if "Classification" in auto_class:
        settings["id2label"] = dict(enumerate(LABELS))
        settings["label2id"] = {label: index for index, label in enumerate(LABELS)}
    if family == "xlnet":
        del settings["max_position_embeddings"]  # it refuses a limit
    config = transformers.AutoConfig.for_model(family, **(settings | _SIZES.get(family, {})))
    model = getattr(transformers, auto_class).from_config(config).eval()
    if model.can_generate():
        model.generation_config.eos_token_id = None  # so that every text has the length that was asked for
    model.save_pretrained(folder)
    if tokenizer is None:
        transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    else:
        tokenizer.save_pretrained(folder)
    return folder


@cache
def make_tokenizer(family: str) -> Any:
    """WordPiece with a real vocabulary, or byte-level BPE or Unigram of the words of the tests."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if family in ("bert", "distilbert", "electra"):
        whole = AutoTokenizer.from_pretrained(vocabulary())
        kept = {token: number for token, number in whole.get_vocab().items() if number < WORD_PIECES}
        for number, word in enumerate(sorted({word.lower() for word in WORDS} - kept.keys())):
            kept[word] = kept.pop(f"[unused{number}]")  # so that rows stay short
        return type(whole)(vocab=kept, model_max_length=MAX_TOKENS)
    tokenizer = _train_bytes() if family in ("roberta", "bart", "deberta", "gpt2", "gptj") else _make_unigram()
    opening, closing = {
        "roberta": ("<s>", "</s>"),
        "bart": ("<s>", "</s>"),
        "longformer": ("<s>", "</s>"),
        "deberta": ("[CLS]", "[SEP]"),
        "deberta-v2": ("[CLS]", "[SEP]"),
        "albert": ("[CLS]", "[SEP]"),
        "llama": ("<s>", ""),
        "mistral": ("<s>", ""),
        "gpt2": ("", ""),
        "gptj": ("", ""),
    }.get(family, ("", "</s>"))
    _add_template(tokenizer, opening, closing, between=closing if family == "longformer" else "")
    names = ["input_ids", "attention_mask"]
    if family in ("deberta", "deberta-v2", "albert", "xlnet"):
        names.insert(1, "token_type_ids")
    if family == "xlnet":
        return _make_xlnet_tokenizer(tokenizer, names)
    is_bert_like = opening == "[CLS]"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        model_input_names=names,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        bos_token="<s>",
        mask_token="<mask>",
        **({"cls_token": opening, "sep_token": closing} if is_bert_like or family in ("roberta", "bart") else {}),
    )


def _make_xlnet_tokenizer(tokenizer: Any, names: list[str]) -> Any:
    """Padded on the left; the last token, which the head reads, has a token type of its own."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = TemplateProcessing(
        single="$A:0 [SEP]:0 [CLS]:2", pair="$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2", special_tokens=special
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=names,
        padding_side="left",
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        bos_token="<s>",
        mask_token="<mask>",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


SPECIAL = ["<pad>", "</s>", "<unk>", "<s>", "<mask>", "[CLS]", "[SEP]"]


def _train_bytes() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    return tokenizer


def _make_unigram() -> Any:
    """The pieces that training finds depend on the process (tokenizers 0.23), so these are counted."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = [f"▁{word}" for word in " ".join(texts_of(50, 0)).split()]
    counts = Counter(piece for word in words for piece in [*word, *map("".join, pairwise(word))])
    total = counts.total()
    letters = sorted(piece for piece in counts if len(piece) == 1)
    pairs = sorted(counts.keys() - set(letters), key=lambda piece: (-counts[piece], piece))
    pieces = [*letters, *pairs[:PAIRS]]
    scores = [*((token, 0.0) for token in SPECIAL), *((piece, log(counts[piece] / total)) for piece in pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=SPECIAL.index("<unk>"), byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def _add_template(tokenizer: Any, opening: str, closing: str, between: str = "") -> None:
    from tokenizers.processors import TemplateProcessing

    def part(name: str, number: int) -> str:
        return " ".join(filter(None, [f"{opening}:{number}" if opening else "", f"${name}:{number}", closing]))

    first = " ".join(filter(None, [opening, "$A", closing]))
    pair = f"{first} {between} $B:1".replace("  ", " ") + (f" {closing}:1" if closing else "")
    special = [(token, tokenizer.token_to_id(token)) for token in {opening, closing} - {""}]
    tokenizer.post_processor = TemplateProcessing(single=first, pair=pair, special_tokens=special)


def cells() -> list[tuple[str, str]]:
    """(family, task) of every head that the installed transformers has for a family; other names of a task left out."""
    from registry.heads import architectures

    tasks = [head.task for head in HEADS.values() if not head.same_as and head.task != "zero-shot-classification"]
    return [(family, task) for family in FAMILIES for task in tasks if family in architectures(task)]
