"""Copies files of a version from MLflow's artifact store: plain names only, and no more than there is room for."""

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from registry.errors import IncompleteArtifact, RegistryError, RegistryUnavailable, UnsafeArtifact
from registry.plain_files import MAX_FILES, MAX_RECORD_BYTES, check_name, list_plain, open_plain, read_record
from registry.references import ResolvedVersion
from registry.settings import RegistrySettings, host_of
from registry.tracking import connect

RECORD = "MLmodel"
HTTP_SCHEMES = ("http", "https", "mlflow-artifacts")
"""Of locations that MLflow reads from a server with the credentials for MLflow."""
MAX_REFERRALS = 8
"""`runs:/…` and `models:/…` that are followed one after another to the files of a version."""
STALL_SECONDS = 300.0
"""A download that brings less than MIN_BYTES in this time is given up. Untuned: a load may take 600 seconds."""
MIN_BYTES = 1 << 20
"""MLflow (3.17) writes parts of this size, so less is not seen."""
LOOK_SECONDS = 1.0
MAX_STALLED = 64
"""Downloads that were given up and hang all the same, in one process; with more, none is begun."""

_stalled: "list[Future[Any]]" = []


class ArtifactStore:
    """Where the files of a version are. Every method blocks; raises RegistryUnavailable where the store fails."""

    def __init__(self, version: ResolvedVersion, settings: RegistrySettings) -> None:
        self._version = version
        self._store = self._trying(lambda: _find_store(version, settings))
        self._local = Path(self._store.artifact_dir) if _is_local(self._store) else None

    def download_record(self, target: Path) -> None:
        """Copy `MLmodel` to the folder `target`. Raises UnsafeArtifact as `download_file`, IncompleteArtifact."""
        if not self.download_file(RECORD, target):
            raise IncompleteArtifact(
                f"{self._version.source} holds no {RECORD}: it is not an MLflow model, or its files were removed; "
                "log the model again"
            )

    def download_file(self, name: str, target: Path) -> bool:
        """Copy one file of at most MAX_RECORD_BYTES to its place below `target`; whether there is such a file.

        Raises UnsafeArtifact for one that is too large or a link.
        """
        if self._local is not None:
            root = self._local
            record = self._trying(lambda: _read_if_there(root, name))
            if record is not None:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(record)
            return record is not None
        listed = self._trying(lambda: _watched(lambda: self._store.list_artifacts(name.rpartition("/")[0])))
        for size in [entry.file_size or 0 for entry in listed if entry.path == name]:
            if size > MAX_RECORD_BYTES:
                raise UnsafeArtifact(
                    f"{name} has {size:,} bytes, at most {MAX_RECORD_BYTES:,} are read: log the model again, with a "
                    "shorter example (inputs)"
                )
            self._trying(lambda: _watched(lambda: self._store.download_artifacts(name, str(target)), target))
            return True
        return False

    def list_files(self, folder: str) -> dict[str, int]:
        """Path → size in bytes of each file below `folder`; empty where there is none. Raises UnsafeArtifact."""
        if self._local is not None:
            root = self._local
            return {name: status.st_size for name, status in self._trying(lambda: list_plain(root, folder)).items()}
        return dict(self._trying(lambda: _watched(lambda: list(self._walk(folder)))))

    def download_folder(self, folder: str, target: Path) -> None:
        """Copy the files below `folder` to the same place below `target`. Raises UnsafeArtifact or OSError.

        A file with several names (hard links) is refused where no digest says what it has to hold.
        """
        if self._local is None:
            self._trying(lambda: _watched(lambda: self._store.download_artifacts(folder, str(target)), target))
            list_plain(target, folder)
            return
        root = self._local
        for name, status in self._trying(lambda: list_plain(root, folder)).items():
            if status.st_nlink != 1 and self._version.digest is None:
                raise UnsafeArtifact(f"{name} has {status.st_nlink} names (hard links): store it as a file of its own")
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as opened:
                source = self._trying(partial(opened.enter_context, open_plain(root, name)))
                copy = opened.enter_context((target / name).open("xb"))
                shutil.copyfileobj(source, copy, 1 << 20)

    def _walk(self, folder: str, depth: int = 0) -> Iterator[tuple[str, int]]:
        """Path and size of each file below a folder of a store that is elsewhere."""
        for number, entry in enumerate(self._store.list_artifacts(folder)):
            if number >= MAX_FILES or depth > 3:
                raise UnsafeArtifact(f"{folder!a} has more than {MAX_FILES} files or folders in folders: log it again")
            if not str(entry.path).startswith(f"{folder}/"):
                raise UnsafeArtifact(
                    f"the store lists {entry.path!a} under {folder!a}, and an artifact's files lie below its folder: "
                    "log the model again"
                )
            if entry.is_dir:
                yield from self._walk(entry.path, depth + 1)
            else:
                yield check_name(entry.path), entry.file_size or 0

    def _trying(self, call: Callable[[], Any]) -> Any:
        """The result of a call to MLflow or its store."""
        try:
            return call()
        except RegistryError:
            raise
        except Exception as error:
            version = self._version
            raise RegistryUnavailable(
                f"the files of {version.name}/{version.version} could not be downloaded from {version.source}: {error}"
            ) from error


