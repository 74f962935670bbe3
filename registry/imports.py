"""Importing what is large: MLflow here, torch and transformers in an engine."""

import gc
import importlib
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

NOT_OF_A_CLIENT = ("pandas", "pyarrow", "scipy")
"""What MLflow imports where it is installed, and its client does without: mlflow-skinny is MLflow without them."""
NOT_OF_A_STORE = ("mako.ext.pygmentplugin",)
"""What a store in a database imports and does without: the colours of Mako's error pages, with lexers of Pygments."""
_importing = threading.RLock()
"""Held while MLflow is imported: its modules import one another in circles, which two threads break."""


def import_for_logging() -> None:
    """Import MLflow, torch and transformers, as logging a model needs them. Blocks for some seconds the first time."""
    with without_collector():
        importlib.import_module("mlflow.models")
        importlib.import_module("transformers.modeling_utils")  # and torch


def import_client() -> None:
    """Import MLflow in a process that asks a registry and does nothing else with MLflow. Blocks for a second.

    `NOT_OF_A_CLIENT` is hidden meanwhile, half of MLflow's memory, from all threads. Does nothing where MLflow is
    imported already.
    """
    with importing_mlflow():
        if "mlflow" in sys.modules:
            return
        # an error is of a release that needs them: then `connect` imports all
        with hiding(NOT_OF_A_CLIENT), suppress(ImportError):
            importlib.import_module("mlflow.tracking")


@contextmanager
def hiding(names: Iterable[str]) -> Iterator[None]:
    """Let the import system take these modules for missing meanwhile, in all threads, unless they are imported."""
    hidden = [name for name in names if name not in sys.modules]
    try:
        for name in hidden:
            sys.modules[name] = None  # type: ignore[assignment]
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


@contextmanager
def importing_mlflow() -> Iterator[None]:
    """Import MLflow within: no other thread does meanwhile, and the garbage collector rests."""
    with _importing, without_collector():
        yield


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep Python's garbage collector from running meanwhile, in any thread.

    What is imported stays, and the collector would look through all of it again and again: a quarter of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
