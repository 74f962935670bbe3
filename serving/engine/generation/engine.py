"""The engine of a generating task: one loop that drains the socket and lets the scheduler take a step."""

from typing import TYPE_CHECKING

from serving.engine.engine import IDLE_MILLISECONDS, Engine
from serving.wire.messages import Failure, TokenDelta, TokenDeltas

if TYPE_CHECKING:
    import zmq

    from serving.engine.batching.cost import Cost
    from serving.engine.generation.scheduler import Reply
    from serving.engine.meter import EngineMeter
    from serving.engine.model import Model


class WritingEngine(Engine):
    """As `Engine`; rows get their replies when they end, streams with each step."""

    def __init__(self, model: "Model", cost: "Cost", socket: "zmq.Socket[bytes]", meter: "EngineMeter") -> None:
        super().__init__(model, cost, socket, meter)
        self._scheduler = self._queue = model.scheduler
        self._scheduler.count_in(meter)

    def run(self) -> None:
        """Serve. Returns after `stop`; raises where the model does not work any more, once everybody was told."""
        while True:
            self._drain(0 if self._scheduler else IDLE_MILLISECONDS)
            if self._may_leave():
                return
            try:
                self._tell(self._scheduler.step())
            except Exception:
                self._tell(self._scheduler.take_all("the model failed; its engine starts again: try again"))
                raise
            self._meter.observe_queue(self._scheduler.tokens)
            self._meter.observe_memory()

    def _tell(self, replies: "list[Reply]") -> None:
        parts: dict[bytes, list[TokenDelta]] = {}
        for client, reply in replies:
            if isinstance(reply, Failure):
                self._reply(client, reply)
            else:
                parts.setdefault(client, []).append(reply)
        for client, written in parts.items():
            self._reply(client, TokenDeltas(written))
