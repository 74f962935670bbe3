"""`headwaiter log ADAPTER --base BASE`: what is served answers as PEFT does with the adapter beside its base."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner
from peft import LoraConfig

from registry.adapter_files import weights_digest
from registry.cache import fetch
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.commands.main import main
from serving.engine.local_engine import LocalEngine
from serving.front.model_description import describe_model
from serving.wire.routing_table import ModelEntry, VersionEntry
from tests.adapters import beside, make_adapter
from tests.alike import assert_alike
from tests.families import build, texts_of

pytestmark = pytest.mark.server
TEXTS = texts_of(8, 1)


def log_and_load(settings: RegistrySettings, adapter: Path, base: Path, task: str) -> tuple[Any, LocalEngine]:
    """The contract, and the engine of the version that the command logs."""
    done = CliRunner().invoke(main, ["log", str(adapter), "--base", str(base), "--task", task, "--name", "m"])
    assert done.exit_code == 0, done.output
    assert done.stdout == "1\n"
    root, contract = fetch(Versions(settings).resolve(Reference("m", version="1")), settings)
    assert f"adapter  LORA of {base}, merged\nbase     sha256 {weights_digest(contract.adapter.base)}\n" in done.stderr
    return contract, LocalEngine(root, dtype="float32")


def test_a_classifier_whose_head_only_the_adapter_has(
    models: dict[str, Path], settings: RegistrySettings, tmp_path: Path
) -> None:
    base, auto_class = models["base"], "AutoModelForSequenceClassification"
    labels = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    adapter = make_adapter(tmp_path / "adapter", base, auto_class, config, **labels)
    transformers.AutoConfig.from_pretrained(base, **labels).save_pretrained(adapter)
    contract, engine = log_and_load(settings, adapter, base, "text-classification")
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(base), beside(base, adapter, auto_class, **labels)
    for text, answer in zip(TEXTS, engine.answer(TEXTS, {"top_k": 2}), strict=True):
        with torch.inference_mode():
            scores = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
        assert_alike({entry["label"]: entry["score"] for entry in answer}, {"bad": scores[0], "good": scores[1]})
    entry = ModelEntry(live="1", aliases={}, versions={"1": VersionEntry(state="ready", root="", contract=contract)})
    shown = json.loads(json.dumps(describe_model("m", entry)))["versions"]["1"]["contract"]["adapter"]
    assert shown["config"] == json.loads((adapter / "adapter_config.json").read_text())


def test_a_decoder_writes_what_peft_writes(settings: RegistrySettings, tmp_path: Path) -> None:
    base = build(tmp_path / "base", "llama", "AutoModelForCausalLM")
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    adapter = make_adapter(tmp_path / "adapter", base, "AutoModelForCausalLM", config)
    _, engine = log_and_load(settings, adapter, base, "text-generation")
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(base), beside(base, adapter, "AutoModelForCausalLM")
    for text, answer in zip(TEXTS, engine.answer(TEXTS, {"max_new_tokens": 6, "do_sample": False}), strict=True):
        encoded = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            written = model.generate(**encoded, max_new_tokens=6, do_sample=False)[0, encoded["input_ids"].shape[1] :]
        assert answer == [{"generated_text": tokenizer.decode(written, skip_special_tokens=True)}]


def test_another_base_than_the_one_that_was_asked_for_is_refused_in_a_line(
    models: dict[str, Path], settings: RegistrySettings, tmp_path: Path
) -> None:
    adapter = make_adapter(
        tmp_path, models["single"], "AutoModelForSequenceClassification", LoraConfig(target_modules=["query"])
    )
    options = [
        "--base",
        str(models["single"]),
        "--base-digest",
        "0" * 64,
        "--task",
        "text-classification",
        "--name",
        "m",
    ]
    done = CliRunner().invoke(main, ["log", str(adapter), *options])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: the base's sha256 is ")
    assert done.stderr.count("\n") == 1
