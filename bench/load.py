"""The load generator: prepared bodies go out over keep-alive connections, a `LoadResult` leaves as JSON.

A closed loop: each connection sends its next request as soon as the answer to its last one is whole; with a rate, an
open one, whose requests come at random moments and take a connection that is free. It is cheap (about
15 µs of one core per request) because it knows its requests in advance and reads nothing of an answer but its status
and length. Run it as `python -m bench.load --url URL --bodies FILE --connections N --seconds S`; FILE has one JSON
body per line.
"""

import argparse
import asyncio
import gc
import itertools
import math
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.connection import Arrivals, Connection, PacedConnection, Tally
from bench.results import LoadResult

DRAIN_SECONDS = 15.0
"""How long requests that were sent before the end may take, unless told otherwise; they are answered, not measured."""


def prepare(url: str, bodies: list[bytes]) -> list[bytes]:
    """The whole HTTP/1.1 requests, head and body, one for each body."""
    parts = urlsplit(url)
    head = f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile of sorted values, 0 < share <= 1; 0 where there are none."""
    return values[math.ceil(share * len(values)) - 1] if values else 0.0


async def measure(
    url: str,
    bodies: list[bytes],
    connections: int,
    seconds: float,
    warm_seconds: float,
    per_second: float = 0.0,
    drain_seconds: float = DRAIN_SECONDS,
) -> LoadResult:
    """Run the loop for the warm-up and the measured time; raises ConnectionError where nothing listens.

    per_second: how many requests come; 0 for a closed loop. drain_seconds: after which all clients leave at the end.
    """
    parts = urlsplit(url)
    requests: Iterator[bytes] = itertools.cycle(prepare(url, bodies))
    start = time.perf_counter() + warm_seconds
    tally = Tally(start=start, end=start + seconds, latencies=array("d"), errors=Counter())
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    kind = PacedConnection if per_second else Connection
    clients = [kind(loop, host, port, requests, tally) for _ in range(connections)]
    arrivals = PacedConnection.arrivals = Arrivals(per_second)
    await asyncio.gather(*(client.connect() for client in clients))
    coming = loop.create_task(arrivals.run(tally.end)) if per_second else None
    await asyncio.sleep(start - time.perf_counter())
    cpu = time.process_time()
    await asyncio.sleep(tally.end - time.perf_counter())
    cpu = time.process_time() - cpu
    deadline = time.perf_counter() + drain_seconds
    while any(client.is_waiting for client in clients) and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    for client in clients:
        client.close()
    if coming is not None:
        await coming
    if faults:
        raise RuntimeError(f"the load generator failed: {faults[0]}")
    latencies = sorted(1000 * latency for latency in tally.latencies)
    return LoadResult(
        connections=connections,
        seconds=seconds,
        requests=len(latencies),
        requests_per_second=len(latencies) / seconds,
        p50_ms=percentile(latencies, 0.5),
        p90_ms=percentile(latencies, 0.9),
        p99_ms=percentile(latencies, 0.99),
        errors=dict(tally.errors),
        client_cpu_share=cpu / seconds,
        refused_p99_ms=percentile(sorted(1000 * latency for latency in tally.refusals), 0.99),
        retry_after=dict(tally.retry_after),
        ever=dict(tally.ever),
    )


def main() -> None:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="Load one URL with prepared bodies.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--bodies", required=True, type=Path, help="file with one JSON body per line")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.0, help="requests that come in a second; 0: a closed loop")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time")
    parser.add_argument("--warm-seconds", type=float, help="before it; a quarter of it, at least 1, by default")
    parser.add_argument("--drain-seconds", type=float, default=DRAIN_SECONDS, help="after which all clients leave")
    options = parser.parse_args()
    warm = max(1.0, options.seconds / 4) if options.warm_seconds is None else options.warm_seconds
    bodies = options.bodies.read_bytes().splitlines()
    gc.freeze()
    gc.disable()
    run = measure(options.url, bodies, options.connections, options.seconds, warm, options.rate, options.drain_seconds)
    print(msgspec.json.encode(uvloop.run(run)).decode())


if __name__ == "__main__":
    main()
