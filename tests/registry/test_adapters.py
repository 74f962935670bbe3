"""An adapter is merged into its base, answers as PEFT does with it beside the base, or is refused with a remedy."""

import inspect
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from registry.adapter_files import CONFIG, MERGEABLE, WEIGHTS, read_adapter, weights_digest
from registry.adapters import compare_outputs, merge
from registry.contract import Contract
from registry.errors import (
    IncompleteArtifact,
    MismatchedHead,
    RandomHead,
    RegistryError,
    UnreadableArtifact,
    UnsafeArtifact,
    WrongBase,
    WrongHead,
)
from registry.heads import get_head
from registry.staging import stage
from tests.adapters import beside, make_adapter
from tests.alike import assert_alike
from tests.families import build, texts_of
from tests.sentence_folders import save
from tests.small_models import SINGLE_LABELS

pytestmark = pytest.mark.slow


TASK = "text-classification"
SEQ = "AutoModelForSequenceClassification"
TARGETS = ["query", "value"]
LORA: dict[str, Any] = {"task_type": "SEQ_CLS", "r": 4, "target_modules": TARGETS}
TEXTS = texts_of(6, 1)


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(**LORA | settings)


def merged(adapter: Path, base: Path, task: str = TASK, **options: Any) -> Any:
    """The merged model."""
    return merge(read_adapter(adapter), base, get_head(task), **options)[0]


def answers(model: Any, base: Path) -> torch.Tensor:
    """The logits of a text after the other."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    with torch.inference_mode():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])


def changed(adapter: Path, target: Path, **settings: Any) -> Path:
    """A copy of the adapter with other settings."""
    shutil.copytree(adapter, target)
    config = json.loads((target / CONFIG).read_text())
    (target / CONFIG).write_text(json.dumps(config | settings))
    return target


def without_head(adapter: Path, target: Path) -> Path:
    """A copy of the adapter without the head, as it is saved without a task_type."""
    changed(adapter, target, task_type=None, modules_to_save=None)
    weights = load_file(target / WEIGHTS)
    save_file({name: weight for name, weight in weights.items() if "classifier" not in name}, target / WEIGHTS)
    return target


@pytest.fixture(scope="module")
def adapter(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA of the model "single". Only to be read."""
    return make_adapter(tmp_path_factory.mktemp("adapter") / "lora", models["single"], SEQ, lora())


# what is merged

