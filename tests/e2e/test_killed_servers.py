"""kill -9 of a whole server: nothing of it remains, and the next one in its home clears up."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import copy_of
from tests.e2e.load import Load
from tests.e2e.server import WAIT_SECONDS, Server, kill_all

pytestmark = pytest.mark.surroundings


@dataclass
class Succession:
    """Servers of one home, each started when the one before was killed."""

    home: Path
    stack: ExitStack

    def __post_init__(self) -> None:
        self.start_next()

    def start_next(self) -> None:
        """`server` is a new one."""
        self.server = self.stack.enter_context(Server(self.home, ("m",), own_template=True))


@pytest.fixture(scope="module")
def succession(tmp_path_factory: pytest.TempPathFactory, small_template: Path) -> Iterator[Succession]:
    with ExitStack() as stack:
        yield Succession(copy_of(small_template, tmp_path_factory), stack)


@pytest.mark.long
@pytest.mark.parametrize("killed", ["the server's process", "everything above the engines"])
def test_no_orphan_remains_when_a_server_is_killed(succession: Succession, killed: str) -> None:
    server = succession.server
    everyone = server.everyone()
    engines = server.processes("serving.engine")
    assert engines
    with Load(server, "/models/m", 8):
        server.process.kill()
        if killed == "everything above the engines":
            kill_all(process for process in everyone if process not in engines)
        server.process.wait(WAIT_SECONDS)
        assert not psutil.wait_procs(everyone, timeout=WAIT_SECONDS)[1]
    succession.start_next()
    assert succession.server.post("m", {"inputs": "x"}).status_code == 200
    assert len(list((succession.home / "run").iterdir())) == 1, "what the killed one left is cleared away"
