"""What nudges cost the registry: the watch is stepped through time that the test makes up."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.references import Reference, ResolvedVersion
from registry.settings import RegistrySettings
from serving.manager.registry_watch import NUDGED_SECONDS, RegistryWatch
from serving.settings import ServingSettings
from tests.waiting import WAIT_SECONDS

REFERENCE = Reference("m", alias="champion")


class Registry:
    """A registry whose alias can be moved; counts how often it is asked, and can be made slow to answer."""

    def __init__(self) -> None:
        self.version, self.asked, self.open = "1", 0, threading.Event()
        self.open.set()

    def resolve(self, reference: Reference) -> ResolvedVersion:
        self.asked += 1
        version = self.version
        assert self.open.wait(WAIT_SECONDS)
        return ResolvedVersion(reference.name, version, "models:/m-1", None)


class Clock:
    """Steps a watch; `settle` steps at one time until no question is on its way."""

    def __init__(self, tmp_path: Path, poll_seconds: float) -> None:
        self.registry, self.woken = Registry(), threading.Event()
        settings = ServingSettings(RegistrySettings(tmp_path, ""), (REFERENCE,), tmp_path, poll_seconds=poll_seconds)
        connect: Callable[[], Any] = lambda: self.registry  # noqa: E731
        self.watch = RegistryWatch(settings, self.woken.set, connect)

    def step(self, now: float, *, at_once: bool = False) -> None:
        self.watch.step(now, at_once=at_once)

    def settle(self, now: float) -> None:
        """Wait for the answer that is on its way, and take it."""
        assert self.woken.wait(WAIT_SECONDS)
        self.woken.clear()
        self.step(now)

    @property
    def target(self) -> str | None:
        found = self.watch.view.targets[REFERENCE]
        return found.version if found else None


@pytest.fixture
def clock(tmp_path: Path) -> Any:
    clock = Clock(tmp_path, poll_seconds=600)
    clock.step(1000.0)
    clock.settle(1000.01)
    assert (clock.target, clock.registry.asked) == ("1", 1)
    yield clock
    clock.registry.open.set()
    clock.watch.close()


def test_a_nudge_is_followed_long_before_the_next_poll(clock: Clock) -> None:
    clock.registry.version = "2"
    clock.step(1010.0)
    assert clock.registry.asked == 1
    clock.step(1010.05, at_once=True)
    clock.settle(1010.1)
    assert (clock.target, clock.registry.asked) == ("2", 2)


def test_a_flood_of_nudges_asks_the_registry_a_bounded_number_of_times(clock: Clock) -> None:
    steps = 2000
    for step in range(steps):  # one each 5 ms of ten seconds
        clock.step(1010 + step * 0.005, at_once=True)
        if clock.registry.asked and clock.watch._polling is not None:
            clock.settle(1010 + step * 0.005)
    assert 2 < clock.registry.asked <= 1 + 1 + steps * 0.005 / NUDGED_SECONDS


def test_a_nudge_while_an_answer_is_on_its_way_asks_once_more_afterwards(clock: Clock) -> None:
    clock.registry.open.clear()
    clock.step(1010.0, at_once=True)
    clock.registry.version = "2"  # too late for the question on its way, which may have been read already
    for step in range(5):
        clock.step(1010.05 + step / 1000, at_once=True)
    clock.registry.open.set()
    clock.settle(1010.1)
    clock.step(1010.1 + NUDGED_SECONDS)
    clock.settle(1010.2 + NUDGED_SECONDS)
    assert (clock.target, clock.registry.asked) == ("2", 3)
    clock.step(1100.0)
    assert clock.registry.asked == 3