KINDS: Mapping[str, Callable[[], Any]] = {
    "lora": lora,
    "dora": lambda: lora(use_dora=True),
    "rslora": lambda: lora(use_rslora=True, lora_alpha=32),
    "ranks": lambda: lora(rank_pattern={"value": 2}, alpha_pattern={"value": 16}, layers_to_transform=[1]),
    "biases": lambda: lora(bias="all", target_modules="all-linear"),
    "embeddings": lambda: lora(target_modules=["word_embeddings", "query"]),
    "new tokens": lambda: lora(trainable_token_indices=[7, 8]),
    "modules": lambda: lora(modules_to_save=["pooler"]),
    "pissa": lambda: lora(init_lora_weights="pissa"),
    "olora": lambda: lora(init_lora_weights="olora"),
    "orthogonal": lambda: lora(init_lora_weights="orthogonal"),
    "gaussian": lambda: lora(init_lora_weights="gaussian"),
    "adalora": lambda: peft.AdaLoraConfig(task_type="SEQ_CLS", target_modules=TARGETS, total_step=10),
    "ia3": lambda: peft.IA3Config(
        task_type="SEQ_CLS", target_modules=["query", "output.dense"], feedforward_modules=["output.dense"]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_adapter_answers_as_peft_does_with_it_beside_its_base(
    models: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    base = models["single"]
    folder = make_adapter(tmp_path / "adapter", base, SEQ, KINDS[kind]())
    expected = answers(beside(base, folder, SEQ), base)
    plain = answers(transformers.AutoModelForSequenceClassification.from_pretrained(base).eval(), base)
    assert (expected - plain).abs().max() > 0.05, "the adapter changes the answers"
    merged(folder, base).save_pretrained(tmp_path / "merged")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert_alike(answers(again, base), expected)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", sorted(MERGEABLE))
def test_every_type_that_is_said_to_be_mergeable_is(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    base, make = models["single"], peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    settings: dict[str, Any] = {"task_type": "SEQ_CLS", "target_modules": TARGETS}
    settings |= {"r": 4} if "r" in inspect.signature(make).parameters and kind != "ADALORA" else {}
    settings |= {
        "ADALORA": {"total_step": 10},
        "IA3": {"feedforward_modules": []},
        "LN_TUNING": {"target_modules": ["LayerNorm"]},
        "TRAINABLE_TOKENS": {"target_modules": ["word_embeddings"], "token_indices": [7, 8]},
        "FOURIERFT": {"n_frequency": 20, "scaling": 5000.0},
        "C3A": {"block_size": 8},
        "WAVEFT": {"n_frequency": 20},
        "GRALORA": {"r": 4, "gralora_k": 2},
        "ROAD": {"group_size": 8},
        "BOFT": {"boft_block_size": 4},
        "OFT": {"oft_block_size": 4, "r": 0},
    }.get(kind, {})
    folder = make_adapter(tmp_path / "adapter", base, SEQ, make(**settings))
    assert_alike(answers(merged(folder, base), base), answers(beside(base, folder, SEQ), base))


def test_a_head_that_only_the_adapter_has_is_taken_with_the_labels_beside_it(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """As after `AutoModelForSequenceClassification.from_pretrained(encoder, id2label=…)` and a training."""
    labels = {"id2label": dict(enumerate("abc")), "label2id": {each: at for at, each in enumerate("abc")}}
    for kind in ("base", "masked"):
        base, folder = models[kind], tmp_path / kind
        make_adapter(folder, base, SEQ, lora(modules_to_save=["pooler"]), **labels)
        with pytest.raises(
            MismatchedHead, match=r"classifier.* has shape \(3.*config\.json asks for \(2.*save_pretrained"
        ):
            merged(folder, base)
        transformers.AutoConfig.from_pretrained(base, **labels).save_pretrained(folder)
        contract = stage(tmp_path / f"{kind}-artifact", folder, None, TASK, base=base)
        assert contract.labels == ("a", "b", "c")
        again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / f"{kind}-artifact/model")
        assert_alike(answers(again.eval(), base), answers(beside(base, folder, SEQ, **labels), base))


def test_a_base_in_bfloat16_is_merged_in_float32_and_kept_in_bfloat16(
    models: dict[str, Path], tmp_path: Path, adapter: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(models["single"], base)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(base)
    found = merged(adapter, base)
    assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}
    exact = beside(base, adapter, SEQ).merge_and_unload().state_dict()
    for name, parameter in found.state_dict().items():
        assert torch.equal(parameter, exact[name].to(parameter.dtype)), name


def test_an_adapter_that_transformers_saved_is_merged_too(models: dict[str, Path], tmp_path: Path) -> None:
    """As `model.add_adapter` and `model.save_pretrained` do, without a task."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(models["base"], num_labels=5)
    torch.manual_seed(1)
    model.add_adapter(LoraConfig(r=4, target_modules=TARGETS, modules_to_save=["classifier"], init_lora_weights=False))
    with torch.no_grad():
        model.classifier.modules_to_save["default"].weight += 1.0
    model.eval().save_pretrained(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter")
    found = merged(tmp_path / "adapter", models["base"])
    assert_alike(answers(found, models["base"]), answers(model, models["base"]))


@pytest.mark.parametrize("has_modules", [False, True])
def test_an_adapter_of_sentence_transformers_keeps_the_modules(
    models: dict[str, Path], tmp_path: Path, has_modules: bool
) -> None:
    """They are in the base's folder, and in the adapter's where sentence-transformers saved that."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    base = save(models["base"], tmp_path / "base", Pooling(32, "max"))
    model = SentenceTransformer(str(base), device="cpu")
    torch.manual_seed(1)
    model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules=TARGETS, init_lora_weights=False))
    model.save_pretrained(str(tmp_path / "adapter"), create_model_card=False)
    if has_modules:
        base = models["base"]
    else:
        (tmp_path / "adapter" / "modules.json").unlink()
    artifact = tmp_path / "artifact"
    contract = stage(artifact, tmp_path / "adapter", None, "feature-extraction", base=base, inputs=TEXTS)
    assert contract.defaults["pooling"] == "max"
    assert contract.example
    for text, vector in zip(TEXTS, contract.example.output, strict=True):
        assert_alike(vector, model.encode([text], show_progress_bar=False)[0].tolist())


# what the contract says


def test_the_contract_tells_of_the_adapter_and_of_its_base(
    models: dict[str, Path], tmp_path: Path, adapter: Path
) -> None:
    contract = stage(tmp_path, adapter, None, TASK, base=models["single"])
    assert contract.labels == SINGLE_LABELS
    assert contract.adapter
    assert contract.adapter.config == json.loads((adapter / CONFIG).read_text())
    assert contract.adapter.peft == peft.__version__
    assert sorted(contract.adapter.files) == [CONFIG, WEIGHTS]
    assert sorted(contract.adapter.base) == ["config.json", "model.safetensors"]
    again = Contract.parse(json.loads(json.dumps(contract.to_record())))
    assert (again, again.digest) == (contract, contract.digest)


def test_a_contract_without_an_adapter_has_the_digest_that_it_always_had(
    models: dict[str, Path], tmp_path: Path
) -> None:
    assert "adapter" not in stage(tmp_path, models["single"], None, TASK).to_record()


def test_the_digest_of_several_files_is_that_of_what_sha256sum_prints() -> None:
    files = {"config.json": "0" * 64, "model-2.safetensors": "b" * 64, "model-1.safetensors": "a" * 64}
    printed = f"{'a' * 64}  model-1.safetensors\n{'b' * 64}  model-2.safetensors\n"
    assert weights_digest(files) == sha256(printed.encode()).hexdigest()


# what is refused


def test_another_base_is_refused_by_its_digest(models: dict[str, Path], adapter: Path) -> None:
    digest = weights_digest(merge(read_adapter(adapter), models["single"], get_head(TASK))[2].base)
    assert merged(adapter, models["single"], digest=digest.upper())
    with pytest.raises(WrongBase, match=rf"the base's sha256 is {digest}, .* {'0' * 64}: pass the base .* names '"):
        merged(adapter, models["single"], digest="0" * 64)


def test_another_revision_of_the_hub_is_refused(models: dict[str, Path], tmp_path: Path, adapter: Path) -> None:
    base = tmp_path / "snapshots" / ("1" * 40)
    shutil.copytree(models["single"], base)
    assert merged(changed(adapter, tmp_path / "same", revision="1" * 40), base)
    assert merged(changed(adapter, tmp_path / "branch", revision="main"), base)
    with pytest.raises(WrongBase, match=f"revision is {'1' * 40}, revision in adapter_config.json is {'2' * 40}"):
        merged(changed(adapter, tmp_path / "other", revision="2" * 40), base)


def test_a_base_of_another_family_is_refused(tmp_path: Path, adapter: Path) -> None:
    with pytest.raises(WrongBase, match=r"putting the adapter .* on this base failed \(.*classifier.*names '"):
        merged(adapter, build(tmp_path / "roberta", "roberta", SEQ))


def wider(config: dict[str, Any]) -> None:
    config.update(hidden_size=48, num_attention_heads=4)


def deeper(config: dict[str, Any]) -> None:
    config.update(num_hidden_layers=3)


def shallower(config: dict[str, Any]) -> None:
    config.update(num_hidden_layers=1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (wider, r"size mismatch for .*lora_A.* pass the base that it was trained on; adapter_config\.json names '"),
        (deeper, r"modules for which the adapter has no weights, 4 such as bert\.encoder\.layer\.2\.attention"),
        (shallower, r"weights for which this base has no place, 4 such as bert\.encoder\.layer\.1\.attention"),
    ],
)
def test_a_base_of_another_size_is_refused(
    models: dict[str, Path], tmp_path: Path, adapter: Path, change: Callable[[dict[str, Any]], None], error: str
) -> None:
    config = transformers.AutoConfig.from_pretrained(models["single"]).to_dict()
    change(config)
    model = transformers.AutoModelForSequenceClassification.from_config(transformers.BertConfig(**config))
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(models["single"]).save_pretrained(tmp_path)
    with pytest.raises(WrongBase, match=error):
        merged(without_head(adapter, tmp_path / "headless"), tmp_path)
    if change is wider:
        with pytest.raises(
            WrongBase, match=r"classifier\.weight has shape \(4, 32\) in the adapter and \(4, 48\) in the"
        ):
            merged(adapter, tmp_path)


def test_another_vocabulary_is_refused(models: dict[str, Path], tmp_path: Path, adapter: Path) -> None:
    def resize(model: Any) -> None:
        model.resize_token_embeddings(5010)

    config = lora(modules_to_save=["word_embeddings"])
    grown = make_adapter(tmp_path / "grown", models["single"], SEQ, config, change=resize)
    with pytest.raises(
        WrongBase, match=r"a vocabulary of 5,010 tokens, the base has 5,000 .*resize_token_embeddings\(5010\)"
    ):
        merged(grown, models["single"])
    other = changed(adapter, tmp_path / "other")
    tokenizer = transformers.AutoTokenizer.from_pretrained(models["single"])
    tokenizer.save_pretrained(other)
    assert merged(other, models["single"]), "the same tokenizer"
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["the"], vocabulary["of"] = vocabulary["of"], vocabulary["the"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        WrongBase, match=r"give 2 tokens different ids, such as 'the': \d+ in the adapter's, \d+ in the base's"
    ):
        merged(other, models["single"])


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"peft_type": "PREFIX_TUNING"}, UnreadableArtifact, "peft_type 'PREFIX_TUNING' cannot be merged"),
        ({"peft_type": "PROMPT_TUNING"}, UnreadableArtifact, "'PROMPT_TUNING' cannot be merged.*such as LORA"),
        ({"peft_type": "XLORA"}, UnreadableArtifact, "'XLORA' cannot be merged"),
        ({"peft_type": None}, UnreadableArtifact, "adapter_config.json: the value of peft_type"),
        ({"task_type": "TOKEN_CLS"}, WrongHead, "task_type 'TOKEN_CLS': log it as token-classification"),
        (
            {"task_type": "NONE"},
            UnreadableArtifact,
            "reading adapter_config.json failed .*'NONE'.* save the adapter again",
        ),
        ({"auto_mapping": {"base_model_class": "BertModel"}}, WrongHead, "was trained on BertModel"),
        (
            {"target_modules": ["q_proj"]},
            WrongBase,
            r"putting the adapter \(target_modules \['q_proj'\]\) on this base .*",
        ),
        ({"alora_invocation_tokens": [5, 6]}, UnreadableArtifact, "the adapter.* failed"),
        ({"init_lora_weights": "corda"}, UnreadableArtifact, "'corda' .*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "pissa_niter_4"}, UnreadableArtifact, "'pissa_niter_4' "),
        ({"init_lora_weights": "loftq"}, UnreadableArtifact, "'loftq' "),
        ({"init_lora_weights": "lora_ga"}, UnreadableArtifact, "'lora_ga' "),
        ({"layer_replication": [[0, 1], [0, 1]]}, UnreadableArtifact, "layer_replication"),
        (
            {"megatron_config": {"a": 1}, "megatron_core": "this"},
            UnsafeArtifact,
            "imports the module that megatron_core",
        ),
        ({"use_magic": 3}, UnreadableArtifact, r"does not know use_magic: install the one that saved the adapter \(\d"),
        ({"r": "many"}, RegistryError, "adapter"),
    ],
)
def test_settings_by_which_it_cannot_be_merged_are_refused(
    models: dict[str, Path], tmp_path: Path, adapter: Path, settings: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        merged(changed(adapter, tmp_path / "changed", **settings), models["single"])
    assert "this" not in sys.modules


def test_settings_of_a_later_release_that_ask_for_nothing_are_no_fault(
    models: dict[str, Path], tmp_path: Path, adapter: Path
) -> None:
    assert merged(changed(adapter, tmp_path / "changed", use_magic=False, magic_config=None), models["single"])


def test_a_head_that_nobody_has_is_refused(models: dict[str, Path], tmp_path: Path, adapter: Path) -> None:
    with pytest.raises(RandomHead, match=r"neither the base nor the adapter has .*pooler.*modules_to_save"):
        merged(make_adapter(tmp_path / "no-pooler", models["masked"], SEQ, lora()), models["masked"])
    headless = without_head(adapter, tmp_path / "headless")
    assert merged(headless, models["single"]), "the base has a head of its own"
    with pytest.raises(RandomHead, match=r"classifier\.bias, classifier\.weight; they would be random"):
        merged(headless, models["base"])
    with pytest.raises(WrongHead, match="saved as BertForTokenClassification"):
        merged(headless, models["tokens"])


def test_damaged_and_pickled_weights_are_refused(models: dict[str, Path], tmp_path: Path, adapter: Path) -> None:
    folder = changed(adapter, tmp_path / "damaged")
    path = folder / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableArtifact, match=r"adapter_model\.safetensors is not a whole safetensors file"):
        merged(folder, models["single"])
    weights = load_file(adapter / WEIGHTS)
    save_file({name: weight * float("nan") for name, weight in weights.items()}, path)
    with pytest.raises(UnreadableArtifact, match="merging the adapter failed .*NaN"):
        merged(folder, models["single"])
    path.rename(folder / "adapter_model.bin")
    with pytest.raises(UnsafeArtifact, match=r"pickled \(adapter_model\.bin\).*save_pretrained"):
        merged(folder, models["single"])
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(IncompleteArtifact, match=r"has no adapter_model\.safetensors"):
        merged(folder, models["single"])


