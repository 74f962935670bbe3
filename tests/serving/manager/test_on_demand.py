"""More models than fit into memory: the real manager in a simulated world, with fronts that tell what is asked."""

from collections.abc import Callable, Iterator

import pytest

from registry.references import Reference
from serving.manager.load_queue import TOGETHER
from serving.wire.demand import DEMAND, Asked, FrontDemand
from serving.wire.report_file import write_report
from serving.wire.routing_table import VersionEntry
from serving.wire.version_state import State
from tests.serving.manager.world import ENGINE_BYTES, Server

pytestmark = pytest.mark.slow


Start = Callable[..., "Shop"]
NAMES = [chr(ord("a") + number) for number in range(26)] + [f"model-{number}" for number in range(200)]
REFERENCES = [Reference(name, alias="champion") for name in NAMES]


class Shop(Server):
    """A server of several models, whose fronts ask for them."""

    def tell(self, **asked: bool) -> None:
        """Let a front ask for these models. asked: whether requests wait for them."""
        found = tuple(Asked(name, "1", self.world.now, has_work) for name, has_work in asked.items())
        folder = self.settings.run / DEMAND
        folder.mkdir(exist_ok=True)
        write_report(folder / "1.json", FrontDemand(self.world.now, found))

    def ask(self, name: str) -> None:
        """Let a request come, wait until the model is loaded, and be answered."""
        self.tell(**{name: True})
        for _ in range(6):
            self.step(1.1)
            self.tell(**{name: True})
            self.world.let_engines_go_on()
        self.step()
        self.tell(**{name: False})
        assert name in self.loaded(), self.shown()

    def entry(self, name: str) -> VersionEntry:
        """The model's live version."""
        return self.table().models[name].versions["1"]

    def shown(self) -> dict[str, State]:
        """The state of each model's version."""
        return {name: model.versions["1"].state for name, model in self.table().models.items() if model.versions}

    def loaded(self) -> str:
        """The models whose version is ready, by their first letters."""
        return "".join(name[0] for name, state in self.shown().items() if state == "ready")

    def live(self) -> str:
        """The models that have a live version."""
        return "".join(name for name, model in self.table().models.items() if model.live == "1")


@pytest.fixture
def start() -> Iterator[Start]:
    """A server of the first `models` models, with memory for `engines` engines."""
    shops: list[Shop] = []

    def make(models: int, engines: float, **fields: object) -> Shop:
        shop = Shop(tuple(REFERENCES[:models]), 1, memory_bytes=round(engines * ENGINE_BYTES), **fields)
        shops.append(shop)
        shop.world.targets["champion"] = "1"
        return shop

    yield make
    for shop in shops:
        shop.close()


def test_everything_is_loaded_where_it_fits(start: Start) -> None:
    shop = start(models=4, engines=4)
    shop.settle(turns=12)
    assert (shop.loaded(), shop.live()) == ("abcd", "abcd")
    shop.step(1e6)
    assert shop.loaded() == "abcd", "idle versions stay"


def test_at_the_start_as_many_are_loaded_as_fit_and_all_are_served(start: Start) -> None:
    shop = start(models=6, engines=2.5)
    shop.settle(turns=12)
    assert (shop.loaded(), shop.live()) == ("ab", "abcdef")
    assert shop.shown()["f"] == "unloaded"
    assert shop.entry("f").on_demand
    assert shop.table().has_started
    assert len(shop.world.fetched) <= TOGETHER


def test_of_two_hundred_models_only_those_that_fit_are_loaded_or_fetched(start: Start) -> None:
    shop = start(models=200, engines=5)
    shop.settle(turns=12)
    table = shop.table()
    assert len(table.models) == 200
    assert all(model.live == "1" for model in table.models.values())
    assert len(shop.loaded()) == 5
    assert len(shop.world.fetched) <= 5 + TOGETHER
    assert table.has_started


def test_what_was_used_last_is_loaded_first(start: Start) -> None:
    shop = start(models=4, engines=2)
    shop.settle(turns=12)
    shop.ask("d")
    shop.settle(turns=2)
    shop.ask("c")
    shop.settle(turns=2)
    shop.stop_all()
    shop.restart()
    shop.settle(turns=12)
    assert shop.loaded() == "cd"


def test_pinned_models_are_loaded_first_and_never_leave(start: Start) -> None:
    shop = start(models=4, engines=2, pinned=frozenset([REFERENCES[3]]), idle_unload_seconds=1000)
    shop.settle(turns=12)
    assert shop.loaded() == "ad"
    for name in "abcab":
        shop.ask(name)
        assert "d" in shop.loaded()
    shop.step(1e5)
    shop.settle()
    assert shop.loaded() == "d"


def test_a_version_is_loaded_once_it_is_asked_for_and_the_one_used_least_recently_leaves(start: Start) -> None:
    shop = start(models=4, engines=2)
    shop.settle(turns=12)
    shop.ask("b")
    shop.ask("a")
    shop.ask("d")
    assert shop.loaded() == "ad"
    assert shop.entry("b").on_demand
    shop.ask("b")
    assert shop.loaded() == "bd"
    assert shop.live() == "abcd"


