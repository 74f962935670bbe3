import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.manager.memory_budget import (
    ENGINE_BYTES,
    RESERVE_BYTES,
    WEIGHTS_SHARE,
    Footprint,
    Refuse,
    Room,
    Start,
    Wait,
    admit,
    estimate_bytes,
)
from serving.wire.version_state import VersionKey

MIB = 1 << 20
OLD: VersionKey = ("m", "1")
LIVE: VersionKey = ("m", "2")


def room(free: int, *, leaving: bool = False, promised: int = 0) -> Room:
    return Room(free * MIB + RESERVE_BYTES, promised * MIB, leaving, "the limit is 900 MiB, set by the control group")


@pytest.mark.parametrize(
    ("situation", "need", "at_hand", "evictable", "expected"),
    [
        ("enough", 300, room(300), [], Start()),
        ("enough, somebody leaves", 300, room(300, leaving=True), [], Start()),
        ("not yet", 300, room(299, leaving=True), [(OLD, 500)], Wait()),
        ("a warm one leaves", 300, room(100), [(OLD, 200)], Wait((OLD,))),
        ("no more than need to", 300, room(100), [(OLD, 200), (LIVE, 400)], Wait((OLD,))),
        ("both leave", 500, room(100), [(OLD, 200), (LIVE, 400)], Wait((OLD, LIVE))),
        ("promised to others", 300, room(500, promised=300), [(OLD, 100)], Wait((OLD,))),
    ],
)
def test_who_may_start(
    situation: str, need: int, at_hand: Room, evictable: list[tuple[VersionKey, int]], expected: object
) -> None:
    found = admit(need * MIB, at_hand, [(key, size * MIB) for key, size in evictable])
    assert found == expected, situation


def test_nobody_leaves_in_vain() -> None:
    found = admit(800 * MIB, room(100), [(OLD, 200 * MIB), (LIVE, 400 * MIB)])
    assert isinstance(found, Refuse)
    for word in ("800 MiB", "100 MiB", "900 MiB", "control group"):
        assert word in found.reason


@given(
    need=st.integers(0, 2**40),
    free=st.integers(0, 2**40),
    promised=st.integers(0, 2**40),
    sizes=st.lists(st.integers(0, 2**39), max_size=5),
)
def test_what_leaves_always_makes_room(need: int, free: int, promised: int, sizes: list[int]) -> None:
    at_hand = Room(free, promised)
    evictable = [(("m", str(number)), size) for number, size in enumerate(sizes)]
    found = admit(need, at_hand, evictable)
    if isinstance(found, Start):
        assert need <= at_hand.free_bytes
    elif isinstance(found, Wait):
        freed = sum(dict(evictable)[key] for key in found.evict)
        assert at_hand.free_bytes + freed >= need
        assert at_hand.free_bytes + freed - dict(evictable)[found.evict[-1]] < need, "the last one was needed"
    else:
        assert at_hand.free_bytes + sum(sizes) < need


def test_an_estimate_follows_what_was_measured_of_the_most_similar_engine() -> None:
    assert estimate_bytes(100 * MIB) == ENGINE_BYTES + 120 * MIB
    alike, large = Footprint(250 * MIB, 90 * MIB), Footprint(2000 * MIB, 1500 * MIB)
    assert estimate_bytes(90 * MIB, [large, alike]) == 250 * MIB
    assert estimate_bytes(100 * MIB, [large, alike]) == 262 * MIB
    assert estimate_bytes(1400 * MIB, [alike, large]) == 2000 * MIB - round(WEIGHTS_SHARE * 100 * MIB)
    assert estimate_bytes(MIB, [large]) > 0
