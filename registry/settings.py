"""The registry's settings, read from the environment once, at the edge."""

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from registry.environment import InvalidSetting, read_settings
from registry.extras import how_to_install
from registry.patterns import ALIAS
from registry.redaction import redact

__all__ = ["DEFAULT_ALIAS", "InvalidSetting", "RegistrySettings", "check_alias", "check_model_name"]

DEFAULT_ALIAS = "champion"
TIMEOUT, RETRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
PATIENCE = {TIMEOUT: "10", RETRIES: "1"}
"""MLflow's variables by which a process notices soon that a registry is down or hangs, unless they are set: the seconds
of a request, and how often it is sent again. MLflow's own (3.17): 120 and 7, which takes 4 minutes."""
PATIENCE_OF_UPLOADS = {RETRIES: "3"}
"""12 seconds of pauses. MLflow's own timeout stays: its server answers once its artifact store has the whole file."""

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
"""MLflow's variables by which it calls nobody, and draws nothing."""

DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ALIAS = re.compile(ALIAS)
"""MLflow's own rule (3.17, `mlflow.utils.validation`)."""


def prepare_mlflow(environ: MutableMapping[str, str], *, uploads: bool = False) -> None:
    """Set MLflow's variables that are not set, before it is imported. uploads: whether the process sends artifacts."""
    for variable, value in (QUIET | (PATIENCE_OF_UPLOADS if uploads else PATIENCE)).items():
        environ.setdefault(variable, value)


class RegistrySettings(msgspec.Struct, frozen=True):
    """Where the registry and its local cache are."""

    home: Annotated[
        Path,
        Meta(description="The one folder for cache, sockets and run state.", extra={"default": "~/.headwaiter"}),
    ]
    tracking_uri: Annotated[
        str,
        Meta(
            description="MLflow's own variable: where the registry is; without it, mlflow.db in HEADWAITER_HOME.",
            extra={"variable": "MLFLOW_TRACKING_URI", "default": "a sqlite file under HEADWAITER_HOME"},
        ),
    ]
    registry_uri: Annotated[
        str,
        Meta(
            description="MLflow's own variable: where registered models and their versions are, if not at "
            "MLFLOW_TRACKING_URI.",
            extra={"variable": "MLFLOW_REGISTRY_URI", "default": "MLFLOW_TRACKING_URI"},
        ),
    ] = ""
    artifact_cache_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**50,
            description="Size of the cache of artifacts in HEADWAITER_HOME; what was not used for longest leaves; "
            "0: half of the disk.",
        ),
    ] = 0
    artifact_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Further hosts (with a port that is not the scheme's own), separated by spaces, that files of "
            "versions are fetched from over HTTP: they are sent the credentials for MLflow; MLflow's own hosts always "
            "are.",
            extra={"default": ""},
        ),
    ] = ()
    verify_keys: Annotated[
        tuple[Path, ...],
        Meta(
            description="Public keys (PEM files), separated by colons: only artifacts that one of them signed are "
            "promoted and served; needs pip install '.[signing]'.",
            extra={"default": ""},
        ),
    ] = ()

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__)
        return redact(f"{type(self).__name__}({', '.join(shown)})")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "RegistrySettings":
        """Read the variables; an empty value counts as unset."""
        read = read_settings(cls, environ)
        home = _folder(read["home"] or "~/.headwaiter")
        tracking_uri = _absolute(read["tracking_uri"]) or f"sqlite:///{home / 'mlflow.db'}"
        return cls(
            home=home,
            tracking_uri=tracking_uri,
            registry_uri=_absolute(read["registry_uri"]),
            artifact_cache_bytes=read["artifact_cache_bytes"],
            artifact_hosts=tuple((read["artifact_hosts"] or "").lower().split()),
            verify_keys=_keys(read["verify_keys"] or ""),
        )

    @property
    def registry_address(self) -> str:
        """MLflow's address of the registered models."""
        return self.registry_uri or self.tracking_uri

    @property
    def mlflow_hosts(self) -> frozenset[str]:
        """The hosts that may see the credentials for MLflow, as `host_of` gives them."""
        servers = [address for address in (self.tracking_uri, self.registry_uri) if address.startswith("http")]
        return frozenset(map(host_of, servers)) | set(self.artifact_hosts)

    @contextmanager
    def home_errors(self) -> Iterator[None]:
        """Turn what the machine says about files under home into InvalidSetting: no permission, no room, no folder."""
        try:
            yield
        except OSError as error:
            at = "" if error.filename in (None, str(self.home)) else f": {error.filename}"
            raise InvalidSetting(
                f"HEADWAITER_HOME={self.home} cannot be used ({error.strerror or error}{at}): name a folder that this "
                "user may write to, on a disk with room"
            ) from error

    @property
    def cache(self) -> Path:
        """Folder of verified artifacts, one sub-folder per contract digest."""
        return self.home / "cache"

    @property
    def artifacts(self) -> Path:
        """Where the embedded MLflow keeps artifacts when no tracking server is configured."""
        return self.home / "artifacts"

    @property
    def is_embedded(self) -> bool:
        """Whether MLflow is the sqlite file under home, because no tracking server is configured."""
        return self.tracking_uri == f"sqlite:///{self.home / 'mlflow.db'}"


def host_of(address: str) -> str:
    """The host of a URL, with its port where it is not the scheme's own. Raises ValueError for what is no URL.

    By urllib3, which connects: other parsers find another host in some addresses.
    """
    from urllib3.util import parse_url

    found = parse_url(address)
    host = (found.host or "").lower()
    return host if found.port in (None, DEFAULT_PORTS.get(found.scheme or "")) else f"{host}:{found.port}"


def _folder(text: str) -> Path:
    """The absolute path of a folder that a setting names."""
    try:
        return Path(text).expanduser().resolve()
    except (RuntimeError, OSError) as error:  # no such user, or this one has no home; a circle of links
        raise InvalidSetting(f"HEADWAITER_HOME={text} names no folder ({error}): give an absolute path") from error


def _absolute(uri: str) -> str:
    """The address; of sqlite with its file's whole path, as a server's processes work in folders of their own."""
    scheme, found, path = uri.partition("sqlite:///")
    if scheme or not found or not path or path.startswith(("/", ":memory:", "file:")):
        return uri
    return f"sqlite:///{Path(path).absolute()}"


def _keys(text: str) -> tuple[Path, ...]:
    """The files of `HEADWAITER_VERIFY_KEYS`. Raises InvalidSetting where one is missing, or what verifies with them."""
    keys = tuple(Path(part).expanduser().absolute() for part in text.split(os.pathsep) if part)
    for key in keys:
        if not key.is_file():
            raise InvalidSetting(f"HEADWAITER_VERIFY_KEYS={text!r} is not allowed: {key} is no file; give PEM files")
    if keys and find_spec("model_signing") is None:
        raise InvalidSetting(f"HEADWAITER_VERIFY_KEYS needs model-signing: {how_to_install('signing')}")
    return keys


def check_model_name(name: str) -> str:
    """Return `name` if it can be a URL path segment and a metric label, else raise InvalidSetting."""
    if not _NAME.fullmatch(name):
        raise InvalidSetting(
            f"model name {name!r} is not allowed: use 1 to 128 of A-Z a-z 0-9 . _ - and start with a letter or digit"
        )
    return name


def check_alias(alias: str) -> str:
    """Return `alias` if a model can have it, else raise InvalidSetting."""
    if not _ALIAS.fullmatch(alias):
        raise InvalidSetting(f"alias {alias[:300]!r} is not allowed: use 1 to 255 letters, digits, _ and -")
    return alias
