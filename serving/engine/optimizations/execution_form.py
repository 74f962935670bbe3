"""How a loaded model is executed, as one frozen record: `optimize` returns it and a `Model` takes it in one step."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from registry.contract import Batching
from serving.engine.optimizations.torchscript import TracedModule

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

EAGER = "eager"


@dataclass(frozen=True)
class ExecutionForm:
    """The module that runs a model's forward passes, and the optimisations in use.

    module: called with the task's inputs; a `TracedModule` or `LeftPadded` may take its place. batching: which rows may
    share a forward pass. has_all_inputs: whether masks and token types are passed even where they say nothing.
    is_packed: rows come as a packed sequence, see `unpadded`. prunes_to_first_token: the last layer computes first
    tokens only, see `first_token`. computes_masks_only: of a packed form, whether the head computes only the tokens of
    `Task.head_positions`. has_block_attention: short rows share attention blocks, see `attention`.
    is_bucketed: packed batches and prompts are padded to bucket sizes, see `packing.bucket_size`. is_torchscript:
    forward passes, or decode steps of a generating task, run as a TorchScript graph. shares_prefixes: of a generating
    task, whether the first tokens that prompts have in common are computed once, see `generation.prefix_cache`.
    cuda_graph_tokens: tokens of the largest batch that runs as a CUDA graph, or 0. int8_layers: linear layers that
    multiply in int8.
    """

    module: "PreTrainedModel"
    batching: Batching = "any lengths"
    has_all_inputs: bool = False
    is_packed: bool = False
    prunes_to_first_token: bool = False
    computes_masks_only: bool = False
    has_block_attention: bool = False
    is_bucketed: bool = False
    is_torchscript: bool = False
    shares_prefixes: bool = False
    cuda_graph_tokens: int = 0
    int8_layers: int = 0

    @property
    def is_thread_safe(self) -> bool:
        """Whether several threads may call the module at once: a graph does not hold the GIL, Python modules do."""
        return isinstance(self.module, TracedModule)

    @property
    def eager(self) -> "ExecutionForm":
        """The same form without its graph: the module runs in Python."""
        module = self.module
        return replace(self, module=module.plain, is_torchscript=False) if isinstance(module, TracedModule) else self

    def describe(self) -> str:
        """The optimisations by name, "eager" where there is none."""
        names = {
            "packed sequences": self.is_packed,
            "first-token pruning": self.prunes_to_first_token,
            "the head at masks": self.computes_masks_only,
            "TorchScript": self.is_torchscript,
            "shared prefixes": self.shares_prefixes,
            f"int8 in {self.int8_layers} layers": self.int8_layers > 0,
            f"CUDA graphs up to {self.cuda_graph_tokens} tokens": self.cuda_graph_tokens > 0,
        }
        return ", ".join(name for name, is_used in names.items() if is_used) or EAGER
