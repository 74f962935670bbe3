"""What all commands have in common: JSON, exit statuses and shell completion, as docs/commands.md says."""

from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from serving.commands.main import main
from tests.test_docs import COMMANDS

PRINT_NO_FACTS = {"serve", "keys remove", "monitoring export", "deploy export", "init", "demo", "demo rollout", "bench"}
"""Commands that do something and print at most the files that they wrote, or their progress."""
PAGE = Path(__file__).resolve().parents[3] / "docs/commands.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_prints_facts_prints_them_as_json(name: str) -> None:
    options = [option for each in COMMANDS[name].params for option in each.opts]
    assert ("--json" in options) != (name.removeprefix("headwaiter ") in PRINT_NO_FACTS)


@pytest.mark.parametrize("arguments", [["no-such-command"], ["check", "--no-such-option"], ["serve", "--port", "none"]])
def test_wrong_usage_exits_with_status_2(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr


def test_the_shell_completes_commands_and_options() -> None:
    shell = BashComplete(main, {}, "headwaiter", "_HEADWAITER_COMPLETE")
    assert "_HEADWAITER_COMPLETE=bash_source headwaiter" in PAGE.read_text(encoding="utf-8")
    assert [item.value for item in shell.get_completions([], "ro")] == ["rollback", "rollout"]
    assert [item.value for item in shell.get_completions(["rollout"], "sta")] == ["start", "status"]
    assert "--task" in [item.value for item in shell.get_completions(["log"], "--t")]