def test_what_is_no_adapter_and_what_is_no_base_is_refused(
    models: dict[str, Path], tmp_path: Path, adapter: Path
) -> None:
    with pytest.raises(IncompleteArtifact, match=r"holds no adapter_config\.json: .* log a whole model without it"):
        stage(tmp_path / "a", models["single"], None, TASK, base=models["single"])
    (tmp_path / "outer").mkdir()
    shutil.copytree(adapter, tmp_path / "outer" / "best")
    with pytest.raises(IncompleteArtifact, match="its folder best does: pass that"):
        stage(tmp_path / "b", tmp_path / "outer", None, TASK, base=models["single"])
    with pytest.raises(IncompleteArtifact, match="holds an adapter .* and no whole model"):
        stage(tmp_path / "c", adapter, None, TASK, base=adapter)
    with pytest.raises(IncompleteArtifact, match="--base BASE"):
        stage(tmp_path / "d", adapter, None, TASK)
    with pytest.raises(IncompleteArtifact, match=r"bert-base has no config\.json: pass a folder"):
        stage(tmp_path / "e", adapter, None, TASK, base="bert-base")
    with pytest.raises(IncompleteArtifact, match="give the folder of the base, too"):
        stage(tmp_path / "f", adapter, None, TASK, base_digest="0" * 64)
    with pytest.raises(IncompleteArtifact, match="beside a model in memory"):
        stage(tmp_path / "g", beside(models["single"], adapter, SEQ), None, TASK, base=models["single"])


