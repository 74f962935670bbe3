"""The manager's wait between two turns ends once there is something to do, and not for what is none of its business."""

import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry.atomic_file import replace_file
from registry.references import Reference
from registry.settings import RegistrySettings
from serving.manager import wakeup as module
from serving.manager.manager import Manager
from serving.manager.registry_file import RegistryFile
from serving.manager.registry_watch import RegistryWatch
from serving.manager.wakeup import MIN_TURN_SECONDS, Wakeup
from serving.runtime.run_folder import ENGINES
from serving.settings import ServingSettings
from serving.wire.demand import DEMAND
from serving.wire.routing_table import TABLE, TableFile
from tests.waiting import WAIT_SECONDS

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
SHORT_SECONDS = 0.05


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / ENGINES).mkdir(parents=True)
    return run


@pytest.fixture
def wakeup(run: Path, tmp_path: Path) -> Iterator[Wakeup]:
    """It is open, and has nothing to tell."""
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE t (n)")
    with closing(Wakeup(run, RegistryFile(f"sqlite:///{tmp_path / 'mlflow.db'}").paths)) as wakeup:
        wakeup.wait(0.0)
        yield wakeup


def seconds_of(wakeup: Wakeup, limit: float) -> float:
    began = time.monotonic()
    wakeup.wait(limit)
    return time.monotonic() - began


def write(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("INSERT INTO t VALUES (1)")


def read(database: Path) -> None:
    with closing(sqlite3.connect(database)) as reader:
        reader.execute("SELECT n FROM t").fetchall()


NEWS: dict[str, Callable[[Path], object]] = {
    "an engine's report": lambda home: replace_file(home / "run" / ENGINES / "1.json", b"{}"),
    "what a front asks for": lambda home: replace_file(home / "run" / DEMAND / "1.json", b"{}"),
    "a nudge": lambda home: TableFile(home / "run").nudge(),
    "a write to the registry": lambda home: write(home / "mlflow.db"),
    "a registry that is replaced": lambda home: replace_file(home / "mlflow.db", b""),
    "a new write-ahead log": lambda home: (home / "mlflow.db-wal").touch(),
}
NO_NEWS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda home: None,
    "the manager's own table": lambda home: replace_file(home / "run" / TABLE, b"{}"),
    "its heartbeat": lambda home: TableFile(home / "run").beat(),
    "an engine's order": lambda home: (home / "run" / ENGINES / "1.order").touch(),
    "a read of the registry": lambda home: read(home / "mlflow.db"),
    "another file beside the registry": lambda home: (home / "notes.db").write_text("x"),
}


@on_linux
@pytest.mark.parametrize("news", NEWS)
def test_news_end_the_wait_once(wakeup: Wakeup, tmp_path: Path, news: str) -> None:
    NEWS[news](tmp_path)
    assert seconds_of(wakeup, WAIT_SECONDS) < WAIT_SECONDS
    assert seconds_of(wakeup, SHORT_SECONDS) >= SHORT_SECONDS
    timer = threading.Timer(MIN_TURN_SECONDS, NEWS[news], (tmp_path,))
    timer.start()
    if news != "a new write-ahead log":  # which is there by now
        assert seconds_of(wakeup, WAIT_SECONDS) < WAIT_SECONDS, "news that come during the wait"
    timer.join()


@on_linux
@pytest.mark.parametrize("other", NO_NEWS)
def test_other_files_do_not(wakeup: Wakeup, tmp_path: Path, other: str) -> None:
    NO_NEWS[other](tmp_path)
    assert seconds_of(wakeup, SHORT_SECONDS) >= SHORT_SECONDS


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_call_ends_the_wait_or_the_next_one_and_never_more_than_two(
    run: Path, monkeypatch: pytest.MonkeyPatch, is_watched: bool
) -> None:
    if not is_watched:
        monkeypatch.setattr(module, "watch", lambda folders: None)
    with closing(Wakeup(run)) as wakeup:
        wakeup.set()  # before it is open
        assert seconds_of(wakeup, WAIT_SECONDS) < WAIT_SECONDS
        for _ in range(100_000):  # more than a socket holds
            wakeup.set()
        assert seconds_of(wakeup, WAIT_SECONDS) < WAIT_SECONDS
        assert seconds_of(wakeup, SHORT_SECONDS) >= SHORT_SECONDS
        caller = threading.Thread(target=wakeup.set)
        caller.start()
        assert seconds_of(wakeup, WAIT_SECONDS) < WAIT_SECONDS
        caller.join()
    wakeup.set()  # by a thread that outlives it


