from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_fields

from registry.contract import Batching
from serving.engine.batching.cost import Cost
from serving.engine.batching.length_groups import MAX_STEPS
from serving.engine.batching.queue import Queue
from serving.wire.messages import Row

pytestmark = pytest.mark.slow


COST = Cost(fixed_seconds=2e-3, token_seconds=4e-5, budget_tokens=512)
CLIENTS = (b"a", b"b")

lengths = st.integers(1, 512)
arrivals = st.lists(st.tuples(st.sampled_from(CLIENTS), lengths, st.sampled_from(["x", "y"])), max_size=60)


def row(row_id: int, length: int, batch_key: str = "x", deadline: float = 1e9) -> Row:
    return Row(row_id, length, b"\0\0\0\0" * length, b"", batch_key, deadline)


def filled(
    entries: list[tuple[bytes, int, str]], *, is_packed: bool = False, batching: Batching = "any lengths"
) -> Queue:
    queue = Queue(is_packed=is_packed, batching=batching)
    for index, (client, length, batch_key) in enumerate(entries):
        queue.add(client, row(index, length, batch_key), now=float(index))
    return queue


@given(arrivals, st.booleans())
def test_every_row_is_served_once_and_the_oldest_is_in_every_batch(
    entries: list[tuple[bytes, int, str]], is_packed: bool
) -> None:
    queue = filled(entries, is_packed=is_packed)
    waiting = dict(enumerate(entries))
    while batch := queue.choose(COST):
        oldest = min(waiting)
        ids = [entry.row.id for entry in batch]
        assert oldest in ids
        assert len({entry.row.batch_key for entry in batch}) == 1
        for index in ids:
            del waiting[index]
        assert queue.tokens == sum(length for _, length, _ in waiting.values())
        assert len(queue) == len(waiting)
    assert not waiting


@given(arrivals)
def test_a_batch_stays_within_the_budget(entries: list[tuple[bytes, int, str]]) -> None:
    queue = filled(entries)
    while batch := queue.choose(COST):
        assert len(batch) * max(entry.length for entry in batch) <= COST.budget_tokens


@given(arrivals)
def test_a_batch_takes_no_longer_than_the_limit_unless_a_row_alone_does(entries: list[tuple[bytes, int, str]]) -> None:
    cost = replace(COST, budget_tokens=4096, square_seconds=1e-7, limit_seconds=0.02)
    queue = filled(entries)
    while batch := queue.choose(cost):
        longest = max(entry.length for entry in batch)
        assert len(batch) == 1 or cost.seconds(len(batch), longest) <= cost.limit_seconds + 1e-12


@given(arrivals)
def test_no_batch_would_be_cheaper_in_two(entries: list[tuple[bytes, int, str]]) -> None:
    queue = filled(entries[:MAX_STEPS])
    while batch := sorted(entry.length for entry in queue.choose(COST)):
        together = COST.seconds(len(batch), batch[-1])
        for cut in range(1, len(batch)):
            apart = COST.seconds(cut, batch[cut - 1]) + COST.seconds(len(batch) - cut, batch[-1])
            assert together <= apart + 1e-12


@given(arrivals, st.lists(st.integers(0, 3), max_size=40))
def test_while_rows_keep_coming_none_is_overtaken_by_more_batches_than_rows_before_it(
    entries: list[tuple[bytes, int, str]], pace: list[int]
) -> None:
    queue, order = Queue(), dict[int, int]()
    coming = iter(enumerate(entries))
    for batches, arrive in enumerate([*pace, *[len(entries)] * (len(entries) + 1)]):
        for index, (client, length, batch_key) in islice(coming, arrive):
            order[index] = batches + len(queue)
            queue.add(client, row(index, length, batch_key), now=0.0)
        for entry in queue.choose(COST):
            assert batches <= order.pop(entry.row.id)
    assert not order


@given(arrivals, st.sets(st.integers(0, 59)), st.booleans())
def test_cancelled_rows_never_come_out(
    entries: list[tuple[bytes, int, str]], cancelled: set[int], is_packed: bool
) -> None:
    queue = filled(entries, is_packed=is_packed)
    present = cancelled & set(range(len(entries)))
    dropped = sum(queue.cancel(client, sorted(cancelled)) for client in CLIENTS)
    assert dropped == len(present)
    served = Counter(entry.row.id for _ in range(len(entries) + 1) for entry in queue.choose(COST))
    assert set(served) == set(range(len(entries))) - present
    assert (queue.tokens, len(queue)) == (0, 0)


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 10)), max_size=40), st.integers(0, 11), st.booleans())
@settings(deadline=None)
def test_expired_rows_leave_before_they_cost_anything(rows: list[tuple[int, int]], now: int, is_packed: bool) -> None:
    queue = Queue(is_packed=is_packed)
    for index, (length, deadline) in enumerate(rows):
        queue.add(b"a", row(index, length, deadline=float(deadline)), now=0.0)
    late = {entry.row.id for entry in queue.expire(float(now))}
    assert late == {index for index, (_, deadline) in enumerate(rows) if deadline <= now}
    rest = [entry.row.id for _ in rows for entry in queue.choose(COST)]
    assert sorted(rest) == sorted(set(range(len(rows))) - late)
    assert queue.expire(1e9) == []


