"""What keeps a command from starting is said in one line, with an exit status, and nothing is left running."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.abilities import require
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path is short enough for sockets."""
    return tmp_path_factory.mktemp("h")


def run(*arguments: str, **environ: str) -> str:
    """The one line that a command ends with, whose exit status is 1."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HEADWAITER_"))}
    done = subprocess.run(
        [sys.executable, "-m", "serving.commands.main", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**inherited, **environ},
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("Error: ")
    home = environ["HEADWAITER_HOME"]
    left = [
        one for one in psutil.process_iter(["environ"]) if (one.info["environ"] or {}).get("HEADWAITER_HOME") == home
    ]
    assert not left
    return done.stderr


@pytest.mark.parametrize("name", ["my model", "", "ok bad/", "m@", "m/x", "ümlaut"])
def test_a_name_that_cannot_be_served_is_quoted(home: Path, name: str) -> None:
    assert repr(name) in run("serve", "m", name, HEADWAITER_HOME=str(home))


COMMANDS = [("serve", "m"), ("history", "m"), ("promote", "m", "1", "--why", "x")]


@pytest.fixture
def full_disk(home: Path) -> Iterator[Path]:
    """A home on a disk without any room."""
    require("mount")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=4,mode=700", "tmpfs", home], check=True)
    (home / "ballast").write_bytes(bytes(4096))
    yield home
    subprocess.run(["umount", "--lazy", home], check=True)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_home_that_is_a_file_or_below_one_is_named(home: Path, command: tuple[str, ...]) -> None:
    file = home / "file"
    file.touch()
    for place in (file, file / "below"):
        line = run(*command, HEADWAITER_HOME=str(place))
        assert f"HEADWAITER_HOME={place} cannot be used" in line


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_home_on_a_full_disk_is_told(full_disk: Path, command: tuple[str, ...]) -> None:
    line = run(*command, HEADWAITER_HOME=str(full_disk))
    assert f"HEADWAITER_HOME={full_disk} cannot be used (No space left on device" in line


@pytest.mark.parametrize("command", COMMANDS[1:2], ids=lambda command: command[0])
def test_a_database_that_cannot_be_opened_is_told(home: Path, command: tuple[str, ...]) -> None:
    (home / "mlflow.db").mkdir()
    assert "unable to open database file" in run(*command, HEADWAITER_HOME=str(home))


@pytest.mark.parametrize(("place", "why"), [("~nobody-has-this-name", "names no folder"), ("/proc/none", "cannot be")])
def test_a_home_that_cannot_be_made_is_told(place: str, why: str) -> None:
    assert f"HEADWAITER_HOME={place} {why}" in run("serve", "m", HEADWAITER_HOME=place)


def test_a_port_in_use_is_told_before_anything_starts(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        line = run("serve", "m", "--port", port, HEADWAITER_HOME=str(home))
        assert f"127.0.0.1, port {port} (Address already in use)" in line
        assert "in use" in run("demo", "--port", port, HEADWAITER_HOME=str(home))
    assert not list(home.iterdir())


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a..b", "x" * 70])
def test_a_host_that_is_not_this_machines_is_told(home: Path, host: str) -> None:
    assert f"no server can listen at {host}, port 3000" in run("serve", "m", "--host", host, HEADWAITER_HOME=str(home))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADWAITER_DEVICE", "tpu"),
        ("HEADWAITER_DTYPE", "int4"),
        ("HEADWAITER_WORKERS", "0"),
        ("HEADWAITER_MODELS", "a b@"),
    ],
)
def test_a_setting_with_a_bad_value_is_named(home: Path, variable: str, value: str) -> None:
    line = run(
        "serve",
        *(("m",) if variable != "HEADWAITER_MODELS" else ()),
        HEADWAITER_HOME=str(home),
        **{variable: value},
    )
    assert value.split()[-1] in line


@pytest.mark.parametrize("command", COMMANDS[1:2], ids=lambda command: command[0])
def test_a_registry_that_does_not_answer_is_told_without_its_password(home: Path, command: tuple[str, ...]) -> None:
    line = run(
        *command,
        HEADWAITER_HOME=str(home),
        MLFLOW_TRACKING_URI="http://user:hidden-word@127.0.0.1:9",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )
    assert "http://***@127.0.0.1:9" in line
    assert "hidden-word" not in line
