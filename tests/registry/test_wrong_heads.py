"""A head that is not the checkpoint's own is refused, at logging and at serving, even where it loads silently."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest
import transformers

from registry.checks import load_model
from registry.errors import CheckpointWarning, IncompleteArtifact, MismatchedHead, RandomHead, WrongHead
from registry.flavor import log_model
from registry.heads import HEADS, get_head, model_class
from registry.settings import RegistrySettings
from registry.staging import stage
from serving.engine.model import Model
from serving.engine.predictor import Predictor
from tests.alike import assert_alike
from tests.families import build
from tests.sentence_folders import edit

pytestmark = pytest.mark.slow


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


@pytest.mark.sweep
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


def named(folder: Path, *architectures: str) -> Path:
    """The folder, whose config.json now names these classes."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": list(architectures)}))
    return folder


@pytest.mark.parametrize("architectures", [("MPNetForMaskedLM",), ("SomethingElse",), ()])
def test_states_are_served_whatever_head_the_checkpoint_names(
    tmp_path: Path, settings: RegistrySettings, architectures: tuple[str, ...]
) -> None:
    """all-mpnet-base-v2 has the weights of MPNetModel and names MPNetForMaskedLM."""
    folder = named(build(tmp_path / "base", "mpnet", "AutoModel"), *architectures)
    logged = log_model(folder, task="feature-extraction", name="m", settings=settings)
    assert logged.contract.model_class == "MPNetModel"


def test_states_of_a_checkpoint_with_a_head_are_those_of_its_base_model(
    tmp_path: Path, settings: RegistrySettings
) -> None:
    folder = build(tmp_path / "masked", "bert", "AutoModelForMaskedLM")  # it has no pooler
    logged = log_model(folder, task="feature-extraction", name="m", settings=settings)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    encoded = transformers.AutoTokenizer.from_pretrained(folder)("a lazy fox", return_tensors="pt")
    expected = model.base_model(**encoded).last_hidden_state[0]
    artifact = settings.artifacts.rglob("model.safetensors")
    assert_alike(Predictor(next(artifact).parents[1]).answer("a lazy fox"), expected)
    assert logged.contract.model_class == "BertModel"


def test_states_whose_weights_are_missing_are_refused(tmp_path: Path, settings: RegistrySettings) -> None:
    folder = build(tmp_path / "base", "mpnet", "AutoModel")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(RandomHead, match=r"encoder\.layer\.2"):
        log_model(folder, task="feature-extraction", name="m", settings=settings)


@pytest.mark.parametrize("task", ["fill-mask", "next-sentence-prediction"])
def test_a_pretraining_checkpoint_has_two_heads_of_its_own(
    tmp_path: Path, settings: RegistrySettings, task: str
) -> None:
    """As bert-base-uncased and bigbird-roberta-base are published."""
    folder = build(tmp_path / "both", "bert", "AutoModelForPreTraining")
    logged = log_model(folder, task=task, name="m", settings=settings)
    assert logged.contract.model_class == model_class(task, "bert")
    discriminator = build(tmp_path / "electra", "electra", "AutoModelForPreTraining")
    with pytest.raises(RandomHead, match="generator"):
        log_model(discriminator, task="fill-mask", name="m", settings=settings)
    with pytest.raises(WrongHead, match="saved as BertForPreTraining"):
        log_model(folder, task="text-classification", name="m", settings=settings)


def test_a_class_that_transformers_renamed_is_known_by_its_former_name(
    tmp_path: Path, settings: RegistrySettings
) -> None:
    folder = named(build(tmp_path / "t5", "t5", "AutoModelForSeq2SeqLM"), "T5WithLMHeadModel")
    assert log_model(folder, task="translation", name="m", settings=settings).contract.labels == ()


def test_the_second_class_of_an_architecture_is_its_own(tmp_path: Path, settings: RegistrySettings) -> None:
    """A DeiT that was distilled has two heads, whose answers are averaged."""
    folder = tmp_path / "deit"
    config = transformers.DeiTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        id2label={0: "cat", 1: "dog"},
        initializer_range=0.2,
    )
    transformers.DeiTForImageClassificationWithTeacher(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.DeiTImageProcessorPil(size={"height": 36, "width": 36}, crop_size=size).save_pretrained(folder)
    contract = log_model(folder, task="image-classification", name="m", settings=settings).contract
    assert (contract.model_class, contract.labels) == ("DeiTForImageClassificationWithTeacher", ("cat", "dog"))


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module."])
@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
def test_weights_with_the_names_of_a_wrapper_are_told_so(
    models: dict[str, Path], tmp_path: Path, wrapper: str, task: str
) -> None:
    """As torch.compile and DataParallel name them."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(models["base" if task == "feature-extraction" else "single"], tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {wrapper + name: value for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(RandomHead, match=rf"under other names, such as {wrapper}.*{wrapper[:-1]}"):
        load_model(folder, task, dtype="auto")


@pytest.mark.parametrize("kind", ["single", "base"])
def test_weights_that_the_configuration_leaves_out_are_told(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(models[kind], tmp_path / "m")
    edit(folder / "config.json", {"num_hidden_layers": 1})
    task = "feature-extraction" if kind == "base" else "text-classification"
    with pytest.warns(CheckpointWarning, match=r"gives 16 of .* such as \S*layer\.1\..*check num_hidden_layers"):
        assert load_model(folder, task, dtype="auto").config.num_hidden_layers == 1


def test_outputs_that_a_configuration_asks_for_beside_the_answer_change_nothing(
    models: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(models["single"], tmp_path / "m")
    edit(folder / "config.json", {"output_attentions": True, "output_hidden_states": True})
    stage(tmp_path / "artifact", folder, None, "text-classification")
    config = json.loads((tmp_path / "artifact" / "model" / "config.json").read_text())
    assert not {name for name in ("output_attentions", "output_hidden_states") if config.get(name)}


def test_a_checkpoint_that_names_no_head_is_told_the_key(models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["single"], tmp_path / "m")
    edit(folder / "config.json", {"architectures": None})
    with pytest.raises(WrongHead, match=r'config\.json names no architectures.*\["BertForSequenceClassification"\]'):
        load_model(folder, "text-classification", dtype="auto")
