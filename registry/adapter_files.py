"""The folder of an adapter that PEFT saved: its configuration, its weights' shapes and its digests.

The base model that the adapter was trained on is given beside it. The name in the configuration is told in errors, and
never followed. `adapters` merges the two, by PEFT. Light to import.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from registry.checkpoint_files import convert, read_json
from registry.errors import IncompleteArtifact, UnreadableArtifact, UnsafeArtifact, WrongBase, WrongHead
from registry.heads import HEADS, Head
from registry.weight_files import list_weights, read_shapes, refuse_pointers

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
KEY_PREFIX = "base_model.model."
"""What stands before the names of the base model's modules in the names of an adapter's weights (PEFT 0.21)."""
MERGEABLE = frozenset(
    {
        *("LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "HRA", "VERA", "FOURIERFT", "LN_TUNING", "RANDLORA"),
        *("SHIRA", "MISS", "C3A", "ROAD", "WAVEFT", "DELORA", "GRALORA", "TRAINABLE_TOKENS", "ADAMSS", "BEFT", "DEFT"),
        *("FROD", "GLORA", "HIRA", "OSF", "PEANUT", "PSOFT", "PVERA", "SUPERTUNING", "TINYLORA", "UNILORA"),
    }
)
"""Values of `peft_type` whose adapters become weights of the base model (PEFT 0.21), as `tests.registry` shows of each.
Prompts and prefixes do not, and other types choose by the input or load further models."""
TASK_TYPES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}
"""PEFT's names of tasks, and the class of model that each is about."""
LOST_INIT = re.compile(r"pissa_niter_.*|corda|loftq|lora_ga")
"""Values of `init_lora_weights` that change the base's weights by chance or by data, so not again in the same way."""
COMMIT = re.compile(r"[0-9a-f]{40}")
"""A revision of the hub."""


class AutoMapping(msgspec.Struct, frozen=True):
    """The class that was adapted; PEFT writes it where `task_type` is missing."""

    base_model_class: str | None = None


