"""What plain mlflow.transformers models say beyond their weights: aliases of tasks, settings, refused fields."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
import transformers
from mlflow.models import ModelSignature
from mlflow.transformers.llm_inference_utils import _SUPPORTED_LLM_INFERENCE_TASK_TYPES_BY_PIPELINE_TASK as LLM_TASKS
from mlflow.types import ParamSchema, ParamSpec, Schema

from registry import cache
from registry.cache import fetch_and_pin
from registry.errors import ContractError
from registry.heads import HEADS, get_head
from registry.references import Reference
from registry.settings import RegistrySettings
from registry.tracking import connect_mlflow
from registry.transformers_flavor import check_fields, derive, read_languages, read_task
from registry.versions import Versions
from serving.engine.predictor import Predictor
from tests.families import build

pytestmark = pytest.mark.slow


TASKS_OF_MLFLOW = {mlflows: task for task, names in LLM_TASKS.items() for mlflows in names}
TEXTS = ["a fox", "the lazy dog jumps over a quick brown fox again"]


@pytest.fixture(autouse=True)
def derived_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract is derived in this process: another one would import torch and transformers for seconds."""
    monkeypatch.setattr(cache, "add_contract", derive)


def log(folder: Path, task: str, settings: RegistrySettings, claimed: str | None = None, **options: Any) -> str:
    """As MLflow's documentation shows it; the address of what was logged."""
    components = {
        "model": getattr(transformers, get_head(task).auto_class).from_pretrained(folder),
        "tokenizer": transformers.AutoTokenizer.from_pretrained(folder),
    }
    connect_mlflow(settings)
    info = mlflow.transformers.log_model(
        components,
        name="m",
        task=claimed or task,
        registered_model_name="m",
        pip_requirements=["transformers"],
        **options,
    )
    return str(info.model_uri)


def served(settings: RegistrySettings) -> Predictor:
    _, held, contract = fetch_and_pin(Versions(settings).resolve(Reference("m", version="1")), settings)
    return Predictor(held.root, contract)


def test_the_aliases_are_transformers_own() -> None:
    for alias, task in transformers.pipelines.TASK_ALIASES.items():
        if task in HEADS:
            assert read_task({"task": alias}) == (task, {})
        else:
            with pytest.raises(ContractError, match=f"the task '{alias}'"):
                read_task({"task": alias})
    for mlflows, task in TASKS_OF_MLFLOW.items():
        assert read_task({"task": task, "inference_task": mlflows})[0] == task


class Marking:
    """A tokenizer that marks the languages of texts."""

    def set_src_lang_special_tokens(self, src_lang: str) -> None:
        """As transformers'."""


@pytest.mark.parametrize(
    ("task", "tokenizer", "expected"),
    [
        ("translation_en_to_fr", None, {"prefix": "translate English to French: "}),
        ("translation_en_to_de", None, {}),
        ("translation_en_to_de", Marking(), {"src_lang": "en", "tgt_lang": "de"}),
        ("translation", Marking(), {}),
    ],
)
def test_a_task_of_two_languages_is_translation_with_its_prefix_or_languages(
    tmp_path: Path, task: str, tokenizer: Any, expected: dict[str, str]
) -> None:
    prefix = {"translation_en_to_fr": {"prefix": "translate English to French: "}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "task_specific_params": prefix}))
    fields = {"task": task, "instance_type": "TranslationPipeline"}
    assert read_task(fields) == ("translation", {})
    assert read_languages(fields, tmp_path, tokenizer) == expected


FLAVOR = {"task": "text-classification", "model_binary": "model", "components": ["tokenizer"], "code": None}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_adaptor": "peft"}, "peft_adaptor='peft'.*merge_and_unload"),
        ({"local_base_model_path": "/base", "model_binary": None}, "local_base_model_path='/base'"),
        ({"prompt_template": "Say {prompt}"}, "prompt_template='Say {prompt}'.*send the whole prompt"),
        ({"processor_type": "CLIPProcessor"}, "processor_type='CLIPProcessor'.*tokenizer or image processor"),
        ({"components": ["tokenizer", "processor"]}, "the component 'processor'"),
        ({"components": ["adapter"]}, "the component 'adapter', an unknown"),
        ({"framework": "tf"}, "framework='tf'.*PyTorch"),
        ({"model_binary": None, "source_model_revision": "abc"}, "no model_binary.*persist_pretrained_model"),
        ({"something_new": 1}, "something_new=1, which this release does not know"),
    ],
)
def test_a_field_that_is_not_served_is_named_with_the_remedy(fields: dict[str, Any], words: str) -> None:
    check_fields(FLAVOR)
    with pytest.raises(ContractError, match=words):
        check_fields(FLAVOR | fields)


