"""How a connection closes without losing a call. Source: RFC 9113, 6.8; `connection` owns it.

A first GOAWAY names the highest possible stream, so that calls which are on their way are answered. A PING follows.
When the client has acknowledged it, a second GOAWAY names the last stream that is answered; later ones are refused.
"""

from serving.front.connection_guard import ConnectionGuard
from serving.front.rpc import frames
from serving.front.rpc.frames import ErrorCode, frame, goaway_frame
from serving.front.rpc.outbox import Outbox

PING = b"headwait"
"""The content of the PING that follows the first GOAWAY: 8 bytes."""


class GracefulClose:
    """The close of one connection.

    has_begun: whether the client was told. is_acknowledged: whether it has read that, so that new streams are refused.
    """

    def __init__(self, outbox: Outbox, guard: ConnectionGuard) -> None:
        self._outbox, self._guard = outbox, guard
        self.has_begun = self.is_acknowledged = False
        self._since = guard.now
        self._last = frames.MAX_STREAM

    def begin(self, *, is_greeted: bool) -> None:
        """Send the first GOAWAY. is_greeted: whether the client has sent its settings; else the connection is closed.

        Later calls do nothing.
        """
        if self.has_begun or self._outbox.is_over:
            return
        self.has_begun, self._since = True, self._guard.now
        last = frames.MAX_STREAM if is_greeted else 0
        self._outbox.write(goaway_frame(last, ErrorCode.NO_ERROR) + frame(frames.PING, 0, 0, PING))
        if not is_greeted:
            self._outbox.close()

    def take_ping(self, content: bytes, last: int) -> None:
        """The client has acknowledged a PING. last: the highest stream by now."""
        if content == PING and self.has_begun and not self.is_acknowledged:
            self.is_acknowledged, self._last = True, last
            self._outbox.write(goaway_frame(last, ErrorCode.NO_ERROR))

    def bounded(self, last: int) -> int:
        """The stream that a later GOAWAY may name: none after the last one that the client was told."""
        return min(last, self._last)

    def is_late(self, now: float, drain_seconds: float) -> bool:
        """Whether it began longer than `drain_seconds` ago. now: on the guard's clock."""
        return self.has_begun and now - self._since > drain_seconds
