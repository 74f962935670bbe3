"""A version as a front serves it: contract, task, tokenizer, links to its engines, meter."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.contract import Contract
from registry.layout import MODEL_FOLDER
from registry.verified import is_weights, open_verified
from serving.errors import NotReady, ServingError
from serving.front.engine_link import EngineLink
from serving.front.meter import FrontMeter
from serving.tasks import get_task
from serving.tasks.base.request import Request, assemble
from serving.tasks.base.task import AnyTask, VersionContext
from serving.wire.messages import Encoded, RowArrays

YIELD_SECONDS = 0.002
"""How long a request may encode or decode before the event loop runs others."""


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

    async def encode(self, request: Request) -> list[Encoded[object]]:
        """The rows of each item, in order. Raises ServingError, which names the item."""
        encoded, turn = [], time.perf_counter()
        for index, item in enumerate(request.items):
            if index and time.perf_counter() - turn > YIELD_SECONDS:
                await asyncio.sleep(0)
                turn = time.perf_counter()
            try:
                if self.contract.processor.image is not None:  # decoding a large image takes milliseconds
                    encoded.append(await asyncio.to_thread(self.task.encode, item, request.parameters, self.served))
                else:
                    encoded.append(self.task.encode(item, request.parameters, self.served))
            except ServingError as error:
                if request.is_list:
                    error.message = error.message.replace("inputs", f"inputs[{index}]", 1)
                raise
        return encoded

    async def decode(self, request: Request, encoded: list[Encoded[object]], arrays: list[RowArrays]) -> Any:
        """The answer. Its labels are counted."""
        answers: list[Any] = []
        turn, first = time.perf_counter(), 0
        for item in encoded:
            if answers and time.perf_counter() - turn > YIELD_SECONDS:
                await asyncio.sleep(0)
                turn = time.perf_counter()
            rows = arrays[first : first + len(item.rows)]
            first += len(item.rows)
            answers.append(self.task.decode(rows, item.decode_context, request.parameters, self.served))
        for answer in answers:
            self.meter.observe_predictions(self.task.predictions(answer))
        return assemble(answers, request, self.task)
