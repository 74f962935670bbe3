"""The commit hooks and the CI workflow run what `make` runs."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_commit_hooks_are_the_checks_of_make_check() -> None:
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", "VENV=.venv", "check"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    checks = [line for line in printed.splitlines() if line.startswith(".venv/bin/")]
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert len(checks) == 3
    assert [hook["entry"] for hook in repository["hooks"]] == checks


@pytest.mark.parametrize(
    ("workflow", "commands"),
    [
        ("ci.yml", {"make check", "make test", "make test-long", "make demo ARGS=--once", "make audit"}),
        ("nightly.yml", {"make test-integration", "make test-families"}),
    ],
)
def test_a_workflow_runs_the_targets_with_pinned_actions(workflow: str, commands: set[str]) -> None:
    steps = [step for job in read_yaml(f".github/workflows/{workflow}")["jobs"].values() for step in job["steps"]]
    assert commands <= {step.get("run") for step in steps}
    actions = [step["uses"] for step in steps if "uses" in step]
    assert actions
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in actions)


def test_no_link_is_part_of_the_repository() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    assert [line for line in listed.splitlines() if line.startswith("120000")] == []


def test_every_make_target_is_documented() -> None:
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    text = (ROOT / "docs/development.md").read_text(encoding="utf-8")
    assert {"demo", "test", "check"} <= set(targets)
    assert [target for target in targets if f"| `make {target}` |" not in text] == []
