"""A wrong value in a checkpoint is refused by file and key, a step that fails by its name and the remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import transformers

from registry.checkpoint_files import FILES, CheckpointKeys, GenerationKeys, one_line
from registry.contract import Contract
from registry.errors import (
    CheckpointWarning,
    ContractError,
    IncompleteArtifact,
    RegistryError,
    UnreadableArtifact,
    UnsafeArtifact,
)
from registry.processors import describe_processor
from registry.refusals import refuse_failures
from registry.saved_processors import load_processor
from registry.staging import stage
from serving.errors import Unprocessable
from serving.pyfunc import load
from tests.families import build

TASK = "text-classification"


def changed(folder: Path, target: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the checkpoint whose JSON file `name` is changed."""
    shutil.copytree(folder, target)
    path = target / name
    content = json.loads(path.read_text()) if path.exists() else {}
    change(content)
    path.write_text(json.dumps(content))
    return target


def set_labels(id2label: object) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.update(id2label=id2label, label2id=None)


@pytest.mark.parametrize(
    ("id2label", "named"),
    [
        ({"1": "neg", "2": "pos", "3": "c", "4": "d"}, "1 = neg, 2 = pos"),
        ({"0": "neg", "2": "pos", "3": "c", "4": "d"}, "not 0 to 3"),
        ({"a": "neg", "b": "pos", "c": "c", "d": "d"}, "a = neg"),
        ({"0": None, "1": "pos"}, "id2label"),
        ({"0": ["x"], "1": "pos"}, "id2label"),
        (["neg", "pos"], "id2label"),
        ("neg", "id2label"),
    ],
)
def test_labels_without_a_known_order_are_refused(
    models: dict[str, Path], tmp_path: Path, id2label: object, named: str
) -> None:
    folder = changed(models["single"], tmp_path / "changed", "config.json", set_labels(id2label))
    with pytest.raises(UnreadableArtifact, match=named) as refused:
        stage(tmp_path / "artifact", folder, None, TASK)
    assert "config.json" in str(refused.value)


def test_labels_that_outputs_share_are_told(models: dict[str, Path], tmp_path: Path) -> None:
    labels = dict(enumerate(["bad", "good", "bad", "great"]))
    folder = changed(models["single"], tmp_path / "changed", "config.json", set_labels(labels))
    with pytest.warns(CheckpointWarning, match="id2label gives several outputs the label 'bad'"):
        contract = stage(tmp_path / "artifact", folder, None, TASK)
    answer = load(tmp_path / "artifact", contract).answer("Refund!", {"top_k": 4})
    assert sorted(entry["label"] for entry in answer[0]) == sorted(labels.values()), "as a pipeline answers"


@pytest.mark.parametrize("labels", [("a", "b", "c"), ("a", "b", "c", "d", "e")])
def test_a_head_with_another_number_of_outputs_than_labels_is_refused(
    models: dict[str, Path], tmp_path: Path, labels: tuple[str, ...]
) -> None:
    contract = stage(tmp_path, models["single"], None, TASK)
    wrong = msgspec.structs.replace(contract, labels=labels)
    with pytest.raises(ContractError, match=f"id2label names {len(labels)} labels, the model gives 4 scores: set"):
        load(tmp_path, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("values", [[0, 1, 2, 3], [0.5, 1.5, 2.5, 3.5], ["bad", "fair", "good", "great"]])
def test_labels_that_are_numbers_become_texts(models: dict[str, Path], tmp_path: Path, values: list[object]) -> None:
    labels = {str(index): value for index, value in reversed([*enumerate(values)])}
    folder = changed(models["single"], tmp_path / "changed", "config.json", set_labels(labels))
    contract = stage(tmp_path / "artifact", folder, None, TASK)
    assert contract.labels == tuple(map(str, values))
    assert Contract.parse(contract.to_record()).labels == contract.labels


WRONG = {"config.json": CheckpointKeys, **FILES}


@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name, kind in WRONG.items() for key in kind.__struct_fields__],
)
def test_every_value_that_is_read_is_checked(models: dict[str, Path], tmp_path: Path, name: str, key: str) -> None:
    folder = changed(models["single"], tmp_path / "changed", name, lambda content: content.update({key: [{}]}))
    with pytest.raises(UnreadableArtifact) as refused:
        stage(tmp_path / "artifact", folder, None, TASK)
    assert name in str(refused.value)
    assert key in str(refused.value)
    assert "save" in str(refused.value)


