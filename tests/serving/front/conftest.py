import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.front.connection import Connection
from serving.front.connection_guard import ConnectionLimits
from serving.front.fast_path import FastConnection
from serving.front.front import Front
from serving.runtime.key_file import KeyFile
from serving.wire.routing_table import ModelEntry, Table, VersionEntry
from tests.serving.front.attacked import LIMITS, MAX_BODY, Attacked, Serve, Whole, Work, attack
from tests.serving.front.closed_front import Closed
from tests.serving.front.local_front import MakeFront, answer, engines
from tests.serving.front.local_front import make_front as make


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Without what asyncio says of other tests' tasks and futures, which it does whenever they are collected."""

    def is_own(record: logging.LogRecord) -> bool:
        return record.name != "asyncio"

    caplog.handler.addFilter(is_own)
    yield caplog
    caplog.handler.removeFilter(is_own)


@pytest.fixture
def make_front(tmp_path: Path) -> Iterator[MakeFront]:
    """Makes fronts without engines; what they hold is let go at the end."""
    made: list[Front] = []

    def remembered(**given: Any) -> Front:
        made.append(make(tmp_path, **given))
        return made[-1]

    yield remembered
    for front in made:
        front.routing.close()


@pytest.fixture(params=[Connection, FastConnection], ids=["ASGI alone", "with the fast path"])
def serve(request: pytest.FixtureRequest, make_front: MakeFront) -> Serve:
    """Runs a test's coroutine with a server; see `Attacked` for what may be given."""

    def run(work: Work, limits: ConnectionLimits = LIMITS, keep_alive: float = 60.0) -> None:
        def make() -> Attacked:
            front = make_front(task=Whole(), max_body_bytes=MAX_BODY)
            engines(front, "1", *[answer("an answer")] * 50)
            return Attacked(front, limits, request.param, keep_alive)

        attack(make, work)

    return run


@pytest.fixture
def closed(tmp_path: Path, make_front: MakeFront) -> Iterator[Closed]:
    file = KeyFile(tmp_path / "keys.json")
    file.add("first")
    front = make_front(task=Whole(), keys_file=tmp_path / "keys.json")
    front.access.start(tmp_path, 1, 0)
    entry = VersionEntry(state="failed", error="the reason in words")
    secret = ModelEntry(live="1", aliases={}, versions={"1": entry}, error="a trouble")
    front.routing.table = Table(models={**front.routing.table.models, "secret": secret}, is_known=True)
    yield Closed(front, file)
    front.access.close()
