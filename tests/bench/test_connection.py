"""The clients of benchmarks: none is lost when a server closes its idle connection."""

import asyncio
import itertools
import time
from array import array
from collections import Counter
from contextlib import suppress

import pytest

from bench.connection import Arrivals, PacedConnection, Tally

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize("answers", [1, 3])
def test_a_client_whose_idle_connection_was_closed_connects_again(answers: int) -> None:
    """answers: after which the server closes each connection."""

    served: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, OSError):
            for _ in range(answers):
                await reader.readexactly(4)
                writer.write(ANSWER)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def run() -> Tally:
        server = await asyncio.start_server(answer, "127.0.0.1")
        host, port = server.sockets[0].getsockname()
        now = time.perf_counter()
        tally = Tally(start=now, end=now + 60.0, latencies=array("d"), errors=Counter())
        loop = asyncio.get_running_loop()
        arrivals = PacedConnection.arrivals = Arrivals(200.0)
        clients = [PacedConnection(loop, host, port, itertools.repeat(b"ask\n"), tally) for _ in range(4)]
        await asyncio.gather(*(client.connect() for client in clients))
        coming = loop.create_task(arrivals.run(tally.end))
        while tally.ever["200"] < 50:
            await asyncio.sleep(0.01)
        coming.cancel()
        for client in clients:
            client.close()
        server.close()
        await asyncio.gather(*filter(None, served))
        return tally

    assert asyncio.run(run()).ever["200"] >= 50
