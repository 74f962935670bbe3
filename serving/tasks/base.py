"""What a task is: request → rows of token ids → padded batch → the head's arrays → answer.

`encode` and `decode` run in a front, which has no torch; `forward` runs in an engine. A request's `inputs` is one item
or a list of items; a task sees one item at a time, so that lists, order and neighbours are nobody's special case.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy

from registry.contract import Contract
from registry.errors import ContractError
from registry.heads import Head, get_head

if TYPE_CHECKING:
    import torch

    from serving.text import TextEncoder


@dataclass(frozen=True)
class EncodedRow:
    """tokens: int32 bytes. types: int8 bytes, empty where all are 0. kind: rows of one kind share a batch."""

    tokens: bytes
    types: bytes = b""
    kind: str = ""


@dataclass(frozen=True)
class Encoded:
    """An item as rows, and what `decode` needs to know of it (offsets, the text, …)."""

    rows: list[EncodedRow]
    plan: Any = None


@dataclass(frozen=True)
class Batch:
    """Padded rows of one kind on the engine's device.

    inputs: keyword arguments of the model, each (rows, tokens) int64; `attention_mask` is absent when nothing is
    padded. lengths: tokens of each row. kind: as the task's `encode` gave it.
    """

    inputs: Mapping[str, "torch.Tensor"]
    lengths: Sequence[int]
    kind: str

    def mask(self) -> "torch.Tensor":
        """(rows, tokens) int64, 1 where a token is real."""
        import torch

        found = self.inputs.get("attention_mask")
        return found if found is not None else torch.ones_like(self.inputs["input_ids"])


class NoParameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A task without parameters."""


@dataclass(frozen=True)
class Served:
    """What a task's front side may know of a version: its contract and its tokenizer."""

    contract: Contract
    encoder: "TextEncoder"


RowArrays = Sequence[numpy.ndarray[Any, Any]]
"""One row's part of each array that `forward` returned, in that order, without the rows dimension."""


class Task(ABC):
    """One task. Subclasses set the class variables and are used as single, stateless objects.

    name: a row of `registry.heads.HEADS`. Item: msgspec type of one input. Parameters: msgspec Struct of the request's
    `parameters`. example: inputs that show the task, recorded at logging if the user gives none. nests_single: whether
    the answer to a single input is a list of one, as the Hugging Face inference API has it for some tasks.
    default_settings: the contract's task defaults and their choices.
    """

    name: ClassVar[str]
    Item: ClassVar[Any] = str
    Parameters: ClassVar[type[msgspec.Struct]] = NoParameters
    example: ClassVar[Sequence[Any]]
    nests_single: ClassVar[bool] = False
    default_settings: ClassVar[Mapping[str, Sequence[Any]]] = {}

    @property
    def head(self) -> Head:
        """The AutoModel class and mapping table of the task."""
        return get_head(self.name)

    def defaults(self, folder: Path, given: dict[str, Any]) -> dict[str, Any]:
        """The contract's task defaults: `given`, checked, over what the folder says. Raises ContractError."""
        for key, value in given.items():
            choices = self.default_settings.get(key)
            if choices is None:
                known = ", ".join(self.default_settings) or "none"
                raise ContractError(f"{self.name} has no default {key!r}; it has: {known}")
            if value not in choices:
                raise ContractError(f"default {key}={value!r} is not one of {', '.join(map(str, choices))}")
        return given

    def has_tokens(self, kind: str) -> bool:
        """Whether `forward`'s arrays of this kind are (rows, tokens, …) and so are cut to each row's length."""
        return False

    def typical_kind(self, contract: Contract) -> str:
        """The kind of a request without parameters, for measuring."""
        return ""

    def predictions(self, answer: Any) -> Sequence[tuple[str, float]]:
        """(label, score in 0..1) of each prediction in an item's answer, for metrics; empty for unlabelled tasks."""
        return ()

    @abstractmethod
    def encode(self, item: Any, parameters: Any, served: Served) -> Encoded:
        """Rows for one item; raises Unprocessable, naming field and rule."""

    @abstractmethod
    def forward(self, model: Any, batch: Batch) -> tuple["torch.Tensor", ...]:
        """The head's small arrays on the device, first dimension rows; must not wait for the device."""

    @abstractmethod
    def decode(self, rows: Sequence[RowArrays], plan: Any, parameters: Any, served: Served) -> Any:
        """The answer to one item, plain data for JSON, from its rows in order."""


@dataclass(frozen=True)
class Request:
    """A parsed request: items in order, and whether the client sent a list."""

    items: list[Any]
    many: bool
    parameters: Any = field(default_factory=NoParameters)
