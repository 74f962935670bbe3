"""The MLflow flavor: a model in memory or in a folder becomes a registered version with a contract.

A version is registered only after its own files were loaded again, every check of `registry.checks` passed, and the
loaded model answered the example whose output the contract then records. The answering is done by the artifact's
`python_function` loader, found by name as MLflow itself does; nothing here imports it.
"""

import importlib
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from registry.checks import check_config, check_files, load_model, order_labels, read_config, refuse_quantized
from registry.contract import FORMAT, Contract, Example
from registry.contract_upgrade import upgrade
from registry.digests import digest_folder
from registry.errors import CheckpointWarning, ContractError, IncompleteArtifact, UnreadableArtifact
from registry.fast_tokenizers import write_fast_form
from registry.heads import Head, get_head
from registry.image_settings import describe_images, image_patches, reads_images
from registry.imports import import_for_logging
from registry.layout import FLAVOR, LOADER, MODEL_FOLDER
from registry.plain_files import read_record
from registry.processors import describe_processor, load_processor, longest_row
from registry.refusals import refuse_failures
from registry.sentence_folder import SentenceFolder, adapt_tokenizer, copy_files, read_sentence_folder
from registry.served_classes import check_class
from registry.settings import RegistrySettings, check_model_name
from registry.signatures import SIGNATURE, Signer
from registry.tracking import choose_experiment, connect, mlflow_pointed_at, registry_errors

REQUIREMENTS = ("mlflow", "torch", "transformers", "headwaiter")
LABELLED = tuple(f"AutoModelFor{kind}Classification" for kind in ("Sequence", "Token", "Image"))
"""The heads whose outputs have labels."""
SAVE_AGAIN = (
    "check that model, configuration and tokenizer (or image processor) belong together, and save all of them again "
    "with save_pretrained"
)
RUN_FIRST = "run the model on these inputs with transformers alone, mend what fails there, and save it again"
"""What to do where a step of logging failed in a library."""


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
    sign: str | Path | None = None,
    announce: Callable[[str], object] | None = None,
) -> LoggedVersion:
    """Log a fine-tuned model with its contract and register it as the next version of `name`. Blocks.

    model: a transformers model in memory, or a folder that `save_pretrained` wrote. tokenizer: of a model in memory,
    or its image processor; a folder holds its own. inputs, parameters: the example request that the contract records;
    default: the task's. defaults: the task's own settings, such as `{"pooling": "mean"}`. dtype: "auto", or the only
    one to serve in. max_tokens: a lower bound on rows than the model's own. sample: inputs like those to come, some
    hundreds, whose answers become the baseline that drift is measured against. sign: a private key, as
    `registry.signatures.Signer` takes it. announce: is told each step that takes a while, in a few words. Raises
    HeadError, ArtifactError, ContractError, or InvalidSetting for what is no key.
    """
    announce = announce or _keep_quiet
    check_model_name(name)
    get_head(task)
    settings = settings or RegistrySettings.from_environment()
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ContractError(f"dtype {dtype!r} is not one of auto, float32, bfloat16, float16")
    signer = Signer(Path(sign)) if sign is not None else None
    announce("importing torch, transformers and MLflow")
    import_for_logging()
    with tempfile.TemporaryDirectory(prefix="headwaiter-log-") as staging:
        root = Path(staging)
        contract = stage(
            root,
            model,
            tokenizer,
            task,
            announce=announce,
            inputs=inputs,
            parameters=parameters,
            defaults=defaults,
            dtype=dtype,
            max_tokens=max_tokens,
            sample=sample,
        )
        if signer is not None:
            signer.sign(root, contract.digest)
        announce(f"registering it as a version of {name}")
        return _register(root, contract, name, settings)


