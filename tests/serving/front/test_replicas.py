"""Which of several engines of a version gets a request."""

import asyncio
from typing import Any

import pytest

from tests.serving.front.local_front import FakeLink, MakeFront


@pytest.mark.parametrize(
    ("tokens", "rows", "expected"),
    [
        ((5, 0), (0, 9), 1),
        ((0, 5), (9, 0), 0),
        ((3, 3), (7, 6), 1),
        ((0, 0), (2, 2), 0),
        ((4, 2, 3), (0, 5, 0), 1),
    ],
)
def test_a_request_goes_to_the_engine_with_the_fewest_tokens_and_then_the_fewest_rows(
    make_front: MakeFront, tokens: tuple[int, ...], rows: tuple[int, ...], expected: int
) -> None:
    async def work() -> int:
        loaded = make_front().routing._loaded["m", "1"]
        links: list[Any] = [FakeLink() for _ in tokens]
        for link, outstanding, sent in zip(links, tokens, rows, strict=True):
            link.share.tokens, link.rows_sent = outstanding, sent
        loaded.accepting = links
        return links.index(loaded.choose_link())

    assert asyncio.run(work()) == expected
