"""Writers in processes of their own move one alias at the same moment: on MLflow's sqlite database, and on a server."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.synchronize import Barrier
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from registry.errors import NotFound
from registry.flavor import log_model
from registry.history import PREFIX
from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.e2e.server import free_port, wait_until
from tests.forks import FORKS
from tests.waiting import WAIT_SECONDS

pytestmark = [pytest.mark.surroundings, pytest.mark.server]

WRITERS, MOVES = 3, 6


def write(settings: RegistrySettings, number: int, ready: Barrier) -> None:
    """Move the alias to and fro, at the same time as the others that wait for `ready`."""
    versions = Versions(settings)
    versions.history("m")
    ready.wait(WAIT_SECONDS)
    for move in range(MOVES):
        why, who = f"{number}.{move}", f"writer {number}"
        versions.promote("m", str(1 + move % 2), why=why, who=who, allow_breaking="both are fine")


@contextmanager
def mlflow_server(folder: Path, database: str) -> Iterator[str]:
    """`mlflow server` on the database, with its files in `folder`; its address."""
    port = free_port()
    command = ("-m", "mlflow", "server", "--backend-store-uri", database, "--workers", "2", "--port", str(port))
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--artifacts-destination", str(folder / "store")],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), "MLflow's server answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(WAIT_SECONDS)


@pytest.fixture(params=["sqlite", "server"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, models: dict[str, Path]) -> Iterator[RegistrySettings]:
    """A registry with two versions of "m"."""
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with mlflow_server(tmp_path, database) if request.param == "server" else nullcontext(database) as uri:
        settings = RegistrySettings(tmp_path, uri)
        for longest in (None, 200):
            log_model(models["single"], task="text-classification", name="m", max_tokens=longest, settings=settings)
        Versions(settings).promote("m", "2", why="the shorter one first")
        yield settings


def answers(url: str) -> bool:
    """Whether anything does there."""
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, OSError):
        return False


def test_writers_in_several_processes_lose_no_record(settings: RegistrySettings) -> None:
    versions = Versions(settings)
    versions.promote("m", "1", why="start")
    before = len(versions.history("m"))
    ready = FORKS.Barrier(WRITERS)
    writers = [FORKS.Process(target=write, args=(settings, number, ready)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(WAIT_SECONDS)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    moves = versions.history("m")[before:]
    assert Counter(move.why for move in moves) == Counter(
        f"{n}.{move}" for n in range(WRITERS) for move in range(MOVES)
    )
    for number in range(WRITERS):  # each writer's own moves stand in their order
        own = [move.why for move in moves if move.who == f"writer {number}"]
        assert own == [f"{number}.{move}" for move in range(MOVES)]
    assert versions.current("m") in {move.to_version for move in moves[-WRITERS:]}
    back = versions.rollback("m", why="enough")
    assert back.to_version != back.from_version
    # all of it stands in MLflow itself, where its UI and every replica see it
    from mlflow import MlflowClient

    plain = MlflowClient(settings.tracking_uri, settings.tracking_uri).get_registered_model("m")
    assert str(plain.aliases["champion"]) == back.to_version
    assert sum(key.startswith(PREFIX) for key in plain.tags) == before + WRITERS * MOVES + 1
    with pytest.raises(NotFound):
        versions.promote("m", "9", why="there is none")
