"""Models that plain `mlflow.transformers.log_model` logged: their contract is derived from that flavor's fields.

It is derived in a process of its own, because that loads the model: `python -m registry.transformers_flavor FOLDER`
adds the contract to a downloaded artifact. What the flavor's fields do not settle is refused, not guessed; every check
of a logged model is made. That flavor records no digests, so the contract has those of the first download. Models of
`mlflow.sentence_transformers` come the same way; `sentence_flavor` derives their contract.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.artifact import read_flavors
from registry.checkpoint_files import CheckpointKeys, read_json
from registry.child_process import child_environ, module_command
from registry.errors import ContractError, RegistryError
from registry.layout import FLAVOR, MODEL_FOLDER
from registry.sentence_flavor import SENTENCE_FOLDER, SENTENCES, derive_sentences

SECONDS = 600.0
LLM_TASKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llm/v1/chat": ("text-generation", {}),
    "llm/v1/completions": ("text-generation", {}),
    "llm/v1/embeddings": ("feature-extraction", {"pooling": "cls"}),
}
"""MLflow's own tasks (3.17, `mlflow.transformers.llm_inference_utils`): ours, and the settings that it answers with."""
TRANSLATION = re.compile(r"translation_([^_]+)_to_([^_]+)")
"""The task of a pipeline of transformers 4 for one pair of languages, as in `translation_en_to_fr`."""
DESCRIPTIVE = frozenset(
    {
        *("task", "inference_task", "instance_type", "framework", "transformers_version", "torch_dtype", "code"),
        *("pipeline_model_type", "source_model_name", "source_model_revision", "model_binary", "components"),
    }
)
"""Fields that are read here, or say nothing that an answer depends on. `code` holds modules for other classes than
transformers' own, and those are refused."""
OF_COMPONENT = ("_type", "_name", "_revision")
COMPONENTS = frozenset({"tokenizer", "image_processor", "feature_extractor"})
COMPONENT_FOLDER = "components"
FORMER_SETTINGS = f"{COMPONENT_FOLDER}/inference_config.txt"
"""Where MLflow before 2.9 kept the model_config."""
NOT_SERVED = {
    "peft_adaptor": "an adapter without its base model: merge it (model.merge_and_unload()) and log the result",
    "local_base_model_path": "weights outside of the artifact: merge them into one model and log that",
    "prompt_template": "a template around each input: log the model without it, and send the whole prompt",
    "processor": "a processor of several kinds of input: log the model with its tokenizer or image processor alone",
}
"""Field → what it stands for, and the remedy."""
OF_MACHINE = frozenset({"device", "device_map", "batch_size", "num_workers", "low_cpu_mem_usage", "torch_dtype"})
"""Entries of a model_config that say how to compute, not what."""


def needs_contract(root: Path) -> bool:
    """Whether the artifact has MLflow's flavor of transformers or of sentence-transformers, and no contract."""
    flavors = read_flavors(root)
    return ("transformers" in flavors or SENTENCES in flavors) and FLAVOR not in flavors


def model_folders() -> list[str]:
    """The folders that are read, those of them that the artifact has."""
    return [MODEL_FOLDER, *(f"{COMPONENT_FOLDER}/{component}" for component in sorted(COMPONENTS)), SENTENCE_FOLDER]


