"""The artifact as MLflow's `python_function`: what `mlflow.pyfunc.load_model` and `mlflow models serve` load.

Also the hook by which logging asks the artifact for its example's answer (`registry.layout.LOADER`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.contract import INT8, Contract, Int8
from registry.errors import RegistryError
from serving.engine.local_engine import LocalEngine
from serving.engine.optimizations.torch_private import MissingName
from serving.engine.predictor import Predictor
from serving.errors import EngineError, ServingError
from serving.model_signature import given_params, make_signature
from serving.tasks import get_task
from serving.tasks.base.columns import check_names, to_inputs
from serving.tasks.base.task import AnyTask

if TYPE_CHECKING:
    from mlflow.models import Model

REFUSALS = (RegistryError, ServingError, EngineError)
"""What the functions here raise by design: its message says what to do."""


def load(root: Path, contract: Contract | None = None) -> Predictor:
    """The artifact in float32 on the CPU for the few answers that logging records: not prepacked, which takes long.

    contract: instead of the recorded one.
    """
    return Predictor(root, contract, prepacks=False)


def try_int8(root: Path, contract: Contract) -> Int8:
    """What int8 costs in answers, on the artifact's sample; with a refusal where it is too much. Blocks."""
    try:
        return Predictor(root, contract, dtype=INT8).quantize()
    except (EngineError, MissingName) as error:
        return Int8(refusal=str(error))


def task_defaults(task: str, folder: Path, given: dict[str, object]) -> dict[str, object]:
    """The task's part of the contract for a checkpoint's folder; raises ContractError."""
    return get_task(task).defaults(folder, given)


def compare(task: str, processor: object, contract: Contract) -> str | None:
    """How a tokenizer or image processor differs from the contract, and what to do; None where they agree."""
    return get_task(task).compare(processor, contract)


def describe(contract: Contract, mlflow_model: "Model", root: Path) -> None:
    """Add what MLflow tells of a model to its record: the signature, an input example, which it writes to `root`, and
    metadata. A signature of another flavor goes, because `PyFunc` answers now. Raises ContractError for a contract
    without an example.
    """
    from mlflow.models.utils import _save_example  # as MLflow's own flavors do

    mlflow_model.signature = make_signature(contract)
    mlflow_model.metadata = {**(mlflow_model.metadata or {}), "task": contract.task, "head": contract.model_class}
    example = contract.example
    if example is not None:
        given = example.parameters
        _save_example(mlflow_model, (example.inputs, given) if given else example.inputs, str(root))


class PyFunc:
    """`predict` of MLflow's python_function."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    # model_input stays without a type: MLflow would take one for a schema and check inputs against it
    def predict(self, model_input, params: dict[str, Any] | None = None) -> list[Any]:  # type: ignore[no-untyped-def]
        """One answer per input, in order; computed together, in batches, as a server does.

        model_input: a text, a list of the task's inputs, or a pandas DataFrame whose columns are read as
        `serving.tasks.base.columns` says. params: the request's parameters.
        """
        return self._engine.answer(_to_inputs(model_input, self._engine.loaded.model.task), given_params(params))


def _load_pyfunc(path: str) -> PyFunc:
    """MLflow's hook; `path` is the artifact's folder."""
    return PyFunc(LocalEngine(Path(path)))


def _to_inputs(model_input: Any, task: AnyTask) -> list[object]:
    if hasattr(model_input, "columns"):
        check_names([*map(str, model_input.columns)])
        return to_inputs({str(name): [*map(_plain, model_input[name])] for name in model_input.columns}, task)
    return list(model_input) if isinstance(model_input, list | tuple) else [model_input]


def _plain(value: object) -> object:
    """A table's value with a list for an array, as Spark and Arrow give one."""
    return value.tolist() if hasattr(value, "tolist") else value
