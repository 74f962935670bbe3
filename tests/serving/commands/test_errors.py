"""What the machine refuses a command is one line: the file, the cause and what to do."""

import errno
import os

import click
import pytest
from click.testing import CliRunner

from serving.client.server_client import Remote
from serving.commands.errors import errors
from serving.commands.tools import status
from serving.errors import RemoteError


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free disk space"),
        (errno.EACCES, "give this user the right to it"),
        (errno.EMFILE, "raise the limit of open files"),
    ],
)
def test_what_the_machine_refuses_is_told_with_its_remedy(number: int, remedy: str) -> None:
    with pytest.raises(click.ClickException, match=f"^/some/file: {os.strerror(number)}: {remedy}"), errors():
        raise OSError(number, os.strerror(number), "/some/file")


def test_any_other_error_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError), errors():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/some/file")


def test_an_error_of_a_server_commands_no_terminal() -> None:
    with pytest.raises(click.ClickException) as caught, errors():
        raise RemoteError("answered 500: \x1b[2J\x1b]0;owned\x07 \udfff")
    assert caught.value.message == r"answered 500: \x1b[2J\x1b]0;owned\x07 \xdfff"


@pytest.mark.parametrize("found", [{"models": [{"name": "m"}]}, {"models": [{"name": "m", "live": "", "aliases": 1}]}])
def test_a_state_of_another_form_is_one_line(found: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remote, "status", lambda _: {"registry_error": None} | found)
    result = CliRunner().invoke(status, ["http://somewhere"])
    assert result.exit_code == 1
    assert "Error: http://somewhere tells its state in a form that is not known" in result.output
