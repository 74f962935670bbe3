"""The MLflow flavor: a model in memory or in a folder becomes a registered version with a contract.

A version is registered only after its artifact was staged, see `staging`.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from registry.artifact import write_artifact
from registry.contract import Contract, Dtype
from registry.errors import ContractError
from registry.heads import get_head
from registry.held_folder import held_folder
from registry.imports import import_for_logging
from registry.layout import FLAVOR, MODEL_FOLDER
from registry.settings import RegistrySettings, check_model_name
from registry.signatures import SIGNATURE, Signer
from registry.staging import stage
from registry.tracking import choose_experiment, connect, mlflow_pointed_at, registry_errors

DTYPES: tuple[str, ...] = get_args(Dtype)


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
    base: str | Path | None = None,
    base_digest: str | None = None,
    inputs: Any = None,
    parameters: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    allow: Sequence[str] = (),
    max_tokens: int | None = None,
    sample: Sequence[Any] = (),
    settings: RegistrySettings | None = None,
    sign: str | Path | None = None,
    announce: Callable[[str], object] | None = None,
) -> LoggedVersion:
    """Log a fine-tuned model with its contract and register it as the next version of `name`. Blocks.

    model: a transformers model in memory, or a folder that `save_pretrained` wrote. tokenizer: of a model in memory,
    or its image processor; a folder holds its own. base: the folder of the model that an adapter was trained on, where
    `model` is the folder of a PEFT adapter; the two are merged. base_digest: what the sha256 of that base's weights
    must be (`registry.adapter_files.weights_digest`). inputs, parameters: the example request that the contract
    records; default: the task's. defaults: the task's own settings, such as `{"pooling": "mean"}`. dtype: "auto", or
    the only one to serve in. allow: `["int8"]` lets an engine choose int8 where it is faster; it must pass a gate, see
    docs/versions.md. max_tokens: a lower bound on rows than the model's own. sample: inputs like those to come, some
    hundreds, whose answers become the baseline that drift is measured against, and on which int8 is compared. sign: a
    private key, as `registry.signatures.Signer` takes it. announce: is told each step that takes a while, in a few
    words. Raises HeadError, ArtifactError, ContractError, or InvalidSetting for what is no key.
    """
    announce = announce or (lambda _: None)
    check_model_name(name)
    get_head(task)
    settings = settings or RegistrySettings.from_environment()
    _check_dtypes(dtype, allow)
    signer = Signer(Path(sign)) if sign is not None else None
    announce("importing torch, transformers and MLflow")
    import_for_logging()
    with held_folder("headwaiter-staging-") as root:
        contract = stage(
            root,
            model,
            tokenizer,
            task,
            base=base,
            base_digest=base_digest,
            announce=announce,
            inputs=inputs,
            parameters=parameters,
            defaults=defaults,
            dtype=dtype,
            allow=allow,
            max_tokens=max_tokens,
            sample=sample,
        )
        if signer is not None:
            signer.sign(root, contract.digest)
        return _register(root, contract, name, settings, announce)


def _check_dtypes(dtype: str, allow: Sequence[str]) -> None:
    """Raise ContractError for dtypes that no contract may have."""
    if dtype not in DTYPES:
        raise ContractError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if set(allow) - {"int8"} or (allow and dtype != "auto"):
        raise ContractError(
            f"allow={list(allow)} with dtype {dtype!r}: int8 may be allowed beside auto, and nothing else"
        )


def save_model(path: str, mlflow_model: Any, *, root: Path, contract: Contract, **_of_log: Any) -> None:
    """MLflow's hook of a flavor: move the staged artifact to `path`, which MLflow made. Called by `Model.log`.

    _of_log: what `Model.log` itself reads of the arguments that it hands on.
    """
    shutil.move(root / MODEL_FOLDER, Path(path) / MODEL_FOLDER)  # as large as the model: not copied once more
    if (root / SIGNATURE).is_file():
        shutil.move(root / SIGNATURE, Path(path) / SIGNATURE)
    write_artifact(Path(path), contract, mlflow_model)


def _register(
    root: Path, contract: Contract, name: str, settings: RegistrySettings, announce: Callable[[str], object]
) -> LoggedVersion:
    announce(f"registering it as a version of {name}")
    client = connect(settings)
    with registry_errors(name):
        info = _log_and_tag(client, root, contract, name, settings)
    return LoggedVersion(name=name, version=str(info.registered_model_version), uri=info.model_uri, contract=contract)


def _log_and_tag(client: Any, root: Path, contract: Contract, name: str, settings: RegistrySettings) -> Any:
    """MLflow's description of the version that it registered, with the tags that searches look for."""
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
            validate_serving_input=False,  # in a process of its own, for seconds; the example was answered already
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
