"""Whatever a library raises over a checkpoint is a refusal that names the step and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from registry.checkpoint_files import one_line
from registry.errors import RegistryError, UnreadableArtifact

Passing = tuple[type[Exception], ...]


@contextmanager
def refuse_failures(
    step: str,
    remedy: str,
    passing: Passing = (RegistryError,),
    refusal: type[RegistryError] = UnreadableArtifact,
) -> Iterator[None]:
    """Raise `refusal`, "`step` failed (its cause): `remedy`", for whatever the block raises.

    passing: errors that are refusals already. KeyboardInterrupt and its like pass, too; a panic of a library written in
    Rust does not, though it is no Exception.
    """
    try:
        yield
    except passing:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise refusal(f"{step} failed ({type(error).__name__}: {one_line(error)}): {remedy}") from error
