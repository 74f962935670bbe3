"""A write to the registry's SQLite file is noticed, whoever makes it; reading it is none."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from registry.references import Reference
from registry.settings import RegistrySettings
from registry.tracking import connect
from serving.manager.registry_file import RegistryFile
from serving.manager.registry_watch import NUDGED_SECONDS
from tests.serving.manager.world import Server


def test_what_mlflow_writes_is_noticed_once_and_what_it_reads_is_not(tmp_path: Path) -> None:
    settings = RegistrySettings(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    registry = connect(settings)
    registry.create_registered_model("m")
    registry.create_model_version("m", str(tmp_path))
    file = RegistryFile(settings.registry_address)
    assert not file.was_written()
    registry.set_registered_model_alias("m", "champion", "1")
    assert file.was_written()
    assert not file.was_written()
    assert registry.get_model_version_by_alias("m", "champion").version in ("1", 1)
    assert not file.was_written()


def test_a_write_ahead_log_tells_too_and_readers_that_create_it_do_not(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t (n)")
        file = RegistryFile(f"sqlite+pysqlite:///{path}?timeout=5")
        assert not file.was_written()
        writer.execute("INSERT INTO t VALUES (1)")
        assert file.was_written()
    assert file.was_written(), "the log went into the file"
    for _ in range(2):
        with closing(sqlite3.connect(path)) as reader:
            assert reader.execute("SELECT n FROM t").fetchall() == [(1,)]
            assert not file.was_written()
        assert not file.was_written()


def test_a_file_that_is_made_later_or_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    file = RegistryFile(f"sqlite:///{path}")
    assert not file.was_written()
    path.write_bytes(b"one")
    assert file.was_written()
    (tmp_path / "other").write_bytes(b"two")
    (tmp_path / "other").replace(path)
    assert file.was_written()


@pytest.mark.parametrize("address", ["http://127.0.0.1:5000", "sqlite:///:memory:", "sqlite://", "postgresql://h/d"])
def test_other_registries_never_change(address: str) -> None:
    assert not RegistryFile(address).was_written()


def test_a_manager_follows_a_write_long_before_the_next_poll() -> None:
    server = Server((Reference("m", alias="champion"),), keep_previous=1)
    try:
        server.world.targets["champion"] = "1"
        server.settle()
        assert server.serves("champion") == "1"
        server.world.targets["champion"] = "2"
        server.step(NUDGED_SECONDS)
        assert "2" not in server.states(), "the poll is not due"
        (server.home / "mlflow.db").write_bytes(b"an alias moved")
        server.step(NUDGED_SECONDS)
        server.step(0.0)
        assert "2" in server.states()
    finally:
        server.close()
