"""next-sentence-prediction: whether a text follows another. Index 0 of the head's two logits means that it does."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import msgspec

from registry.contract import Contract
from serving.processors.tokenizer import TextParameters
from serving.tasks.base.agreement import Agreement
from serving.tasks.base.scoring import Scoring, accuracy, f1_macro
from serving.tasks.base.task import Batch, Task
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import Encoded, RowArrays

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Texts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A text and the one that may follow it."""

    text: str
    text_pair: str


class Follows(TypedDict):
    """Whether the second text follows the first. score: the probability that it does."""

    follows: bool
    score: float


class NextSentencePrediction(Task[Texts, TextParameters, None]):
    """(rows, 2) logits → (rows,) float32, the probability that the second text follows the first."""

    name = "next-sentence-prediction"
    takes_pairs = True
    item_type = Texts
    parameters_type = TextParameters
    item_hint = 'send {"text": …, "text_pair": …}'
    example = (
        {"text": "The cat sat on the mat.", "text_pair": "Then it fell asleep."},
        {"text": "The shop opens at nine.", "text_pair": "Volcanoes are mountains whose fire comes from below."},
    )

    def predictions(self, answer: Follows) -> Sequence[tuple[str, float]]:
        """Whether it follows, with the probability of that."""
        score = answer["score"]
        return (("follows", score),) if answer["follows"] else (("does not follow", 1.0 - score),)

    def scoring(self, contract: Contract) -> Scoring:
        """By whether the second text follows."""
        metrics = {"accuracy": accuracy, "f1_macro": f1_macro}
        return Scoring(bool, "true where the second text follows the first", lambda answer: answer["follows"], metrics)

    def agreement(self, one: Follows, other: Follows, contract: Contract) -> Agreement:
        """By whether the second text follows."""
        return Agreement(float(one["follows"] == other["follows"]), abs(one["score"] - other["score"]))

    def encode(self, item: Texts, parameters: TextParameters, version: VersionContext) -> Encoded[None]:
        """One row per pair."""
        return Encoded([version.tokenizer.row(item.text, item.text_pair, parameters=parameters)], None)

    def forward(self, model: "PreTrainedModel", batch: Batch) -> tuple["torch.Tensor", ...]:
        """The probability of index 0."""
        return (model(**batch.inputs).logits.float().softmax(-1)[:, 0],)

    def decode(
        self, rows: Sequence[RowArrays], decode_context: None, parameters: TextParameters, version: VersionContext
    ) -> Follows:
        """`{"follows": …, "score": …}`: score is the probability that the second text follows the first."""
        score = float(rows[0][0])
        return {"follows": score >= 0.5, "score": score}


TASK = NextSentencePrediction()