def stage(
    root: Path,
    model: Any,
    tokenizer: Any,
    task: str,
    *,
    announce: Callable[[str], object] | None = None,
    **options: Any,
) -> Contract:
    """Write a checked, loadable artifact to the folder `root`: all of logging but registering it. Blocks.

    options: of `make_contract`; the others as in `log_model`. Raises HeadError, ArtifactError, ContractError.
    """
    announce = announce or _keep_quiet
    folder = Path(model) if isinstance(model, str | Path) else None
    head, sentences = get_head(task), None
    if folder is not None:
        announce("loading and checking the checkpoint")
        sentences = None if head.needs_head else read_sentence_folder(folder)
        model, tokenizer = _load_folder(folder, head, tokenizer, sentences)
    _save(model, tokenizer, root / MODEL_FOLDER)
    if folder is not None and sentences is not None:
        copy_files(sentences, folder, root / MODEL_FOLDER)
    announce("loading it again from the artifact, and answering the example")
    return make_contract(root, model, tokenizer, task, origin=folder or root / MODEL_FOLDER, **options)


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
    with refuse_failures("comparing the saved files with the model", SAVE_AGAIN, loader.REFUSALS):
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
    with refuse_failures("answering the example", RUN_FIRST, loader.REFUSALS):
        loaded = loader.load(root)
        limit, batching = loaded.prove()
        contract = msgspec.structs.replace(contract, batching=batching)
        if limit < contract.max_tokens:
            if max_tokens is not None:
                raise ContractError(f"max_tokens={max_tokens} is out of range: this model takes 1 to {limit}")
            contract = msgspec.structs.replace(contract, max_tokens=limit)
            loaded = loader.load(root, contract)
        example = Example(**loaded.example(inputs, dict(parameters or {})))
        if not is_finite(example.output):
            raise UnreadableArtifact(
                "the example's answer holds numbers that are not finite: check the weights for NaN, and layer_norm_eps "
                "in config.json and image_std in preprocessor_config.json for wrong values"
            )
        contract = msgspec.structs.replace(contract, example=example)
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

    try:
        record = read_record(root, "MLmodel")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IncompleteArtifact(f"{root} has no MLmodel file: it is not an MLflow model") from error
    try:
        flavors = (yaml.safe_load(record.decode("utf-8")) or {}).get("flavors") or {}
        return {str(name): dict(configuration) for name, configuration in flavors.items()}
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise ContractError(f"the artifact's MLmodel is damaged: {cause}; log the model again") from error


def save_model(path: str, mlflow_model: Any, *, root: Path, contract: Contract) -> None:
    """MLflow's hook of a flavor: move the staged artifact to `path`, which MLflow made. Called by `Model.log`."""
    import shutil

    shutil.move(root / MODEL_FOLDER, Path(path) / MODEL_FOLDER)  # as large as the model: not copied once more
    if (root / SIGNATURE).is_file():
        shutil.move(root / SIGNATURE, Path(path) / SIGNATURE)
    write_artifact(Path(path), contract, mlflow_model)


def is_finite(answer: Any) -> bool:
    """Whether plain data holds neither NaN nor infinity."""
    if isinstance(answer, dict):
        return all(map(is_finite, answer.values()))
    if isinstance(answer, list | tuple):
        return all(map(is_finite, answer))
    return not isinstance(answer, float) or math.isfinite(answer)


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
    for name, given in {"model": model, "tokenizer": tokenizer}.items():
        if not hasattr(given, "save_pretrained"):
            raise IncompleteArtifact(
                f"{name} is a {type(given).__name__} without save_pretrained: pass one of transformers, or the folder "
                "that it was saved to"
            )
    refuse_quantized(getattr(getattr(model, "config", None), "quantization_config", None))
    with refuse_failures("saving the model and its tokenizer (or image processor)", SAVE_AGAIN):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_fast_form(tokenizer, folder)


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
    saved = read_config(folder)
    check_files(folder)
    model_class = check_config(saved, task)
    check_class(task, model_class, saved)
    config = model.config
    has_labels = get_head(task).auto_class in LABELLED
    labels = order_labels(saved.get("id2label") or config.id2label) if has_labels else ()
    _warn_of_labels(labels)
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


def _warn_of_labels(labels: Sequence[str]) -> None:
    """Warn of labels that say too little: those of transformers, and several outputs with the same one."""
    if labels and all(label == f"LABEL_{index}" for index, label in enumerate(labels)):
        warnings.warn(
            f"the labels have no names ({', '.join(labels[:3])}…): set config.id2label before logging",
            CheckpointWarning,
            stacklevel=4,
        )
    if repeated := [label for label, count in Counter(labels).items() if count > 1]:
        warnings.warn(
            f"config.json: id2label gives several outputs the label {repeated[0]!r}, and answers do not tell them "
            "apart: set config.id2label to a label for each output",
            CheckpointWarning,
            stacklevel=4,
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
