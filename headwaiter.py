"""The public API: log a fine-tuned model, promote and roll back its versions, score them, and what each can raise.

    import headwaiter

    logged = headwaiter.log_model(model, tokenizer, task="text-classification", name="reviews")
    headwaiter.Versions().promote("reviews", logged.version, why="better on the new labels")

A name is imported on first use (PEP 562), so `import headwaiter` loads neither torch nor mlflow. The packages
`registry` and `serving` hold the implementation.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # type checkers and editors read these imports; `__getattr__` below replaces them at run time
    from registry.contract import Contract
    from registry.environment import InvalidSetting
    from registry.errors import (
        ArtifactError,
        BreakingChange,
        CheckpointWarning,
        ContractError,
        DamagedVersion,
        DigestMismatch,
        HeadError,
        HistoryError,
        IncompleteArtifact,
        MismatchedHead,
        NotFound,
        NotGoodEnough,
        PromotionRefused,
        RandomHead,
        RegistryError,
        RegistryUnavailable,
        RequestRefused,
        RolloutError,
        UnknownTask,
        UnpinnedArtifact,
        UnreadableArtifact,
        UnsafeArtifact,
        UnsignedArtifact,
        UnsupportedHead,
        WrongBase,
        WrongHead,
    )
    from registry.flavor import LoggedVersion, log_model
    from registry.history import Evaluation, Move
    from registry.references import Reference
    from registry.rollout.control import Rollouts
    from registry.settings import RegistrySettings
    from registry.tracking import connect_mlflow
    from registry.versions import Versions
    from serving.bulk import answer_with_ray, spark_udf
    from serving.client.local_server import run_server
    from serving.errors import EngineError, EvaluationError, ServingError
    from serving.evaluation import Evaluator

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "BreakingChange",
    "CheckpointWarning",
    "Contract",
    "ContractError",
    "DamagedVersion",
    "DigestMismatch",
    "EngineError",
    "Evaluation",
    "EvaluationError",
    "Evaluator",
    "HeadError",
    "HistoryError",
    "IncompleteArtifact",
    "InvalidSetting",
    "LoggedVersion",
    "MismatchedHead",
    "Move",
    "NotFound",
    "NotGoodEnough",
    "PromotionRefused",
    "RandomHead",
    "Reference",
    "RegistryError",
    "RegistrySettings",
    "RegistryUnavailable",
    "RequestRefused",
    "RolloutError",
    "Rollouts",
    "ServingError",
    "UnknownTask",
    "UnpinnedArtifact",
    "UnreadableArtifact",
    "UnsafeArtifact",
    "UnsignedArtifact",
    "UnsupportedHead",
    "Versions",
    "WrongBase",
    "WrongHead",
    "__version__",
    "answer_with_ray",
    "connect_mlflow",
    "log_model",
    "run_server",
    "spark_udf",
]

_MODULES = {
    "Contract": "registry.contract",
    "EngineError": "serving.errors",
    "Evaluation": "registry.history",
    "EvaluationError": "serving.errors",
    "Evaluator": "serving.evaluation",
    "InvalidSetting": "registry.environment",
    "LoggedVersion": "registry.flavor",
    "Move": "registry.history",
    "Reference": "registry.references",
    "RegistrySettings": "registry.settings",
    "Rollouts": "registry.rollout.control",
    "ServingError": "serving.errors",
    "Versions": "registry.versions",
    "answer_with_ray": "serving.bulk",
    "connect_mlflow": "registry.tracking",
    "log_model": "registry.flavor",
    "run_server": "serving.client.local_server",
    "spark_udf": "serving.bulk",
}
"""Where a public name is defined; every other name of `__all__` is in `registry.errors`."""

if not TYPE_CHECKING:  # hidden from type checkers: with it they would accept any attribute

    def __getattr__(name):
        """Import a public name on first use and keep it; raises AttributeError for any other name."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_MODULES.get(name, "registry.errors")), name)
        globals()[name] = value
        return value

    def __dir__():
        """All public names, imported or not."""
        return sorted({*globals(), *__all__})
