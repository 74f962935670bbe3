"""How tests share the machine: which ones run on one worker of pytest-xdist, in which order, on how many workers.

Without `-n` this only puts the marker on tests that start a server.
"""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import psutil
import pytest

END_TO_END = Path(__file__).parent / "e2e"
SHARED_SERVER = "shared-server"
"""The group of the tests that use the session's server, of which each worker would start its own."""
WORKER_BYTES = 4 << 30
"""Memory of a worker with the servers of its test; the largest tests need about 3 GiB."""
MAX_WORKERS = 8
"""More than this wait for the longest group."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", "server: starts a server; set for all of tests/e2e")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models run on one thread in the tests' own process, as threads of several workers would wait for each other.

    Servers choose their threads themselves.
    """
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def two_threads(one_thread: None) -> Iterator[None]:
    """Models run on two threads in this test."""
    import torch

    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The workers of `-n auto`: one more than there are cores, because tests of servers wait half of their time."""
    cores = len(os.sched_getaffinity(0))
    wanted = cores if "not server" in config.option.markexpr else cores + 1
    return max(1, min(wanted, MAX_WORKERS, psutil.virtual_memory().available // WORKER_BYTES))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests of servers; in parallel they come first, the longest group at the front."""
    for item in items:
        if END_TO_END in item.path.parents:
            item.add_marker("server")
    if hasattr(config, "workerinput"):
        items.sort(key=_rank)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> Generator[None, None, None]:
    """Tell the scheduler each test's group, after an @ as `--dist loadgroup` has it; reports keep the test's name."""
    if not hasattr(session.config, "workerinput"):
        return (yield)
    names = [item.nodeid for item in session.items]
    for item, name in zip(session.items, names, strict=True):
        if group := group_of(item):
            item._nodeid = f"{name}@{group}"
    try:
        return (yield)
    finally:
        for item, name in zip(session.items, names, strict=True):
            item._nodeid = name


def group_of(item: pytest.Item) -> str | None:
    """The tests that share a server or a registry with it; None for a test that shares none."""
    fixtures = getattr(item, "fixturenames", ())
    if item.get_closest_marker("server") is None or "small_home" in fixtures:
        return None
    if "server" in fixtures:
        return SHARED_SERVER
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return "-".join(filter(None, (item.path.stem, str(parameters.get("shop", "")))))


def _rank(item: pytest.Item) -> int:
    """Its place: the shared server's tests, those of a module's server, those of a server of their own, all others."""
    group = group_of(item)
    if group is not None:
        return 0 if group == SHARED_SERVER else 1
    return 2 if item.get_closest_marker("server") else 3
