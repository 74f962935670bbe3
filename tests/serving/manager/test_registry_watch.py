import threading
from pathlib import Path

import pytest

from registry.errors import RegistryUnavailable
from registry.references import Reference, ResolvedVersion
from registry.settings import RegistrySettings
from serving.manager.registry_watch import MAX_PAUSE_SECONDS, NUDGED_SECONDS, RegistryWatch
from serving.settings import ServingSettings
from tests.e2e.server import wait_until

M = Reference("m", alias="champion")


class Registry:
    """Answers, or is in trouble. asked: how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.trouble = ""

    def resolve(self, reference: Reference) -> ResolvedVersion:
        self.asked += 1
        if self.trouble:
            raise RegistryUnavailable(self.trouble)
        return ResolvedVersion(reference.name, "1", "models:/m-1", None)


class Watched:
    """A watch whose time the test tells."""

    def __init__(self, home: Path, poll_seconds: float) -> None:
        registry = RegistrySettings(home, "sqlite://")
        settings = ServingSettings(registry, (M,), home, poll_seconds=poll_seconds)
        self.registry = Registry()
        self.watch = RegistryWatch(settings, threading.Event(), lambda: self.registry)  # type: ignore[arg-type,return-value]

    def asks(self, now: float, *, at_once: bool = False) -> bool:
        """Whether the registry is asked at this time; its answer is taken."""
        before = self.registry.asked
        self.watch.step(now, at_once=at_once)
        polling = self.watch._polling
        if polling is not None:
            wait_until(polling.done, "it has answered")
            self.watch.step(now)
        return self.registry.asked > before


def test_a_registry_in_trouble_is_asked_less_and_less_often_and_at_once_when_it_is_back(tmp_path: Path) -> None:
    watched = Watched(tmp_path, poll_seconds=2.0)
    assert watched.asks(100.0)
    watched.registry.trouble = "no database"
    now = 102.0
    assert watched.asks(now)
    assert watched.watch.view.error == "no database"
    assert watched.watch.view.targets[M] == ResolvedVersion("m", "1", "models:/m-1", None)
    for pause in (4.0, 8.0, 16.0, MAX_PAUSE_SECONDS, MAX_PAUSE_SECONDS):
        assert not watched.asks(now + pause - 0.1)
        now += pause
        assert watched.asks(now)
    watched.registry.trouble = ""
    assert watched.asks(now + NUDGED_SECONDS, at_once=True), "somebody said that it is worth it"
    assert watched.watch.view.error == ""
    assert watched.asks(now + NUDGED_SECONDS + 2.0), "as often as before"


def test_the_next_poll_is_awaited_to_the_moment(tmp_path: Path) -> None:
    watched = Watched(tmp_path, poll_seconds=2.0)
    assert watched.watch.idle_seconds(100.0) == 0.0
    assert watched.asks(100.0)
    assert watched.watch.idle_seconds(101.99) == pytest.approx(0.01)
    assert watched.watch.idle_seconds(102.5) == 0.0


def test_no_trouble_makes_it_be_asked_less_often_than_a_long_poll_interval(tmp_path: Path) -> None:
    watched = Watched(tmp_path, poll_seconds=600.0)
    watched.registry.trouble = "no database"
    assert watched.asks(100.0)
    assert not watched.asks(699.0)
    assert watched.asks(700.0)