def add_contract(root: Path) -> None:
    """Derive the contract in a process of its own and write it into the artifact. Blocks; raises ContractError."""
    done = subprocess.run(
        module_command("registry.transformers_flavor", str(root)),
        env=child_environ(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        cause = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise ContractError(
            f"no contract could be derived for this model, which a flavor of MLflow saved ({cause[0]}): log it with "
            "`headwaiter log`"
        )


def derive(root: Path) -> None:
    """Derive the contract in the process of `add_contract`. Raises HeadError, ArtifactError or ContractError."""
    from mlflow.models import Model

    from registry.artifact import write_artifact
    from registry.checks import load_model
    from registry.fast_tokenizers import write_fast_form
    from registry.image_settings import reads_images
    from registry.saved_processors import load_processor
    from registry.staging import make_contract

    flavors, described = read_flavors(root), Model.load(str(root))
    if SENTENCES in flavors:
        derive_sentences(root, flavors[SENTENCES], read_settings(root, flavors, described), described)
        return
    fields = flavors["transformers"]
    check_fields(fields | {"prompt_template": (described.metadata or {}).get("prompt_template")})
    task, own = read_task(fields)
    settings = read_settings(root, flavors, described)
    folder = root / MODEL_FOLDER
    for component in fields.get("components") or []:
        shutil.copytree(root / COMPONENT_FOLDER / component, folder, dirs_exist_ok=True)
    model = load_model(folder, task, dtype="auto")
    processor = load_processor(folder, reads_images(model))
    processor.save_pretrained(folder)  # a tokenizer's fast form may be missing
    write_fast_form(processor, folder)
    settings = own | read_languages(fields, folder, processor) | settings
    try:
        contract = make_contract(root, model, processor, task, origin=folder, defaults=settings, described=described)
    except ContractError as error:
        if not settings:
            raise
        raise ContractError(
            f"the model's model_config or signature sets {settings}, and that cannot be applied ({error}): "
            "log it without, and send parameters with requests"
        ) from error
    write_artifact(root, contract, described)


def check_fields(fields: Mapping[str, Any]) -> None:
    """Refuse what the flavor says and is not served; raises ContractError, which names the field and the remedy."""
    for name, value in fields.items():
        kind = next((name.removesuffix(end) for end in OF_COMPONENT if name.endswith(end)), name)
        reason = NOT_SERVED.get(name) or NOT_SERVED.get(kind)
        if value and reason:
            raise ContractError(f"the model's MLflow flavor has {name}={value!r}, {reason}")
        if name not in DESCRIPTIVE and kind not in COMPONENTS and value is not None and name not in NOT_SERVED:
            raise ContractError(
                f"the model's MLflow flavor has {name}={value!r}, which this release does not know: log it with "
                "`headwaiter log`"
            )
    unknown = sorted(set(fields.get("components") or []) - COMPONENTS)
    if unknown:
        reason = NOT_SERVED.get(unknown[0], "an unknown component: log the model with `headwaiter log`")
        raise ContractError(f"the model's MLflow flavor has the component {unknown[0]!r}, {reason}")
    if fields.get("framework") not in (None, "pt"):
        raise ContractError(
            f"the model's MLflow flavor has framework={fields['framework']!r}: log the model as a PyTorch one"
        )
    if fields.get("model_binary") != MODEL_FOLDER:
        raise ContractError(
            "the model's MLflow flavor has no model_binary, so it holds no weights (save_pretrained=False): add "
            "them with mlflow.transformers.persist_pretrained_model, or log it with them"
        )


def read_task(fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The task that the flavor means, by transformers' own aliases, with the settings that MLflow's tasks imply.

    Raises ContractError for a task that is not served, and for a pipeline that is not transformers' own for it.
    """
    from transformers.pipelines import SUPPORTED_TASKS, TASK_ALIASES

    from registry.heads import HEADS

    named = fields.get("inference_task") or fields.get("task")
    task, own = LLM_TASKS.get(str(named), (TASK_ALIASES.get(str(named), named), {}))
    if TRANSLATION.fullmatch(str(task)):
        task = "translation"
    if task not in HEADS:
        raise ContractError(
            f"the model's MLflow flavor names the task {named!r}, this release has: {', '.join(HEADS)}: log it again"
        )
    pipeline = fields.get("instance_type")
    usual = SUPPORTED_TASKS[task]["impl"] if task in SUPPORTED_TASKS else pipeline
    usual = str(getattr(usual, "__name__", usual)).rpartition(".")[2]  # transformers 5.23 has full names, not classes
    if pipeline is not None and pipeline != usual:
        raise ContractError(
            f"the model's MLflow flavor has instance_type={pipeline!r}, a pipeline of its own where "
            f"transformers has {usual}: what it does to inputs and answers is not served; log its model and tokenizer "
            "with `headwaiter log`"
        )
    return str(task), dict(own)


def read_languages(fields: Mapping[str, Any], folder: Path, tokenizer: Any) -> dict[str, Any]:
    """What transformers 4 took from a task such as `translation_en_to_fr`: the prefix of its texts, or two languages.

    The prefix is the checkpoint's for that task. The languages are of tokenizers that mark them; others have one pair.
    """
    named = str(fields.get("inference_task") or fields.get("task"))
    languages = TRANSLATION.fullmatch(named)
    if languages is None:
        return {}
    stated = (read_json(folder / "config.json", CheckpointKeys).task_specific_params or {}).get(named)
    if stated is not None and stated.prefix is not None:
        return {"prefix": stated.prefix}
    if hasattr(tokenizer, "set_src_lang_special_tokens"):
        return {"src_lang": languages[1], "tgt_lang": languages[2]}
    return {}


def read_settings(root: Path, flavors: Mapping[str, Any], described: Any) -> dict[str, Any]:
    """The settings with which MLflow's `python_function` would call the pipeline, by name.

    They are its model_config, or the file in which releases before 2.9 kept it, below the signature's defaults of
    parameters, which MLflow passes with each call. Raises ContractError for a file that is not read.
    """
    file = root / FORMER_SETTINGS
    try:
        config = json.loads(file.read_text()) if file.is_file() else flavors.get("python_function", {}).get("config")
        settings = dict(config or {})
    except (ValueError, TypeError) as error:
        raise ContractError(f"the model's model_config is no mapping ({error}): log it again") from error
    parameters = getattr(described.signature, "params", None)
    settings |= {each.name: each.default for each in parameters or () if each.default is not None}
    settings = {name: value for name, value in settings.items() if name not in OF_MACHINE}
    if isinstance(settings.get("function_to_apply"), str):
        settings["function_to_apply"] = settings["function_to_apply"].lower()  # as the pipeline reads it
    if isinstance(shows_all := settings.pop("return_all_scores", None), bool):  # of transformers 4
        settings.setdefault("top_k", None if shows_all else 1)
    return {name: value for name, value in settings.items() if name != "top_k" or value is not None}


if __name__ == "__main__":
    try:
        derive(Path(sys.argv[1]))
    except RegistryError as error:
        sys.exit(f"{type(error).__name__}: {error}")