class AdapterKeys(msgspec.Struct, frozen=True):
    """The keys of `adapter_config.json` that are read here. PEFT checks the others."""

    peft_type: str
    task_type: str | None = None
    auto_mapping: AutoMapping | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    init_lora_weights: bool | str | None = None
    layer_replication: Any = None
    megatron_config: Any = None


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter's folder. config: its configuration. shapes: of its weights. files: name → sha256 in hex."""

    folder: Path
    config: dict[str, Any]
    keys: AdapterKeys
    shapes: Mapping[str, tuple[int, ...]]
    files: dict[str, str]

    @property
    def trained_on(self) -> str:
        """Words for an error: the base that the configuration names."""
        name = self.keys.base_model_name_or_path
        return f"{CONFIG} names {name!r} as its base" if name else f"{CONFIG} names no base"

    @property
    def brought(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the weights that replace the base's own, as a new head's do, by their names in the base."""
        return {key.removeprefix(KEY_PREFIX).replace(".base_layer.", "."): shape for key, shape in self.shapes.items()}


def read_adapter(folder: Path) -> AdapterFolder:
    """Read the folder and check what can be checked without its base.

    Raises ArtifactError: no adapter, pickled or damaged weights, or settings by which it cannot be merged.
    """
    path = folder / CONFIG
    if not path.is_file():
        inner = sorted(found.parent.name for found in folder.glob(f"*/{CONFIG}"))
        instead = f" (its folder {inner[0]} does: pass that)" if inner else ""
        raise IncompleteArtifact(
            f"{folder} holds no {CONFIG}{instead}: a base (--base, base=) is only for an adapter that PEFT's "
            "save_pretrained wrote; log a whole model without it"
        )
    refuse_pointers(folder)
    config = read_json(path, dict[str, Any])
    keys = convert(config, AdapterKeys, path.name)
    _check_keys(keys)
    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLED).is_file():
            raise UnsafeArtifact(
                f"the adapter's weights are pickled ({PICKLED}), and unpickling runs code: load the adapter where you "
                "trust it, with PeftModel.from_pretrained, and call save_pretrained(folder), which writes safetensors"
            )
        raise IncompleteArtifact(f"{folder} has no {WEIGHTS}: save the adapter again with save_pretrained")
    shapes = read_shapes(folder, WEIGHTS)
    return AdapterFolder(folder, config, keys, shapes, _digest(folder, [CONFIG, WEIGHTS]))


def check_task(keys: AdapterKeys, head: Head, class_names: Iterable[str]) -> None:
    """Raise WrongHead for an adapter that was trained for another head. class_names: those that serve the task."""
    others = [each.task for each in HEADS.values() if TASK_TYPES.get(keys.task_type or "") == each.auto_class]
    if keys.task_type is not None and head.task not in others:
        raise WrongHead(
            f"{head.task} needs {head.auto_class}, and {CONFIG} says task_type {keys.task_type!r}: log it as "
            f"{' or '.join(others)}, or correct task_type if it was trained for the head of {head.task}"
        )
    adapted = keys.auto_mapping.base_model_class if keys.auto_mapping else None
    if adapted is not None and adapted not in (names := [*class_names]):
        raise WrongHead(
            f"{head.task} needs {' or '.join(names)}, the adapter was trained on {adapted} (auto_mapping in {CONFIG}): "
            "choose the task of that head (`headwaiter heads`), or train an adapter for this one"
        )


def digest_base(adapter: AdapterFolder, base: Path, digest: str | None) -> dict[str, str]:
    """Name → sha256 in hex of the base's configuration and weights. Reads all of them.

    digest: what `weights_digest` of these must be, where it is known. Raises WrongBase for another one, and for a
    download from the hub of another revision than the adapter's.
    """
    revision, own = adapter.keys.revision, base.resolve()
    if own.parent.name == "snapshots" and COMMIT.fullmatch(own.name) and COMMIT.fullmatch(revision or ""):
        _compare(adapter, "revision", own.name, str(revision), f"revision in {CONFIG} is")
    files = _digest(base, ["config.json", *list_weights(base)])
    if digest is not None:
        _compare(adapter, "sha256", weights_digest(files), digest.lower(), "the base that was asked for has")
    return files


def weights_digest(files: Mapping[str, str]) -> str:
    """sha256 in hex of a base's weights, by its files' digests.

    Of one file it is that file's, as `sha256sum model.safetensors` and the hub's page print it. Of several it is that
    of the lines which `sha256sum` prints of them: `sha256sum model-*.safetensors | sha256sum`.
    """
    weights = {name: digest for name, digest in files.items() if name.endswith(".safetensors")}
    if len(weights) == 1:
        return next(iter(weights.values()))
    lines = "".join(f"{weights[name]}  {name}\n" for name in sorted(weights))
    return hashlib.sha256(lines.encode()).hexdigest()


def _check_keys(keys: AdapterKeys) -> None:
    if keys.peft_type not in MERGEABLE:
        raise UnreadableArtifact(
            f"{CONFIG}: an adapter of peft_type {keys.peft_type!r} cannot be merged into its base, and only whole "
            f"models are served: train one that can, such as LORA ({', '.join(sorted(MERGEABLE))})"
        )
    init = keys.init_lora_weights
    if isinstance(init, str) and LOST_INIT.fullmatch(init):
        raise UnreadableArtifact(
            f"{CONFIG}: init_lora_weights {init!r} changed the base's weights before the training, and not in a way "
            "that can be repeated: save the adapter with path_initial_model_for_weight_conversion=…, or save the base "
            "as it was changed, pass that, and set init_lora_weights to true"
        )
    if keys.layer_replication:
        raise UnreadableArtifact(
            f"{CONFIG}: layer_replication gives layers the same weights and different adapters, so it cannot be "
            "merged: train without it"
        )
    if keys.megatron_config:
        raise UnsafeArtifact(
            f"{CONFIG}: megatron_config imports the module that megatron_core names, and no code is run: remove both, "
            "and save the adapter for the model of transformers"
        )


def _compare(adapter: AdapterFolder, what: str, found: str, expected: str, told: str) -> None:
    if found != expected:
        raise WrongBase(
            f"the base's {what} is {found}, {told} {expected}: pass the base that the adapter was trained on; "
            f"{adapter.trained_on}"
        )


def _digest(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name → sha256 in hex. Those of a download from the hub are links, which is no fault here."""
    found = {}
    for name in names:
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
