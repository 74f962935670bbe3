"""The cache of verified artifacts, addressed by their contract's digest and shared by the machine's processes."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from registry.artifact import read_contract
from registry.cache_folder import CacheFolder, Held, check_own
from registry.contract import Contract, digest_record
from registry.digests import check_names, digest_file, digest_folder, verify_folder
from registry.download import RECORD, ArtifactStore
from registry.errors import ArtifactError, ContractError, DigestMismatch, UnpinnedArtifact
from registry.layout import MODEL_FOLDER
from registry.plain_files import list_plain
from registry.references import ResolvedVersion
from registry.refusals import refuse_failures
from registry.settings import RegistrySettings
from registry.signatures import SIGNATURE, check_signature
from registry.transformers_flavor import FORMER_SETTINGS, add_contract, model_folders, needs_contract


def fetch(version: ResolvedVersion, settings: RegistrySettings, *, hashes: bool = True) -> tuple[Path, Contract]:
    """The artifact's folder in the cache, verified against its contract, downloading it if needed. Blocks.

    hashes: whether files are hashed, too; a caller that opens them by `open_verified` has that done then. Where several
    want the same artifact, one downloads it and the others wait. Raises UnpinnedArtifact for a version of which the
    registry records no digest, RegistryUnavailable (download failed), ArtifactError (a digest differs, a file is
    missing), ContractError, or InvalidSetting for a home that cannot be used; nothing that was found to be wrong stays.
    """
    held, contract = _fetch_pinned(version, settings, hashes=hashes)
    return held.root, contract


def fetch_for_loading(version: ResolvedVersion, settings: RegistrySettings) -> tuple[Held, Contract]:
    """As `fetch`, for an engine, which hashes the files as it opens them; held until then by who starts it."""
    return _fetch_pinned(version, settings, hashes=False)


def _fetch_pinned(version: ResolvedVersion, settings: RegistrySettings, *, hashes: bool) -> tuple[Held, Contract]:
    if not version.is_pinned:
        raise UnpinnedArtifact(
            f"the registry records no digest of {version.name}/{version.version}, so any file would do: "
            f"`headwaiter promote {version.name} {version.version}` verifies the files and records one"
        )
    return fetch_and_pin(version, settings, hashes=hashes)[1:]


def fetch_and_pin(
    version: ResolvedVersion, settings: RegistrySettings, *, hashes: bool = True
) -> tuple[ResolvedVersion, Held, Contract]:
    """As `fetch`; a version of which the registry records no digest is taken as it is found, and returned with one."""
    described = f"reading the files of {version.name}/{version.version}"
    with settings.home_errors(), refuse_failures(described, "log the model again", passing=(Exception,)):
        cache = CacheFolder(settings)
        found = _find(cache, version, settings, hashes=hashes)
        if found is None:
            with cache.fetching(version.digest):
                found = _find(cache, version, settings, hashes=hashes) or _fetch(
                    cache, version, settings, hashes=hashes
                )
        return found


CachedVersion = tuple[ResolvedVersion, Held, Contract]


def _find(
    cache: CacheFolder, version: ResolvedVersion, settings: RegistrySettings, *, hashes: bool
) -> CachedVersion | None:
    """The artifact where the cache has it and its files are right; else it is removed, to be fetched again."""
    held = None if version.digest is None else cache.find(version.digest)
    if held is None:
        return None
    with suppress(ArtifactError, ContractError):
        check_own(held.root, MODEL_FOLDER)
        contract = verify(held.root, version, hashes=hashes)
        _check_signature(held.root, contract, settings)
        return version, held, contract
    cache.discard(held.root)  # damaged here, not in the store
    return None


def _fetch(cache: CacheFolder, version: ResolvedVersion, settings: RegistrySettings, *, hashes: bool) -> CachedVersion:
    with cache.staging() as staging:
        version = _download(version, settings, cache, staging)
        contract = verify(staging, version, hashes=hashes)
        _check_signature(staging, contract, settings)
        return version, cache.keep(staging, contract.digest), contract


def discard(root: Path, settings: RegistrySettings) -> None:
    """Remove an artifact from the cache whose files turned out to be others than were logged."""
    CacheFolder(settings).discard(root)


def is_cached(version: ResolvedVersion, settings: RegistrySettings) -> bool:
    """Whether the artifact was fetched before. Its files may have changed."""
    try:
        return version.digest is not None and (settings.cache / version.digest).is_dir()
    except (OSError, ValueError):  # a tag that was set by hand may be no name of a folder
        return False


def verify(root: Path, version: ResolvedVersion, *, hashes: bool = True) -> Contract:
    """The contract at `root`, after checking it against the version's tag and the files against the contract."""
    contract = _checked_contract(root, version)
    if hashes:
        verify_folder(root, MODEL_FOLDER, contract.files)
    else:
        check_names(list_plain(root, MODEL_FOLDER), contract.files)
    return contract


