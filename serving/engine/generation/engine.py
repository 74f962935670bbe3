"""The engine of a generating task: one loop that drains the socket and lets the scheduler take a step.

A row gets one reply when its text ends; a streamed row gets one with each step.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from serving.engine.heart import Heart
from serving.engine.socket_loop import SocketLoop
from serving.wire.messages import Failure, TokenDelta, TokenDeltas

if TYPE_CHECKING:
    import zmq

    from serving.engine.batching.cost import Cost
    from serving.engine.generation.replies import QueuedReply
    from serving.engine.generation.scheduler import Scheduler
    from serving.engine.generation.sequence import Sequence
    from serving.engine.meter import EngineMeter


class GenerationEngine:
    """The loop around one scheduler. `run` blocks until `stop` was called and every accepted row is answered."""

    def __init__(
        self,
        scheduler: "Scheduler",
        socket: "zmq.Socket[bytes]",
        meter: "EngineMeter",
        cost: "Cost",
        heart: Heart | None = None,
    ) -> None:
        """heart: tells others that the loop gets on."""
        self._scheduler = scheduler
        self._scheduler.count_in(meter)
        self._scheduler.announce = self._begin
        self._token_seconds = 1.0 / cost.tokens_per_second
        self._heart = heart or Heart()
        self._expected = 0.0
        self._loop = SocketLoop(socket, scheduler, meter)

    def stop(self) -> None:
        """Leave once every accepted row is answered and no message has arrived for a moment."""
        self._loop.stop()

    def run(self) -> None:
        """Serve. Returns after `stop`. Raises where the model no longer works: what waits gets no reply."""
        self._loop.run(self._step, lambda: 0 if self._scheduler else None, lambda: not self._scheduler)

    def _step(self) -> None:
        if not self._scheduler:
            self._heart.turn(is_idle=True)
        self._expected = self._scheduler.step_tokens * self._token_seconds
        try:
            replies = self._scheduler.step()
        except Exception:
            self._send(self._scheduler.take_due())
            raise
        self._send(replies)

    def _begin(self, sequences: "Iterable[Sequence]") -> None:
        """Tell that a step over these rows begins."""
        self._heart.begin(sequences, self._expected, has_turned=True)

    def _send(self, replies: "list[QueuedReply]") -> None:
        parts: dict[bytes, list[TokenDelta]] = {}
        for client, reply in replies:
            if isinstance(reply, Failure):
                self._loop.reply(client, reply)
            else:
                parts.setdefault(client, []).append(reply)
        for client, written in parts.items():
            self._loop.reply(client, TokenDeltas(written))
