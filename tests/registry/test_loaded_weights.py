"""What a class is taken for by the weights that load is what it is: checked over families, in values."""

from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_PRETRAINING_MAPPING_NAMES

from registry.checks import load_model
from registry.errors import RandomHead
from registry.heads import architectures, get_head
from tests.alike import assert_alike
from tests.families import build as build_family
from tests.families import cells, make_tokenizer

pytestmark = [pytest.mark.processor, pytest.mark.sweep]

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.3,
    "image_size": 32,
    "patch_size": 8,
}
SIZES = {"mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32}}
BOTH = ("albert", "bert", "big_bird", "ernie", "fnet", "megatron-bert", "mobilebert")
"""Families whose class for pretraining has the head of fill-mask."""
POOLED = (
    *(
        "albert",
        "beit",
        "bert",
        "big_bird",
        "camembert",
        "canine",
        "data2vec-text",
        "deit",
        "dpt",
        "ernie",
        "esm",
        "fnet",
    ),
    *("ibert", "layoutlm", "longformer", "markuplm", "megatron-bert", "mobilebert", "mpnet", "rembert", "roberta"),
    *("roberta-prelayernorm", "tapas", "visual_bert", "vit", "xlm-roberta", "xlm-roberta-xl"),
)
"""Families whose base model has a pooler and builds from a small configuration."""
IDS = torch.arange(5, 37)[None]


def config_of(family: str) -> transformers.PretrainedConfig:
    return transformers.AutoConfig.for_model(family, **TINY, **SIZES.get(family, {}))


@pytest.mark.parametrize("family", POOLED)
def test_states_do_not_depend_on_the_pooler(family: str) -> None:
    """Why a checkpoint without one is served as feature-extraction."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config_of(family)).eval()
    inputs = {"input_ids": IDS} if model.main_input_name == "input_ids" else {"pixel_values": torch.rand(1, 3, 32, 32)}
    with torch.inference_mode():
        before = model(**inputs).last_hidden_state
    poolers = [weight for name, weight in model.named_parameters() if name.startswith("pooler.")]
    with torch.inference_mode():
        for weight in poolers:
            weight.fill_(torch.nan)
        after = model(**inputs).last_hidden_state
    assert poolers
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("family", "task"),
    [
        (family, task)
        for family in BOTH
        for task in ("fill-mask", "next-sentence-prediction")
        if family in architectures(task)
    ],
)
def test_both_heads_of_a_pretraining_checkpoint_are_its_own(tmp_path: Path, family: str, task: str) -> None:
    torch.manual_seed(0)
    whole = getattr(transformers, MODEL_FOR_PRETRAINING_MAPPING_NAMES[family])(config_of(family)).eval()
    whole.save_pretrained(tmp_path)
    with torch.inference_mode():
        expected = whole(input_ids=IDS)
        found = load_model(tmp_path, task, dtype="float32")(input_ids=IDS).logits
    assert_alike(found, expected.prediction_logits if task == "fill-mask" else expected.seq_relationship_logits)


PARTS = {("llama", "question-answering"), ("t5", "token-classification"), ("bart", "text-generation")}
"""Checkpoints without all of the base model's weights, or with other names of them."""
HEADS = [(family, task) for family, task in cells() if family not in ("mt5", "umt5", "mistral", "vit")]


@pytest.mark.parametrize(("family", "task"), [cell for cell in HEADS if cell[1] != "feature-extraction"])
def test_states_of_a_checkpoint_of_any_head_are_its_base_models(tmp_path: Path, family: str, task: str) -> None:
    build_family(tmp_path, family, get_head(task).auto_class)
    if (family, task) in PARTS:
        with pytest.raises(RandomHead):
            load_model(tmp_path, "feature-extraction", dtype="float32")
        return
    whole = getattr(transformers, get_head(task).auto_class).from_pretrained(tmp_path).eval()
    loaded = load_model(tmp_path, "feature-extraction", dtype="float32")
    ids = make_tokenizer(family)("a lazy fox jumps", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        halves = [model.get_encoder() if family == "t5" else model for model in (whole.base_model, loaded)]
        expected, found = (half(input_ids=ids).last_hidden_state for half in halves)
    assert torch.equal(found, expected)
