"""The MLflow flavor: a model in memory or in a folder becomes a registered version with a contract.

A version is registered only after its own files were loaded again, every check of `registry.checks` passed, and the
loaded model answered the example whose output the contract then records. The answering is done by the artifact's
`python_function` loader, found by name as MLflow itself does; nothing here imports it.
"""

import importlib
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from registry.checks import check_config, check_files, load_model, read_config
from registry.contract import FORMAT, Contract, Example
from registry.contract_upgrade import upgrade
from registry.digests import digest_folder
from registry.errors import ContractError, IncompleteArtifact
from registry.heads import Head, get_head
from registry.image_settings import describe_images, image_patches, reads_images
from registry.layout import FLAVOR, LOADER, MODEL_FOLDER
from registry.processors import describe_processor, load_processor, longest_row
from registry.sentence_folder import SentenceFolder, adapt_tokenizer, copy_files, read_sentence_folder
from registry.served_classes import check_class
from registry.settings import RegistrySettings, check_model_name
from registry.tracking import choose_experiment, connect, mlflow_pointed_at, registry_errors

REQUIREMENTS = ("mlflow", "torch", "transformers", "headwaiter")
LABELLED = tuple(f"AutoModelFor{kind}Classification" for kind in ("Sequence", "Token", "Image"))
"""The heads whose outputs have labels."""


@dataclass(frozen=True)
class LoggedVersion:
    """A version that `log_model` registered: `models:/{name}/{version}`; `uri` is MLflow's `models:/m-…`."""

    name: str
    version: str
    uri: str
    contract: Contract


def log_model(
    model: Any,
    tokenizer: Any = None,
    *,
    task: str,
    name: str,
    inputs: Any = None,
    parameters: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    max_tokens: int | None = None,
    sample: Sequence[Any] = (),
    settings: RegistrySettings | None = None,
    announce: Callable[[str], object] | None = None,
) -> LoggedVersion:
    """Log a fine-tuned model with its contract and register it as the next version of `name`. Blocks.

    model: a transformers model in memory, or a folder that `save_pretrained` wrote. tokenizer: of a model in memory,
    or its image processor; a folder holds its own. inputs, parameters: the example request that the contract records;
    default: the task's. defaults: the task's own settings, such as `{"pooling": "mean"}`. dtype: "auto", or the only
    one to serve in. max_tokens: a lower bound on rows than the model's own. sample: inputs like those to come, some
    hundreds, whose answers become the baseline that drift is measured against. announce: is told each step that takes
    a while, in a few words. Raises HeadError, ArtifactError, ContractError.
    """
    announce = announce or _keep_quiet
    check_model_name(name)
    head = get_head(task)
    settings = settings or RegistrySettings.from_environment()
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ContractError(f"dtype {dtype!r} is not one of auto, float32, bfloat16, float16")
    with tempfile.TemporaryDirectory(prefix="headwaiter-log-") as staging:
        root = Path(staging)
        folder = Path(model) if isinstance(model, str | Path) else None
        sentences = None
        if folder is not None:
            announce("loading and checking the checkpoint")
            sentences = None if head.needs_head else read_sentence_folder(folder)
            model, tokenizer = _load_folder(folder, head, tokenizer, sentences)
        _save(model, tokenizer, root / MODEL_FOLDER)
        if folder is not None and sentences is not None:
            copy_files(sentences, folder, root / MODEL_FOLDER)
        announce("loading it again from the artifact, and answering the example")
        contract = make_contract(
            root,
            model,
            tokenizer,
            task,
            origin=folder or root / MODEL_FOLDER,
            inputs=inputs,
            parameters=parameters,
            defaults=defaults,
            dtype=dtype,
            max_tokens=max_tokens,
            sample=sample,
        )
        announce(f"registering it as a version of {name}")
        return _register(root, contract, name, settings)


def make_contract(
    root: Path,
    model: Any,
    tokenizer: Any,
    task: str,
    *,
    origin: Path,
    inputs: Any = None,
    parameters: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    max_tokens: int | None = None,
    sample: Sequence[Any] = (),
    described: Any = None,
) -> Contract:
    """The contract of the model saved in `root/model`, with the example's answer; leaves a loadable artifact at `root`.

    origin: the folder whose files say more about the task's settings. described: MLflow's model record to add to, if
    there is one. The others as in `log_model`. Blocks; raises HeadError, ArtifactError, ContractError.
    """
    loader = importlib.import_module(LOADER)
    contract = describe(
        root,
        model,
        tokenizer,
        task,
        defaults=loader.task_defaults(task, origin, dict(defaults or {})),
        dtype=dtype,
        max_tokens=max_tokens,
    )
    sentences = None if get_head(task).needs_head else read_sentence_folder(root / MODEL_FOLDER)
    if sentences is not None:
        contract = msgspec.structs.replace(contract, layers=sentences.layers)
    difference = loader.compare(task, tokenizer, contract)
    if difference is not None:
        raise IncompleteArtifact(difference)
    write_artifact(root, contract, described)
    loaded = loader.load(root)
    contract = msgspec.structs.replace(contract, example=Example(**loaded.example(inputs, dict(parameters or {}))))
    return msgspec.structs.replace(contract, baseline=loaded.baseline(sample)) if sample else contract


def write_artifact(root: Path, contract: Contract, mlflow_model: Any = None) -> None:
    """Write `MLmodel` and `requirements.txt` beside `root/model`."""
    from mlflow.models import Model

    described = mlflow_model if mlflow_model is not None else Model()
    described.add_flavor(FLAVOR, contract=contract.to_record(), model=MODEL_FOLDER)
    described.add_flavor("python_function", loader_module=LOADER, env={"virtualenv": "python_env.yaml"})
    (root / "requirements.txt").write_text("\n".join(REQUIREMENTS) + "\n", encoding="utf-8")
    (root / "python_env.yaml").write_text("dependencies:\n- -r requirements.txt\n", encoding="utf-8")
    described.save(str(root / "MLmodel"))