def test_every_key_of_a_generation_config_has_a_type() -> None:
    known = {key for key in vars(transformers.GenerationConfig()) if not key.startswith("_")}
    no_json = {"constraints", "transformers_version"}  # objects of Python, and what nothing reads
    assert known - set(GenerationKeys.__struct_fields__) == no_json


@pytest.mark.parametrize(
    ("family", "name", "entry", "kind"),
    [
        ("bert", "tokenizer_config.json", "AutoTokenizer", "tokenizer_class"),
        ("vit", "preprocessor_config.json", "AutoImageProcessor", "image_processor_type"),
    ],
)
def test_code_from_elsewhere_is_refused_by_file_and_key(
    tmp_path: Path, family: str, name: str, entry: str, kind: str
) -> None:
    build(tmp_path / "own", family, "AutoModel")
    asks = {"auto_map": {entry: "theirs--code.Theirs"}}
    folder = changed(tmp_path / "own", tmp_path / "a", name, lambda content: content.update(asks))
    load_processor(folder, of_images=family == "vit")  # by transformers' own class, which it names, too
    (folder / "config.json").write_text('{"model_type": "of-nobody"}')
    folder = changed(folder, tmp_path / "b", name, lambda content: content.pop(kind))
    with pytest.raises(UnsafeArtifact, match=f"{name} has auto_map, which asks for code from elsewhere"):
        load_processor(folder, of_images=family == "vit")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_refused_by_the_files_name(
    models: dict[str, Path], tmp_path: Path, name: str, content: bytes
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(models["single"], folder)
    (folder / name).write_bytes(content)
    with pytest.raises(UnreadableArtifact, match=name):
        stage(tmp_path / "artifact", folder, None, TASK)


def test_an_adapter_is_refused_with_the_call_that_merges_it(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    shutil.copy(models["single"] / "model.safetensors", folder / "adapter_model.safetensors")
    with pytest.raises(IncompleteArtifact, match=r"merge_and_unload\(\)"):
        stage(tmp_path / "artifact", folder, None, TASK)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors", None])
def test_quantized_weights_are_refused_by_the_methods_name(
    models: dict[str, Path], tmp_path: Path, method: str | None
) -> None:
    settings = {"quant_method": method, "load_in_4bit": True}
    folder = changed(
        models["single"],
        tmp_path / "changed",
        "config.json",
        lambda config: config.update(quantization_config=settings),
    )
    with pytest.raises(UnreadableArtifact, match=f"quantized by {method or 'an unnamed method'}.*full precision"):
        stage(tmp_path / "artifact", folder, None, TASK)


def test_a_quantized_model_in_memory_is_refused_before_it_is_saved(models: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

    model = AutoModelForSequenceClassification.from_pretrained(models["single"])
    model.config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(UnreadableArtifact, match="quantized by bitsandbytes"):
        stage(tmp_path / "artifact", model, AutoTokenizer.from_pretrained(models["single"]), TASK)


def test_something_that_is_no_model_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    import torch

    with pytest.raises(IncompleteArtifact, match="model is a Linear without save_pretrained"):
        stage(tmp_path / "artifact", torch.nn.Linear(1, 1), "tokenizer", TASK)


def test_a_forward_pass_that_fails_is_a_refusal(tmp_path: Path) -> None:
    """With return_dict false the heads return tuples, which nobody notices before."""
    folder = build(tmp_path / "model", "bert", "AutoModelForSequenceClassification")
    folder = changed(folder, tmp_path / "changed", "config.json", lambda config: config.update(return_dict=False))
    with pytest.raises(RegistryError) as refused:
        stage(tmp_path / "artifact", folder, None, TASK)
    assert "the model fails on rows of every length (AttributeError: " in str(refused.value)


@pytest.mark.parametrize("error", [KeyError(0), RuntimeError("a\nb"), ZeroDivisionError(), MemoryError()])
def test_whatever_a_step_raises_is_one_line_with_the_step_and_the_remedy(error: Exception) -> None:
    with pytest.raises(UnreadableArtifact) as refused, refuse_failures("reading config.json", "save it again"):
        raise error
    assert str(refused.value).startswith(f"reading config.json failed ({type(error).__name__}")
    assert str(refused.value).endswith(": save it again")
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is error


def test_refusals_and_interrupts_pass() -> None:
    for error in (IncompleteArtifact("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, refuse_failures("a step", "a remedy"):
            raise error
        assert raised.value is error
    assert one_line(ValueError("x" * 1000), 10) == "xxxxxxxxx…"


def shrink_embedding(folder: Path, rows: int, auto_class: str) -> Path:
    import transformers

    model = getattr(transformers, auto_class).from_pretrained(folder)
    model.resize_token_embeddings(rows)
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "task", "auto_class"),
    [
        ("bart", "summarization", "AutoModelForSeq2SeqLM"),
        ("bert", "feature-extraction", "AutoModel"),
        ("roberta", "text-classification", "AutoModelForSequenceClassification"),
        ("llama", "text-generation", "AutoModelForCausalLM"),
    ],
)
def test_an_added_token_without_an_embedding_is_refused_by_row(
    tmp_path: Path, family: str, task: str, auto_class: str
) -> None:
    from transformers import AutoTokenizer

    folder = build(tmp_path / "model", family, auto_class)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"mask_token": "<extra>"})
    tokenizer.save_pretrained(folder)
    with pytest.warns(UserWarning, match="no embedding for <extra>"):
        contract = stage(tmp_path / "artifact", folder, None, task)
    assert contract.processor.vocabulary == rows
    predictor = load(tmp_path / "artifact")
    assert len(predictor.answer(["the quick fox"])) == 1
    with pytest.raises(Unprocessable, match=rf"the token '<extra>' \(id {rows}\)"):
        predictor.answer(["the quick <extra>"])


def test_a_tokenizer_with_more_ordinary_tokens_than_rows_is_another_models(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", "bart", "AutoModelForSeq2SeqLM")
    from transformers import AutoTokenizer

    shrink_embedding(folder, len(AutoTokenizer.from_pretrained(folder)) - 40, "AutoModelForSeq2SeqLM")
    with pytest.raises(IncompleteArtifact, match="another model's tokenizer"):
        stage(tmp_path / "artifact", folder, None, "summarization")


def test_a_padding_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = build(tmp_path / "model", "gpt2", "AutoModelForCausalLM")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(IncompleteArtifact, match=r"puts \[PAD\].*tokenizer\.pad_token = tokenizer\.eos_token"):
        stage(tmp_path / "artifact", folder, None, "text-generation")


def test_a_fill_mask_model_without_its_mask_is_refused(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = build(tmp_path / "model", "bert", "AutoModelForMaskedLM")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"mask_token": "<extra>"})
    tokenizer.save_pretrained(folder)
    with pytest.warns(UserWarning, match="<extra>"), pytest.raises(RegistryError, match="no embedding.*mask token"):
        stage(tmp_path / "artifact", folder, None, "fill-mask")


def test_weights_that_are_not_finite_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "changed"
    shutil.copytree(models["single"], folder)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][1] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnreadableArtifact, match="not finite: check the weights"):
        stage(tmp_path / "artifact", folder, None, TASK)


