"""The cache of verified artifacts, addressed by their contract's digest and shared by the machine's processes."""

import shutil
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

from registry.contract import Contract
from registry.digests import verify_folder
from registry.errors import ArtifactError, ContractError, DigestMismatch, RegistryUnavailable
from registry.flavor import read_contract
from registry.layout import MODEL_FOLDER
from registry.references import ResolvedVersion
from registry.settings import RegistrySettings
from registry.tracking import connect
from registry.transformers_flavor import add_contract, needs_contract


def fetch(version: ResolvedVersion, settings: RegistrySettings) -> tuple[Path, Contract]:
    """The artifact's folder in the cache, verified against its contract, downloading it if needed. Blocks.

    Two processes may fetch the same artifact: the first rename wins. Raises RegistryUnavailable (download failed),
    ArtifactError (a digest differs, a file is missing), ContractError, or InvalidSetting for a home that cannot be
    written; nothing unverified stays in the cache.
    """
    with settings.home_errors():
        return _fetch(version, settings)


def _fetch(version: ResolvedVersion, settings: RegistrySettings) -> tuple[Path, Contract]:
    if version.digest is not None and (settings.cache / version.digest).is_dir():
        root = settings.cache / version.digest
        try:
            return root, verify(root, version)
        except (ArtifactError, ContractError):
            shutil.rmtree(root, ignore_errors=True)  # damaged here, not in the store: fetch it again
    staging = settings.cache / f".incoming-{uuid.uuid4().hex}"
    try:
        staging.mkdir(parents=True)
        _download(version, settings, staging)
        if version.digest is None and needs_contract(staging):
            add_contract(staging)
        contract = verify(staging, version)
        root = settings.cache / contract.digest
        try:
            staging.rename(root)
        except OSError:
            if not root.is_dir():
                raise
            verify(root, version)
        return root, contract
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def verify(root: Path, version: ResolvedVersion) -> Contract:
    """The contract at `root`, after checking it against the version's tag and every file against the contract."""
    contract = _checked_contract(root, version)
    verify_folder(root, MODEL_FOLDER, contract.files)
    return contract


def peek(version: ResolvedVersion, settings: RegistrySettings) -> Contract:
    """The version's contract, without its weights where it was logged with one. Blocks; raises as `fetch` does."""
    cached = settings.cache / (version.digest or "none")
    if cached.is_dir():
        with suppress(ArtifactError, ContractError):
            return _checked_contract(cached, version)
    with tempfile.TemporaryDirectory(prefix="headwaiter-contract-") as folder:
        _download(version, settings, Path(folder), "MLmodel")
        if not needs_contract(Path(folder)):
            return _checked_contract(Path(folder), version)
    return fetch(version, settings)[1]


def _checked_contract(root: Path, version: ResolvedVersion) -> Contract:
    contract = read_contract(root)
    if version.digest is not None and contract.digest != version.digest:
        raise DigestMismatch(
            f"the contract of {version.name}/{version.version} has sha256 {contract.digest[:12]}…, "
            f"the registry recorded {version.digest[:12]}…: MLmodel changed after logging; log the model again"
        )
    return contract


def _download(version: ResolvedVersion, settings: RegistrySettings, target: Path, path: str = "") -> None:
    """Copy the artifact, or the file at `path` in it, to the folder `target`.

    MLflow's own download (3.17) looks for `models:/…` in the registry of the process' global state, whatever address
    it is given; so they are looked up here.
    """
    client = connect(settings)
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        location = version.source
        kind, _, place = location.partition(":/")
        if kind == "models" and "/" not in place:
            location = client.get_logged_model(place).artifact_location
        elif kind == "models":
            location = client.get_model_version_download_uri(version.name, version.version)
        store = get_artifact_repository(location, settings.tracking_uri, settings.registry_address)
        store.download_artifacts(path, str(target))
    except Exception as error:
        raise RegistryUnavailable(
            f"the files of {version.name}/{version.version} could not be downloaded from {version.source}: {error}"
        ) from error
