"""Rates and concurrency of keys, counted by several fronts together."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import KeyLimitReached, Overloaded
from serving.front import key_limits
from serving.front.key_limits import KeyLimits
from serving.runtime.key_file import AccessKey


def key(number: int = 1, *, rate: float = 0.0, concurrency: int = 0) -> AccessKey:
    return AccessKey(name=f"user-{number}", sha256=f"{number:064x}"[::-1], rate=rate, concurrency=concurrency)


@pytest.fixture
def fronts(tmp_path: Path) -> Iterator[list[KeyLimits]]:
    made = [KeyLimits(tmp_path, 2, own) for own in range(2)]
    yield made
    for each in made:
        each.close()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(key_limits.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def admitted(fronts: list[KeyLimits], given: AccessKey, tries: int) -> int:
    """The number of requests that were let in, of those sent to the fronts by turns."""
    count = 0
    for number in range(tries):
        try:
            fronts[number % len(fronts)].enter(given)
        except KeyLimitReached:
            continue
        count += 1
    return count


def test_requests_in_progress_are_bounded_over_all_fronts(fronts: list[KeyLimits]) -> None:
    alice, bob = key(1, concurrency=3), key(2, concurrency=3)
    assert admitted(fronts, alice, 10) == 3
    with pytest.raises(KeyLimitReached, match="'user-1' has 3 requests in progress") as raised:
        fronts[0].enter(alice)
    assert raised.value.retry_seconds is not None
    assert admitted(fronts, bob, 1) == 1, "one key's requests are not another's"
    fronts[0].leave(alice)
    assert admitted(fronts, alice, 10) == 1


def test_a_rate_holds_over_all_fronts_and_says_when_to_come_again(fronts: list[KeyLimits], clock: Clock) -> None:
    alice = key(rate=5)
    assert admitted(fronts, alice, 100) == 5
    for _ in range(20):
        with pytest.raises(KeyLimitReached, match="may ask 5 times a second: try again later") as raised:
            fronts[1].enter(alice)
        assert raised.value.retry_seconds is not None
        assert 0 < raised.value.retry_seconds < 0.21
        clock.now += raised.value.retry_seconds + 1e-6
        assert admitted(fronts, alice, 100) == 1
    clock.now += 60
    assert admitted(fronts, alice, 100) == 5, "an idle key saves up at most one second of its rate"


def test_a_slow_rate_lets_one_in_at_a_time(fronts: list[KeyLimits], clock: Clock) -> None:
    alice = key(rate=0.1)
    assert admitted(fronts, alice, 10) == 1
    clock.now += 9.9
    assert admitted(fronts, alice, 10) == 0
    clock.now += 0.2
    assert admitted(fronts, alice, 10) == 1


def test_a_front_that_crashed_holds_nothing(tmp_path: Path, fronts: list[KeyLimits]) -> None:
    alice = key(concurrency=2)
    fronts[1].enter(alice)
    fronts[1].enter(alice)
    again = KeyLimits(tmp_path, 2, 1)
    again.enter(alice)
    fronts[0].enter(alice)
    assert admitted([again, fronts[0]], alice, 4) == 0
    again.close()


def test_a_time_of_an_earlier_start_of_the_machine_does_not_lock_out(
    tmp_path: Path, fronts: list[KeyLimits], clock: Clock
) -> None:
    alice = key(rate=5)
    fronts[0].enter(alice)
    clock.now = 10.0
    assert admitted(fronts, alice, 10) == 5


def test_keys_whose_slots_collide_are_counted_apart(fronts: list[KeyLimits]) -> None:
    slots = key_limits.SLOTS
    first, second = (
        AccessKey(name=str(place), sha256=struct.pack(">Q", place * slots)[2:].hex().ljust(64, "0"), concurrency=1)
        for place in (1, 2)
    )
    assert admitted(fronts, first, 5) == 1
    assert admitted(fronts, second, 5) == 1
    for each in fronts:
        assert each._place(first) != each._place(second)


def test_more_keys_than_there_is_room_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_limits, "SLOTS", 2)
    limits = KeyLimits(tmp_path, 1)
    limits.enter(key(1, concurrency=1))
    limits.enter(key(2, concurrency=1))
    with pytest.raises(Overloaded, match="more than 2 keys"):
        limits.enter(key(3, concurrency=1))
    limits.close()
