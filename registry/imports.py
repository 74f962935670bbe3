"""Importing what is large: MLflow here, torch and transformers in an engine."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

NOT_OF_A_CLIENT = ("pandas", "pyarrow", "scipy")
"""What MLflow imports where it is installed, and its client does without: mlflow-skinny is MLflow without them."""


def import_for_logging() -> None:
    """Import MLflow, torch and transformers, as logging a model needs them. Blocks for some seconds the first time."""
    with without_collector():
        importlib.import_module("mlflow.models")
        importlib.import_module("transformers.modeling_utils")  # and torch


def import_client() -> None:
    """Import MLflow in a process that asks a registry and does nothing else with MLflow. Blocks for a second.

    `NOT_OF_A_CLIENT` is hidden meanwhile, half of MLflow's memory. Another thread must not import it at this moment.
    """
    hidden = [name for name in NOT_OF_A_CLIENT if name not in sys.modules]
    try:
        for name in hidden:
            sys.modules[name] = None  # type: ignore[assignment]  # so the import system takes it for missing
        with without_collector(), suppress(ImportError):  # of a release that needs it: then `connect` imports all
            importlib.import_module("mlflow.tracking")
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


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
