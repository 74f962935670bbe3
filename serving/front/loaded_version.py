"""A version as a front serves it: contract, task, tokenizer, links to its engines, meter."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from registry.contract import Contract
from registry.layout import MODEL_FOLDER
from registry.verified import is_weights, open_verified
from serving.errors import NotReady, ServingError
from serving.front.admission import UNBOUNDED
from serving.front.disconnects import Disconnected
from serving.front.engine_link import EngineLink
from serving.front.held_requests import HeldRequests
from serving.front.meter import FrontMeter
from serving.front.turns import ANSWERS, IMAGES, TEXTS, Turns
from serving.processors.tokenizer import LONG_CHARACTERS
from serving.tasks import get_task
from serving.tasks.base.bounds import RequestBounds, check_cost
from serving.tasks.base.cost import ItemCost
from serving.tasks.base.request import Request, assemble
from serving.tasks.base.task import AnyTask
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import Encoded, RowArrays

LARGE_ANSWER_BYTES = 1 << 19
"""Memory of an answer that a thread decodes and writes. Untuned: encoding this much takes some milliseconds."""
PREDICTIONS_A_TURN = 1024
"""Predictions that are counted before the event loop runs others. Untuned: each takes about a microsecond."""


@dataclass(frozen=True)
class UnloadedVersion:
    """A version that has no engine now, as far as the routing table tells of it."""

    model: str
    version: str
    contract: Contract
    version_context: None = None

    @property
    def task(self) -> AnyTask:
        """The task of its contract."""
        return get_task(self.contract.task)


@dataclass
class LoadedVersion:
    """One loaded version. links: of its engines, by address. accepting: those that take new requests.

    held: the requests that wait for an engine while there is none. is_replaced: whether one will come then. asked_at:
    when it was last asked for, in monotonic seconds.
    """

    model: str
    version: str
    contract: Contract
    task: AnyTask
    version_context: VersionContext
    meter: FrontMeter
    links: dict[str, EngineLink] = field(default_factory=dict)
    accepting: list[EngineLink] = field(default_factory=list)
    held: HeldRequests = field(default_factory=HeldRequests)
    is_replaced: bool = False
    asked_at: float = 0.0

    @property
    def has_work(self) -> bool:
        """Whether requests wait for its engines, or for one to come."""
        return bool(self.held) or any(link.share.tokens for link in self.links.values())

    @classmethod
    def load(cls, model: str, version: str, root: Path, contract: Contract) -> "LoadedVersion":
        """Read the version's tokenizer. Blocks for some milliseconds; runs in a thread. Raises ArtifactError."""
        task = get_task(contract.task)
        with open_verified(root, contract.files, lambda name: not is_weights(name)) as folder:
            version_context = task.make_version_context(folder / MODEL_FOLDER, contract)
        return cls(
            model=model,
            version=version,
            contract=contract,
            task=task,
            version_context=version_context,
            meter=FrontMeter(model, version, contract.task, contract.labels),
        )

    def choose_link(self) -> EngineLink:
        """The link to the engine with the fewest outstanding tokens, then with the fewest rows. Raises NotReady."""
        if not self.accepting:
            raise NotReady(
                f"no engine of {self.model}/{self.version} takes requests: it is leaving or being restarted, try again",
                retry_seconds=1.0,
            )
        if len(self.accepting) == 1:
            return self.accepting[0]
        return min(self.accepting, key=lambda link: (link.share.tokens, link.rows_sent))

    def check_room(self) -> None:
        """Raise QueueFull if a request need not be read to be refused, wherever it would wait."""
        if self.accepting:
            self.choose_link().share.check_room()
        elif self.is_replaced:
            self.held.share.check_room()

    async def encode(
        self, request: Request, bounds: RequestBounds, deadline: float, disconnected: Disconnected | None
    ) -> "EncodedRequest":
        """The rows of each item, in order.

        Raises TooLarge before anything is built, ServingError, which names the item, and what `Turns` raises.
        """
        task, version, parameters = self.task, self.version_context, request.parameters
        cost = check_cost(request, task, version, bounds)
        if len(request.items) == 1 and cost.characters <= LONG_CHARACTERS and not cost.pixel_bytes:
            found = self._encode_item(request, 0)
            answer_bytes = task.answer_bytes(found, parameters, version)
            bounds.check_answer(answer_bytes)
            return EncodedRequest([found], answer_bytes > LARGE_ANSWER_BYTES)
        with Turns(deadline, disconnected, self._max_tokens()) as turns:
            return await self._encode_items(request, bounds, turns, cost)

    async def _encode_items(
        self, request: Request, bounds: RequestBounds, turns: Turns, cost: ItemCost
    ) -> "EncodedRequest":
        rows = answer_bytes = 0
        encoded: list[Encoded[object]] = []
        for index, item in enumerate(request.items):
            if index and turns.is_over():
                await turns.give()
            if cost.pixel_bytes:  # decoding a large image takes milliseconds
                found = await turns.hand_over(IMAGES, self._encode_item, request, index)
            elif cost.characters > LONG_CHARACTERS and self._is_long(item, request.parameters):
                found = await turns.hand_over(TEXTS, self._encode_item, request, index)
            else:
                found = self._encode_item(request, index)
            rows += len(found.rows)
            bounds.check(ItemCost(rows, 0))  # of a text in windows there are more than `cost` knows
            answer_bytes += self.task.answer_bytes(found, request.parameters, self.version_context)
            bounds.check_answer(answer_bytes)
            encoded.append(found)
        return EncodedRequest(encoded, answer_bytes > LARGE_ANSWER_BYTES)

    def _max_tokens(self) -> int:
        """What the queue that a request would wait in takes at most, in tokens."""
        none = self.held.share.bound_tokens if self.is_replaced else UNBOUNDED
        return max((link.share.bound_tokens for link in self.accepting), default=none)

    def _encode_item(self, request: Request, index: int) -> Encoded[object]:
        try:
            return self.task.encode(request.items[index], request.parameters, self.version_context)
        except ServingError as error:
            if request.is_list:
                error.message = error.message.replace("inputs", f"inputs[{index}]", 1)
            raise

    def _is_long(self, item: object, parameters: object) -> bool:
        return self.task.cost(item, parameters, self.version_context).characters > LONG_CHARACTERS

    async def decode(
        self,
        request: Request,
        encoded: "EncodedRequest",
        arrays: list[RowArrays],
        deadline: float,
        disconnected: Disconnected | None,
    ) -> object:
        """The answer. Its labels are counted. Raises what `Turns` raises."""
        if len(encoded.items) == 1 and not encoded.is_large:
            answer = self.task.decode(arrays, encoded.items[0].decode_context, request.parameters, self.version_context)
            self.meter.observe_predictions(self.task.predictions(answer))
            return assemble([answer], request, self.task)
        with Turns(deadline, disconnected) as turns:
            return await self._decode_items(request, encoded, arrays, turns)

    async def _decode_items(
        self, request: Request, encoded: "EncodedRequest", arrays: list[RowArrays], turns: Turns
    ) -> object:
        answers: list[object] = []
        first = 0
        for item in encoded.items:
            if answers and turns.is_over():
                await turns.give()
            rows = arrays[first : first + len(item.rows)]
            first += len(item.rows)
            given = (rows, item.decode_context, request.parameters, self.version_context)
            if encoded.is_large and self.task.answer_bytes(item, *given[2:]) > LARGE_ANSWER_BYTES:
                answers.append(await turns.hand_over(ANSWERS, self.task.decode, *given))
            else:
                answers.append(self.task.decode(*given))
        for answer in answers:
            predictions = self.task.predictions(answer)
            for start in range(0, len(predictions), PREDICTIONS_A_TURN):
                if turns.is_over():
                    await turns.give()
                self.meter.observe_predictions(predictions[start : start + PREDICTIONS_A_TURN])
        return assemble(answers, request, self.task)


class EncodedRequest(msgspec.Struct, frozen=True):
    """A request's items as rows. is_large: whether the answer is decoded and written in a thread."""

    items: list[Encoded[object]]
    is_large: bool
