"""The short form of `python -m bench chaos`: each fault once, and every request is accounted for."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.chaos import break_everything
from bench.faults import FAULTS
from tests.abilities import can
from tests.quick import copy_home

pytestmark = pytest.mark.surroundings


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, small_template: Path) -> Iterator[Path]:
    """A registry with three versions of `m`, on a disk of its own where that can be."""
    home = tmp_path_factory.mktemp("h")
    if can("mount"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", home], check=True)
    copy_home(small_template, home)
    yield home
    if can("mount"):
        subprocess.run(["umount", "--lazy", home], check=True)


@pytest.mark.long
def test_nothing_that_was_accepted_is_without_an_answer_whatever_breaks(home: Path) -> None:
    result = break_everything(home, "m", rounds=1, pause_seconds=1.0)
    assert result.faults == []
    assert result.skipped == ([] if can("mount") else ["disk full"])
    for name in FAULTS.keys() - result.skipped:
        assert result.pages[name].answered > 0, name
