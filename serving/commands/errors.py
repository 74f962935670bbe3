"""How the commands report errors: in one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EIO}
"""No room, no permission, too many open files, a broken disk."""


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
        raise click.ClickException(str(error)) from error
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        at = f": {error.filename}" if error.filename is not None else ""
        raise click.ClickException(f"the system refused a file ({error.strerror}{at})") from error


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
