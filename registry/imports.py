"""Importing what is large: MLflow here, torch and transformers in an engine."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
