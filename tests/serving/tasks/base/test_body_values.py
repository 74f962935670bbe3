"""A body's values are counted before they are built; separators in texts count for nothing."""

import gc
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ServingError, TooLarge
from serving.front.protocols.forms import read_json
from serving.tasks import get_task
from serving.tasks.base import body_values
from serving.tasks.base.body_values import MAX_VALUES, check_values
from serving.tasks.base.request import parse_body

MEGABYTE = 10**6
SEPARATORS = ',:[{]}"\\\n\r a'
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(SEPARATORS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(SEPARATORS), inner, max_size=4),
)


def count(value: Any) -> int:
    """The values in decoded JSON, and the names of its objects."""
    if isinstance(value, dict):
        return 1 + sum(1 + count(each) for each in value.values())
    return 1 + (sum(map(count, value)) if isinstance(value, list) else 0)


def is_refused(limit: int, body: bytes) -> bool:
    """Whether the body has too many values at this limit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_values, "MAX_VALUES", limit)
        try:
            check_values(body)
        except TooLarge:
            return True
    return False


@pytest.mark.slow
@given(VALUES)
def test_no_json_has_more_values_than_are_counted(value: Any) -> None:
    for body in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value, separators=(",", ":"))):
        assert count(value) == 1 or is_refused(count(value) - 2, body.encode())
        assert not is_refused(2 * count(value), body.encode())


UNITS = [
    b"[],",
    b"{},",
    b'"",',
    b"1,",
    b"[[]],",
    b'{"a":[]},',
    b"[1,{}],",
    b'{"":{"":{"":{"":1}}}},',
    b'"\\\\",',
    b'"\\"",',
]


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_a_megabyte_of_small_values_is_refused_before_it_is_decoded(unit: bytes) -> None:
    body = b'{"inputs": [' + unit * (MEGABYTE // len(unit)) + b"1]}"
    task = get_task("text-classification")
    for read in (lambda: parse_body(body, task, 1024), lambda: read_json(body, 1024)):
        with pytest.raises(TooLarge, match="more than 65,536 values"):
            read()


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_what_is_not_refused_holds_the_event_loop_for_less_than_a_tenth_of_a_second(unit: bytes) -> None:
    """The processor's time, which other processes do not change."""
    weight = sum(map(unit.count, (b",", b":", b"[", b"{")))
    times = MAX_VALUES // weight - 1
    body = b'{"inputs": [' + unit * times + b"1]}" + b" " * max(0, MEGABYTE - times * len(unit))
    task = get_task("text-classification")
    gc.freeze()  # as a front does
    try:
        began = time.thread_time()
        with pytest.raises(ServingError):  # it is no text
            parse_body(body, task, 10**6)
        assert time.thread_time() - began < 0.1
    finally:
        gc.unfreeze()


def test_texts_full_of_separators_are_read() -> None:
    text = '1,2,"3",{4:5},[6]\\\n' * 60_000
    body = json.dumps({"inputs": [text, "b"]}).encode()
    assert parse_body(body, get_task("text-classification"), 10).items == [text, "b"]


def test_the_bound_grows_with_the_rows_of_a_request() -> None:
    body = json.dumps({"inputs": ["a"] * 80_000}).encode()
    assert len(parse_body(body, get_task("text-classification"), 100_000).items) == 80_000
    with pytest.raises(TooLarge, match="80,000 entries|more than"):
        parse_body(body, get_task("text-classification"), 1024)
