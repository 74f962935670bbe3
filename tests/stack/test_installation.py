"""A whole installation while versions move, servers end, and what is behind them goes away: clients notice nothing."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from bench.ledger import Ledger, Page
from registry.cache import fetch
from registry.references import Reference
from tests.abilities import require
from tests.e2e.server import Server, kill_all, wait_until
from tests.stack.installation import NAMES, POLL_SECONDS, Installation, install

pytestmark = pytest.mark.integration

CONNECTIONS = 32
ANSWER_SECONDS = 20.0
"""What the registry may take to answer a poll, on a machine that also does everything else."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    for ability in ("PostgreSQL", "S3", "haproxy", "prometheus"):
        require(ability)
    with ExitStack() as stack:
        homes = [tmp_path_factory.mktemp("h") for _ in NAMES]
        yield install(tmp_path_factory.mktemp("s"), homes, stack)


def ask(installed: Installation) -> Ledger:
    return Ledger(installed.proxy.port, "/models/m", connections=CONNECTIONS, rest_seconds=0.2)


def answered(ledger: Ledger, phase: str) -> Page:
    """What became of the phase's requests, once each connection has had more than one answer."""
    ledger.phase = phase
    wait_until(lambda: phase in ledger.pages and ledger.pages[phase].answered > 2 * CONNECTIONS, f"answers, {phase}")
    return ledger.pages[phase]


def last_swap(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.describe("m")["swaps"][-1]
    return found


def assert_nobody_noticed(ledger: Ledger) -> None:
    assert {phase: (page.faults, page.refused, page.broken) for phase, page in ledger.pages.items()} == {
        phase: ([], {}, 0) for phase in ledger.pages
    }


def test_a_promote_reaches_both_servers_within_a_poll(installed: Installation) -> None:
    installed.settle()
    with ask(installed) as ledger:
        answered(ledger, "before")
        moved = installed.operator.promote("m", "2", why="better")
        installed.wait_for("2")
        answered(ledger, "after")
    assert_nobody_noticed(ledger)
    assert set(ledger.versions) == {"1", "2"}
    for server in installed.servers.values():
        swap = last_swap(server)
        seen = swap["time"] - swap["seconds"]
        assert seen - moved.time < POLL_SECONDS + ANSWER_SECONDS
    both = 'count(headwaiter_model_info{model="m",version="2",alias="champion"}) == 2'
    wait_until(lambda: installed.prometheus.query(both), "Prometheus sees version 2 live on both")


def test_of_a_killed_server_clients_see_nothing_but_when_to_come_again(installed: Installation) -> None:
    installed.settle()
    with ask(installed) as ledger:
        answered(ledger, "before")
        ledger.phase = "killed"
        killed = installed.servers["one"]
        kill_all((*killed.everyone(), psutil.Process(killed.process.pid)))
        killed.process.wait()
        wait_until(lambda: not installed.proxy.is_up("one"), "HAProxy sends it nothing")
        down = "min(up) == 0"
        wait_until(lambda: installed.prometheus.query(down), "Prometheus sees it")
        answered(ledger, "one is left")
        installed.restart("one")
        answered(ledger, "after")
    page = ledger.pages.pop("killed")
    assert (page.faults, page.broken) == ([], 0)
    assert set(page.refused) <= {429, 503}
    assert_nobody_noticed(ledger)


def test_a_rolling_restart_fails_no_request(installed: Installation) -> None:
    installed.settle()
    with ask(installed) as ledger:
        answered(ledger, "before")
        for name in NAMES:
            ledger.phase = f"{name} restarts"
            assert installed.servers[name].stop() == 0
            installed.restart(name)
            answered(ledger, f"{name} is back")
    assert_nobody_noticed(ledger)


def test_without_the_artifact_store_the_old_version_stays_until_the_store_is_back(installed: Installation) -> None:
    installed.settle()
    operator = installed.operator
    fetch(operator.resolve(Reference("m", version="3")), operator.settings)  # as who looked at it before
    with ask(installed) as ledger:
        answered(ledger, "before")
        installed.store.stop()
        try:
            operator.promote("m", "3", why="better")
            for server in installed.servers.values():
                wait_until(lambda at=server: last_swap(at)["to_version"] == "3", "it has tried 3")
                assert last_swap(server)["outcome"] == "failure"
                assert "could not be downloaded" in last_swap(server)["error"]
                assert server.live("m") == "1"
            answered(ledger, "without the store")
        finally:
            installed.store.start()
        installed.wait_for("3")
        answered(ledger, "after")
    assert_nobody_noticed(ledger)


def test_a_database_that_restarts_is_noticed_by_nobody(installed: Installation) -> None:
    installed.settle()
    with ask(installed) as ledger:
        answered(ledger, "before")
        installed.database.restart()
        installed.operator.promote("m", "2", why="better")
        installed.wait_for("2")
        answered(ledger, "after")
        for server in installed.servers.values():
            assert not server.http.get("/models").json()["registry_error"]
    assert_nobody_noticed(ledger)
