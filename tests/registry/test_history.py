import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from registry.errors import HistoryError
from registry.history import PREFIX, Evaluation, Move, check_reason, earlier_versions, new_key, read_moves

pytestmark = pytest.mark.slow


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
    assert earlier_versions([move(*entry) for entry in moves], current)[0] == expected


@pytest.mark.parametrize("moves", [[], [(P, None, "1")], [(P, None, "1"), (P, "1", "2"), (R, "2", "1")]])
def test_there_is_nothing_before_the_first_version(moves: list[tuple[str, str | None, str]]) -> None:
    assert earlier_versions([move(*entry) for entry in moves], "1") == []


class Registry(RuleBasedStateMachine):
    """Writers who promote, roll back, delete versions and move the alias by hand, against a list of what was live.

    The list is the truth; the records and the alias are all that `earlier_versions` may look at. So of several moves by
    hand in a row only the last one can be known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[Move] = []
        self.lived: list[str] = []
        self.deleted: set[str] = set()
        self.is_by_hand = False

    @property
    def current(self) -> str | None:
        return self.lived[-1] if self.lived else None

    @rule(version=st.sampled_from("123456"))
    def promote(self, version: str) -> None:
        if version not in self.deleted:
            self.moves.append(move(P, self.current, version))
            self.is_by_hand = False
            self._lives(version)

    @rule(version=st.sampled_from("123456"))
    def move_by_hand(self, version: str) -> None:
        if version not in self.deleted:
            if self.is_by_hand:
                self.lived.pop()
            self.is_by_hand = version != self.current
            self._lives(version)

    @rule(version=st.sampled_from("123456"))
    def delete(self, version: str) -> None:
        if version != self.current:
            self.deleted.add(version)

    @rule()
    def roll_back(self) -> None:
        current = self.current
        before = [version for version in self.lived if version != current and version not in self.deleted]
        found = [version for version in earlier_versions(self.moves, current) if version not in self.deleted]
        assert found[:1] == before[-1:]
        if found:
            self.moves.append(move(R, current, found[0]))
            self.is_by_hand = False
            while self.lived[-1] != found[0]:
                self.lived.pop()

    @invariant()
    def what_is_live_is_never_gone_back_to(self) -> None:
        assert self.current not in earlier_versions(self.moves, self.current)

    def _lives(self, version: str) -> None:
        if version != self.current:
            self.lived.append(version)


Registry.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
test_rollback_goes_where_the_alias_was_whatever_happened_in_between = Registry.TestCase


def test_keys_are_unique_and_sort_by_time() -> None:
    keys = [new_key(100.0 + index) for index in range(10)]
    assert keys == sorted(keys)
    assert len({new_key(5.0) for _ in range(100)}) == 100


def test_a_record_sorts_behind_those_before_it_even_if_its_writers_clock_is_slow() -> None:
    first = new_key(100.0)
    second = new_key(40.0, after=[first, "owner", "headwaiter.history.odd"])
    assert first < second < new_key(100.1)


@pytest.mark.parametrize("reason", ["", " \n"])
def test_a_move_needs_a_reason(reason: str) -> None:
    with pytest.raises(HistoryError, match="the reason is empty"):
        check_reason(reason)


def test_a_record_that_mlflow_would_cut_is_refused() -> None:
    with pytest.raises(HistoryError, match="MLflow keeps 5,000: give a shorter reason"):
        msgspec.structs.replace(move(P, "1", "2"), why="x" * 5000).encode()


def test_tags_that_are_no_records_are_passed_over() -> None:
    record = msgspec.json.encode(move(P, None, "1")).decode()
    tags = {new_key(2.0): record, "owner": "me", new_key(1.0): "not json", new_key(3.0): '{"some": "thing"}'}
    assert [found.to_version for found in read_moves(tags)] == ["1"]
    assert '"from":null' in record
    assert read_moves(tags, alias="other") == []


def test_a_record_without_a_number_is_of_the_first_format() -> None:
    record = msgspec.json.encode(move(P, None, "1")).decode()
    assert '"format":1' in record
    assert read_moves({new_key(1.0): record.replace('"format":1,', "")}) == read_moves({new_key(1.0): record})


@pytest.mark.parametrize("rest", ["", ',"moved":{"to":7}'])
def test_a_record_of_a_later_format_is_not_passed_over(rest: str) -> None:
    record = msgspec.json.encode(move(P, None, "1")).decode()
    later = f'{{"format":2{rest}}}' if rest else record.replace('"format":1', '"format":2')
    with pytest.raises(HistoryError, match="has format 2, this release reads formats up to 1"):
        read_moves({new_key(1.0): record, new_key(2.0): later})


def test_a_record_of_the_far_future_does_not_take_the_order_of_those_after_it() -> None:
    forged = f"{PREFIX}99999999999999999.aaaaaaaa"
    keys = [forged]
    for _ in range(3):
        keys.append(new_key(after=keys))
    assert all(key < forged for key in keys[1:])
    assert len({key.rpartition(".")[0] for key in keys}) == 4


def test_a_record_that_is_nested_too_deeply_is_none() -> None:
    assert read_moves({f"{PREFIX}00000000000000001.aaaaaaaa": '{"x":' + "[" * 100_000}) == []


def test_a_move_that_could_not_be_read_again_is_not_recorded() -> None:
    scores = Evaluation(examples=1, sha256="0" * 64, values={"mae": float("nan")}, required={"mae": 0.5})
    with pytest.raises(HistoryError, match="could not be read again"):
        msgspec.structs.replace(move(P, None, "1"), evaluation=scores).encode()
