"""The client of streamed completions: N streams at once, each one sending its next prompt when its last text is
whole. A process of its own: `python -m bench.streams --url URL --bodies FILE --streams N`; a `StreamResult` as JSON.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.load import percentile
from bench.results import StreamResult


class Client:
    """The state that all streams share: the bodies that are left, and what was seen."""

    def __init__(self, url: str, bodies: Iterator[bytes]) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname or "127.0.0.1", parts.port or 80, parts.path
        self._bodies = bodies
        self.first: list[float] = []
        self.whole: list[float] = []
        self.tokens = 0

    async def run(self) -> None:
        """One stream after the other until no body is left. Raises RuntimeError for an answer that is no stream."""
        for body in self._bodies:
            await self._ask(body)

    async def _ask(self, body: bytes) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        head = f"POST {self._path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        began, first, tokens = time.perf_counter(), 0.0, 0
        writer.write(head.encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{status.decode().strip()}: {(await reader.read())[-1000:].decode(errors='replace')}")
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(f"the stream broke off: {event['error']}")
            if not first and any(choice["text"] for choice in event["choices"]):
                first = time.perf_counter() - began
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        writer.close()
        self.first.append(1000 * first)
        self.whole.append(1000 * (time.perf_counter() - began))
        self.tokens += tokens


async def measure(url: str, bodies: list[bytes], streams: int) -> StreamResult:
    """Send all bodies over a number of streams."""
    client = Client(url, iter(bodies))
    began = time.perf_counter()
    await asyncio.gather(*(client.run() for _ in range(streams)))
    seconds = time.perf_counter() - began
    first, whole = sorted(client.first), sorted(client.whole)
    return StreamResult(
        streams=streams,
        tokens=client.tokens,
        tokens_per_second=client.tokens / seconds,
        first_token_p50_ms=percentile(first, 0.5),
        first_token_p99_ms=percentile(first, 0.99),
        whole_p50_ms=percentile(whole, 0.5),
        whole_p99_ms=percentile(whole, 0.99),
    )


def main() -> None:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description="Stream completions of prompts.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--bodies", required=True, type=Path, help="file with one JSON body per line")
    parser.add_argument("--streams", type=int, default=8)
    options = parser.parse_args()
    bodies = options.bodies.read_bytes().splitlines()
    print(msgspec.json.encode(uvloop.run(measure(options.url, bodies, options.streams))).decode())


if __name__ == "__main__":
    main()