def test_no_call_is_lost(run: Path) -> None:
    """Each of many calls that follow one another at once ends a wait."""
    seen, is_over = threading.Semaphore(0), threading.Event()

    def call() -> None:
        for _ in range(100):
            wakeup.set()
            assert seen.acquire(timeout=WAIT_SECONDS / 2)
        is_over.set()
        wakeup.set()

    with closing(Wakeup(run)) as wakeup:
        caller = threading.Thread(target=call)
        caller.start()
        while not is_over.is_set():
            assert seconds_of(wakeup, WAIT_SECONDS) < WAIT_SECONDS / 2
            seen.release()
        caller.join()


@on_linux
def test_a_registry_behind_a_link_is_watched_where_it_is(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    database = tmp_path / "elsewhere" / "own.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE t (n)")
    (tmp_path / "link.db").symlink_to(database)
    with closing(Wakeup(run, RegistryFile(f"sqlite:///{tmp_path / 'link.db'}").paths)) as wakeup:
        wakeup.wait(0.0)
        write(tmp_path / "link.db")
        assert seconds_of(wakeup, WAIT_SECONDS) < WAIT_SECONDS


def test_without_descriptors_the_wait_is_short_and_watches_later(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(24, "Too many open files")

    with closing(Wakeup(run)) as wakeup:
        with monkeypatch.context() as patched:
            patched.setattr(module.socket, "socketpair", fail)
            assert seconds_of(wakeup, WAIT_SECONDS) < WAIT_SECONDS
        wakeup.set()
        assert seconds_of(wakeup, WAIT_SECONDS) < WAIT_SECONDS


@on_linux
def test_however_often_something_is_written_turns_keep_their_distance(wakeup: Wakeup, tmp_path: Path) -> None:
    ended = []
    for _ in range(5):
        write(tmp_path / "mlflow.db")
        wakeup.wait(WAIT_SECONDS)
        ended.append(time.monotonic())
    assert all(later - earlier >= MIN_TURN_SECONDS for earlier, later in pairwise(ended))


@on_linux
def test_a_manager_with_nothing_to_do_asks_a_registry_file_that_was_written_at_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turns are as far apart as the test may last, so only the write can cause the second question."""
    monkeypatch.setattr("serving.manager.manager.STEP_SECONDS", WAIT_SECONDS)
    monkeypatch.setattr("serving.manager.manager.STILL_STEP_SECONDS", WAIT_SECONDS)
    monkeypatch.setattr("serving.manager.registry_watch.NUDGED_SECONDS", 0.0)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE t (n)")
    registry = RegistrySettings(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    settings = ServingSettings(registry, (Reference("m", alias="a"),), run, poll_seconds=10 * WAIT_SECONDS)
    asked = threading.Semaphore(0)

    class Nothing:
        def resolve(self, reference: Reference) -> Any:
            asked.release()
            raise OSError("no registry")

        aliases = resolve

    manager = Manager(settings)
    manager._watch = RegistryWatch(settings, manager._wakeup.set, lambda: Nothing())  # type: ignore[arg-type,return-value]
    manager._server = SimpleNamespace(is_gone=lambda: False)  # type: ignore[assignment]
    thread = threading.Thread(target=manager.run)
    thread.start()
    try:
        assert asked.acquire(timeout=WAIT_SECONDS)
        write(tmp_path / "mlflow.db")
        assert asked.acquire(timeout=WAIT_SECONDS / 2)
    finally:
        manager.stop()
        thread.join()
