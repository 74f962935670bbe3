"""Both engines run the one loop around their socket, each by holding it."""

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import zmq

from serving.engine import socket_loop
from serving.engine.__main__ import listen
from serving.engine.engine import Engine
from serving.engine.generation.engine import GenerationEngine
from serving.engine.meter import EngineMeter
from serving.engine.socket_loop import SocketLoop
from serving.wire.messages import Cancel, Failure, FromEngine, Row, Submit, TokenDeltas
from tests.abilities import require
from tests.other_user import OTHER, acting_as
from tests.waiting import WAIT_SECONDS


@dataclass
class Rows:
    """A queue that keeps what it is told."""

    added: list[tuple[bytes, int]] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(1 for _ in self.added)

    def __len__(self) -> int:
        return len(self.added)

    def add(self, client: bytes, row: Row, now: float) -> None:
        self.added.append((client, row.id))

    def cancel(self, client: bytes, ids: list[int]) -> None:
        self.cancelled += ids

    def forget_client(self, client: bytes) -> int:
        kept = [(name, number) for name, number in self.added if name != client]
        freed, self.added = len(self.added) - len(kept), kept
        return freed


def row(number: int) -> Row:
    return Row(number, 1, b"\5\0\0\0", b"", "", 1e12)


def test_neither_engine_is_made_of_the_other() -> None:
    assert not issubclass(GenerationEngine, Engine)
    assert not issubclass(Engine, GenerationEngine)


def test_rows_reach_the_queue_replies_their_client_and_a_stop_waits_until_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_loop, "LINGER_SECONDS", 0.0)
    rows, context = Rows(), zmq.Context()
    router, client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.bind(f"ipc://{tmp_path}/loop")
    client.connect(f"ipc://{tmp_path}/loop")
    loop = SocketLoop(router, rows, EngineMeter("m", "1", "text-classification"))

    def step() -> None:
        loop.stop()  # before the rows are answered: the loop goes on
        for name, number in rows.added[:1] if rows.cancelled else []:
            loop.reply(name, Failure([number], "failed", "so"))
            loop.reply(b"nobody", Failure([number], "failed", "a front that is gone"))
            del rows.added[0]

    client.send(msgspec.msgpack.encode(Submit([row(1), row(2)])))
    client.send(msgspec.msgpack.encode(Cancel([7])))
    assert router.poll(int(WAIT_SECONDS * 1000)), "the messages do not arrive"
    thread = threading.Thread(target=loop.run, args=(step, lambda: 1, lambda: bool(rows.cancelled) and not rows))
    thread.start()
    for number in (1, 2):
        assert client.poll(int(WAIT_SECONDS * 1000)), "no reply"
        assert msgspec.msgpack.decode(client.recv(), type=FromEngine) == Failure([number], "failed", "so")
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    assert rows.cancelled == [7]
    context.destroy(linger=0)


@pytest.mark.parametrize("is_answered", [False, True])
def test_the_rows_of_a_front_that_ended_are_freed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_answered: bool
) -> None:
    """Whether the engine has something to send to it, as of a stream, or not."""
    monkeypatch.setattr(socket_loop, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(socket_loop, "PROBE_SECONDS", 1e9 if is_answered else 0.0)
    rows, context = Rows(), zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.bind(f"ipc://{tmp_path}/loop")
    fronts = [context.socket(zmq.DEALER) for _ in range(2)]
    for name, front in zip((b"lost", b"alive"), fronts, strict=True):
        front.setsockopt(zmq.IDENTITY, name)
        front.connect(f"ipc://{tmp_path}/loop")
        front.send(msgspec.msgpack.encode(Submit([row(1), row(2)])))
    loop = SocketLoop(router, rows, EngineMeter("m", "1", "text-classification"))

    def step() -> None:
        if len(rows.added) == 4:
            fronts[0].close(linger=0)
        if is_answered:
            for name in {name for name, _ in rows.added}:
                loop.reply(name, TokenDeltas([]))
        if fronts[0].closed and rows.added == [(b"alive", 1), (b"alive", 2)]:
            loop.stop()

    thread = threading.Thread(target=loop.run, args=(step, lambda: 1, lambda: True))
    thread.start()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()
    assert rows.added == [(b"alive", 1), (b"alive", 2)]
    context.destroy(linger=0)


GARBAGE = {
    "no msgpack": [b"\xc1"],
    "cut off": [msgspec.msgpack.encode(Submit([row(1)]))[:-3]],
    "another message": [msgspec.msgpack.encode({"a": 1})],
    "no UTF-8": [msgspec.msgpack.encode(Submit([Row(1, 1, b"", b"", "key", 1e12)])).replace(b"key", b"\xff\xff\xff")],
    "nothing": [b""],
    "several parts": [b"", b"a", b"b"],
    "a negative length": [msgspec.msgpack.encode(Submit([Row(1, -5, b"", b"", "", 1e12)]))],
    "an endless list": [b"\xdd\xff\xff\xff\xff"],
}


@pytest.mark.parametrize("frames", GARBAGE.values(), ids=GARBAGE)
def test_a_client_that_sends_garbage_is_dropped_and_the_others_go_on(tmp_path: Path, frames: list[bytes]) -> None:
    rows, context = Rows(), zmq.Context()
    router, good, bad = context.socket(zmq.ROUTER), context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    router.bind(f"ipc://{tmp_path}/loop")
    for name, client in ((b"good", good), (b"bad", bad)):
        client.setsockopt(zmq.IDENTITY, name)
        client.connect(f"ipc://{tmp_path}/loop")
    loop = SocketLoop(router, rows, EngineMeter("m", "1", "text-classification"))

    def take(is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not is_done():
            assert time.monotonic() < deadline
            loop._drain(20)

    bad.send(msgspec.msgpack.encode(Submit([row(1)])))
    take(lambda: rows.added == [(b"bad", 1)])
    bad.send_multipart(frames)
    bad.send(msgspec.msgpack.encode(Submit([row(2)])))
    take(lambda: rows.added == [] and loop._dropped_clients == {b"bad"})
    good.send(msgspec.msgpack.encode(Submit([row(3)])))
    take(lambda: bool(rows.added))
    assert rows.added == [(b"good", 3)], "what a dropped client sends later is not taken"
    context.destroy(linger=0)


def test_an_engine_takes_connections_of_its_own_user_only() -> None:
    require("other owners")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # another user gets to no folder of pytest's
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        listening = listen(context, f"ipc://{folder}/engine.sock")
        assert (folder / "engine.sock").stat().st_mode & 0o777 == 0o600
        folder.chmod(0o755)
        (folder / "engine.sock").chmod(0o666)
        for user, greeting in ((OTHER, b""), (os.geteuid(), b"\xff")):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(WAIT_SECONDS)
                with acting_as(user):
                    client.connect(str(folder / "engine.sock"))
                assert client.recv(1) == greeting, "the first byte of a greeting, or the end"
        listening.close()
    finally:
        context.destroy(linger=0)
        shutil.rmtree(folder)
