"""A model in the caller's process: request → answer, one item at a time, with the server's own task code.

An engine checks a loaded version with it, logging records the example's output with it, and MLflow's `python_function`
and `evaluation` answer with it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import msgspec

from registry.artifact import read_contract
from registry.contract import INT8, Baseline, Batching, Contract, Int8
from registry.errors import UnreadableArtifact
from registry.int8_sample import read_sample
from registry.layout import MODEL_FOLDER
from registry.sentence_folder import WEIGHTS
from registry.verified import is_weights, open_verified
from serving.engine.answer_check import find_difference
from serving.engine.assembly import make_model, prove, quantize
from serving.engine.baseline import BaselineCount
from serving.engine.model import ModelOptions
from serving.engine.row_limit import find_row_limit
from serving.errors import Failed
from serving.tasks.base.example import fit_example
from serving.tasks.base.request import Request, assemble, convert_request


class Predictor:
    """The artifact at `root`, loaded. Not thread-safe."""

    def __init__(self, root: Path, contract: Contract | None = None, **options: Unpack[ModelOptions]) -> None:
        """Arguments and errors as of `Model`. contract: the artifact's own if None. Blocks.

        Raises DigestMismatch or UnsafeArtifact for files that are not those of the contract.
        """
        self.contract = contract or read_contract(root)
        form = options.get("form")
        layers = {f"{MODEL_FOLDER}/{layer.folder}/{WEIGHTS}" for layer in self.contract.layers}
        with open_verified(
            root, self.contract.files, lambda name: form is None or name in layers or not is_weights(name)
        ) as folder:
            self.model = make_model(folder, self.contract, **options)
            is_quantized = self.model.dtype == INT8 and form is None
            self.int8_sample = read_sample(folder / MODEL_FOLDER) if is_quantized else []
        self._version_context = self.model.version_context

    def answer(self, inputs: object, parameters: dict[str, Any] | None = None) -> Any:
        """The answer to a request, each item in a forward pass of its own. Raises ServingError."""
        task = self.model.task
        request = convert_request(inputs, parameters, task, max_rows=1_000_000)
        answers = [self._answer(item, request)[0] for item in request.items]
        return assemble(answers, request, task)

    def baseline(self, sample: Sequence[object]) -> Baseline:
        """The distribution of the model's answers to a sample of inputs. Raises ServingError where it refuses one."""
        request = convert_request(list(sample), None, self.model.task, max_rows=1_000_000)
        count = BaselineCount(self.contract.labels)
        for item in request.items:
            answer, lengths = self._answer(item, request)
            count.add(self.model.task.predictions(answer), lengths)
        return count.shares()

    def _answer(self, item: object, request: Request) -> tuple[object, list[int]]:
        """An item's answer, and the tokens of each of its rows."""
        encoded = self.model.task.encode(item, request.parameters, self._version_context)
        arrays = [self.model.run([row.to_row(0, 0.0)])[0] for row in encoded.rows]
        answer = self.model.task.decode(arrays, encoded.decode_context, request.parameters, self._version_context)
        return answer, [row.length for row in encoded.rows]

    def example(self, inputs: object, parameters: dict[str, object]) -> dict[str, object]:
        """The contract's record of an example: `inputs` (the task's own if None), `parameters` and the answer.

        The task's own inputs are shortened to what the model takes. Raises ServingError where it refuses
        `inputs`, UnreadableArtifact where the model fails on them.
        """
        task = self.model.task
        parameters = parameters or task.make_example_parameters(self.contract)
        inputs = fit_example(task, self._version_context, parameters) if inputs is None else inputs
        try:
            return {"inputs": inputs, "parameters": parameters, "output": self.answer(inputs, parameters)}
        except Failed as error:
            raise UnreadableArtifact(
                f"the model fails on the example ({error}): check its weights, and config.json for wrong values, and "
                "save both again with save_pretrained"
            ) from error

    def prove(self) -> tuple[int, Batching]:
        """The longest row that the model takes, at most the contract's, and which rows may share a forward pass.

        Blocks for some twenty forward passes. Raises ContractError or EngineError where it cannot be relied on.
        """
        limit = find_row_limit(self.model)
        self.model.contract = msgspec.structs.replace(self.contract, max_tokens=limit)
        prove(self.model)
        return limit, self.model.form.batching

    def quantize(self) -> Int8:
        """Run the model in int8 from now on, on any processor; what that costs in answers, see `int8`. Blocks.

        The model must have been loaded for int8. Raises Int8Refused where it costs too much.
        """
        prove(self.model)
        return quantize(self.model, self.int8_sample, is_timed=False)

    def find_difference(self) -> str | None:
        """How the answer to the contract's example differs from the recorded one; None where it agrees or is absent."""
        example = self.contract.example
        if example is None:
            return None
        found = self.answer(example.inputs, example.parameters)
        return find_difference(example.output, found, self.model.dtype)
