"""Which registered models are marked as deployed, by a tag that names the alias to serve."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry.layout import FLAVOR
from registry.model_search import find_tagged
from registry.references import Reference
from registry.settings import InvalidSetting, check_alias, check_model_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEPLOYED = f"{FLAVOR}.deployed"
"""A registered model's tag: the alias to serve."""


@dataclass(frozen=True)
class Deployments:
    """The models that are marked as deployed. refused: of each one whose mark cannot be followed, why."""

    references: tuple[Reference, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def read_deployments(client: "MlflowClient") -> Deployments:
    """The models that are marked now. Blocks on MLflow, and raises what its client does."""
    references, refused = [], {}
    found = {model.name: model.tags[DEPLOYED] for model in find_tagged(client, DEPLOYED)}
    for name, alias in found.items():
        try:
            references.append(Reference(check_model_name(name), alias=check_alias(alias)))
        except InvalidSetting as error:
            refused[name] = f"the tag {DEPLOYED} says {alias[:300]!r}: {error}"
    return Deployments(tuple(references), refused)
