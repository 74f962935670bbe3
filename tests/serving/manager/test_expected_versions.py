"""A server that starts again loads what it served last before the registry has answered, and serves it only after."""

from collections.abc import Iterator

import pytest

from registry.references import Reference
from tests.serving.manager.world import Server

CHAMPION = Reference("m", alias="champion")


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that has served version 1, has ended, and starts again beside a registry that is silent."""
    server = Server((CHAMPION,), 0)
    server.move("champion", "1")
    server.stop_all()
    server.world.is_silent = True
    server.restart()
    yield server
    server.close()


def test_it_is_loaded_while_the_registry_is_silent_and_served_once_that_names_it(server: Server) -> None:
    server.settle()
    assert server.world.answering() == {"1"}, "it has loaded"
    assert server.serves("champion") is None
    assert not server.table().has_started
    server.world.answer()
    assert server.step().has_started
    assert server.serves("champion") == "1", "in the turn that takes the answer"


def test_it_leaves_unserved_if_the_registry_names_another(server: Server) -> None:
    server.settle()
    server.world.targets["champion"] = "2"
    server.world.answer()
    served = set()
    for _ in range(6):
        server.step(1.1)
        served.add(server.serves("champion"))
        server.world.let_engines_go_on()
    assert served == {None, "2"}
    assert server.world.answering() == {"2"}


def test_it_leaves_unserved_if_the_registry_has_it_no_more(server: Server) -> None:
    server.settle()
    del server.world.targets["champion"]
    server.world.answer()
    server.settle()
    assert server.world.running() == []
    assert server.serves("champion") is None


def test_it_is_served_if_the_registry_cannot_be_read(server: Server) -> None:
    server.settle()
    server.world.is_down = True
    server.world.answer()
    server.step()
    assert server.serves("champion") == "1"


def test_what_the_cache_has_lost_is_not_loaded_before_the_registry_answers(server: Server) -> None:
    server.stop_all()
    server.clear_cache()
    server.restart()
    server.world.fetched.clear()
    server.settle()
    assert server.world.fetched == []
    server.world.answer()
    server.settle()
    assert server.serves("champion") == "1"
