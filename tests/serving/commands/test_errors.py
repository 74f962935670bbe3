"""What the machine refuses a command is one line: the file, the cause and what to do."""

import errno
import os

import click
import pytest

from serving.commands.errors import errors


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
