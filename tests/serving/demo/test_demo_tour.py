"""What the demo tells people to do can be done."""

import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from serving.commands.main import main
from serving.demo.tour import next_steps

LINES = next_steps(Path("/tmp/demo"), 3000)
COMMANDS = [line.split(maxsplit=1)[1] for line in LINES if line.startswith("  headwaiter ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_that_the_demo_prints_parses(command: str) -> None:
    """click refuses what it does not know, in the words of that command."""
    group: click.Command = main
    words = shlex.split(command)
    context = click.Context(main)
    while isinstance(group, click.Group):
        name, found, words = group.resolve_command(context, words)
        assert found is not None, name
        group = found
    group.make_context(group.name, words)


def test_what_the_demo_says_of_the_dashboards_is_written(tmp_path: Path) -> None:
    (command,) = (shlex.split(line)[1:] for line in next_steps(tmp_path, 3000) if "monitoring export" in line)
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0
    assert list((tmp_path / "monitoring").rglob("headwaiter-overview.json"))
    assert list((tmp_path / "monitoring").rglob("rules.yml"))
