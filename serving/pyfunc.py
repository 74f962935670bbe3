"""The artifact as MLflow's `python_function`: what `mlflow.pyfunc.load_model` and `mlflow models serve` load.

Also the hook by which logging asks the artifact for its example's answer (`registry.layout.LOADER`).
"""

from pathlib import Path
from typing import Any

from registry.contract import Contract
from registry.errors import RegistryError
from serving.engine.predictor import Predictor
from serving.errors import EngineError, ServingError
from serving.tasks import get_task
from serving.tasks.base.columns import to_inputs
from serving.tasks.base.task import AnyTask

REFUSALS = (RegistryError, ServingError, EngineError)
"""What the functions here raise by design: its message says what to do."""


def load(root: Path, contract: Contract | None = None) -> Predictor:
    """The artifact in float32 on the CPU for the few answers that logging records: not prepacked, which takes long.

    contract: instead of the recorded one.
    """
    return Predictor(root, contract, prepacks=False)


def task_defaults(task: str, folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The task's part of the contract for a checkpoint's folder; raises ContractError."""
    return get_task(task).defaults(folder, given)


def compare(task: str, processor: Any, contract: Contract) -> str | None:
    """How a tokenizer or image processor differs from the contract, and what to do; None where they agree."""
    return get_task(task).compare(processor, contract)


class PyFunc:
    """`predict` of MLflow's python_function."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    # model_input stays without a type: MLflow would take one for a schema and check inputs against it
    def predict(self, model_input, params: dict[str, Any] | None = None) -> list[Any]:  # type: ignore[no-untyped-def]
        """One answer per input, in order.

        model_input: a text, a list of the task's inputs, or a pandas DataFrame whose columns are read as
        `serving.tasks.base.columns` says. params: the request's parameters.
        """
        inputs = _to_inputs(model_input, self._predictor.model.task)
        return [self._predictor.answer([entry], params or None)[0] for entry in inputs]


def _load_pyfunc(path: str) -> PyFunc:
    """MLflow's hook; `path` is the artifact's folder."""
    return PyFunc(Predictor(Path(path)))


def _to_inputs(model_input: Any, task: AnyTask) -> list[Any]:
    if hasattr(model_input, "columns"):
        return to_inputs({str(name): list(model_input[name]) for name in model_input.columns}, task)
    return list(model_input) if isinstance(model_input, list | tuple) else [model_input]
