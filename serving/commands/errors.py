"""How the commands report errors: in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def errors() -> Iterator[None]:
    """Show Headwaiter's errors as one line and exit with status 1; anything else is a bug and keeps its traceback."""
    from registry.errors import RegistryError
    from serving.errors import EngineError, EvaluationError, RemoteError, ServingError

    try:
        yield
    except (RegistryError, ServingError, EngineError, EvaluationError, RemoteError) as error:
        raise click.ClickException(str(error)) from error
