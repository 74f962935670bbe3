"""Small models on a device, loaded as an engine loads them; rows for them, and what engines answer to these."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy
import torch
import zmq

from bench.models import make_tokenizer, write_contract
from registry.artifact import read_contract
from registry.checks import load_model
from registry.heads import get_head
from registry.layout import MODEL_FOLDER
from registry.saved_processors import load_processor
from registry.staging import describe
from serving.engine.assembly import make_engine, make_model
from serving.engine.batching.cost import Cost
from serving.engine.meter import EngineMeter
from serving.engine.model import Model
from serving.tasks import get_task
from serving.wire.messages import Failure, FromEngine, Outputs, Row, Submit, TokenDeltas, unpack
from tests.alike import assert_alike
from tests.families import MAX_TOKENS, build
from tests.waiting import WAIT_SECONDS

COST = Cost(fixed_seconds=1e-4, token_seconds=1e-7, budget_tokens=2048, is_packed=True)
IN_MESSAGE = 16
WORD_PIECE = ("bert", "distilbert", "electra")


def write_artifact(root: Path, family: str, task: str) -> Path:
    """An artifact as an engine reads it, in float32."""
    tokenizer = make_tokenizer(MAX_TOKENS) if family in WORD_PIECE else None
    folder = build(root / MODEL_FOLDER, family, get_head(task).auto_class, tokenizer)
    module = load_model(folder, task, dtype="float32")
    processor = load_processor(folder, of_images=family == "vit")
    defaults = get_task(task).defaults(folder, {})
    write_contract(root, describe(root, module, processor, task, defaults=defaults, dtype="auto", max_tokens=None))
    return root


def load(root: Path, device: torch.device, dtype: str, kind: type[Model] | None = None) -> Any:
    """The artifact's model. kind: instead of the task's own class."""
    return (kind or make_model)(root, read_contract(root), device=str(device), dtype=dtype)


def rows_of(model: Model, lengths: Sequence[int], **changes: Any) -> list[Row]:
    """Rows of ordinary tokens, numbered."""
    return [
        msgspec.structs.replace(model.probe(length, index), deadline=1e12, **changes)
        for index, length in enumerate(lengths)
    ]


def assert_same_rows(found: Sequence[Any], expected: Sequence[Any], dtype: str) -> None:
    """Each row's arrays agree as answers must."""
    assert len(found) == len(expected)
    for arrays, wanted in zip(found, expected, strict=True):
        for one, other in zip(arrays, wanted, strict=True):
            assert_alike(one, other, dtype)


@contextmanager
def engine_of(model: Model, folder: Path) -> Iterator[str]:
    """The address of an engine in a thread."""
    context, address = zmq.Context(), f"ipc://{folder}/engine.sock"
    socket = context.socket(zmq.ROUTER)
    socket.bind(address)
    engine = make_engine(model, COST, socket, EngineMeter("m", "1", model.contract.task))
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield address
    finally:
        engine.stop()
        thread.join(WAIT_SECONDS)
        context.destroy(linger=0)


@contextmanager
def connected(address: str) -> "Iterator[zmq.Socket[bytes]]":
    """A front's socket to an engine."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(address)
        yield socket


def send(socket: "zmq.Socket[bytes]", rows: Sequence[Row]) -> None:
    """Send rows to an engine, some in a message."""
    for first in range(0, len(rows), IN_MESSAGE):
        socket.send(msgspec.msgpack.encode(Submit(list(rows[first : first + IN_MESSAGE]))))


def receive(socket: "zmq.Socket[bytes]") -> dict[int, Any]:
    """The replies that are there, by row: its arrays or its tokens, or the reason of a failure."""
    found: dict[int, Any] = {}
    while socket.poll(0):
        reply = msgspec.msgpack.decode(socket.recv(), type=FromEngine)
        if isinstance(reply, Failure):
            found |= dict.fromkeys(reply.ids, reply.reason)
        elif isinstance(reply, Outputs):
            arrays = [unpack(array) for array in reply.arrays]
            found |= {number: [array[place] for array in arrays] for place, number in enumerate(reply.ids)}
        else:  # without deltas it only asks whether the front lives
            assert isinstance(reply, TokenDeltas)
            found |= {delta.id: numpy.frombuffer(delta.tokens, numpy.int32).tolist() for delta in reply.deltas}
    return found


def ask(address: str, rows: Sequence[Row]) -> dict[int, Any]:
    """What an engine replies to each row, as `receive` has it."""
    found: dict[int, Any] = {}
    with connected(address) as socket:
        send(socket, rows)
        while len(found) < len(rows):
            assert socket.poll(int(WAIT_SECONDS * 1000)), f"{len(rows) - len(found)} rows get no reply"
            found |= receive(socket)
    return found
