"""A head that is not the checkpoint's own is refused, at logging and at serving, even where it loads silently."""

from pathlib import Path

import msgspec
import pytest
import transformers

from registry.errors import IncompleteArtifact, MismatchedHead, RandomHead, WrongHead
from registry.flavor import log_model
from registry.heads import HEADS, get_head, model_class
from registry.settings import RegistrySettings
from serving.engine.model import Model
from tests.families import build

SWAPS = [
    # family, saved for, asked for
    ("bert", "text-classification", "token-classification"),
    ("bert", "token-classification", "text-classification"),
    ("distilbert", "multiple-choice", "text-classification"),
    ("electra", "multiple-choice", "text-classification"),
    ("bert", "text-classification", "multiple-choice"),
    ("bert", "token-classification", "question-answering"),
    ("bert", "fill-mask", "text-generation"),
    ("bert", "text-generation", "fill-mask"),
    ("roberta", "fill-mask", "text-generation"),
    ("llama", "token-classification", "text-classification"),
    ("llama", "text-classification", "token-classification"),
    ("mistral", "token-classification", "text-classification"),
    ("gpt2", "text-classification", "text-generation"),
    ("gpt2", "token-classification", "text-generation"),
    ("gpt2", "question-answering", "text-generation"),
    ("t5", "question-answering", "text2text-generation"),
    ("bart", "question-answering", "fill-mask"),
    ("bart", "text2text-generation", "text-classification"),
]


@pytest.mark.parametrize(("family", "own", "other"), SWAPS)
def test_a_swapped_head_is_refused_at_logging_and_at_serving(
    tmp_path: Path, settings: RegistrySettings, family: str, own: str, other: str
) -> None:
    root = tmp_path / "artifact"
    build(root / "model", family, get_head(own).auto_class)
    with pytest.raises(WrongHead, match=model_class(own, family)) as refused:
        log_model(root / "model", task=other, name="m", settings=settings)
    assert get_head(other).auto_class in str(refused.value)
    contract = log_model(root / "model", task=own, name="m", settings=settings).contract
    claimed = msgspec.structs.replace(
        contract, task=other, auto_class=get_head(other).auto_class, model_class=model_class(other, family), defaults={}
    )
    with pytest.raises(WrongHead):
        Model(root, claimed)


def test_some_of_these_swaps_load_with_nothing_missing(tmp_path: Path) -> None:
    """Why the weights alone are no proof."""
    silent = 0
    for family, own, other in SWAPS:
        folder = build(tmp_path / f"{family}-{own}", family, get_head(own).auto_class)
        auto_class = getattr(transformers, get_head(other).auto_class)
        _, report = auto_class.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True)
        silent += not report["missing_keys"] and not report["mismatched_keys"]
    assert silent >= 6


@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
def test_a_base_checkpoint_has_no_head_to_serve(tmp_path: Path, settings: RegistrySettings, family: str) -> None:
    folder = build(tmp_path / "base", family, "AutoModel")
    for task in HEADS:
        if task in ("feature-extraction", "text-generation") or family not in _families_of(task):
            continue
        with pytest.raises(RandomHead, match="Fine-tune with"):
            log_model(folder, task=task, name="m", settings=settings)


@pytest.mark.parametrize(("family", "task"), [("gpt2", "text-generation"), ("t5", "text2text-generation")])
def test_a_head_that_is_tied_to_the_embeddings_is_in_a_base_checkpoint(
    tmp_path: Path, settings: RegistrySettings, family: str, task: str
) -> None:
    folder = build(tmp_path / "base", family, "AutoModel")
    assert log_model(folder, task=task, name="m", settings=settings).contract.model_class == model_class(task, family)


def test_another_number_of_labels_than_the_checkpoint_has(tmp_path: Path, settings: RegistrySettings) -> None:
    folder = build(tmp_path / "three", "bert", "AutoModelForSequenceClassification")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"2": "entailment"', '"2": "entailment", "3": "more"'))
    with pytest.raises(MismatchedHead, match="num_labels"):
        log_model(folder, task="text-classification", name="m", settings=settings)


def test_a_tokenizer_without_padding_is_told_the_remedy(tmp_path: Path, settings: RegistrySettings) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = build(tmp_path / "gpt2", "gpt2", "AutoModelForSequenceClassification")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with pytest.raises(IncompleteArtifact, match=r"tokenizer.pad_token = tokenizer.eos_token"):
        log_model(model, tokenizer, task="text-classification", name="m", settings=settings)


def _families_of(task: str) -> set[str]:
    from registry.heads import architectures

    return set(architectures(task))


def test_a_missing_tokenizer_and_one_that_is_too_large_are_told_the_remedy(
    tmp_path: Path, settings: RegistrySettings
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = build(tmp_path / "bert", "bert", "AutoModelForSequenceClassification")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["anotherword"])
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with pytest.raises(IncompleteArtifact, match="resize_token_embeddings"):
        log_model(model, tokenizer, task="text-classification", name="m", settings=settings)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(IncompleteArtifact, match="tokenizer.save_pretrained"):
        log_model(folder, task="text-classification", name="m", settings=settings)
