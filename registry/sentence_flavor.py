"""Models that `mlflow.sentence_transformers.log_model` logged: their contract is derived as `transformers_flavor` says.

That flavor (MLflow 3.17) keeps the folder that sentence-transformers saved, so its own files say how a vector is made.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.errors import ContractError
from registry.sentence_folder import MODULES

SENTENCES = "sentence_transformers"
"""The flavor's name."""
SENTENCE_FOLDER = "model.sentence_transformer"
"""The folder, in the artifact."""
DESCRIPTIVE = frozenset(
    {"sentence_transformers_version", "source_model_name", "pipeline_model_type", "code", "extra_files"}
)
"""Fields that say nothing that an answer depends on. Modules of other code than sentence-transformers' are refused."""
DEFAULTS = {"normalize_embeddings": "normalize", "prompt_name": "prompt_name"}
"""Parameter of `SentenceTransformer.encode` (6.2) → the default of feature-extraction that is the same. `truncate_dim`
is none: it cuts vectors after the folder's own normalising."""
OF_MACHINE = frozenset(
    {
        *("task", "batch_size", "show_progress_bar", "device", "output_value", "precision", "chunk_size", "pool"),
        *("convert_to_numpy", "convert_to_tensor"),
    }
)
"""Parameters that say how to compute, or in which form to hand it over; MLflow's `task` is of the second kind."""
USUAL = {"output_value": "sentence_embedding", "precision": "float32"}
"""What some of them have to be."""
UNSET = {"normalize_embeddings": False}
"""What says no more than None: a folder that normalises does so still."""


def derive_sentences(root: Path, fields: Mapping[str, Any], settings: Mapping[str, Any], described: Any) -> None:
    """Add the contract to the artifact at `root`, in the process of `transformers_flavor.add_contract`.

    fields: of the flavor. settings: with which MLflow calls `encode`. described: MLflow's record of the model. Raises
    HeadError, ArtifactError or ContractError.
    """
    from registry.artifact import write_artifact
    from registry.staging import stage

    if unknown := sorted(name for name in fields if name not in DESCRIPTIVE and fields[name] is not None):
        raise ContractError(
            f"the model's MLflow flavor has {unknown[0]}={fields[unknown[0]]!r}, which this release does not know: "
            "log it with `headwaiter log`"
        )
    defaults, folder = read_defaults(settings), root / SENTENCE_FOLDER
    if not (folder / MODULES).is_file():
        raise ContractError(f"{SENTENCE_FOLDER} has no {MODULES}: log the model with `headwaiter log`")
    contract = stage(root, folder, None, "feature-extraction", defaults=defaults, described=described)
    shutil.rmtree(folder)
    write_artifact(root, contract, described)


def read_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The contract's defaults by the settings with which MLflow calls `encode`; raises ContractError."""
    defaults = {}
    for name, value in settings.items():
        if value is None or value == UNSET.get(name) or (name in OF_MACHINE and value == USUAL.get(name, value)):
            continue
        if name not in DEFAULTS:
            raise ContractError(
                f"the model's model_config or signature sets {name}={value!r}, and that cannot be applied: "
                "log it without, and send parameters with requests"
            )
        defaults[DEFAULTS[name]] = value
    return defaults
