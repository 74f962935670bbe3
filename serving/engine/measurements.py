"""What an engine measures before it serves, kept in the cache for every later engine that would measure the same.

Threads, cost, token budget, what a form is chosen by, and that the rows of a packed batch change nothing for one
another depend on the architecture, the machine and the versions of the software, not on the weights. All of these make
up the key of an entry. Whether a form answers as the model does is not kept: each load checks that anew.
"""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch

from headwaiter import __version__
from registry.contract import Contract
from registry.layout import MODEL_FOLDER
from registry.plain_files import read_record as read_file
from serving.engine.kept_record import read_record, write_record
from serving.runtime.machine import CPUINFO

logger = logging.getLogger("headwaiter.engine")

FOLDER = "measurements"
"""Of the entries, in the cache."""
MAX_ENTRIES = 256
"""Entries of some hundred bytes; those that were used last stay."""
SPEED_PREFIXES = ("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "ATEN_", "MALLOC_", "GLIBC_", "CUDA_", "TORCH_")
"""Prefixes of variables that change how fast torch and its libraries compute."""
COSMETIC = frozenset({"_name_or_path", "id2label", "label2id", "transformers_version", "dtype", "torch_dtype"})
"""Keys of a configuration that do not change what a model computes."""
ARCHITECTURE = (
    *("format", "task", "auto_class", "model_class", "model_type", "problem_type", "max_tokens", "is_encoder_decoder"),
    *("processor", "defaults", "layers", "batching"),
)
"""Fields of a contract that say what is computed, in which shapes."""
T = TypeVar("T")


class _Value(msgspec.Struct, frozen=True):
    """A measurement. is_quiet: whether nobody was served meanwhile."""

    value: Any
    is_quiet: bool


class _Entry(msgspec.Struct, frozen=True):
    values: dict[str, _Value]


class Measurements:
    """The measurements of one key by name, recalled or made. made: the names of those that this process made.

    What was measured while others were served is recalled while others are served only, so that it does not last.
    """

    def __init__(self, path: Path | None = None, *, is_quiet: bool = True) -> None:
        """path: of the entry, None to keep nothing. is_quiet: whether nobody is served while this engine loads."""
        self.made: list[str] = []
        self._path = path
        self._is_quiet = is_quiet
        entry = read_record(path, _Entry) if path is not None else None
        self._values = {} if entry is None else dict(entry.values)

    def recall(self, name: str, kind: type[T], measure: Callable[[], T]) -> T:
        """The measurement of this name, made by `measure` where none is known, and kept. Raises what `measure` raises.

        kind: int, float, bool, str, or a class of fields of these.
        """
        kept = self.find(name, kind)
        if kept is not None:
            return kept
        found = measure()
        self.set(name, found)
        return found

    def find(self, name: str, kind: type[T]) -> T | None:
        """The measurement of this name, None where none is known. kind: as of `recall`."""
        kept = self._values.get(name)
        if kept is not None and (kept.is_quiet or not self._is_quiet):
            with suppress(msgspec.ValidationError):  # of a release that measured something else
                return msgspec.convert(kept.value, kind)
        return None

    def set(self, name: str, found: object) -> None:
        """Let a measurement be known under this name."""
        self.made.append(name)
        self._values[name] = _Value(msgspec.to_builtins(found), self._is_quiet)

    def keep(self) -> None:
        """Write what was made."""
        if self._path is None or not self.made:
            return
        try:
            write_record(self._path, _Entry(self._values), MAX_ENTRIES)
        except OSError as error:  # a full disk, a file system that cannot be written: later engines measure, too
            logger.warning("the measurements could not be saved; later engines measure again: %s", error)


def entry_path(cache: str, root: Path, contract: Contract, *, device: str, dtype: str, threads: int) -> Path | None:
    """The entry in the folder `cache` of an engine that loads the artifact at `root`; None for no folder.

    threads: the most that a forward pass may use. Raises ArtifactError where the model's configuration is no record.
    """
    if not cache:
        return None
    facts = {
        "config": _architecture(root),
        "contract": {name: msgspec.to_builtins(getattr(contract, name)) for name in ARCHITECTURE},
        "labels": len(contract.labels),
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "machine": _machine(device),
        "software": _software(),
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return Path(cache) / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def _architecture(root: Path) -> dict[str, object]:
    """The configuration without what is cosmetic. Whether it is the contract's is found when the model is loaded."""
    try:
        config = json.loads(read_file(root, f"{MODEL_FOLDER}/config.json"))
    except (OSError, ValueError):  # the load says what is wrong with it
        return {}
    return {name: value for name, value in config.items() if name not in COSMETIC} if isinstance(config, dict) else {}


def _machine(device: str) -> dict[str, object]:
    """What decides how fast it computes: the processor and its features, cores, limits set by variables, the GPU."""
    try:
        first = CPUINFO.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        first = []
    facts: dict[str, object] = {
        "processor": [line for line in first if line.split("\t")[0] in ("model name", "flags", "Features", "CPU part")],
        "kernel": platform.machine(),
        "cores": [os.cpu_count(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0],
        "variables": {name: value for name, value in os.environ.items() if name.startswith(SPEED_PREFIXES)},
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = [properties.name, properties.major, properties.minor, properties.total_memory]
    return facts


def _software() -> list[str]:
    """The versions, and a digest of this folder and the tasks' source, which a version in development does not tell."""
    source = hashlib.sha256()
    for folder in ("engine", "tasks"):
        for path in sorted((Path(__file__).parents[1] / folder).rglob("*.py")):
            source.update(path.read_bytes())
    return [platform.python_version(), torch.__version__, version("transformers"), __version__, source.hexdigest()]
