"""What decodes bytes of others: bodies, forms, tensors, tables, images, messages between processes and HTTP itself.

Each target takes any bytes and raises nothing: a decoder may refuse what it cannot read, but only by the errors that it
names. `fuzz_search` lets atheris search for bytes that do otherwise; the tests try some without it.
"""

import asyncio
import base64
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import hpack
import msgspec
import uvicorn
from uvicorn.server import ServerState

from registry.contract import FORMAT, Contract, ImageSettings, Processor
from serving.errors import ServingError
from serving.front.connection import Connection
from serving.front.connection_guard import ConnectionGuard, ConnectionLimits
from serving.front.protocols import mlflow
from serving.front.protocols.forms import read_form, read_json
from serving.front.protocols.kserve_inference import InferenceForm, InferenceRequest
from serving.front.protocols.kserve_tensors import read_columns, split_body, take_inputs
from serving.front.protocols.openai_chat import ChatForm
from serving.front.protocols.openai_completions import CompletionForm
from serving.front.protocols.openai_embeddings import EmbeddingForm
from serving.front.rpc import frames
from serving.front.rpc.connection import RpcConnection
from serving.front.rpc.inference import parse, to_form
from serving.front.rpc.messages import message_class
from serving.front.rpc.methods import Method
from serving.front.rpc.outbox import RpcLimits
from serving.front.rpc.stream import Stream
from serving.processors.images import ImageReader
from serving.tasks import get_task, served_tasks
from serving.tasks.base.request import convert_request, parse_body
from serving.tasks.base.task import AnyTask
from serving.wire.messages import (
    Array,
    FromEngine,
    Outputs,
    Row,
    SamplingSettings,
    Submit,
    ToEngine,
    TokenDelta,
    TokenDeltas,
    unpack,
)

Target = Callable[[bytes], None]
MAX_ROWS = 64
IMAGES = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC",
    "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7",
    "Qk06AAAAAAAAADYAAAAoAAAAAQAAAAEAAAABABgAAAAAAAQAAADEDgAAxA4AAAAAAAAAAAAAAAD/AA==",
)
"""A pixel as PNG, GIF and BMP, in base64."""


def _chosen(data: bytes) -> tuple[AnyTask, bytes]:
    """A task by the first byte, and the other bytes."""
    tasks = served_tasks()
    return get_task(tasks[data[0] % len(tasks) if data else 0]), data[1:]


def body(data: bytes) -> None:
    """The body of `POST /models/{name}`."""
    task, data = _chosen(data)
    parse_body(data, task, MAX_ROWS)


def forms(data: bytes) -> None:
    """The bodies of OpenAI's routes."""
    fields = read_json(data[1:])
    read_form(fields, (CompletionForm, ChatForm, EmbeddingForm)[data[0] % 3])


def tensors(data: bytes) -> None:
    """The body of an inference request, with binary tensors. The first bytes: the task, and the length of the JSON."""
    task, data = _chosen(data)
    length = data[0] if data else 0
    head, binary = split_body(data[1:], str(length) if length else "")
    form = read_form(read_json(head), InferenceForm)
    inputs, more = take_inputs(read_columns(form.inputs, binary), task)
    convert_request(inputs, {**form.parameters, **more}, task, MAX_ROWS)


def tables(data: bytes) -> None:
    """The body of MLflow's scoring routes, as JSON or, where the first byte is odd, as CSV."""
    task, data = _chosen(data)
    read = mlflow._read_table if data[:1] and data[0] % 2 else mlflow._read_object
    read_inputs, params = read(data[1:], MAX_ROWS)
    convert_request(read_inputs(task), params, task, MAX_ROWS)


def image(data: bytes) -> None:
    """An image file, or its base64."""
    reader = _image_reader()
    reader.read(data)


def image_text(data: bytes) -> None:
    """An image as text."""
    _image_reader().read(data.decode("utf-8", "replace"))


