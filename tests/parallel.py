"""How tests share the machine: which ones run on one worker of pytest-xdist, in which order, on how many workers.

Without `-n` this only puts the marker on tests that start a server.
"""

from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from serving.runtime.limits import read_limits

END_TO_END = Path(__file__).parent / "e2e"
SHARED_SERVER = "shared-server"
"""The group of the tests that use the session's server, of which each worker would start its own."""
WORKER_BYTES = 4 << 30
"""Memory of a worker with the servers of its test; the largest tests need about 3 GiB."""
MANY_TESTS = 40
"""A file of so many tests is spread over the workers."""
GROUP = pytest.StashKey[str | None]()
MAX_WORKERS = 8
"""More than this wait for the longest group."""


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
    limits = read_limits()
    wanted = limits.cores + ("not server" not in config.option.markexpr)
    return max(1, min(wanted, MAX_WORKERS, limits.available_bytes // WORKER_BYTES))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests of servers; in parallel they come first, the shared server's at the front."""
    for item in items:
        if END_TO_END in item.path.parents:
            item.add_marker("server")
    if hasattr(config, "workerinput"):
        counts = Counter(item.path for item in items)
        for item in items:
            item.stash[GROUP] = find_group(item, is_large=counts[item.path] >= MANY_TESTS)
        items.sort(key=_rank)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> Generator[None, None, None]:
    """Tell the scheduler each test's group, after an @ as `--dist loadgroup` has it; reports keep the test's name."""
    names = [(item, item.nodeid) for item in session.items if item.stash.get(GROUP, None)]
    for item, name in names:
        item._nodeid = f"{name}@{item.stash[GROUP]}"
    try:
        return (yield)
    finally:
        for item, name in names:
            item._nodeid = name


def find_group(item: pytest.Item, *, is_large: bool) -> str | None:
    """The tests that one worker shall run because they share a server, a registry or a model; None for none.

    is_large: whether its file has many small tests, to be spread even if each worker then makes its own model.
    """
    fixtures, file = getattr(item, "fixturenames", ()), str(item.path.relative_to(END_TO_END.parent))
    if not _has_server(item):
        return file if _shares_in_module(item) and not is_large else None
    if "small_home" in fixtures:
        return None
    if "server" in fixtures:
        return SHARED_SERVER
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return "-".join(filter(None, (file, str(parameters.get("shop", "")))))


def _has_server(item: pytest.Item) -> bool:
    return item.get_closest_marker("server") is not None


def _shares_in_module(item: pytest.Item) -> bool:
    """Whether it uses a fixture that is made once a module; pytest has no public way to ask for a fixture's scope."""
    info = getattr(item, "_fixtureinfo", None)
    return info is not None and any(found[-1].scope == "module" for found in info.name2fixturedefs.values())


def _rank(item: pytest.Item) -> int:
    """Its place: the shared server's tests, those of a module's server, those of a server of their own, all others.

    Of the others groups come first, as single tests fill what they leave.
    """
    group = item.stash[GROUP]
    if _has_server(item):
        return 2 if group is None else int(group != SHARED_SERVER)
    return 4 if group is None else 3
