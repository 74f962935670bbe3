"""text2text-generation: text made from text, greedily, drawn, or by beams; also logged as summarization or translation.

The three differ in the field of their answer, as the Hugging Face inference API has it, and in the prefix that their
contract puts before each text, which a checkpoint's `task_specific_params` may name.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.contract import Contract
from serving.errors import Unprocessable
from serving.generation import (
    GenerationDefaults,
    GenerationParameters,
    Positive,
    PositiveNumber,
    generate,
    prepare,
    read_texts,
    settle,
)
from serving.tasks.base import Batch, Encoded, EncodedRow, RowArrays, Served, Task, probe_text

if TYPE_CHECKING:
    import torch

MAX_BEAMS = 16


class Parameters(GenerationParameters, frozen=True):
    """num_beams: beams of a search, 1 for none. length_penalty: of beams, above 1 favours longer texts.

    early_stopping: whether the search ends with the first `num_beams` finished texts.
    """

    num_beams: Positive | None = None
    length_penalty: PositiveNumber | None = None
    early_stopping: bool | None = None


class Defaults(GenerationDefaults, frozen=True):
    """prefix: written before each text, as in "summarize: "."""

    prefix: str = ""


class Text2TextGeneration(Task):
    """(rows, tokens) ids → (rows, new tokens) int32."""

    Parameters = Parameters
    Defaults = Defaults
    example = (
        "The quick brown fox jumps over the lazy dog.",
        "It rained all day, so the match was put off until Monday.",
    )
    example_parameters = {"max_new_tokens": 8, "do_sample": False}

    def __init__(self, name: str, field: str) -> None:
        self.name = name
        self._field = field

    def folder_settings(self, folder: Path) -> dict[str, Any]:
        """The prefix of this very task."""
        path = folder / "config.json"
        specific = json.loads(path.read_text(encoding="utf-8")).get("task_specific_params") if path.is_file() else None
        prefix = ((specific or {}).get(self.name) or {}).get("prefix")
        return {"prefix": prefix} if isinstance(prefix, str) else {}

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """A few tokens made from a text."""
        return probe_text(contract, length, '{"max_new_tokens":4,"do_sample":false}')

    def prepare(self, model: Any, contract: Contract) -> None:
        """Finished rows are filled with the contract's padding."""
        prepare(model, contract.processor.pad_token_id)

    def encode(self, item: Any, parameters: Any, served: Served) -> Encoded:
        """One row a text."""
        if parameters.num_beams is not None and parameters.num_beams > MAX_BEAMS:
            raise Unprocessable(f"parameters.num_beams is {parameters.num_beams}, at most {MAX_BEAMS} are searched")
        _, kind = settle(
            parameters,
            served.defaults,
            num_beams=parameters.num_beams,
            length_penalty=parameters.length_penalty,
            early_stopping=parameters.early_stopping,
        )
        if not item:
            raise Unprocessable("inputs holds an empty text: every text needs at least one character")
        row = served.encoder.row(served.defaults.prefix + item, parameters=parameters, kind=kind)
        return Encoded([row])

    def forward(self, model: Any, batch: Batch) -> tuple["torch.Tensor", ...]:
        """What was written."""
        return (generate(model, batch),)

    def decode(self, rows: Sequence[RowArrays], plan: Any, parameters: Any, served: Served) -> Any:
        """`[{"generated_text": …}]`, or the field of the task that the model was logged for."""
        return [{self._field: read_texts(rows, served.encoder)}]


TASKS = {
    name: Text2TextGeneration(name, field)
    for name, field in (
        ("text2text-generation", "generated_text"),
        ("summarization", "summary_text"),
        ("translation", "translation_text"),
    )
}
