"""text-generation: text that goes on from a prompt, greedily or drawn.

Rows are padded on the left, so that every row's next token stands at the right end. The settings that a request leaves
open are the checkpoint's own (`generation_config.json`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy

from registry.contract import Contract
from serving.generation import GenerationDefaults, GenerationParameters, generate, prepare, read_texts, settle
from serving.messages import Row
from serving.padding import pad_rows
from serving.tasks.base import Batch, Encoded, EncodedRow, RowArrays, Served, Task, probe_text

if TYPE_CHECKING:
    import torch


class Parameters(GenerationParameters, frozen=True):
    """return_full_text: whether the prompt stands before what was written."""

    return_full_text: bool = False


class TextGeneration(Task):
    """(rows, prompt) ids → (rows, new tokens) int32."""

    name = "text-generation"
    Parameters = Parameters
    Defaults = GenerationDefaults
    example = ("Once upon a time", "The quick brown fox jumps over the lazy dog, and then")
    example_parameters = {"max_new_tokens": 8, "do_sample": False}

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """A few tokens after a prompt."""
        return probe_text(contract, max(1, length - 4), '{"max_new_tokens":4,"do_sample":false}')

    def prepare(self, model: Any, contract: Contract) -> None:
        """Finished rows are filled with the contract's padding."""
        prepare(model, contract.processor.pad_token_id)

    def encode(self, item: Any, parameters: Any, served: Served) -> Encoded:
        """One row a prompt; prompt and new tokens together fit the model."""
        count, kind = settle(parameters, served.defaults)
        most = max(1, served.contract.max_tokens - count)
        return Encoded([served.encoder.row(item, parameters=parameters, kind=kind, max_tokens=most)], item)

    def collate(self, rows: Sequence[Row], contract: Contract) -> dict[str, numpy.ndarray[Any, Any]]:
        """Padded on the left."""
        inputs = pad_rows(rows, contract.processor.pad_token_id, side="left")
        return {name: inputs[name] for name in inputs if name != "token_type_ids"}

    def forward(self, model: Any, batch: Batch) -> tuple["torch.Tensor", ...]:
        """What was written."""
        return (generate(model, batch),)

    def decode(self, rows: Sequence[RowArrays], plan: Any, parameters: Any, served: Served) -> Any:
        """`[{"generated_text": …}]`."""
        text = read_texts(rows, served.encoder)
        return [{"generated_text": plan + text if parameters.return_full_text else text}]


TASK = TextGeneration()
