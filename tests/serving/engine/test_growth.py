"""How much memory work adds to a process."""

import sys

import pytest
import torch

from serving.engine import growth
from serving.engine.growth import anonymous_bytes, measure_growth

MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="it is read from /proc")
def test_what_work_takes_counts_although_as_much_was_freed_before() -> None:
    pieces = [torch.ones(MIB // 128) for _ in range(64 * 32)]  # so small that malloc keeps them
    del pieces
    kept, added = measure_growth(lambda: torch.ones(64 * MIB // 4))
    assert 60 * MIB < added < 80 * MIB
    assert kept.nbytes == 64 * MIB
    assert measure_growth(lambda: "nothing") == ("nothing", pytest.approx(0, abs=8 * MIB))


def test_where_it_cannot_be_told_nothing_is_added(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(growth, "STATUS", tmp_path)
    assert anonymous_bytes() == 0
    assert measure_growth(lambda: 1) == (1, 0)
