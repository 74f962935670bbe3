"""Clients of the demonstrations: requests at a steady rate, and what became of each of them."""

import asyncio
import itertools
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import httpx

CONNECTIONS = 16


class Sent(NamedTuple):
    """A request that was answered. at: when it was sent, in seconds since the epoch. version: that answered, or ""."""

    at: float
    seconds: float
    status: int
    version: str


class Traffic:
    """Requests of `texts` in turn while the context lasts, from a thread of its own.

    rate: requests a second; fewer where the server cannot serve as many, as each of the CONNECTIONS waits for its
    answer. sent: what was answered so far, in the order of the answers.
    """

    def __init__(self, url: str, texts: Sequence[str], rate: float) -> None:
        self.sent: list[Sent] = []
        self._url = url
        self._texts = itertools.cycle(texts)
        self._gap = 1 / rate
        self._next = 0.0
        self._ends = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="demo-traffic", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends = True
        self._thread.join()

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            await asyncio.gather(*(self._ask_on(client) for _ in range(CONNECTIONS)))

    async def _ask_on(self, client: httpx.AsyncClient) -> None:
        while not self._ends:
            now = time.monotonic()
            self._next = max(now, self._next + self._gap)  # time that was missed is not made up for by a burst
            await asyncio.sleep(self._next - now)
            at, began = time.time(), time.perf_counter()
            try:
                answer = await client.post(self._url, json={"inputs": next(self._texts)})
                status, version = answer.status_code, answer.headers.get("x-model-version", "")
            except httpx.TransportError:
                status, version = 0, ""
            self.sent.append(Sent(at, time.perf_counter() - began, status, version))
