"""Rows that end engines: they cost their own request, and no version its place."""

from collections.abc import Iterator

import pytest

from registry.references import Reference
from serving.manager.policy import CRASH_LIMIT
from serving.wire.heartbeat import HeartbeatFile, Pulse, heartbeat_path
from tests.serving.manager.world import FakeProcess, Server

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of version 2, behind which version 1 is kept."""
    server = Server((Reference("m", alias="champion"),), 1)
    for version in "12":
        server.move("champion", version)
    yield server
    server.close()


def engine(server: Server) -> FakeProcess:
    (process,) = (process for process in server.world.running() if process.order.version == "2")
    return process


def end(server: Server, pulse: Pulse) -> None:
    """The engine of version 2 ends at this pulse, and is started again."""
    process = engine(server)
    file = HeartbeatFile(heartbeat_path(process.order.address, process.pid))
    file.write(pulse, {b"front": [1]})
    file.close()
    process.kill()
    server.step()
    server.settle(2.0)


TOGETHER, ALONE = Pulse(1, 0.1), Pulse(1, 0.1, is_suspect=True)


def test_a_row_that_ends_two_engines_counts_for_none_of_them(server: Server) -> None:
    for _ in range(2 * CRASH_LIMIT):
        end(server, TOGETHER)
        end(server, ALONE)
        assert (server.serves("champion"), server.states()["2"]) == ("2", "ready")
    assert server.table().models["m"].versions["2"].restarts == 4 * CRASH_LIMIT


def test_a_version_whose_engines_end_with_one_row_after_the_other_gives_way(server: Server) -> None:
    for _ in range(CRASH_LIMIT):
        end(server, TOGETHER)
    assert server.serves("champion") == "1"


def test_a_row_of_an_earlier_end_says_nothing_about_a_later_one(server: Server) -> None:
    end(server, TOGETHER)
    end(server, ALONE)
    for _ in range(CRASH_LIMIT):
        engine(server).kill()
        server.step()
        server.settle(2.0)
    assert server.serves("champion") == "1"
