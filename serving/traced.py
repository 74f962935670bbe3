"""The forward pass as a TorchScript graph: the same kernels in the same order, without Python between them.

Transformers spends about 0.7 ms of Python on a layer's modules and on the mask (AMD EPYC, float32), a graph a fifth.
A graph is only what the model did once, so it may stand for the model only where the model would do the same with any
rows. That is checked in two ways. Run on tensors without data, the model may not look at values, and must do the same
operations for few short rows as for many longest ones. And the graph must answer as the model does: for rows alone,
equal and padded, and for a longest one. Where a model fails, or tracing does, it runs module by module as before.
"""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from serving.messages import Row
from serving.model import Model

logger = logging.getLogger("headwaiter.engine")

Inputs = Mapping[str, torch.Tensor]
FILL: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "attention_mask": torch.ones_like,
    "token_type_ids": torch.zeros_like,
}
"""What an input that is left out means, from the token ids."""
SHORT_TOKENS = 11
"""Length of the rows that are traced; ours: no length that a model would treat in a special way."""
SAME = {"aten.alias.default": "aten.slice.Tensor"}
"""A slice of everything is an alias."""
TOLERANCE = 1e-4
LOW_PRECISION_TOLERANCE = 1e-2


class NotTraceable(Exception):
    """The graph would not stand for the model; the message says why."""


class TracedModule:
    """A module that is called with the inputs that it was traced with, or with some of them; else it is the module."""

    def __init__(self, module: torch.nn.Module, graphs: Mapping[tuple[str, ...], Any]) -> None:
        """graphs: by the names of their inputs in order; the last one takes what the others do not."""
        self._module = module
        self.graphs = graphs
        self._names = list(graphs)[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """The model's output by name, without what no task reads."""
        names = tuple(inputs) if tuple(inputs) in self.graphs else self._names
        if inputs.keys() <= set(names):
            return SimpleNamespace(**self.run(names, inputs))
        return self._module(**inputs)

    def run(self, names: tuple[str, ...], inputs: Inputs) -> dict[str, torch.Tensor]:
        """The output of one graph; inputs: some of its own, the token ids among them."""
        if len(inputs) < len(names):
            inputs = {name: inputs[name] if name in inputs else FILL[name](inputs["input_ids"]) for name in names}
        outputs: dict[str, torch.Tensor] = self.graphs[names](*inputs.values())
        return outputs


@torch.inference_mode()
def trace_model(model: Model) -> None:
    """Let a model on the CPU run as a graph from now on, where that is the same. Blocks for several forward passes.

    Changes torch's TorchScript executor to the one that does not make a program for each shape.
    """
    if model.device.type != "cpu" or model.task.generates:
        return  # a GPU is not kept waiting by Python for long, and writing has its own loop
    torch._C._jit_set_profiling_executor(False)  # torch has no public way
    try:
        model.module = _trace(model)
    except Exception as error:  # tracing may raise anything, and the model can be served without
        reason = str(error) if isinstance(error, NotTraceable) else f"{type(error).__name__}: {error}"
        logger.info("the model runs module by module: %s", reason.partition("\n")[0])


def _trace(model: Model) -> TracedModule:
    module = model.module
    longest = model.contract.max_tokens
    short = min(SHORT_TOKENS, longest)
    alike = _inputs(model, [short, short], types=False)
    mixed = _inputs(model, [short, max(1, short - 3)], types=True)
    large = _inputs(model, [longest, *[max(1, longest - 1)] * 3], types=True)
    if _operations(module, mixed) != _operations(module, large):
        raise NotTraceable("what it does depends on how many or how long its rows are")
    traced = TracedModule(module, {tuple(inputs): _graph(module, inputs) for inputs in (alike, mixed)})
    for lengths, types in (
        ((1,), False),
        ((short + 6,) * 3, True),
        ((short + 4, 5, short - 1), True),
        ((longest,), False),
    ):
        inputs = _inputs(model, [max(1, min(length, longest)) for length in lengths], types=types)
        expected = module(**inputs)
        for names in traced.graphs:
            if inputs.keys() <= set(names):
                _compare(expected, traced.run(names, inputs), inputs)
    return traced


def _inputs(model: Model, lengths: Sequence[int], *, types: bool) -> dict[str, torch.Tensor]:
    """What the task calls the model with, for rows of these lengths with random ordinary tokens."""
    rows = [_row(model, length, index, types) for index, length in enumerate(lengths)]
    try:
        model.task.forward(_Recorder(model.module), model.batch(rows))
    except _Recorded as recorded:
        return recorded.inputs
    raise NotTraceable("the task calls a part of it only")


def _row(model: Model, length: int, index: int, types: bool) -> Row:
    """A row like the task's probe, its tokens in another order for each index; types: the second half is of type 1."""
    contract = model.contract
    row = model.task.probe(contract, length).to_row(index, 0.0)
    if contract.processor.image is not None:
        return row
    ids = numpy.frombuffer(row.tokens, dtype=numpy.int32).copy()
    ordinary = ids[:-1]  # the last one may be what a text ends with
    ordinary[:] = numpy.random.default_rng(index).permuted(ordinary)
    has_types = types and "token_type_ids" in contract.processor.inputs
    kinds = bytes(length - length // 2) + b"\1" * (length // 2) if has_types else b""
    return msgspec.structs.replace(row, tokens=ids.tobytes(), types=kinds)


class _Recorded(Exception):
    """What the module is called with."""

    def __init__(self, inputs: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.inputs = inputs


class _Recorder:
    """Stands for the module until it is called."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        raise _Recorded(inputs)


class _Named(torch.nn.Module):
    """The module with a plain dict of tensors as its output, as a graph can give it."""

    OUTPUTS = ("logits", "last_hidden_state", "start_logits", "end_logits")

    def __init__(self, module: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self._names = names

    def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        output = self.module(**dict(zip(self._names, inputs, strict=True)))
        return {name: output[name] for name in self.OUTPUTS if name in output}


def _graph(module: torch.nn.Module, inputs: Inputs) -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small steps: to wake a thread for each takes longer
    try:
        with warnings.catch_warnings():  # that it is deprecated, and of each look at a shape: both are taken care of
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                _Named(module, list(inputs)).eval(), tuple(inputs.values()), check_trace=False, strict=False
            )
            graph = torch.jit.freeze(traced)
        graph(*inputs.values())  # the first run optimises it
        return graph
    finally:
        torch.set_num_threads(threads)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Writes down every operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(SAME.get(str(func), str(func)))
        return func(*args, **(kwargs or {}))


def _operations(module: torch.nn.Module, inputs: Inputs) -> list[str]:
    """The operations for inputs of these shapes. Raises torch's errors where the model looks at values."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, _Operations() as operations:
        module(**{name: fake.from_tensor(tensor) for name, tensor in inputs.items()})
    seen: list[str] = operations.seen
    return seen


def _compare(expected: Any, found: Inputs, inputs: Inputs) -> None:
    for name, values in found.items():
        wanted = expected[name].float()
        tolerance = TOLERANCE if values.dtype == torch.float32 else LOW_PRECISION_TOLERANCE
        if not torch.allclose(values.float(), wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max())):
            shape = tuple(next(iter(inputs.values())).shape)
            raise NotTraceable(f"the graph's {name} differ for rows of shape {shape}")