def test_a_pipeline_of_its_own_is_refused() -> None:
    assert read_task({"task": "ner", "instance_type": "TokenClassificationPipeline"})[0] == "token-classification"
    assert read_task({"task": "summarization", "instance_type": "SummarizationPipeline"})[0] == "summarization"
    with pytest.raises(ContractError, match="instance_type='MyPipeline', a pipeline of its own"):
        read_task({"task": "text-classification", "instance_type": "MyPipeline"})


@pytest.mark.filterwarnings("ignore")
def test_a_model_logged_under_an_alias_answers_as_its_pipeline(tmp_path: Path, settings: RegistrySettings) -> None:
    folder = build(tmp_path / "saved", "bert", "AutoModelForTokenClassification")
    log(
        folder,
        "token-classification",
        settings,
        "ner",
        model_config={"aggregation_strategy": "none", "ignore_labels": []},
    )
    expected = transformers.pipeline("ner", model=str(folder))(TEXTS[1], ignore_labels=[])
    found = served(settings).answer(TEXTS[1])
    assert [each["entity"] for each in found] == [each["entity"] for each in expected]
    assert [each["score"] for each in found] == pytest.approx([float(each["score"]) for each in expected], abs=1e-5)


SIGNATURE = ModelSignature(
    Schema.from_json('[{"type": "string", "required": true}]'),
    params=ParamSchema(
        [
            ParamSpec("top_k", "long", 1),
            ParamSpec("function_to_apply", "string", "none"),
        ]
    ),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model_config": {"function_to_apply": "sigmoid"}},
        {"model_config": {"function_to_apply": "SIGMOID", "top_k": 2, "batch_size": 4}},
        {"model_config": {"function_to_apply": "none", "top_k": None}},
        {"signature": SIGNATURE},
    ],
    ids=["none", "sigmoid", "two", "raw", "signature"],
)
def test_scores_are_those_of_mlflows_python_function(
    tmp_path: Path, settings: RegistrySettings, options: dict[str, Any]
) -> None:
    folder = build(tmp_path / "saved", "bert", "AutoModelForSequenceClassification")
    uri = log(folder, "text-classification", settings, **options)
    expected = mlflow.pyfunc.load_model(uri, suppress_warnings=True).predict(TEXTS)
    predictor = served(settings)
    for text, row in zip(TEXTS, expected.to_dict("records"), strict=True):
        answer = predictor.answer([text])[0]
        wanted = [row] if "label" in row else [cell for cell in row.values() if cell is not None]
        found = answer[: len(wanted)]
        assert [each["label"] for each in found] == [each["label"] for each in wanted]
        assert [each["score"] for each in found] == pytest.approx([each["score"] for each in wanted], abs=1e-5)
        if "top_k" in options.get("model_config", {}):
            assert len(answer) == (options["model_config"]["top_k"] or len(predictor.contract.labels))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("task", "auto_class", "config", "request_", "parameters"),
    [
        ("fill-mask", "AutoModelForMaskedLM", {"top_k": 3}, "a [MASK] fox", {}),
        (
            *("zero-shot-classification", "AutoModelForSequenceClassification", {"multi_label": True}),
            *("a fox", {"candidate_labels": ["dog", "fox"]}),
        ),
    ],
    ids=["fill-mask", "zero-shot"],
)
def test_settings_of_other_tasks_are_the_pipelines(
    tmp_path: Path,
    settings: RegistrySettings,
    task: str,
    auto_class: str,
    config: dict[str, Any],
    request_: str,
    parameters: dict[str, Any],
) -> None:
    folder = build(tmp_path / "saved", "bert", auto_class)
    log(folder, task, settings, model_config=config)
    expected: Any = transformers.pipeline(task, model=str(folder))(request_, **config, **parameters)
    if "labels" in expected:
        expected = [{"score": score} for score in expected["scores"]]
    found = served(settings).answer(request_, parameters)
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in expected], abs=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", [{"max_length": 8}, {"truncation": True}, {"top_k": 0}, {"include_prompt": False}])
def test_a_setting_that_cannot_be_applied_is_refused_by_name(
    tmp_path: Path, settings: RegistrySettings, entry: dict[str, Any]
) -> None:
    folder = build(tmp_path / "saved", "bert", "AutoModelForSequenceClassification")
    log(folder, "text-classification", settings, model_config=entry)
    with pytest.raises(ContractError, match=f"the model's model_config or signature sets .*{next(iter(entry))}"):
        served(settings)
