"""Modules that take seconds to import: torch for every engine, transformers for one that has no kept graph."""

import gc
from collections.abc import Sequence
from importlib import import_module

from registry.imports import without_collector

WITH_TORCH = ("serving.engine.loading",)
WITH_TRANSFORMERS = (
    *("serving.engine.batch_invariance", "serving.engine.optimize", "serving.engine.optimizations.prepacked_weights"),
    *("serving.engine.generation.model", "serving.engine.generation.engine", "serving.engine.generation.verification"),
    *("transformers.modeling_utils", "transformers.models.auto"),
)


def import_modules(modules: Sequence[str]) -> None:
    """Import them with the garbage collector off, and exempt them from later collections."""
    with without_collector():
        for module in modules:
            import_module(module)
        gc.freeze()