def test_an_adapter_whose_base_shares_its_weights_is_refused_where_the_answers_would_differ(tmp_path: Path) -> None:
    base = build(tmp_path / "base", "gpt2", "AutoModelForCausalLM")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["wte"])
    folder = make_adapter(tmp_path / "adapter", base, "AutoModelForCausalLM", config)
    with pytest.raises(
        UnreadableArtifact, match=r"merged into its base, the adapter \(LORA\) gives other logits .*tied"
    ):
        merged(folder, base, "text-generation")


def test_outputs_are_compared_beside_the_numbers_that_hide_tokens() -> None:
    hidden = torch.finfo(torch.float32).min
    logits = torch.tensor([[1.0, -2.0, hidden, -torch.inf]])
    compare_outputs({"logits": logits}, {"logits": logits + torch.tensor([1e-4, 0.0, 1e30, 0.0])}, "LORA")
    for change in ([0.1, 0.0, 0.0, 0.0], [0.0, 0.0, -hidden, 0.0], [torch.nan, 0.0, 0.0, 0.0]):
        with pytest.raises(UnreadableArtifact, match="gives other logits than beside it"):
            compare_outputs({"logits": logits}, {"logits": logits + torch.tensor(change)}, "LORA")


def test_a_head_that_the_adapter_unties_keeps_the_dtype_of_its_base(tmp_path: Path) -> None:
    base = build(tmp_path / "base", "gpt2", "AutoModelForCausalLM")
    transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"], modules_to_save=["lm_head"])
    found = merged(make_adapter(tmp_path / "adapter", base, "AutoModelForCausalLM", config), base, "text-generation")
    assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}
    assert not torch.equal(found.lm_head.weight, found.transformer.wte.weight)
    assert not found.config.tie_word_embeddings


