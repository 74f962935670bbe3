"""The commands of a rollout, over a registry in memory."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serving.commands import rollout
from serving.commands.main import main
from tests.rollout_registry import MemoryVersions

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Run:
    versions = MemoryVersions()
    monkeypatch.setattr(rollout, "_rollouts", versions.rollouts)
    monkeypatch.setenv("HEADWAITER_HOME", str(tmp_path_factory.mktemp("h")))  # sockets need a short path
    return lambda *arguments: CliRunner().invoke(main, arguments)


def test_a_rollout_is_started_shown_and_ended(run: Run) -> None:
    started = run("rollout", "start", "m", "2", "--why", "new labels", "--who", "ada", "--guard", "p99<2xstable")
    assert started.output.splitlines() == [
        "m@champion  1 → 2  running  [shadow:200]  1%  10%  50%  100%",
        "  begun by ada: new labels",
        "  waits for a server that follows the alias",
    ]
    found = json.loads(run("rollout", "status", "m", "--json").output)
    assert (found["phase"], found["weight"], found["plan"]["guards"]) == ("running", 0.0, ["p99 < 2 × stable"])
    assert "paused" in run("rollout", "pause", "m", "--why", "lunch").output
    assert "running" in run("rollout", "resume", "m", "--why", "back").output
    ended = run("rollout", "abort", "m", "--why", "a bug", "--who", "eve").output
    assert "aborted" in ended
    assert "  ended by eve: a bug" in ended.splitlines()


def test_what_cannot_be_done_is_told_in_one_line(run: Run) -> None:
    for arguments, message in (
        (("status", "m"), "m has no rollout: begin one with headwaiter rollout start m VERSION"),
        (("start", "m", "2", "--why", "x", "--steps", "150%"), "step '150%' is no share"),
        (("start", "m", "2", "--why", "x", "--guard", "speed > 1"), "begins with no metric"),
        (("start", "m", "2", "--why", "x", "--every", "soon"), "'soon' is no time"),
        (("finish", "m", "--why", "x"), "m has no rollout"),
    ):
        refused = run("rollout", *arguments)
        assert refused.exit_code == 1
        assert refused.output.startswith("Error: ")
        assert message in refused.output


def test_promote_auto_begins_a_rollout_by_the_default_steps(run: Run, tmp_path: Path) -> None:
    assert "[shadow:200]  1%  10%  50%  100%" in run("promote", "m", "2", "--why", "x", "--auto").output
    examples = tmp_path / "examples.jsonl"
    examples.touch()
    both = run("promote", "m", "3", "--why", "x", "--auto", "--evaluate", str(examples), "--require", "accuracy=1")
    assert (both.exit_code, "--auto compares by requests" in both.output) == (2, True)
