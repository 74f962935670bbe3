"""What a task is: request → rows → padded batch → the head's arrays → answer.

`encode` and `decode` run in a front, which has no torch; `forward` runs in an engine. A request's `inputs` is one item
or a list of items; a task sees one item at a time, so that lists, order and neighbours are nobody's special case.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import msgspec
import numpy

from registry.contract import Contract
from registry.errors import ContractError
from registry.heads import Head, get_head
from serving.tasks.base.padding import pad_rows
from serving.wire.messages import Encoded, EncodedRow, Row, RowArrays

if TYPE_CHECKING:
    import torch

    from serving.tasks.base.scoring import Scoring


@dataclass(frozen=True)
class Batch:
    """Rows of one kind on the engine's device.

    inputs: what the task's `collate` made, as tensors; for text (rows, tokens) int64, and `attention_mask` is absent
    when nothing is padded. lengths: tokens of each row. key: the rows' `batch_key`. payloads: of each row.
    contract: of the version.
    """

    inputs: Mapping[str, "torch.Tensor"]
    lengths: Sequence[int]
    key: str
    payloads: Sequence[bytes]
    contract: Contract

    def mask(self) -> "torch.Tensor":
        """(rows, tokens) int64, 1 where a token is real."""
        import torch

        found = self.inputs.get("attention_mask")
        return found if found is not None else torch.ones_like(self.inputs["input_ids"])


class NoParameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A task without parameters."""


class NoDefaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A task without settings in the contract."""


@dataclass(frozen=True)
class VersionContext:
    """What a task's front side may know of a version.

    encoder: its tokenizer; of an image task its image reader. defaults: the contract's, as the task's `Defaults`.
    chat: its `ChatTemplate`, or None.
    """

    contract: Contract
    encoder: Any
    defaults: Any
    chat: Any = None


class Task(ABC):
    """One task. Subclasses set the class variables and are used as single, stateless objects.

    name: a row of `registry.heads.HEADS`. Item: msgspec type of one input. Parameters: msgspec Struct of the request's
    `parameters`. Defaults: msgspec Struct of the contract's own settings for the task. example: inputs that show the
    task, recorded at logging if the user gives none. takes_files: whether a body that is no
    JSON object is itself the one input. generates: whether rows go on being written, token by token; then an item's
    rows are its texts, and `decode` gets what `serving.tasks.base.generated_text.Text.read` reads.
    item_hint: what to send, for who sent something else. embeds: whether an answer is a vector of the input.
    """

    name: str
    Item: ClassVar[Any] = str
    Parameters: ClassVar[type[msgspec.Struct]] = NoParameters
    Defaults: ClassVar[type[msgspec.Struct]] = NoDefaults
    example: ClassVar[Sequence[Any]]
    example_parameters: ClassVar[Mapping[str, Any]] = {}
    takes_files: ClassVar[bool] = False
    embeds: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    item_hint: ClassVar[str] = "send text; the server tokenizes, pads and batches it itself"

    @property
    def head(self) -> Head:
        """The AutoModel class and mapping table of the task."""
        return get_head(self.name)

    def defaults(self, folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
        """The contract's task settings: `given` over what the checkpoint's folder says. Raises ContractError.

        Numbers and booleans may be given as text, as a command line has them.
        """
        unknown = sorted(given.keys() - set(self.Defaults.__struct_fields__))
        if unknown:
            known = ", ".join(self.Defaults.__struct_fields__) or "none"
            raise ContractError(f"{self.name} has no default {unknown[0]!r}; it has: {known}")
        try:
            settings = msgspec.convert(self.folder_settings(folder) | dict(given), self.Defaults, strict=False)
        except msgspec.ValidationError as error:
            raise ContractError(f"a default of {self.name} breaks its rule: {error}{self._choices(error)}") from error
        record: dict[str, Any] = msgspec.to_builtins(settings)
        return record

    def _choices(self, error: Exception) -> str:
        """The values that the setting in msgspec's message may have, where they are few."""
        hint = get_type_hints(self.Defaults).get(str(error).rpartition("$.")[2].rstrip("`"))
        return f"; choose one of: {', '.join(map(str, get_args(hint)))}" if get_origin(hint) is Literal else ""

    def folder_settings(self, folder: Path) -> dict[str, Any]:
        """What files in a checkpoint's folder say about the task's settings."""
        return {}

    def problem(self, contract: Contract) -> str | None:
        """Why a checkpoint with this contract cannot do the task after all, and what to do; None where it can."""
        return None

    def compare(self, processor: Any, contract: Contract) -> str | None:
        """How a front would read inputs otherwise than transformers' `processor`, and what to do; or None."""
        return None

    def serve(self, folder: Path, contract: Contract) -> VersionContext:
        """The front's side of a version whose `save_pretrained` folder this is. Blocks for some milliseconds."""
        return VersionContext(
            contract, self.make_encoder(folder, contract), msgspec.convert(contract.defaults, self.Defaults)
        )

    def make_encoder(self, folder: Path, contract: Contract) -> Any:
        """What turns inputs into rows: the tokenizer, for text."""
        from serving.processors.tokenizer import TextEncoder

        return TextEncoder(folder, contract)

    def make_example(self, version: VersionContext) -> list[Any]:
        """The inputs of the example request, where the user gives none."""
        return list(self.example)

    def prepare(self, model: Any, contract: Contract) -> None:  # noqa: B027  # most tasks need nothing
        """Set what the loaded model needs before its first forward pass. Engine side."""

    def has_tokens(self, batch_key: str) -> bool:
        """Whether `forward`'s arrays of this kind are (rows, tokens, …) and so are cut to each row's length."""
        return False

    def wraps_single_answer(self, item: Any) -> bool:
        """Whether the answer to a single input is a list of one, as the Hugging Face inference API has some."""
        return False

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """A row of `length` tokens like that of a request without parameters, for measuring."""
        return probe_text(contract, length)

    def predictions(self, answer: Any) -> Sequence[tuple[str, float]]:
        """(label, score in 0..1) of each prediction in an item's answer, for metrics; empty for unlabelled tasks."""
        return ()

    def text_before(self, decode_context: Any, parameters: Any) -> str:
        """What stands before each text of an item, of a task that generates."""
        return ""

    def scoring(self, contract: Contract) -> "Scoring | None":
        """How answers are compared with labels; None for a task without a standard metric."""
        return None

    def has_scoring(self) -> bool:
        """Whether the task has a standard metric."""
        return type(self).scoring is not Task.scoring

    @abstractmethod
    def encode(self, item: Any, parameters: Any, version: VersionContext) -> Encoded:
        """Rows for one item; raises Unprocessable, naming field and rule."""

    def collate(self, rows: Sequence[Row], contract: Contract) -> dict[str, numpy.ndarray[Any, Any]]:
        """The model's arguments for rows of one kind, as arrays whose first dimension is the rows. Engine side."""
        return pad_rows(rows, contract.processor.pad_token_id)

    @abstractmethod
    def forward(self, model: Any, batch: Batch) -> tuple["torch.Tensor", ...]:
        """The head's small arrays on the device, first dimension rows.

        Must not wait for the device: it looks at no value there, and what it adds comes by `upload`.
        """

    @abstractmethod
    def decode(self, rows: Sequence[RowArrays], decode_context: Any, parameters: Any, version: VersionContext) -> Any:
        """The answer to one item, plain data for JSON, from its rows in order."""


def upload(array: numpy.ndarray[Any, Any], device: "torch.device") -> "torch.Tensor":
    """The array as a tensor on the device; nobody waits for a GPU to copy it. Engine side."""
    import torch

    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def probe_text(contract: Contract, length: int, batch_key: str = "", payload: bytes = b"") -> EncodedRow:
    """A row of `length` ordinary tokens, which ends as the contract's texts do."""
    special = {contract.processor.pad_token_id, contract.processor.eos_token_id, contract.processor.mask_token_id}
    ordinary = [token for token in range(min(contract.processor.vocabulary, 64)) if token not in special]
    ids = numpy.resize(numpy.asarray(ordinary or [0], dtype=numpy.int32), length)
    if contract.processor.eos_token_id is not None:
        ids[-1] = contract.processor.eos_token_id
    return EncodedRow(length, ids.tobytes(), batch_key=batch_key, payload=payload)
