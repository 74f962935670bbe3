import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from registry.errors import NotFound, RegistryUnavailable
from registry.references import Reference, ResolvedVersion
from registry.settings import RegistrySettings
from serving.manager import registry_poll
from serving.manager.registry_watch import (
    GIVE_UP_SECONDS,
    MAX_GIVEN_UP,
    MAX_PAUSE_SECONDS,
    NUDGED_SECONDS,
    RegistryWatch,
)
from serving.settings import ServingSettings
from tests.e2e.server import wait_until
from tests.serving.manager.world import exactly
from tests.waiting import WAIT_SECONDS

M = Reference("m", alias="champion")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is given up because its thread does not run for some seconds."""
    monkeypatch.setattr(registry_poll, "SLOW_SECONDS", WAIT_SECONDS)


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
        connect: Any = lambda: self.registry  # noqa: E731
        self.watch = RegistryWatch(settings, threading.Event().set, connect, spread=exactly)

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


class Listed(Registry):
    """A registry of some models that lists their aliases. may_answer: cleared, no request is ever answered."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.live = dict.fromkeys(names, "1")
        self.lists = 0
        self.digest: str | None = "0" * 64
        self.may_answer = threading.Event()
        self.may_answer.set()

    def aliases(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        self.lists += 1
        assert self.may_answer.wait(WAIT_SECONDS)
        if self.trouble:
            raise RegistryUnavailable(self.trouble)
        return {name: {"champion": self.live[name]} for name in names if name in self.live}

    def resolve(self, reference: Reference) -> ResolvedVersion:
        assert self.may_answer.wait(WAIT_SECONDS)
        super().resolve(reference)
        return ResolvedVersion(reference.name, self.live[reference.name], "models:/m-1", self.digest)


class Listing:
    """A watch of a `Listed` registry. connects: how often a client was made."""

    def __init__(self, home: Path, *references: Reference) -> None:
        settings = ServingSettings(RegistrySettings(home, "sqlite://"), references, home, poll_seconds=2.0)
        self.registry = Listed([reference.name for reference in references])
        self.connects = 0
        self.watch = RegistryWatch(settings, threading.Event().set, self._connect, spread=exactly)
        self.now = 100.0

    def _connect(self) -> Any:
        self.connects += 1
        return self.registry

    def poll(self) -> tuple[int, int]:
        """Poll once; how often aliases were listed, and how many references were asked for by themselves."""
        before = self.registry.lists, self.registry.asked
        self.watch.step(self.now)
        assert self.watch._polling is not None
        wait_until(self.watch._polling.done, "it has answered")
        self.watch.step(self.now)
        self.now += 60.0
        return self.registry.lists - before[0], self.registry.asked - before[1]

    def versions(self) -> list[str]:
        return [target.version for target in self.watch.view.targets.values() if target is not None]


MODELS = tuple(Reference(f"m{number}", alias="champion") for number in range(20))


def test_one_request_asks_for_all_references_that_mean_what_they_meant(tmp_path: Path) -> None:
    listing = Listing(tmp_path, *MODELS[:19], Reference("m19", version="1"))
    assert listing.poll() == (0, 20)
    assert listing.poll() == (1, 0)
    listing.registry.live["m3"] = "2"
    assert listing.poll() == (1, 1)
    assert listing.versions() == ["1"] * 3 + ["2"] + ["1"] * 16
    del listing.registry.live["m19"]
    listing.registry.live["m19 again"] = "1"
    before = listing.registry.asked
    listing.watch.step(listing.now)
    wait_until(lambda: listing.registry.asked > before, "a model that is not listed is asked for by itself")


def test_a_reference_is_asked_for_by_itself_while_the_list_cannot_tell_what_it_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = Listing(tmp_path, *MODELS)
    listing.registry.digest = None  # it may be pinned at any time, and that is a tag
    assert [listing.poll() for _ in range(2)] == [(0, 20), (0, 20)]
    listing.registry.digest = "0" * 64
    assert [listing.poll() for _ in range(2)] == [(0, 20), (1, 0)]
    monkeypatch.setattr(registry_poll.time, "monotonic", lambda: 1e9)
    assert [listing.poll() for _ in range(20)] == [(1, 1)] * 20, "tags are looked at now and then, one model a poll"
    assert listing.poll() == (1, 0)


def test_a_registry_that_lists_nothing_is_asked_for_each_reference(tmp_path: Path) -> None:
    listing = Listing(tmp_path, *MODELS)
    listing.poll()
    listing.registry.aliases = lambda names: {name: {} for name in names}  # type: ignore[method-assign]
    assert listing.poll() == (0, 20)
    assert listing.versions() == ["1"] * 20


def test_a_registry_that_does_not_answer_is_not_given_more_to_do(tmp_path: Path) -> None:
    listing = Listing(tmp_path, *MODELS)
    listing.poll()
    listing.registry.trouble = "no database"
    assert [listing.poll() for _ in range(3)] == [(1, 1)] * 3, "the list, and one reference"
    assert listing.watch.view.error == "no database"
    assert listing.versions() == ["1"] * 20
    listing.registry.trouble = ""
    listing.registry.live["m7"] = "2"
    assert listing.poll() == (1, 1)
    assert (listing.watch.view.error, listing.versions()[7]) == ("", "2")


def test_where_only_the_list_fails_each_reference_is_asked_for(tmp_path: Path) -> None:
    listing = Listing(tmp_path, *MODELS)
    listing.poll()

    def refuse(names: Sequence[str]) -> dict[str, dict[str, str]]:
        raise RegistryUnavailable("no list today")

    listing.registry.aliases = refuse  # type: ignore[method-assign]
    listing.registry.live["m7"] = "2"
    assert listing.poll() == (0, 20)
    assert (listing.watch.view.error, listing.versions()[7]) == ("", "2")


def test_a_registry_that_is_down_from_the_start_is_asked_for_one_reference_until_it_answers(tmp_path: Path) -> None:
    listing = Listing(tmp_path, *MODELS)
    tried: list[str] = []
    resolve = listing.registry.resolve

    def note(reference: Reference) -> ResolvedVersion:
        tried.append(reference.name)
        return resolve(reference)

    listing.registry.resolve = note  # type: ignore[method-assign]
    listing.registry.trouble = "no database"
    assert [listing.poll() for _ in range(21)] == [(0, 20), *[(0, 1)] * 20]
    assert len(set(tried[20:])) == 20, "another one each time, as one may be the trouble"
    listing.registry.trouble = ""
    assert listing.poll() == (0, 20)
    assert listing.versions() == ["1"] * 20


def test_what_the_registry_says_of_one_reference_is_no_answer_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is tried out answers too late to be an answer of the registry, and in time to be its own."""
    listing = Listing(tmp_path, *MODELS[:3])
    listing.registry.trouble = "no database"
    listing.poll()
    listing.registry.trouble, listing.registry.live = "", {}
    listing.registry.may_answer.clear()
    turns = iter(["is not waited for", "has answered"])

    def wait_for(asked: Sequence[Any], seconds: float) -> None:
        if next(turns) == "has answered":
            listing.registry.may_answer.set()
            wait_until(lambda: all(each.done() for each in asked), "it has answered")

    def absent(reference: Reference) -> ResolvedVersion:
        assert listing.registry.may_answer.wait(WAIT_SECONDS)
        raise NotFound(f"no {reference.name}")

    listing.registry.resolve = absent  # type: ignore[method-assign]
    monkeypatch.setattr(registry_poll, "wait", wait_for)
    listing.poll()
    problems = [str(problem) for problem in listing.watch.view.problems.values()]
    assert sum("no m" in problem for problem in problems) == 1
    assert len(listing.watch.view.unanswered) == 2


def test_a_poll_that_hangs_is_given_up_and_the_next_has_a_connection_of_its_own(tmp_path: Path) -> None:
    listing = Listing(tmp_path, *MODELS[:2])
    watch, hanging = listing.watch, listing.registry
    listing.poll()
    hanging.may_answer.clear()
    hanging.digest = None
    listing.registry = Listed(["m0", "m1"])
    listing.registry.live["m0"] = "2"
    watch.step(listing.now)
    watch.step(listing.now + GIVE_UP_SECONDS)
    assert (listing.connects, "no answer" in watch.view.error) == (1, True)
    watch.step(listing.now + GIVE_UP_SECONDS + 1)
    now = listing.now + GIVE_UP_SECONDS + MAX_PAUSE_SECONDS
    watch.step(now)
    assert watch._polling is not None
    wait_until(watch._polling.done, "the new connection has answered")
    watch.step(now)
    assert (listing.connects, listing.versions(), watch.view.error) == (2, ["2", "1"], "")
    hanging.may_answer.set()
    wait_until(watch._given_up[0].is_idle, "the hanging requests have ended")
    watch.step(now + 1)
    assert listing.versions() == ["2", "1"], "what comes too late is not taken"


def test_only_so_many_connections_are_left_hanging(tmp_path: Path) -> None:
    listing = Listing(tmp_path, *MODELS[:2])
    watch, now = listing.watch, 100.0
    listing.registry.may_answer.clear()
    for _ in range(3 * MAX_GIVEN_UP):
        watch.step(now)
        if watch._polling is not None:
            wait_until(lambda: watch._poll._waiting, "it hangs: one that is given up before it has asked ends")
        now += GIVE_UP_SECONDS + MAX_PAUSE_SECONDS
    wait_until(lambda: listing.connects == MAX_GIVEN_UP + 1, "each connection was made")
    listing.registry.may_answer.set()
    assert watch._polling is not None
    wait_until(watch._polling.done, "the last one is waited for")
    watch.step(now)
    assert (listing.versions(), watch.view.error) == (["1", "1"], "")


def test_replicas_do_not_poll_at_the_same_time(tmp_path: Path) -> None:
    settings = ServingSettings(RegistrySettings(tmp_path, "sqlite://"), (M,), tmp_path, poll_seconds=100.0)
    pauses = set()
    for _ in range(5):
        registry: Any = Registry()
        watch = RegistryWatch(settings, threading.Event().set, lambda registry=registry: registry)
        watch.step(1000.0)
        assert watch._polling is not None
        wait_until(watch._polling.done, "it has answered")
        watch.step(1000.0)
        pauses.add(watch.idle_seconds(1000.0))
    assert len(pauses) == 5
    assert all(80.0 <= pause <= 120.0 for pause in pauses)
