"""Importing what is large: MLflow here, torch and transformers in an engine."""

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager


def import_for_logging() -> None:
    """Import MLflow, torch and transformers, as logging a model needs them. Blocks for some seconds the first time."""
    with without_collector():
        importlib.import_module("mlflow.models")
        importlib.import_module("transformers.modeling_utils")  # and torch


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
