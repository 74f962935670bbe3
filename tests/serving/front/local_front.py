"""A front whose engines do what a test tells them to: no socket, no model, no other process."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy

from registry.settings import RegistrySettings
from serving.errors import EngineLost, ServingError
from serving.front.admission import UNBOUNDED, QueueShare
from serving.front.front import Front
from serving.front.loaded_version import LoadedVersion
from serving.front.meter import FrontMeter
from serving.front.waiter import Waiter
from serving.settings import ServingSettings
from serving.tasks.base.generation import GenerationParameters
from serving.tasks.base.request import Request
from serving.tasks.base.task import Task
from serving.wire.messages import Encoded, EncodedRow, TokenDelta
from serving.wire.routing_table import ModelEntry, Table, VersionEntry
from tests.waiting import WAIT_SECONDS

MakeFront = Callable[..., Front]

LOST = EngineLost("the engine stopped", retry_seconds=1.0)


class Letters(Task[Any, GenerationParameters, None]):
    """Writes letters; token 0 is "a"."""

    name = "text-generation"
    parameters_type = GenerationParameters
    generates = True

    def encode(self, item: Any, parameters: Any, version: Any) -> Encoded:
        return Encoded([EncodedRow(len(item), b"")], None)

    def forward(self, model: Any, batch: Any) -> Any:
        raise NotImplementedError

    def decode(self, rows: Sequence[Any], plan: Any, parameters: Any, version: Any) -> Any:
        return rows[0][0]


class Alphabet:
    cleans_up = False
    special_ids: ClassVar[frozenset[int]] = frozenset()

    def read(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(ord("a") + each) for each in ids)


class FakeLink:
    """Stands where the link to an engine does; `on_submit` plays the engine."""

    def __init__(self, on_submit: Callable[[Waiter], None] = lambda waiter: None) -> None:
        self.on_submit = on_submit
        self.waiters: list[Waiter] = []
        self.abandoned: list[Waiter] = []
        self.rows_sent = 0
        self.share = QueueShare()
        self.share.bound(UNBOUNDED)

    def submit(self, rows: Sequence[EncodedRow], waiter: Waiter) -> None:
        self.waiters.append(waiter)
        self.on_submit(waiter)

    def abandon(self, waiter: Waiter, error: ServingError) -> None:
        self.abandoned.append(waiter)
        waiter.fail(error)

    def abandon_late(self, now: float) -> None:
        pass

    def close(self) -> None:
        pass


def lose(waiter: Waiter) -> None:
    """The engine ends as soon as it has the request."""
    waiter.fail(LOST)


def write(text: str, *, end: bool = True) -> Callable[[Waiter], None]:
    """The engine writes this text, a letter a message; the last one is the end unless the engine is lost then."""

    def engine(waiter: Waiter) -> None:
        for place, letter in enumerate(text, start=1):
            finish = "length" if end and place == len(text) else ""
            tokens = numpy.asarray([ord(letter) - ord("a")], dtype=numpy.int32).tobytes()
            waiter.take(0, TokenDelta(1, tokens, finish, place))
        if not end:
            waiter.fail(LOST)

    return engine


def answer(value: Any) -> Callable[[Waiter], None]:
    """The engine answers the one row with this."""
    return lambda waiter: waiter.put(0, [value], 0.5)


def request(task: Task) -> Request:
    return Request(["a text"], False, SimpleNamespace(stop=None))


def make_front(run: Path, *, versions: Sequence[str] = ("1",), task: Task | None = None, **settings: Any) -> Front:
    """A front that serves the model "m", live at the first version; each has no engine yet, see `engines`."""
    given = {"timeout_seconds": WAIT_SECONDS, "grace_seconds": WAIT_SECONDS, **settings}
    front = Front(ServingSettings(RegistrySettings(run, ""), (), run, **given))
    found = {version: VersionEntry(state="ready") for version in versions}
    front.routing._is_ready = True
    front.routing.table = Table(models={"m": ModelEntry(live=versions[0], aliases={}, versions=found)})
    contract: Any = SimpleNamespace(processor=SimpleNamespace(image=None))
    version_context: Any = SimpleNamespace(tokenizer=Alphabet())
    for version in versions:
        meter = FrontMeter("m", version, "text-generation")
        loaded = LoadedVersion("m", version, contract, task or Letters(), version_context, meter)
        front.routing._loaded["m", version] = loaded
    return front


def engines(front: Front, version: str, *plays: Callable[[Waiter], None]) -> FakeLink:
    """One engine of a version, which plays these parts one request after the other."""
    parts = iter(plays)
    link: Any = FakeLink(lambda waiter: next(parts)(waiter))
    front.routing._loaded["m", version].accepting = [link]
    found: FakeLink = link
    return found
