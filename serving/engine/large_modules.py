"""Modules that take seconds to import: torch for every engine, transformers for one that has no kept graph."""

import gc
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from registry.imports import hiding, without_collector

WITH_TORCH = ("serving.engine.loading",)
WITH_TRANSFORMERS = (
    *("serving.engine.batch_invariance", "serving.engine.optimize", "serving.engine.optimizations.prepacked_weights"),
    *("serving.engine.generation.model", "serving.engine.generation.engine", "serving.engine.generation.verification"),
    *("transformers.modeling_utils", "transformers.models.auto"),
)

NOT_OF_AN_ENGINE = ("scipy",)
"""What transformers imports where it is installed, for losses of object detection: 0.3 s, and 22 MiB."""


def import_transformers() -> None:
    """Import transformers without `NOT_OF_AN_ENGINE`, in a process that trains nothing."""
    with hiding(NOT_OF_AN_ENGINE):
        import_modules(WITH_TRANSFORMERS)
    with suppress(AttributeError):  # a release that does not remember it; FNet may compute with scipy
        import_module("transformers.utils.import_utils").is_scipy_available.cache_clear()


def import_modules(modules: Sequence[str]) -> None:
    """Import them with the garbage collector off, and exempt them from later collections."""
    with without_collector():
        for module in modules:
            import_module(module)
        gc.freeze()
