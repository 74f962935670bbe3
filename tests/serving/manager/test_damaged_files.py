"""Files that are not those that were logged: of the cache they are fetched again, of a store only after a pause."""

from collections.abc import Iterator

import pytest

from registry.references import Reference
from tests.serving.manager.world import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """A server whose alias serves version 1."""
    server = Server((Reference("m", alias="champion"),), 0)
    server.move("champion", "1")
    assert server.serves("champion") == "1"
    yield server
    server.close()


def fetches(server: Server, version: str) -> int:
    return sum(fetched == version for _, fetched in server.world.fetched)


def damage(server: Server, version: str) -> None:
    """Change a file of the copy in the cache, which is made if there is none."""
    root = server.home / "cache" / version
    root.mkdir(exist_ok=True)
    (root / "whole").unlink(missing_ok=True)


def test_a_copy_that_was_damaged_in_the_cache_is_fetched_again_at_once(server: Server) -> None:
    damage(server, "2")
    server.move("champion", "2")
    assert (server.serves("champion"), fetches(server, "2")) == ("2", 2)


def test_files_that_are_damaged_in_the_store_are_not_fetched_all_the_time(server: Server) -> None:
    server.world.damaged.add("2")
    server.move("champion", "2")
    assert (server.serves("champion"), server.states()["2"], fetches(server, "2")) == ("1", "failed", 1)
    assert not (server.home / "cache" / "2").exists()
    server.settle()
    assert fetches(server, "2") == 1
    server.world.damaged.clear()
    server.settle(3600)
    assert server.serves("champion") == "2"


def test_an_engine_that_cannot_be_restarted_with_damaged_files_gets_others(server: Server) -> None:
    damage(server, "1")
    (body,) = server.world.running()
    body.kill()
    server.settle(2.0)
    assert (server.serves("champion"), server.states()["1"], fetches(server, "1")) == ("1", "ready", 2)
    assert server.world.answering() == {"1"}
    assert server.table().models["m"].versions["1"].error == ""


def test_damage_to_the_cache_is_no_crash_of_the_version(server: Server) -> None:
    """Its engine is killed twice; with the two that find other files that would be more than it may crash."""
    for _ in range(2):
        damage(server, "1")
        (body,) = server.world.running()
        body.kill()
        server.settle(2.0)
        assert (server.serves("champion"), server.states()["1"], server.world.answering()) == ("1", "ready", {"1"})
    assert server.manager._versions["m", "1"].crashes == 2


def test_a_version_whose_files_do_not_come_back_is_given_up(server: Server) -> None:
    server.move("champion", "2")
    server.world.damaged.add("2")
    damage(server, "2")
    for body in server.world.running():
        if body.order.version == "2":
            body.kill()
    server.settle(20.0, turns=20)
    assert (server.serves("champion"), server.states()["2"]) == ("1", "failed")
