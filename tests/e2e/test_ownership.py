"""Several servers of one home, in containers of their own or killed at any moment: none takes or leaves another's."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from serving.runtime.run_folder import ENGINES
from tests.abilities import needs
from tests.e2e.conftest import copy_of
from tests.e2e.server import Server, kill_all, wait_until
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.surroundings

CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc")


class Contained(Server):
    """A server that is process 1 of a namespace of its own, as in a container."""

    def __init__(self, home: Path, model: str) -> None:
        serve = (sys.executable, "-m", "serving.commands.main", "serve", model)
        super().__init__(home, (model,), command=(*CONTAINER, *serve))

    @property
    def first(self) -> psutil.Process:
        """Its process 1, as this process sees it."""
        (found,) = psutil.Process(self.process.pid).children()
        return found

    def stop(self, seconds: float = WAIT_SECONDS) -> int:
        """As a container is stopped: SIGTERM to process 1, and SIGKILL later."""
        with suppress(psutil.Error):
            self.first.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        self.first.kill()
        raise AssertionError(f"the server did not end within {seconds:g} s: {self.text()}")

    def version(self) -> str:
        """The version that answers."""
        return str(self.post("m", {"inputs": "x"}).headers.get("x-model-version"))

    def engine(self) -> psutil.Process:
        """Its one engine."""
        (found,) = (process for process in self.processes("serving.engine") if process.is_running())
        return found


@pytest.mark.long
@needs("pid namespaces")
def test_two_containers_on_one_home_serve_what_each_was_asked_to(small_home: Path) -> None:
    runs = small_home / "run"
    with Contained(small_home, "m/1") as one, Contained(small_home, "m/2") as two:
        for server in (one, two):
            ids = next(line for line in status_of(server.first) if line.startswith("NSpid:"))
            assert ids.split()[-1] == "1"
        assert (one.version(), two.version()) == ("1", "2")
        assert len(list(runs.iterdir())) == 2
        engine = two.engine()
        one.first.kill()
        one.process.wait(WAIT_SECONDS)
        with Contained(small_home, "m/3") as three:
            assert (two.version(), three.version()) == ("2", "3")
            assert len(list(runs.iterdir())) == 2, "what the killed one left is cleared away, and nothing else"
            assert two.engine() == engine
            assert two.sample("engine_restarts_total", model="m") == 0
            assert two.sample("request_duration_seconds_count", model="m", version="3") == 0
            assert three.stop() == 0
            assert two.version() == "2"


def status_of(process: psutil.Process) -> list[str]:
    return Path(f"/proc/{process.pid}/status").read_text().splitlines()


def left_of(home: Path) -> list[psutil.Process]:
    """The processes that were started with this home."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("HEADWAITER_HOME") == str(home) and process.pid != os.getpid():
                found.append(process)
    return found


MOMENTS: dict[str, Callable[[Server, Path], object]] = {
    "it has a run folder": lambda server, run: True,
    "it has a template": lambda server, run: server.processes("serving.engine.template"),
    "it has workers": lambda server, run: server.processes("worker.service"),
    "its first engine is ordered": lambda server, run: list(run.glob(f"{ENGINES}/*.order")),
    "it is ready": lambda server, run: server.is_ready(),
}


@pytest.fixture(scope="module")
def killed_home(tmp_path_factory: pytest.TempPathFactory, small_template: Path) -> Iterator[Path]:
    """The home of servers of which each is killed."""
    home = copy_of(small_template, tmp_path_factory)
    yield home
    kill_all(left_of(home))


@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_remains_of_a_server_that_was_killed(killed_home: Path, moment: str) -> None:
    runs = killed_home / "run"
    before = set(runs.glob("*"))
    with Server(killed_home, ("m",), own_template=True, wait=False) as server:
        (run,) = wait_until(lambda: set(runs.glob("*")) - before, "it has a run folder", log=server.log)
        wait_until(lambda: MOMENTS[moment](server, run), moment, log=server.log)
        server.process.kill()
        server.process.wait(WAIT_SECONDS)
        wait_until(lambda: not left_of(killed_home), "nothing of it runs", log=server.log)
    assert not before & set(runs.glob("*")), "what the one before left is cleared away"
