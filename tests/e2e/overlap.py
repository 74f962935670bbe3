"""What makes an overlap certain: engines that stand still while a test looks, and requests that nobody waits for.

A test that needs two things at the same moment holds the one until the other is there. It counts neither on a text
being long enough nor on being quick.
"""

import json
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from tests.e2e.server import Server, wait_until
from tests.waiting import WAIT_SECONDS


@contextmanager
def held(process: psutil.Process) -> Iterator[psutil.Process]:
    """The process stands still within the block; it may be killed there."""
    _stop(process)
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


@contextmanager
def held_amid_texts(
    server: Server,
    model: str,
    version: str = "1",
    begin: Callable[[], None] = lambda: None,
    is_early: Callable[[], bool] = lambda: True,
) -> Iterator[psutil.Process]:
    """The version's engine stands still within the block while it has rows that are not written to their end.

    begin: begins a text; called again where that one has ended before the engine stood still, or where it is not
    `is_early`.
    """
    engine = psutil.Process(server.describe(model)["versions"][version]["engines"][0]["pid"])

    def is_amid() -> bool:
        begin()
        _stop(engine)
        if server.sample("running_rows", model=model, version=version) > 0 and is_early():
            return True
        engine.resume()
        return False

    wait_until(is_amid, f"{model}/{version} stands still amid a text")
    with held(engine):
        yield engine


def _stop(process: psutil.Process) -> None:
    process.suspend()
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, f"{process.pid} stands still")


@contextmanager
def sent(server: Server, path: str, body: Any) -> Iterator[socket.socket]:
    """A connection on which the request was sent; its client leaves at the end of the block."""
    data = json.dumps(body).encode()
    lines = ("Host: localhost", "Content-Type: application/json", f"Content-Length: {len(data)}")
    head = "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""])
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as connection:
        connection.sendall(head.encode() + data)
        yield connection


def has_answer(connection: socket.socket) -> bool:
    """Whether something has come, read or not."""
    return bool(select.select([connection], [], [], 0)[0])
