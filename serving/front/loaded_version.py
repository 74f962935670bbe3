"""A version as a front serves it: contract, task, tokenizer, links to its engines, meter."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from registry.contract import Contract
from registry.layout import MODEL_FOLDER
from registry.verified import is_weights, open_verified
from serving.errors import NotReady, ServingError
from serving.front.engine_link import EngineLink
from serving.front.meter import FrontMeter
from serving.front.turns import ANSWERS, IMAGES, TEXTS, Turns
from serving.processors.tokenizer import LONG_CHARACTERS
from serving.tasks import get_task
from serving.tasks.base.bounds import RequestBounds, check_cost
from serving.tasks.base.cost import ItemCost
from serving.tasks.base.request import Request, assemble
from serving.tasks.base.task import AnyTask, VersionContext
from serving.wire.messages import Encoded, RowArrays

LARGE_ANSWER_BYTES = 1 << 19
"""Memory of an answer that a thread decodes and writes. Untuned: so many numbers or objects take some milliseconds."""
PREDICTIONS_A_TURN = 1024
"""Predictions that are counted before the event loop runs others. Untuned: each takes about a microsecond."""

Value = TypeVar("Value")


@dataclass
class LoadedVersion:
    """One loaded version. links: of its engines, by address. accepting: those that take new requests."""

    model: str
    version: str
    contract: Contract
    task: AnyTask
    served: VersionContext
    meter: FrontMeter
    links: dict[str, EngineLink] = field(default_factory=dict)
    accepting: list[EngineLink] = field(default_factory=list)

    @classmethod
    def load(cls, model: str, version: str, root: Path, contract: Contract) -> "LoadedVersion":
        """Read the version's tokenizer. Blocks for some milliseconds; runs in a thread. Raises ArtifactError."""
        task = get_task(contract.task)
        with open_verified(root, contract.files, lambda name: not is_weights(name)) as folder:
            served = task.serve(folder / MODEL_FOLDER, contract)
        return cls(
            model=model,
            version=version,
            contract=contract,
            task=task,
            served=served,
            meter=FrontMeter(model, version, contract.task, contract.labels),
        )

    def choose_link(self) -> EngineLink:
        """The link to the engine with the fewest outstanding tokens. Raises NotReady."""
        if not self.accepting:
            raise NotReady(
                f"no engine of {self.model}/{self.version} takes requests: it is leaving or being restarted, try again",
                retry_seconds=1.0,
            )
        if len(self.accepting) == 1:
            return self.accepting[0]
        return min(self.accepting, key=lambda link: link.outstanding_tokens)

    async def encode(self, request: Request, bounds: RequestBounds, turns: Turns) -> list[Encoded[object]]:
        """The rows of each item, in order.

        Raises TooLarge before anything is built, ServingError, which names the item, and what `turns` raises.
        """
        task, version, parameters = self.task, self.served, request.parameters
        cost = check_cost(request, task, version, bounds)
        rows = answer_bytes = 0
        encoded: list[Encoded[object]] = []
        for index, item in enumerate(request.items):
            if index and turns.is_over():
                await turns.give()
            try:
                if self.contract.processor.image is not None:  # decoding a large image takes milliseconds
                    found = await turns.hand_over(IMAGES, task.encode, item, parameters, version)
                elif cost.characters > LONG_CHARACTERS and _is_long(task.cost(item, parameters, version)):
                    found = await turns.hand_over(TEXTS, task.encode, item, parameters, version)
                else:
                    found = task.encode(item, parameters, version)
            except ServingError as error:
                if request.is_list:
                    error.message = error.message.replace("inputs", f"inputs[{index}]", 1)
                raise
            rows += len(found.rows)  # of a text in windows there are more than `cost` knows
            bounds.check_rows(rows)
            answer_bytes += task.answer_bytes(found, parameters, version)
            bounds.check_answer(answer_bytes)
            encoded.append(found)
        return encoded

    async def decode(
        self,
        request: Request,
        encoded: list[Encoded[object]],
        arrays: list[RowArrays],
        turns: Turns,
        write: Callable[[Any], Value],
    ) -> Value:
        """The answer, as `write` makes it. Its labels are counted. Raises what `turns` raises."""
        answers: list[Any] = []
        first = total_bytes = 0
        for item in encoded:
            if answers and turns.is_over():
                await turns.give()
            rows = arrays[first : first + len(item.rows)]
            first += len(item.rows)
            size = self.task.answer_bytes(item, request.parameters, self.served)
            total_bytes += size
            given = (rows, item.decode_context, request.parameters, self.served)
            if size > LARGE_ANSWER_BYTES:
                answers.append(await turns.hand_over(ANSWERS, self.task.decode, *given))
            else:
                answers.append(self.task.decode(*given))
        for answer in answers:
            predictions = self.task.predictions(answer)
            for start in range(0, len(predictions), PREDICTIONS_A_TURN):
                if start and turns.is_over():
                    await turns.give()
                self.meter.observe_predictions(predictions[start : start + PREDICTIONS_A_TURN])
        answer = assemble(answers, request, self.task)
        if total_bytes > LARGE_ANSWER_BYTES:
            return await turns.hand_over(ANSWERS, write, answer)
        return write(answer)


def _is_long(cost: ItemCost) -> bool:
    return cost.characters > LONG_CHARACTERS
