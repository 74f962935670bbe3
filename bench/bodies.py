"""The costliest bodies of 1 MB that are known, one after the other to a real server with one front.

While each is answered another client asks `/livez` on a connection of its own, which the front's event loop answers:
the longest of these answers is how long the loop was blocked at most, and what the machine did besides.
"""

import http.client
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.fuzz import Asked, models, served
from bench.processes import BenchError
from bench.report import table

BYTES = 1_000_000
"""Of a body, at most."""
PAUSE_SECONDS = 0.005
"""Between two looks at `/livez`."""
MAX_GROWTH_BYTES = 200 << 20
LONG = "a " * (BYTES // 2 - 200)
MANY = ["a"] * (BYTES // 5)
JSON = "application/json"

Body = bytes | Callable[[], Iterator[bytes]]
"""Whole, or in chunks."""


@dataclass(frozen=True)
class Case:
    """A request. name: what is much in it."""

    name: str
    path: str
    body: Body
    kind: str = JSON


@dataclass
class Found:
    """What came of it. blocked_seconds: the longest answer to `/livez`. grown_bytes: of the front's memory, at most."""

    status: int
    seconds: float
    blocked_seconds: float
    grown_bytes: int

    def describe(self) -> list[str]:
        """The cells of its row."""
        blocked, grown = f"{1e3 * self.blocked_seconds:.0f}", str(self.grown_bytes >> 20)
        return [str(self.status or "-"), f"{self.seconds:.2f}", blocked, grown]


def run(seconds: float) -> str:
    """The section of the report. Raises BenchError where a front grew by more than it may."""
    del seconds
    with tempfile.TemporaryDirectory(prefix="headwaiter-bench-") as home, served(Path(home), models()) as asked:
        front = find_front(asked)
        found = {"nothing": watch(asked, front, pause)}
        found |= {case.name: watch(asked, front, partial(send, asked, case)) for case in cases()}
    rows = [[name, *each.describe()] for name, each in found.items()]
    header = ["body of 1 MB", "status", "answered after s", "longest /livez ms", "front grew by MiB"]
    section = "\n".join(["## The costliest bodies", "", table(header, rows)])
    if wrong := [name for name, each in found.items() if each.grown_bytes > MAX_GROWTH_BYTES or each.status >= 500]:
        raise BenchError(f"{section}\n\nbeyond the bounds: {', '.join(wrong)}")
    return section


def cases() -> list[Case]:
    """The requests."""
    return [
        *(Case(f"a long text: {task}", f"/models/{task}", encode({"inputs": LONG})) for task in TEXTS),
        Case("many texts", "/models/text-classification", encode({"inputs": MANY})),
        Case("a thousand texts", "/models/text-classification", encode({"inputs": [LONG[:800]] * 1000})),
        Case("a thousand vectors of tokens", "/models/feature-extraction", raw_vectors()),
        Case("a long context", "/models/question-answering", encode({"inputs": {"question": "a", "context": LONG}})),
        Case("many masks", "/models/fill-mask", encode({"inputs": "[MASK] " * (BYTES // 7 - 20)})),
        Case("a list in a list in a list", "/models/text-classification", b'{"inputs":' + b"[" * (BYTES - 20)),
        Case("many numbers", "/models/text-classification", encode({"inputs": [0] * (BYTES // 3 - 20)})),
        Case("many fields", "/models/text-classification", encode({f"field{n}": 0 for n in range(BYTES // 16)})),
        Case(
            "many rows of a table",
            "/invocations/text-classification",
            encode({"dataframe_records": [{"text": "a"}] * 70_000}),
        ),
        Case(
            "many lines of CSV", "/invocations/text-classification", b"text\n" + b"a\n" * (BYTES // 2 - 10), "text/csv"
        ),
        Case("large numbers in a shape", "/v2/models/text-classification/infer", tensor([10**17] * 50_000, ["a"])),
        Case("a tensor of many texts", "/v2/models/text-classification/infer", tensor([BYTES // 5], MANY)),
        Case("a thousand messages", "/v1/chat/completions", chat(1000)),
        Case("a long message", "/v1/chat/completions", chat(1)),
        Case("a long prompt", "/v1/completions", encode({"model": "text-generation", "prompt": LONG})),
        Case("many texts to embed", "/v1/embeddings", encode({"model": "feature-extraction", "input": MANY})),
        Case("many texts to rank", "/rerank", encode({"query": "a", "texts": MANY})),
        Case(
            "many documents to rank",
            "/v2/rerank",
            encode({"model": "text-classification", "query": "a", "documents": MANY}),
        ),
        Case("a long text to tokenize", "/models/text-classification/tokenize", encode({"inputs": LONG})),
        Case(
            "many ids to detokenize", "/models/text-classification/detokenize", encode({"ids": [5] * (BYTES // 3 - 20)})
        ),
        Case("65,536 ids to detokenize", "/models/text-classification/detokenize", encode({"ids": [5] * 65_536})),
        Case("a long text to BentoML's route", "/predict", encode({"model": "text-classification", "inputs": LONG})),
        Case("a webhook", "/hooks/mlflow", b"{" + b" " * (BYTES - 2) + b"}"),
        Case("an order", "/admin/models/text-classification/promote", encode({"version": "1", "why": LONG})),
        Case("chunks of one byte", "/models/text-classification", one_byte_chunks),
    ]


TEXTS = ("text-classification", "token-classification", "feature-extraction", "text-generation")


def encode(body: Any) -> bytes:
    """As JSON. Raises BenchError for one that is larger than it is said to be."""
    encoded = json.dumps(body, separators=(",", ":")).encode()
    if len(encoded) > BYTES:
        raise BenchError(f"a body has {len(encoded):,} bytes")
    return encoded


def raw_vectors() -> bytes:
    """A vector of each token of many texts: the largest answer for its body."""
    return encode({"inputs": [LONG[:900]] * 1000, "parameters": {"pooling": "raw", "truncate": True}})


def tensor(shape: list[int], data: list[str]) -> bytes:
    """A request of the Open Inference Protocol."""
    return encode({"inputs": [{"name": "text", "shape": shape, "datatype": "BYTES", "data": data}]})


def chat(messages: int) -> bytes:
    """Messages that fill the body."""
    content = LONG[: BYTES // messages - 60]
    return encode({"model": "text-generation", "messages": [{"role": "user", "content": content}] * messages})


def one_byte_chunks() -> Iterator[bytes]:
    """A body in chunks of one byte, which take six on the wire."""
    yield b'{"inputs":"'
    for _ in range(BYTES // 6):
        yield b"a"
    yield b'"}'


def pause() -> int:
    """Let a second pass, to see what the machine does by itself."""
    time.sleep(1)
    return 0


def send(asked: Asked, case: Case) -> int:
    """The status of the answer."""
    connection = connect(asked)
    try:
        body = case.body if isinstance(case.body, bytes) else join_chunks(case.body())
        framing = {} if isinstance(case.body, bytes) else {"Transfer-Encoding": "chunked"}
        connection.putrequest("POST", case.path, skip_accept_encoding=True)
        for name, value in {**asked.headers, "Content-Type": case.kind, **framing}.items():
            connection.putheader(name, value)
        if not framing:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def join_chunks(chunks: Iterator[bytes]) -> bytes:
    """The chunks as they travel."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def connect(asked: Asked) -> http.client.HTTPConnection:
    """A connection of its own."""
    host, _, port = asked.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def find_front(asked: Asked) -> psutil.Process:
    """The process that has a connection to us."""
    connection = connect(asked)
    own = connection.sock.getsockname()[1]
    try:
        for process in psutil.process_iter():
            try:
                links = process.net_connections("tcp")
            except psutil.Error:
                continue
            if any(link.raddr and link.raddr.port == own and process.pid != psutil.Process().pid for link in links):
                return process
        connection.request("GET", "/livez", headers=dict(asked.headers))
    finally:
        connection.close()
    raise BenchError("no process has the connection")


@contextmanager
def looking(asked: Asked, front: psutil.Process) -> Iterator[list[tuple[float, int]]]:
    """While the block runs, ask `/livez` again and again: seconds of each answer, and the front's memory then."""
    looks, is_over = list[tuple[float, int]](), threading.Event()

    def look() -> None:
        connection = connect(asked)
        while not is_over.is_set():
            began = time.perf_counter()
            connection.request("GET", "/livez", headers=dict(asked.headers))
            connection.getresponse().read()
            looks.append((time.perf_counter() - began, front.memory_info().rss))
            time.sleep(PAUSE_SECONDS)
        connection.close()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        while not looks and thread.is_alive():
            time.sleep(PAUSE_SECONDS)
        looks.clear()  # the first one made the connection
        yield looks
        time.sleep(2 * PAUSE_SECONDS)
    finally:
        is_over.set()
        thread.join()


def watch(asked: Asked, front: psutil.Process, work: Callable[[], int]) -> Found:
    """Do the work and look at the front meanwhile."""
    before = front.memory_info().rss
    began = time.perf_counter()
    with looking(asked, front) as looks:
        status = work()
        took = time.perf_counter() - began
    blocked, held = max((each for each, _ in looks), default=0.0), max((rss for _, rss in looks), default=before)
    return Found(status, took, blocked, held - before)
