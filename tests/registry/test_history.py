import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import HistoryError
from registry.history import Move, new_key, previous_version, read_moves


def move(action: str, origin: str | None, target: str, alias: str = "champion") -> Move:
    return Move(time=0.0, action=action, alias=alias, from_version=origin, to_version=target, who="me", why="test")


P, R = "promote", "rollback"


@pytest.mark.parametrize(
    ("moves", "current", "expected"),
    [
        ([(P, None, "1"), (P, "1", "2")], "2", "1"),
        ([(P, None, "1"), (P, "1", "2"), (P, "2", "5")], "5", "2"),
        # further back: after one rollback the next goes to the version before that
        ([(P, None, "1"), (P, "1", "2"), (P, "2", "3"), (R, "3", "2")], "2", "1"),
        # by history and not by number
        ([(P, None, "7"), (P, "7", "3")], "3", "7"),
        # promoting again what was rolled back
        ([(P, None, "1"), (P, "1", "2"), (R, "2", "1"), (P, "1", "2")], "2", "1"),
        # an alias that somebody moved by hand has no record, and counts as promoted
        ([(P, None, "1"), (P, "1", "2")], "4", "2"),
        # the first recorded move knows where it came from
        ([(P, "1", "2")], "2", "1"),
    ],
)
def test_rollback_goes_to_the_version_that_was_live_before(
    moves: list[tuple[str, str | None, str]], current: str, expected: str
) -> None:
    assert previous_version([move(*entry) for entry in moves], current) == expected


@pytest.mark.parametrize("moves", [[], [(P, None, "1")], [(P, None, "1"), (P, "1", "2"), (R, "2", "1")]])
def test_there_is_nothing_before_the_first_version(moves: list[tuple[str, str | None, str]]) -> None:
    with pytest.raises(HistoryError, match="no earlier version"):
        previous_version([move(*entry) for entry in moves], "1")


@given(st.lists(st.sampled_from("123456"), min_size=1, max_size=12))
def test_rolling_back_visits_promotions_in_reverse(promoted: list[str]) -> None:
    moves: list[Move] = []
    for target in promoted:
        moves.append(move(P, moves[-1].to_version if moves else None, target))
    distinct = [target for index, target in enumerate(promoted) if index == 0 or promoted[index - 1] != target]
    current = distinct[-1]
    # A rollback to a version that stands several times in the stack goes to its latest place.
    target = previous_version(moves, current) if len(distinct) > 1 else None
    assert target == (distinct[-2] if len(distinct) > 1 else None)


def test_keys_are_unique_and_sort_by_time() -> None:
    keys = [new_key(100.0 + index) for index in range(10)]
    assert keys == sorted(keys)
    assert len({new_key(5.0) for _ in range(100)}) == 100


def test_tags_that_are_no_records_are_passed_over() -> None:
    record = msgspec.json.encode(move(P, None, "1")).decode()
    tags = {new_key(2.0): record, "owner": "me", new_key(1.0): "not json", new_key(3.0): '{"some": "thing"}'}
    assert [found.to_version for found in read_moves(tags)] == ["1"]
    assert '"from":null' in record
    assert read_moves(tags, alias="other") == []
