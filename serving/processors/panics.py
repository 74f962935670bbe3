"""Panics of Rust libraries, such as tokenizers, as errors that cost one request or one version.

PyO3 raises a panic as a `BaseException`, which passes everything that keeps a server going: the client gets no answer,
and the task that reads new versions ends. A file of a checkpoint can be made so that a library panics.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Class = TypeVar("Class", bound=type)
ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What Python itself raises to end a program."""


class NativePanic(RuntimeError):
    """A library written in Rust panicked; the message is its own."""


def contain_panics(kind: Class) -> Class:
    """Let all methods of a class raise NativePanic where they would raise a panic."""
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method):
            setattr(kind, name, _contained(method))
    return kind


def _contained(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    @wraps(work)
    def contained(*given: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return work(*given, **named)
        except (Exception, *ENDS):
            raise
        except BaseException as panic:
            raise NativePanic(str(panic)) from panic

    return contained