def test_a_missing_file_of_several_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path / "sharded"
    shutil.copytree(models["single"], folder)
    (folder / "model.safetensors").unlink()
    AutoModelForSequenceClassification.from_pretrained(models["single"]).save_pretrained(folder, max_shard_size="500KB")
    assert stage(tmp_path / "artifact", folder, None, TASK).model_class == "BertForSequenceClassification"
    lost = next(path for path in sorted(folder.glob("model-*.safetensors")))
    lost.unlink()
    with pytest.raises(UnreadableArtifact, match=rf"index\.json: .* is in {lost.name}, which the folder does not hold"):
        stage(tmp_path / "other", folder, None, TASK)


def test_the_command_shows_a_refusal_in_one_line(models: dict[str, Path], tmp_path: Path) -> None:
    from click.testing import CliRunner

    from serving.commands.main import main

    folder = changed(models["single"], tmp_path / "changed", "config.json", set_labels({"1": "neg", "2": "pos"}))
    for arguments in (["log", str(folder), "--name", "m"], ["check", str(folder)]):
        done = CliRunner().invoke(main, [*arguments, "--task", TASK])
        assert (done.exit_code, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("Error: config.json: the keys of id2label (1 = neg, 2 = pos)")


def test_a_tokenizer_without_a_fast_form_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tokenizer = transformers.ByT5Tokenizer()
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(IncompleteArtifact, match="ByT5Tokenizer has no fast form.*choose a checkpoint"):
        describe_processor(None, tokenizer, tmp_path)
    with pytest.raises(IncompleteArtifact, match="as ByT5's, it has no fast form.*choose a checkpoint"):
        load_processor(tmp_path, of_images=False)