def messages(data: bytes) -> None:
    """What a front and an engine tell each other. Both trust what decodes; only decoding may fail."""
    for kind in (ToEngine, FromEngine, SamplingSettings):
        try:
            found: Any = msgspec.msgpack.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        for array in getattr(found, "arrays", []):
            try:
                unpack(array)
            except (ValueError, TypeError):
                continue


class Client(asyncio.Transport):
    """A client that keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.received = bytearray()
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.received += data

    def close(self) -> None:
        """Take nothing more."""
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        """Whether it takes nothing more."""
        return self.is_closed

    def can_write_eof(self) -> bool:
        """As with TLS."""
        return False

    def get_write_buffer_size(self) -> int:
        """It has read everything."""
        return 0

    def _ignore(self, *_: object, **__: object) -> None: ...

    set_write_buffer_limits = pause_reading = resume_reading = _ignore


async def _app(_: Any, receive: Any, send: Any) -> None:
    """Answers once the body is complete."""
    message = await receive()
    while message.get("more_body"):
        message = await receive()
    if message["type"] == "http.request":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


def http(data: bytes) -> None:
    """What a client sends on one connection, in two parts. Every answer is complete, and none is a server's fault."""
    _loop().run_until_complete(_talk(data))


async def _talk(data: bytes) -> None:
    config, client = _config(), Client()
    connection: Any = _connection()(config=config, server_state=ServerState(), app_state={})
    connection.connection_made(client)
    for part in (data[: len(data) // 2], data[len(data) // 2 :]):
        if not client.is_closed:
            connection.data_received(part)
            for _ in range(3):
                await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.gather(*connection.tasks)
    statuses = [line.split(b" ")[1] for line in client.received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    if client.received and (not statuses or any(int(status) >= 500 for status in statuses)):
        raise RuntimeError(bytes(client.received))


def grpc(data: bytes) -> None:
    """What a client of gRPC sends on one connection, in two parts. Nothing is held of it once it is gone."""
    _loop().run_until_complete(_call(data))


async def _call(data: bytes) -> None:
    client, guard = Client(), ConnectionGuard(ConnectionLimits(4, 60.0, 2**20), counts=False)
    connection = RpcConnection({CALL: Method(_echo, 2**16)}, guard, RpcLimits(4, 2**16, 1.0), set())
    connection.connection_made(client)
    for part in (data[: len(data) // 2], data[len(data) // 2 :]):
        if not client.is_closed:
            connection.data_received(part)
            for _ in range(4):
                await asyncio.sleep(0)
    connection.connection_lost(None)
    for _ in range(4):
        await asyncio.sleep(0)
    if guard.buffered_bytes or guard.requests:
        raise RuntimeError(
            f"{guard.buffered_bytes} bytes and {guard.requests} calls are held of a connection that is gone"
        )


async def _echo(stream: Stream) -> None:
    """Answers a call with its message."""
    with contextlib.suppress(ServingError):
        stream.finish(b"", await stream.message())


def grpc_message(data: bytes) -> None:
    """A request of the inference service over gRPC. The first byte: the task."""
    task, data = _chosen(data)
    InferenceRequest(to_form(parse("ModelInferRequest", data, MAX_ROWS), MAX_ROWS), b"", MAX_ROWS).read(task)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _connection() -> type[Connection]:
    return type("Made", (Connection,), {"guard": ConnectionGuard(ConnectionLimits(4, 60.0, 2**20))})


@cache
def _config() -> uvicorn.Config:
    config = uvicorn.Config(_app, ws="none", lifespan="off", log_config=None)
    config.load()
    return config


@cache
def _image_reader() -> ImageReader:
    settings = ImageSettings(resize=(8,), resample=2, crop=(8, 8), scale=1.0, mean=(), std=(), height=8, width=8)
    processor = Processor(
        class_name="ViTImageProcessor",
        inputs=("pixel_values",),
        pad_token_id=0,
        unk_token_id=None,
        vocabulary=0,
        image=settings,
    )
    contract = Contract(
        format=FORMAT,
        task="image-classification",
        auto_class="AutoModelForImageClassification",
        model_class="ViTForImageClassification",
        model_type="vit",
        problem_type=None,
        labels=("a", "b"),
        max_tokens=2,
        dtype="auto",
        processor=processor,
        defaults={},
        transformers="5",
        torch="2",
        files={},
    )
    return ImageReader(contract)


TARGETS: Mapping[str, Target] = {
    "body": body,
    "forms": forms,
    "tensors": tensors,
    "tables": tables,
    "image": image,
    "image_text": image_text,
    "messages": messages,
    "http": http,
    "grpc": grpc,
    "grpc_message": grpc_message,
}
CALL = b"/a.B/C"
_FIELDS = [(":method", "POST"), (":path", CALL.decode()), ("content-type", "application/grpc")]
_BLOCK = hpack.Encoder().encode(_FIELDS)
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES"}
SEEDS: Mapping[str, Sequence[bytes]] = {
    "body": [b'\0{"inputs": "a", "parameters": {}}', b'\4{"inputs": {"question": "a", "context": "b"}, "top_k": 1}'],
    "forms": [
        b'\0{"model": "m", "prompt": ["a"], "max_tokens": 1, "stop": "a", "stream_options": {"include_usage": true}}',
        b'\1{"model": "m", "messages": [{"role": "user", "content": "a"}], "logprobs": true}',
        b'\2{"model": "m", "input": ["a"], "encoding_format": "base64"}',
    ],
    "tensors": [
        b"\1\0" + msgspec.json.encode({"inputs": [TENSOR | {"data": ["a"]}], "parameters": {"top_k": 1}}),
        b"\0\x6d"
        + msgspec.json.encode({"inputs": [TENSOR | {"parameters": {"binary_data_size": 5}}]}).ljust(0x6D)
        + b"\1\0\0\0a",
    ],
    "tables": [
        b'\1\0{"dataframe_split": {"columns": ["text"], "data": [["a"]]}, "params": {"top_k": 1}}',
        b'\0\0{"dataframe_records": [{"text": "a"}]}',
        b"\0\1text\na\nb\n",
    ],
    "image": [base64.b64decode(each) for each in IMAGES],
    "image_text": [each.encode() for each in IMAGES],
    "messages": [
        msgspec.msgpack.encode(Submit([Row(1, 1, b"\0\0\0\0", b"", "", 1.0, SamplingSettings(1).pack())])),
        msgspec.msgpack.encode(Outputs([1], [1], [Array("float32", [1, 1], bytes(4))], 0.1)),
        msgspec.msgpack.encode(TokenDeltas([TokenDelta(1, bytes(4), "length", 1)])),
    ],
    "http": [
        b"POST /models/m HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nA: b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\nGET /v2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ],
    "grpc": [
        frames.PREFACE
        + frames.settings_frame({frames.INITIAL_WINDOW_SIZE: 64})
        + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, _BLOCK)
        + frames.frame(frames.DATA, frames.END_STREAM, 1, b"\0" + frames.number(9) + b"a message")
        + frames.frame(frames.PING, 0, 0, bytes(8)),
    ],
    "grpc_message": [
        b"\1"
        + message_class("ModelInferRequest")(
            inputs=[{"name": "text", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"a"]}}],
            parameters={"top_k": {"int64_param": 1}},
        ).SerializeToString()
    ],
}
"""Bytes that each target reads; a search begins with them."""


def attempt(name: str, data: bytes) -> None:
    """Give bytes to a target. Raises what the target must not raise."""
    try:
        TARGETS[name](data)
    except ServingError as error:
        if error.status >= 500:
            raise RuntimeError(f"{name} is refused as a failure of the server") from error
