"""Progress of long work: on a terminal, and nothing of it anywhere else."""

import io
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest
from click.testing import CliRunner

from registry.flavor import log_model
from registry.settings import RegistrySettings
from serving.commands import load_progress
from serving.commands.load_progress import describe_loading, show_loading
from serving.commands.main import main
from serving.commands.progress import show_progress
from serving.runtime.run_folder import RunFolder
from serving.wire.routing_table import ModelEntry, Table, TableFile, VersionEntry
from tests.waiting import WAIT_SECONDS


class Terminal:
    """A terminal, and what was shown on it."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.stream: TextIO = os.fdopen(slave, "w")

    def close(self) -> str:
        """What was shown; closes the terminal."""
        self.stream.close()
        shown = b""
        with suppress(OSError):  # what the kernel says once the last byte was read
            while part := os.read(self._master, 65536):
                shown += part
        os.close(self._master)
        return shown.decode()


def table(**states: str) -> Table:
    versions = {version[1:]: VersionEntry(state=state) for version, state in states.items()}  # type: ignore[arg-type]
    return Table(models={"m": ModelEntry(live=None, aliases={}, versions=versions)}, is_known=True)


def test_a_terminal_shows_the_step_that_was_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with show_progress("logging [/here]", terminal.stream) as announce:
        announce("registering")
    shown = terminal.close()
    assert "logging [/here]: registering" in shown
    assert "0:00:0" in shown


def test_a_pipe_gets_nothing() -> None:
    pipe = io.StringIO()
    with show_progress("logging", pipe) as announce:
        announce("registering")
    assert pipe.getvalue() == ""


def test_logging_from_a_script_prints_the_version_alone(
    models: dict[str, Path], settings: RegistrySettings, capfd: pytest.CaptureFixture[str]
) -> None:
    done = CliRunner().invoke(main, ["log", str(models["single"]), "--task", "text-classification", "--name", "m"])
    assert done.stdout == "1\n"
    assert "logging" not in done.stderr
    assert "logging" not in capfd.readouterr().err


@pytest.mark.slow
def test_an_export_shows_on_a_terminal_what_it_writes_to_and_prints_its_files_alone(tmp_path: Path) -> None:
    terminal = Terminal()
    command = [sys.executable, "-m", "serving.commands.main", "monitoring", "export", str(tmp_path / "made")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "500"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=terminal.stream, text=True, env=environment, check=True
    )
    assert f"writing to {tmp_path / 'made'}" in terminal.close()
    files = [Path(line) for line in done.stdout.splitlines()]
    assert len(files) > 5
    assert all(file.is_file() for file in files)


@pytest.mark.slow
def test_logging_announces_its_steps(models: dict[str, Path], settings: RegistrySettings) -> None:
    steps: list[str] = []
    log_model(models["single"], task="text-classification", name="m", settings=settings, announce=steps.append)
    assert [step.split()[0] for step in steps] == ["importing", "loading", "loading", "registering"]


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (Table(), "starting"),
        (Table(registry_error="timed out"), "the registry cannot be read: timed out"),
        (table(v1="ready", v2="loading"), "loading m/2"),
        (table(v1="ready", v2="failed"), None),
        (Table(is_known=True), None),
    ],
)
def test_what_is_loading_is_said_in_words(found: Table, shown: str | None) -> None:
    assert describe_loading(found) == shown


def test_loading_is_shown_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_progress, "time", SimpleNamespace(monotonic=lambda: 100.0))
    tables = iter([Table(), table(v1="loading"), table(v1="ready")])
    stream, pauses = io.StringIO(), list[None]()
    show_loading(lambda: next(tables), lambda: False, stream, lambda: pauses.append(None))
    assert stream.getvalue().split("\x1b[K") == ["\rstarting, 0 s", "\r\rloading m/1, 0 s", "\r\r", ""]
    assert len(pauses) == 2


def test_loading_is_shown_no_longer_than_the_server_lives() -> None:
    gone = iter([False, True])
    stream = io.StringIO()
    show_loading(lambda: table(v1="loading"), lambda: next(gone), stream, lambda: None)
    assert stream.getvalue().count("loading") == 1


def test_the_process_that_shows_it_ends_once_all_is_loaded(tmp_path: Path) -> None:
    RunFolder.make(tmp_path)
    TableFile(tmp_path).write(table(v1="ready"))
    terminal = Terminal()
    command = [sys.executable, "-m", "serving.commands.load_progress", str(tmp_path)]
    assert subprocess.run(command, stderr=terminal.stream, timeout=WAIT_SECONDS, check=False).returncode == 0
    assert terminal.close() == "\r\x1b[K"