@pytest.mark.parametrize(
    ("family", "task", "module"),
    [
        ("t5", "text2text-generation", "shared"),
        ("bart", "text2text-generation", "lm_head"),
        ("bart", "text2text-generation", "shared"),
        ("roberta", "fill-mask", "lm_head"),
        ("bert", "fill-mask", "predictions"),
    ],
)
def test_weights_that_an_adapter_unties_are_saved_for_each_place(
    tmp_path: Path, family: str, task: str, module: str
) -> None:
    auto_class = get_head(task).auto_class
    base = build(tmp_path / "base", family, auto_class)
    config = LoraConfig(target_modules="all-linear", exclude_modules=[module], modules_to_save=[module])
    found = merged(make_adapter(tmp_path / "adapter", base, auto_class, config), base, task)
    found.save_pretrained(tmp_path / "merged")
    again = getattr(transformers, auto_class).from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    ids = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    ids |= {"decoder_input_ids": ids["input_ids"]} if family in ("t5", "bart") else {}
    with torch.inference_mode():
        torch.testing.assert_close(again(**ids).logits, found(**ids).logits)


def test_the_comparison_leaves_the_configuration_as_it_was(tmp_path: Path) -> None:
    """BigBird notes there, for good, that a text was too short for its sparse attention."""
    base = build(tmp_path / "base", "big_bird", SEQ)
    folder = make_adapter(tmp_path / "adapter", base, SEQ, lora())
    assert merged(folder, base).config.attention_type == "block_sparse"


def test_without_peft_the_package_is_named(
    models: dict[str, Path], adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(IncompleteArtifact, match=r"install the extra adapters: pip install '\.\[adapters\]'"):
        merged(adapter, models["single"])
