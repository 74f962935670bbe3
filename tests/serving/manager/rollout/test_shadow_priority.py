"""An engine that answers shadows alone has a low priority, and its own again before clients are sent to it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.manager.rollout.shadow_priority import SHADOW_NICENESS, ShadowPriority, answers_shadows_alone


@pytest.fixture
def engine() -> Iterator[int]:
    """A process with a session of its own."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process.pid
        process.kill()


def session(folder: Path, pid: int, niceness: int) -> Path:
    """The kernel's file of the session's niceness; it writes what was set behind a name."""
    path = folder / str(pid) / "autogroup"
    path.parent.mkdir()
    path.write_text(f"/autogroup-17 nice {niceness}\n")
    return path


def niceness(path: Path) -> int:
    return int(path.read_text().split()[-1])


@pytest.mark.parametrize("before", [0, 5])
def test_an_engine_yields_while_it_answers_shadows_alone(engine: int, tmp_path: Path, before: int) -> None:
    path, priority = session(tmp_path, engine, before), ShadowPriority(tmp_path)
    priority.follow([(engine, False)])
    assert niceness(path) == before
    priority.follow([(engine, True)])
    assert niceness(path) == SHADOW_NICENESS
    priority.follow([(engine, False)])
    assert niceness(path) == before


def test_what_a_manager_before_has_lowered_is_raised(engine: int, tmp_path: Path) -> None:
    path = session(tmp_path, engine, 0)
    ShadowPriority(tmp_path).follow([(engine, True)])
    ShadowPriority(tmp_path).follow([(engine, False)])
    assert niceness(path) == 0


def test_what_others_have_set_stays(engine: int, tmp_path: Path) -> None:
    path, priority = session(tmp_path, engine, SHADOW_NICENESS + 5), ShadowPriority(tmp_path)
    priority.follow([(engine, True)])
    priority.follow([(engine, False)])
    assert niceness(path) == SHADOW_NICENESS + 5


def test_a_session_of_other_processes_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        path = session(tmp_path, process.pid, 0)
        ShadowPriority(tmp_path).follow([(process.pid, True), (0, True)])
        process.kill()
    assert niceness(path) == 0
    assert os.getsid(0) != process.pid


def test_an_engine_that_has_ended_is_forgotten(engine: int, tmp_path: Path) -> None:
    path, priority = session(tmp_path, engine, 0), ShadowPriority(tmp_path)
    priority.follow([(engine, True)])
    priority.follow([])
    priority.follow([(engine, False)])  # another one, whose id it is now
    assert niceness(path) == 0


@pytest.mark.parametrize(
    ("weight", "is_shadowing", "state", "is_live", "version", "alone"),
    [
        (0.0, True, "ready", False, "2", True),
        (0.01, True, "ready", False, "2", False),
        (0.0, False, "ready", False, "2", False),
        (0.0, True, "loading", False, "2", False),
        (0.0, True, "ready", True, "2", False),
        (0.0, True, "ready", False, "1", False),
    ],
    ids=["shadows", "clients, too", "no shadows", "not yet", "of another alias, too", "the stable version"],
)
def test_which_version_answers_shadows_alone(
    *, weight: float, is_shadowing: bool, state: str, is_live: bool, version: str, alone: bool
) -> None:
    held: Any = SimpleNamespace(version=version, state=state)
    rollout: Any = SimpleNamespace(candidate="2", weight=weight, is_shadowing=is_shadowing)
    assert answers_shadows_alone(held, rollout, is_live=is_live) is alone
    assert not answers_shadows_alone(held, None, is_live=is_live)
