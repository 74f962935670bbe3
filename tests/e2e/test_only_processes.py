"""A server with one process of each kind: one that ends or hangs costs no request."""

import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.conftest import copy_of
from tests.e2e.load import Load
from tests.e2e.server import WAIT_SECONDS, Server, wait_until

pytestmark = pytest.mark.surroundings


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, small_template: Path) -> Iterator[Server]:
    """A server, as in a container, whose version has one engine, which may stand still for two seconds."""
    environ = {
        "HEADWAITER_HANG_SECONDS": "2",
        "HEADWAITER_TIMEOUT_SECONDS": f"{WAIT_SECONDS}",
        "HEADWAITER_GRACE_SECONDS": "2",
        "BENTOML_CONTAINERIZED": "true",  # as `bentoml containerize` sets it
    }
    with Server(copy_of(small_template, tmp_path_factory), ("m",), environ, own_template=True) as server:
        yield server


def has_restarted(server: Server, times: float) -> bool:
    return server.sample("engine_restarts_total", model="m") >= times


@pytest.mark.long
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_no_request_fails_where_the_only_engine_ends_or_hangs(alone: Server, fault: signal.Signals) -> None:
    with Load(alone, "/models/m", 16) as load:
        for _ in range(3):
            (engine,) = alone.describe("m")["versions"]["1"]["engines"]
            restarts = alone.sample("engine_restarts_total", model="m") + 1
            psutil.Process(engine["pid"]).send_signal(fault)
            wait_until(partial(has_restarted, alone, restarts), "it is noticed")
            load.wait_for("1", 64)
    assert (load.failures(), load.lost) == ([], [])
    assert ("the engine hung" in alone.log.read_text()) == (fault == signal.SIGSTOP)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("kind", ["front", "manager"])
def test_the_only_worker_of_its_kind_is_replaced_in_a_container_too(
    alone: Server, kind: str, fault: signal.Signals
) -> None:
    def workers() -> list[psutil.Process]:
        return alone.fronts() if kind == "front" else alone.processes("headwaiter_manager")

    (victim,) = workers()
    victim.send_signal(fault)
    wait_until(lambda: [each for each in workers() if each != victim], "another one takes its place")
    wait_until(lambda: alone.post("m", {"inputs": "x"}).status_code == 200, "it answers")
    wait_until(alone.is_ready, "ready")
    (heard,) = (alone.home / "run").glob("*/heartbeat")
    before = heard.stat().st_mtime_ns
    wait_until(lambda: heard.stat().st_mtime_ns > before, "the manager works")
    assert alone.describe("m")["versions"]["1"]["state"] == "ready"


def test_the_server_is_ready_while_its_manager_stands_still(alone: Server) -> None:
    def stopped_manager() -> psutil.Process | None:
        """The manager, stopped until it is killed some seconds later; None where the server is not ready beside it.

        That one goes on: it may be about to be killed for its silence, or has not begun to be watched.
        """
        for manager in alone.processes("headwaiter_manager"):
            with suppress(psutil.NoSuchProcess):
                manager.suspend()
                if alone.is_ready() and manager.status() == psutil.STATUS_STOPPED:
                    return manager
                manager.resume()
        return None

    stopped = wait_until(stopped_manager, "ready while the manager stands still")
    wait_until(lambda: [each for each in alone.processes("headwaiter_manager") if each != stopped], "another one")
    (heard,) = (alone.home / "run").glob("*/heartbeat")
    before = heard.stat().st_mtime_ns
    wait_until(lambda: heard.stat().st_mtime_ns > before, "it works")
    assert not stopped.is_running()


FAULT = '''
"""Every process of the server imports this. In an engine, a row of many tokens breaks the device for good."""
import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec


class Break(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "serving.engine.model":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        run = spec.loader.exec_module

        def run_and_break(module):
            run(module)
            launch, broken = module.Model.launch, []

            def fail(model, rows):
                if any(row.deadline and row.length > 50 for row in rows):  # a request's; a probe has no deadline
                    broken.append(True)
                if broken:
                    raise RuntimeError("CUDA error: an illegal memory access was encountered")
                return launch(model, rows)

            module.Model.launch = fail

        spec.loader.exec_module = run_and_break
        return spec


sys.meta_path.insert(0, Break())
'''


@pytest.mark.long
def test_a_row_that_breaks_the_device_fails_alone_and_the_engine_is_replaced(
    tmp_path_factory: pytest.TempPathFactory, small_template: Path
) -> None:
    folder = tmp_path_factory.mktemp("fault")
    (folder / "sitecustomize.py").write_text(FAULT)
    environ = {"PYTHONPATH": str(folder), "HEADWAITER_TIMEOUT_SECONDS": f"{WAIT_SECONDS}"}
    home = copy_of(small_template, tmp_path_factory)
    with Server(home, ("m",), environ, own_template=True) as server, Load(server, "/models/m", 16) as load:
        server.http.timeout = httpx.Timeout(WAIT_SECONDS)
        answer = server.post("m", {"inputs": "word " * 100})
        assert answer.status_code == 500
        assert "2 engines ended while they computed this request" in answer.text
        load.wait_for("1", 64)
        assert server.sample("engine_restarts_total", model="m") == 2
        assert "the model does not work any more: after RuntimeError" in server.log.read_text()
    assert (load.failures(), load.lost) == ([], [])
