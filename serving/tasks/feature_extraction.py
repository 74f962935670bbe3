"""feature-extraction: a vector for each text, or one for each of its tokens.

Pooling follows sentence-transformers (`1_Pooling/config.json` in a checkpoint's folder says which): the mean over real
tokens, or the first token. Normalised vectors have Euclidean length 1.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from registry.contract import Contract
from serving.tasks.base import Batch, Encoded, RowArrays, Served, Task

if TYPE_CHECKING:
    import torch

POOLINGS = ("raw", "mean", "cls")


class Parameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """pooling, normalize: instead of the contract's."""

    pooling: Literal["raw", "mean", "cls"] | None = None
    normalize: bool | None = None
    truncate: bool = False
    truncation_direction: Literal["left", "right"] = "right"


class FeatureExtraction(Task):
    """(rows, tokens, hidden) states → (rows, hidden) float32, or (rows, tokens, hidden) when raw."""

    name = "feature-extraction"
    Parameters = Parameters
    example = ("A short text.", "Another text, with a few more words in it than the first one has.")
    default_settings = {"pooling": POOLINGS, "normalize": (True, False)}

    def defaults(self, folder: Path, given: dict[str, Any]) -> dict[str, Any]:
        """What is not given is read from a sentence-transformers folder, else raw and not normalised."""
        return {"pooling": "raw", "normalize": False} | _folder_settings(folder) | super().defaults(folder, given)

    def has_tokens(self, kind: str) -> bool:
        """Only raw states have a tokens dimension."""
        return kind.startswith("raw")

    def typical_kind(self, contract: Contract) -> str:
        """The contract's pooling."""
        return _kind(contract, None, None)

    def encode(self, item: Any, parameters: Any, served: Served) -> Encoded:
        """One row a text; its kind names pooling and normalisation."""
        row, _ = served.encoder.encode(
            item,
            truncate=parameters.truncate,
            direction=parameters.truncation_direction,
            kind=_kind(served.contract, parameters.pooling, parameters.normalize),
        )
        return Encoded([row])

    def forward(self, model: Any, batch: Batch) -> tuple["torch.Tensor", ...]:
        """Pooled, and normalised if the kind says so, in float32 on the device."""
        import torch

        states = model(**batch.inputs).last_hidden_state.float()
        pooling, _, unit = batch.kind.partition("+")
        if pooling == "mean":
            mask = batch.mask().unsqueeze(-1).to(states.dtype)
            states = (states * mask).sum(1) / mask.sum(1)
        elif pooling == "cls":
            states = states[:, 0]
        if unit:
            states = torch.nn.functional.normalize(states, dim=-1)
        return (states,)

    def decode(self, rows: Sequence[RowArrays], plan: Any, parameters: Any, served: Served) -> Any:
        """A list of floats, or for raw a list of lists, one a token, special tokens included."""
        (states,) = rows[0]
        return states.tolist()


def _kind(contract: Contract, pooling: str | None, normalize: bool | None) -> str:
    pooling = pooling or contract.defaults.get("pooling", "raw")
    normalize = contract.defaults.get("normalize", False) if normalize is None else normalize
    return f"{pooling}+unit" if normalize else str(pooling)


def _folder_settings(folder: Path) -> dict[str, Any]:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return {}
    pooling = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    if pooling.get("pooling_mode_mean_tokens"):
        found["pooling"] = "mean"
    elif pooling.get("pooling_mode_cls_token"):
        found["pooling"] = "cls"
    modules = folder / "modules.json"
    if modules.is_file() and "Normalize" in modules.read_text(encoding="utf-8"):
        found["normalize"] = True
    return found


TASK = FeatureExtraction()
