"""multiple-choice: the best of several endings of a prompt.

The head scores each ending by itself, and the softmax is over an item's endings. So each ending is a row, and items
with different numbers of endings share batches.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypedDict

import msgspec
import numpy

from registry.contract import Contract
from serving.processors.tokenizer import TextParameters
from serving.tasks.base.agreement import Agreement, distance
from serving.tasks.base.answers import softmax
from serving.tasks.base.cost import OBJECT_BYTES, ItemCost, answer_text
from serving.tasks.base.scoring import Scoring, accuracy
from serving.tasks.base.task import Batch, Task
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import Encoded, RowArrays

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

MAX_CHOICES = 256


class Question(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A prompt and its possible endings."""

    prompt: str
    choices: Annotated[list[str], msgspec.Meta(min_length=2, max_length=MAX_CHOICES)]


class Choice(TypedDict):
    """An ending of an answer. choice: its place in the request. score: its probability among the endings."""

    choice: int
    text: str
    score: float


class MultipleChoice(Task[Question, TextParameters, list[str]]):
    """(rows, 1) logits, a row per prompt and ending → themselves, float32."""

    name = "multiple-choice"
    takes_pairs = True
    item_type = Question
    parameters_type = TextParameters
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

    def agreement(self, one: list[Choice], other: list[Choice], contract: Contract) -> Agreement:
        """By the best ending."""
        scores = [{entry["choice"]: entry["score"] for entry in answer} for answer in (one, other)]
        return Agreement(float(one[0]["choice"] == other[0]["choice"]), distance(*scores))

    def cost(self, item: Question, parameters: TextParameters, version: VersionContext) -> ItemCost:
        """One row per ending, each with the prompt."""
        return ItemCost(len(item.choices), len(item.choices) * len(item.prompt) + sum(map(len, item.choices)))

    def answer_bytes(self, encoded: Encoded[list[str]], parameters: TextParameters, version: VersionContext) -> int:
        """An object per ending, with its text."""
        choices = encoded.decode_context
        return OBJECT_BYTES * len(choices) + answer_text(sum(map(len, choices)))

    def encode(self, item: Question, parameters: TextParameters, version: VersionContext) -> Encoded[list[str]]:
        """One row per ending."""
        return Encoded(
            [version.tokenizer.row(item.prompt, choice, parameters=parameters) for choice in item.choices],
            item.choices,
        )

    def forward(self, model: "PreTrainedModel", batch: Batch) -> tuple["torch.Tensor", ...]:
        """The head takes (items, endings, tokens); every row is an item with one ending."""
        padded = ("input_ids", "attention_mask", "token_type_ids")
        one = {name: each.unsqueeze(1) if name in padded else each for name, each in batch.inputs.items()}
        return (model(**one).logits.float(),)

    def decode(
        self, rows: Sequence[RowArrays], choices: list[str], parameters: TextParameters, version: VersionContext
    ) -> list[Choice]:
        """`[{"choice": index, "text": …, "score": …}, …]`, best first; the scores sum to 1."""
        scores = softmax(numpy.asarray([float(row[0][0]) for row in rows])).tolist()
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return [{"choice": index, "text": choices[index], "score": scores[index]} for index in order]


TASK = MultipleChoice()
