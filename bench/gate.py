"""A gate before a server: connections to it go through, or find it away, slow, silent, or telling nonsense."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal, Self

Mode = Literal["open", "away", "slow", "silent", "lying"]
SLOW_SECONDS = 3.0
"""How long a slow server lets a connection wait."""
DRIP_BYTES, DRIP_SECONDS = 1 << 14, 0.25
"""How much of its answer a slow server sends at a time, and the pause after it: 64 KiB/s."""
NONSENSE = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n[[{"label": null}]]'


class Gate(threading.Thread):
    """Listens at `port` for the server at `target`. Use it as a context manager."""

    def __init__(self, port: int, target: int) -> None:
        super().__init__(name="gate", daemon=True)
        self.port, self._target = port, target
        self._mode: Mode = "open"
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        self._open: set[asyncio.StreamWriter] = set()
        self._begun = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        self._begun.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join()

    def run(self) -> None:
        """Serve until the end."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._connect, "127.0.0.1", self.port):
            self._begun.set()
            await self._over.wait()
            self._break()

    @contextmanager
    def being(self, mode: Mode) -> Iterator[None]:
        """Let the server seem to be so while the block runs. Both changes break the connections that are open."""
        self._become(mode)
        try:
            yield
        finally:
            self._become("open")

    def _become(self, mode: Mode) -> None:
        self._mode = mode
        self._loop.call_soon_threadsafe(self._break)

    def _break(self) -> None:
        for writer in self._open:
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._closing(writer), suppress(OSError):
            match self._mode:
                case "away":
                    pass
                case "lying":
                    with suppress(asyncio.IncompleteReadError):
                        await reader.readuntil(b"\r\n\r\n")
                        writer.write(NONSENSE)
                        await writer.drain()
                case "silent":
                    while await reader.read(1 << 16):
                        pass
                case "slow" | "open":
                    await self._join(reader, writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send what comes from the client to the server, and back."""
        if self._mode == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        with self._closing(far_writer):
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    @contextmanager
    def _closing(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        """Close it after the block, however that ends, or when connections are broken."""
        self._open.add(writer)
        try:
            yield
        finally:
            self._open.discard(writer)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while part := await reader.read(DRIP_BYTES):
                writer.write(part)
                await writer.drain()
                if self._mode == "slow":
                    await asyncio.sleep(DRIP_SECONDS)
        writer.close()
