"""The interface of a task: request → rows → padded batch → the head's arrays → answer.

`encode` and `decode` run in a front, which has no torch; `forward` runs in an engine. A request's `inputs` is one item
or a list of items. A task sees one item at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import numpy

from registry.contract import Contract
from registry.errors import ContractError
from registry.heads import Head, get_head
from serving.tasks.base.agreement import Agreement
from serving.tasks.base.cost import OBJECT_BYTES, ItemCost, count_characters
from serving.tasks.base.padding import pad_rows
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import AnyArray, Encoded, EncodedRow, Row, RowArrays

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

    from serving.processors.images import ImageReader
    from serving.processors.tokenizer import TextEncoder
    from serving.tasks.base.scoring import Scoring

Item = TypeVar("Item")
"""One input of a request."""
Parameters = TypeVar("Parameters", bound=msgspec.Struct)
"""A request's parameters."""
Context = TypeVar("Context")
"""What `decode` needs of an item beside its rows' arrays."""


@dataclass(frozen=True)
class Batch:
    """Rows of one batch key on the engine's device.

    inputs: what the task's `collate` made, as tensors; for text (rows, tokens) int64, and `attention_mask` is absent
    when nothing is padded. lengths: tokens of each row. key: the rows' `batch_key`. payloads: of each row. contract: of
    the version. layers: the contract's, (rows, inputs) float32 → (rows, outputs) float32; None where there are none.
    head_positions: as of `Task.head_positions`; with "head_indices" in `inputs` the head computes these tokens only.
    """

    inputs: Mapping[str, "torch.Tensor"]
    lengths: Sequence[int]
    key: str
    payloads: Sequence[bytes]
    contract: Contract
    layers: "torch.nn.Module | None" = None
    head_positions: AnyArray | None = None

    def at_head_positions(self, outputs: "torch.Tensor") -> "torch.Tensor":
        """The head's outputs for the tokens at `head_positions`, (tokens, size)."""
        assert self.head_positions is not None
        if "head_indices" in self.inputs:
            return outputs[0, : self.head_positions.shape[1]]
        rows, positions = upload(self.head_positions, outputs.device)
        return outputs[rows, positions]

    def mask(self) -> "torch.Tensor":
        """(rows, tokens) int64, 1 where a token is real."""
        import torch

        found = self.inputs.get("attention_mask")
        return found if found is not None else torch.ones_like(self.inputs["input_ids"])


class NoDefaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The settings of a task that has none in the contract."""


class Task(ABC, Generic[Item, Parameters, Context]):
    """One task. Subclasses set the class variables and are used as single, stateless objects.

    name: a row of `registry.heads.HEADS`. item_type: msgspec type of one input. parameters_type: msgspec Struct of the
    request's `parameters`. defaults_type: msgspec Struct of the contract's settings for the task. example: inputs that
    show the task, recorded when a model is logged without an example. example_parameters: parameters of the example.
    takes_files: whether a body that is not a JSON object is itself the one input. generates: whether rows are generated
    token by token; then each row of an item is one of its texts, and `decode` gets the arrays that
    `serving.tasks.base.generated_text.Text.read` reads. item_hint: what to send, for the error message about an input
    of the wrong type. embeds: whether an answer is a vector of the input. ranks: whether an input may be a query with
    texts to rank. takes_pairs: whether each row is a pair of texts. unsupported: parameters that the task's published
    interface names and that are refused here, with the values of each that ask for nothing.
    """

    name: str
    item_type: ClassVar[type | UnionType] = str
    parameters_type: type[Parameters]
    defaults_type: ClassVar[type[msgspec.Struct]] = NoDefaults
    example: ClassVar[Sequence[object]]
    example_parameters: ClassVar[Mapping[str, object]] = {}
    takes_files: ClassVar[bool] = False
    embeds: ClassVar[bool] = False
    ranks: ClassVar[bool] = False
    takes_pairs: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    item_hint: ClassVar[str] = "send text; the server tokenizes, pads and batches it itself"

    @property
    def head(self) -> Head:
        """The AutoModel class and mapping table of the task."""
        return get_head(self.name)

    def defaults(self, folder: Path, given: Mapping[str, object]) -> dict[str, Any]:
        """The contract's task settings: `given` over what the checkpoint's folder says. Raises ContractError.

        Numbers and booleans may be given as text, as a command line has them.
        """
        known = self.defaults_type.__struct_fields__
        unknown = sorted(given.keys() - set(known))
        if unknown:
            raise ContractError(f"{self.name} has no default {unknown[0]!r}; it has: {', '.join(known) or 'none'}")
        try:
            settings = msgspec.convert(self.folder_settings(folder) | dict(given), self.defaults_type, strict=False)
        except msgspec.ValidationError as error:
            raise ContractError(f"a default of {self.name} breaks its rule: {error}{self._choices(error)}") from error
        record: dict[str, Any] = msgspec.to_builtins(settings)
        return record

    def _choices(self, error: Exception) -> str:
        """The allowed values of the setting in msgspec's message, where it is a Literal."""
        hint = get_type_hints(self.defaults_type).get(str(error).rpartition("$.")[2].rstrip("`"))
        literals = [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]
        return f"; choose one of: {', '.join(map(str, get_args(literals[0])))}" if literals else ""

    def folder_settings(self, folder: Path) -> dict[str, object]:
        """The task's settings that files in a checkpoint's folder state."""
        return {}

    def problem(self, contract: Contract) -> str | None:
        """Why a checkpoint with this contract cannot do the task after all, and what to do; None where it can."""
        return None

    def compare(self, processor: "ProcessorMixin", contract: Contract) -> str | None:
        """How a front's reading of inputs differs from that of transformers' `processor`, and what to do; or None."""
        return None

    def make_version_context(self, folder: Path, contract: Contract) -> VersionContext:
        """Read the front's side of a version from its `save_pretrained` folder. Blocks for some milliseconds."""
        defaults = msgspec.convert(contract.defaults, self.defaults_type)
        return VersionContext(contract, self.make_encoder(folder, contract), defaults)

    def make_encoder(self, folder: Path, contract: Contract) -> "TextEncoder | ImageReader":
        """What turns inputs into rows: the tokenizer, for text."""
        from serving.processors.tokenizer import TextEncoder

        return TextEncoder(folder, contract)

    def make_example(self, version: VersionContext) -> list[object]:
        """The inputs of the example request of a model logged without one."""
        return list(self.example)

    def make_example_parameters(self, contract: Contract) -> dict[str, Any]:
        """The parameters of the example request of a model logged without an example."""
        return dict(self.example_parameters)

    def prepare(self, model: "PreTrainedModel", contract: Contract) -> None:  # most tasks need nothing
        """Set what the loaded model needs before its first forward pass. Engine side."""

    def has_tokens(self, batch_key: str) -> bool:
        """Whether `forward`'s arrays for this key are (rows, tokens, …) and so are cut to each row's length."""
        return False

    def needed_parameters(self, contract: Contract) -> Sequence[str]:
        """The parameters without which no request is answered; each is a list of texts."""
        return ()

    def input_notes(self, version: VersionContext) -> Mapping[str, str]:
        """What a client must know to write an input, by name: such as the text of the mask token."""
        return {}

    def wraps_single_answer(self, item: Item) -> bool:
        """Whether the answer to a single input is a list of one, as in parts of the Hugging Face inference API."""
        return False

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """A row of `length` tokens like that of a request without parameters, for measuring."""
        return probe_text(contract, length)

    def predictions(self, answer: Any) -> Sequence[tuple[str, float]]:
        """(label, score in 0..1) of each prediction in an item's answer, for metrics; empty for unlabelled tasks."""
        return ()

    def text_before(self, decode_context: Context, parameters: Parameters) -> str:
        """What an answer has before each text of an item, of a task that generates."""
        return ""

    def agreement(self, one: Any, other: Any, contract: Contract) -> Agreement:
        """How far two versions' answers to one item agree. contract: of either, which have the same labels."""
        return Agreement(float(one == other))

    def is_repeatable(self, parameters: Parameters) -> bool:
        """Whether the same version gives the same answer again, so that answers of two versions can be compared."""
        return True

    def scoring(self, contract: Contract) -> "Scoring | None":
        """How answers are compared with labels; None for a task without a standard metric."""
        return None

    def has_scoring(self) -> bool:
        """Whether the task has a standard metric."""
        return type(self).scoring is not Task.scoring

    def cost(self, item: Item, parameters: Parameters, version: VersionContext) -> ItemCost:
        """What one input expands to, at most. Builds nothing of it; takes no time that grows with the input's text."""
        return ItemCost(1, count_characters(item))

    def answer_bytes(self, encoded: Encoded[Context], parameters: Parameters, version: VersionContext) -> int:
        """The memory that one input's answer takes while it is written, at most; before the model runs.

        The memory that `decode` takes beside the answer counts, too.
        """
        return OBJECT_BYTES * len(encoded.rows)

    @abstractmethod
    def encode(self, item: Item, parameters: Parameters, version: VersionContext) -> Encoded[Context]:
        """Rows for one item; raises Unprocessable, naming field and rule."""

    def collate(self, rows: Sequence[Row], contract: Contract) -> dict[str, AnyArray]:
        """The model's arguments for rows of one batch key, as arrays whose first dimension is the rows. Engine side."""
        return pad_rows(rows, contract.processor.pad_token_id)

    def head_positions(self, payloads: Sequence[bytes]) -> AnyArray | None:
        """The tokens for which `forward` needs the head's outputs, where these are few; None for all. Engine side.

        (2, tokens) int64, the row and the position in it of each token.
        """
        return None

    @abstractmethod
    def forward(self, model: "PreTrainedModel", batch: Batch) -> tuple["torch.Tensor", ...]:
        """The head's small arrays on the device, first dimension rows.

        Must not synchronize with the device: it reads no value there, and adds arrays by `upload`.
        """

    @abstractmethod
    def decode(
        self, rows: Sequence[RowArrays], decode_context: Context, parameters: Parameters, version: VersionContext
    ) -> Any:
        """The answer to one item, plain data for JSON, from its rows in order."""


AnyTask: TypeAlias = Task[Any, Any, Any]
"""A task where it does not matter which."""


def upload(array: AnyArray, device: "torch.device") -> "torch.Tensor":
    """The array as a tensor on the device. Does not wait for the copy to a GPU. Engine side."""
    import torch

    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def probe_text(contract: Contract, length: int, batch_key: str = "", payload: bytes = b"") -> EncodedRow:
    """A row of `length` ordinary tokens that ends with the end token, if the contract has one."""
    special = {contract.processor.pad_token_id, contract.processor.eos_token_id, contract.processor.mask_token_id}
    ordinary = [token for token in range(min(contract.processor.vocabulary, 64)) if token not in special]
    ids = numpy.resize(numpy.asarray(ordinary or [0], dtype=numpy.int32), length)
    if contract.processor.eos_token_id is not None:
        ids[-1] = contract.processor.eos_token_id
    return EncodedRow(length, ids.tobytes(), batch_key=batch_key, payload=payload)