def test_what_has_work_does_not_leave_and_the_request_waits_until_it_has_none(start: Start) -> None:
    shop = start(models=3, engines=2)
    shop.settle(turns=12)
    for _ in range(8):
        shop.tell(a=True, b=True, c=True)
        shop.settle(turns=1)
        assert shop.loaded() == "ab"
    assert shop.shown()["c"] == "loading"
    assert shop.entry("c").on_demand
    for _ in range(6):
        shop.tell(a=True, b=False, c=True)
        shop.settle(turns=1)
    assert shop.loaded() == "ac"


def test_the_version_that_waits_longest_is_loaded_first(start: Start) -> None:
    shop = start(models=4, engines=1)
    shop.settle(turns=12)
    order = []
    for turn in range(30):
        waiting = {name: True for name in "dcb" if name not in order}
        shop.tell(a=turn < 3, **(waiting if turn > 1 else {"d": True}))
        shop.settle(turns=1)
        order += [name for name in "dcb" if name in shop.loaded() and name not in order]
    assert order[0] == "d"
    assert sorted(order) == ["b", "c", "d"]


def test_a_version_that_a_rollout_compares_is_loaded_unasked_and_stays(start: Start) -> None:
    shop = start(models=4, engines=2)
    shop.settle(turns=12)
    assert shop.loaded() == "ab"
    shop.manager._placement.judged = frozenset([REFERENCES[2]])
    shop.settle(turns=8)
    assert "c" in shop.loaded()
    for name in "dab":
        shop.ask(name)
        assert "c" in shop.loaded()


def test_a_version_that_nobody_waits_for_any_more_is_not_loaded(start: Start) -> None:
    shop = start(models=2, engines=1)
    shop.settle(turns=12)
    for has_work in (True, True, True, False, False, False, False, False, False):
        shop.tell(a=True, **({"b": True} if has_work else {}))
        shop.settle(turns=1)
        assert shop.loaded() == "a"
    assert shop.shown()["b"] == "unloaded"


def test_engines_never_take_more_than_they_may(start: Start) -> None:
    shop = start(models=8, engines=3)
    for turn in range(60):
        shop.tell(**{"abcdefgh"[(turn * turn) % 8]: turn % 3 > 0, "abcdefgh"[turn // 8]: True})
        shop.step(0.7)
        assert ENGINE_BYTES * len(shop.world.running()) <= shop.settings.memory_bytes or turn < 5
        if turn % 2:
            shop.world.let_engines_go_on()


def test_idle_versions_are_unloaded_where_that_is_asked_for(start: Start) -> None:
    shop = start(models=2, engines=8, idle_unload_seconds=60)
    shop.settle(turns=8)
    assert shop.loaded() == "ab"
    for _ in range(14):
        shop.tell(b=False)
        shop.settle(seconds=6.0, turns=1)
    shop.settle(seconds=0.1, turns=3)
    assert (shop.loaded(), shop.live()) == ("b", "ab")
    shop.ask("a")
    assert shop.loaded() == "ab"


def test_a_version_that_cannot_be_loaded_again_is_tried_at_the_next_request(start: Start) -> None:
    shop = start(models=2, engines=1)
    shop.settle(turns=12)
    shop.world.unloadable.add("1")
    shop.tell(b=True)
    shop.settle(turns=6)
    assert shop.shown()["b"] == "failed"
    assert shop.live() == "ab"
    shop.world.unloadable.clear()
    shop.settle(seconds=shop.settings.retry_seconds, turns=3)
    assert shop.shown()["b"] == "unloaded"
    shop.ask("b")


def test_the_next_manager_loads_on_demand_as_well(start: Start) -> None:
    shop = start(models=4, engines=2)
    shop.settle(turns=12)
    shop.restart()
    shop.settle()
    assert (shop.loaded(), shop.live()) == ("ab", "abcd")
    shop.ask("c")


def test_a_new_version_of_a_model_that_is_not_loaded_is_loaded_before_it_is_served(start: Start) -> None:
    shop = start(models=4, engines=2)
    shop.settle(turns=12)
    shop.world.targets["champion"] = "2"
    states = []
    for _ in range(20):
        shop.settle(turns=1)
        model = shop.table().models["d"]
        states.append((model.live, model.versions["2"].state if "2" in model.versions else None))
    assert ("1", "loading") in states
    assert ("2", "ready") in states
    assert all(live == "1" or state is not None for live, state in states)


@pytest.mark.parametrize(("asked", "yields"), [(False, False), (True, True)])
def test_a_new_version_loads_at_low_priority_only_where_others_are_asked(
    start: Start, *, asked: bool, yields: bool
) -> None:
    shop = start(models=1, engines=4)
    shop.settle()
    assert shop.live() == "a"
    assert [body.order.low_priority for body in shop.world.running()] == [False], "nothing was served before it"
    if asked:
        shop.tell(a=False)
    shop.move("champion", "2")
    assert {body.order.version: body.order.low_priority for body in shop.world.running()} == {"1": False, "2": yields}
