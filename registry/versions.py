"""Which version is live: resolve an alias once, move it, go back, read what was done. All of it is kept in MLflow."""

import getpass
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import msgspec

from registry.errors import HistoryError, NotFound, RegistryError, RegistryUnavailable
from registry.history import Move, new_key, previous_version, read_moves
from registry.layout import FLAVOR
from registry.references import Reference
from registry.settings import DEFAULT_ALIAS, InvalidSetting, RegistrySettings
from registry.tracking import connect

DEPLOYED = f"{FLAVOR}.deployed"
"""A registered model's tag: the alias to serve."""


@dataclass(frozen=True)
class ResolvedVersion:
    """A version, found once; from here on only the number is used.

    source: MLflow's address of the files. digest: sha256 of its contract as logged, None if it has no such tag.
    """

    name: str
    version: str
    source: str
    digest: str | None


class Versions:
    """The registry's versions and aliases. Every call blocks on MLflow, and raises RegistryUnavailable if it fails."""

    def __init__(self, settings: RegistrySettings | None = None) -> None:
        self.settings = settings or RegistrySettings.from_environment()
        self._client = connect(self.settings)

    def resolve(self, reference: Reference) -> ResolvedVersion:
        """The version that the reference means now; raises NotFound."""
        with _translated(str(reference)):
            if reference.alias is not None:
                found = self._client.get_model_version_by_alias(reference.name, reference.alias)
            else:
                found = self._client.get_model_version(reference.name, str(reference.version))
            version, source = str(found.version), found.source
            if not version.isdigit() or not isinstance(source, str) or not source:
                raise RegistryUnavailable(
                    f"MLflow answered nonsense for {reference}: version {version}, files {source}"
                )
            return ResolvedVersion(
                name=reference.name, version=version, source=source, digest=found.tags.get(f"{FLAVOR}.digest")
            )

    def deployed(self) -> list[Reference]:
        """What the registry marks as deployed: model and alias, by the tag that `deploy` sets."""
        with _translated("deployed models"):
            found, token = [], None
            while token != "":
                page = self._client.search_registered_models(
                    filter_string=f"tags.`{DEPLOYED}` LIKE '%'", max_results=1000, page_token=token
                )
                found += [f"{model.name}@{model.tags[DEPLOYED]}" for model in page]
                token = page.token or ""
            references = []
            for text in found:
                with suppress(InvalidSetting):  # a tag that was set by hand must not keep the others from being served
                    references.append(Reference.parse(text))
            return references

    def deploy(self, name: str, alias: str = DEFAULT_ALIAS) -> None:
        """Mark the model as deployed: servers that follow deployments serve what the alias names.

        Raises NotFound, and InvalidSetting for a name or alias that cannot be served.
        """
        Reference.parse(f"{name}@{alias}")
        with _translated(name):
            self._client.get_registered_model(name)
            self._client.set_registered_model_tag(name, DEPLOYED, alias)

    def undeploy(self, name: str) -> None:
        """Take the mark away; versions, aliases and history stay. Raises NotFound."""
        with _translated(name):
            if DEPLOYED in self._client.get_registered_model(name).tags:
                self._client.delete_registered_model_tag(name, DEPLOYED)

    def promote(self, name: str, version: str, *, why: str, who: str | None = None, alias: str = DEFAULT_ALIAS) -> Move:
        """Move the alias to `version` and record it; raises NotFound for a version that is not there."""
        self.resolve(Reference(name=name, version=version))
        return self._move(name, "promote", alias, self.current(name, alias), version, who, why)

    def rollback(self, name: str, *, why: str, who: str | None = None, alias: str = DEFAULT_ALIAS) -> Move:
        """Move the alias to the version that was live before, by history; raises NotFound or HistoryError."""
        current = self.current(name, alias)
        target = previous_version(self.history(name, alias), current)
        try:
            self.resolve(Reference(name=name, version=target))
        except NotFound as error:
            raise HistoryError(
                f"{name} was at version {target} before, which was deleted since: promote another"
            ) from error
        return self._move(name, "rollback", alias, current, target, who, why)

    def history(self, name: str, alias: str | None = None) -> list[Move]:
        """The recorded moves, oldest first; of one alias or of all."""
        with _translated(name):
            return read_moves(self._client.get_registered_model(name).tags, alias)

    def current(self, name: str, alias: str = DEFAULT_ALIAS) -> str | None:
        """The version that the alias names, None where the alias does not exist; raises NotFound for the model."""
        with _translated(name):
            found = self._client.get_registered_model(name).aliases.get(alias)
        return None if found is None else str(found)

    def _move(
        self, name: str, action: str, alias: str, origin: str | None, target: str, who: str | None, why: str
    ) -> Move:
        move = Move(
            time=time.time(),
            action=action,
            alias=alias,
            from_version=origin,
            to_version=target,
            who=who or getpass.getuser(),
            why=why,
        )
        # The alias first: a move without its record is taken for one made by hand, a record without its move would lie.
        with _translated(f"{name}/{target}"):
            self._set_alias(name, alias, target)
            self._client.set_registered_model_tag(name, new_key(move.time), msgspec.json.encode(move).decode())
        return move

    def _set_alias(self, name: str, alias: str, target: str) -> None:
        """Two writers that create one alias collide in MLflow's database (3.17); the second one then updates it."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_registered_model_alias(name, alias, target)
        except MlflowException as error:
            if "IntegrityError" not in str(error):
                raise
            self._client.set_registered_model_alias(name, alias, target)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn MLflow's errors into the registry's."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except RegistryError:
        raise
    except MlflowException as error:
        missing = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND") or (
            "alias" in str(error) and ("not found" in str(error))
        )
        if missing:
            raise NotFound(f"the registry has no {what}: {error.message}") from error
        raise RegistryUnavailable(f"MLflow refused {what}: {error.message}") from error
    except Exception as error:
        raise RegistryUnavailable(f"MLflow did not answer for {what}: {error}") from error