def peek(version: ResolvedVersion, settings: RegistrySettings) -> Contract:
    """The version's contract, without its weights where it was logged with one. Blocks; raises as `fetch` does."""
    with settings.home_errors():
        cached = None if version.digest is None else CacheFolder(settings).find(version.digest)
        if cached is not None:
            with suppress(ArtifactError, ContractError):
                return _checked_contract(cached.root, version)
        with CacheFolder(settings).staging() as folder:
            ArtifactStore(version, settings).download_record(folder)
            if not needs_contract(folder):
                return _logged_contract(folder, version)
    return fetch_and_pin(version, settings)[2]


def _download(
    version: ResolvedVersion, settings: RegistrySettings, cache: CacheFolder, staging: Path
) -> ResolvedVersion:
    """Copy to `staging` what is read of the artifact, after looking at its names and sizes; the version with a digest.

    An artifact without a contract gets one. Raises as `fetch`.
    """
    store = ArtifactStore(version, settings)
    store.download_record(staging)
    if version.digest is None and needs_contract(staging):
        folders = model_folders()
        _download_folders(store, folders, cache, staging)
        names = [RECORD, *([FORMER_SETTINGS] if store.download_file(FORMER_SETTINGS, staging) else [])]
        version = _pin_files(version, staging, folders, names)
        add_contract(staging)
        return version
    contract = _logged_contract(staging, version)
    check_names(store.list_files(MODEL_FOLDER), contract.files)
    _download_folders(store, [MODEL_FOLDER], cache, staging)
    store.download_file(SIGNATURE, staging)
    return version if version.digest is not None else replace(version, digest=contract.digest)


def _download_folders(store: ArtifactStore, folders: Iterable[str], cache: CacheFolder, staging: Path) -> None:
    listed = {folder: store.list_files(folder) for folder in folders}
    cache.make_room(sum(sum(sizes.values()) for sizes in listed.values()))
    for folder, sizes in listed.items():
        if sizes:
            store.download_folder(folder, staging)


def _pin_files(version: ResolvedVersion, root: Path, folders: Iterable[str], names: Iterable[str]) -> ResolvedVersion:
    """The version with a digest of the files that make up an artifact without a contract. Raises DigestMismatch."""
    found = {name: digest_file(root, name) for name in names}
    for folder in folders:
        found |= digest_folder(root, folder)
    digest = digest_record(found)
    if version.files is not None and version.files != digest:
        raise DigestMismatch(
            f"the files of {version.name}/{version.version} have sha256 {digest[:12]}…, the registry recorded "
            f"{version.files[:12]}…: they changed after the version was promoted; log the model again"
        )
    return replace(version, files=digest)


def _check_signature(root: Path, contract: Contract, settings: RegistrySettings) -> None:
    if settings.verify_keys:
        check_signature(root, contract.digest, settings.verify_keys)


def _logged_contract(root: Path, version: ResolvedVersion) -> Contract:
    """The contract that came with the files, which a version that was promoted without one does not get later."""
    if version.digest is None and version.files is not None:
        raise DigestMismatch(
            f"{version.name}/{version.version} was promoted without a contract, and its MLmodel has one now: it "
            "changed after the version was promoted; log the model again"
        )
    return _checked_contract(root, version)


def _checked_contract(root: Path, version: ResolvedVersion) -> Contract:
    def check(digest: str) -> None:
        if version.digest is not None and digest != version.digest:
            raise DigestMismatch(
                f"the contract of {version.name}/{version.version} has sha256 {digest[:12]}…, "
                f"the registry recorded {version.digest[:12]}…: MLmodel changed after logging; log the model again"
            )

    contract = read_contract(root, check)
    check(contract.digest)
    return contract
