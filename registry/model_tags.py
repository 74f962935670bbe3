"""The tags of registered models and of their versions, in which Headwaiter keeps its records."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from registry.errors import NotFound
from registry.model_search import find_tagged
from registry.tracking import registry_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient


class ModelTags:
    """The tags of a registry. Every call blocks on MLflow, and raises NotFound or RegistryUnavailable."""

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def read(self, name: str) -> tuple[dict[str, str], dict[str, str]]:
        """The registered model's own tags and aliases."""
        with registry_errors(name):
            model = self._client.get_registered_model(name)
            return dict(model.tags), {alias: str(version) for alias, version in model.aliases.items()}

    def search(self, key: str) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
        """Tags and aliases of every model that has the tag; not every registry lists aliases here."""
        found: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        with registry_errors(f"models with the tag {key}"):
            for model in find_tagged(self._client, key):
                aliases = {alias: str(version) for alias, version in model.aliases.items()}
                found[model.name] = (dict(model.tags), aliases)
        return found

    def set(self, name: str, tags: Mapping[str, str]) -> None:
        """Set tags of the registered model."""
        with registry_errors(name):
            for key, value in tags.items():
                self._client.set_registered_model_tag(name, key, value)

    def delete(self, name: str, keys: Sequence[str]) -> None:
        """Delete tags of the registered model that are there."""
        with registry_errors(name):
            for key in keys:
                self._client.delete_registered_model_tag(name, key)

    def mark(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version; of one that was deleted nothing."""
        with suppress(NotFound), registry_errors(f"{name}/{version}"):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version, key, value)
