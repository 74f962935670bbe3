"""What takes long and is the same for every test is done once: imports, MLflow's tables, registries to begin with."""

import gc
import logging
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from _pytest.logging import catching_logs
from filelock import FileLock

from registry.imports import without_collector

READ_LOGGERS = ("headwaiter", "bentoml", "mlflow", "transformers")
"""Loggers whose records tests may look at although they do not propagate to the root's."""


def pytest_configure() -> None:
    """Let compiled modules be kept: workers, servers and commands import the same ones some hundred times."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if hasattr(catching_logs, "attached_loggers"):
        catching_logs.__enter__ = watch_few_loggers


def watch_few_loggers(catching: Any) -> logging.Handler:
    """`catching_logs.__enter__` of pytest 9.1, which walks through all loggers for those that do not propagate.

    It does so six times a test, and MLflow, torch and transformers make 740 loggers, 60 of which do not propagate.
    """
    handler: logging.Handler = catching.handler
    root = logging.getLogger()
    catching.attached_loggers += [root, *(each for each in map(logging.getLogger, READ_LOGGERS) if not each.propagate)]
    for logger in catching.attached_loggers:
        logger.addHandler(handler)
    if catching.level is not None:
        handler.setLevel(catching.level)
        catching.orig_level = root.level
        root.setLevel(min(root.level, catching.level))
    return handler


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without the garbage collector, which then never looks through what was imported."""
    with without_collector():
        collected = yield
    gc.freeze()
    return collected


@pytest.fixture(scope="session", autouse=True)
def tables_by_copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """New sqlite registries of this process get MLflow's tables from a file that has them.

    Its migrations wait for the disk some hundred times: up to 8 s a registry. Each run migrates one, for all workers.
    """
    import mlflow.store.db.utils as mlflow_tables
    import sqlalchemy

    template, migrate = shared_folder(tmp_path_factory) / "tables.db", mlflow_tables._initialize_tables

    def initialize(engine: Any) -> None:
        if engine.dialect.name != "sqlite":
            return migrate(engine)
        with FileLock(template.with_suffix(".lock")):
            if not template.exists():
                migrate(engine)
                copy_tables(Path(engine.url.database), template.with_suffix(".new"))
                return template.with_suffix(".new").rename(template)
        return copy_tables(template, Path(engine.url.database))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_tables, "_initialize_tables", initialize)
        sqlalchemy.event.listen(sqlalchemy.Engine, "connect", leave_to_the_system)
        yield
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", leave_to_the_system)


def leave_to_the_system(connection: Any, _: Any) -> None:
    """Let a sqlite database not wait for the disk at each commit: what a power failure would cost is no matter here."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


def copy_tables(source: Path, target: Path) -> None:
    """Make sqlite's file `target` the same as `source`; it may be open elsewhere."""
    with closing(sqlite3.connect(source)) as before, closing(sqlite3.connect(target)) as after:
        before.backup(after)


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of this run that all workers see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of this run, which `make` has filled in the worker that came first; the others wait for it."""
    folder = shared_folder(tmp_path_factory) / name
    made = folder.with_suffix(".made")
    with FileLock(folder.with_suffix(".lock")):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def copy_home(source: Path, target: Path) -> None:
    """A home like `source` in the empty folder `target`: files, and the addresses of files that its registry holds."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    with closing(sqlite3.connect(target / "mlflow.db")) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in database.execute(f"PRAGMA table_info({table})").fetchall():
                if kind.upper().startswith(("VARCHAR", "TEXT")):
                    replaced = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)"
                    database.execute(replaced, (str(source), str(target), str(source)))
        database.commit()