def test_rows_of_like_length_share_a_batch_and_unlike_ones_do_not() -> None:
    queue = filled([(b"a", length, "x") for length in (10, 200, 11, 12, 210, 9)])
    assert sorted(entry.length for entry in queue.choose(COST)) == [9, 10, 11, 12]
    assert sorted(entry.length for entry in queue.choose(COST)) == [200, 210]


def test_a_row_over_the_budget_is_served_alone() -> None:
    queue = filled([(b"a", 600, "x"), (b"a", 600, "x")])
    assert [len(queue.choose(COST)), len(queue.choose(COST)), len(queue.choose(COST))] == [1, 1, 0]


@given(arrivals)
def test_without_padding_a_batch_is_the_next_rows_of_a_kind_as_many_as_the_cost_allows(
    entries: list[tuple[bytes, int, str]],
) -> None:
    cost = replace(COST, square_seconds=1e-7, limit_seconds=0.02, is_packed=True)
    queue, waiting = filled(entries, is_packed=True), dict(enumerate(entries))
    while batch := queue.choose(cost):
        batch_key = waiting[min(waiting)][2]
        alike = [index for index in waiting if waiting[index][2] == batch_key]
        assert [entry.row.id for entry in batch] == alike[: len(batch)]
        assert len(batch) == 1 or fits(cost, [entry.length for entry in batch])
        if len(batch) < len(alike):
            assert not fits(cost, [entry.length for entry in batch] + [waiting[alike[len(batch)]][1]])
        for entry in batch:
            del waiting[entry.row.id]


def fits(cost: Cost, lengths: list[int]) -> bool:
    tokens, pairs = cost.work(lengths)
    seconds = cost.fixed_seconds + tokens * cost.token_seconds + pairs * cost.square_seconds
    return tokens <= cost.budget_tokens and seconds <= cost.limit_seconds + 1e-12


def test_the_work_of_a_forward_pass_is_that_of_padded_rows_or_of_the_packed_sequence() -> None:
    assert COST.work([2, 5, 3]) == (15, 75)
    assert replace(COST, is_packed=True).work([2, 5, 3]) == (10, 38)


@given(arrivals)
def test_rows_of_equal_length_share_a_batch_where_padding_changes_answers(
    entries: list[tuple[bytes, int, str]],
) -> None:
    queue = filled(entries, batching="equal lengths")
    served = 0
    while batch := queue.choose(COST):
        assert len({entry.length for entry in batch}) == 1
        assert len(batch) == 1 or sum(entry.length for entry in batch) <= COST.budget_tokens
        served += len(batch)
    assert served == len(entries)


@given(arrivals, st.booleans())
def test_no_rows_share_a_batch_where_they_change_each_others_answers(
    entries: list[tuple[bytes, int, str]], is_packed: bool
) -> None:
    queue = filled(entries, is_packed=is_packed, batching="one row")
    order = []
    while batch := queue.choose(COST):
        order += [[entry.row.id for entry in batch]]
    assert order == [[index] for index in range(len(entries))]


@given(arrivals, st.sets(st.integers(0, 59)), st.booleans())
def test_a_row_that_must_be_alone_is_a_batch_of_its_own_and_keeps_its_place(
    entries: list[tuple[bytes, int, str]], alone: set[int], is_packed: bool
) -> None:
    queue = Queue(is_packed=is_packed)
    for index, (client, length, batch_key) in enumerate(entries):
        queue.add(client, replace_fields(row(index, length, batch_key), is_suspect=index in alone), now=float(index))
    waiting = set(range(len(entries)))
    while waiting:
        assert queue.is_next_suspect() == (min(waiting) in alone)
        ids = {entry.row.id for entry in queue.choose(COST)}
        assert min(waiting) in ids
        assert not ids & alone or len(ids) == 1
        waiting -= ids
    assert not queue.is_next_suspect()
    assert not queue.choose(COST)


@given(arrivals, st.booleans())
def test_the_rows_of_a_client_that_is_gone_leave_and_no_others(
    entries: list[tuple[bytes, int, str]], is_packed: bool
) -> None:
    queue = filled(entries, is_packed=is_packed)
    assert queue.forget_client(b"a") == sum(client == b"a" for client, _, _ in entries)
    left = [entry.row.id for _ in entries for entry in queue.choose(COST)]
    assert sorted(left) == [index for index, (client, _, _) in enumerate(entries) if client == b"b"]
    assert (len(queue), queue.tokens) == (0, 0)
