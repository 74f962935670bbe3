"""multiple-choice: the best of several endings of a prompt.

A multiple-choice head scores each ending by itself, and the softmax runs over an item's endings. So each ending is a
row of its own: items with different numbers of endings share batches.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy

from registry.contract import Contract
from serving.processors.tokenizer import TextParameters
from serving.tasks.base.scoring import Scoring, accuracy
from serving.tasks.base.task import Batch, Task, VersionContext
from serving.wire.messages import Encoded, RowArrays

if TYPE_CHECKING:
    import torch

MAX_CHOICES = 256


class Question(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A prompt and its possible endings."""

    prompt: str
    choices: Annotated[list[str], msgspec.Meta(min_length=2, max_length=MAX_CHOICES)]


class MultipleChoice(Task):
    """(rows, 1) logits, one a prompt with one ending → themselves, float32."""

    name = "multiple-choice"
    Item = Question
    Parameters = TextParameters
    item_hint = 'send {"prompt": …, "choices": […]}'
    example = (
        {"prompt": "It rains, so I take", "choices": ["an umbrella.", "a sunshade that is far too small for two."]},
        {"prompt": "The sun is", "choices": ["a star.", "a planet.", "made of cheese, as everybody knows."]},
    )

    def scoring(self, contract: Contract) -> Scoring:
        """By the best ending."""
        return Scoring(
            int, "the right choice's number, from 0", lambda answer: answer[0]["choice"], {"accuracy": accuracy}
        )

    def encode(self, item: Any, parameters: Any, version: VersionContext) -> Encoded:
        """One row an ending."""
        return Encoded(
            [version.encoder.row(item.prompt, choice, parameters=parameters) for choice in item.choices],
            item.choices,
        )

    def forward(self, model: Any, batch: Batch) -> tuple["torch.Tensor", ...]:
        """The head takes (items, endings, tokens); every row is an item with one ending."""
        padded = ("input_ids", "attention_mask", "token_type_ids")
        one = {name: each.unsqueeze(1) if name in padded else each for name, each in batch.inputs.items()}
        return (model(**one).logits.float(),)

    def decode(self, rows: Sequence[RowArrays], decode_context: Any, parameters: Any, version: VersionContext) -> Any:
        """`[{"choice": index, "text": …, "score": …}, …]`, best first; the scores sum to 1."""
        logits = numpy.asarray([float(row[0][0]) for row in rows])
        exponents = numpy.exp(logits - logits.max())
        scores = (exponents / exponents.sum()).tolist()
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return [{"choice": index, "text": decode_context[index], "score": scores[index]} for index in order]


TASK = MultipleChoice()
