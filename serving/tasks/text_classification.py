"""text-classification: a label, labels or a number for a text or a pair of texts.

The scores follow transformers' own pipeline: regression gives the raw number, several labels at once or a single label
the sigmoid, else the softmax (`TextClassificationPipeline.postprocess`, transformers 5).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from registry.contract import Contract
from serving.errors import Unprocessable
from serving.tasks.base import Batch, Encoded, RowArrays, Served, Task

if TYPE_CHECKING:
    import torch

MAX_LABELS = 512
"""The most labels that one answer names; beyond them the head's best ones leave the device."""


class Pair(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A text and the text to judge it with."""

    text: str
    text_pair: str | None = None


class Parameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """top_k: labels in the answer, best first; all by default. function_to_apply: instead of the contract's."""

    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None
    truncate: bool = False
    truncation_direction: Literal["left", "right"] = "right"


def activation(contract: Contract) -> str:
    """What turns logits into scores: "none", "sigmoid" or "softmax", by problem type and number of labels."""
    if contract.problem_type == "regression":
        return "none"
    if contract.problem_type == "multi_label_classification" or len(contract.labels) == 1:
        return "sigmoid"
    return "softmax"


class TextClassification(Task):
    """(rows, labels) logits → the best labels' scores (rows, k) float32 and indices (rows, k) int32, best first."""

    name = "text-classification"
    Item = str | Pair
    Parameters = Parameters
    nests_single = True
    example = (
        "I love this.",
        "The parcel came two weeks late, and nobody at the desk could tell me where it had been all that time.",
        "What time does it open?",
    )

    def typical_kind(self, contract: Contract) -> str:
        """The contract's own activation."""
        return activation(contract)

    def predictions(self, answer: Any) -> Sequence[tuple[str, float]]:
        """The best label; a regression's number is no confidence and is left out."""
        best = answer[0]
        return ((best["label"], best["score"]),) if 0.0 <= best["score"] <= 1.0 else ()

    def encode(self, item: Any, parameters: Any, served: Served) -> Encoded:
        """One row a text or pair."""
        text, pair = (item, None) if isinstance(item, str) else (item.text, item.text_pair)
        if parameters.top_k is not None and parameters.top_k > min(len(served.contract.labels), MAX_LABELS):
            known = min(len(served.contract.labels), MAX_LABELS)
            raise Unprocessable(f"parameters.top_k is {parameters.top_k}, this model has {known} labels to choose from")
        row, _ = served.encoder.encode(
            text,
            pair,
            truncate=parameters.truncate,
            direction=parameters.truncation_direction,
            kind=parameters.function_to_apply or activation(served.contract),
        )
        return Encoded([row])

    def forward(self, model: Any, batch: Batch) -> tuple["torch.Tensor", ...]:
        """Scores in float32, sorted on the device."""
        import torch

        logits = model(**batch.inputs).logits.float()
        if batch.kind == "softmax":
            logits = logits.softmax(-1)
        elif batch.kind == "sigmoid":
            logits = logits.sigmoid()
        scores, labels = logits.topk(min(MAX_LABELS, logits.shape[-1]))
        return scores, labels.to(torch.int32)

    def decode(self, rows: Sequence[RowArrays], plan: Any, parameters: Any, served: Served) -> Any:
        """`[{"label": …, "score": …}, …]`, best first."""
        scores, labels = (array.tolist() for array in rows[0])
        names = served.contract.labels
        return [
            {"label": names[label], "score": score}
            for label, score in zip(labels[: parameters.top_k], scores[: parameters.top_k], strict=True)
        ]


TASK = TextClassification()
