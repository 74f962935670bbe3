"""Which version is live: resolve an alias once, move it, go back, read what was done. All of it is kept in MLflow."""

import getpass
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from registry.contract import Contract
from registry.deployments import DEPLOYED, Deployments, read_deployments
from registry.errors import BreakingChange, HistoryError, NotFound, RegistryUnavailable
from registry.history import Move, check_reason, earlier_versions, new_key, read_moves
from registry.layout import FLAVOR
from registry.model_search import find_models
from registry.model_tags import ModelTags
from registry.patterns import is_version
from registry.references import Reference, ResolvedVersion
from registry.settings import DEFAULT_ALIAS, RegistrySettings
from registry.tracking import connect, registry_errors

if TYPE_CHECKING:
    from registry.gates import Evaluate

DIGEST, FILES = f"{FLAVOR}.digest", f"{FLAVOR}.files"
"""Tags of a version: sha256 of its contract, or of the files of one that was logged without a contract."""


class Versions:
    """The registry's versions and aliases. Every call blocks on MLflow, and raises RegistryUnavailable if it fails."""

    def __init__(self, settings: RegistrySettings | None = None) -> None:
        self.settings = settings or RegistrySettings.from_environment()
        self._client = connect(self.settings)
        self.tags = ModelTags(self._client)

    def resolve(self, reference: Reference) -> ResolvedVersion:
        """The version that the reference means now; raises NotFound."""
        with registry_errors(str(reference)):
            if reference.alias is not None:
                found = self._client.get_model_version_by_alias(reference.name, reference.alias)
            else:
                found = self._client.get_model_version(reference.name, str(reference.version))
            version, source = str(found.version), found.source
            if not is_version(version) or not isinstance(source, str) or not source:
                raise RegistryUnavailable(
                    f"MLflow answered nonsense for {reference}: version {version}, files {source}; see that "
                    "MLFLOW_TRACKING_URI is the address of MLflow"
                )
            return ResolvedVersion(
                name=reference.name,
                version=version,
                source=source,
                digest=found.tags.get(DIGEST),
                files=found.tags.get(FILES),
            )

    def aliases(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Every alias of these models: model → alias → version. One request for some hundred models.

        A model that is not there is absent. An alias may be: not every registry (MLflow's own does, 3.17) lists them.
        """
        found: dict[str, dict[str, str]] = {}
        with registry_errors("aliases"):
            for model in find_models(self._client, names):
                found[model.name] = {key: str(value) for key, value in model.aliases.items()}
        return found

    def deployed(self) -> list[Reference]:
        """The models that are marked as deployed, each with its alias, by the tag that `deploy` sets."""
        return list(self.deployments().references)

    def deployments(self) -> Deployments:
        """As `deployed`, with the models whose mark cannot be followed, as one that was set by hand."""
        with registry_errors("deployed models"):
            return read_deployments(self._client)

    def deploy(self, name: str, alias: str = DEFAULT_ALIAS) -> None:
        """Mark the model as deployed: servers that follow deployments serve what the alias names.

        Raises NotFound, and InvalidSetting for a name or alias that cannot be served.
        """
        Reference.parse(f"{name}@{alias}")
        with registry_errors(name):
            self._client.get_registered_model(name)
            self._client.set_registered_model_tag(name, DEPLOYED, alias)

    def undeploy(self, name: str) -> None:
        """Take the mark away; versions, aliases and history stay. Raises NotFound."""
        with registry_errors(name):
            if DEPLOYED in self._client.get_registered_model(name).tags:
                self._client.delete_registered_model_tag(name, DEPLOYED)

    def promote(
        self,
        name: str,
        version: str,
        *,
        why: str,
        who: str | None = None,
        alias: str = DEFAULT_ALIAS,
        allow_breaking: str | None = None,
        evaluate: "Evaluate | None" = None,
    ) -> Move:
        """Check `version`, move the alias to it and record that. Blocks while its files are fetched and verified.

        A version without a recorded digest gets one; without one it is not served.

        why, who: for the history; who is the user by default. allow_breaking: the reason to promote a version although
        clients of the live one would notice it (`gates.find_differences` says what they notice). evaluate: scores the
        candidate first, such as `headwaiter.Evaluator`. Raises NotFound, HistoryError for an empty reason, or a
        PromotionRefused; the alias stays where it is then.
        """
        check_reason(why)
        if allow_breaking is not None:
            check_reason(allow_breaking)
        from registry.gates import check_files

        candidate = self.resolve(Reference(name=name, version=version))
        pinned, held, contract = check_files(candidate, self.settings)
        origin, breaking = self._compare(candidate, contract, alias, allow_breaking)
        evaluation = None
        if evaluate is not None:
            evaluation = evaluate(held.root, contract)
            origin, breaking = self._compare(candidate, contract, alias, allow_breaking)  # it may have moved meanwhile
        if not candidate.is_pinned:
            self._pin(pinned)
        return self.move(
            name,
            Move(
                time=time.time(),
                action="promote",
                alias=alias,
                from_version=origin,
                to_version=candidate.version,
                who=who or user_name(),
                why=why,
                breaking=breaking,
                allow_breaking=allow_breaking if breaking and allow_breaking else "",
                evaluation=evaluation,
            ),
        )

    def rollback(self, name: str, *, why: str, who: str | None = None, alias: str = DEFAULT_ALIAS) -> Move:
        """Move the alias to the version that was live before, by history, and record that; called again, further back.

        Nothing is checked, so that it takes effect at once. Versions that have been deleted are passed over. Raises
        NotFound for the model, HistoryError where the history names no earlier version that is still there.
        """
        check_reason(why)
        current = self.current(name, alias)
        deleted: list[str] = []
        for target in earlier_versions(self.history(name, alias), current):
            try:
                self.resolve(Reference(name=name, version=target))
                break
            except NotFound:
                deleted.append(target)
        else:
            gone = f" but {', '.join(deleted)}, deleted since" if deleted else ""
            raise HistoryError(
                f"the history of {name}@{alias} names no earlier version to go back to{gone}: "
                "promote one by its number instead"
            )
        return self.move(
            name,
            Move(
                time=time.time(),
                action="rollback",
                alias=alias,
                from_version=current,
                to_version=target,
                who=who or user_name(),
                why=why,
                skipped=tuple(deleted),
            ),
        )

    def admit(
        self, name: str, version: str, alias: str, allow_breaking: str | None
    ) -> tuple[str | None, tuple[str, ...]]:
        """Check a candidate as `promote` does, pin it, and return the live version and what its clients would notice.

        Raises NotFound or a PromotionRefused.
        """
        candidate = self.resolve(Reference(name=name, version=version))
        from registry.gates import check_files

        pinned, _, contract = check_files(candidate, self.settings)
        found = self._compare(candidate, contract, alias, allow_breaking)
        if not candidate.is_pinned:
            self._pin(pinned)
        return found

    def history(self, name: str, alias: str | None = None) -> list[Move]:
        """The recorded moves, oldest first; of one alias or of all."""
        with registry_errors(name):
            return read_moves(self._client.get_registered_model(name).tags, alias)

    def current(self, name: str, alias: str = DEFAULT_ALIAS) -> str | None:
        """The version that the alias names, None where the alias does not exist; raises NotFound for the model."""
        with registry_errors(name):
            found = self._client.get_registered_model(name).aliases.get(alias)
        return None if found is None else str(found)

    def note(self, name: str, move: Move) -> None:
        """Write a move down. Raises HistoryError for one that is too long."""
        record = move.encode()
        with registry_errors(name):
            key = new_key(move.time, after=self._client.get_registered_model(name).tags)
            self._client.set_registered_model_tag(name, key, record)

    def _compare(
        self, candidate: ResolvedVersion, contract: Contract, alias: str, allow_breaking: str | None
    ) -> tuple[str | None, tuple[str, ...]]:
        """The version that the alias names now, and what its clients would notice; raises BreakingChange."""
        from registry.gates import check_compatible

        current = self.current(candidate.name, alias)
        if current is None or current == candidate.version:
            return current, ()
        live = self.resolve(Reference(name=candidate.name, version=current))
        try:
            check_compatible(contract, live, f"{candidate.name}/{candidate.version}", alias, self.settings)
        except BreakingChange as error:
            if allow_breaking is None:
                raise
            return current, error.reasons
        return current, ()

    def _pin(self, version: ResolvedVersion) -> None:
        """Record the digest of a version that was logged by other software, or by hand."""
        with registry_errors(f"{version.name}/{version.version}"):
            for key, value in {DIGEST: version.digest, FILES: version.files}.items():
                if value is not None:
                    self._client.set_model_version_tag(version.name, version.version, key, value)

    def move(self, name: str, move: Move) -> Move:
        """Move the alias and write it down.

        The alias first: a move without its record is taken for one made by hand, a record without its move would lie.
        """
        move.encode()  # raises before anything is moved
        with registry_errors(f"{name}/{move.to_version}"):
            self._set_alias(name, move.alias, move.to_version)
        self.note(name, move)
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


def user_name() -> str:
    """The user's name; in a container that has none for it, its number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
