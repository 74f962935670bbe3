"""How the commands report errors: in one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from serving.commands.printable import printable

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free disk space"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "give this user the right to it, or choose another place"
    ),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    errno.EIO: "look at the disk",
}
"""What the machine refuses to any program → what to do."""


@contextmanager
def errors() -> Iterator[None]:
    """Show Headwaiter's errors as one line and exit with status 1, and what the machine refuses to any program.

    Anything else is a bug and keeps its traceback.
    """
    from registry.errors import RegistryError
    from serving.errors import EngineError, EvaluationError, RemoteError, ServingError

    try:
        yield
    except (RegistryError, ServingError, EngineError, EvaluationError, RemoteError) as error:
        raise click.ClickException(printable(str(error))) from error
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        file = "a file" if error.filename is None else error.filename
        raise click.ClickException(printable(f"{file}: {error.strerror}: {_REMEDIES[error.errno]}")) from error


@contextmanager
def recorded(what: str, who: str | None = None) -> Iterator[None]:
    """Write to the audit log that `who`, by default this user, did `what`, once the block has done it.

    Raises InvalidSetting, before the block, where there is to be a log and it cannot be written.
    """
    from getpass import getuser

    from serving.runtime.audit import AuditLog
    from serving.settings import ServingSettings

    audit = AuditLog.at(ServingSettings.from_environment(run=Path()).audit_file)
    yield
    if audit is not None:
        audit.write(who or getuser(), what)
        audit.close()
