"""A ledger of requests: many clients that ask models over kept connections, and what became of every request.

Each request ends in one of these ways: answered; refused with a status that says so; broken with a process that was
killed on purpose; or at fault. Faults are what the ledger is for: a request that was accepted and has no answer, a
broken connection for which nothing was killed, another status, or another answer than the version gave before.
"""

import asyncio
import json
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

ASKED = "the same text"
REFUSALS = (429, 503, 504)
"""The statuses of requests that a server may refuse: a full queue, nothing that answers yet, a deadline."""
RETRIED = (429, 503)
"""Those that must say when to come again."""
ANSWER_SECONDS = 45.0
"""A request that has no answer by then has none: the server's own deadline is 30 s."""


@dataclass
class Page:
    """What became of the requests of one phase. slowest_seconds: of those that were answered or refused."""

    answered: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    faults: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0

    @property
    def requests(self) -> int:
        """All of them."""
        return self.answered + self.refused.total() + self.broken + len(self.faults)


class Ledger(threading.Thread):
    """`connections` clients, each of which asks, takes the whole answer, rests for `rest_seconds` and asks again.

    paths: of models; each client asks one of them, all are asked by as many.
    phase: counts what is sent from now on under this name. page: by phase. doomed: the clients' ports of connections
    that are about to be broken on purpose. versions: how often each version has answered.
    """

    def __init__(self, port: int, *paths: str, connections: int = 32, rest_seconds: float = 0.05) -> None:
        super().__init__(name="ledger")
        self._port, self._paths, self._count, self._rest = port, paths, connections, rest_seconds
        self._over = threading.Event()
        self._labels: dict[tuple[str, str], str] = {}
        self.phase = "start"
        self.pages: defaultdict[str, Page] = defaultdict(Page)
        self.doomed: set[int] = set()
        self.versions: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Ask until the end; every request that was begun is waited for."""
        try:
            asyncio.run(self._ask_on())
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        if self.error is not None:
            raise self.error

    async def _ask_on(self) -> None:
        await asyncio.gather(*(self._connection(number) for number in range(self._count)))

    async def _connection(self, number: int) -> None:
        path = self._paths[number % len(self._paths)]
        await asyncio.sleep(self._rest * number / self._count)  # not all at the same moment
        while not self._over.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:  # it was not accepted
                await asyncio.sleep(self._rest)
                continue
            with suppress(OSError):
                while not self._over.is_set() and await self._ask(path, reader, writer):
                    await asyncio.sleep(self._rest)
            writer.close()

    async def _ask(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send one request and write down what became of it; whether the connection is still good."""
        page, port = self.pages[self.phase], writer.get_extra_info("sockname")[1]
        began = time.monotonic()
        try:
            writer.write(request_bytes(path))
            status, headers, answer = await asyncio.wait_for(read_answer(reader), ANSWER_SECONDS)
        except TimeoutError:
            page.faults.append(f"no answer within {ANSWER_SECONDS:g} s")
            return False
        except (OSError, asyncio.IncompleteReadError) as error:
            if port in self.doomed:
                page.broken += 1
            else:
                page.faults.append(f"broken after {time.monotonic() - began:.1f} s: {error}")
            return False
        except (ValueError, LookupError) as error:
            page.faults.append(f"an answer that cannot be read: {error!r}")
            return False
        page.slowest_seconds = max(page.slowest_seconds, time.monotonic() - began)
        if status == 200:
            self._check(path, headers.get("x-model-version", ""), answer, page)
        elif status in REFUSALS and (status not in RETRIED or "retry-after" in headers):
            page.refused[status] += 1
        else:
            page.faults.append(f"{status}: {answer.decode(errors='replace')[:200]}")
        return headers.get("connection", "").lower() != "close"

    def _check(self, path: str, version: str, answer: bytes, page: Page) -> None:
        try:
            label = json.loads(answer)[0][0]["label"]
        except (ValueError, LookupError, TypeError):
            page.faults.append(f"200 without an answer: {answer.decode(errors='replace')[:200]}")
            return
        if not version or self._labels.setdefault((path, version), label) != label:
            before = self._labels.get((path, version))
            page.faults.append(f"version {version!r} answers {label}, and before {before}")
        else:
            page.answered += 1
            self.versions[version] += 1


def request_bytes(path: str) -> bytes:
    """The request that asks ASKED of the model at `path`."""
    body = json.dumps({"inputs": ASKED}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers with names in lower case, and body of an HTTP/1.1 answer that states its length."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))
