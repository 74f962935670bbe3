"""A server without keys listens where only this machine reaches it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from registry.settings import InvalidSetting
from serving.runtime.exposure import bound_host, check_exposure, is_loopback
from serving.runtime.run_folder import RUN_VARIABLE, claim
from serving.settings import ServingSettings
from tests.waiting import WAIT_SECONDS

ROOT = Path(__file__).resolve().parents[3]
OWN = ["127.0.0.1", "127.8.9.10", "localhost", "::1", "::ffff:127.0.0.1"]
EVERYBODYS = ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "0", "", "169.254.1.1", "10.0.0.1"]


def settings(**environ: str) -> ServingSettings:
    return ServingSettings.from_environment({"HEADWAITER_HOME": "/tmp/h", **environ}, run=Path("/tmp/h/run/x"))


@pytest.mark.parametrize("host", OWN)
def test_an_address_of_this_machine_alone_needs_no_keys(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, settings())


@pytest.mark.parametrize("host", EVERYBODYS)
def test_another_address_needs_keys_or_the_word(host: str) -> None:
    with pytest.raises(InvalidSetting, match="headwaiter keys add NAME.*HEADWAITER_INSECURE=1"):
        check_exposure(host, settings())
    check_exposure(host, settings(HEADWAITER_INSECURE="1"))
    check_exposure(host, settings(HEADWAITER_KEYS_FILE="/anywhere"))


def test_a_listening_socket_says_where_it_is() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        assert bound_host(listener.fileno()) == "0.0.0.0"
        listener.getsockname()  # it is still open
    with socket.socket(socket.AF_UNIX) as other:
        assert bound_host(other.fileno()) is None


def run(home: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HEADWAITER_", "BENTOML_"))}
    given = {"HEADWAITER_HOME": str(home), "HEADWAITER_MODELS": "m", "BENTOML_HOME": str(home / "bentoml")}
    return subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**inherited, **given, **environ},
        check=False,
        timeout=WAIT_SECONDS,
    )


SERVE = ("serving.commands.main", "serve", "m")
BENTOML = ("bentoml", "serve", "serving.service:Headwaiter")


@pytest.mark.server
@pytest.mark.parametrize(
    ("command", "environ"),
    [
        ((*SERVE, "--host", "0.0.0.0"), {}),
        (BENTOML, {}),
        ((*BENTOML, "--host", "::"), {}),
        (BENTOML, {"BENTOML_HOST": "0.0.0.0"}),
    ],
    ids=["headwaiter serve", "bentoml serve", "with --host", "with BENTOML_HOST"],
)
def test_a_command_that_would_let_everybody_in_is_refused(
    command: tuple[str, ...], environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    done = run(tmp_path_factory.mktemp("h"), *command, **environ)
    assert done.returncode == 1, done
    assert "this one has no keys: make some with `headwaiter keys add NAME`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.server
def test_keys_that_cannot_be_read_are_refused_at_the_start(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("h")
    for command in ((*SERVE, "--host", "0.0.0.0"), BENTOML):
        done = run(home, *command, HEADWAITER_KEYS_FILE=str(home / "none"))
        assert done.returncode == 1, done
        assert f"HEADWAITER_KEYS_FILE={home}/none cannot be used (No such file or directory)" in done.stderr


@pytest.mark.server
def test_a_worker_looks_where_it_listens_whoever_said_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        os.set_inheritable(listener.fileno(), True)
        home = tmp_path_factory.mktemp("h")
        run_folder = claim(home)
        done = subprocess.run(
            [sys.executable, "-m", "_bentoml_impl.worker.service", BENTOML[-1], "--fd", str(listener.fileno())],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={
                **os.environ,
                "HEADWAITER_HOME": str(home),
                "PYTHONPATH": str(ROOT),
                RUN_VARIABLE: str(run_folder.path),
            },
            close_fds=False,
            check=False,
            timeout=WAIT_SECONDS,
        )
        run_folder.close()
    assert done.returncode == 1
    assert "this one has no keys" in done.stderr
