"""Constant load on one model over many kept connections: every answer is kept with its version, every loss with its
connection.
"""

import asyncio
import json
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from bench.ledger import read_answer, request_bytes
from tests.e2e.server import Server, wait_until
from tests.waiting import WAIT_SECONDS


@dataclass(frozen=True)
class Seen:
    """One kind of answer. version: as the answer names it. label: the best one, of a 200. error: of any other."""

    status: int
    version: str | None
    label: str = ""
    error: str = ""


class Load(threading.Thread):
    """`connections` clients, each of which asks, takes the whole answer, rests for `rest_seconds` and asks again.

    seen: how often each kind of answer came. open: the local ports of its connections. lost: those of the connections
    that broke; each is opened again.
    path: below the server's address, `/models/m` for instance.
    """

    def __init__(self, server: Server, path: str, connections: int = 64, rest_seconds: float = 0.2) -> None:
        super().__init__()
        self._path, self._port, self._count, self._rest = path, server.port, connections, rest_seconds
        self._stop_event = threading.Event()
        self.seen: Counter[Seen] = Counter()
        self.open: set[int] = set()
        self._answered: set[int] = set()
        self.lost: list[int] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._ask_on())
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Self:
        self.start()
        wait_until(lambda: len(self._answered) == self._count or self.error, "every connection has got an answer")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        self.join(WAIT_SECONDS)
        if self.error is not None:
            raise self.error
        assert not self.is_alive(), "requests that were never answered"

    def total(self, version: str | None = None) -> int:
        """The number of answers, of one version or of all."""
        seen = dict(self.seen)
        return sum(count for kind, count in seen.items() if version in (None, kind.version))

    def statuses(self) -> set[int]:
        """The HTTP status codes of all answers."""
        return {kind.status for kind in dict(self.seen)}

    def failures(self) -> list[Seen]:
        """Every kind of answer but 200."""
        return [kind for kind in dict(self.seen) if kind.status != 200]

    def wait_for(self, version: str, answers: int = 64) -> None:
        """Wait until `version` has answered this many more requests."""
        before = self.total(version)
        wait_until(lambda: self.total(version) >= before + answers, f"{answers} answers by {version}: {self.seen}")

    def answers(self) -> dict[str, set[str]]:
        """Version → the labels that it answered with."""
        found: dict[str, set[str]] = {}
        for kind in dict(self.seen):
            if kind.status == 200:
                found.setdefault(str(kind.version), set()).add(kind.label)
        return found

    async def _ask_on(self) -> None:
        await asyncio.gather(*(self._connection(number) for number in range(self._count)))

    async def _connection(self, number: int) -> None:
        request = request_bytes(self._path)
        await asyncio.sleep(self._rest * number / self._count)  # not all at the same moment
        while not self._stop_event.is_set():
            port = 0
            with suppress(ConnectionRefusedError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                port = writer.get_extra_info("sockname")[1]
                self.open.add(port)
                try:
                    while not self._stop_event.is_set():
                        writer.write(request)
                        self.seen[await _read(reader)] += 1
                        self._answered.add(number)
                        await asyncio.sleep(self._rest)
                except (ConnectionError, asyncio.IncompleteReadError):
                    self.lost.append(port)
                finally:
                    self.open.discard(port)
                    writer.close()
                    with suppress(ConnectionError):
                        await writer.wait_closed()
            await asyncio.sleep(0 if port else self._rest)


async def _read(reader: asyncio.StreamReader) -> Seen:
    status, headers, body = await read_answer(reader)
    version = headers.get("x-model-version")
    if status != 200:
        return Seen(status, version, error=body.decode())
    return Seen(status, version, json.loads(body)[0][0]["label"])
