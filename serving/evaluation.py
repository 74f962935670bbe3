"""A version's score on labelled examples, before it is promoted: a file of examples and what is required of them.

The examples are answered in this very process by the task's own code, as logging does it, one at a time in float32.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import ge, le
from pathlib import Path
from typing import Any

import msgspec

from registry.contract import Contract
from registry.errors import NotGoodEnough
from registry.history import Evaluation
from serving.errors import EvaluationError, ServingError
from serving.tasks.base.scoring import LOWER_IS_BETTER, Scoring

FORM = 'write {"inputs": …, "label": …} a line, as JSON'


class Labelled(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """An example: a request's inputs, its parameters if it needs any, and the right answer in the task's form."""

    inputs: Any
    label: Any
    parameters: dict[str, Any] = {}


@dataclass(frozen=True)
class Evaluator:
    """Scores a version, as `Versions.promote(…, evaluate=…)` asks for it.

    examples: at least one. required: metric → what it must reach; of an error such as `mae`, what it may reach at most.
    sha256: of the examples as JSON lines; it names them in the history.
    """

    examples: tuple[Labelled, ...]
    required: Mapping[str, float]
    sha256: str

    @classmethod
    def read(cls, path: Path, required: Mapping[str, float]) -> "Evaluator":
        """From a file with `{"inputs": …, "label": …}` a line; raises EvaluationError, which names the line."""
        lines = [(number, line) for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
        examples = []
        for number, line in lines:
            try:
                examples.append(msgspec.json.decode(line, type=Labelled))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise EvaluationError(f"{path}, line {number}: {error}; {FORM}") from error
        if not examples:
            raise EvaluationError(f"{path} has no examples: {FORM}")
        return cls.of(examples, required)

    @classmethod
    def of(cls, examples: Iterable[Labelled], required: Mapping[str, float]) -> "Evaluator":
        """From examples in memory; raises EvaluationError where there are none, or nothing is required of them."""
        found = tuple(examples)
        if not found or not required:
            raise EvaluationError(
                "give examples, and what is required of them: a metric and its bound, as accuracy=0.9"
            )
        digest = hashlib.sha256(b"\n".join(map(msgspec.json.encode, found))).hexdigest()
        return cls(found, dict(required), digest)

    def __call__(self, root: Path, contract: Contract) -> Evaluation:
        """The artifact's scores. Blocks. Raises EvaluationError, or NotGoodEnough where a requirement is missed."""
        scoring = self._scoring(contract)
        labels = [self._label(index, scoring) for index in range(len(self.examples))]
        predictions = self._predict(root, contract, scoring)
        values = {name: metric(predictions, labels) for name, metric in scoring.metrics.items()}
        self._check(values, contract)
        return Evaluation(
            examples=len(labels),
            sha256=self.sha256,
            values={name: round(value, 6) for name, value in values.items()},
            required={**self.required},
        )

    def _scoring(self, contract: Contract) -> Scoring:
        from serving.tasks import get_task, served_tasks

        scoring = get_task(contract.task).scoring(contract)
        if scoring is None:
            able = [name for name in served_tasks() if get_task(name).has_scoring()]
            raise EvaluationError(
                f"{contract.task} has no standard metric here, so it cannot be evaluated: promote it without; "
                f"the tasks that can be: {', '.join(able)}"
            )
        for name, bound in self.required.items():
            if name not in scoring.metrics:
                raise EvaluationError(
                    f"{contract.task} has no metric {name!r} for this model; it has: {', '.join(scoring.metrics)}"
                )
            if not math.isfinite(bound):
                raise EvaluationError(f"{name}={bound} is no bound: give a number")
        return scoring

    def _label(self, index: int, scoring: Scoring) -> object:
        label = self.examples[index].label
        try:
            label = msgspec.convert(label, scoring.label)
        except msgspec.ValidationError as error:
            raise EvaluationError(f"example {index + 1}: label {label!r} is not {scoring.hint}: {error}") from error
        for name in (label if isinstance(label, list) else [label]) if scoring.choices else ():
            if name not in scoring.choices:
                raise EvaluationError(
                    f"example {index + 1}: the model has no label {name!r}; it has: {', '.join(scoring.choices)}"
                )
        return scoring.settle(label)

    def _predict(self, root: Path, contract: Contract, scoring: Scoring) -> list[object]:
        from serving.engine.model import choose_device
        from serving.engine.predictor import Predictor

        predictor = Predictor(root, contract, device=choose_device("auto"))
        predictions = []
        for number, example in enumerate(self.examples, 1):
            parameters = {**scoring.parameters, **example.parameters}
            try:
                predictions.append(scoring.read(predictor.answer([example.inputs], parameters)[0]))
            except ServingError as error:
                raise EvaluationError(f"example {number} cannot be answered: {error}") from error
            except (KeyError, IndexError, TypeError) as error:
                raise EvaluationError(
                    f"example {number}: its answer is not of the kind that is scored; leave out parameters that change "
                    "its form"
                ) from error
        return predictions

    def _check(self, values: Mapping[str, float], contract: Contract) -> None:
        missed = []
        for name, bound in self.required.items():
            rule, is_met = ("at most", le) if name in LOWER_IS_BETTER else ("at least", ge)
            if not is_met(values[name], bound):
                missed.append(f"{name} is {values[name]:.4g}, required is {rule} {bound:g}")
        if missed:
            raise NotGoodEnough(
                f"the {contract.task} model misses what is required on {len(self.examples)} examples: "
                f"{'; '.join(missed)}. The alias stays where it is; promote a better version, or ask for less",
                missed,
            )
