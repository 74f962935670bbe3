"""next-sentence-prediction: whether a text follows another. Index 0 of the head's two logits means that it does."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from registry.contract import Contract
from serving.processors.tokenizer import TextParameters
from serving.tasks.base.scoring import Scoring, accuracy, f1_macro
from serving.tasks.base.task import Batch, Task, VersionContext
from serving.wire.messages import Encoded, RowArrays

if TYPE_CHECKING:
    import torch


class Texts(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A text and the one that may follow it."""

    text: str
    text_pair: str


class NextSentencePrediction(Task):
    """(rows, 2) logits → (rows,) float32, the probability that the second text follows the first."""

    name = "next-sentence-prediction"
    Item = Texts
    Parameters = TextParameters
    item_hint = 'send {"text": …, "text_pair": …}'
    example = (
        {"text": "The cat sat on the mat.", "text_pair": "Then it fell asleep."},
        {"text": "The shop opens at nine.", "text_pair": "Volcanoes are mountains whose fire comes from below."},
    )

    def predictions(self, answer: Any) -> Sequence[tuple[str, float]]:
        """Whether it follows, with the probability of that."""
        score = answer["score"]
        return (("follows", score),) if answer["follows"] else (("does not follow", 1.0 - score),)

    def scoring(self, contract: Contract) -> Scoring:
        """By whether the second text follows."""
        metrics = {"accuracy": accuracy, "f1_macro": f1_macro}
        return Scoring(bool, "true where the second text follows the first", lambda answer: answer["follows"], metrics)

    def encode(self, item: Any, parameters: Any, version: VersionContext) -> Encoded:
        """One row a pair."""
        return Encoded([version.encoder.row(item.text, item.text_pair, parameters=parameters)])

    def forward(self, model: Any, batch: Batch) -> tuple["torch.Tensor", ...]:
        """The softmax's first part."""
        return (model(**batch.inputs).logits.float().softmax(-1)[:, 0],)

    def decode(self, rows: Sequence[RowArrays], decode_context: Any, parameters: Any, version: VersionContext) -> Any:
        """`{"follows": …, "score": …}`: score is the probability that the second text follows the first."""
        score = float(rows[0][0])
        return {"follows": score >= 0.5, "score": score}


TASK = NextSentencePrediction()
