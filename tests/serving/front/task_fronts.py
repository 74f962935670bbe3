"""A front of every task with a real tokenizer; its engines answer at once, with arrays of the right shape."""

import asyncio
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import httpx
import msgspec
import numpy

from registry.contract import Contract, Example, ImageSettings, Processor
from registry.heads import get_head
from serving.front.app import DataPlane
from serving.front.front import Front
from serving.front.loaded_version import LoadedVersion
from serving.front.meter import FrontMeter
from serving.front.waiter import Waiter
from serving.processors.chat_template import ChatTemplate
from serving.processors.images import ImageReader
from serving.processors.tokenizer import TextEncoder
from serving.tasks import get_task, served_tasks
from serving.tasks.base.task import AnyTask
from serving.tasks.base.version_context import VersionContext
from serving.tasks.fill_mask import MaskPayload
from serving.wire.messages import EncodedRow, SamplingSettings, TokenDelta
from serving.wire.routing_table import ModelEntry, Table, VersionEntry
from tests.contracts import classifier
from tests.serving.front.local_front import FakeLink
from tests.small_models import vocabulary

TASKS = tuple(name for name in served_tasks() if name not in ("text2text-generation", "translation"))
"""The other two are text2text-generation by another name, as summarization is."""
LABELS = {
    "text-classification": tuple(f"label {index}" for index in range(60)),
    "zero-shot-classification": ("contradiction", "neutral", "entailment"),
    "token-classification": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    "image-classification": tuple(f"label {index}" for index in range(1000)),
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "text-generation": {"max_new_tokens": 20},
    "summarization": {"max_new_tokens": 20},
}
WIDTH = 768
"""Numbers of a vector."""
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
TOKENS = 512


class TaskLink(FakeLink):
    """An engine that answers at once. rows: all that it got."""

    def __init__(self, task: AnyTask, contract: Contract) -> None:
        super().__init__()
        self.rows: list[EncodedRow] = []
        self._task, self._contract = task, contract

    def submit(self, rows: Sequence[EncodedRow], waiter: Waiter) -> None:
        self.rows += rows
        for index, row in enumerate(rows):
            if self._task.generates:
                waiter.take(index, _text(row))
            else:
                waiter.put(index, _arrays(row, self._task.name, self._contract), 0.0)


def _text(row: EncodedRow) -> TokenDelta:
    """All new tokens that the row may have."""
    count, top = row.new_tokens, SamplingSettings.unpack(row.payload).top
    ids = numpy.resize(numpy.arange(2000, 2100, dtype=numpy.int32), count)
    if top is None:
        return TokenDelta(0, ids.tobytes(), "length", count)
    likeliest = numpy.resize(ids, (count, top))
    scores = numpy.full((count, top), -1.5, numpy.float32)
    logprobs = numpy.full(count, -0.5, numpy.float32)
    return TokenDelta(0, ids.tobytes(), "length", count, logprobs.tobytes(), likeliest.tobytes(), scores.tobytes())


@cache
def _numbers(*shape: int) -> Any:
    return numpy.random.default_rng(0).random(shape, dtype=numpy.float32)


def _arrays(row: EncodedRow, task: str, contract: Contract) -> list[Any]:
    numbers = _numbers
    labels = len(contract.labels)
    match task:
        case "text-classification" | "image-classification":
            return [numbers(min(labels, 512)), numpy.arange(min(labels, 512))]
        case "zero-shot-classification":
            return [numbers(labels)]
        case "token-classification":
            return [numbers(row.length, labels)]
        case "question-answering":
            return [numbers(row.length), numbers(row.length)]
        case "feature-extraction":
            return [numbers(row.length, WIDTH) if row.batch_key == "raw" else numbers(WIDTH)]
        case "multiple-choice":
            return [numbers(1)]
        case "next-sentence-prediction":
            return [numbers(1)[0]]
        case "fill-mask":
            wanted = msgspec.msgpack.decode(row.payload, type=MaskPayload)
            count = len(wanted.targets) or int(row.batch_key)
            ids = numpy.resize(numpy.asarray(wanted.targets or range(2000, 2000 + count)), (len(wanted.places), count))
            return [numbers(len(wanted.places), count), ids]
    raise AssertionError(task)


def contract_of(task: str) -> Contract:
    """A contract of the task."""
    if task == "image-classification":
        image = ImageSettings(
            resize=(224,), resample=2, crop=(224, 224), scale=1.0, mean=(), std=(), height=224, width=224
        )
        processor = Processor(
            class_name="ViTImageProcessor",
            inputs=("pixel_values",),
            pad_token_id=0,
            unk_token_id=None,
            vocabulary=0,
            image=image,
        )
    else:
        processor = Processor(
            class_name="BertTokenizer",
            inputs=("input_ids", "token_type_ids", "attention_mask"),
            pad_token_id=0,
            unk_token_id=100,
            cls_token_id=101,
            mask_token_id=103,
            vocabulary=30522,
        )
    example = Example(inputs=["a"], parameters={}, output=[[0.5] * WIDTH]) if get_task(task).embeds else None
    return classifier(
        task=task,
        auto_class=get_head(task).auto_class,
        labels=LABELS.get(task, ()),
        max_tokens=TOKENS,
        processor=processor,
        defaults=DEFAULTS.get(task, {}),
        example=example,
    )


@cache
def context_of(task: str, labels: tuple[str, ...] | None = None) -> VersionContext:
    """The front's side of a version of the task. labels: instead of `LABELS`."""
    contract, found = contract_of(task), get_task(task)
    contract = contract if labels is None else msgspec.structs.replace(contract, labels=labels)
    encoder = ImageReader(contract) if contract.processor.image else TextEncoder(vocabulary(), contract)
    chat = ChatTemplate(TEMPLATE, {}) if task == "text-generation" else None
    return VersionContext(contract, encoder, msgspec.convert(contract.defaults, found.defaults_type), chat)


RANKER = "ranker"
"""A text-classification model with one label."""


def serve_tasks(front: Front, tasks: Sequence[str]) -> dict[str, TaskLink]:
    """Let a front serve these tasks, each as a model of the task's name, or RANKER; what each one's engine gets."""
    links: dict[str, TaskLink] = {}
    entries = {}
    for name in tasks:
        is_ranker = name == RANKER
        task = get_task("text-classification" if is_ranker else name)
        context = context_of(task.name, ("relevance",) if is_ranker else None)
        link: Any = TaskLink(task, context.contract)
        links[name] = link
        loaded = LoadedVersion(name, "1", context.contract, task, context, FrontMeter(name, "1", task.name))
        loaded.accepting = [link]
        front.routing._loaded[name, "1"] = loaded
        version = VersionEntry(state="ready", contract=context.contract)
        entries[name] = ModelEntry(live="1", aliases={}, versions={"1": version})
    front.routing._is_ready = True
    front.routing.table = Table(models=entries)
    return links


async def no_other_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError(scope["path"])


def post(front: Front, path: str, body: bytes, **headers: str) -> httpx.Response:
    """Send a body to a route of the data plane."""

    async def work() -> httpx.Response:
        transport = httpx.ASGITransport(DataPlane(front, no_other_app))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post(path, content=body, headers=headers)

    return asyncio.run(work())


def png(width: int, height: int) -> bytes:
    """A black image: of many pixels, but few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = (b"\0" * (1 + -(-width // 8))) * height
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
