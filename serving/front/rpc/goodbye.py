"""How a connection ends without losing a call: the client is asked to leave, and its calls are answered until it knows.

Calls that it sends before it has read the request to leave are answered, too. So a ping follows the request, and only
once that has come back the client is told which call was the last. `connection` owns it. Source: RFC 9113, 6.8.
"""

from serving.front.connection_guard import ConnectionGuard
from serving.front.rpc import frames
from serving.front.rpc.frames import ErrorCode, frame, goodbye_frame
from serving.front.rpc.outbox import Outbox

LAST_PING = b"headwait"
"""Asks whether the client knows that the connection is to end: 8 bytes."""


class Goodbye:
    """is_said: whether the client was asked to leave. is_heard: whether it knows: calls that begin then are refused."""

    def __init__(self, outbox: Outbox, guard: ConnectionGuard) -> None:
        self._outbox, self._guard = outbox, guard
        self.is_said = self.is_heard = False
        self._since = guard.now

    def say(self, *, is_greeted: bool) -> None:
        """Ask the client to leave. is_greeted: whether it has sent its settings; the connection closes if it has not.

        Later calls do nothing.
        """
        if self.is_said or self._outbox.is_over:
            return
        self.is_said, self._since = True, self._guard.now
        last = frames.MAX_WINDOW if is_greeted else 0  # a call that is on its way is answered
        self._outbox.write(goodbye_frame(last, ErrorCode.NO_ERROR) + frame(frames.PING, 0, 0, LAST_PING))
        if not is_greeted:
            self._outbox.close()

    def take_ping(self, content: bytes, last: int) -> None:
        """The client has answered a ping. last: the largest number of a stream by now."""
        if content == LAST_PING and self.is_said and not self.is_heard:
            self.is_heard = True
            self._outbox.write(goodbye_frame(last, ErrorCode.NO_ERROR))

    def is_late(self, now: float, drain_seconds: float) -> bool:
        """Whether the client was asked longer than `drain_seconds` ago. now: on the guard's clock."""
        return self.is_said and now - self._since > drain_seconds