def read_contract(root: Path) -> Contract:
    """The contract of the artifact at `root`; raises IncompleteArtifact or ContractError."""
    flavors = read_flavors(root)
    if FLAVOR not in flavors:
        raise ContractError(
            f"the artifact has no contract (its flavors: {', '.join(sorted(flavors)) or 'none'}): "
            "log the model with `headwaiter log` or registry.log_model"
        )
    record = flavors[FLAVOR].get("contract")
    return Contract.parse(upgrade(record, root / MODEL_FOLDER) if isinstance(record, dict) else record)


def read_flavors(root: Path) -> dict[str, Any]:
    """Name → configuration of each flavor in the artifact's `MLmodel`; raises IncompleteArtifact or ContractError."""
    import yaml

    path = root / "MLmodel"
    if not path.is_file():
        raise IncompleteArtifact(f"{root} has no MLmodel file: it is not an MLflow model")
    try:
        flavors = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("flavors") or {}
        return {str(name): dict(configuration) for name, configuration in flavors.items()}
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise ContractError(f"the artifact's MLmodel is damaged: {cause}; log the model again") from error


def save_model(path: str, mlflow_model: Any, *, root: Path, contract: Contract) -> None:
    """MLflow's hook of a flavor: write the staged artifact to `path`, which MLflow made. Called by `Model.log`."""
    import shutil

    shutil.copytree(root / MODEL_FOLDER, Path(path) / MODEL_FOLDER, dirs_exist_ok=True)
    write_artifact(Path(path), contract, mlflow_model)


def _keep_quiet(step: str) -> None:
    """Announce nothing."""


def _load_folder(folder: Path, head: Head, processor: Any, sentences: SentenceFolder | None) -> tuple[Any, Any]:
    if not folder.is_dir():
        raise IncompleteArtifact(f"{folder} is not a folder: pass one that save_pretrained wrote")
    checkpoint = folder / sentences.transformer if sentences is not None else folder
    model = load_model(checkpoint, head.task, dtype="auto")
    if processor is None:
        processor = load_processor(checkpoint, reads_images(model))
        if sentences is not None:
            adapt_tokenizer(processor, sentences)
    return model, processor


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    if tokenizer is None:
        raise IncompleteArtifact("a model in memory needs its tokenizer (or image processor): pass tokenizer=…")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def describe(
    root: Path,
    model: Any,
    tokenizer: Any,
    task: str,
    *,
    defaults: dict[str, Any],
    dtype: str,
    max_tokens: int | None,
) -> Contract:
    """The contract of the model saved in `root/model`, without an example; arguments as `make_contract`'s.

    defaults: all of the task's. Blocks; raises HeadError, ArtifactError, ContractError.
    """
    import torch
    import transformers

    folder = root / MODEL_FOLDER
    check_files(folder)
    saved = read_config(folder)
    model_class = check_config(saved, task)
    check_class(task, model_class, saved)
    config = model.config
    has_labels = get_head(task).auto_class in LABELLED
    labels = tuple(config.id2label[index] for index in range(config.num_labels)) if has_labels else ()
    if labels and all(label == f"LABEL_{index}" for index, label in enumerate(labels)):
        warnings.warn(
            f"the labels have no names ({', '.join(labels[:3])}…): set config.id2label before logging",
            stacklevel=3,
        )
    is_image = reads_images(model)
    longest = image_patches(model, tokenizer) if is_image else longest_row(model, tokenizer)
    if max_tokens is not None and not 1 <= max_tokens <= longest:
        raise ContractError(f"max_tokens={max_tokens} is out of range: this model takes 1 to {longest}")
    return Contract(
        format=FORMAT,
        task=task,
        auto_class=get_head(task).auto_class,
        model_class=model_class,
        model_type=config.model_type,
        problem_type=getattr(config, "problem_type", None),
        labels=labels,
        max_tokens=max_tokens or longest,
        dtype=dtype,
        is_encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        processor=describe_images(tokenizer) if is_image else describe_processor(model, tokenizer, folder),
        defaults=defaults,
        transformers=transformers.__version__,
        torch=torch.__version__.split("+")[0],
        files=digest_folder(root, MODEL_FOLDER),
    )


def _register(root: Path, contract: Contract, name: str, settings: RegistrySettings) -> LoggedVersion:
    client = connect(settings)
    with registry_errors(name):
        info = _log_and_tag(client, root, contract, name, settings)
    return LoggedVersion(name=name, version=str(info.registered_model_version), uri=info.model_uri, contract=contract)


def _log_and_tag(client: Any, root: Path, contract: Contract, name: str, settings: RegistrySettings) -> Any:
    """MLflow's description of the version that it registered, with the tags that searches look for."""
    import sys

    from mlflow.models import Model

    logged = name.replace(".", "_")  # MLflow (3.17) allows no dot in a logged model's name, only in a registered one's
    with mlflow_pointed_at(settings) as is_callers:
        own = None if is_callers else client.create_logged_model(choose_experiment(settings), logged)
        info = Model.log(
            artifact_path=None,
            name=logged,
            flavor=sys.modules[__name__],
            registered_model_name=name,
            model_id=own and own.model_id,
            root=root,
            contract=contract,
        )
    version = str(info.registered_model_version)
    for key, value in {
        "digest": contract.digest,
        "task": contract.task,
        "head": contract.model_class,
        "model_type": contract.model_type,
    }.items():
        client.set_model_version_tag(name, version, f"{FLAVOR}.{key}", value)
    return info
