"""How tests share the machine: which ones run on one worker of pytest-xdist, in which order, on how many workers.

Without `-n` this only puts the marker on tests that start a server.
"""

import json
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from serving.runtime.limits import read_limits

END_TO_END = Path(__file__).parent / "e2e"
SHARED_SERVER = "shared-server"
"""The group of the tests that use the session's server, of which each worker would start its own."""
WORKER_BYTES = 4 << 30
"""Memory of a worker with the servers of its test; the largest tests need about 3 GiB."""
MANY_TESTS = 40
"""A file with at least this many tests is spread over the workers, although each then makes its own model."""
GROUP = pytest.StashKey[str | None]()
FOLDER = pytest.StashKey[Path]()
MAX_WORKERS = 8
"""With more workers, all but one would wait for the longest group."""


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
    if "groups" in getattr(config, "workerinput", {}):
        counts = Counter(item.path for item in items)
        for item in items:
            item.stash[GROUP] = find_group(item, is_large=counts[item.path] >= MANY_TESTS)
        items.sort(key=_rank)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Write each test's group down for the scheduler, which gets no more than names; before xdist sends these."""
    if "groups" in getattr(session.config, "workerinput", {}):
        target = Path(session.config.workerinput["groups"])
        own = target.with_name(session.config.workerinput["workerid"])
        found = {item.nodeid: (item.stash[GROUP], _has_server(item)) for item in session.items}
        own.write_text(json.dumps(found), encoding="utf-8")
        own.replace(target)  # every worker finds the same


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where the scheduler looks for groups, if it does."""
    if node.config.getoption("dist") != "load":
        return
    if FOLDER not in node.config.stash:
        folder = TemporaryDirectory(prefix="headwaiter-tests-")
        node.config.stash[FOLDER] = Path(folder.name)
        node.config.add_cleanup(folder.cleanup)
    node.workerinput["groups"] = str(node.config.stash[FOLDER] / "groups.json")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Schedule groups instead of tests, in the order of collection. `--dist` chooses another scheduler.

    Tests of servers wait half of their time, so one of several workers begins with the others, which keep a core busy.
    """
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped here
        @cached_property
        def groups(self) -> dict[str, tuple[str | None, bool]]:
            """Test → group, and whether it starts a server, once a worker has collected."""
            found: dict[str, tuple[str | None, bool]] = json.loads(
                (config.stash[FOLDER] / "groups.json").read_text("utf-8")
            )
            return found

        def _split_scope(self, nodeid: str) -> str:
            return self.groups[nodeid][0] or nodeid

        def _assign_work_unit(self, node: Any) -> None:
            nodes = list(self.assigned_work)
            if len(nodes) > 1 and node is nodes[-1]:
                others = (scope for scope, tests in self.workqueue.items() if not self.groups[next(iter(tests))][1])
                if (scope := next(others, None)) is not None:
                    self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    config.option.loadscopereorder = False
    return GroupScheduling(config, log)


def ends_group(item: pytest.Item, following: pytest.Item | None, group: str) -> bool:
    """Whether it is this worker's last test of the group. False where tests are not scheduled by groups."""
    groups = [each.stash.get(GROUP, None) if each is not None else None for each in (item, following)]
    return groups[0] == group != groups[1]


def find_group(item: pytest.Item, *, is_large: bool) -> str | None:
    """The tests that one worker shall run because they share a server, a registry or a model; None for none.

    is_large: whether its file has many small tests, to be spread even if each worker then makes its own model.
    """
    fixtures, file = getattr(item, "fixturenames", ()), str(item.path.relative_to(END_TO_END.parent))
    if not _has_server(item):
        return file if _shares_in_module(item) and not is_large else None
    if "small_home" in fixtures:
        return None
    if "server" in fixtures and _scope_of(item, "server") == "session":
        return SHARED_SERVER
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return "-".join(filter(None, (file, str(parameters.get("shop", "")))))


def _has_server(item: pytest.Item) -> bool:
    return item.get_closest_marker("server") is not None


def _shares_in_module(item: pytest.Item) -> bool:
    """Whether it uses a fixture that is made once a module."""
    return any(_scope_of(item, fixture) == "module" for fixture in getattr(item, "fixturenames", ()))


def _scope_of(item: pytest.Item, fixture: str) -> str | None:
    """How long a fixture of the test lives; None for a parameter. pytest has no public way to ask."""
    info = getattr(item, "_fixtureinfo", None)
    found = info.name2fixturedefs.get(fixture) if info is not None else None
    return found[-1].scope if found else None


def _rank(item: pytest.Item) -> int:
    """Its place: the shared server's tests, those of a module's server, those of a server of their own, all others.

    Of the others groups come first, as single tests fill what they leave.
    """
    group = item.stash[GROUP]
    if _has_server(item):
        return 2 if group is None else int(group != SHARED_SERVER)
    return 4 if group is None else 3
