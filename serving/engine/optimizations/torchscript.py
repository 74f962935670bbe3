"""The forward pass as a TorchScript graph: the same kernels in the same order, without Python between them.

Transformers spends about 0.7 ms of Python on a layer's modules and on the mask (AMD EPYC, float32), a graph a fifth of
it. A graph repeats what the model did once, so the model may not branch on values, and must do the same operations for
few short rows as for many long ones.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from serving.engine.module_state import ModuleState
from serving.engine.optimizations.torch_private import operations_of
from serving.engine.tolerances import FORWARD_PASS, agree

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

Inputs = Mapping[str, torch.Tensor]
Graph = Callable[..., dict[str, torch.Tensor]]
DEFAULT_INPUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "attention_mask": torch.ones_like,
    "token_type_ids": torch.zeros_like,
}
"""The value of an input that is left out, computed from the token ids."""


def are_alike(found: torch.Tensor, expected: torch.Tensor, dtype: object) -> bool:
    """Whether a form's output may replace the model's. dtype: of the model, torch's or by name."""
    return agree(found, expected, FORWARD_PASS.of(dtype))


class NotTraceable(Exception):
    """A graph would not do what the model does; the message says why."""


class TracedModule:
    """A module with graphs for the inputs that it was traced with; it runs itself for any others.

    names: of the inputs of each graph. plain: the module itself.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        graphs: Mapping[tuple[str, ...], Graph],
        script: torch.jit.ScriptModule | None = None,
    ) -> None:
        """graphs: by the names of their inputs in order; the last one takes a subset of its inputs, too.

        script: what the graphs were frozen from, for `kept_graph` to save.
        """
        self.script = script
        self.names = list(graphs)
        self.plain = module
        self._graphs = graphs

    def __getattr__(self, name: str) -> object:
        return getattr(self.plain, name)

    def __call__(self, **inputs: torch.Tensor) -> "SimpleNamespace | ModelOutput":
        """The model's outputs by name, without those that no task reads."""
        names = tuple(inputs) if tuple(inputs) in self._graphs else self.names[-1]
        if not inputs.keys() <= set(names):
            return self.plain(**inputs)
        if len(inputs) < len(names):
            ids = inputs["input_ids"]
            inputs = {name: inputs[name] if name in inputs else DEFAULT_INPUTS[name](ids) for name in names}
        return SimpleNamespace(**self._graphs[names](*inputs.values()))


def trace(module: torch.nn.Module, *examples: Inputs) -> TracedModule:
    """The module with a graph for the inputs of each example, of which the last has all inputs there are.

    examples: at most as many as `METHODS`. Raises whatever tracing does.
    """
    given = {tuple(inputs): tuple(inputs.values()) for inputs in examples}
    named = _NamedOutputs(module, list(given)).eval()
    with single_threaded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecation, and of shapes that are read, which `check_operations` checks
        traced = torch.jit.trace_module(  # type: ignore[no-untyped-call]
            named, dict(zip(METHODS, given.values(), strict=False)), check_trace=False, strict=False
        )
        graphs = freeze(traced, list(given))
        for names, inputs in given.items():
            graphs[names](*inputs)  # the first run optimises it
    return TracedModule(module, graphs, traced)


def freeze(script: torch.jit.ScriptModule, names: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], Graph]:
    """The graphs of a script that `trace` made, their weights as constants. names: of the inputs of each graph."""
    methods = METHODS[: len(names)]
    frozen = torch.jit.freeze(script, preserved_attrs=list(methods))
    return {each: getattr(frozen, method) for each, method in zip(names, methods, strict=True)}


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread of torch's for many small steps: waking a thread for each of them takes longer than the steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


METHODS = ("first", "second")
"""The methods of a script, a graph each."""


class _NamedOutputs(torch.nn.Module):
    """The module with a plain dict of tensors as its output, which a graph can return.

    It registers the module's parameters and buffers and no submodules: TorchScript makes a type for each submodule,
    which takes most of the time of a trace and a freeze. names: of the inputs of each graph.
    """

    OUTPUTS = ("logits", "last_hidden_state", "start_logits", "end_logits")

    def __init__(self, module: torch.nn.Module, names: Sequence[Sequence[str]]) -> None:
        super().__init__()
        for number, parameter in enumerate(module.parameters()):
            self.register_parameter(f"parameter_{number}", parameter)
        for number, buffer in enumerate(module.buffers()):
            self.register_buffer(f"buffer_{number}", buffer)
        self._module = (module,)  # so it is no part of this one
        self._names = names

    def first(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._run(0, inputs)

    def second(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._run(1, inputs)

    def _run(self, graph: int, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        (module,) = self._module
        output = module(**dict(zip(self._names[graph], inputs, strict=True)))
        return {name: output[name] for name in self.OUTPUTS if name in output}


def check_operations(module: torch.nn.Module, *inputs: Inputs) -> None:
    """Raises NotTraceable where inputs of one shape cost other operations than those of another.

    Runs on tensors without data; what the model keeps of them is taken away again (CTRL moves its positions to their
    device in each forward pass). Raises torch's errors where the model branches on values, and MissingName.
    """
    state = ModuleState(module)
    try:
        first, *others = (operations_of(module, each) for each in inputs)
    finally:
        state.restore()
    if any(other != first for other in others):
        raise NotTraceable("what it does depends on how many or how long its rows are")
