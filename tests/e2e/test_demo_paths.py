"""The addresses that the demo prints are answered."""

import re
from pathlib import Path

import pytest

from serving.demo.tour import NAME, next_steps
from tests.e2e.server import Server

ADDRESSES = re.findall(r"http://127\.0\.0\.1:3000(/[^\s]*)", "\n".join(next_steps(Path("/home"), 3000)))


def test_the_demo_prints_addresses() -> None:
    assert {f"/models/{NAME}", "/metrics", "/"} <= set(ADDRESSES)


@pytest.mark.parametrize("path", ADDRESSES)
def test_each_address_of_the_demo_is_answered(server: Server, path: str) -> None:
    answer = server.http.get(path.replace(NAME, "sentiment"))
    assert answer.status_code == 200, answer.text