def _watched(call: Callable[[], Any], target: Path | None = None) -> Any:
    """The result of a call that may fill the folder `target`. Raises TimeoutError where too little comes.

    Without a folder it is a listing, which has STALL_SECONDS in all.

    A store that sends a byte now and then keeps within every timeout of a connection. No thread can be ended, so the
    call goes on in one of its own, where it holds up nobody.
    """
    _stalled[:] = [each for each in _stalled if not each.done()]
    if len(_stalled) >= MAX_STALLED:
        raise TimeoutError(f"{len(_stalled)} downloads that brought too little have not ended: restart the server")
    future: Future[Any] = Future()
    threading.Thread(target=_run_into, args=(future, call), name="headwaiter-download", daemon=True).start()
    seen, since = _written_bytes(target), time.monotonic()
    while not wait_for([future], timeout=LOOK_SECONDS).done:
        now, written = time.monotonic(), _written_bytes(target)
        if written >= seen + MIN_BYTES:
            seen, since = written, now
        elif now - since > STALL_SECONDS:
            _stalled.append(future)
            raise TimeoutError(
                f"less than {MIN_BYTES:,} bytes came in {STALL_SECONDS:g} s, or no whole listing: look at the store"
            )
    return future.result()


def _run_into(future: "Future[Any]", call: Callable[[], Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # whoever waits gets it
        future.set_exception(error)


def _written_bytes(folder: Path | None) -> int:
    """Room that the files take: MLflow may give a file its whole length before its parts come."""
    size = 0
    for path in folder.rglob("*") if folder is not None else ():
        with suppress(FileNotFoundError):
            size += 512 * path.lstat().st_blocks
    return size


def _find_store(version: ResolvedVersion, settings: RegistrySettings) -> Any:
    """MLflow's client of the store, never one that looks up an address by itself: that would be checked by nobody.

    MLflow's own download (3.17) looks for `models:/…` in the registry of the process' global state, whatever address
    it is given; so they are looked up here.
    """
    client = connect(settings)
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

    location = version.source
    for _ in range(MAX_REFERRALS):
        check_location(location, version, settings)
        kind, place = _scheme_of(location), location.partition(":/")[2]
        if kind == "runs":
            location = RunsArtifactRepository.get_underlying_uri(location, settings.tracking_uri)
        elif kind == "models" and "/" not in place:
            location = client.get_logged_model(place).artifact_location
        elif kind == "models":
            location = client.get_model_version_download_uri(version.name, version.version)
        else:
            break
    else:
        raise UnsafeArtifact(
            f"{version.source!a} leads to {location!a}, which names another run or model again: at most "
            f"{MAX_REFERRALS} are followed; log the model again"
        )
    store = get_artifact_repository(location, settings.tracking_uri, settings.registry_address)
    store = getattr(store, "repo", store)  # what a wrapper of MLflow's hands its calls on to
    _check_host(store.artifact_uri, version, settings)
    return store


def check_location(location: str, version: ResolvedVersion, settings: RegistrySettings) -> None:
    """Raise UnsafeArtifact for an address that parsers may read in several ways, or of a server that is not MLflow's.

    Whoever may write to the registry chooses a version's location.
    """
    authority = re.match(r"[^:]*://([^/?#]*)", location) if _is_http(location) else None
    if (
        not location.isprintable()
        or location != location.strip()
        or (authority and re.search(r"[\s@]", authority[1]))
        or (_is_http(location) and "\\" in location)
    ):
        raise UnsafeArtifact(
            f"the files of {version.name}/{version.version} are at {location!a}: a location has no control characters, "
            "no whitespace around it, and over HTTP no backslash and no name or password before its host; log the "
            "model again"
        )
    _check_host(location, version, settings)


def _check_host(address: str, version: ResolvedVersion, settings: RegistrySettings) -> None:
    """Raise UnsafeArtifact for a server that may not be MLflow's.

    MLflow's client (3.17) sends its user's password or token to every server.
    """
    if not _is_http(address):
        return
    try:
        host = host_of(address)
    except ValueError as error:
        raise UnsafeArtifact(
            f"the files of {version.name}/{version.version} are at {address!a}, which is no URL: log the model again"
        ) from error
    is_mlflow = not host and _scheme_of(address) == "mlflow-artifacts"
    if not is_mlflow and host not in settings.mlflow_hosts:
        raise UnsafeArtifact(
            f"the files of {version.name}/{version.version} are at {host or 'no host'}, which is not where MLflow is, "
            "and would be sent the credentials for MLflow: name it in HEADWAITER_ARTIFACT_HOSTS if it may have them"
        )


def _is_http(address: str) -> bool:
    return _scheme_of(address) in HTTP_SCHEMES


def _scheme_of(address: str) -> str:
    return address.partition(":")[0].lower()


def _read_if_there(root: Path, name: str) -> bytes | None:
    """The content of a small file, None where there is none. Raises as `read_record`."""
    try:
        return read_record(root, name)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_local(store: Any) -> bool:
    """Whether the store is a folder of this machine, where names may be links."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    return isinstance(store, LocalArtifactRepository)
