"""Writers in processes of their own move one alias at the same moment: on MLflow's sqlite database, and by servers."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from registry.errors import NotFound
from registry.flavor import log_model
from registry.history import PREFIX
from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.e2e.registries import MlflowServer
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


@pytest.fixture(params=["sqlite", "servers"])
def replicas(
    request: pytest.FixtureRequest, tmp_path: Path, models: dict[str, Path]
) -> Iterator[list[RegistrySettings]]:
    """The ways to one registry with two versions of "m": its database, or two MLflow servers on it."""
    uris = [f"sqlite:///{tmp_path / 'mlflow.db'}"]
    with ExitStack() as stack:
        if request.param == "servers":
            uris = [stack.enter_context(MlflowServer(tmp_path, uris[0])).url for _ in range(2)]
        replicas = [RegistrySettings(tmp_path, uri) for uri in uris]
        for longest in (None, 200):
            log_model(models["single"], task="text-classification", name="m", max_tokens=longest, settings=replicas[0])
        Versions(replicas[0]).promote("m", "2", why="the shorter one first")
        yield replicas


def test_writers_in_several_processes_lose_no_record(replicas: list[RegistrySettings]) -> None:
    settings = replicas[-1]
    versions = Versions(settings)
    versions.promote("m", "1", why="start")
    before = len(versions.history("m"))
    ready = FORKS.Barrier(WRITERS)
    writers = [
        FORKS.Process(target=write, args=(replicas[number % len(replicas)], number, ready)) for number in range(WRITERS)
    ]
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
