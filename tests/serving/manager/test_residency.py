"""Which loaded versions leave: a table of cases, and a simulation in which requests come and go."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.manager.memory_budget import Refuse, Room, Start, Wait, admit
from serving.manager.residency import (
    Resident,
    choose_excess,
    choose_idle,
    leaving_later,
    leaving_order,
)
from serving.wire.version_state import VersionKey

NOW = 1000.0


def resident(name: str, **fields: object) -> Resident:
    """A live version of 100 bytes that was loaded long ago."""
    given: dict[str, object] = {"size_bytes": 100, "loaded_at": 1.0, "load_seconds": 2.0, **fields}
    return Resident((name, "1"), **given)  # type: ignore[arg-type]


def names(keys: list[VersionKey]) -> str:
    return "".join(name for name, _ in keys)


@pytest.mark.parametrize(
    ("situation", "residents", "order", "later"),
    [
        ("nothing is loaded", [], "", ""),
        ("used least recently first", [resident("a", used_at=30), resident("b", used_at=20)], "ba", ""),
        ("never used since it was loaded", [resident("a", used_at=30), resident("b", loaded_at=20)], "ba", ""),
        ("loaded after the other was used", [resident("a", used_at=20), resident("b", loaded_at=30)], "ab", ""),
        ("kept warm before live", [resident("a", used_at=5), resident("b", is_live=False, used_at=90)], "ba", ""),
        (
            "of those kept warm the oldest first, whatever was asked for",
            [resident("a", is_live=False, loaded_at=7), resident("b", is_live=False, loaded_at=6, used_at=90)],
            "ba",
            "",
        ),
        ("pinned: never", [resident("a", is_pinned=True), resident("b")], "b", ""),
        ("with work: later", [resident("a", has_work=True), resident("b", used_at=90)], "b", "a"),
        ("pinned and with work: never", [resident("a", is_pinned=True, has_work=True)], "", ""),
        ("loaded a moment ago: later", [resident("a", loaded_at=NOW - 1)], "", "a"),
        ("loaded for as long as that took", [resident("a", loaded_at=NOW - 2)], "a", ""),
        ("one that loads slowly stays longer", [resident("a", loaded_at=NOW - 2, load_seconds=9)], "", "a"),
    ],
)
def test_the_order_in_which_versions_leave(situation: str, residents: list[Resident], order: str, later: str) -> None:
    assert names([found.key for found in leaving_order(residents, NOW)]) == order, situation
    assert names([found.key for found in leaving_later(residents, NOW)]) == later, situation


THREE = [resident("a", used_at=30), resident("b", used_at=20), resident("c", used_at=10, has_work=True)]


@pytest.mark.parametrize(
    ("excess_bytes", "expected"), [(-5, ""), (0, ""), (1, "b"), (100, "b"), (101, "ba"), (200, "ba"), (999, "ba")]
)
def test_as_many_leave_as_are_too_much(excess_bytes: int, expected: str) -> None:
    assert names(choose_excess(THREE, excess_bytes, NOW)) == expected


@pytest.mark.parametrize(
    ("idle_seconds", "expected"), [(0.0, ""), (970.0, "ba"), (975.0, "b"), (980.0, "b"), (981.0, "")]
)
def test_what_is_idle_leaves(idle_seconds: float, expected: str) -> None:
    assert names(choose_idle(THREE, idle_seconds, NOW)) == expected


def test_what_was_just_loaded_is_not_idle() -> None:
    assert choose_idle([resident("a", loaded_at=NOW - 50, used_at=10)], 60.0, NOW) == []


@dataclass
class Machine:
    """Versions that are loaded on demand, as `Placement` does it by these functions: the longest wait comes first.

    A version is known by its number. loading: when it will be ready. asked: wanted, and not loaded yet.
    """

    sizes: list[int]
    pinned: set[int]
    bound: int
    now: float = 0.0
    residents: dict[int, Resident] = field(default_factory=dict)
    loading: dict[int, float] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    work: set[int] = field(default_factory=set)
    was_loaded: set[int] = field(default_factory=set)

    def taken(self) -> int:
        return sum(self.sizes[number] for number in (*self.residents, *self.loading))

    def ask(self, number: int) -> None:
        """A request comes."""
        if number in self.residents:
            self.residents[number] = self.resident(number, self.residents[number].loaded_at, used_at=self.now)
        elif number not in self.asked and number not in self.loading:
            self.asked.append(number)
            self.was_loaded.discard(number)

    def resident(self, number: int, loaded_at: float, used_at: float) -> Resident:
        return Resident(
            ("m", str(number)),
            self.sizes[number],
            is_pinned=number in self.pinned,
            has_work=number in self.work,
            used_at=used_at,
            loaded_at=loaded_at,
            load_seconds=2.0,
        )

    def turn(self) -> None:
        """A second passes."""
        self.now += 1.0
        for number, ready_at in list(self.loading.items()):
            if ready_at <= self.now:
                del self.loading[number]
                self.residents[number] = self.resident(number, self.now, self.now)
                self.was_loaded.add(number)
        found = [self.resident(number, old.loaded_at, old.used_at) for number, old in self.residents.items()]
        self.residents = {int(each.key[1]): each for each in found}
        while self.asked and self.place(self.asked[0], found):
            self.asked.pop(0)
            found = list(self.residents.values())

    def place(self, number: int, found: list[Resident]) -> bool:
        """Whether the version that waits longest is no longer waiting."""
        room = Room(10**9, bound_bytes=self.bound, taken_bytes=self.taken(), is_loading=bool(self.loading))
        order = [(each.key, each.size_bytes) for each in leaving_order(found, self.now)]
        later = sum(each.size_bytes for each in leaving_later(found, self.now))
        match admit(self.sizes[number], room, order, later):
            case Start():
                self.loading[number] = self.now + 2.0
                return True
            case Wait(evict):
                for _, version in evict:
                    left = self.residents.pop(int(version))
                    assert int(version) not in self.work
                    assert not left.is_pinned
                    assert self.now - left.loaded_at >= left.load_seconds
                return False
            case Refuse():
                pinned = sum(self.sizes[other] for other in (*self.residents, *self.loading) if other in self.pinned)
                assert self.sizes[number] > self.bound - pinned, "only what can never fit is refused"
                self.was_loaded.add(number)
                return True


Event = tuple[str, int]
EVENTS = st.lists(st.tuples(st.sampled_from(["ask", "begin", "end", "turn"]), st.integers(0, 5)), max_size=60)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=6, max_size=6),
    st.sets(st.integers(0, 5), max_size=2),
    st.integers(20, 120),
    EVENTS,
)
def test_memory_stays_in_its_bound_and_everything_that_is_asked_for_is_loaded_in_the_end(
    sizes: list[int], pinned: set[int], bound: int, events: list[Event]
) -> None:
    machine = Machine(sizes, pinned, bound)
    happen: dict[str, Callable[[int], object]] = {
        "ask": machine.ask,
        "begin": lambda number: machine.work.add(number) if number in machine.residents else None,
        "end": machine.work.discard,
        "turn": lambda _: machine.turn(),
    }
    asked = set()
    for kind, number in events:
        happen[kind](number)
        asked |= {number} if kind == "ask" else set()
        assert machine.taken() <= bound
    machine.work.clear()
    for _ in range(6 * len(sizes) + 6):
        machine.turn()
        assert machine.taken() <= bound
    assert machine.asked == []
    assert asked <= machine.was_loaded
