"""What a client has not read of its answers: it counts as buffered, and must be read at a minimum rate.

Every connection has one, of HTTP/1.1 (`connection`) and of gRPC (`rpc.outbox`).
"""

import asyncio

from serving.front.connection_guard import MIN_BYTES_PER_SECOND, ConnectionGuard


class UnreadAnswers:
    """The bytes that wait in a connection's transport, from when it pauses writing until it resumes."""

    def __init__(self, transport: asyncio.WriteTransport, guard: ConnectionGuard) -> None:
        self._transport, self._guard = transport, guard
        self._since = 0.0
        self._bytes = 0

    def pause(self) -> None:
        """Count what waits for the client, more than the transport may buffer, and begin to measure its rate."""
        self._look(self._guard.now)

    def release(self) -> None:
        """Count nothing any more: the client has read most of it, or has left. Calling it twice is safe."""
        self._hold(0)

    def is_overdue(self, now: float) -> bool:
        """Whether the client has read too little in the last `client_seconds`; if they are over, the next ones begin.

        now: on the guard's clock. Ask it only while writing is paused.
        """
        client_seconds, before = self._guard.limits.client_seconds, self._bytes
        if now - self._since <= client_seconds:
            return False
        self._look(now)
        return before - self._bytes < MIN_BYTES_PER_SECOND * client_seconds

    def _look(self, now: float) -> None:
        self._since = now
        self._hold(self._transport.get_write_buffer_size())

    def _hold(self, size: int) -> None:
        self._guard.buffered_bytes += size - self._bytes
        self._bytes = size
