"""A manager that follows another one goes on, whatever stands in the files that it finds."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.references import Reference
from serving.runtime.run_folder import ENGINES
from serving.wire.routing_table import FRONTS_LOCK, HEARTBEAT, NUDGE, TABLE
from tests.serving.manager.world import Server

TORN = (b"", b'{"pid": 1, "sta', b"\xff\xfe\x00", b"[]", b'{"state": "ready"}')


@pytest.fixture
def server() -> Iterator[Server]:
    """A server whose alias serves version 1."""
    server = Server((Reference("m", alias="champion"),), 0)
    server.move("champion", "1")
    yield server
    server.close()


def own(server: Server, pattern: str) -> Path:
    (found,) = (server.settings.run / ENGINES).glob(pattern)
    return found


@pytest.mark.parametrize("text", TORN)
@pytest.mark.parametrize("name", ["*.json", "*.order", TABLE, HEARTBEAT, NUDGE, FRONTS_LOCK, "template.json"])
def test_a_torn_file_of_its_own_costs_at_most_a_new_load(server: Server, name: str, text: bytes) -> None:
    run = server.settings.run
    (own(server, name) if "*" in name else run / name).write_bytes(text)
    server.restart()
    server.settle()
    assert (server.serves("champion"), server.world.answering()) == ("1", {"1"})


@pytest.mark.parametrize("text", TORN)
def test_a_foreign_file_is_nobodys_engine(server: Server, text: bytes) -> None:
    (engine,) = server.world.running()
    folder = server.settings.run / ENGINES
    for name in ("0.order", "0.json", "a.tmp", "template.sock"):
        (folder / name).write_bytes(text)
    (folder / "folder.order").mkdir()
    (folder / "folder.json").mkdir()
    server.restart()
    server.settle()
    assert (server.serves("champion"), server.world.running()) == ("1", [engine])


def test_an_order_of_another_server_is_not_adopted(server: Server, tmp_path: Path) -> None:
    (engine,) = server.world.running()
    order = own(server, "*.order").read_bytes()
    copied = server.settings.run / ENGINES / "0.order"
    copied.write_bytes(order)
    other = server.settings.run / ENGINES / "1.order"
    other.write_bytes(order.replace(os.fsencode(server.settings.run), os.fsencode(tmp_path)))
    server.restart()
    server.settle()
    assert not copied.exists()
    assert not other.exists()
    assert (server.serves("champion"), server.world.running()) == ("1", [engine])


def test_a_version_whose_files_are_gone_is_loaded_anew(server: Server) -> None:
    (server.settings.run / TABLE).unlink()
    (server.home / "cache" / "1" / "MLmodel").write_bytes(b"{")
    server.restart()
    server.settle()
    assert (server.serves("champion"), server.world.answering()) == ("1", {"1"})


@pytest.mark.parametrize("name", ["*.order", TABLE])
def test_what_another_release_left_costs_at_most_a_new_load(server: Server, name: str) -> None:
    path = own(server, name) if "*" in name else server.settings.run / name
    text = path.read_bytes()
    assert b'"format":1' in text
    path.write_bytes(text.replace(b'"format":1', b'"format":2'))
    engines = server.world.running()
    server.restart()
    server.settle()
    assert (server.serves("champion"), server.world.answering()) == ("1", {"1"})
    assert (server.world.running() == engines) is (name == TABLE), "an order of another format is adopted by nobody"
